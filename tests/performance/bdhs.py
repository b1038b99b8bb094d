"""How many times as fast as a plain loop BDHS has its sentences written.

    OMP_WAIT_POLICY=passive python -m tests.performance.bdhs      # threads that wait cost no processor's time

A random LLaVA (576 image tokens a picture, language model 8 x 512, 32,000 words) goes on with the sentences of answers,
as many tokens in each, sampled at temperature 1. The loop is transformers alone: for every sentence its processor and
one `generate`, with a cache, the same image tokens hidden by its attention mask. mmalign has all sentences at once, in
batches. Both run in one process, in turns, on all cores; each round gives ratios of its own, of the clock and of the
processors' time. The second says more on a machine that others use.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mmalign import backbones
from mmalign.backbones import Backbone, Job
from mmalign.builders import Unit, load
from mmalign.records import RecordFile, assistant_message
from tests.families import WORDS
from tests.performance.against_trl import SIZES, Case, versions, write_case

HEADER = (
    "| image tokens | side | tokens/s | x loop | least and most | x loop, CPU time | least and most |\n"
    + "|---" * 7
    + "|"
)
SENTENCES, SENTENCE = 4, 12
"""Sentences of an answer, and words of each."""

SHARPER = 10.0
"""Of the head's weights: without it every word is as likely as the next, and no model of the world is like that."""


class _Asked:
    """Stands where BDHS expects a model, and notes the jobs that it is given."""

    def __init__(self, backbone: Backbone) -> None:
        self.image_token_count = backbone.image_token_count
        self.jobs: list[Job] = []

    def generate(self, jobs: Sequence[Job], **_: Any) -> list[str]:
        self.jobs += jobs
        return [" something else."] * len(jobs)


def jobs_of(backbone: Backbone, folder: Path, hidden: bool) -> list[Job]:
    """What BDHS asks for at its first try: a job a sentence."""
    rng = np.random.default_rng(0)

    def say() -> str:
        return " ".join(f"There is{''.join(rng.choice(WORDS, SENTENCE // 2))}." for _ in range(SENTENCES))

    records = [replace(record, chosen=[assistant_message(say())]) for record in RecordFile(folder / "pairs.jsonl")]
    asked = _Asked(backbone)
    list(load("bdhs", rho_th=0.99 if hidden else 0.0)(Unit(tuple(records), folder), asked))
    assert len(asked.jobs) == len(records) * SENTENCES
    return asked.jobs


def loop(backbone: Backbone, jobs: Sequence[Job], tokens: int) -> None:
    """Every job by transformers alone."""
    processor, model = backbone.processor, backbone.hf_model
    options = {"do_sample": True, "temperature": 1.0, "top_k": 0, "top_p": 1.0, "use_cache": True}
    for job in jobs:
        text = processor.apply_chat_template(list(job.messages), tokenize=False, add_generation_prompt=True)
        inputs = processor(text=[text + job.prefix], images=list(job.images), return_tensors="pt")
        inputs["attention_mask"][inputs["input_ids"] == backbone.image_token_id] = torch.from_numpy(job.keep).long()
        written = model.generate(**inputs, max_new_tokens=tokens, pad_token_id=backbone.pad_token_id, **options)
        assert written.shape[1] == inputs["input_ids"].shape[1] + tokens


def ours(masking: str, batch_size: int) -> Callable[[Backbone, Sequence[Job], int], None]:
    """As `loop`, by mmalign. Every text is looked at after every token, as BDHS does to find the sentence's end."""

    def write(backbone: Backbone, jobs: Sequence[Job], tokens: int) -> None:
        options = {"temperature": 1.0, "stop": lambda text: False, "batch_size": batch_size, "masking": masking}
        backbone.generate(jobs, max_new_tokens=tokens, **options)

    return write


Times = list[tuple[float, float]]
"""Of each round: seconds of the clock, and of the processors."""


def measure(
    backbone: Backbone, jobs: Sequence[Job], sides: dict[str, Callable], tokens: int, rounds: int
) -> dict[str, Times]:
    """What each side takes, round by round."""
    times: dict[str, Times] = {name: [] for name in sides}
    for side in sides.values():
        side(backbone, jobs[:2], 2)  # warm
    for _ in range(rounds):
        for name, side in sides.items():
            start = time.perf_counter(), time.process_time()
            side(backbone, jobs, tokens)
            times[name].append((time.perf_counter() - start[0], time.process_time() - start[1]))
    return times


def rows(what: str, times: dict[str, Times], written: int) -> str:
    """Of the table: medians over the rounds, and for the ratios their range."""
    lines = []
    for name, found in times.items():
        cells = [what, name, f"{written / statistics.median(wall for wall, _ in found):.1f}"]
        for clock in (0, 1):
            ratios = [slow[clock] / fast[clock] for slow, fast in zip(times["loop"], found, strict=True)]
            cells += [f"{statistics.median(ratios):.2f}", f"{min(ratios):.2f} to {max(ratios):.2f}"]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--records", type=int, default=4, help="answers, of four sentences each")
    parser.add_argument("--tokens", type=int, default=24, help="written in each sentence")
    parser.add_argument("--batch_size", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--size", choices=SIZES, default="cpu", help="of the model (default: cpu)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_case(folder, Case("bdhs"), SIZES[options.size], options.records)
        backbone = backbones.load(folder / "model")
        backbone.head.weight.data.mul_(SHARPER)
        backbone.hf_model.generation_config.eos_token_id = None  # every text is as long as it may be
        backbone.end_token_ids = frozenset()
        sides = {"loop": loop, **{masking: ours(masking, options.batch_size) for masking in ("mask", "drop")}}
        print(HEADER)
        for what, hidden in (("99 % hidden", True), ("all seen", False)):
            jobs = jobs_of(backbone, folder, hidden)
            used = sides if hidden else {"loop": loop, "mmalign": ours("drop", options.batch_size)}
            times = measure(backbone, jobs, used, options.tokens, options.rounds)
            print(rows(what, times, len(jobs) * options.tokens), flush=True)
    print({**versions(), "jobs": len(jobs), **{k: v for k, v in vars(options).items() if k != "records"}})


if __name__ == "__main__":
    main()
