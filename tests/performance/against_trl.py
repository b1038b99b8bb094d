"""How many times as fast as TRL's DPOTrainer, at the same numbers.

    python -m tests.performance.against_trl                        # all cases, as a table
    python -m tests.performance.against_trl --cases image --json   # one JSON object

Both train the same random LLaVA on the same records with the same threads, attention and dtype, each in a process of
its own, in turns. TRL runs at its fastest settings for this; they are printed.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from contextlib import redirect_stdout
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

SIDES = ("trl", "mmalign", "no_prefix", "no_tower", "plain", "rdpo", "rrpo")
"""TRL; mmalign; mmalign without sharing of prompts, of towers, of either; and two objectives that TRL lacks."""

WARM = 2
"""Steps before the clock counts."""

TRL_SETTINGS = "no activation checkpointing, max_length None, PyTorch's SDPA, and the fused head that it uses by itself"
TEXT = 32
"""Tokens of a prompt besides those of its images."""


@dataclass(frozen=True)
class Size:
    """A model: `cpu` is the smallest to be believed, `gpu` a language model of a billion parameters."""

    hidden: int = 512
    layers: int = 8
    heads: int = 8
    inner: int = 1376
    tower_hidden: int = 256
    tower_layers: int = 6
    tower_heads: int = 4


SIZES = {
    "tiny": Size(64, 2, 2, 128, 32, 2, 2),
    "cpu": Size(),
    "gpu": Size(2048, 16, 16, 5504, 1024, 24, 16),
}


@dataclass(frozen=True)
class Case:
    """What is trained on.

    Attributes:
        lora: an adapter on language model and projector; else their own weights. The tower is frozen.
        images: pictures of a record, of ``side`` pixels in patches of 14: (side / 14)^2 tokens each.
        words: tokens of each response.
        vocabulary: of the model.
        batch_size: records of a step.
    """

    name: str
    lora: bool = True
    images: int = 1
    side: int = 336
    words: int = 100
    vocabulary: int = 32_000
    batch_size: int = 1


CASES = {
    case.name: case
    for case in (
        Case("image"),
        Case("image_full", lora=False),
        Case("images", images=4),
        Case("frames", images=32, side=112),
        Case("short", words=20),
        Case("long", words=300),
        Case("vocabulary", vocabulary=152_000),
    )
}


def write_case(folder: Path, case: Case, size: Size, records: int) -> None:
    """A random model with its processor, pictures, and records whose responses have just so many tokens."""
    from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration, LlavaProcessor
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    from mmalign.records import Record, assistant_message, user_message, write_jsonl
    from tests.families import TEMPLATE, WORDS, tokenizer

    words = tokenizer(image_token="<image>")
    square = {"height": case.side, "width": case.side}
    LlavaProcessor(
        CLIPImageProcessorPil(size=square, crop_size=square),
        words,
        patch_size=14,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=TEMPLATE.replace("PLACEHOLDER", "<image>"),
    ).save_pretrained(folder / "model")
    config = LlavaConfig(
        vision_config=CLIPVisionConfig(
            hidden_size=size.tower_hidden,
            intermediate_size=4 * size.tower_hidden,
            num_hidden_layers=size.tower_layers,
            num_attention_heads=size.tower_heads,
            image_size=case.side,
            patch_size=14,
        ),
        text_config=LlamaConfig(
            vocab_size=case.vocabulary,
            hidden_size=size.hidden,
            intermediate_size=size.inner,
            num_hidden_layers=size.layers,
            num_attention_heads=size.heads,
            max_position_embeddings=16_384,
            pad_token_id=words.pad_token_id,
            eos_token_id=words.eos_token_id,
            bos_token_id=None,
        ),
        image_token_id=words.image_token_id,
        vision_feature_layer=-2,
    )
    torch.manual_seed(0)
    LlavaForConditionalGeneration(config).save_pretrained(folder / "model")

    rng = np.random.default_rng(0)

    def say() -> list[dict]:  # a word of the list is one token, and the end of the turn another
        return [assistant_message("".join(rng.choice(WORDS, case.words // 2 - 1)))]

    rows = []
    for i in range(records):
        names = tuple(f"{i}-{k}.jpg" for k in range(2 * case.images))
        for name in names:
            Image.fromarray(rng.integers(0, 255, (case.side, case.side, 3), dtype=np.uint8)).save(folder / name)
        own, other = names[: case.images], names[case.images :]
        prompt = [user_message("Describe what there is to see.", images=case.images)]
        spans = ((0, 30),)
        rows.append(
            Record(
                id=str(i),
                prompt=prompt,
                images=own,
                rejected_images=other,
                chosen=say(),
                rejected=say(),
                chosen_spans=spans,
                rejected_spans=spans,
            )
        )
    write_jsonl(folder / "pairs.jsonl", rows)


def needed_operations(case: Case, size: Size) -> float:
    """Multiplications and additions that a pair of DPO cannot do without, each part once.

    Prompt and responses go through the language model for the reference, for the policy, and back; back twice where
    its weights train. Tokens meet only those that they see. Recomputing, padding and a second look are not counted.
    """
    images = case.images * (case.side // 14) ** 2
    prompt, responses = images + TEXT, 2 * case.words
    passes = 3 if case.lora else 4
    layer = 4 * size.hidden**2 + 3 * size.hidden * size.inner
    meetings = prompt**2 / 2 + responses * prompt + responses * case.words / 2
    language = size.layers * (2 * layer * (prompt + responses) * passes + 4 * size.hidden * meetings * 4)
    head = 2 * size.hidden * case.vocabulary * responses * passes
    patches = (case.side // 14) ** 2
    tower = size.tower_layers * (24 * size.tower_hidden**2 * patches + 4 * size.tower_hidden * patches**2)
    return language + head + case.images * tower


def run_side(side: str, folder: Path, case: Case, steps: int, *, bf16: bool) -> dict[str, Any]:
    """Train one side in this process."""
    from mmalign import backbones, objectives
    from tests.performance.sides import Plan, run_mmalign, run_trl

    plan = Plan(
        data=folder / "pairs.jsonl",
        output=folder / "out" / side,
        lora=case.lora,
        steps=WARM + steps,
        batch_size=case.batch_size,
        learning_rate=1e-3 if case.lora else 1e-4,
        bf16=bf16,
    )
    backbone = backbones.load(folder / "model", dtype="float32")
    if side == "trl":
        run = run_trl(backbone, plan)
    else:
        name = side if side in ("rdpo", "rrpo") else "dpo"
        sharing = {"share_prefix": side not in ("no_prefix", "plain"), "share_tower": side not in ("no_tower", "plain")}
        run = run_mmalign(backbone, plan, objectives.load(name), **sharing)
    return asdict(run)


def child(side: str, folder: Path, case: Case, steps: int, *, bf16: bool) -> dict[str, Any]:
    """The same in a process of its own."""
    command = [sys.executable, "-m", __spec__.name, "--side", side, "--folder", str(folder), "--steps", str(steps)]
    command += ["--case", json.dumps(asdict(case)), *(["--bf16"] if bf16 else [])]
    done = subprocess.run(command, env={**os.environ, "HF_HUB_OFFLINE": "1"}, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{side} failed:\n{done.stderr[-3000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def measure(case: Case, size: Size, sides: list[str], steps: int, rounds: int, *, bf16: bool) -> dict[str, Any]:
    """All sides in turns, as often as there are rounds."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_case(folder, case, size, records=(WARM + steps) * case.batch_size)
        found: dict[str, list[dict]] = {side: [] for side in sides}
        for number in range(rounds):
            for side in sides if number % 2 == 0 else reversed(sides):
                found[side].append(child(side, folder, case, steps, bf16=bf16))
    result = {"case": asdict(case), "sides": {side: _summary(runs, case) for side, runs in found.items()}}
    result["needed_operations_per_pair"] = needed_operations(case, size)
    return result


