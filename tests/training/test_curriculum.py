"""The order of a curriculum, worked by hand: parts, replay, direction, ranks, epochs and resume."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from mmalign import training
from mmalign.records import InputError, RecordFile, write_jsonl
from mmalign.training import checkpoints, data, metrics
from mmalign.training.curriculum import Curriculum
from mmalign.training.options import DataOptions, parse
from mmalign.training.order import EpochOrder

LEVELS = np.array([0.5, 0.125, 0.25, 0.125, 0.5, 0.25, 0.125])
"""Of seven records: three easy ones (1, 3, 6), two in the middle (2, 5), two hard ones (0, 4)."""


def epoch(curriculum: Curriculum, epoch: int = 0, batch_size: int = 1, rank: int = 0, ranks: int = 1) -> list[int]:
    order = EpochOrder(7, batch_size, rank, ranks, seed=3, curriculum=curriculum)
    order.set_epoch(epoch)
    return [index for micro_batch in order for index, counted in micro_batch if counted]


def test_each_difficulty_is_a_part_and_the_easy_ones_come_first():
    for number in range(5):
        found = epoch(Curriculum(LEVELS), number)
        assert [set(found[:3]), set(found[3:5]), set(found[5:])] == [{1, 3, 6}, {2, 5}, {0, 4}]


def test_hard_to_easy_is_the_other_way_round():
    found = epoch(Curriculum(LEVELS, "hard_to_easy"))
    assert [set(found[:2]), set(found[2:4]), set(found[4:])] == [{0, 4}, {2, 5}, {1, 3, 6}]


def test_parts_of_equal_size_whatever_the_difficulties():
    curriculum = Curriculum(np.array([7.0, 6, 5, 4, 3, 2, 1]), count=3)
    assert curriculum.sizes == [3, 2, 2]
    found = epoch(curriculum)
    assert [set(found[:3]), set(found[3:5]), set(found[5:])] == [{6, 5, 4}, {3, 2}, {1, 0}]


def test_ties_at_a_cut_are_broken_by_chance():
    curriculum = Curriculum(np.zeros(7), count=2)
    assert len({frozenset(epoch(curriculum, number)[:4]) for number in range(20)}) > 5


def test_replay_adds_its_share_of_what_came_before():
    curriculum = Curriculum(LEVELS, replay=0.5)
    assert (curriculum.replayed, curriculum.size) == ([0, 1, 1], 9)
    seen = set()
    for number in range(20):
        found = epoch(curriculum, number)
        first, second, third = found[:3], found[3:6], found[6:]
        assert set(first) == {1, 3, 6}
        assert {2, 5} < set(second) and set(second) - {2, 5} < {1, 3, 6}
        assert {0, 4} < set(third) and set(third) - {0, 4} < {1, 2, 3, 5, 6}
        seen |= set(third) - {0, 4}
    assert seen == {1, 2, 3, 5, 6}, "all parts before are drawn from"


def test_more_replay_than_there_is_repeats_evenly():
    found = epoch(Curriculum(np.array([0.0, 0, 1, 1, 1, 1, 1]), replay=1.0))
    assert sorted(found[2:]) in ([0, 0, 0, 1, 1, 2, 3, 4, 5, 6], [0, 0, 1, 1, 1, 2, 3, 4, 5, 6])


def test_ranks_deal_out_the_one_order():
    curriculum = Curriculum(LEVELS, replay=0.5)
    whole = epoch(curriculum, batch_size=2)
    one, two = (epoch(curriculum, batch_size=1, rank=rank, ranks=2) for rank in range(2))
    assert [index for pair in zip(one, [*two, None], strict=True) for index in pair if index is not None] == whole


def test_epochs_differ_and_repeat():
    curriculum = Curriculum(LEVELS)
    assert epoch(curriculum, 1) == epoch(curriculum, 1)
    assert len({tuple(epoch(curriculum, number)) for number in range(10)}) > 5


def test_like_lengths_share_a_step_without_leaving_their_part():
    difficulties, lengths = np.repeat([0.0, 1.0], [10, 14]), np.random.default_rng(0).integers(1, 99, 24)
    order = EpochOrder(24, 4, 0, 1, 3, lengths, 4, Curriculum(difficulties)).order()
    assert set(order[:10]) == set(range(10))
    for start in range(12, 24, 4):  # whole steps of the second part, which began within the third step
        assert np.ptp(np.sort(lengths[order[12:]]).reshape(-1, 4), axis=1).max() >= np.ptp(
            lengths[order[start : start + 4]]
        )


@pytest.fixture(scope="module")
def levelled(pairs):
    """`pairs` with difficulties, in no order: 1, 2, 3 and 1 again."""
    file = pairs.with_name("levelled.jsonl")
    write_jsonl(file, [replace(record, difficulty=1.0 + i % 3) for i, record in enumerate(RecordFile(pairs))])
    return file


def train(model, file, output, *more, status=0):
    words = [
        "--model", model, "--data", file, "--output_dir", output, "--lora", "--learning_rate", "1e-3",
        "--per_device_train_batch_size", "2", "--logging_steps", "1", "--disable_tqdm", "true",
        "--num_train_epochs", "1", "--save_strategy", "no", *more,
    ]  # fmt: skip
    assert training.main("dpo", list(map(str, words))) == status


def test_difficulty_is_logged_and_rises_through_each_epoch(tiny_model, levelled, tmp_path, capsys):
    train(tiny_model, levelled, tmp_path, "--curriculum", "easy_to_hard")
    assert "easy_to_hard: 3 parts, difficulty 1 to 3; an epoch has 22 records" in capsys.readouterr().out
    found = [row["curriculum/difficulty"] for row in metrics.read(tmp_path) if "loss" in row]
    assert found == [1, 1, 1, 1, 2, 2, 2, 2.5, 3, 3, 3]  # 8, 7 and 7 records, two a step


def test_only_records_of_a_difficulty_are_learnt(tiny_model, levelled, tmp_path, capsys):
    train(tiny_model, levelled, tmp_path, "--difficulty", "2", "3")
    assert "14 of 22 records" in capsys.readouterr().out
    assert max(row["step"] for row in metrics.read(tmp_path)) == 7


def test_a_run_goes_on_within_an_epoch(tiny_model, levelled, tmp_path):
    """Of a checkpoint in the middle of the first epoch, the rest is learnt in the same order."""
    more = ["--curriculum", "easy_to_hard", "--replay", "0.5", "--save_strategy", "steps", "--save_steps", "5"]
    train(tiny_model, levelled, tmp_path, *more)
    curve, adapter = metrics.read(tmp_path), (tmp_path / "adapter_model.safetensors").read_bytes()
    for folder in checkpoints.all_of(tmp_path)[1:]:
        (folder / "complete").unlink()
    identity = json.loads((tmp_path / "training.json").read_text())
    (tmp_path / "training.json").write_text(json.dumps({**identity, "finished": False}))
    train(tiny_model, levelled, tmp_path, *more)
    assert metrics.read(tmp_path) == curve
    assert (tmp_path / "adapter_model.safetensors").read_bytes() == adapter


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"curriculum": "easy"}, "--curriculum easy: one of easy_to_hard, hard_to_easy"),
        ({"curriculum": "easy_to_hard", "shuffle": False}, "leave out --shuffle false"),
        ({"curriculum": "easy_to_hard", "curriculum_parts": 0}, "--curriculum_parts 0: at least 1"),
        ({"curriculum": "easy_to_hard", "replay": -0.1}, "--replay -0.1: 0 or more"),
        ({"curriculum_parts": 3}, "--curriculum_parts is of a curriculum"),
        ({"replay": 0.2}, "--replay is of a curriculum"),
        ({"difficulty": [3.0, 1.0]}, "the smaller number comes first"),
        ({"difficulty": [1.0, 2.0, 3.0]}, "one number, or the smallest and the largest"),
        ({"difficulty": [float("nan")]}, "one number, or"),
        ({"fps": 0.0}, "--fps 0: more than 0"),
        ({"video_pixels": 0}, "--video_pixels 0: at least 1"),
    ],
)
def test_options_that_do_not_fit_are_refused(options, expected):
    with pytest.raises(InputError, match=expected):
        DataOptions("pairs.jsonl", **options)


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (["--curriculum", "easy_to_hard"], "pairs.jsonl:1: field 'difficulty'"),
        (["--difficulty", "1"], "pairs.jsonl:1: field 'difficulty'"),
    ],
)
def test_records_without_difficulty_are_named(flags, expected, tiny_model, pairs, tmp_path, capsys):
    train(tiny_model, pairs, tmp_path, *flags, status=2)
    assert expected in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (["--difficulty", "7"], "no record has --difficulty 7"),
        (["--curriculum", "easy_to_hard", "--curriculum_parts", "23"], "there are 22 records"),
        ([], "say --curriculum easy_to_hard"),
    ],
)
def test_records_that_do_not_fit_the_flags_are_refused(flags, expected, tiny_model, levelled, tmp_path, capsys):
    train(tiny_model, levelled, tmp_path, *flags, status=2)
    assert expected in capsys.readouterr().err


def test_difficulties_of_a_file(levelled):
    assert data.difficulties(str(levelled), ()) == [1, 2, 3]
    assert data.difficulties(str(levelled), (2, 9)) == [2, 3]


def test_losses_do_not_depend_on_how_a_step_is_cut(tiny_model, levelled, tmp_path):
    """Over two epochs, with records that come again: every micro-batch stands where it would in one process."""
    more = ["--curriculum", "hard_to_easy", "--curriculum_parts", "3", "--replay", "0.2", "--num_train_epochs", "2"]
    more += ["--learning_rate", "1e-2", "--per_device_train_batch_size"]
    train(tiny_model, levelled, tmp_path / "one", *more, 4)
    train(tiny_model, levelled, tmp_path / "cut", *more, 1, "--gradient_accumulation_steps", 4)
    one, cut = ([row for row in metrics.read(tmp_path / name) if "loss" in row] for name in ("one", "cut"))
    assert len(one) == len(cut) == 12, "22 records and twice one again, in steps of four"
    assert abs(one[0]["loss"] - one[-1]["loss"]) > 0.01
    for name in ("loss", "curriculum/difficulty"):
        assert [row[name] for row in cut] == pytest.approx([row[name] for row in one], rel=1e-4)
    difficulties = [row["curriculum/difficulty"] for row in one]
    assert min(difficulties[0], difficulties[6]) > 2.5 > 2 > max(difficulties[5], difficulties[11])


def test_another_way_is_another_run(tiny_model, levelled, tmp_path, capsys):
    way = ["--curriculum", "easy_to_hard", "--replay"]
    train(tiny_model, levelled, tmp_path, *way, "0.2", "--max_steps", "1")
    for changed, expected in {
        (*way, "0.3"): "replay: 0.2 -> 0.3",
        (*way, "0.2", "--curriculum_parts", "2"): "curriculum_parts: None -> 2",
        (*way, "0.2", "--difficulty", "1", "2"): "difficulty: [] -> [1.0, 2.0]",
        (*way, "0.2", "--fps", "1"): "fps: None -> 1.0",
        (*way, "0.2", "--video_pixels", "900"): "video_pixels: None -> 900",
        (*way, "0.2", "--video", "frames"): "model.video: 'auto' -> 'frames'",
    }.items():
        train(tiny_model, levelled, tmp_path, *changed, "--max_steps", "1", status=2)
        assert expected in capsys.readouterr().err


def test_held_out_records_are_all_of_them_and_need_no_difficulty(levelled, pairs):
    for held_out in (levelled, pairs):
        given = ["--model", "m", "--data", levelled, "--output_dir", "o", "--eval_data", held_out, "--difficulty", "1"]
        assert len(data.of(parse("dpo", list(map(str, given)))).held_out) == 22
