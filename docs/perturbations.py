"""The picture and the table of docs/perturbations.md.

python docs/perturbations.py      draws docs/images/contact.png and prints the table
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from PIL import Image

from mmalign.media.perturb import KINDS, LEVELS, plans, strength
from mmalign.reports.contact import contact_sheet, rows_of
from mmalign.scenes.clips import sample_clip
from mmalign.scenes.render import render
from mmalign.scenes.things import Clip, Scene

PICTURE = Path(__file__).with_name("images") / "contact.png"
UNITS = (8, 16, 20)
CLIP, OTHER = 11, 37  # of the split `test`


def table() -> str:
    """What each level comes to, as Markdown."""
    kinds = ("drop", "shuffle", "local_shuffle", "speed", "mask")
    lines = [
        "| n | r | drop, splice, repeat: units kept | shuffle, reverse: units in a block | local_shuffle: in a window "
        "| speed: step | mask: hidden | difficulty |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for units in UNITS:
        for r in LEVELS:
            *sizes, (area, _) = (strength(kind, units, r) for kind in kinds)
            lines.append(f"| {units} | {r} | {' | '.join(map(str, sizes))} | {100 * area:.0f} % | 1/{r} |")
    return "\n".join(lines)


def moving(clip: Clip, count: int) -> list[Image.Image]:
    """``count`` frames of a clip, between whose own frames things move evenly, and come and go half-way."""
    pictures = []
    for number in range(count):
        place = number * (len(clip.frames) - 1) / (count - 1)
        first = min(int(place), len(clip.frames) - 2)
        pictures.append(Image.fromarray(render(_between(*clip.frames[first : first + 2], place - first, number))))
    return pictures


def _between(before: Scene, after: Scene, share: float, noise: int) -> Scene:
    other = {thing.name: thing for thing in (after if share < 0.5 else before).things}
    things = []
    for thing in (before if share < 0.5 else after).things:
        goal = other.get(thing.name, thing)
        here = share if share < 0.5 else 1 - share
        things.append(replace(thing, x=thing.x + (goal.x - thing.x) * here, y=thing.y + (goal.y - thing.y) * here))
    return replace(before, things=tuple(things), noise=noise)


def sheet() -> Image.Image:
    """The picture: every kind on eight frames, at the levels 2 and 8."""
    frames, other = (moving(sample_clip("test", 0, index), 8) for index in (CLIP, OTHER))
    made = plans((*KINDS, "mask+local_shuffle"), len(frames), (2, 8), seed=0)
    return contact_sheet(list(rows_of(frames, made, other)), "eight frames of the embedded world", pixels=48)


if __name__ == "__main__":
    sheet().quantize(128, dither=Image.Dither.NONE).save(PICTURE, optimize=True)
    print(table())
