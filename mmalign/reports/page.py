"""A report as one HTML file: pictures inlined, nothing loaded from anywhere."""

from __future__ import annotations

import base64
import importlib
import io
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image

from mmalign import __version__
from mmalign.media import open_image
from mmalign.records import InputError, atomic_write
from mmalign.reports import comparison, plots
from mmalign.reports.report import Answer, Report

if TYPE_CHECKING:
    import jinja2

SMALL = 128  # pixels; a picture up to this size is enlarged with its pixels kept square
LARGEST = 448  # pixels; a larger picture is shrunk to this
PNG_BYTES = 50_000  # a PNG above this is a photograph, which JPEG says in a fifth of the bytes

CHANGES = {
    "fewer": "fewer hallucinations",
    "more": "more hallucinations",
    "same": "as many, in other words",
    "none": "the same text",
}
"""`Example.change` in words, in the order of the page's filter."""


@dataclass(frozen=True)
class Picture:
    """An inlined picture: its data URI and the size at which it is shown, in CSS pixels."""

    uri: str
    width: int
    height: int
    small: bool

    @property
    def wide(self) -> bool:
        """Whether it stands above the answers rather than beside them."""
        return self.width > 1.8 * self.height


def write(report: Report, path: Path) -> None:
    """Write the page, whole or not at all. The same report gives the same bytes.

    Raises:
        InputError: matplotlib or jinja2 is not installed.
        MediaError: a picture of an example cannot be used.
    """
    page = render(report)
    with atomic_write(Path(path)) as file:
        file.write(page.encode("utf-8"))


def render(report: Report) -> str:
    """The page as text; see `write`."""
    require()
    # sorted is stable: beyond "changed first" the caller's order stands, so the page picks no winners.
    examples = sorted(report.examples, key=lambda example: example.change == "none")
    return (
        templates()
        .get_template("page.html.j2")
        .render(
            report=report,
            headlines=comparison.headlines(report),
            sections=comparison.sections(report),
            meanings=comparison.meanings(report),
            plots=plots.draw(report.curves),
            examples=[(example, inline(open_image(example.image))) for example in examples],
            changes=CHANGES,
            counts=Counter(example.change for example in examples),
            segments=segments,
            version=__version__,
        )
    )


def templates() -> jinja2.Environment:
    """The templates of this room, with all that is put into them escaped: answers are untrusted."""
    import jinja2

    return jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def require() -> None:
    """Raise InputError unless all is installed that a page needs: for work that ends in one to ask before it begins."""
    for name in ("jinja2", "matplotlib"):
        try:
            importlib.import_module(name)
        except ImportError:
            problem = f"a report needs {name}, which is not installed: pip install 'mmalign[report]'"
            raise InputError(problem) from None


def segments(answer: Answer) -> Iterator[tuple[str, str | None]]:
    """The text cut where its marks begin and end: (words, kind or None).

    Where marks overlap, hallucinated covers true: a doubt must not be hidden.
    """
    kinds: list[str | None] = [None] * len(answer.text)
    for start, end, kind in sorted(answer.marks, key=lambda mark: mark[2] == "hallucinated"):
        kinds[start:end] = [kind] * (end - start)
    for kind, run in groupby(zip(answer.text, kinds, strict=True), key=lambda pair: pair[1]):
        yield "".join(character for character, _ in run), kind


def inline(image: Image.Image) -> Picture:
    """A small picture exactly as it is, a large one shrunk to what the page shows."""
    small = max(image.size) <= SMALL
    if not small:
        image.thumbnail((LARGEST, LARGEST))
    zoom = max(1, 192 // max(image.size)) if small else 1  # a whole number, so that all pixels are alike
    return Picture(_data_uri(image), image.width * zoom, image.height * zoom, small)


def _data_uri(image: Image.Image) -> str:
    kind, data = "png", _encoded(image, "PNG", optimize=True)
    if len(data) > PNG_BYTES:
        kind, data = "jpeg", _encoded(image, "JPEG", quality=85, optimize=True)
    return f"data:image/{kind};base64,{base64.b64encode(data).decode('ascii')}"


def _encoded(image: Image.Image, format: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()
