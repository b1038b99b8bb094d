"""A curriculum: parts in the order of difficulty, what comes again, the same however a run is cut or interrupted."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from safetensors.torch import load_file

from mmalign.records import InputError, RecordFile, write_jsonl
from mmalign.training import data, identity, metrics
from mmalign.training.curriculum import Curriculum
from mmalign.training.options import parse
from mmalign.training.order import EpochOrder
from mmalign.training.session import train
from mmalign.training.trainer import PreferenceTrainer

LEVELS = np.array([0.5, 0.125, 0.25, 0.5, 0.125, 0.0625, 0.25, 0.5, 0.5, 0.125, 0.0625, 0.5])
"""Two of the easiest, three, two and five of the hardest."""


def epoch(curriculum: Curriculum, number: int = 0, batch_size: int = 4, world_size: int = 1, **how) -> list[int]:
    """The records that count in an epoch, dealt to ranks and put together again."""
    count = len(curriculum.difficulties)
    orders = [
        EpochOrder(count, batch_size, rank, world_size, seed=7, curriculum=curriculum, **how)
        for rank in range(world_size)
    ]
    for order in orders:
        order.set_epoch(number)
    assert len({len(order) for order in orders}) == 1
    return [i for call in zip(*orders, strict=True) for batch in call for i, counted in batch if counted]


# ---- the order -------------------------------------------------------------------------------------------


def test_each_difficulty_is_a_part():
    found = epoch(Curriculum(LEVELS))
    assert LEVELS[found].tolist() == sorted(LEVELS)
    assert sorted(found) == list(range(12))
    back = epoch(Curriculum(LEVELS, "hard_to_easy"))
    assert LEVELS[back].tolist() == sorted(LEVELS, reverse=True)


def test_epochs_go_the_whole_way_again_in_another_order():
    first, second = (epoch(Curriculum(LEVELS), number) for number in (0, 1))
    assert first != second
    assert LEVELS[first].tolist() == LEVELS[second].tolist() == sorted(LEVELS)
    assert first == epoch(Curriculum(LEVELS), 0)


def test_parts_of_equal_size_are_shuffled():
    ranks = np.arange(30) / 7
    found = epoch(Curriculum(ranks, count=4))
    parts = np.split(np.array(found), [8, 16, 23])
    assert [sorted(part) for part in parts] == [[*range(8)], [*range(8, 16)], [*range(16, 23)], [*range(23, 30)]]
    assert all(sorted(part) != part.tolist() for part in parts)
    one = epoch(Curriculum(LEVELS, count=1))
    assert sorted(one) == list(range(12)) and LEVELS[one].tolist() != sorted(LEVELS)


def test_ties_are_cut_by_chance():
    """Not by their place in the file, where like records often stand together."""
    firsts = {tuple(sorted(epoch(Curriculum(np.ones(12), count=3), number)[:4])) for number in range(4)}
    assert len(firsts) == 4


def test_what_comes_again_is_of_the_parts_before():
    levels = np.repeat([1.0, 2.0, 3.0], [10, 20, 10])
    curriculum = Curriculum(levels, replay=0.25)
    assert (curriculum.sizes, curriculum.replayed, curriculum.size) == ([10, 20, 10], [0, 5, 2], 47)
    found = np.split(np.array(epoch(curriculum)), [10, 35])
    assert sorted(found[0]) == list(range(10))
    for part, own, again in zip(found[1:], (range(10, 30), range(30, 40)), (5, 2), strict=True):
        more = [i for i in part if i not in own]
        assert sorted(set(part) - set(more)) == list(own)
        assert len(set(more)) == len(more) == again
        assert max(more) < own[0]
        assert np.isin(part[:-again], more).any(), "mixed in, not put at the end"


def test_nothing_comes_twice_again_while_there_is_more():
    levels = np.repeat([1.0, 2.0], [4, 10])
    more = [i for i in epoch(Curriculum(levels, replay=1.0))[4:] if i < 4]
    assert sorted(more.count(i) for i in range(4)) == [2, 2, 3, 3]


@pytest.mark.parametrize(("batch_size", "world_size"), [(4, 1), (2, 2), (1, 4)])
def test_the_order_does_not_depend_on_how_it_is_cut(batch_size, world_size):
    curriculum = Curriculum(LEVELS, replay=0.4)
    assert epoch(curriculum, 1, batch_size, world_size) == epoch(curriculum, 1, curriculum.size)
    assert len(epoch(curriculum, 1)) == curriculum.size == 12 + 1 + 1 + 2


def test_like_lengths_share_a_step_within_a_part():
    rng = np.random.default_rng(0)
    levels, lengths = np.repeat([1.0, 2.0], [42, 160]), rng.integers(1, 1000, 202)
    plain, grouped = (epoch(Curriculum(levels), lengths=each, step_size=8, batch_size=8) for each in (None, lengths))
    assert levels[grouped].tolist() == sorted(levels)
    assert sorted(grouped) == list(range(202))
    inside = [slice(start, start + 8) for start in [*range(0, 40, 8), *range(48, 200, 8)]]  # steps of one part alone
    spread = [
        np.mean([np.ptp(lengths[order[step]]) for step in inside]) for order in (np.array(grouped), np.array(plain))
    ]
    assert spread[0] < spread[1] / 3


def test_the_way_is_told():
    assert str(Curriculum(LEVELS, replay=0.4)) == (
        "easy_to_hard: 4 parts, difficulty 0.0625 to 0.5; an epoch has 12 records and 4 again"
    )


# ---- a run -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def levelled(pairs):
    """The pairs of all tests, each with one of four difficulties."""
    path = pairs.with_name("levelled.jsonl")
    write_jsonl(path, [replace(row, difficulty=2.0 ** -(1 + i % 4)) for i, row in enumerate(RecordFile(pairs))])
    return path


def flags(model, records, output, *more) -> list[str]:
    given = [
        "--model", model, "--data", records, "--output_dir", output, "--lora", "true", "--learning_rate", "1e-2",
        "--num_train_epochs", "2", "--logging_steps", "1", "--save_steps", "4", "--disable_tqdm", "true",
        "--per_device_train_batch_size", "4", *more,
    ]  # fmt: skip
    return list(map(str, given))


WAY = ("--curriculum", "easy_to_hard", "--replay", "0.2")


@pytest.fixture(scope="module")
def whole(tiny_model, levelled, tmp_path_factory):
    output = tmp_path_factory.mktemp("whole")
    train("dpo", flags(tiny_model, levelled, output, *WAY))
    return output


def test_difficulty_rises_in_every_epoch_and_is_logged(whole):
    rows = [row for row in metrics.read(whole) if "loss" in row]
    found = [row["curriculum/difficulty"] for row in rows]
    half = len(found) // 2
    assert len(found) == 2 * 7, "22 records and three times one again are seven steps"
    assert found[0] == found[half] == pytest.approx(2**-4)
    assert found[half - 1] == found[-1] > 0.4
    assert found[:half] == pytest.approx(sorted(found[:half]), abs=0.11)
    said = json.loads((whole / identity.NAME).read_text())
    assert (said["curriculum"], said["curriculum_parts"], said["replay"]) == ("easy_to_hard", None, 0.2)


def test_the_same_run_in_smaller_batches(whole, tiny_model, levelled, tmp_path):
    cut = ("--per_device_train_batch_size", "1", "--gradient_accumulation_steps", "4")
    train("dpo", flags(tiny_model, levelled, tmp_path, *WAY, *cut))
    ours, theirs = metrics.read(tmp_path), metrics.read(whole)
    for name in ("loss", "curriculum/difficulty"):
        assert [row[name] for row in ours] == pytest.approx([row[name] for row in theirs], rel=1e-4)


def test_the_same_run_after_an_interruption_in_an_epoch(whole, tiny_model, levelled, tmp_path, monkeypatch):
    class Interrupted(Exception):
        pass

    def fails(self, *arguments, **more):
        if self.state.global_step == 10:
            raise Interrupted
        return compute(self, *arguments, **more)

    compute = PreferenceTrainer.compute_loss
    with monkeypatch.context() as patched:
        patched.setattr(PreferenceTrainer, "compute_loss", fails)
        with pytest.raises(Interrupted):
            train("dpo", flags(tiny_model, levelled, tmp_path, *WAY))
    train("dpo", flags(tiny_model, levelled, tmp_path, *WAY))
    assert metrics.read(tmp_path) == metrics.read(whole)
    ours, theirs = (load_file(folder / "adapter_model.safetensors") for folder in (tmp_path, whole))
    assert all((ours[name] == theirs[name]).all() for name in theirs)


def test_another_way_is_another_run(whole, tiny_model, levelled):
    with pytest.raises(InputError, match=r"replay: 0.2 -> 0.3"):
        train("dpo", flags(tiny_model, levelled, whole, "--curriculum", "easy_to_hard", "--replay", "0.3"))
    with pytest.raises(InputError, match="curriculum: 'easy_to_hard' -> 'hard_to_easy'"):
        train("dpo", flags(tiny_model, levelled, whole, "--curriculum", "hard_to_easy", "--replay", "0.2"))


# ---- what is chosen, and what is refused ------------------------------------------------------------------


def read(records, *more) -> data.RunData:
    return data.of(parse("dpo", flags("m", records, "o", *more)))


def test_records_are_chosen_by_their_difficulty(levelled):
    rows = list(RecordFile(levelled))
    for given, wanted in ((["0.125"], {0.125}), (["0.1", "0.25"], {0.125, 0.25})):
        found = read(levelled, "--difficulty", *given)
        assert {row.difficulty for row in found.records} == wanted
        assert [row.id for row in found.records] == [row.id for row in rows if row.difficulty in wanted]
        assert rows[found.records.line_of(1) - 1].id == found.records[1].id
    assert str(found) == "11 of 22 records"
    assert data.difficulties(str(levelled), [0.1, 1.0]) == [0.125, 0.25, 0.5]
    with pytest.raises(InputError, match=r"no record has --difficulty 0.3"):
        read(levelled, "--difficulty", "0.3")


def test_held_out_records_need_no_difficulty(levelled, pairs):
    assert len(read(levelled, "--curriculum", "easy_to_hard", "--eval_data", pairs).held_out) == 22
    assert len(read(levelled, "--difficulty", "0.5", "--eval_data", levelled).held_out) == 22


def test_the_first_record_without_a_difficulty_is_named(levelled, tmp_path):
    path = levelled.with_name("gap.jsonl")
    rows = list(RecordFile(levelled))
    write_jsonl(path, [*rows[:4], replace(rows[4], difficulty=None), replace(rows[5], difficulty=None)])
    for way in (WAY, ("--difficulty", "0.5")):
        with pytest.raises(InputError, match="by their difficulty, and this one has none") as caught:
            read(path, *way)
        assert (caught.value.line, caught.value.field) == (5, "difficulty")


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (["--curriculum", "easy"], "one of easy_to_hard, hard_to_easy"),
        ([*WAY, "--shuffle", "false"], "an order of its own"),
        (["--replay", "0.2"], "--replay is of a curriculum"),
        (["--curriculum_parts", "2"], "--curriculum_parts is of a curriculum"),
        (["--curriculum", "easy_to_hard", "--replay", "-1"], "0 or more"),
        (["--curriculum", "easy_to_hard", "--curriculum_parts", "0"], "at least 1"),
        (["--curriculum", "easy_to_hard", "--curriculum_parts", "23"], "there are 22 records"),
        (["--difficulty", "0.5", "0.1"], "the smaller number comes first"),
        (["--difficulty", "1", "2", "3"], "one number, or the smallest and the largest"),
        (["--difficulty", "nan"], "one number, or"),
        (["--fps", "0"], "--fps 0: more than 0"),
        (["--video_pixels", "0"], "--video_pixels 0: at least 1"),
        (["--video", "film"], "one of auto, native, frames"),
        ([], "say --curriculum easy_to_hard, or sort the file"),
    ],
)
def test_refusals(levelled, given, expected):
    with pytest.raises(InputError, match=expected):
        read(levelled, *given)


def test_which_frames_are_seen_is_part_of_the_run():
    given = parse("dpo", flags("m", __file__, "o", "--fps", "1", "--frames", "600", "--video_pixels", "9000000"))
    choice = given.data.frame_choice
    assert (choice.fps, choice.count, choice.pixels) == (1.0, 600, 9_000_000)
    said = identity.of("dpo", *given)
    assert (said["fps"], said["frames"], said["video_pixels"], said["model"]["video"]) == (1.0, 600, 9_000_000, "auto")
