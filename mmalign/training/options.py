"""The command line of training: which flags there are, and YAML under them.

Flags come from dataclasses: the objective's own fields, `ModelOptions`, `DataOptions`, and transformers'
TrainingArguments with the few defaults that differ here.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass, field, fields, is_dataclass
from typing import Any, NamedTuple

import torch
from transformers import TrainingArguments
from transformers.integrations import get_available_reporting_integrations
from transformers.integrations.deepspeed import unset_hf_deepspeed_config
from transformers.trainer_utils import IntervalStrategy

from mmalign import flags, plugins
from mmalign.backbones import VIDEO
from mmalign.forward import IGNORABLE, split_view
from mmalign.media import FrameChoice
from mmalign.objectives import NUMBERS, Objective, needs_reference, numbers_of, with_sft, without_end
from mmalign.records import InputError
from mmalign.training.curriculum import DIRECTIONS

_MEANINGLESS = {
    "label_smoothing_factor": "it smooths transformers' own cross entropy; objectives are the losses of this trainer",
    "neftune_noise_alpha": "it adds noise to the embeddings of text alone",
    "dataloader_drop_last": "the last step of an epoch is filled up with records that do not count",
    "data_seed": "the order of the records comes from --seed",
    "auto_find_batch_size": "another batch size is another training; give one that fits",
    "save_only_model": "nothing could go on from such a checkpoint; the trained model is saved at the end anyway",
    "ignore_data_skip": "after an interruption the first records would be learnt twice and the last ones never",
    "resume_from_checkpoint": "it goes on by itself from the newest checkpoint in --output_dir; see --resume",
    "push_to_hub": "upload the folder when the training is done: hf upload",
}
"""Flags of transformers that this trainer could only ignore, and why."""

SUPPLIED = frozenset({"reference", "token_kl", "spans", "prompt_logps", "mixed_logps", "ref_hidden"})
"""Of `mmalign.objectives.NEEDS`, what training gives to an objective."""

NOT_KEPT = {"prompt_logps": "what it says of prompts", "ref_hidden": "what its layers give"}
"""Of these, what is not kept of a reference that is computed before."""

PARTS = ("tower", "projector", "language")
TOO_LONG = ("shorten", "drop", "error")


@dataclass
class ModelOptions:
    """Which model, and which of its weights move."""

    model: str = field(metadata={"help": "Hugging Face folder or name of the model to train."})
    reference: str | None = field(
        default=None, metadata={"help": "Model to be the reference (default: the model itself, as it was)."}
    )
    dtype: str = field(default="auto", metadata={"help": "auto, float32, bfloat16 or float16."})
    attn_implementation: str = field(default="sdpa", metadata={"help": "sdpa or eager."})
    load_in_4bit: bool = field(
        default=False,
        metadata={"help": "Hold the language model in 4 bits, with --lora (QLoRA); needs bitsandbytes."},
    )
    lora: bool = field(default=False, metadata={"help": "Train a LoRA adapter instead of the weights themselves."})
    lora_r: int = field(default=16, metadata={"help": "Rank of the adapter."})
    lora_alpha: int = field(default=32, metadata={"help": "Scale of the adapter: alpha / r."})
    lora_dropout: float = field(default=0.0, metadata={"help": "Dropout in front of the adapter."})
    lora_target_modules: list[str] = field(
        default_factory=lambda: ["all-linear"],
        metadata={"help": "Names of the layers that get one; all-linear: every linear layer of the parts not frozen."},
    )
    freeze: list[str] = field(
        default_factory=lambda: ["tower"],
        metadata={"help": "Parts that stay as they are: any of tower, projector, language, or none."},
    )
    video: str = field(
        default="auto",
        metadata={
            "help": "How clips are shown: native, by the video processor of the model's family; frames, as pictures of "
            "their frames; auto, as in its training, or else the first where that can be."
        },
    )
    trust_remote_code: bool = field(default=False, metadata={"help": "Run code that came with the model."})

    def __post_init__(self) -> None:
        if self.freeze == ["none"]:
            self.freeze = []
        if self.load_in_4bit and not self.lora:
            raise InputError("--load_in_4bit: weights in 4 bits do not train; say --lora true too")
        if self.video not in VIDEO:
            raise InputError(f"--video {self.video}: one of {', '.join(VIDEO)}")
        unknown = set(self.freeze) - set(PARTS)
        if unknown:
            raise InputError(f"--freeze {' '.join(sorted(unknown))}: parts are {', '.join(PARTS)}, or none")


@dataclass
class DataOptions:
    """Which records."""

    data: str = field(metadata={"help": "Preference records (JSONL); check them with mmalign validate."})
    eval_data: str | None = field(default=None, metadata={"help": "Held-out records, scored during training."})
    media_root: str | None = field(
        default=None, metadata={"help": "Folder that media paths start from (default: the record file's own)."}
    )
    shuffle: bool = field(default=True, metadata={"help": "Draw a new order each epoch; else the file's order."})
    group_by_length: bool = field(
        default=False,
        metadata={"help": "Put records of like length into the same step, so that no process waits for another."},
    )
    difficulty: list[float] = field(
        default_factory=list,
        metadata={
            "help": "Learn only from records of this difficulty, or of those from the first number to the second, both "
            "included (default: from all)."
        },
    )
    curriculum: str | None = field(
        default=None,
        metadata={
            "help": "Learn records in parts by their difficulty, every epoch anew: easy_to_hard or hard_to_easy. Parts "
            "are shuffled."
        },
    )
    curriculum_parts: int | None = field(
        default=None,
        metadata={"help": "Cut the sorted records into so many equal parts (default: each difficulty is a part)."},
    )
    replay: float = field(
        default=0.0,
        metadata={
            "help": "Mix into each part of the curriculum after the first this share of its size, drawn from the parts "
            "before."
        },
    )
    frames: int = field(
        default=8, metadata={"help": "Frames of each clip, evenly spaced, that the model sees; with --fps the most."}
    )
    fps: float | None = field(
        default=None, metadata={"help": "So many frames of each second of a clip (default: --frames of any clip)."}
    )
    video_pixels: int | None = field(
        default=None,
        metadata={"help": "Most pixels of all frames of a clip together; larger ones are made smaller (default: any)."},
    )
    max_length: int | None = field(
        default=None, metadata={"help": "Most tokens of a prompt, media included, with one response (default: any)."}
    )
    too_long: str = field(
        default="error",
        metadata={
            "help": "What happens to longer records: shorten (the responses, never prompt or media), drop, or error. "
            "Both are counted and logged."
        },
    )
    ignore: list[str] = field(
        default_factory=list,
        metadata={
            "help": "What the records hold and the objective need not read: any of "
            f"{', '.join(IGNORABLE)}. Otherwise such records are refused."
        },
    )

    def __post_init__(self) -> None:
        if self.too_long not in TOO_LONG:
            raise InputError(f"--too_long {self.too_long}: one of {', '.join(TOO_LONG)}")
        if self.max_length is not None and self.max_length < 1:
            raise InputError(f"--max_length {self.max_length}: at least 1")
        if self.group_by_length and not self.shuffle:
            raise InputError("--group_by_length makes an order of its own; leave out --shuffle false")
        unknown = set(self.ignore) - set(IGNORABLE)
        if unknown:
            raise InputError(f"--ignore {' '.join(sorted(unknown))}: any of {', '.join(IGNORABLE)}")
        self._check_frames()
        self._check_difficulty()

    def _check_frames(self) -> None:
        if self.frames < 1:
            raise InputError(f"--frames {self.frames}: at least 1")
        if self.fps is not None and not 0 < self.fps < math.inf:
            raise InputError(f"--fps {self.fps:g}: more than 0")
        if self.video_pixels is not None and self.video_pixels < 1:
            raise InputError(f"--video_pixels {self.video_pixels}: at least 1")

    def _check_difficulty(self) -> None:
        given = " ".join(f"{each:g}" for each in self.difficulty)
        if len(self.difficulty) > 2 or not all(map(math.isfinite, self.difficulty)):
            raise InputError(f"--difficulty {given}: one number, or the smallest and the largest")
        if self.difficulty != sorted(self.difficulty):
            raise InputError(f"--difficulty {given}: the smaller number comes first")
        if self.curriculum is None:
            if self.curriculum_parts is not None or self.replay:
                flag = "--curriculum_parts" if self.curriculum_parts is not None else "--replay"
                raise InputError(f"{flag} is of a curriculum; say --curriculum {' or '.join(DIRECTIONS)} too")
            return
        if self.curriculum not in DIRECTIONS:
            raise InputError(f"--curriculum {self.curriculum}: one of {', '.join(DIRECTIONS)}")
        if not self.shuffle:
            raise InputError("--curriculum makes an order of its own; leave out --shuffle false")
        if self.curriculum_parts is not None and self.curriculum_parts < 1:
            raise InputError(f"--curriculum_parts {self.curriculum_parts}: at least 1")
        if not 0 <= self.replay < math.inf:
            raise InputError(f"--replay {self.replay:g}: 0 or more, such as 0.2")

    @property
    def frame_choice(self) -> FrameChoice:
        """Which frames of each clip are looked at."""
        return FrameChoice(self.frames, self.fps, self.video_pixels)


@dataclass
class TrainOptions(TrainingArguments):
    """transformers' TrainingArguments; what differs here is written out."""

    output_dir: str | None = field(default=None, metadata={"help": "Folder of the trained model and its checkpoints."})
    deepspeed: str | None = field(
        default=None, metadata={"help": "zero1, zero2, zero3, or a DeepSpeed JSON file. Used under a launcher."}
    )
    report_to: str = field(default="none", metadata={"help": "Trackers, such as tensorboard or wandb."})
    logging_steps: float = field(default=10, metadata={"help": "Log every so many optimisation steps."})
    remove_unused_columns: bool = field(default=False, metadata={"help": "Not used: records have no columns."})
    tower_learning_rate: float | None = field(
        default=None, metadata={"help": "Peak learning rate of the tower, if it trains (default: learning_rate)."}
    )
    projector_learning_rate: float | None = field(
        default=None, metadata={"help": "Peak learning rate of the projector (default: learning_rate)."}
    )
    tower_checkpointing: bool = field(
        default=False,
        metadata={"help": "Recompute the tower's activations too; gradient_checkpointing is the language model's."},
    )
    sft_weight: float = field(
        default=0.0,
        metadata={"help": "Add so much of the chosen response's negative log-likelihood per token to any objective."},
    )
    end_of_turn: bool = field(
        default=True,
        metadata={
            "help": "Let the objective see the end-of-turn token too; not for rewritten answers, such as BDHS's, which "
            "end where another one did. The term of --sft_weight always sees it."
        },
    )
    log_entropy: bool = field(default=False, metadata={"help": "Log the policy's entropy per response token, in nats."})
    share_prefix: bool = field(
        default=True,
        metadata={"help": "Read a prompt once for all its responses, where the model allows; the loss is the same."},
    )
    share_tower: bool = field(
        default=True,
        metadata={"help": "Encode a picture once for all that needs it in a step; the loss is the same."},
    )
    precompute_reference: bool = field(
        default=False,
        metadata={
            "help": "Let the reference score all records before training begins, in batches of "
            "per_device_eval_batch_size, and keep no reference in memory: for several epochs or runs, or when two "
            "models do not fit. The loss is the same."
        },
    )
    reference_cache: str | None = field(
        default=None,
        metadata={"help": "File of the precomputed scores, to share between runs (default: in output_dir)."},
    )
    estimate_memory: bool = field(default=False, metadata={"help": "Say how much memory the run will need, and stop."})
    resume: bool = field(
        default=True, metadata={"help": "Go on from the newest complete checkpoint in output_dir, if there is one."}
    )

    def __post_init__(self) -> None:
        if self.output_dir is None:
            raise InputError("--output_dir is missing: the folder for the trained model")
        self.deepspeed = deepspeed_config(self.deepspeed) if under_launcher() else None
        unset_hf_deepspeed_config()  # what another training of this process had said of its own models
        if not torch.accelerator.is_available():
            self.use_cpu = True  # else several ranks on CPUs are taken for one
            self.ddp_backend = self.ddp_backend or ("gloo" if under_launcher() else None)
            if self.deepspeed is not None:
                _leave_out_shared_memory()
        super().__post_init__()
        self._n_gpu = min(1, self.n_gpu)  # several without a launcher would become torch's DataParallel
        if self.reference_cache and not self.precompute_reference:
            raise InputError("--reference_cache is read and written with --precompute_reference; say that too")
        absent = set(self.report_to) - {"none", "all", *get_available_reporting_integrations()}
        if absent:
            raise InputError(f"--report_to {' '.join(sorted(absent))}: not installed here, or no tracker's name")
        if self.train_sampling_strategy != "random":
            raise InputError("--train_sampling_strategy: say --shuffle false or --group_by_length true")
        for flag, advice in _MEANINGLESS.items():
            if getattr(self, flag, None):
                raise InputError(f"--{flag} means nothing here: {advice}")

    def rate_of(self, part: str) -> float:
        """Peak learning rate of ``tower``, ``projector`` or ``language``."""
        own = getattr(self, f"{part}_learning_rate", None)
        return self.learning_rate if own is None else own

    @property
    def zero3(self) -> bool:
        """Whether DeepSpeed spreads the weights over the ranks."""
        plugin = getattr(self, "deepspeed_plugin", None)
        return plugin is not None and plugin.zero_stage == 3


