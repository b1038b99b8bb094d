"""What is in a picture: seeded sampling of scenes, whose statistics differ between the splits.

A picture shows *things*: a color, a shape, a size and a place. Its large things come first; each may bring small
companions, set beside it or half hidden behind it. In the split ``train`` a companion is mostly one of the two
*partners* of the large thing (:func:`mmalign.scenes.things.partners`), so that seeing a red circle says a lot about
what is next to it. In the other splits counts, sizes and places are drawn alike, but every name is as likely as any
other, and a model that leans on what it has read together is wrong. ``pairs`` is one of these: where pictures have the
habits of ``train``, the true answers have them too, and preferring these unlearns nothing.
"""

from __future__ import annotations

from collections.abc import Sequence

from mmalign.runs import stable_seed
from mmalign.scenes.render import well_seen
from mmalign.scenes.things import HABITUAL, NAMES, SIDE, Draw, Scene, Thing, known, partners

LARGE = (7.5, 10.0)  # half the side of the square that a thing fills, pixels
SMALL = (3.0, 4.4)
PARTNER_RATE = (0.80, 0.30)  # how often a large thing has its first and its second companion, in every split
LOYALTY = 0.95  # how often, in train, the companion is the partner and not just anything
HIDDEN_RATE = 0.4  # how often a companion stands half behind
MAX_THINGS = 6


def sample_scene(split: str, seed: int, index: int) -> Scene:
    """Picture ``index`` of ``split``: the same on every machine."""
    draw = Draw("scene", known(split), seed, index)
    while True:
        plan = _plan(draw, loyal=split in HABITUAL)
        things = _arrange(plan, draw)
        if things is not None:
            return Scene(things, *(stable_seed(what, split, seed, index) for what in ("light", "noise")))


def _plan(draw: Draw, loyal: bool) -> list[tuple[str, str, int | None]]:
    """Names, sizes and hosts (index of the large thing that a companion stands beside) of one picture."""
    plan: list[tuple[str, str, int | None]] = []
    used: set[str] = set()

    def add(name: str | None, size: str, host: int | None) -> None:
        if name is None or name in used:
            name = draw.pick([other for other in NAMES if other not in used])
        used.add(name)
        plan.append((name, size, host))

    for _ in range(1 + draw.below(2)):
        add(None, "large", None)
    for host in range(len(plan)):
        for partner, rate in zip(partners(plan[host][0]), PARTNER_RATE, strict=True):
            if draw.chance(rate):
                add(partner if draw.chance(LOYALTY) and loyal else None, "small", host)
    for _ in range(draw.below(3)):
        add(None, "small" if draw.chance(0.6) else "large", None)
    return plan[:MAX_THINGS]


def _arrange(plan: list[tuple[str, str, int | None]], draw: Draw) -> tuple[Thing, ...] | None:
    """Set each planned thing somewhere where enough of everything is seen; None if it does not go."""
    placed: list[Thing] = []
    for name, size, host in plan:
        color, shape = name.split()
        for _ in range(30):
            radius = draw.between(*(LARGE if size == "large" else SMALL))
            x, y = _spot(radius, placed[host] if host is not None else None, draw)
            thing = Thing(color, shape, size, x, y, radius)
            if _clear(thing, placed, host) and well_seen((thing, *reversed(placed))):
                placed.append(thing)
                break
        else:
            return None
    return tuple(reversed(placed))


def _spot(radius: float, host: Thing | None, draw: Draw) -> tuple[float, float]:
    if host is None:
        return draw.between(radius + 1, SIDE - radius - 1), draw.between(radius + 1, SIDE - radius - 1)
    reach = host.radius + radius
    far = reach * (draw.between(0.55, 0.85) if draw.chance(HIDDEN_RATE) else draw.between(1.1, 1.5))
    along = draw.between(-far, far)
    dx, dy = draw.pick(((far, along), (-far, along), (along, far), (along, -far)))
    return host.x + dx, host.y + dy


def _clear(thing: Thing, placed: Sequence[Thing], host: int | None) -> bool:
    """Inside the picture, its place beyond doubt, and overlapping nothing but its host."""
    edge = thing.radius + 0.5
    if not (edge <= thing.x <= SIDE - edge and edge <= thing.y <= SIDE - edge):
        return False
    if any(abs(value - border * SIDE / 3) < 1.5 for value in (thing.x, thing.y) for border in (1, 2)):
        return False
    return all(
        index == host or max(abs(thing.x - other.x), abs(thing.y - other.y)) > thing.radius + other.radius
        for index, other in enumerate(placed)
    )
