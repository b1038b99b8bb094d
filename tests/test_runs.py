"""Runs that are killed, resumed, split and merged; seeds that must never change."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from mmalign.records import InputError
from mmalign.runs import Drop, Summary, Unit, Work, fingerprint, rank, run, stable_seed, uniform, world_size

ITEMS = [f"s{i}" for i in range(23)]
MANIFEST = {"options": {"temperature": 0.7, "tries": 3}, "model": "abc"}


def work(unit: Unit) -> Iterator[tuple[str, list[dict] | Drop]]:
    """Every fifth source is dropped; results come in reverse, as they may from a sorted batch."""
    for source in reversed(unit.items):
        number = int(source[1:])
        if number % 5 == 4:
            yield source, Drop("blank" if number % 2 else "same", f"{source} was é")
        else:
            yield source, [{"id": f"{source}#{k}", "text": "é" * (number + k)} for k in range(1 + number % 3)]


def go(output: Path, items: list = ITEMS, work: Work = work, **options: object) -> Summary:
    options = {"unit_size": 4, "manifest": MANIFEST, "description": "test", "progress": False, **options}
    return run(output, items, work, **options)


def as_rank(monkeypatch: pytest.MonkeyPatch, number: int, size: int) -> None:
    monkeypatch.setenv("RANK", str(number))
    monkeypatch.setenv("WORLD_SIZE", str(size))


def never(unit: Unit) -> Iterator[tuple[str, Drop]]:
    raise AssertionError(f"unit {unit.index} was done again")


@pytest.fixture
def whole(tmp_path: Path) -> bytes:
    """The output of a run that nothing disturbed."""
    go(tmp_path / "whole.jsonl")
    return (tmp_path / "whole.jsonl").read_bytes()


def test_output_is_in_the_order_of_the_sources(tmp_path: Path) -> None:
    summary = go(tmp_path / "out.jsonl")
    ids = [json.loads(line)["id"] for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    expected = [f"s{i}#{k}" for i in range(23) if i % 5 != 4 for k in range(1 + i % 3)]
    assert ids == expected
    assert summary == Summary(23, kept=19, records=len(ids), drops={"blank": 2, "same": 2}, complete=True)
    listed = (tmp_path / "out.jsonl.run" / "drops.jsonl").read_text().splitlines()
    drops = [json.loads(line) for line in listed]
    assert [drop["source"] for drop in drops] == ["s4", "s9", "s14", "s19"]
    assert drops[0] == {"source": "s4", "reason": "same", "detail": "s4 was é"}
    assert json.loads((tmp_path / "out.jsonl.run" / "manifest.json").read_text())["counts"]["kept"] == 19


def test_complete_run_does_nothing_and_says_the_same(tmp_path: Path, whole: bytes) -> None:
    first = go(tmp_path / "out.jsonl")
    assert go(tmp_path / "out.jsonl", work=never) == first
    (tmp_path / "out.jsonl").unlink()  # the shards still hold it
    assert go(tmp_path / "out.jsonl", work=never) == first
    assert (tmp_path / "out.jsonl").read_bytes() == whole


def test_error_in_work_leaves_its_unit_undone(tmp_path: Path, whole: bytes) -> None:
    def fails(unit: Unit) -> Iterator:
        for position, result in enumerate(work(unit)):
            if (unit.index, position) == (3, 2):
                raise OSError("disk")
            yield result

    with pytest.raises(OSError, match="disk"):
        go(tmp_path / "out.jsonl", work=fails)
    assert not (tmp_path / "out.jsonl").exists()
    redone = []
    go(tmp_path / "out.jsonl", work=lambda unit: redone.append(unit.index) or work(unit))
    assert redone == [3, 4, 5]
    assert (tmp_path / "out.jsonl").read_bytes() == whole


@pytest.mark.parametrize("size", [2, 3, 9])
def test_any_number_of_ranks_gives_the_same_bytes(
    tmp_path: Path, whole: bytes, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    summaries = []
    for number in reversed(range(size)):
        as_rank(monkeypatch, number, size)
        summaries.append(go(tmp_path / "out.jsonl"))
        assert (tmp_path / "out.jsonl").exists() == summaries[-1].complete
    assert (tmp_path / "out.jsonl").read_bytes() == whole
    assert summaries[-1].complete
    assert summaries[-1].sources == 23


def test_resume_with_another_number_of_ranks(tmp_path: Path, whole: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    done = []
    for number, size in ((1, 3), (0, 2), (0, 1)):
        as_rank(monkeypatch, number, size)
        summary = go(tmp_path / "out.jsonl", work=lambda unit: done.append(unit.index) or work(unit))
    assert done == [1, 4, 0, 2, 3, 5]  # 1 of 3; then 0 of 2 less unit 4; then what is left
    assert summary.complete
    assert (tmp_path / "out.jsonl").read_bytes() == whole


@pytest.mark.parametrize("rank_that_resumes", [0, 1])
def test_a_shard_cut_at_any_byte_is_made_whole(
    tmp_path: Path, rank_that_resumes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also when the rank that wrote it is gone, and its torn shard is only read."""
    items = ITEMS[:5]
    go(tmp_path / "out.jsonl", items, unit_size=2)
    expected = (tmp_path / "out.jsonl").read_bytes()
    shard = tmp_path / "out.jsonl.run" / "shard-00000.jsonl"
    content = shard.read_bytes()
    ends = [at for at, byte in enumerate(content) if byte == ord("\n")]
    for cut in sorted({*range(0, len(content), 60), *ends, *(end + 1 for end in ends)}):
        (tmp_path / "out.jsonl").unlink()
        for path in shard.parent.glob("shard-*"):
            path.unlink()
        shard.write_bytes(content[:cut])
        if rank_that_resumes == 1:
            for number in (1, 0):
                as_rank(monkeypatch, number, 2)
                summary = go(tmp_path / "out.jsonl", items, unit_size=2)
        else:
            summary = go(tmp_path / "out.jsonl", items, unit_size=2)
        assert summary.sources == 5
        assert (tmp_path / "out.jsonl").read_bytes() == expected, cut


