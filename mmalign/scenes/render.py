"""Draws scenes with numpy alone: integers and comparisons, so that a picture is bit-equal on every machine."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np

from mmalign.scenes.things import COLORS, SIDE, Draw, Scene, Thing

BACKGROUND = 211  # the light grey on which NLVR's pictures are drawn too
BACKGROUND_JITTER = 14
COLOR_JITTER = 20
NOISE = 12  # standard deviation of the noise, of 255
SAMPLES = 2  # subsamples of a pixel along each axis
SEEN_SHARE, SEEN_PIXELS = 0.5, 8.0  # of each thing at least this must be seen

# Outward normals of the pentagon inside a five-pointed star; a point is in the star if it is inside four of the five
# lines. Written out, since sines may differ in the last bit from one machine to another.
_STAR_NORMALS = (
    (0.0, 1.0),
    (0.9510565162951535, 0.30901699437494745),
    (0.5877852522924731, -0.8090169943749475),
    (-0.5877852522924731, -0.8090169943749475),
    (-0.9510565162951535, 0.30901699437494745),
)
_STAR_INNER = 0.36


def inside(shape: str, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Which points (u right, v down, the shape's square is [-1, 1] x [-1, 1]) are in the shape, as booleans."""
    if shape == "square":
        return np.maximum(abs(u), abs(v)) <= 0.92
    if shape == "circle":
        return u * u + v * v <= 1.0
    if shape == "triangle":
        return (v <= 0.9) & (abs(u) * 1.9 <= v + 1.0)
    if shape == "diamond":
        return abs(u) + abs(v) <= 1.0
    if shape == "star":
        return sum((a * u + b * v <= _STAR_INNER).astype(np.int8) for a, b in _STAR_NORMALS) >= 4
    raise ValueError(f"no shape {shape!r}")


@lru_cache(maxsize=64)  # placing a thing asks many times for those that already stand
def coverage(thing: Thing) -> np.ndarray:
    """Share of each pixel that the thing would cover with nothing before it. Shape: (SIDE, SIDE), float64."""
    left, top = (max(0, int(centre - thing.radius) - 1) for centre in (thing.x, thing.y))
    right, bottom = (min(SIDE, int(centre + thing.radius) + 2) for centre in (thing.x, thing.y))
    u = ((np.arange(left * SAMPLES, right * SAMPLES) + 0.5) / SAMPLES - thing.x) / thing.radius
    v = ((np.arange(top * SAMPLES, bottom * SAMPLES) + 0.5) / SAMPLES - thing.y) / thing.radius
    fine = inside(thing.shape, u[None, :], v[:, None])
    counts = fine.reshape(bottom - top, SAMPLES, right - left, SAMPLES).sum(axis=(1, 3))
    share = np.zeros((SIDE, SIDE))
    share[top:bottom, left:right] = counts / (SAMPLES * SAMPLES)
    share.setflags(write=False)  # it is shared by all callers
    return share


def visible_pixels(things: Sequence[Thing]) -> list[tuple[float, float]]:
    """For each thing, back to front: the pixels that are seen of it, and those that it would fill alone."""
    free = np.ones((SIDE, SIDE))
    found = []
    for thing in reversed(things):
        own = coverage(thing)
        found.append((float((own * free).sum()), float(own.sum())))
        free *= 1.0 - own
    return found[::-1]


def well_seen(things: Sequence[Thing]) -> bool:
    """Whether at least half of each thing, and no less than eight pixels of it, can be seen."""
    return all(seen >= max(SEEN_PIXELS, SEEN_SHARE * own) for seen, own in visible_pixels(things))


def render(scene: Scene) -> np.ndarray:
    """The picture. Shape: (SIDE, SIDE, 3), uint8 RGB."""
    shade = BACKGROUND + _jitter(Draw("shade", scene.light), BACKGROUND_JITTER)
    canvas = np.full((SIDE, SIDE, 3), shade, dtype=np.int64)
    for thing in scene.things:
        draw = Draw("color", scene.light, thing.name)
        jitter = [_jitter(draw, COLOR_JITTER) for _ in range(3)]
        color = np.clip(np.add(COLORS[thing.color], jitter), 0, 255)
        parts = np.rint(coverage(thing) * SAMPLES * SAMPLES).astype(np.int64)[..., None]
        canvas = (color * parts + canvas * (SAMPLES * SAMPLES - parts)) // (SAMPLES * SAMPLES)
    return np.clip(canvas + _noise(scene.noise), 0, 255).astype(np.uint8)


def _jitter(draw: Draw, reach: int) -> int:
    return draw.below(2 * reach + 1) - reach


def _noise(seed: int) -> np.ndarray:
    """Nearly normal noise from the sum of four bytes of a bit generator, whose raw stream numpy keeps stable."""
    bytes_ = np.random.PCG64(seed).random_raw(SIDE * SIDE * 3 * 4 // 8).astype("<u8").view(np.uint8)
    total = bytes_.reshape(SIDE, SIDE, 3, 4).sum(axis=3, dtype=np.int64) - 510  # standard deviation 147.8
    return total * NOISE // 148