def _summary(runs: list[dict], case: Case) -> dict[str, Any]:
    seconds = [value for run in runs for value in run["seconds"][WARM:]]
    first, steps = runs[0], len(runs[0]["seconds"])
    return {
        "pairs_per_second": case.batch_size / statistics.median(seconds),
        "peak_mib": max(run["peak"] for run in runs) / 2**20,
        "pictures_per_pair": first["vision"] / steps / case.batch_size,
        "tokens_per_pair": first["tokens"] / steps / case.batch_size,
        "losses": first["losses"][:5],
        "logps": {name: values[:3] for name, values in first["logps"].items()},
    }


def add_ratios(result: dict[str, Any], peak: float | None) -> None:
    """How every side compares with TRL, under keys with the word ratio; and, of the sides that compute DPO, the share
    of the device's ``peak`` (operations a second) that went into needed operations."""
    sides = result["sides"]
    for name, side in sides.items():
        if peak and name not in ("rdpo", "rrpo"):
            side["peak_share"] = side["pairs_per_second"] * result["needed_operations_per_pair"] / peak
    for name, side in sides.items():
        for rival in ("trl", "mmalign"):
            if rival in sides and rival != name:
                other = sides[rival]
                side[f"speed_ratio_to_{rival}"] = side["pairs_per_second"] / other["pairs_per_second"]
                side[f"peak_ratio_to_{rival}"] = side["peak_mib"] / other["peak_mib"]
                side[f"tokens_ratio_to_{rival}"] = side["tokens_per_pair"] / other["tokens_per_pair"]
    if {"trl", "mmalign"} <= set(sides):
        ours, theirs = sides["mmalign"]["losses"], sides["trl"]["losses"]
        result["largest_loss_difference"] = max(abs(a - b) / abs(b) for a, b in zip(ours, theirs, strict=True))