def test_a_kill_between_the_merge_and_its_note(tmp_path: Path, whole: bytes) -> None:
    first = go(tmp_path / "out.jsonl")
    manifest = tmp_path / "out.jsonl.run" / "manifest.json"
    manifest.write_text(json.dumps({**json.loads(manifest.read_text()), "counts": None}))
    (tmp_path / "out.jsonl.run" / "merged.tmp").write_text("half a mer")
    assert go(tmp_path / "out.jsonl", work=never) == first
    assert (tmp_path / "out.jsonl").read_bytes() == whole
    assert not list(tmp_path.glob("out.jsonl.run/*.tmp"))


def test_bytes_that_the_disk_lost_are_not_believed(tmp_path: Path, whole: bytes) -> None:
    go(tmp_path / "out.jsonl")
    shard = tmp_path / "out.jsonl.run" / "shard-00000.jsonl"
    content = bytearray(shard.read_bytes())
    content[5:15] = bytes(10)  # as after a power failure: the end line is on the disk, the rows are not
    shard.write_bytes(content)
    (tmp_path / "out.jsonl").unlink()
    redone = []
    go(tmp_path / "out.jsonl", work=lambda unit: redone.append(unit.index) or work(unit))
    assert redone == [0]
    assert (tmp_path / "out.jsonl").read_bytes() == whole


# A job of its own: slow enough to be killed in its middle, with units of very different sizes.
SCRIPT = """
import sys, time
from mmalign.runs import Drop, run, stable_seed, uniform
import numpy as np

def work(unit):
    for source in unit.items:
        time.sleep(0.002)
        seed = stable_seed(7, source)
        if seed % 5 == 0:
            yield source, Drop("unlucky", source)
        else:
            draws = uniform(np.array([seed], dtype=np.uint64), 0)
            yield source, [{"id": f"{source}#{k}", "draw": float(draws[0]), "text": "x" * (seed % 40_000)}
                           for k in range(1 + seed % 3)]

print(run(sys.argv[1], [f"s{i}" for i in range(150)], work, unit_size=5, manifest={"seed": 7},
          description="kill me", progress=False))
"""


