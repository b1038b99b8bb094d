"""Two nodes of one process each, over the loopback: the same losses as one process."""

from __future__ import annotations

import subprocess

import pytest

from mmalign.training import metrics
from tests.conftest import REPOSITORY
from tests.tiny import deepspeed_command, environment, run_command

FLAGS = (
    "--learning_rate", "3e-3", "--lora", "true", "--max_steps", "4", "--logging_steps", "1", "--save_strategy", "no",
    "--disable_tqdm", "true",
)  # fmt: skip


@pytest.mark.parametrize("zero", ["zero2", "zero3"])
def test_two_nodes(moved_model, tiny_model, mixed_pairs, tmp_path, zero):
    base = ["--model", moved_model, "--reference", tiny_model, "--data", mixed_pairs, *FLAGS]
    one, two = tmp_path / "one", tmp_path / "two"
    run_command("train", "dpo", *base, "--output_dir", one, "--per_device_train_batch_size", "4")
    hosts = tmp_path / "hostfile"
    hosts.write_text("127.0.0.1 slots=1\nlocalhost slots=1\n")
    both = deepspeed_command("--hostfile", hosts, "--no_ssh", "--master_addr", "127.0.0.1")
    script = [REPOSITORY / "train" / "dpo.py", *base, "--output_dir", two, "--deepspeed", zero]
    script += ["--per_device_train_batch_size", "2"]
    nodes = [
        subprocess.Popen(
            list(map(str, [*both, "--node_rank", rank, *script])),
            env=environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in (0, 1)
    ]
    said = [node.communicate(timeout=300)[0] for node in nodes]
    assert [node.returncode for node in nodes] == [0, 0], said
    losses = [[row["loss"] for row in metrics.read(folder) if "loss" in row] for folder in (one, two)]
    assert len(losses[0]) == 4
    assert abs(losses[0][0] - 0.6931) > 0.05
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)
