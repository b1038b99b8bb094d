"""Parts of the model that learn at rates of their own, and records that are too long, through the command line."""

from __future__ import annotations

import torch
from safetensors.torch import load_file

from mmalign.training import metrics
from tests.tiny import run_command

FLAGS = (
    "--num_train_epochs",
    "1",
    "--per_device_train_batch_size",
    "2",
    "--logging_steps",
    "1",
    "--save_strategy",
    "no",
)


def test_parts_have_their_own_learning_rates(moved_model, pairs, tmp_path):
    rates = ("--learning_rate", "1e-3", "--tower_learning_rate", "1e-4", "--projector_learning_rate", "0")
    done = run_command(
        "train", "dpo", "--model", moved_model, "--data", pairs, "--output_dir", tmp_path, "--freeze", "none",
        "--lr_scheduler_type", "constant", "--max_steps", "1", *rates, *FLAGS[2:],
    )  # fmt: skip
    table = [line.split() for line in done.stdout.splitlines()]
    assert [row[-1] for row in table if row and row[0] in ("tower", "projector", "language")] == [
        "0.0001",
        "0",
        "0.001",
    ]
    before, after = (load_file(folder / "model.safetensors") for folder in (moved_model, tmp_path))
    moved = {"vision_tower": 0.0, "multi_modal_projector": 0.0, "language_model": 0.0}
    for name, weight in before.items():
        for part in moved:
            if part in name:
                moved[part] = max(moved[part], (after[name] - weight).abs().max().item())
    # Adam's first step moves a weight by its learning rate, wherever its gradient is not next to nothing.
    torch.testing.assert_close(list(moved.values()), [1e-4, 0.0, 1e-3], rtol=0.05, atol=0)


def test_records_that_are_too_long_are_counted(moved_model, pairs, tmp_path):
    """Half of the records have two pictures, of 64 tokens each."""
    given = ["train", "dpo", "--model", moved_model, "--data", pairs, "--output_dir", tmp_path, *FLAGS]
    run_command(*given, "--max_length", "120", "--too_long", "drop")
    rows = metrics.read(tmp_path)
    assert sum(row.get("records/dropped", 0) for row in rows) == 11
    assert not any("records/shortened" in row for row in rows)


def test_a_record_that_is_too_long_stops_the_run_by_line(moved_model, pairs, tmp_path):
    given = ["train", "dpo", "--model", moved_model, "--data", pairs, "--output_dir", tmp_path, *FLAGS]
    done = run_command(*given, "--max_length", "120", check=False)
    assert done.returncode == 2
    assert "pairs.jsonl:" in done.stderr
    assert "more than --max_length 120" in done.stderr
    assert "Traceback" not in done.stderr
    done = run_command(*given, "--too_long", "cut", check=False)
    assert "one of shorten, drop, error" in done.stderr