def table(results: list[dict[str, Any]]) -> str:
    head = ("case", "side", "pairs/s", "x TRL", "peak MiB", "of TRL's", "pictures", "tokens", "loss 1", "loss 5")
    rows = [head, ("---",) * len(head)]
    for result in results:
        for name, side in result["sides"].items():
            rows.append(
                (
                    result["case"]["name"],
                    name,
                    f"{side['pairs_per_second']:.3f}",
                    f"{side.get('speed_ratio_to_trl', 1):.2f}",
                    f"{side['peak_mib']:.0f}",
                    f"{side.get('peak_ratio_to_trl', 1):.2f}",
                    f"{side['pictures_per_pair']:g}",
                    f"{side['tokens_per_pair']:g}",
                    f"{side['losses'][0]:.5f}",
                    f"{side['losses'][-1]:.5f}",
                )
            )
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def versions() -> dict[str, str]:
    """What the figures belong to."""
    import transformers
    import trl

    device = torch.cuda.get_device_name() if torch.cuda.is_available() else f"{torch.get_num_threads()} CPU threads"
    return {
        "device": device,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "trl": trl.__version__,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--sides", nargs="+", choices=SIDES, default=list(SIDES))
    parser.add_argument("--size", choices=SIZES, default="cpu", help="of the model (default: cpu)")
    parser.add_argument("--steps", type=int, default=5, help="timed steps of each run, after two that are not")
    parser.add_argument("--rounds", type=int, default=1, help="how often all sides run, in turns")
    parser.add_argument("--batch_size", type=int, default=1, help="records of a step")
    parser.add_argument("--bf16", action="store_true", help="compute in bfloat16")
    parser.add_argument("--peak_tflops", type=float, help="of the device at this dtype, to tell what share was used")
    parser.add_argument("--json", action="store_true", help="print one JSON object and nothing else")
    for name in ("--side", "--folder", "--case"):  # of a child process
        parser.add_argument(name, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.side:
        case = Case(**json.loads(args.case))
        print(json.dumps(run_side(args.side, Path(args.folder), case, args.steps, bf16=args.bf16)))
        return
    results = []
    with redirect_stdout(sys.stderr):  # libraries greet
        print(f"TRL: {TRL_SETTINGS}")
        for name in args.cases:
            case = replace(CASES[name], batch_size=args.batch_size)
            result = measure(case, SIZES[args.size], args.sides, args.steps, args.rounds, bf16=args.bf16)
            add_ratios(result, args.peak_tflops and args.peak_tflops * 1e12)
            results.append(result)
            print(table([result]), flush=True)
        made = {"versions": versions(), "trl_settings": TRL_SETTINGS, "size": args.size, "bf16": args.bf16}
    print(json.dumps({**made, "results": results}) if args.json else f"{table(results)}\n{made}")


if __name__ == "__main__":
    main()
