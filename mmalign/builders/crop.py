"""Crop: the same question and answer beside a small piece of the picture.

Wang et al., "mDPO: Conditional Preference Optimization for Multimodal Large Language Models" (arXiv 2406.11839): the
negative picture of its conditional term is a random crop of less than 20 % of the picture. Its released code draws it
anew for policy and reference; here it is drawn once and is a file, so both see the same one.
"""

from __future__ import annotations

import io
import itertools
import math
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

import numpy as np
from PIL import Image

from mmalign import checks, runs
from mmalign.builders import NOTHING, Drop, Unit
from mmalign.plugins import option
from mmalign.records import InputError, Record, atomic_write, media_path

Box = tuple[int, int, int, int]
"""Left, top, right, bottom, in pixels; right and bottom are the first ones outside."""

TRIES = 10
"""Draws of a shape, before the crop is taken from the middle."""

AT_A_TIME = 4
"""Records that are worked on: waiting for the disk takes most of the time."""

JPEG_START = b"\xff\xd8\xff"
JPEG = {"format": "JPEG", "quality": 95, "subsampling": 0}
PNG = {"format": "PNG"}

_LONGEST_STEM = 40  # characters of the source's name in that of a crop: file names end at 255 bytes


@dataclass(frozen=True)
class Crop:
    """Negative pictures: a random piece of each picture, brought to the size of the whole (arXiv 2406.11839).

    For objectives that compare an answer beside its picture with the same answer beside another one (mdpo, rdpo).
    """

    scale_min: float = option(0.01, "The smallest piece, as a share of the picture's area.")
    scale_max: float = option(0.2, "The largest.")
    ratio_min: float = option(3 / 4, "The narrowest piece: width over height, in pixels of the picture.")
    ratio_max: float = option(4 / 3, "The widest.")
    folder: str = option("crops", "Folder under the media root that the pieces are written to.")
    seed: int = option(0, "Another seed gives other pieces.")

    wants: ClassVar[str] = NOTHING

    def __post_init__(self) -> None:
        if not 0 < self.scale_min <= self.scale_max <= 1:
            raise InputError(
                f"must be above 0 and at most scale_max {self.scale_max}, which is at most 1, got {self.scale_min}",
                field="scale_min",
            )
        if not 0 < self.ratio_min <= self.ratio_max < math.inf:
            raise InputError(
                f"must be above 0 and at most ratio_max {self.ratio_max}, got {self.ratio_min}", field="ratio_min"
            )
        with checks.within("folder"):
            checks.refuse_outside_name(checks.nonempty(self.folder))

    def __call__(self, unit: Unit, model: None) -> Iterator[tuple[str, list[Record] | Drop]]:
        """Records ``SOURCE#crop``: the source, with a crop of each of its pictures as ``rejected_images``.

        Raises:
            InputError: the folder cannot be written to, or a link leads it out of the media root.
        """
        with ThreadPoolExecutor(AT_A_TIME) as pool:
            results = pool.map(lambda record: self._of(record, unit), unit.items)
            yield from zip((record.id for record in unit.items), results, strict=True)

    def _of(self, record: Record, unit: Unit) -> list[Record] | Drop:
        if not record.images:
            return Drop("video" if record.videos else "no_image")
        if record.chosen is None:
            return Drop("no_answer")
        if record.rejected_images or record.rejected_videos:
            return Drop("has_negative", "it has negative media of its own")
        pictures = unit.images(record)
        if isinstance(pictures, Drop):
            return pictures
        boxes = [self._box(record, number, picture.size) for number, picture in enumerate(pictures)]
        pieces = [resized(picture, box) for picture, box in zip(pictures, boxes, strict=True)]
        if all(_equal(picture, piece) for picture, piece in zip(pictures, pieces, strict=True)):
            return Drop("same_picture", "the piece looks like the whole: of one colour, or of a few pixels")
        names = [
            self._write(record, number, box, piece, unit.media_root)
            for number, (box, piece) in enumerate(zip(boxes, pieces, strict=True))
        ]
        meta = {
            "seed": self.seed,
            "boxes": [list(box) for box in boxes],
            "sizes": [list(picture.size) for picture in pictures],
            **({"source": record.meta} if record.meta else {}),
        }
        return [replace(record, id=f"{record.id}#crop", meta=meta, rejected_images=tuple(names))]

    def _box(self, record: Record, number: int, size: tuple[int, int]) -> Box:
        seed = np.array([runs.stable_seed(self.seed, record.id, number)], dtype=np.uint64)
        draws = iter(float(runs.uniform(seed, counter)[0]) for counter in itertools.count())
        return random_box(size, (self.scale_min, self.scale_max), (self.ratio_min, self.ratio_max), draws)

    def _write(self, record: Record, number: int, box: Box, piece: Image.Image, root: Path) -> str:
        """The piece as a file; its name, from the media root.

        The name says what picture (by content) and which box of it, and so all that its bytes depend on. A JPEG becomes
        a JPEG, so that it does not show by its grain which picture is the negative one; anything else a PNG.
        """
        source = media_path(record.images[number], root)
        with source.open("rb") as file:
            options = JPEG if file.read(len(JPEG_START)) == JPEG_START else PNG
        ending = ".jpg" if options is JPEG else ".png"
        stem = f"{source.stem[:_LONGEST_STEM]}-{runs.fingerprint(source, box, options)}"
        written = (Path(self.folder) / f"{stem}{ending}").as_posix()
        content = io.BytesIO()
        piece.save(content, **options)
        with checks.within("folder"):
            path = media_path(written, root)  # a link may lead out
        try:
            with atomic_write(path) as file:
                file.write(content.getvalue())
        except OSError as error:
            raise InputError(
                f"cannot be written ({error.strerror}): a folder under the media root must be writable, since "
                "records can name no other file",
                file=path,
                field="folder",
            ) from None
        return written


def random_box(
    size: tuple[int, int], scale: tuple[float, float], ratio: tuple[float, float], draws: Iterator[float]
) -> Box:
    """A piece of a picture as torchvision's RandomResizedCrop draws one.

    Its area is uniform in ``scale``, as a share of the whole; the logarithm of its width over height is uniform in that
    of ``ratio``; its place is uniform. Where `TRIES` shapes do not fit, it is taken from the middle, as large as
    ``ratio`` allows: of a picture whose own shape is within ``ratio``, the whole.

    Args:
        size: width and height of the picture.
        draws: numbers in [0, 1), two for each try and two more for the place.
    """
    width, height = size
    for _ in range(TRIES):
        area = width * height * _between(*scale, next(draws))
        shape = math.exp(_between(math.log(ratio[0]), math.log(ratio[1]), next(draws)))
        w, h = round(math.sqrt(area * shape)), round(math.sqrt(area / shape))
        if 0 < w <= width and 0 < h <= height:
            left, top = int(next(draws) * (width - w + 1)), int(next(draws) * (height - h + 1))
            return left, top, left + w, top + h
    w = min(width, max(1, round(height * ratio[1])))
    h = min(height, max(1, round(width / ratio[0])))
    left, top = (width - w) // 2, (height - h) // 2
    return left, top, left + w, top + h


def resized(picture: Image.Image, box: Box) -> Image.Image:
    """The piece of ``picture`` in ``box``, at the size of the whole. It is cut out first: no pixel outside counts."""
    return picture.crop(box).resize(picture.size, Image.Resampling.BILINEAR)


def _between(low: float, high: float, share: float) -> float:
    return low + (high - low) * share


def _equal(picture: Image.Image, other: Image.Image) -> bool:
    return picture.tobytes() == other.tobytes()