def under_launcher() -> bool:
    """Whether a launcher (deepspeed, torchrun) started this process."""
    return "RANK" in os.environ and "WORLD_SIZE" in os.environ


def _leave_out_shared_memory() -> None:
    """Keeps DeepSpeed from compiling its all-reduce through shared memory, which only its inference uses.

    Where the compilation is killed, torch's lock stays behind, and every later run on the machine would wait for it
    without a word; each run would also leave 66 MiB a rank in ``/dev/shm``.
    """
    import deepspeed.ops

    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False


def deepspeed_config(name: str | None) -> Any:
    """A DeepSpeed configuration for ``zero1`` to ``zero3``; anything else is a file's name and passed through."""
    stages = {f"zero{stage}": stage for stage in (1, 2, 3)}
    if name not in stages:
        return name
    return {
        "zero_optimization": {
            "stage": stages[name],
            "overlap_comm": True,
            "contiguous_gradients": True,
            "stage3_gather_16bit_weights_on_model_save": True,
        },
        "bf16": {"enabled": "auto"},
        "fp16": {"enabled": "auto"},
        "gradient_clipping": "auto",
        "train_micro_batch_size_per_gpu": "auto",
        "gradient_accumulation_steps": "auto",
    }


class Flags(NamedTuple):
    """All flags of a run, by what they are about."""

    objective: Objective
    model: ModelOptions
    data: DataOptions
    options: TrainOptions

    @property
    def trained(self) -> Objective:
        """The objective as it is trained: with the term of ``--sft_weight``, and without the end if that is asked."""
        objective = self.objective if self.options.end_of_turn else without_end(self.objective)
        return with_sft(objective, self.options.sft_weight)


