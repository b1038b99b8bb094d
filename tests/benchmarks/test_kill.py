"""``kill -9`` in the middle of predicting, with a real model: the same command gives the same predictions."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import numpy as np
from PIL import Image

from mmalign.benchmarks import pope
from mmalign.records import Prediction, read_jsonl
from tests.tiny import environment, run_command


def test_predictions_survive_a_kill(tiny_model, tmp_path):
    rng = np.random.default_rng(0)
    objects = {}
    for i in range(40):
        Image.fromarray(rng.integers(0, 255, (32, 32, 3), dtype=np.uint8)).save(tmp_path / f"{i}.png")
        objects[f"{i}.png"] = [str(name) for name in rng.choice(["cat", "dog", "cup", "hat", "bus"], 2, replace=False)]
    (tmp_path / "data").mkdir()
    pope.write_questions(tmp_path / "data", objects)
    command = [
        "predict", "pope", "--model", tiny_model, "--data", tmp_path / "data", "--media_root", tmp_path,
        "--unit_size", "4", "--batch_size", "4", "--max_new_tokens", "8", "--output",
    ]  # fmt: skip
    whole, cut = tmp_path / "whole.jsonl", tmp_path / "cut.jsonl"
    run_command(*command, whole)

    killed = 0
    for size in (1, 4000, 12000):  # bytes of answers on disk when the process is killed
        process = subprocess.Popen(
            [sys.executable, "-m", "mmalign.cli", *map(str, command), str(cut)],
            env=environment(),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        shards = tmp_path / "cut.jsonl.run"
        while process.poll() is None and sum(f.stat().st_size for f in shards.glob("shard-*")) < size:
            time.sleep(0.005)
        if process.poll() is None:
            os.kill(process.pid, signal.SIGKILL)
            killed += 1
        process.wait()
    assert killed >= 2
    assert not cut.exists()
    run_command(*command, cut)
    assert cut.read_bytes() == whole.read_bytes()
    ids = [prediction.id for prediction in read_jsonl(cut, Prediction.parse)]
    assert len(ids) == len(set(ids)) == 480
