"""The losses of a run do not depend on how its steps are cut into micro-batches and processes."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file

from mmalign.training import metrics
from tests.conftest import REPOSITORY
from tests.tiny import run_command, run_deepspeed

FLAGS = (
    "--learning_rate", "3e-4", "--max_steps", "10", "--logging_steps", "1", "--save_strategy", "no",
    "--eval_strategy", "steps", "--eval_steps", "5", "--disable_tqdm", "true",
)  # fmt: skip


ZERO3 = {
    "weights": ("--learning_rate", "3e-4"),
    "adapter": ("--lora", "true", "--learning_rate", "3e-3"),
    "adapter, recomputed": ("--lora", "true", "--learning_rate", "3e-3", "--gradient_checkpointing", "true"),
    "adapter on the head too": (
        "--lora",
        "true",
        "--learning_rate",
        "3e-3",
        "--lora_target_modules",
        "q_proj",
        "lm_head",
    ),
}


def flags(moved_model, tiny_model, pairs, output, per_device: int, accumulation: int = 1) -> list:
    """A full fine-tuning run whose policy has left its reference, where that is another, from the first step on."""
    reference = [] if tiny_model is None else ["--reference", tiny_model]
    return [
        "--model", moved_model, *reference, "--data", pairs, "--eval_data", pairs,
        "--output_dir", output, "--per_device_train_batch_size", per_device,
        "--per_device_eval_batch_size", "3", "--gradient_accumulation_steps", accumulation, *FLAGS,
    ]  # fmt: skip


@pytest.fixture(scope="module")
def one_process(moved_model, tiny_model, pairs, tmp_path_factory):
    output = tmp_path_factory.mktemp("one")
    run_command("train", "dpo", *flags(moved_model, tiny_model, pairs, output, 4))
    rows = metrics.read(output)
    losses = [row["loss"] for row in rows if "loss" in row]
    assert len(losses) == 10
    assert abs(losses[0] - 0.6931) > 0.05
    assert abs(losses[9] - losses[0]) > 0.01
    return rows


def assert_same(rows: list[dict], expected: list[dict]) -> None:
    assert [row["step"] for row in rows] == [row["step"] for row in expected]
    for ours, theirs in zip(rows, expected, strict=True):
        tolerance = 1e-5 if theirs["step"] == 1 else 1e-4
        for name in ("loss", "eval_loss", "logps/chosen", "logps/rejected", "eval_logps/chosen"):
            if name in theirs:
                assert ours[name] == pytest.approx(theirs[name], rel=tolerance), (theirs["step"], name)
        assert ours.get("tokens") == theirs.get("tokens")


@pytest.mark.parametrize("accumulation", [2, 4])
def test_accumulation(one_process, moved_model, tiny_model, pairs, tmp_path, accumulation):
    run_command("train", "dpo", *flags(moved_model, tiny_model, pairs, tmp_path, 4 // accumulation, accumulation))
    assert_same(metrics.read(tmp_path), one_process)


def test_two_processes_under_deepspeed(one_process, moved_model, tiny_model, pairs, tmp_path, monkeypatch):
    """Also where a compilation that was killed left its lock behind: nothing is compiled, so nobody waits for it."""
    compiled = tmp_path / "compiled"
    (compiled / "deepspeed_shm_comm").mkdir(parents=True)
    (compiled / "deepspeed_shm_comm" / "lock").touch()
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(compiled))
    script = REPOSITORY / "train" / "dpo.py"
    arguments = flags(moved_model, tiny_model, pairs, tmp_path / "run", 2)
    run_deepspeed(2, script, "--deepspeed", "zero2", *arguments)
    assert_same(metrics.read(tmp_path / "run"), one_process)


def one_and_two_processes(model, data, folder, zero: str, *extra) -> tuple:
    """Folders of one training in one process and in two, whose losses move and are the same."""
    one, two = folder / "one", folder / "two"
    run_command("train", "dpo", *flags(model, None, data, one, 4), *extra)
    script = REPOSITORY / "train" / "dpo.py"
    run_deepspeed(2, script, "--deepspeed", zero, *flags(model, None, data, two, 2), *extra)
    expected = metrics.read(one)
    losses = [row["loss"] for row in expected if "loss" in row]
    assert abs(losses[9] - losses[0]) > 0.01
    assert_same(metrics.read(two), expected)
    return one, two


def test_two_processes_with_an_adapter(moved_model, tiny_model, pairs, tmp_path):
    adapter = ("--lora", "true", "--learning_rate", "3e-3")
    one_and_two_processes(moved_model, pairs, tmp_path, "zero2", *adapter, "--reference", tiny_model)


@pytest.mark.parametrize("extra", ZERO3.values(), ids=ZERO3)
def test_two_processes_with_spread_weights(moved_model, mixed_pairs, tmp_path, extra):
    """ZeRO-3 on text, pictures and clips: nobody waits for a rank that has none; the reference is spread too."""
    folders = one_and_two_processes(moved_model, mixed_pairs, tmp_path, "zero3", *extra)
    files = [next(folder.glob("*.safetensors")) for folder in folders]
    first, second = (load_file(file) for file in files)
    assert first.keys() == second.keys()
    for name, weight in first.items():
        torch.testing.assert_close(second[name], weight, rtol=1e-3, atol=1e-4)