def parse(name: str, arguments: Sequence[str]) -> Flags:
    """Read flags, with ``--config FILE.yaml`` under them, for the objective ``name``.

    Raises:
        InputError: a key of the YAML file is no flag, or a value does not fit.
    """
    objective = plugins.find_class("mmalign.objectives", name)
    _check_class(name, objective)
    parser = flags.parser(
        [objective, ModelOptions, DataOptions, TrainOptions],
        prog=f"mmalign train {name}",
        usage="%(prog)s --model MODEL --data FILE.jsonl --output_dir FOLDER [--config FILE.yaml] [flags]",
        description=(objective.__doc__ or "").strip(),
        epilog=f"Example: mmalign train {name} --config train/lora.yaml --model MODEL --data FILE.jsonl "
        "--output_dir FOLDER --learning_rate 1e-6",
    )
    try:
        given = Flags(*flags.parse(parser, arguments))
        _check_objective(name, given.objective, given.model)
        _check_sft_weight(name, given.objective, given.options.sft_weight)
        _check_end_of_turn(name, given.objective, given.data, given.options)
        if given.options.precompute_reference:
            _check_precomputed(name, given.objective)
        _settle_evaluation(given.data, given.options)
        return given
    except InputError:
        raise
    except ValueError as error:  # flags that transformers finds at odds with each other
        raise InputError(str(error)) from error


