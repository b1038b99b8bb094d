"""What is said of a scene: captions, and questions with their answers.

A caption has one sentence for each thing, large ones first and from left to right, so that to describe a picture is to
decide again and again whether there is one more thing to name, and which. Yes/no questions have POPE's wording.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import zip_longest

from mmalign.scenes.things import NAMES, PLACES, Clip, Draw, Event, Scene, Thing

CAPTION_PROMPTS = ("Describe the image.", "Describe this image in detail.", "Please describe this image in detail.")
CLIP_PROMPTS = ("Describe the clip.", "What happens in the clip?")
DIRECTIONS = ("to the left of", "to the right of", "above", "below")
MIXED_RATE = 0.25  # of the absent names that are asked about
RELATION_RATE = 0.35  # how often a sentence places a thing by another, where it can

_BARE_VERB = {"appears": "appear", "vanishes": "vanish", "moves": "move", "hits": "hit"}


@dataclass(frozen=True)
class Exchange:
    """One question and its true answer; ``kind`` names the type of question, by which accuracy is reported."""

    kind: str
    question: str
    answer: str


def article(phrase: str) -> str:
    """``phrase`` with its indefinite article: ``"an orange star"``."""
    return f"{'an' if phrase[0] in 'aeiou' else 'a'} {phrase}"


def sentence(text: str, end: str = ".") -> str:
    """``text`` with a capital and a full stop."""
    return text[0].upper() + text[1:] + end


def direction(thing: Thing, other: Thing) -> str | None:
    """How ``thing`` stands to ``other``, or None where no single word of :data:`DIRECTIONS` says it."""
    dx, dy = thing.x - other.x, thing.y - other.y
    if max(abs(dx), abs(dy)) < 5 or max(abs(dx), abs(dy)) < 1.5 * min(abs(dx), abs(dy)):
        return None
    if abs(dx) > abs(dy):
        return DIRECTIONS[0] if dx < 0 else DIRECTIONS[1]
    return DIRECTIONS[2] if dy < 0 else DIRECTIONS[3]


# --- pictures -------------------------------------------------------------------------------------------------------


def caption(scene: Scene, draw: Draw) -> str:
    """Several sentences, one for each thing."""
    told: list[Thing] = []
    said = []
    for thing in sorted(scene.things, key=lambda thing: (thing.size != "large", thing.x)):
        said.append(_tell(thing, told, draw))
        told.append(thing)
    return " ".join(said)


def _tell(thing: Thing, told: list[Thing], draw: Draw) -> str:
    what = article(f"{thing.size} {thing.name}")
    related = [(way, other) for other in told if (way := direction(thing, other))]
    if related and draw.chance(RELATION_RATE):
        way, other = draw.pick(related)
        return sentence(f"{what} is {way} the {other.name}")
    return sentence(draw.pick((f"there is {what} {thing.place}", f"{what} is {thing.place}")))


def exists(name: str, scene: Scene) -> Exchange:
    """POPE's question about one name."""
    answer = "Yes." if name in scene.names else "No."
    return Exchange("exists", f"Is there {article(name)} in the image?", answer)


def existence_questions(scene: Scene, draw: Draw, count: int) -> list[Exchange]:
    """``count`` questions, each about a present and an absent name with equal chance.

    Some of the absent names are put together from a color and a shape that are in the picture, so that it does not do
    to look for either alone; most are any. Absent partners are thus hardly ever asked about, as in real data.
    """
    present = scene.names
    colors, shapes = ([name.split()[part] for name in present] for part in (0, 1))
    absent = [name for name in NAMES if name not in present]
    mixed = [name for name in absent if name.split()[0] in colors and name.split()[1] in shapes]
    asked = [
        draw.pick(present) if draw.chance(0.5) else draw.pick(mixed if mixed and draw.chance(MIXED_RATE) else absent)
        for _ in range(count)
    ]
    return [exists(name, scene) for name in asked]


def where_questions(scene: Scene) -> Iterator[Exchange]:
    """Every question about what is where that has one answer."""
    for thing in scene.things:
        yield Exchange("where", f"Where is the {thing.name}?", sentence(thing.place))
    for place in (place for row in PLACES for place in row):
        here = [thing for thing in scene.things if thing.place == place]
        if len(here) == 1:
            yield Exchange("what", f"What is {place}?", sentence(article(here[0].name)))
    for other in scene.things:
        for way in DIRECTIONS:
            found = [thing for thing in scene.things if thing != other and direction(thing, other) == way]
            if len(found) == 1:
                answer = sentence(article(found[0].name))
                yield Exchange("relation", f"What is {way} the {other.name}?", answer)
    yield from _attribute_questions(scene)


