"""`mmalign predict`: a model's answers to the questions of any benchmark, in one resumable loop."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image

from mmalign import benchmarks, runs
from mmalign.benchmarks import _options
from mmalign.media import FRAMES, Clip, FrameChoice, MediaError, open_clip, open_image
from mmalign.records import InputError, Prediction, Question, media_path

if TYPE_CHECKING:
    from mmalign.backbones import Backbone, Job

_DISTINCT_MEDIA = 8
"""Decoded pictures, and clips, held besides those of a batch: benchmarks ask several questions about one in a row."""


def predict(
    backbone: Backbone,
    questions: Sequence[Question],
    output: Path,
    *,
    media_root: Path,
    batch_size: int = 8,
    unit_size: int = 64,
    max_new_tokens: int = 64,
    temperature: float = 0.0,
    seed: int = 0,
    frames: FrameChoice = FRAMES,
    progress: bool = True,
) -> runs.Summary:
    """Answer ``questions`` into the JSONL file ``output``, one Prediction a line, in their order.

    Killed and started again, it goes on where it was; on several ranks each answers a share, and the one that
    finishes last merges. A question whose picture or clip cannot be opened, or that the model cannot be shown, is
    dropped and counted, with the reason.

    Args:
        backbone: the model that answers.
        questions: what it is asked; with pictures and clips or without.
        output: the file to write; ``output.run`` beside it holds unfinished work.
        media_root: folder that the questions' paths are relative to.
        batch_size: questions answered together; what is written does not depend on it, up to rounding.
        unit_size: questions that a kill can cost at most; batches are of one unit.
        max_new_tokens: limit of an answer.
        temperature: 0 answers greedily.
        seed: of sampled answers; each question has its own stream.
        frames: which of each clip the model sees.
        progress: show a bar.

    Raises:
        InputError: no questions, or ``output`` belongs to other questions, options or another model.
    """
    if not questions:
        raise InputError("no questions to answer")
    if temperature < 0:
        raise InputError(f"must be 0 or more, got {temperature}", field="temperature")
    model = backbone.fingerprint()
    options = {"max_new_tokens": max_new_tokens, "temperature": temperature, "seed": seed}
    if any(question.videos for question in questions):
        options["frames"] = asdict(frames)
        options["native_video"] = getattr(backbone, "native_video", False)
    picture = lru_cache(maxsize=_DISTINCT_MEDIA)(lambda name: open_image(media_path(name, media_root)))
    clip = lru_cache(maxsize=_DISTINCT_MEDIA)(lambda name: open_clip(name, media_root, frames))

    def answer(unit: runs.Unit) -> Iterator[tuple[str, list[Prediction] | runs.Drop]]:
        batch: dict[str, Job] = {}
        for question in unit.items:
            job = _job(question, media_root, picture, clip, seed)
            if isinstance(job, runs.Drop):
                yield question.id, job
                continue
            batch[question.id] = job
            if len(batch) == batch_size:
                yield from write(batch)
                batch = {}  # the pixels of one batch are held, not those of the unit
        yield from write(batch)

    def write(batch: dict[str, Job]) -> Iterator[tuple[str, list[Prediction] | runs.Drop]]:
        texts = _texts(backbone, [*batch.values()], max_new_tokens=max_new_tokens, temperature=temperature)
        for name, text in zip(batch, texts, strict=True):
            told = isinstance(text, str)
            yield name, [Prediction(id=name, text=text, meta={"model": model, **options})] if told else text

    # Gold and meta are for the scorer: a corrected label must not make the answers look stale.
    asked = [replace(question, gold=None, meta={}) for question in questions]
    manifest = {
        "media_root": str(Path(media_root).resolve()),
        "model": model,
        "dtype": str(backbone.dtype),
        **options,
    }
    return runs.run(
        output,
        asked,
        answer,
        unit_size=unit_size,
        manifest=manifest,
        description="predict",
        progress=progress,
    )


def _job(
    question: Question,
    media_root: Path,
    picture: Callable[[str], Image.Image],
    clip: Callable[[str], Clip],
    seed: int,
) -> Job | runs.Drop:
    """The question with its media, opened."""
    from mmalign.backbones import Job  # imports torch, which the other verbs of this folder do without

    try:
        images, videos = tuple(map(picture, question.images)), tuple(map(clip, question.videos))
    except MediaError as error:
        return runs.Drop(error.reason, str(error))
    return Job(question.prompt, images, seed=runs.stable_seed(seed, question.id), videos=videos)


def _texts(backbone: Backbone, jobs: Sequence[Job], **how: Any) -> list[str | runs.Drop]:
    """An answer to each job, or a drop where the model cannot be shown its prompt or its media.

    Raises:
        InputError: the model cannot answer, whatever it is shown.
    """
    if not jobs:
        return []
    try:
        return backbone.generate(jobs, **how)
    except InputError:
        refusals = [_refusal(backbone, job) for job in jobs]
        if not any(refusals):
            raise
        left = iter(_texts(backbone, [job for job, no in zip(jobs, refusals, strict=True) if not no], **how))
        return [no or next(left) for no in refusals]


def _refusal(backbone: Backbone, job: Job) -> runs.Drop | None:
    """Why a prompt cannot be shown to the model, if it cannot."""
    try:
        backbone.encode_prompt(job.messages, job.images, videos=job.videos)
    except InputError as error:
        return runs.Drop(getattr(error, "reason", "not_encodable"), str(error))
    return None


EPILOG = """example:
  mmalign predict pope --model llava-hf/llava-1.5-7b-hf --data POPE/output/coco --media_root val2014 \\
      --option prompt=short --output runs/pope.jsonl
  mmalign score pope --data POPE/output/coco --predictions runs/pope.jsonl

