"""Plans: worked by hand, never what leaves a clip as it was, the same for the same arguments, and read back safely."""

from __future__ import annotations

import json
import random
import re
import runpy
from collections import Counter
from itertools import combinations, permutations

import numpy as np
import pytest
from PIL import Image

from mmalign.media._orders import ORDERS
from mmalign.media.perturb import AREA, GREY, KINDS, LEVELS, Plan, covered, deal, plan, plans
from mmalign.records import InputError
from tests.conftest import REPOSITORY

SEEDS = range(3)


def order(kind: str, units: int, r: int, seed: int = 0) -> list[int]:
    found = plan(kind, units, r, seed)
    assert found is not None and (found.kind, found.r, found.units, found.seed) == (kind, r, units, seed)
    return list(found.order)


def cut(units: int, size: int) -> list[list[int]]:
    return [list(range(units))[start : start + size] for start in range(0, units, size)]


# ---- what each kind does at each level -----------------------------------------------------------------------------


@pytest.mark.parametrize("units, r, expected", [
    (8, 2, [4, 5, 6, 7, 0, 1, 2, 3]),
    (8, 4, [6, 7, 4, 5, 2, 3, 0, 1]),
    (8, 8, [7, 6, 5, 4, 3, 2, 1, 0]),
    (8, 16, [7, 6, 5, 4, 3, 2, 1, 0]),
    (5, 2, [4, 2, 3, 0, 1]),
    (5, 4, [4, 3, 2, 1, 0]),
    (20, 2, [*range(10, 20), *range(10)]),
    (20, 4, [15, 16, 17, 18, 19, 10, 11, 12, 13, 14, 5, 6, 7, 8, 9, 0, 1, 2, 3, 4]),
    (20, 8, [18, 19, 16, 17, 14, 15, 12, 13, 10, 11, 8, 9, 6, 7, 4, 5, 2, 3, 0, 1]),
    (20, 16, list(range(19, -1, -1))),
])  # fmt: skip
def test_reverse(units, r, expected):
    assert order("reverse", units, r) == expected


@pytest.mark.parametrize("units, r, expected", [
    (8, 2, [0, 2, 4, 6]), (8, 4, [0, 4]), (8, 8, [0]), (8, 16, [0]), (7, 3, [0, 3, 6]),
    (20, 2, list(range(0, 20, 2))), (20, 4, [0, 4, 8, 12, 16]), (20, 8, [0, 8, 16]), (20, 16, [0, 16]),
])  # fmt: skip
def test_speed(units, r, expected):
    assert order("speed", units, r) == expected


@pytest.mark.parametrize("units, r, size", [
    (8, 2, 4), (8, 4, 2), (8, 8, 1), (8, 16, 1), (20, 2, 10), (20, 4, 5), (20, 8, 2), (20, 16, 1), (5, 2, 2), (3, 2, 1),
    (2, 16, 1), (15, 8, 1), (33, 16, 2), (7, 2, 3),
])  # fmt: skip
@pytest.mark.parametrize("seed", SEEDS)
class TestLevels:
    """``size`` is max(1, units // r), worked by hand."""

    def test_drop(self, units, r, size, seed):
        kept = order("drop", units, r, seed)
        assert len(kept) == size and kept == sorted(set(kept)) and set(kept) <= set(range(units))

    def test_shuffle(self, units, r, size, seed):
        shown = order("shuffle", units, r, seed)
        left = cut(units, size)
        while shown:
            [block] = [block for block in left if shown[: len(block)] == block]
            left.remove(block)
            del shown[: len(block)]
        assert left == []

    def test_splice(self, units, r, size, seed):
        shown = order("splice", units, r, seed)
        strange = [place for place, unit in enumerate(shown) if unit >= units]
        assert strange == list(range(strange[0], strange[0] + units - size)), "one stretch"
        assert [unit % units for unit in shown] == list(range(units)), "the same stretch of the other clip"

    def test_repeat(self, units, r, size, seed):
        shown = order("repeat", units, r, seed)
        counts = Counter(shown)
        assert len(shown) == units and shown == sorted(shown) and len(counts) == size
        assert max(counts.values()) - min(counts.values()) <= 1


