"""What happens in a clip: seeded sampling of four frames and the three events between them.

In the split ``train`` the next event mostly happens to a partner of the thing that the last one happened to, and verbs
follow one another in a habitual order; in the others both are uniform.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from mmalign.runs import stable_seed
from mmalign.scenes.things import FRAMES, HABITUAL, NAMES, SIDE, Clip, Draw, Event, Scene, Thing, known, partners

RADIUS = (5.0, 7.5)  # half the side of the square that a thing fills, pixels
HABIT = {"appears": "moves", "moves": "hits", "hits": "vanishes", "vanishes": "appears"}
VERBS = tuple(HABIT)
LOYALTY = 0.7  # how often, in train, an event happens to the partner of the thing before
HABIT_RATE = 0.5  # how often, in train, a verb is the habitual follower of the verb before
GAP = 3.0  # pixels between things that do not touch
STRIDE = 14.0  # pixels that a moving thing covers at least


def sample_clip(split: str, seed: int, index: int) -> Clip:
    """Clip ``index`` of ``split``: four frames, one event between each and the next; the same on every machine."""
    draw = Draw("clip", known(split), seed, index)
    pixels = stable_seed("frames", split, seed, index)
    while True:
        names, verbs = _cast(draw, loyal=split in HABITUAL)
        clip = _play(names, verbs, draw, pixels)
        if clip is not None:
            return clip


def _cast(draw: Draw, loyal: bool) -> tuple[list[str], list[str]]:
    """Who acts, in order, and one who stands by; and the verbs."""
    names, verbs = [draw.pick(NAMES)], [draw.pick(VERBS)]
    while len(names) < FRAMES:
        partner = partners(names[-1])[0]
        follows = loyal and draw.chance(LOYALTY) and partner not in names
        names.append(partner if follows else draw.pick([name for name in NAMES if name not in names]))
    while len(verbs) < FRAMES - 1:
        verbs.append(HABIT[verbs[-1]] if loyal and draw.chance(HABIT_RATE) else draw.pick(VERBS))
    return names, verbs


def _play(names: Sequence[str], verbs: Sequence[str], draw: Draw, seed: int) -> Clip | None:
    """The clip, or None where something found no room or had nothing to hit."""
    stage: dict[str, Thing] = {}
    for name, verb in zip(names, (*verbs, "stays"), strict=True):
        if verb != "appears":
            if (thing := _enter(name, stage, draw)) is None:
                return None
            stage[name] = thing
    frames, events = [Scene(tuple(stage.values()), seed, seed)], []
    for name, verb in zip(names, verbs, strict=False):
        event = _act(name, verb, stage, draw)
        if event is None:
            return None
        events.append(event)
        frames.append(Scene(tuple(stage.values()), seed, seed + len(frames)))
    return Clip(tuple(frames), tuple(events))


def _act(name: str, verb: str, stage: dict[str, Thing], draw: Draw) -> Event | None:
    """Do one event on the stage, in place."""
    if verb == "vanishes":
        del stage[name]
        return Event(name, verb)
    if verb == "appears":
        thing, other = _enter(name, stage, draw), ""
    else:
        rest = {key: value for key, value in stage.items() if key != name}
        other = draw.pick(list(rest)) if verb == "hits" and rest else ""
        if verb == "hits" and not rest:
            return None
        thing = _move(stage[name], rest, other, draw)
    if thing is None:
        return None
    stage[name] = thing
    return Event(name, verb, other)


def _enter(name: str, stage: dict[str, Thing], draw: Draw) -> Thing | None:
    color, shape = name.split()
    for _ in range(30):
        radius = draw.between(*RADIUS)
        x, y = (draw.between(radius + 1, SIDE - radius - 1) for _ in range(2))
        thing = Thing(color, shape, "large", x, y, radius)
        if _free(thing, stage.values()):
            return thing
    return None


def _move(thing: Thing, rest: dict[str, Thing], target: str, draw: Draw) -> Thing | None:
    """The thing somewhere else: by itself, or touching ``target``."""
    for _ in range(30):
        if target:
            goal = rest[target]
            reach, along = goal.radius + thing.radius, draw.between(-3.0, 3.0)
            dx, dy = draw.pick(((reach, along), (-reach, along), (along, reach), (along, -reach)))
            moved = replace(thing, x=goal.x + dx, y=goal.y + dy)
        else:
            low, high = thing.radius + 1, SIDE - thing.radius - 1
            moved = replace(thing, x=draw.between(low, high), y=draw.between(low, high))
        others = [other for key, other in rest.items() if key != target]
        if max(abs(moved.x - thing.x), abs(moved.y - thing.y)) >= STRIDE and _free(moved, others):
            return moved
    return None


def _free(thing: Thing, others: Sequence[Thing]) -> bool:
    edge = thing.radius + 0.5
    if not (edge <= thing.x <= SIDE - edge and edge <= thing.y <= SIDE - edge):
        return False
    return all(
        max(abs(thing.x - other.x), abs(thing.y - other.y)) > thing.radius + other.radius + GAP for other in others
    )
