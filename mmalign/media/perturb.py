"""Perturbation plans: what is done to the parts of a clip so that it no longer shows what it showed.

A plan is made of numbers alone, before any pixel is read, and can be written down, read back, drawn and repeated. It
is about ``units``: equal consecutive parts of a clip, its shots, or captions of them. ``r`` says how strong it is; the
larger, the stronger. With n units, g = max(1, n // r) and blocks of g consecutive units (the last may be shorter):

=================  ============================================================  ===================
kind               what is shown                                                 from
=================  ============================================================  ===================
drop               g units, drawn uniformly, in their order                      TEMPLE
shuffle            all units, the blocks in a drawn order                        TEMPLE
reverse            all units, the blocks from last to first                      TEMPLE
local_shuffle      all units, permuted inside windows of min(n, r)               RRPO; the window is ours
global_shuffle     all units, in a drawn order                                   RRPO
mask               all units; a square at one place hides 1 - 1/r of each frame  RRPO; by level is ours
mask+KIND          both, such as mask+local_shuffle                              RRPO
splice             g units, and in place of a stretch of n - g another clip's    ours
repeat             g units, drawn uniformly, each repeated to n in all           ours
speed              each r-th unit                                                ours
=================  ============================================================  ===================

TEMPLE: Li et al., arXiv 2503.16929, as its released code defines them; RRPO: Sarkar and Etemad, arXiv 2504.12083. No
plan leaves everything as it was. TEMPLE's code makes such ones: half of its shuffles at r = 2 with even n.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import numpy as np
from PIL import Image, ImageOps

from mmalign import checks, runs
from mmalign.media._orders import ORDERS, is_identity, join, order_of
from mmalign.records import InputError

T = TypeVar("T")

Box = tuple[float, float, float, float]
"""Left, top, right, bottom, as shares of width and height."""

LEVELS = (2, 4, 8, 16)
"""TEMPLE's levels; its curriculum goes from 16, which is easy to tell from the clip, to 2."""

WINDOW = 4
"""Units in a window of a local shuffle without a level. RRPO says only that it is local."""

AREA = (0.25, 0.5)
"""Least and largest share of a frame that a mask without a level hides (RRPO)."""

GREY = (242, 242, 242)
"""What a mask is filled with: 0.95 of white, as in RRPO's figure."""

MASK = "mask"
KINDS = (*ORDERS, MASK)
"""What there is. ``mask+KIND`` is a mask over another one."""


