"""``--precompute_reference``: the same losses from what the reference said before."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace

import pytest
from PIL import Image

from mmalign.records import Record, RecordFile, read_jsonl, write_jsonl
from mmalign.training import metrics
from tests.conftest import REPOSITORY
from tests.tiny import environment, run_command, run_deepspeed, write_pairs

FLAGS = (
    "--per_device_train_batch_size", "2", "--max_steps", "4", "--logging_steps", "1", "--save_strategy", "no",
    "--disable_tqdm", "true",
)  # fmt: skip
LORA = ("--lora", "true", "--learning_rate", "1e-2")
FULL = ("--learning_rate", "1e-3")


@pytest.fixture
def records(tmp_path):
    """Pairs with all that any objective looks at: spans, and other pictures."""
    path = write_pairs(tmp_path / "data", count=12, seed=3)
    rows = list(RecordFile(path))
    spanned = [
        replace(row, rejected_images=other.images, chosen_spans=((11, 22),), rejected_spans=((11, 30),))
        for row, other in zip(rows, [*rows[2:], *rows[:2]], strict=True)
    ]
    write_jsonl(path, spanned)
    return path


def train(name, model, records, output, *more, check=True):
    return run_command(
        "train", name, "--model", model, "--data", records, "--output_dir", output, *FLAGS, *more, check=check
    )


def curve(folder) -> list[dict]:
    return [row for row in metrics.read(folder) if "loss" in row]


def assert_same(found: list[dict], expected: list[dict]) -> None:
    assert len(found) == len(expected) == 4
    assert abs(found[3]["loss"] - found[0]["loss"]) > 0.01
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.keys() == theirs.keys()
        for name, value in theirs.items():
            tolerance = 1e-4 if name == "loss" else 1e-3
            assert ours[name] == pytest.approx(value, rel=tolerance, abs=1e-5), (theirs["step"], name)


CASES = {
    "dpo, adapter": ("dpo", LORA),
    "dpo, weights": ("dpo", FULL),
    "rdpo, another picture": ("rdpo", LORA),
    "rrpo, adapter": ("rrpo", LORA),
    "rrpo, weights": ("rrpo", FULL),
    "rrpo, another reference": ("rrpo", (*FULL, "--reference")),
}


@pytest.mark.parametrize("name, how", CASES.values(), ids=CASES)
def test_same_losses(name, how, moved_model, tiny_model, records, tmp_path):
    how = (*how, tiny_model) if "--reference" in how else how
    ignore = () if name == "rdpo" else ("--ignore", "rejected_images")
    live, known = tmp_path / "live", tmp_path / "known"
    train(name, moved_model, records, live, *how, *ignore)
    train(name, moved_model, records, known, *how, *ignore, "--precompute_reference", "true")
    assert_same(curve(known), curve(live))


@pytest.mark.parametrize("how", [LORA, FULL], ids=["adapter", "weights"])
def test_same_losses_on_two_processes_with_spread_weights(how, moved_model, records, tmp_path):
    live, known = tmp_path / "live", tmp_path / "known"
    ignore = ("--ignore", "rejected_images")
    train("rrpo", moved_model, records, live, *how, *ignore)
    script = REPOSITORY / "train" / "rrpo.py"
    arguments = ["--model", moved_model, "--data", records, "--output_dir", known, *FLAGS, *how, *ignore]
    one_each = ["--per_device_train_batch_size", "1", "--precompute_reference", "true", "--deepspeed", "zero3"]
    run_deepspeed(2, script, *arguments, *one_each)
    assert_same(curve(known), curve(live))


def test_under_deepspeed_in_bfloat16(moved_model, records, tmp_path):
    """The cache is made in the precision that DeepSpeed casts to: the policy starts where its reference is."""
    script = REPOSITORY / "train" / "rrpo.py"
    base = ["--model", moved_model, "--data", records, *FLAGS, *LORA, "--ignore", "rejected_images"]
    base += ["--per_device_train_batch_size", "1", "--deepspeed", "zero2", "--bf16", "true"]
    run_deepspeed(2, script, *base, "--output_dir", tmp_path / "live")
    run_deepspeed(2, script, *base, "--output_dir", tmp_path / "known", "--precompute_reference", "true")
    live, known = curve(tmp_path / "live"), curve(tmp_path / "known")
    assert known[0]["kl/chosen"] == pytest.approx(live[0]["kl/chosen"], abs=1e-3)
    for ours, theirs in zip(known, live, strict=True):
        assert ours["loss"] == pytest.approx(theirs["loss"], rel=0.02)


def test_held_out_records_and_a_shared_cache(moved_model, tiny_model, records, tmp_path):
    cache = tmp_path / "cache" / "scores.jsonl"
    how = [*LORA, "--reference", tiny_model, "--ignore", "rejected_images", "--eval_data", records]
    how += ["--eval_strategy", "steps", "--eval_steps", "2"]
    known = ["--precompute_reference", "true", "--reference_cache", cache]
    train("dpo", moved_model, records, tmp_path / "live", *how)
    train("dpo", moved_model, records, tmp_path / "one", *how, *known)
    assert sorted(path.name for path in cache.parent.glob("*.jsonl")) == ["scores-eval.jsonl", "scores.jsonl"]
    stamp = cache.stat().st_mtime_ns
    again = train("dpo", moved_model, records, tmp_path / "two", *how, *known, "--beta", "0.2")
    assert "already complete" in again.stderr
    assert cache.stat().st_mtime_ns == stamp
    for ours, theirs in zip(metrics.read(tmp_path / "one"), metrics.read(tmp_path / "live"), strict=True):
        assert ours.get("eval_loss", 0) == pytest.approx(theirs.get("eval_loss", 0), rel=1e-5)


def test_a_stale_cache_is_refused_and_says_what_changed(moved_model, tiny_model, records, tmp_path):
    cache = tmp_path / "scores.jsonl"
    known = ["--precompute_reference", "true", "--reference_cache", cache]
    ignore = ["--ignore", "rejected_images"]
    train("dpo", tiny_model, records, tmp_path / "first", *LORA, *ignore, *known)

    def refused(name, model, *more) -> str:
        done = train(name, model, records, tmp_path / "other", *LORA, *known, *more, check=False)
        assert done.returncode == 2, done.stdout + done.stderr
        return done.stderr

    assert "reference.model: " in refused("dpo", moved_model, *ignore)
    assert "views: " in refused("rdpo", tiny_model)
    assert "max_length: None -> 900" in refused("dpo", tiny_model, *ignore, "--max_length", "900")
    clips = refused("dpo", tiny_model, *ignore, "--fps", "2", "--video_pixels", "900")
    assert "fps: (absent) -> 2.0" in clips and "video_pixels: (absent) -> 900" in clips

    rows = list(read_jsonl(records, Record.parse))
    write_jsonl(records, [replace(rows[0], chosen=rows[1].chosen), *rows[1:]])
    assert "sources: 12 with fingerprint" in refused("dpo", tiny_model, *ignore)

    write_jsonl(records, rows)
    Image.new("RGB", (64, 64), "red").save(records.parent / rows[5].images[0])
    problem = refused("dpo", tiny_model, *ignore)
    assert "pairs.jsonl:6" in problem
    assert "is not what the reference was computed on" in problem


def test_a_damaged_cache_is_named(tiny_model, records, tmp_path):
    cache = tmp_path / "scores.jsonl"
    known = [*LORA, "--ignore", "rejected_images", "--precompute_reference", "true", "--reference_cache", cache]
    train("dpo", tiny_model, records, tmp_path / "first", *known)
    lines = cache.read_text().splitlines()
    lines[3] = lines[3].replace("float32", "float23")
    cache.write_text("\n".join(lines) + "\n")
    done = train("dpo", tiny_model, records, tmp_path / "second", *known, check=False)
    assert done.returncode == 2
    assert "what the reference said is damaged (line 4): delete" in done.stderr


def test_a_kill_in_the_middle_costs_one_batch(moved_model, records, tmp_path):
    how = [*LORA, "--ignore", "rejected_images", "--precompute_reference", "true", "--per_device_eval_batch_size", "1"]
    base = ["train", "dpo", "--model", moved_model, "--data", records, "--output_dir", tmp_path / "cut", *FLAGS, *how]
    command = [sys.executable, "-m", "mmalign.cli", *map(str, base)]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    process = subprocess.Popen(command, env=environment(), start_new_session=True, **quiet)
    shard = tmp_path / "cut" / "reference.jsonl.run" / "shard-00000.jsonl"
    deadline = time.monotonic() + 120
    while not (shard.exists() and shard.read_bytes().count(b'\n#{"unit"')):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.005)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "cut" / "reference.jsonl").exists()
    run_command(*base)
    train("dpo", moved_model, records, tmp_path / "whole", *how)
    name = "reference.jsonl"
    assert (tmp_path / "cut" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    assert curve(tmp_path / "cut") == curve(tmp_path / "whole")


def test_only_what_looks_at_a_reference_can_have_it_precomputed(tiny_model, records, tmp_path):
    done = train("sft", tiny_model, records, tmp_path / "o", "--precompute_reference", "true", check=False)
    assert "sft looks at no reference" in done.stderr