@pytest.mark.parametrize("units, r, window", [(8, 2, 2), (8, 4, 4), (8, 8, 8), (8, 16, 8), (20, 16, 16), (7, 3, 3)])
def test_local_shuffle_stays_inside_its_windows(units, r, window):
    seen = {tuple(order("local_shuffle", units, r, seed)) for seed in range(20)}
    assert len(seen) > 1
    for shown in seen:
        for inside in cut(units, window):
            assert sorted(shown[inside[0] : inside[-1] + 1]) == inside


def test_local_shuffle_with_a_window_of_one_s_own():
    assert plan("local_shuffle", 8, 16, 0, window=2).order == plan("local_shuffle", 8, 2, 0, window=2).order
    [only] = plans(["local_shuffle"], 8, seed=0, window=2)
    assert only.levels == LEVELS and only.r == 2
    assert all(abs(unit - place) <= 1 for place, unit in enumerate(only.order))


def test_without_a_level_as_rrpo_has_them():
    local = plan("local_shuffle", 16, None, 0)
    assert local.levels == () and local.r == 4 and local.difficulty == 1 / 4
    assert all(unit // 4 == place // 4 for place, unit in enumerate(local.order))
    assert plan("local_shuffle", 3, None, 0).r == 3, "a window of three units is all that there is"
    assert plan("global_shuffle", 16, None, 0).order == plan("global_shuffle", 16, 8, 0).order
    both = plan("mask+local_shuffle", 16, None, 0)
    assert both.box is not None and all(unit // 4 == place // 4 for place, unit in enumerate(both.order))
    shares = [share(plan("mask", 4, None, seed).box) for seed in range(400)]
    low, high = AREA
    assert low <= min(shares) < low + 0.01 and high - 0.01 < max(shares) <= high + 1e-5
    assert np.mean(shares) == pytest.approx((low + high) / 2, abs=4 * (high - low) / 12**0.5 / 20)
    for kind in ("drop", "shuffle", "reverse", "speed", "repeat", "splice", "mask+drop"):
        with pytest.raises(InputError, match="needs a level"):
            plan(kind, 16, None, 0)


# ---- how they are drawn --------------------------------------------------------------------------------------------


def counts_of(kind: str, units: int, r: int, number: int = 3000) -> Counter:
    return Counter(plan(kind, units, r, seed).order for seed in range(number))


def orders_of_blocks(units: int, size: int) -> set[tuple[int, ...]]:
    return {tuple(sum(way, [])) for way in permutations(cut(units, size))} - {tuple(range(units))}


@pytest.mark.parametrize("kind, units, r, possible", [
    ("drop", 4, 2, set(combinations(range(4), 2))),
    ("shuffle", 4, 2, {(2, 3, 0, 1)}),
    ("shuffle", 6, 3, orders_of_blocks(6, 2)),
    ("shuffle", 5, 2, orders_of_blocks(5, 2)),
    ("local_shuffle", 4, 2, {(1, 0, 2, 3), (0, 1, 3, 2), (1, 0, 3, 2)}),
    ("global_shuffle", 3, 2, orders_of_blocks(3, 1)),
    ("splice", 4, 2, {(4, 5, 2, 3), (0, 5, 6, 3), (0, 1, 6, 7)}),
    ("repeat", 4, 2, {(a, a, b, b) for a, b in combinations(range(4), 2)}),
])  # fmt: skip
def test_each_possible_order_comes_equally_often(kind, units, r, possible):
    counts = counts_of(kind, units, r)
    assert set(counts) == possible
    expected = 3000 / len(possible)
    assert all(abs(count - expected) < 5 * expected**0.5 for count in counts.values())


@pytest.mark.parametrize("kind", sorted({*KINDS, "mask+shuffle", "mask+drop"} - {"mask"}))
def test_never_the_clip_as_it_is(kind):
    assert plan(kind, 1, 2, 0) is None
    for units in range(2, 40):
        for r in (2, 3, 4, 8, 16, 50):
            for seed in SEEDS:
                assert order(kind, units, r, seed) != list(range(units))


def test_the_other_order_of_two_blocks_is_always_found():
    assert {plan("shuffle", 8, 2, seed).order for seed in range(500)} == {(4, 5, 6, 7, 0, 1, 2, 3)}


def test_what_is_drawn_hangs_on_the_arguments_alone():
    before = [made.to_json() for made in plans(KINDS, 12, seed=7)]
    random.seed(1)
    np.random.seed(1)
    assert [made.to_json() for made in plans(KINDS, 12, seed=7)] == before
    assert [made.to_json() for made in plans(KINDS, 12, [16, 8, 8, 4, 2], seed=7)] == before
    assert plans(iter(KINDS), 12, iter(LEVELS), seed=7) == plans(KINDS, 12, seed=7)
    assert plan("shuffle", 12, 4, 7).order != plan("shuffle", 12, 4, 8).order
    assert plan("drop", 100, 2, 7).order != plan("drop", 100, 2, 8).order


def test_what_was_drawn_once_is_drawn_in_every_version():
    """Records name orders; a seed that a paper reports must give them again."""
    assert {kind: list(plan(kind, 8, 4, 0).order) for kind in PINNED} == PINNED
    assert plan("mask", 8, 4, 0).box == PINNED_BOX


PINNED = {
    "drop": [1, 2],
    "shuffle": [2, 3, 4, 5, 6, 7, 0, 1],
    "local_shuffle": [2, 1, 0, 3, 7, 6, 5, 4],
    "global_shuffle": [3, 4, 0, 1, 5, 7, 6, 2],
    "reverse": [6, 7, 4, 5, 2, 3, 0, 1],
    "splice": [0, 1, 10, 11, 12, 13, 14, 15],
    "repeat": [0, 0, 0, 0, 5, 5, 5, 5],
    "speed": [0, 4],
}
PINNED_BOX = (0.036017, 0.054047, 0.902043, 0.920073)


# ---- several plans of one clip -------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["drop", "shuffle", "reverse", "repeat", "splice"])
@pytest.mark.parametrize("units, expected", [
    (1, []),
    (2, [(2, 4, 8, 16)]),
    (3, [(2, 4, 8, 16)]),
    (4, [(2,), (4, 8, 16)]),
    (7, [(2,), (4, 8, 16)]),
    (8, [(2,), (4,), (8, 16)]),
    (15, [(2,), (4,), (8, 16)]),
    (16, [(2,), (4,), (8,), (16,)]),
    (20, [(2,), (4,), (8,), (16,)]),
])  # fmt: skip
def test_levels_that_come_to_the_same_are_one(kind, units, expected):
    made = plans([kind], units, seed=5)
    assert [one.levels for one in made] == expected
    assert [one.r for one in made] == [levels[0] for levels in expected]
    for one in made:
        for r in one.levels:
            assert plan(kind, units, r, 5).order == one.order, "each of the levels alone gives it too"


def test_levels_of_the_other_kinds():
    def levels(kind: str, units: int) -> list[tuple[int, ...]]:
        return [made.levels for made in plans([kind], units, seed=0)]

    assert levels("local_shuffle", 6) == levels("speed", 6) == [(2,), (4,), (8, 16)]
    assert levels("global_shuffle", 20) == [(2, 4, 8, 16)]
    assert levels("mask", 3) == [(2,), (4,), (8,), (16,)]
    assert levels("mask+reverse", 3) == [(2,), (4,), (8,), (16,)], "the mask tells them apart"
    assert [made.difficulty for made in plans(["reverse"], 20, [16, 2, 8], seed=0)] == [1 / 2, 1 / 8, 1 / 16]


def test_no_two_plans_show_the_same():
    for units in range(1, 12):
        for seed in range(20):
            shown = [
                (made.order, made.box) for made in plans((*KINDS, "mask+shuffle", "mask+reverse"), units, seed=seed)
            ]
            assert len(shown) == len(set(shown))
    kinds = [(made.kind, made.r) for made in plans(["shuffle", "reverse"], 8, [2, 4], seed=0)]
    assert kinds == [("shuffle", 4), ("reverse", 2), ("reverse", 4)], "both exchange the halves: reverse does it"
    assert [made.kind for made in plans(["shuffle", "global_shuffle", "reverse"], 2, seed=0)] == ["reverse"]


def test_orders_that_are_not_to_come():
    others = orders_of_blocks(6, 2)
    wanted = others.pop()
    assert plan("shuffle", 6, 3, 0, without=others).order == wanted
    assert plan("shuffle", 6, 3, 0, without={*others, wanted}) is None


# ---- what is shown -------------------------------------------------------------------------------------------------


def frame(value: int, size: tuple[int, int] = (16, 12)) -> Image.Image:
    return Image.new("RGB", size, (value, value, value))


def values(frames: tuple[Image.Image, ...]) -> list[int]:
    return [one.getpixel((0, 0))[0] for one in frames]


def test_apply():
    made = Plan("reverse", 2, (2,), 4, (2, 3, 0, 1), None, 0)
    assert made.apply("abcd") == ["c", "d", "a", "b"]
    spliced = Plan("splice", 2, (2,), 4, (0, 5, 6, 3), None, 0)
    assert spliced.needs_other and not made.needs_other
    assert spliced.apply("abcd", "wxyz") == ["a", "x", "y", "d"]
    for items, other in (("abc", ""), ("abcde", ""), ("", "")):
        with pytest.raises(ValueError, match="a plan for 4 units"):
            made.apply(items, other)
    with pytest.raises(ValueError, match="0 of another clip"):
        spliced.apply("abcd")


def test_frames_are_dealt_to_units_in_equal_parts():
    assert [list(part) for part in deal(range(10), 4)] == [[0, 1], [2, 3, 4], [5, 6], [7, 8, 9]]
    for number in range(1, 30):
        for units in range(1, number + 1):
            parts = deal(range(number), units)
            assert [item for part in parts for item in part] == list(range(number)) and len(parts) == units
            assert max(map(len, parts)) - min(map(len, parts)) <= 1
    with pytest.raises(InputError, match="3 frames cannot be dealt to 4 units"):
        deal(range(3), 4)


def test_show():
    frames = [frame(value) for value in range(8)]
    assert values(Plan("reverse", 2, (2,), 4, (2, 3, 0, 1), None, 0).show(frames)) == [4, 5, 6, 7, 0, 1, 2, 3]
    assert values(Plan("drop", 2, (2,), 4, (1, 3), None, 0).show(frames)) == [2, 3, 6, 7]
    assert values(Plan("repeat", 4, (4,), 4, (1, 1, 1, 1), None, 0).show(frames)) == [2, 3] * 4
    other = [frame(100 + value, (40, 12)) for value in range(4)]
    spliced = Plan("splice", 2, (2,), 4, (0, 5, 6, 3), None, 0).show(frames, other)
    assert values(spliced) == [0, 1, 101, 102, 6, 7] and {one.size for one in spliced} == {(16, 12)}
    with pytest.raises(InputError, match="cannot be dealt"):
        Plan("reverse", 2, (2,), 4, (2, 3, 0, 1), None, 0).show(frames[:3])


def share(box: tuple[float, float, float, float]) -> float:
    return (box[2] - box[0]) * (box[3] - box[1])


@pytest.mark.parametrize("size", [(64, 64), (97, 64), (48, 80), (64, 36), (500, 20)])
@pytest.mark.parametrize("r", LEVELS)
def test_mask(size, r):
    """Its area within a pixel of each side, square where that fits, at one place in all frames, and grey."""
    width, height = size
    for seed in range(5):
        made = plan("mask", 3, r, seed, aspect=width / height)
        assert made.order == (0, 1, 2) and share(made.box) == pytest.approx(1 - 1 / r, abs=1e-5)
        frames = [frame(value, size) for value in (0, 10, 20)]
        hidden = [np.all(np.asarray(one) == GREY, axis=2) for one in made.show(frames)]
        assert all(np.array_equal(hidden[0], each) for each in hidden), "at one place"
        wide, high = hidden[0].any(axis=0).sum(), hidden[0].any(axis=1).sum()
        assert hidden[0].sum() == wide * high, "a rectangle"
        side = ((1 - 1 / r) * width * height) ** 0.5
        expected = (side, side) if side <= min(size) else sorted((min(size), side * side / min(size)))
        assert (
            abs(wide - expected[0 if width <= height else -1]) <= 1
            and abs(high - expected[-1 if width <= height else 0]) <= 1
        )
        assert values(tuple(frames)) == [0, 10, 20], "frames themselves stay as they are"


def test_the_mask_is_anywhere():
    boxes = np.array([plan("mask", 2, 2, seed).box for seed in range(1000)])
    side = 0.5**0.5
    assert boxes.min() >= 0 and boxes.max() <= 1
    for edge in (0, 1):
        place = boxes[:, edge] / (1 - side)
        assert place.mean() == pytest.approx(0.5, abs=4 / 12**0.5 / 1000**0.5)
        assert place.min() < 0.01 and place.max() > 0.99
    assert abs(np.corrcoef(boxes[:, 0], boxes[:, 1])[0, 1]) < 0.13


def test_mask_of_another_colour_and_area():
    made = plan("mask", 2, 2, 0, area=(0.1, 0.1), fill=(1, 2, 3))
    assert share(made.box) == pytest.approx(0.1, abs=1e-5)
    assert (1, 2, 3) in {color for _, color in made.show([frame(0), frame(0)])[1].getcolors()}
    assert Plan.of(made.to_json()).fill == (1, 2, 3)
    assert covered(frame(0, (10, 10)), (0.0, 0.0, 0.5, 1.0)).crop((0, 0, 5, 10)).getcolors() == [(50, GREY)]
    assert covered(frame(0, (10, 10)), (0.0, 0.0, 0.5, 1.0)).crop((5, 0, 10, 10)).getcolors() == [(50, (0, 0, 0))]


# ---- to and from JSON ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("units", [2, 5, 8, 20])
def test_json_and_back(units):
    made = [*plans((*KINDS, "mask+local_shuffle"), units, seed=1), plan("mask", units, None, 1)]
    for one in made:
        text = json.dumps(one.to_json())
        assert Plan.of(json.loads(text)) == one
        assert ("box" in text) == ("mask" in one.kind)


FINE = {"kind": "shuffle", "r": 4, "levels": [4, 8], "units": 4, "order": [1, 0, 2, 3], "seed": 0}


@pytest.mark.parametrize("change, field", [
    ({"kind": "twist"}, "kind"), ({"kind": "shuffle+mask"}, "kind"), ({"kind": "mask+mask"}, "kind"),
    ({"kind": ""}, "kind"), ({"kind": None}, "kind"), ({"kind": 3}, "kind"),
    ({"r": 1}, "r"), ({"r": 2.5}, "r"), ({"r": True}, "r"), ({"r": 8}, "levels"), ({"levels": [2, 4]}, "levels"),
    ({"levels": 4}, "levels"), ({"levels": ["4"]}, "levels[0]"),
    ({"units": 0}, "units"), ({"units": 5}, "order"), ({"units": 10**15}, "order"),
    ({"order": []}, "order"), ({"order": [0, 1, 2, 3]}, "order"), ({"order": [1, 0, 2]}, "order"),
    ({"order": [1, 1, 2, 3]}, "order"), ({"order": [1, 0, 2, 4]}, "order"), ({"order": [-1, 0, 2, 3]}, "order[0]"),
    ({"order": "1023"}, "order"), ({"order": [1, 0, 2, 3.0]}, "order[3]"), ({"order": None}, "order"),
    ({"seed": "0"}, "seed"), ({"seed": -1}, "seed"), ({"colour": "red"}, "colour"),
    ({"box": [0, 0, 0.5, 0.5]}, "box"), ({"kind": "mask+shuffle"}, "box"), ({"kind": "mask"}, "order"),
    ({"kind": "mask+shuffle", "box": [0, 0, 0.5]}, "box"),
    ({"kind": "mask+shuffle", "box": [0, 0, 0.5, 1.5]}, "box[3]"),
    ({"kind": "mask+shuffle", "box": [0.5, 0, 0.5, 1]}, "box"),
    ({"kind": "mask+shuffle", "box": [0, 0, 0.5, float("nan")]}, "box[3]"),
    ({"kind": "mask+shuffle", "box": [0, 0, 0.5, 1], "fill": [0, 0, 256]}, "fill"),
    ({"kind": "mask+shuffle", "box": [0, 0, 0.5, 1], "fill": [0, 0]}, "fill"),
    ({"kind": "drop"}, "order"), ({"kind": "drop", "order": [0, 1, 2, 3]}, "order"),
    ({"kind": "drop", "order": [1, 0]}, "order"), ({"kind": "drop", "order": [1, 1]}, "order"),
    ({"kind": "speed", "order": [0, 7]}, "order"), ({"kind": "repeat", "order": [0, 1, 2, 3]}, "order"),
    ({"kind": "repeat", "order": [0, 0, 1]}, "order"), ({"kind": "repeat", "order": [1, 1, 0, 0]}, "order"),
    ({"kind": "splice", "order": [0, 1, 2, 3]}, "order"), ({"kind": "splice", "order": [0, 6, 6, 3]}, "order"),
    ({"kind": "splice", "order": [0, 1, 2, 8]}, "order"), ({"kind": "splice", "order": [0, 5, 6]}, "order"),
])  # fmt: skip
def test_what_is_no_plan_is_refused(change, field):
    assert Plan.of(FINE).levels == (4, 8)
    with pytest.raises(InputError) as caught:
        Plan.of({**FINE, **change})
    assert caught.value.field == field


@pytest.mark.parametrize("obj", [None, 3, "plan", [], [FINE], {}])
def test_what_is_no_object_of_a_plan(obj):
    with pytest.raises(InputError):
        Plan.of(obj)


@pytest.mark.parametrize("arguments, options, field", [
    (("twist", 8, 2, 0), {}, "kind"), (("shuffle", 0, 2, 0), {}, "units"), (("shuffle", 8, 1, 0), {}, "r"),
    (("shuffle", 8, 0, 0), {}, "r"), (("local_shuffle", 8, 2, 0), {"window": 1}, "window"),
    (("mask", 8, 2, 0), {"area": (0.5, 0.2)}, "area"), (("mask", 8, 2, 0), {"area": (0.0, 0.2)}, "area"),
    (("mask", 8, 2, 0), {"aspect": 0.0}, "aspect"), (("mask", 8, 2, 0), {"fill": (0, 0, 300)}, "fill"),
])  # fmt: skip
def test_arguments_out_of_range(arguments, options, field):
    with pytest.raises(InputError) as caught:
        plan(*arguments, **options)
    assert caught.value.field == field
    kind, units, r, seed = arguments
    with pytest.raises(InputError):
        plans([kind], units, [r], seed=seed, **options)


# ---- the page ------------------------------------------------------------------------------------------------------

PAGE = (REPOSITORY / "docs" / "perturbations.md").read_text(encoding="utf-8")


def test_the_table_of_the_page_is_what_is_printed():
    assert runpy.run_path(str(REPOSITORY / "docs" / "perturbations.py"))["table"]() in PAGE


def test_the_picture_of_the_page_is_what_is_drawn():
    """In size: the pixels of letters may differ with Pillow's font."""
    drawn = runpy.run_path(str(REPOSITORY / "docs" / "perturbations.py"))["sheet"]()
    with Image.open(REPOSITORY / "docs" / "images" / "contact.png") as image:
        assert image.size == drawn.size


def test_the_plan_of_the_page_is_one():
    [line] = [line for line in PAGE.splitlines() if line.startswith('    {"kind"')]
    [made] = [one for one in plans(["reverse"], 4, seed=7) if one.r == 4]
    assert Plan.of(json.loads(line)) == made


def test_every_kind_has_a_row_on_the_page():
    section = PAGE.partition("## Kinds")[2].partition("\n## ")[0]
    assert set(re.findall(r"^\| `(\w+)` \|", section, re.MULTILINE)) == set(KINDS)


def test_every_kind_is_tested_here():
    assert set(KINDS) == {*ORDERS, "mask"} and set(PINNED) == set(ORDERS)