# ---- the plan ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Plan:
    """What is done to the units of one clip.

    Attributes:
        kind: one of `KINDS`, or ``mask+KIND``.
        r: its level; the mildest, where several levels come to the same on so few units.
        levels: all levels that come to this; () where none was asked for.
        units: n, into how many parts the clip is taken to be cut.
        order: which units are shown, one after the other, from 0; n + i stands for unit i of another clip.
        box: what of every frame is hidden; None: nothing.
        seed: what it was drawn from.
        fill: red, green and blue of what hides it, 0 to 255.

    Raises:
        InputError: the numbers make no plan of that kind. The field is named.
    """

    kind: str
    r: int
    levels: tuple[int, ...]
    units: int
    order: tuple[int, ...]
    box: Box | None
    seed: int
    fill: tuple[int, int, int] = GREY

    def __post_init__(self) -> None:
        _check(self)

    @property
    def difficulty(self) -> float:
        """1 / r: a weak perturbation is hard to tell from the clip itself."""
        return 1 / self.r

    @property
    def needs_other(self) -> bool:
        """Whether units of another clip are shown."""
        return max(self.order) >= self.units

    def apply(self, items: Sequence[T], other: Sequence[T] = ()) -> list[T]:
        """What is shown of ``items``, one for each unit; ``other``: those of the other clip, where it is needed.

        Raises:
            ValueError: they are not as many as there are units.
        """
        if len(items) != self.units or (self.needs_other and len(other) != self.units):
            raise ValueError(f"a plan for {self.units} units, got {len(items)} items and {len(other)} of another clip")
        both = [*items, *other]
        return [both[unit] for unit in self.order]

    def show(self, frames: Sequence[Image.Image], other: Sequence[Image.Image] = ()) -> tuple[Image.Image, ...]:
        """The frames that are shown: dealt to the units in equal consecutive parts, ordered, and hidden in part.

        The first unit has frames [0, N // n), and so on: parts differ by one frame at most. Frames of the other clip
        are cut to the shape of these, and brought to their size.

        Args:
            frames: N of them, all of one size; at least as many as there are units.

        Raises:
            InputError: there are fewer frames than units.
        """
        second = deal(other, self.units) if self.needs_other else ()
        shown = join(self.apply(deal(frames, self.units), second))
        size = frames[0].size
        fitted = [frame if frame.size == size else ImageOps.fit(frame, size) for frame in shown]
        return tuple(fitted) if self.box is None else tuple(covered(frame, self.box, self.fill) for frame in fitted)

    def to_json(self) -> dict[str, Any]:
        """The JSON object; ``Plan.of(plan.to_json()) == plan``."""
        plan = {
            "kind": self.kind,
            "r": self.r,
            "levels": list(self.levels),
            "units": self.units,
            "order": list(self.order),
            "seed": self.seed,
        }
        return plan if self.box is None else {**plan, "box": list(self.box), "fill": list(self.fill)}

    @classmethod
    def of(cls, obj: object) -> Plan:
        """Raises InputError naming the field."""
        required = ("kind", "r", "levels", "units", "order", "seed")
        return cls(**{"box": None, **checks.values(obj, _FIELDS, required=required)})


def covered(frame: Image.Image, box: Box, fill: tuple[int, int, int] = GREY) -> Image.Image:
    """A copy of ``frame`` with ``box`` filled; its edges are rounded to pixels."""
    width, height = frame.size
    left, top, right, bottom = box
    painted = frame.copy()
    painted.paste(fill, (round(left * width), round(top * height), round(right * width), round(bottom * height)))
    return painted