def _attribute_questions(scene: Scene) -> Iterator[Exchange]:
    for thing in scene.things:
        yield Exchange("size", f"Is the {thing.name} large or small?", sentence(thing.size))
        if sum(other.shape == thing.shape for other in scene.things) == 1:
            yield Exchange("color", f"What color is the {thing.shape}?", sentence(thing.color))
        if sum(other.color == thing.color for other in scene.things) == 1:
            yield Exchange("shape", f"What shape is the {thing.color} object?", sentence(article(thing.shape)))


# --- clips ----------------------------------------------------------------------------------------------------------


def tell(event: Event) -> str:
    """``"the red circle hits the blue square"``."""
    return f"the {event.name} {event.verb}" + (f" the {event.other}" if event.other else "")


def clip_caption(clip: Clip) -> str:
    """One sentence for each event, in order."""
    return " ".join(
        f"{when} {tell(event)}." for when, event in zip(("First", "Then", "Last"), clip.events, strict=True)
    )


def order_question(clip: Clip, draw: Draw) -> Exchange:
    """Whether one event came before another."""
    early, late = sorted(draw.shuffled(range(len(clip.events)))[:2])
    pair = [clip.events[early], clip.events[late]]
    truth = draw.chance(0.5)
    first, second = pair if truth else pair[::-1]
    what = tell(first).replace(first.verb, _BARE_VERB[first.verb], 1)
    return Exchange("order", f"Does {what} before {tell(second)}?", "Yes." if truth else "No.")


def first_question(clip: Clip, draw: Draw) -> Exchange:
    """Which of two events came first, both named."""
    early, late = sorted(draw.shuffled(range(len(clip.events)))[:2])
    named = draw.shuffled([tell(clip.events[early]), tell(clip.events[late])])
    question = f"What comes first: {named[0]}, or {named[1]}?"
    return Exchange("first", question, sentence(tell(clip.events[early])))


def event_questions(clip: Clip) -> Iterator[Exchange]:
    """What happened first, last and after each event."""
    yield Exchange("event", "What happens first?", sentence(tell(clip.events[0])))
    yield Exchange("event", "What happens last?", sentence(tell(clip.events[-1])))
    for event, following in zip(clip.events, clip.events[1:], strict=False):
        yield Exchange("event", f"What happens after {tell(event)}?", sentence(tell(following)))


def moment_questions(clip: Clip, draw: Draw, count: int) -> list[Exchange]:
    """Whether something is there at the start or at the end; half of the names are ones that came or went."""
    ends = {"start": clip.frames[0].names, "end": clip.frames[-1].names}
    asked = []
    for _ in range(count):
        moment = draw.pick(tuple(ends))
        wanted = draw.chance(0.5)
        absent = [name for name in (clip.names if draw.chance(0.5) else NAMES) if name not in ends[moment]]
        name = draw.pick(ends[moment] if wanted and ends[moment] else absent or NAMES)
        answer = "Yes." if name in ends[moment] else "No."
        asked.append(Exchange("moment", f"Is there {article(name)} at the {moment} of the clip?", answer))
    return asked


# --- what is asked of one picture or clip ----------------------------------------------------------------------------


def scene_questions(scene: Scene, draw: Draw, where: int = 6, yes_no: int = 4) -> list[Exchange]:
    """Up to ``where`` what-is-where questions, their kinds in turn, and ``yes_no`` questions of existence."""
    return [*in_turn(where_questions(scene), draw, where), *existence_questions(scene, draw, yes_no)]


def in_turn(exchanges: Iterable[Exchange], draw: Draw, count: int) -> list[Exchange]:
    """``count`` of them at most, drawn so that kinds take turns: some have many questions a picture, others one."""
    by_kind: dict[str, list[Exchange]] = {}
    for exchange in draw.shuffled(list(exchanges)):
        by_kind.setdefault(exchange.kind, []).append(exchange)
    columns = draw.shuffled(list(by_kind.values()))
    rounds = zip_longest(*columns)
    return [exchange for row in rounds for exchange in row if exchange is not None][:count]


def clip_questions(clip: Clip, draw: Draw) -> list[Exchange]:
    """What happened, what came first, and what was there at the start or at the end."""
    events = draw.shuffled(list(event_questions(clip)))[:3]
    orders = [order_question(clip, draw), order_question(clip, draw), first_question(clip, draw)]
    return [*events, *orders, *moment_questions(clip, draw, 3)]


def scene_exchanges(scene: Scene, draw: Draw) -> list[Exchange]:
    """What one training row asks: a caption and questions."""
    told = Exchange("caption", draw.pick(CAPTION_PROMPTS), caption(scene, draw))
    return [told, *scene_questions(scene, draw)]


def clip_exchanges(clip: Clip, draw: Draw) -> list[Exchange]:
    """What one training row asks about a clip: its story and questions."""
    told = Exchange("story", draw.pick(CLIP_PROMPTS), clip_caption(clip))
    return [told, *clip_questions(clip, draw)]
