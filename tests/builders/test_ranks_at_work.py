"""The same set from any number of real processes, also after one of them was killed in the middle."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from scripted import media, source

from mmalign import builders
from mmalign.records import write_jsonl
from tests.conftest import REPOSITORY
from tests.tiny import deepspeed_command, environment, write_model

CAPTION = "A large red circle is at the top. There is a small blue star on the right."
LIMITS = ("--max_sentence_tokens", "12", "--max_answer_tokens", "12", "--unit_size", "2", "--n_tries", "3")


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[str], bytes]:
    """The flags of a build of 48 sources, of which one has a corrupt picture, and what one process makes of it."""
    folder = tmp_path_factory.mktemp("work")
    model = write_model(folder / "model", seed=0)
    media(folder)
    rows = [source(f"s{i}", CAPTION, ("cut.png" if i == 17 else "ab"[i % 2] + ".png",)) for i in range(48)]
    write_jsonl(folder / "sources.jsonl", rows)
    flags = ["--model", str(model), "--data", str(folder / "sources.jsonl"), *LIMITS]
    assert builders.main("bdhs", [*flags, "--output", str(folder / "one.jsonl")]) == 0
    return flags, (folder / "one.jsonl").read_bytes()


def launch(ranks: int, flags: list[str], output: Path) -> subprocess.Popen[str]:
    command = deepspeed_command(
        "--num_gpus", str(ranks), REPOSITORY / "data_builders" / "bdhs.py", *flags, "--output", output
    )
    return subprocess.Popen(command, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def finished(output: Path) -> dict[str, int]:
    """Units in each rank's shard."""
    shards = sorted(Path(f"{output}.run").glob("shard-*.jsonl"))
    return {shard.name: sum(line.startswith(b"#") for line in shard.read_bytes().splitlines()) for shard in shards}


def process_of(rank: int, launcher: subprocess.Popen[str], output: Path) -> int:
    """The process that works as ``rank`` on ``output``, by its own command line and environment."""
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            told = (entry / "cmdline").read_bytes().split(b"\0")
            variables = (entry / "environ").read_bytes().split(b"\0")
        except OSError:
            continue
        if os.fsencode(output) in told and f"RANK={rank}".encode() in variables and int(entry.name) != launcher.pid:
            return int(entry.name)
    raise AssertionError(f"no process works as rank {rank}")


def wait_for(condition: Callable[[], bool], launcher: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 300
    while not condition():
        assert time.monotonic() < deadline and launcher.poll() is None, launcher.communicate()[0]
        time.sleep(0.005)


def test_a_rank_is_killed_and_others_finish_its_work(work: tuple[list[str], bytes], tmp_path: Path) -> None:
    flags, whole = work
    output = tmp_path / "pairs.jsonl"
    four = launch(4, flags, output)
    wait_for(lambda: finished(output).get("shard-00002.jsonl", 0) >= 1, four)
    os.kill(process_of(2, four, output), signal.SIGKILL)
    said = four.communicate(timeout=300)[0]
    assert four.returncode != 0, said
    assert not output.exists()
    done = finished(output)
    assert 1 <= done["shard-00002.jsonl"] < 6, "killed in the middle of its six units"
    two = launch(2, flags, output)
    said = two.communicate(timeout=300)[0]
    assert two.returncode == 0, said
    assert output.read_bytes() == whole
    assert "47 records from 47 of 48 sources" in said
    assert "dropped: truncated" in said