def start(output: Path, number: int = 0, size: int = 1) -> subprocess.Popen:
    root = str(Path(__file__).resolve().parent.parent)
    environment = {**os.environ, "RANK": str(number), "WORLD_SIZE": str(size), "PYTHONPATH": root}
    return subprocess.Popen(
        [sys.executable, "-c", SCRIPT, str(output)],
        env=environment,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def grown(output: Path, size: int) -> bool:
    """Whether the shard of rank 0 has more than ``size`` bytes."""
    return sum(path.stat().st_size for path in Path(f"{output}.run").glob("shard-00000.jsonl")) > size


def test_kill_9_again_and_again_loses_nothing_and_doubles_nothing(tmp_path: Path) -> None:
    output = tmp_path / "killed.jsonl"
    chance = random.Random(0)
    kills = 0
    for size in (0, 500_000, 1_500_000, 2_500_000):  # the whole is about 4 MB
        process = start(output)
        while process.poll() is None and not grown(output, size):
            time.sleep(0.001)
        time.sleep(chance.random() * 0.02)
        process.send_signal(signal.SIGKILL)
        kills += process.wait() == -signal.SIGKILL
        process.communicate()
    assert kills == 4
    assert not output.exists()
    with (Path(f"{output}.run") / "shard-00000.jsonl").open("ab") as shard:
        shard.write(b'{"id": "torn')  # a write that the kill cut in two
    last, undisturbed = start(output), start(tmp_path / "calm.jsonl")
    said, expected = last.communicate(), undisturbed.communicate()
    assert last.returncode == undisturbed.returncode == 0, said
    assert said == expected
    assert output.read_bytes() == (tmp_path / "calm.jsonl").read_bytes()


def test_ranks_at_once_and_one_of_them_twice(tmp_path: Path) -> None:
    output = tmp_path / "out.jsonl"
    first, second = start(output, 0, 2), start(output, 1, 2)
    while not grown(output, 0):
        assert first.poll() is None
        time.sleep(0.001)
    first.send_signal(signal.SIGSTOP)  # so that it cannot be done before its twin has started
    twin = start(output, 0, 2)
    refusal = twin.communicate()[1]
    first.send_signal(signal.SIGCONT)
    said = [process.communicate() for process in (first, second)]
    assert first.returncode == second.returncode == 0, said
    assert any("complete=True" in out for out, _ in said)
    assert twin.returncode != 0
    assert "another process is at work on this output as rank 0" in refusal
    alone = start(tmp_path / "alone.jsonl")
    alone.communicate()
    assert output.read_bytes() == (tmp_path / "alone.jsonl").read_bytes()


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"manifest": {**MANIFEST, "model": "xyz"}}, "model: abc -> xyz"),
        ({"manifest": {**MANIFEST, "options": {"temperature": 1.0, "tries": 3}}}, "options.temperature: 0.7 -> 1.0"),
        ({"manifest": {"options": MANIFEST["options"]}}, "model: abc -> (absent)"),
        ({"unit_size": 5}, "unit_size: 4 -> 5"),
        ({"items": ITEMS[:-1]}, "sources: 23 with fingerprint"),
    ],
)
def test_another_run_is_refused_by_what_changed(tmp_path: Path, change: dict, named: str) -> None:
    go(tmp_path / "out.jsonl")
    before = (tmp_path / "out.jsonl").read_bytes()
    with pytest.raises(InputError) as caught:
        go(tmp_path / "out.jsonl", **{"work": never, **change})
    assert named in str(caught.value)
    assert "manifest.json" in str(caught.value)
    assert str(caught.value).count("->") == 1  # what did not change is not named
    assert (tmp_path / "out.jsonl").read_bytes() == before


