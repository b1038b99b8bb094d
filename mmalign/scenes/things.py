"""The words of the embedded world: colors, shapes, places, and what a picture or a clip is made of."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

from mmalign.runs import stable_seed

T = TypeVar("T")

SPLITS = ("train", "pairs", "test", "tower")
HABITUAL = ("train",)  # the splits in which partners come together
SIDE = 64  # pixels, width and height of a picture
FRAMES = 4  # frames of a clip

COLORS = {
    "red": (215, 35, 40),
    "green": (45, 165, 70),
    "blue": (0, 153, 255),
    "yellow": (250, 240, 20),
    "black": (15, 15, 15),
    "white": (250, 250, 250),
    "orange": (255, 140, 20),
    "purple": (145, 65, 185),
}
SHAPES = ("square", "circle", "triangle", "diamond", "star")
NAMES = tuple(f"{color} {shape}" for color in COLORS for shape in SHAPES)
PLACES = (
    ("in the top left corner", "at the top", "in the top right corner"),
    ("on the left", "in the middle", "on the right"),
    ("in the bottom left corner", "at the bottom", "in the bottom right corner"),
)


@dataclass(frozen=True)
class Thing:
    """One colored shape; ``x``, ``y`` its centre and ``radius`` half its side, in pixels, y downwards."""

    color: str
    shape: str
    size: str
    x: float
    y: float
    radius: float

    @property
    def name(self) -> str:
        """What the object is called everywhere: ``"red circle"``."""
        return f"{self.color} {self.shape}"

    @property
    def place(self) -> str:
        """The words for the ninth of the picture that its centre is in: ``"in the top left corner"``."""
        return PLACES[_third(self.y)][_third(self.x)]


@dataclass(frozen=True)
class Scene:
    """A picture before it is drawn; ``things`` from back to front, all with different names."""

    things: tuple[Thing, ...]
    light: int  # seed of the background's shade and of the colors, the same in all frames of a clip
    noise: int  # seed of the noise

    @property
    def names(self) -> list[str]:
        """Names of the objects in the picture, sorted."""
        return sorted(thing.name for thing in self.things)


@dataclass(frozen=True)
class Event:
    """What happened between two frames: ``verb`` of appears, vanishes, moves, hits (then ``other`` is what was hit)."""

    name: str
    verb: str
    other: str = ""


@dataclass(frozen=True)
class Clip:
    """Frames of one clip, and the event between each frame and the next."""

    frames: tuple[Scene, ...]
    events: tuple[Event, ...]

    @property
    def names(self) -> list[str]:
        """Names of the objects that are in any frame, sorted."""
        return sorted({thing.name for frame in self.frames for thing in frame.things})


def partners(name: str) -> tuple[str, str]:
    """The two names that come with ``name`` in the training split: each name is a partner of two others.

    One has its shape in another color, the other its color in another shape. So a partner that is not there is both
    what habit expects and what resembles something that is there.
    """
    color, shape = name.split()
    colors = list(COLORS)
    hue, form = colors.index(color), SHAPES.index(shape)
    return tuple(
        f"{colors[(hue + step) % len(colors)]} {SHAPES[(form + turn) % len(SHAPES)]}" for step, turn in ((3, 0), (0, 1))
    )


class Draw:
    """Random choices from one seed, equal on every machine and in every version of Python."""

    def __init__(self, *seed: object) -> None:
        self._random = random.Random(stable_seed(*seed))

    def chance(self, rate: float) -> bool:
        """True with probability ``rate``."""
        return self._random.random() < rate

    def below(self, count: int) -> int:
        """An integer in [0, count)."""
        return int(self._random.random() * count)

    def between(self, low: float, high: float) -> float:
        """A real number in [low, high)."""
        return low + (high - low) * self._random.random()

    def pick(self, items: Sequence[T]) -> T:
        """One of ``items``."""
        return items[self.below(len(items))]

    def shuffled(self, items: Sequence[T]) -> list[T]:
        """``items`` in a random order."""
        pool = list(items)
        return [pool.pop(self.below(len(pool))) for _ in range(len(pool))]


def known(split: str) -> str:
    """``split``, if there is one of that name; a mistyped split must not become a new distribution."""
    if split not in SPLITS:
        raise ValueError(f"no split {split!r}: use one of {', '.join(SPLITS)}")
    return split


def _third(position: float) -> int:
    return min(2, max(0, int(position * 3 / SIDE)))
