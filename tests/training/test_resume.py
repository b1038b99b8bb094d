"""``kill -9`` in the middle of training, then the same command: the run is as if nothing had happened."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from safetensors.torch import load_file

from mmalign.training import checkpoints, metrics
from tests.conftest import REPOSITORY
from tests.tiny import deepspeed_command, environment, run_command

FLAGS = (
    "--lora", "--lora_dropout", "0.1", "--learning_rate", "1e-3", "--num_train_epochs", "3", "--logging_steps", "2",
    "--save_steps", "3", "--per_device_train_batch_size", "2", "--gradient_accumulation_steps", "2",
    "--save_total_limit", "2", "--eval_strategy", "steps", "--eval_steps", "6", "--disable_tqdm", "true",
)  # fmt: skip


def command(launcher: list[str], tiny_model: Path, pairs: Path, output: Path) -> list[str]:
    arguments = ["--model", tiny_model, "--data", pairs, "--eval_data", pairs, "--output_dir", output, *FLAGS]
    return [*launcher, *map(str, arguments)]


ONE = [sys.executable, "-m", "mmalign.cli", "train", "dpo"]
TWO = deepspeed_command(
    "--num_gpus", "2", REPOSITORY / "train" / "objective.py", "--objective", "bco", "--deepspeed", "zero2"
)


def kill_when(process: subprocess.Popen, condition) -> None:
    deadline = time.monotonic() + 300
    while not condition():
        assert process.poll() is None, "the run ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


@pytest.mark.parametrize("launcher", [ONE, TWO], ids=["one process", "two processes, ZeRO-2"])
def test_same_curve_and_weights_after_a_kill(launcher, tiny_model, pairs, tmp_path):
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    subprocess.run(command(launcher, tiny_model, pairs, whole), env=environment(), check=True, capture_output=True)
    process = subprocess.Popen(
        command(launcher, tiny_model, pairs, cut),
        env=environment(),
        start_new_session=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    # in the middle of the second epoch, some steps after a checkpoint
    kill_when(process, lambda: _last_step(cut) >= 8 and checkpoints.newest_complete(cut) is not None)
    time.sleep(1)  # ranks of a killed launcher see their pipe break
    done = subprocess.run(command(launcher, tiny_model, pairs, cut), env=environment(), capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "going on from" in done.stdout
    assert metrics.read(cut) == metrics.read(whole)
    ours, theirs = (load_file(folder / "adapter_model.safetensors") for folder in (cut, whole))
    assert all((ours[name] == theirs[name]).all() for name in theirs)
    assert len(checkpoints.all_of(cut)) == 2


def _last_step(folder: Path) -> int:
    if not (folder / metrics.NAME).exists():
        return 0
    return max((row["step"] for row in metrics.read(folder)), default=0)


def test_a_finished_run_is_not_run_again_and_a_changed_one_is_refused(tiny_model, pairs, tmp_path):
    base = ["train", "sft", "--model", tiny_model, "--data", pairs, "--output_dir", tmp_path, "--max_steps", "1"]
    run_command(*base)
    stamp = (tmp_path / "model.safetensors").stat().st_mtime_ns
    assert "finished; nothing to do" in run_command(*base).stdout
    assert (tmp_path / "model.safetensors").stat().st_mtime_ns == stamp
    refused = run_command(*base, "--learning_rate", "1e-6", check=False)
    assert refused.returncode != 0
    assert "learning_rate" in refused.stderr
    assert "another training run" in refused.stderr


def test_a_run_killed_while_its_model_was_written_does_no_step_more(tiny_model, pairs, tmp_path):
    base = [
        "train", "dpo", "--model", tiny_model, "--data", pairs, "--output_dir", tmp_path, "--lora", "--max_steps", "2",
        "--learning_rate", "1e-3", "--per_device_train_batch_size", "2", "--save_steps", "2", "--logging_steps", "1",
    ]  # fmt: skip
    run_command(*base)
    model = tmp_path / "adapter_model.safetensors"
    before, curve = load_file(model), metrics.read(tmp_path)
    identity = json.loads((tmp_path / "training.json").read_text())
    (tmp_path / "training.json").write_text(json.dumps({**identity, "finished": False}))
    model.unlink()
    assert "going on from" in run_command(*base).stdout
    after = load_file(model)
    assert all((after[name] == before[name]).all() for name in before)
    assert [row for row in metrics.read(tmp_path) if "loss" in row] == [row for row in curve if "loss" in row]


def test_starting_over_forgets_checkpoints(tiny_model, pairs, tmp_path):
    base = [
        "train", "sft", "--model", tiny_model, "--data", pairs, "--output_dir", tmp_path, "--lora", "--max_steps", "2",
        "--per_device_train_batch_size", "2", "--save_steps", "1",
    ]  # fmt: skip
    run_command(*base)
    stamp = (tmp_path / "checkpoint-1").stat().st_mtime_ns
    again = run_command(*base, "--resume", "false")
    assert "nothing to do" not in again.stdout and "going on" not in again.stdout
    assert (tmp_path / "checkpoint-1").stat().st_mtime_ns != stamp
    refused = run_command(*base, "--resume", "false", "--learning_rate", "1e-2", check=False)
    assert "another training run" in refused.stderr


def test_half_written_checkpoints_are_never_gone_on_from(tmp_path):
    for step in (3, 6, 9):
        (tmp_path / f"checkpoint-{step}").mkdir()
    checkpoints.mark_complete(tmp_path / "checkpoint-3")
    checkpoints.mark_complete(tmp_path / "checkpoint-6")
    assert checkpoints.newest_complete(tmp_path).name == "checkpoint-6"
    assert [f.name for f in checkpoints.discard_incomplete(tmp_path)] == ["checkpoint-9"]
    checkpoints.rotate(tmp_path, limit=1)
    assert [f.name for f in checkpoints.all_of(tmp_path)] == ["checkpoint-6"]


def test_a_torn_last_metrics_line_is_left_out(tmp_path):
    (tmp_path / metrics.NAME).write_text(json.dumps({"loss": 1.0, "step": 1}) + '\n{"loss": 0.', encoding="utf-8")
    assert metrics.read(tmp_path) == [{"loss": 1.0, "step": 1}]