def test_changed_content_of_a_source_is_noticed(tmp_path: Path) -> None:
    def one(unit: Unit) -> Iterator:
        for item in unit.items:
            yield item["id"], [item]

    go(tmp_path / "out.jsonl", [{"id": "a", "text": "x"}], one)
    with pytest.raises(InputError, match="sources"):
        go(tmp_path / "out.jsonl", [{"id": "a", "text": "y"}], one)


def test_a_manifest_key_may_have_any_name(tmp_path: Path) -> None:
    go(tmp_path / "out.jsonl", manifest={"sources": "coco", "unit_size": "x"})
    with pytest.raises(InputError, match="differently: sources: coco -> nlvr"):
        go(tmp_path / "out.jsonl", manifest={"sources": "nlvr", "unit_size": "x"})


def test_output_that_did_not_come_from_a_run_is_left_alone(tmp_path: Path) -> None:
    output = tmp_path / "out.jsonl"
    output.write_text("mine\n")
    with pytest.raises(InputError, match="already exists.*move it away"):
        go(output)
    assert output.read_text() == "mine\n"
    assert not Path(f"{output}.run").exists()


def test_shards_without_or_with_a_damaged_manifest_are_refused(tmp_path: Path) -> None:
    go(tmp_path / "out.jsonl")
    (tmp_path / "out.jsonl").unlink()
    manifest = tmp_path / "out.jsonl.run" / "manifest.json"
    manifest.write_text("{")
    with pytest.raises(InputError, match="damaged"):
        go(tmp_path / "out.jsonl")
    manifest.unlink()
    with pytest.raises(InputError, match="manifest.json is gone"):
        go(tmp_path / "out.jsonl")


def test_repeated_source_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="sources 2 and 4 of the input are both 'b'"):
        go(tmp_path / "out.jsonl", ["a", "b", "c", "b"])


@pytest.mark.parametrize(
    ("results", "message"),
    [
        ([("s0", [{"id": "s0"}]), ("s0", [{"id": "s0"}])], "twice"),
        ([("s1", [{"id": "s1"}])], "not in the unit"),
        ([("s0", [])], "no record and no Drop"),
        ([], "gave nothing for"),
    ],
)
def test_work_is_held_to_its_contract(tmp_path: Path, results: list, message: str) -> None:
    with pytest.raises(RuntimeError, match=message):
        go(tmp_path / "out.jsonl", ["s0"], lambda unit: iter(results))


def test_no_sources_give_an_empty_output(tmp_path: Path) -> None:
    assert go(tmp_path / "out.jsonl", []).complete
    assert (tmp_path / "out.jsonl").read_bytes() == b""


