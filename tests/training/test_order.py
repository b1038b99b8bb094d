"""The order of records: every record once an epoch, whatever the number of ranks."""

from __future__ import annotations

import numpy as np
import pytest

from mmalign.training.curriculum import Curriculum
from mmalign.training.order import EpochOrder


def steps(count: int, batch_size: int, world_size: int, seed: int | None, epoch: int = 0) -> list[list[int]]:
    """Records that count in each step of an epoch, over all ranks."""
    orders = [EpochOrder(count, batch_size, rank, world_size, seed) for rank in range(world_size)]
    for order in orders:
        order.set_epoch(epoch)
    return [
        [index for micro_batch in step for index, counted in micro_batch if counted]
        for step in zip(*orders, strict=True)
    ]


@pytest.mark.parametrize(("batch_size", "world_size"), [(4, 1), (2, 2), (1, 4)])
@pytest.mark.parametrize("count", [1, 10, 12, 13])
def test_every_record_counts_once_in_the_same_step(count, batch_size, world_size):
    found = steps(count, batch_size, world_size, seed=3)
    assert found == steps(count, 4, 1, seed=3)
    assert sorted(index for step in found for index in step) == list(range(count))


def test_every_rank_makes_the_same_number_of_calls():
    orders = [EpochOrder(9, 2, rank, 4, seed=0) for rank in range(4)]
    assert {len(list(order)) for order in orders} == {2}
    assert {len(order) for order in orders} == {2}
    assert all(len(batch) == 2 for order in orders for batch in order)


def test_epochs_differ_and_repeat():
    assert steps(50, 5, 1, seed=1, epoch=0) != steps(50, 5, 1, seed=1, epoch=1)
    assert steps(50, 5, 1, seed=1, epoch=1) == steps(50, 5, 1, seed=1, epoch=1)
    assert steps(50, 5, 1, seed=1) != steps(50, 5, 1, seed=2)


def test_without_shuffling_it_is_the_file_s_order():
    assert steps(7, 3, 1, seed=None, epoch=5) == [[0, 1, 2], [3, 4, 5], [6]]


LENGTHS = np.random.default_rng(0).integers(1, 1000, 203)


@pytest.mark.parametrize(("batch_size", "world_size"), [(4, 1), (2, 2), (1, 4)])
def test_like_lengths_share_a_step_and_every_record_still_counts_once(batch_size, world_size):
    def grouped(epoch: int) -> list[list[int]]:
        orders = [EpochOrder(203, batch_size, rank, world_size, 3, LENGTHS, 4) for rank in range(world_size)]
        for order in orders:
            order.set_epoch(epoch)
        return [
            [i for micro_batch in step for i, counted in micro_batch if counted] for step in zip(*orders, strict=True)
        ]

    found = grouped(0)
    assert sorted(index for step in found for index in step) == list(range(203))
    assert found == grouped(0) != grouped(1)
    spread = np.mean([np.ptp(LENGTHS[step]) for step in found[:50]])
    plain = np.mean([np.ptp(LENGTHS[step]) for step in steps(203, batch_size, world_size, 3)[:50]])
    assert spread < plain / 5
    first = [LENGTHS[step].mean() for step in found[:50]]
    assert abs(np.corrcoef(first, range(50))[0, 1]) < 0.5, "long and short steps come as they like"


def test_grouped_steps_do_not_depend_on_how_they_are_cut():
    def members(batch_size: int, world_size: int) -> list[set[int]]:
        orders = [EpochOrder(203, batch_size, rank, world_size, 3, LENGTHS, 8) for rank in range(world_size)]
        calls = [[i for batch in call for i, counted in batch if counted] for call in zip(*orders, strict=True)]
        cut = 8 // (batch_size * world_size)
        return [set(sum(calls[i : i + cut], [])) for i in range(0, len(calls), cut)]

    assert members(8, 1) == members(2, 2) == members(1, 4)


def test_like_lengths_share_a_step_within_each_part_of_a_curriculum():
    """Whole steps of a part begin where the step that two parts share ends."""
    levels, lengths = np.repeat([1.0, 2.0], [42, 160]), LENGTHS[:202]
    grouped, plain = (
        np.array([i for i, _ in sum(EpochOrder(202, 2, 0, 1, 7, each, 8, Curriculum(levels)), [])])
        for each in (lengths, None)
    )
    assert levels[grouped].tolist() == levels[plain].tolist() == sorted(levels)
    assert sorted(grouped) == list(range(202))
    steps_of_one_part = [slice(start, start + 8) for start in [*range(0, 40, 8), *range(48, 200, 8)]]
    ours, theirs = (np.mean([np.ptp(lengths[o[step]]) for step in steps_of_one_part]) for o in (grouped, plain))
    assert ours < theirs / 3
