"""Whether two pictures show the same: equal pixels by a content hash, nearly equal ones by a difference hash."""

from __future__ import annotations

import hashlib

import numpy as np
from PIL import Image

DHASH_BITS = 64


def content_hash(image: Image.Image) -> str:
    """32 hex digits that change with the size or a pixel of ``image``, taken as RGB; its file format is not asked.

    The first half of a SHA-256. Lossy formats are equal where one decoder read both.
    """
    digest = hashlib.sha256(b"%d %d " % image.size)
    digest.update(image.convert("RGB").tobytes())
    return digest.hexdigest()[:32]


def dhash(image: Image.Image) -> int:
    """The difference hash of ``image`` in 64 bits: where it gets brighter from left to right, row by row.

    Grey, shrunk to 9 x 8 pixels with an antialiasing filter; the first comparison is the highest bit. Scaling,
    compression and changes of brightness move few bits; a mirror image, a crop or a turn moves many. A plain picture
    has nothing to compare and gives 0, so equal hashes alone do not prove that two drawings on one ground are equal.
    """
    return dhash_of(thumbnail(image))


def thumbnail(image: Image.Image) -> np.ndarray:
    """``image`` in grey, shrunk to 9 x 8 pixels: what `dhash` looks at. Shape: (8, 9), uint8."""
    return np.asarray(image.convert("L").resize((9, 8), Image.Resampling.LANCZOS))


def dhash_of(grey: np.ndarray) -> int:
    """The `dhash` of a picture whose `thumbnail` is known."""
    return int.from_bytes(np.packbits(grey[:, 1:] > grey[:, :-1]).tobytes(), "big")


def correlation(a: np.ndarray, b: np.ndarray) -> float:
    """How alike two thumbnails are, from -1 to 1, whatever their brightness and contrast; 1 for two plain ones.

    A second opinion where few bits of a `dhash` differ: drawings on a plain ground share most of theirs.
    """
    first, second = (grey.astype(float).ravel() - grey.mean() for grey in (a, b))
    lengths = np.linalg.norm(first) * np.linalg.norm(second)
    if lengths == 0:
        return float(not first.any() and not second.any())
    return float(first @ second / lengths)


def hamming(a: int, b: int) -> int:
    """In how many bits two hashes differ: 0 for the same, about 32 of 64 for unrelated pictures."""
    return (a ^ b).bit_count()