def deal(items: Sequence[T], units: int) -> list[Sequence[T]]:
    """``items`` in equal consecutive parts, one for each unit; they differ by one item at most.

    Raises:
        InputError: there are fewer items than units.
    """
    if len(items) < units:
        raise InputError(f"{len(items)} frames cannot be dealt to {units} units: show more frames, or cut fewer units")
    return [items[unit * len(items) // units : (unit + 1) * len(items) // units] for unit in range(units)]


# ---- making plans --------------------------------------------------------------------------------------------------


def plan(
    kind: str,
    units: int,
    r: int | None,
    seed: int,
    *,
    window: int | None = None,
    area: tuple[float, float] | None = None,
    aspect: float = 1.0,
    fill: tuple[int, int, int] = GREY,
    without: Collection[tuple[int, ...]] = (),
) -> Plan | None:
    """One plan, which depends on the arguments alone. Levels that come to the same draw the same.

    Args:
        kind: see the top of this page.
        units: n, 1 or more.
        r: the level, 2 or more. None, for a mask, a local or a global shuffle: as RRPO has them, with `AREA` and
            `WINDOW`; the plan is then of the level that it comes to, the window's own length, else 2.
        window: units in a window of a local shuffle, whatever the level.
        area: least and largest share that a mask hides, drawn uniformly between them, whatever the level.
        aspect: width over height of the frames, for the mask to be a square of pixels. A square that does not fit
            into them becomes as wide or high as they are. 1: the mask has the shape of the frames.
        fill: colour of the mask.
        without: orders that are not to come, beside the one that changes nothing.

    Returns:
        None where no such order was found: of one unit, say.

    Raises:
        InputError: a kind that there is not, or a number out of its range.
    """
    names = _names(kind)
    _check_numbers(names, units, r, window, area, aspect)
    strengths = [strength(name, units, r, window, area) for name in names]
    order: tuple[int, ...] | None = tuple(range(units))
    if names[-1] != MASK:
        drawn_from = runs.stable_seed("order", seed, kind, units, strengths)
        order = order_of(names[-1], units, strengths[-1], drawn_from, set(without))
    if order is None:
        return None
    box = _box(strengths[0], aspect, runs.stable_seed("mask", seed, kind, units, strengths)) if MASK in names else None
    level = r or (strengths[-1] if names[-1] == "local_shuffle" else LEVELS[0])
    return Plan(kind, level, (r,) if r else (), units, order, box, seed, fill)


def plans(kinds: Iterable[str], units: int, levels: Iterable[int] = LEVELS, *, seed: int, **options: Any) -> list[Plan]:
    """The plans of one clip: kind by kind as given, from the mildest level to the strongest.

    Levels that come to the same are one plan: with fewer than 16 units r = 16 is r = 8 for drop and shuffle, with fewer
    than 8 it is r = 4 too. What counts is how many units are kept, or how large a block is, not what was drawn.

    No two plans show the same. Reverse and speed, in which nothing is drawn, come by their orders first, then the
    others in the order of ``kinds``, mildest first; each draws among the orders that are left, and where none is left
    there is no plan. So of shuffle and reverse at r = 2 with even n, which both exchange the halves, only reverse is
    made. A mask tells plans apart.

    Args:
        options: of `plan`.
    """
    kinds, levels = list(dict.fromkeys(kinds)), sorted(set(levels))
    merged = {kind: _merged(kind, units, levels, **options) for kind in kinds}
    made: dict[tuple[str, int], Plan] = {}
    taken: set[tuple[int, ...]] = set()
    for kind in sorted(kinds, key=_is_drawn):
        for group in merged[kind]:
            found = plan(kind, units, group[0], seed, without=() if MASK in kind else taken, **options)
            if found is None:
                continue
            made[kind, found.r] = replace(found, levels=group)
            if found.box is None:
                taken.add(found.order)
    return [made[kind, group[0]] for kind in kinds for group in merged[kind] if (kind, group[0]) in made]


def _is_drawn(kind: str) -> bool:
    name = _names(kind)[-1]
    return name == MASK or ORDERS[name].drawn


def _merged(kind: str, units: int, levels: Sequence[int], **options: Any) -> list[tuple[int, ...]]:
    """The levels in groups that come to the same, mildest first."""
    names = _names(kind)
    window, area = options.get("window"), options.get("area")
    groups: dict[tuple, list[int]] = defaultdict(list)
    for r in levels:
        _check_numbers(names, units, r, window, area, 1.0)
        groups[tuple(strength(name, units, r, window, area) for name in names)].append(r)
    return [tuple(group) for group in groups.values()]


def strength(
    kind: str, units: int, r: int | None, window: int | None = None, area: tuple[float, float] | None = None
) -> int | tuple[float, float]:
    """All that the level decides of one of `KINDS`: levels for which it is equal come to the same.

    Returns:
        Of a mask the least and the largest share of the area that it hides; else how many units are kept (drop, splice,
        repeat), are in a block (shuffle, reverse) or a window (local_shuffle, global_shuffle), or make a step (speed).
    """
    if kind == MASK:
        return area or ((1 - 1 / r, 1 - 1 / r) if r else AREA)
    if kind == "global_shuffle":
        return units
    if kind == "local_shuffle":
        return min(units, window or r or WINDOW)
    return min(units, r) if kind == "speed" else max(1, units // r)


def _box(area: tuple[float, float], aspect: float, seed: int) -> Box:
    """Where the mask is: its area uniform in ``area``, its place uniform in the frame."""
    share, across, down = (float(runs.uniform(np.array([seed]), counter)[0]) for counter in range(3))
    share = area[0] + (area[1] - area[0]) * share
    width, height = (share / aspect) ** 0.5, (share * aspect) ** 0.5
    if width > 1 or height > 1:
        width, height = (1.0, share) if width > 1 else (share, 1.0)
    left, top = across * (1 - width), down * (1 - height)
    return tuple(round(edge, 6) for edge in (left, top, left + width, top + height))


# ---- checks --------------------------------------------------------------------------------------------------------


def _names(kind: str) -> list[str]:
    """``mask+shuffle`` as its two kinds."""
    names = kind.split("+")
    single = len(names) == 1 and kind in KINDS
    if not single and not (len(names) == 2 and names[0] == MASK and names[1] in ORDERS):
        raise InputError(f"no {kind!r}: use {', '.join(KINDS)}, or {MASK}+ one of the others", field="kind")
    return names


def _check_numbers(
    names: Sequence[str],
    units: int,
    r: int | None,
    window: int | None,
    area: tuple[float, float] | None,
    aspect: float,
) -> None:
    if units < 1:
        raise InputError(f"must be 1 or more, got {units}", field="units")
    if r is None and not set(names) <= {MASK, "local_shuffle", "global_shuffle"}:
        raise InputError(f"{names[-1]} needs a level, such as {LEVELS[0]}", field="r")
    if r is not None and r < 2:
        raise InputError(f"must be 2 or more, got {r}: r = 1 leaves everything as it is", field="r")
    if window is not None and window < 2:
        raise InputError(f"must be 2 or more, got {window}", field="window")
    if area is not None and not 0 < area[0] <= area[1] <= 1:
        raise InputError(f"must be two shares above 0 and up to 1, the smaller first, got {area}", field="area")
    if not 0 < aspect < float("inf"):
        raise InputError(f"must be above 0, got {aspect}", field="aspect")


def _check(plan: Plan) -> None:
    names = _names(plan.kind)
    for name, lowest in (("units", 1), ("r", 2)):
        if getattr(plan, name) < lowest:
            raise InputError(f"must be {lowest} or more, got {getattr(plan, name)}", field=name)
    if plan.levels and plan.r != min(plan.levels):
        raise InputError(f"must have r, {plan.r}, as their least, got {list(plan.levels)}", field="levels")
    top = plan.units * (2 if names[-1] == "splice" else 1)
    fits, wanted = is_identity, "all units in their order"
    if names[-1] != MASK:
        _, fits, wanted, _ = ORDERS[names[-1]]
    if not plan.order or not all(0 <= unit < top for unit in plan.order) or not fits(plan.order, plan.units):
        raise InputError(f"of {plan.kind} must be {wanted} (n = {plan.units}), got {list(plan.order)}", field="order")
    if (MASK in names) != (plan.box is not None):
        raise InputError(
            f"{'is missing' if plan.box is None else 'is of a mask'}: the kind is {plan.kind}", field="box"
        )
    if plan.box is not None:
        left, top_edge, right, bottom = plan.box
        if not (0 <= left < right <= 1 and 0 <= top_edge < bottom <= 1):
            raise InputError(
                f"must be left, top, right, bottom as shares from 0 to 1, got {list(plan.box)}", field="box"
            )
    if len(plan.fill) != 3 or not all(0 <= value <= 255 for value in plan.fill):
        raise InputError(f"must be three numbers from 0 to 255, got {list(plan.fill)}", field="fill")


def _list(value: object, check: checks.Check, wanted: str, count: int | None = None) -> tuple:
    checks.expect(value, (list, tuple), f"a list of {wanted}")
    if count is not None and len(value) != count:
        raise InputError(f"expected {wanted}, got {len(value)} numbers")
    items = []
    for i, item in enumerate(value):
        with checks.within(f"[{i}]"):
            items.append(check(item))
    return tuple(items)


_FIELDS: Mapping[str, checks.Check] = {
    "kind": checks.nonempty,
    "r": checks.rank,
    "levels": lambda value: _list(value, checks.rank, "levels"),
    "units": checks.rank,
    "order": lambda value: _list(value, checks.rank, "units"),
    "seed": checks.rank,
    "box": lambda value: _list(value, checks.probability, "left, top, right and bottom", 4),
    "fill": lambda value: _list(value, checks.rank, "red, green and blue", 3),
}