def _names(*classes: type) -> set[str]:
    return {each.name for cls in classes for each in fields(cls)}


def _check_class(name: str, objective: type) -> None:
    """Refuse a class that no command line can be made of."""
    if not is_dataclass(objective):
        raise InputError(f"{name} is no dataclass: put @dataclass(frozen=True) over the class")
    taken = _names(objective) & {*_names(ModelOptions, DataOptions, TrainOptions), "config", "objective", "local_rank"}
    if taken:
        raise InputError(f"{name} has options that training has too: {', '.join(sorted(taken))}; rename them")


def _check_objective(name: str, objective: Objective, model: ModelOptions) -> None:
    """Refuse an objective that asks for what there is not, or says half of what it has to."""
    try:
        for view in objective.views:
            split_view(view)
    except ValueError as error:
        raise InputError(f"{name}: {error} (see mmalign.objectives)") from None
    missing = objective.needs - SUPPLIED
    if missing:
        raise InputError(f"{name} needs {', '.join(sorted(missing))}, which training does not supply")
    known = {number for number in numbers_of(objective) if number in NUMBERS or number.startswith("margin/")}
    if unknown := numbers_of(objective) - known:
        raise InputError(f"{name} reads {', '.join(sorted(unknown))}; numbers are {', '.join(NUMBERS)} and margin/NAME")
    if "mixed_logps" in objective.needs and not hasattr(objective, "mixture"):
        raise InputError(f"{name} needs mixed_logps, and does not say of which mixture")
    if hasattr(objective, "init_state") != hasattr(objective, "next_state"):
        raise InputError(f"{name}: init_state and next_state go together")
    if model.reference and not needs_reference(objective):
        raise InputError(f"--reference: {name} looks at none; leave it out")


