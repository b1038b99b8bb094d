"""Collections of pictures whose vectors a test chooses, indexed by the code that indexes real ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from mmalign.retrieval import Index
from mmalign.retrieval.make import make
from mmalign.retrieval.write import Settings


@dataclass(frozen=True, eq=False)
class Given:
    """An encoder that knows the vector of every picture by the number that its first pixel is. Shape: (N, D)."""

    vectors: np.ndarray
    name: str = "given"

    def __call__(self, images: Sequence[Image.Image]) -> np.ndarray:
        numbers = [number_of(image) for image in images]
        return self.vectors[[number % len(self.vectors) for number in numbers]].astype(np.float32)

    def identity(self) -> dict[str, str]:
        return {"encoder": self.name}


def picture(number: int, side: int = 4) -> Image.Image:
    """A picture of one color, which says its number."""
    return Image.new("RGB", (side, side), (number % 256, number // 256, 7))


def number_of(image: Image.Image) -> int:
    red, green, _ = image.getpixel((0, 0))
    return red + 256 * green


def write_pictures(folder: Path, count: int) -> list[str]:
    folder.mkdir(parents=True, exist_ok=True)
    names = [f"{number:05d}.png" for number in range(count)]
    for number, name in enumerate(names):
        picture(number).save(folder / name, compress_level=0)
    return names


def index_of(folder: Path, vectors: np.ndarray, index: str = "Flat", center: bool = False, **more: object) -> Index:
    """An index of one picture for each vector, named after its number."""
    names = write_pictures(folder / "pictures", len(vectors))
    settings = Settings(index, center, **more)
    return make(Given(vectors), names, folder / "pictures", folder / "index", settings, progress=False)


def unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)
