"""Which checkpoint a run goes on from, and which it cannot."""

from __future__ import annotations

import pytest

from mmalign.training import checkpoints


@pytest.fixture
def by_deepspeed(tmp_path):
    """What two processes under ZeRO-2 write."""
    step = tmp_path / "global_step3"
    step.mkdir()
    for rank in range(2):
        (step / f"bf16_zero_pp_rank_{rank}_mp_rank_00_optim_states.pt").touch()
    return tmp_path


def test_a_run_goes_on_in_the_way_that_it_began(by_deepspeed, tmp_path_factory):
    plain = tmp_path_factory.mktemp("plain")
    assert checkpoints.misfit(by_deepspeed, deepspeed=True, processes=2) is None
    assert checkpoints.misfit(plain, deepspeed=False, processes=7) is None
    assert "written by 2 processes" in checkpoints.misfit(by_deepspeed, deepspeed=True, processes=3)
    assert "written with DeepSpeed" in checkpoints.misfit(by_deepspeed, deepspeed=False, processes=2)
    assert "written without DeepSpeed" in checkpoints.misfit(plain, deepspeed=True, processes=2)


def test_rotation_keeps_the_newest_and_the_best(tmp_path):
    for number in (2, 4, 6, 10):
        (tmp_path / f"checkpoint-{number}").mkdir()
    checkpoints.rotate(tmp_path, 2, keep=str(tmp_path / "checkpoint-2"))
    assert [folder.name for folder in checkpoints.all_of(tmp_path)] == ["checkpoint-2", "checkpoint-6", "checkpoint-10"]