def _check_precomputed(name: str, objective: Objective) -> None:
    if not needs_reference(objective):
        raise InputError(f"--precompute_reference: {name} looks at no reference; leave it out")
    for need in objective.needs & NOT_KEPT.keys():
        raise InputError(f"--precompute_reference: {name} needs more of it, {NOT_KEPT[need]}; leave it out")


def _check_end_of_turn(name: str, objective: Objective, data: DataOptions, options: TrainOptions) -> None:
    if options.end_of_turn:
        return
    if getattr(objective, "likelihood", False):
        raise InputError(f"--no_end_of_turn: {name} teaches a response, and would not teach it to end; leave it out")
    if data.too_long == "shorten":
        raise InputError("--no_end_of_turn with --too_long shorten: what was cut has no end to leave out; say drop")


def _check_sft_weight(name: str, objective: Objective, weight: float) -> None:
    if not 0 <= weight < float("inf"):
        raise InputError(f"--sft_weight {weight:g} would make the chosen response less likely; 0 or more")
    if weight and name == "sft":
        raise InputError("--sft_weight adds to another objective what sft is; leave it out")
    if weight and not any(view.partition("@")[0] == "chosen" for view in objective.views):
        raise InputError(f"--sft_weight adds the likelihood of chosen, and {name} is of other responses; leave it out")


def _settle_evaluation(data: DataOptions, options: TrainOptions) -> None:
    """Held-out records are scored once an epoch where nothing else is said."""
    if options.eval_strategy != "no" and not data.eval_data:
        raise InputError(f"--eval_strategy {options.eval_strategy.value} needs --eval_data, the records to evaluate on")
    if options.eval_strategy == "no" and data.eval_data:
        options.eval_strategy = IntervalStrategy.EPOCH
