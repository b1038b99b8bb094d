"""How much of a picture BDHS should hide from the bundled model: a row of a table for each rho_th, and for each noise.

    python docs/results/hiding.py runs/hiding

200 pictures of the embedded world's `pairs` split, their true captions as chosen answers.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from statistics import mean

from mmalign import backbones, builders
from mmalign.builders import _sentences
from mmalign.records import RecordFile, text_of
from mmalign.scenes import MODEL
from mmalign.scenes.dataset import write_split
from mmalign.scenes.evaluate import chair_figures
from mmalign.scenes.language import DIRECTIONS
from mmalign.scenes.things import COLORS, PLACES, SHAPES
from mmalign.scenes.world import sample_scene

COUNT = 200
MASKS = (0.0, 0.3, 0.5, 0.7, 0.9, 0.99, 1.0)
NOISES = (250, 500, 750, 1000)
NAME = f"({'|'.join(COLORS)}) ({'|'.join(SHAPES)})"
PLACE = f"({'|'.join(place for row in PLACES for place in row)})"
WHAT = f"an? (large|small) {NAME}"
WELL_FORMED = re.compile(
    f"(there is {WHAT} {PLACE}|{WHAT} is {PLACE}|{WHAT} is ({'|'.join(DIRECTIONS)}) the {NAME})[.]"
)


def well_formed(text: str) -> list[bool]:
    """Of each sentence: whether it could stand in a caption."""
    return [bool(WELL_FORMED.fullmatch(text[start:stop].lower())) for start, stop in _sentences.split(text)]


def main(output: Path) -> None:
    world = write_split(output / "world", "pairs", COUNT)
    scenes = {f"pairs-{index:05d}": sample_scene("pairs", 0, index) for index in range(COUNT)}
    model = backbones.load(MODEL)
    print("| `rho_th` | `noise_steps` | kept of 64 | sentences well formed | CHAIR_i of y− | taken at try 1 |")
    print("|---|---|---|---|---|---|")
    for rho, steps in [*((rho, 0) for rho in MASKS), *((0.0, steps) for steps in NOISES)]:
        file = output / f"{rho}-{steps}.jsonl"
        builder = builders.load("bdhs", rho_th=rho, noise_steps=steps)
        sources = builders.sources(world / "sft.jsonl")
        builders.build(builder, sources, model, file, media_root=world, batch_size=64, unit_size=32)
        records = list(RecordFile(file, world))
        texts = [text_of(record.rejected) for record in records]
        figures = chair_figures([scenes[record.id.partition("#")[0]] for record in records], texts)
        whole = mean(fine for text in texts for fine in well_formed(text))
        kept, first = (
            mean(f(r.meta) for r in records) for f in (lambda m: m["kept_tokens"], lambda m: m["tries"] == 1)
        )
        print(f"| {rho} | {steps} | {kept:.1f} | {whole:.0%} | {figures['chair_i']:.2f} | {first:.1%} |")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