def test_progress_bar_starts_at_what_is_done(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    def stops(unit: Unit) -> Iterator:
        if unit.index == 3:
            raise KeyboardInterrupt
        yield from work(unit)

    with pytest.raises(KeyboardInterrupt):
        go(tmp_path / "out.jsonl", work=stops)
    capfd.readouterr()
    options = {"unit_size": 4, "manifest": MANIFEST, "description": "pairs"}
    run(tmp_path / "out.jsonl", ITEMS, work, **options)
    shown = capfd.readouterr().err
    assert "pairs:  52%" in shown and "12/23" in shown
    assert "23/23" in shown and "kept=19, dropped=4" in shown
    run(tmp_path / "out.jsonl", ITEMS, never, **options)
    assert "already complete" in capfd.readouterr().err


def test_ranks_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RANK", raising=False)
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    assert (rank(), world_size()) == (0, 1)
    as_rank(monkeypatch, 2, 3)
    assert (rank(), world_size()) == (2, 3)
    as_rank(monkeypatch, 3, 3)
    with pytest.raises(InputError, match="RANK=3"):
        rank()
    monkeypatch.setenv("WORLD_SIZE", "many")
    with pytest.raises(InputError, match="WORLD_SIZE='many'"):
        world_size()


def test_seeds_never_change() -> None:
    assert stable_seed(0, "a", 1) == 7376671040889259502
    assert stable_seed() == 2858069222894195974
    assert stable_seed({"b": 1, "a": "é"}) == stable_seed({"a": "é", "b": 1})
    all_parts = ((1,), (1.0,), (True,), ("1",), ([1],), (1, None), ("1", ""))
    different = [stable_seed(*parts) for parts in all_parts]
    assert len(set(different)) == len(different)
    assert all(0 <= seed < 2**63 for seed in different)


def test_random_numbers_never_change() -> None:
    seeds = np.array([0, 1, 2**64 - 1], dtype=np.uint64)
    assert uniform(seeds, 0).tolist() == [0.6524484863740322, 0.36818951565166946, 0.3662420901697574]
    assert uniform(seeds, 5).tolist() == [0.14623465613318143, 0.7743991716672016, 0.15403342580516755]


def splitmix64(state: int) -> tuple[int, int]:
    """The reference algorithm on Python integers: (next state, output)."""
    state = (state + 0x9E3779B97F4A7C15) % 2**64
    z = (state ^ (state >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
    z = (z ^ (z >> 27)) * 0x94D049BB133111EB % 2**64
    return state, z ^ (z >> 31)


def test_a_stream_is_splitmix64_started_at_the_mixed_seed() -> None:
    assert splitmix64(0)[1] == 0xE220A8397B1DCDAF  # the published first output for state 0
    state = splitmix64(123)[1]
    for counter in range(5):
        state, bits = splitmix64(state)
        assert uniform(np.array([123]), counter)[0] == (bits >> 11) / 2**53


def test_streams_are_uniform_and_unrelated() -> None:
    seeds = np.arange(20_000, dtype=np.uint64)
    now, later = uniform(seeds, 0), uniform(seeds, 1)
    assert now.min() >= 0 and now.max() < 1
    assert abs(now.mean() - 0.5) < 0.01
    assert abs(now.var() - 1 / 12) < 0.002
    counts = np.histogram(now, bins=20, range=(0, 1))[0]
    assert ((counts - 1000) ** 2 / 1000).sum() < 45  # chi-squared with 19 degrees: 1 in 1000
    for other in (later, np.roll(now, 1), uniform(seeds + np.uint64(0x9E3779B97F4A7C15), 0)):
        assert abs(np.corrcoef(now, other)[0, 1]) < 0.03
    stream = np.array([uniform(np.array([3]), counter)[0] for counter in range(2000)])
    assert abs(stream.mean() - 0.5) < 0.03
    assert abs(np.corrcoef(stream[:-1], stream[1:])[0, 1]) < 0.08


def test_uniform_keeps_the_shape_and_ignores_the_neighbours() -> None:
    seeds = np.array([[5, 6], [7, 8]], dtype=np.uint64)
    assert uniform(seeds, 2).shape == (2, 2)
    assert uniform(seeds, 2)[1, 0] == uniform(np.array([7]), 2)[0] == uniform(np.uint64(7), 2)
    with pytest.raises(TypeError, match="integers"):
        uniform(np.array([1.0]), 0)


def test_fingerprint_of_files_and_folders(tmp_path: Path) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "b" / "x.txt").write_text("one")
    seen = {fingerprint(tmp_path / "a")}
    (tmp_path / "a" / "b" / "x.txt").write_text("two")
    seen.add(fingerprint(tmp_path / "a"))
    (tmp_path / "a" / "b" / "x.txt").rename(tmp_path / "a" / "b" / "y.txt")
    seen.add(fingerprint(tmp_path / "a"))
    seen |= {
        fingerprint(tmp_path / "a" / "b" / "y.txt"),
        fingerprint(str(tmp_path / "a")),
        fingerprint("ab"),
        fingerprint("a", "b"),
        fingerprint(b"ab"),
        fingerprint({"ab": 1}),
        fingerprint(),
    }
    assert len(seen) == 10
    assert fingerprint(b"a", b"b") != fingerprint(b"abytesb")  # where a thing ends is part of it
    assert fingerprint({"a": 1, "b": 2}) == fingerprint({"b": 2, "a": 1})
    with pytest.raises(InputError, match="gone"):
        fingerprint(tmp_path / "gone")
