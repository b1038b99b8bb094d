"""Contact sheets: a clip frame by frame, and below it what perturbations make of it.

python -m mmalign.reports.contact CLIP --output sheet.png --frames 16 --kinds shuffle reverse mask
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from mmalign.flags import guarded
from mmalign.media import Clip, FrameChoice, Part, read_clip
from mmalign.media.perturb import KINDS, LEVELS, Plan, deal, plans
from mmalign.records import PART_OF_CLIP, InputError

INK, PALE, LINE, PAPER = (32, 33, 36), (118, 122, 128), (214, 216, 220), (255, 255, 255)
STRANGE = (200, 40, 40)
SCALE = ((68, 1, 84), (59, 82, 139), (33, 145, 140), (94, 201, 98), (240, 220, 40))  # brighter and brighter
MARGIN, GAP, BAR, NUMBER, TITLE = 20, 4, 5, 15, 22  # pixels
BREAK = 12  # pixels more above another kind
LEAST = 58  # pixels: height of a row, for its label
LABELS = 132  # pixels: width of the column of labels
MOST = 64  # frames in a row
_ENDINGS = ("png", "jpg", "jpeg", "webp")


@dataclass(frozen=True, eq=False)
class Row:
    """One row of a sheet.

    Attributes:
        label, note: what it is, in a word or two, and a line below that.
        frames: from left to right.
        places: where in the first row each frame stands, from 0. Those of another clip are counted on: with N frames
            in the first row, N is the other's first. None: nothing is known of them.
    """

    label: str
    frames: tuple[Image.Image, ...]
    note: str = ""
    places: tuple[int, ...] | None = None


def rows_of(frames: Sequence[Image.Image], made: Sequence[Plan], other: Sequence[Image.Image] = ()) -> Iterator[Row]:
    """The clip as it is, and a row for each plan.

    Raises:
        InputError: there are fewer frames than a plan has units.
    """
    yield Row("clip", tuple(frames), f"{len(frames)} frames", tuple(range(len(frames))))
    second = range(len(frames), 2 * len(frames))
    for plan in made:
        dealt = plan.apply(deal(range(len(frames)), plan.units), deal(second, plan.units))
        places = tuple(place for unit in dealt for place in unit)
        levels = f"r = {', '.join(map(str, plan.levels or (plan.r,)))}"
        yield Row(plan.kind, plan.show(frames, other), levels, places)


def contact_sheet(rows: Sequence[Row], title: str = "", pixels: int = 72) -> Image.Image:
    """One picture of all rows, the first being what the others are compared with.

    Below each frame stands its number in the first row, counted from 1, and a bar that grows from dark blue to yellow
    along the first row, so that an order can be seen without reading. Numbers of another clip have a prime, and a red
    bar. Rows with the label of the row above them go without it.

    Args:
        rows: at least one, with at least one frame each.
        title: a line above.
        pixels: longer side of a frame. Frames are made smaller, never larger.
    """
    cell = _cell([frame for row in rows for frame in row.frames], pixels)
    heights = _heights(rows, max(cell[1] + BAR + NUMBER + 2 * GAP, LEAST))
    top = MARGIN + (TITLE if title else 0)
    inner = LABELS + max(len(row.frames) for row in rows) * (cell[0] + GAP) - GAP
    width = max(inner, round(_font(15).getlength(title))) + 2 * MARGIN
    sheet = Image.new("RGB", (width, top + sum(heights) + MARGIN), PAPER)
    draw = ImageDraw.Draw(sheet)
    draw.text((MARGIN, MARGIN - 6), title, INK, _font(15))
    before, y = "", top
    for row, height in zip(rows, heights, strict=True):
        if row.label != before and before:
            draw.line((MARGIN, y + GAP, width - MARGIN, y + GAP), LINE)
            y, height = y + BREAK, height - BREAK
        _label(draw, (MARGIN, y), row, repeated=row.label == before)
        _frames(sheet, draw, (MARGIN + LABELS, y), row, cell, len(rows[0].frames))
        before, y = row.label, y + height
    return sheet


def _heights(rows: Sequence[Row], plain: int) -> list[int]:
    """Of each row, with the line above it where another kind begins."""
    labels = [row.label for row in rows]
    breaks = [0, *(BREAK * (label != above) for above, label in pairwise(labels))]
    return [plain + extra for extra in breaks]


def _label(draw: ImageDraw.ImageDraw, corner: tuple[int, int], row: Row, repeated: bool) -> None:
    x, y = corner
    if not repeated:
        words = row.label.replace("+", " +\n")
        draw.text((x, y - 3), words, INK, _font(14), spacing=3)
        y += 18 * (words.count("\n") + 1)
    draw.text((x, y - 2), row.note, PALE, _font(12))


def _frames(
    sheet: Image.Image,
    draw: ImageDraw.ImageDraw,
    corner: tuple[int, int],
    row: Row,
    cell: tuple[int, int],
    whole: int,
) -> None:
    """The frames of a row from left to right, each with its bar and its number below it."""
    x, y = corner
    for column, frame in enumerate(row.frames):
        small = frame.convert("RGB")
        small.thumbnail(cell, Image.Resampling.LANCZOS)
        ImageDraw.Draw(small).rectangle((0, 0, small.width - 1, small.height - 1), outline=LINE)
        sheet.paste(small, (x, y))
        if row.places is not None:
            _mark(draw, (x, y + cell[1] + 1), cell[0], row.places[column], whole)
        x += cell[0] + GAP


def _cell(frames: Sequence[Image.Image], pixels: int) -> tuple[int, int]:
    """Width and height that hold every frame, once none is longer than ``pixels``."""
    scales = [min(1.0, pixels / max(frame.size)) for frame in frames]
    sizes = [(frame.width * scale, frame.height * scale) for frame, scale in zip(frames, scales, strict=True)]
    return max(1, round(max(w for w, _ in sizes))), max(1, round(max(h for _, h in sizes)))


def _mark(draw: ImageDraw.ImageDraw, corner: tuple[int, int], width: int, place: int, whole: int) -> None:
    """The coloured bar and the number below a frame."""
    x, y = corner
    fill = STRANGE if place >= whole else colour(place, whole)
    draw.rectangle((x, y, x + width - 1, y + BAR - 1), fill=fill)
    number = f"{place - whole + 1}'" if place >= whole else f"{place + 1}"
    draw.text((x + width / 2, y + BAR + 1), number, PALE, _font(11), anchor="ma")


def colour(place: int, whole: int) -> tuple[int, int, int]:
    """Of a place among ``whole``: along `SCALE`, which can also be told apart without colours."""
    along = (len(SCALE) - 1) * place / max(1, whole - 1)
    low = min(int(along), len(SCALE) - 2)
    return tuple(round(a + (b - a) * (along - low)) for a, b in zip(SCALE[low], SCALE[low + 1], strict=True))


def _font(size: int) -> ImageFont.ImageFont | ImageFont.FreeTypeFont:
    return ImageFont.load_default(size)


# ---- the command line ----------------------------------------------------------------------------------------------


def main(arguments: Sequence[str] | None = None) -> int:
    """Draw the plans of one clip; returns the exit status: 2 for input that cannot be used."""
    return guarded("mmalign.reports.contact", lambda: _run(_parser().parse_args(arguments)))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m mmalign.reports.contact",
        description="Draw a clip and what perturbations make of it, as one picture. Levels that come to the same on so "
        "few frames are one row.",
        epilog="Example: python -m mmalign.reports.contact talk.mp4 --output sheet.png --kinds shuffle mask",
    )
    parser.add_argument("clip", help="a clip, a part of one (talk.mp4#t=12,20), or a folder of frames")
    parser.add_argument("--output", type=Path, required=True, help=f"picture to write ({', '.join(_ENDINGS)})")
    parser.add_argument("--frames", type=int, default=8, help="frames that are shown (default: %(default)s)")
    parser.add_argument("--units", type=int, help="parts that the clip is cut into (default: one for each frame)")
    parser.add_argument(
        "--kinds", nargs="+", metavar="KIND",
        help=f"{', '.join(KINDS)}, or mask+KIND (default: all but splice, which wants --other)",
    )  # fmt: skip
    parser.add_argument("--levels", nargs="+", type=int, default=list(LEVELS), metavar="R", help="(default: 2 4 8 16)")
    parser.add_argument("--window", type=int, help="units in a window of local_shuffle, whatever the level")
    parser.add_argument("--other", help="the clip that splice takes from")
    parser.add_argument("--seed", type=int, default=0, help="another seed gives other plans (default: %(default)s)")
    parser.add_argument("--pixels", type=int, default=72, help="longer side of a frame (default: %(default)s)")
    parser.add_argument("--title", help="a line above (default: the clip's name)")
    return parser


def _run(options: argparse.Namespace) -> int:
    _check(options)
    clip = _read(options.clip, options.frames)
    other = _read(options.other, len(clip.frames)) if options.other else None
    sheet, rows = _drawn(options, clip, other)
    options.output.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(options.output)
    print(f"{options.output}: {rows - 1} plans of {len(clip.frames)} frames, {sheet.width} x {sheet.height} pixels")
    return 0


def _read(name: str, count: int) -> Clip:
    return read_clip(PART_OF_CLIP.sub("", name), FrameChoice(count=count), Part.of(name))


def _drawn(options: argparse.Namespace, clip: Clip, other: Clip | None) -> tuple[Image.Image, int]:
    """The sheet, and how many rows it has."""
    kinds = options.kinds or [kind for kind in KINDS if kind != "splice" or other]
    units = options.units or len(clip.frames)
    width, height = clip.frames[0].size
    made = plans(kinds, units, options.levels, seed=options.seed, window=options.window, aspect=width / height)
    if other and len(other.frames) < len(clip.frames):
        raise InputError(
            f"has {len(other.frames)} frames, fewer than the {len(clip.frames)} that are shown: lower --frames",
            file=options.other,
        )
    rows = list(rows_of(clip.frames, made, other.frames if other else ()))
    return contact_sheet(
        rows, Path(options.clip).name if options.title is None else options.title, options.pixels
    ), len(rows)


def _check(options: argparse.Namespace) -> None:
    for name, least, most in (("frames", 1, MOST), ("pixels", 16, 512), ("units", 1, MOST)):
        value = getattr(options, name)
        if value is not None and not least <= value <= most:
            raise InputError(f"must be from {least} to {most}, got {value}", field=name)
    if options.output.suffix.lower().removeprefix(".") not in _ENDINGS:
        raise InputError(f"must end in one of {', '.join(_ENDINGS)}", file=options.output, field="output")
    if any("splice" in kind for kind in options.kinds or ()) and options.other is None:
        raise InputError("splice takes from another clip: name it", field="other")


if __name__ == "__main__":
    sys.exit(main())