Start the same command again after an interruption: answers that are there are kept. Several processes
(deepspeed --module mmalign.cli predict ...) share the questions."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of `mmalign predict`."""
    parser.description = "Let a model answer the questions of a benchmark."
    parser.epilog = EPILOG
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    _options.add_data_arguments(parser)
    add_model_arguments(parser)
    parser.add_argument("--output", type=Path, required=True, help="JSONL file of predictions to write")
    parser.add_argument("--media_root", type=Path, help="folder of the pictures (default: where the data is)")
    parser.add_argument(
        "--max_new_tokens", type=_options.positive, help="limit of an answer (default: the benchmark's)"
    )
    parser.add_argument(
        "--unit_size", type=_options.positive, default=64, help="questions that a kill can cost at most (default 64)"
    )
    parser.add_argument("--temperature", type=float, default=0.0, help="0 (default) answers greedily")
    parser.add_argument("--seed", type=int, default=0, help="of sampled answers")


def add_model_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags that say which model answers, and how many questions at a time."""
    parser.add_argument("--model", required=True, help="Hugging Face folder or name, or a PEFT adapter's folder")
    parser.add_argument("--adapter", help="PEFT adapter folder to put on top of the model")
    parser.add_argument("--dtype", default="auto", help="auto (default), float32, bfloat16 or float16")
    parser.add_argument("--batch_size", type=_options.positive, default=8, help="questions at a time (default 8)")
    parser.add_argument(
        "--video",
        default="auto",
        help="how it sees clips: native, frames (as pictures), or auto (default): as in its training, else native if "
        "it can",
    )
    _options.add_frame_arguments(parser)


def load_model(args: argparse.Namespace) -> Backbone:
    """The backbone that the flags of `add_model_arguments` name."""
    from mmalign import backbones

    return backbones.load(args.model, adapter=args.adapter, dtype=args.dtype, video=args.video)


def command(args: argparse.Namespace) -> int:
    """Run `mmalign predict` with parsed flags; returns the exit status."""
    benchmark = benchmarks.load(args.benchmark)
    questions = _options.read_questions(benchmark, args.data, args.option)
    backbone = load_model(args)
    summary = predict(
        backbone,
        questions,
        args.output,
        media_root=args.media_root or _options.media_root_of(args.data),
        batch_size=args.batch_size,
        unit_size=args.unit_size,
        max_new_tokens=args.max_new_tokens or benchmark.MAX_NEW_TOKENS,
        temperature=args.temperature,
        seed=args.seed,
        frames=_options.frame_choice(args, backbone.trained_on),
    )
    if summary.complete:
        dropped = "".join(f", {count} dropped ({reason})" for reason, count in sorted(summary.drops.items()))
        print(f"{args.output}: {summary.records} answers to {summary.sources} questions{dropped}")
    return 0
