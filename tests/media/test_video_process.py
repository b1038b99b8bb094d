"""The process that decodes: it hangs, crashes, is forked away from, and ends with its parent."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image

from mmalign.media import FrameChoice, MediaError, _process, probe, read_clip, read_indices, stream
from mmalign.records import InputError
from tests.conftest import REPOSITORY
from tests.tiny import write_clip

HANGS = "import sys, time; sys.stdin.readline(); time.sleep(60)"
CRASHES = "import sys, os; sys.stdin.readline(); os.kill(os.getpid(), 11)"
WORKS = (
    "import sys, time; sys.stdin.readline()\n"
    "for _ in range(6): time.sleep(0.2); print('{\"alive\": true}', flush=True)\n"
    'print(\'{"end": true, "error": "at last", "reason": "truncated"}\', flush=True)'
)


@pytest.fixture
def clip(tmp_path):
    write_clip(tmp_path / "clip.avi", [Image.new("RGB", (64, 48), (20 * i,) * 3) for i in range(10)])
    return tmp_path / "clip.avi"


@pytest.fixture(autouse=True)
def fresh():
    _process.close()
    yield
    _process.close()


def grey(frame) -> int:
    return round(np.asarray(frame).mean() / 20)


@pytest.mark.parametrize(("program", "reason"), [(HANGS, "timeout"), (CRASHES, "crashed"), (WORKS, "truncated")])
def test_a_decoder_that_fails_is_replaced(clip, monkeypatch, program, reason):
    monkeypatch.setenv("MMALIGN_VIDEO_TIMEOUT", "0.7")
    with monkeypatch.context() as patch:
        patch.setattr(_process, "COMMAND", (sys.executable, "-c", program))
        with pytest.raises(MediaError, match=r"clip\.avi") as caught:
            read_clip(clip)
        assert caught.value.reason == reason
        _process.close()
    monkeypatch.delenv("MMALIGN_VIDEO_TIMEOUT")
    assert grey(read_indices(clip, [3])[0]) == 3


def test_one_that_was_killed_while_idle_is_not_missed(clip):
    read_clip(clip)
    [idle] = _process._idle
    os.kill(idle.pid, signal.SIGKILL)
    idle._process.wait()
    assert grey(read_indices(clip, [3])[0]) == 3


def test_one_is_kept(clip):
    read_clip(clip)
    [first] = _process._idle
    with pytest.raises(MediaError):
        read_indices(clip, [99])
    probe(clip)
    assert _process._idle == [first]
    parts = stream(clip, (8, 8), 2)
    next(parts)
    parts.close()  # in the middle of an answer: of no use any more
    assert not first.alive
    assert grey(read_indices(clip, [3])[0]) == 3


def test_threads_do_not_share(clip):
    def read(place):
        return grey(read_indices(clip, [place])[0])

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(read, [i % 10 for i in range(40)])) == [i % 10 for i in range(40)]
    assert len({each.pid for each in _process._idle}) == len(_process._idle) <= 4


def _in_worker(path, queue):
    queue.put((os.getpid(), [each.pid for each in _process._idle], grey(read_indices(path, [4])[0])))


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_workers_have_their_own(clip, method):
    read_clip(clip)
    context = multiprocessing.get_context(method)
    queue = context.Queue()
    worker = context.Process(target=_in_worker, args=(clip, queue), daemon=True)
    worker.start()
    pid, idle, shown = queue.get(timeout=60)
    worker.join()
    assert (idle, shown) == ([], 4)
    assert grey(read_indices(clip, [5])[0]) == 5


def test_it_ends_with_its_parent(clip):
    code = (
        "import os, sys; from mmalign.media import _process, read_clip; read_clip(sys.argv[1]); "
        "print(_process._idle[0].pid, flush=True); os.fork() or __import__('time').sleep(8); os.kill(os.getpid(), 9)"
    )
    done = subprocess.Popen([sys.executable, "-c", code, clip], stdout=subprocess.PIPE, cwd=REPOSITORY)
    child = int(done.stdout.readline())
    done.wait()
    limit = time.monotonic() + 20
    while _runs(child) and time.monotonic() < limit:
        time.sleep(0.1)
    assert not _runs(child)


def _runs(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_it_imports_nothing_heavy():
    code = "import sys, mmalign.media._decoding; print([m for m in ('torch', 'transformers') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=REPOSITORY)
    assert done.stdout.strip() == "[]"


def test_memory_of_the_reader_is_that_of_few_frames(tmp_path):
    """A stream of 400 frames of 0.9 MB is never held."""
    write_clip(tmp_path / "long.avi", [Image.new("RGB", (640, 480), (i % 256,) * 3) for i in range(400)])
    before = _resident(clip_pid(tmp_path / "long.avi"))
    for part in stream(tmp_path / "long.avi", None, 2):
        assert len(part) == 2
    assert _resident(_process._idle[0].pid) - before < 60e6


def clip_pid(path) -> int:
    probe(path)
    return _process._idle[0].pid


def _resident(pid: int) -> int:
    with open(f"/proc/{pid}/status") as file:
        return 1024 * int(dict(line.split(":", 1) for line in file)["VmHWM"].split()[0])


@pytest.mark.parametrize(
    ("name", "value"),
    [("MMALIGN_VIDEO_TIMEOUT", "soon"), ("MMALIGN_VIDEO_TIMEOUT", "-1"), ("MMALIGN_VIDEO_READER", "x")],
)
def test_settings_that_say_nothing(clip, monkeypatch, name, value):
    monkeypatch.setenv(name, value)
    with pytest.raises(InputError, match=name):
        read_clip(clip)


def test_without_a_reader_it_says_what_to_install(clip, monkeypatch, tmp_path):
    for name in ("av", "decord"):
        (tmp_path / f"{name}.py").write_text("raise ImportError('not here')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with pytest.raises(InputError, match="pip install av"):
        read_clip(clip)


# ---- the cache -------------------------------------------------------------------------------------------------------


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("MMALIGN_FRAME_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def same(a, b) -> bool:
    pixels = all((np.asarray(x) == np.asarray(y)).all() for x, y in zip(a.frames, b.frames, strict=True))
    return pixels and (a.times, a.indices, a.duration) == (b.times, b.indices, b.duration)


def never(*_):
    raise AssertionError("decoded again")


def test_frames_are_kept_without_loss(clip, cache, monkeypatch):
    first = read_clip(clip, FrameChoice(3))
    [entry] = cache.glob("??/*.frames")
    monkeypatch.setattr("mmalign.media.video.opened", never)
    assert same(read_clip(clip, FrameChoice(3)), first)
    with pytest.raises(AssertionError, match="decoded again"):
        read_clip(clip, FrameChoice(4))
    os.utime(clip, (1, 1))
    with pytest.raises(AssertionError, match="decoded again"):
        read_clip(clip, FrameChoice(3))
    assert list(cache.glob("??/*")) == [entry]


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: data[:-5],
        lambda data: data[:-9] + b"123456789",
        lambda _: b"",
        lambda data: data.replace(b'"indices": [1', b'"indices": [2'),
    ],
)
def test_damaged_entries_are_written_again(clip, cache, damage):
    first = read_clip(clip, FrameChoice(3))
    [entry] = cache.glob("??/*.frames")
    sound = entry.read_bytes()
    entry.write_bytes(damage(sound))
    assert entry.read_bytes() != sound
    assert same(read_clip(clip, FrameChoice(3)), first)
    assert entry.read_bytes() == sound


def test_the_oldest_used_are_removed(clip, cache, monkeypatch):
    choices = [FrameChoice(times=(i / 10,)) for i in range(6)]
    monkeypatch.setenv("MMALIGN_FRAME_CACHE_SIZE", str(4.5 * 64 * 48 * 3 / 1e9))
    for i, choice in enumerate(choices[:4]):
        read_clip(clip, choice)
        [entry] = {*cache.glob("??/*.frames")} - {
            path for path in cache.glob("??/*.frames") if path.stat().st_mtime < 1e6
        }
        os.utime(entry, (i, i))
    read_clip(clip, choices[0])  # used again
    read_clip(clip, choices[4])
    monkeypatch.setattr("mmalign.media.video.opened", never)
    read_clip(clip, choices[0])
    read_clip(clip, choices[4])
    with pytest.raises(AssertionError, match="decoded again"):
        read_clip(clip, choices[1])


def test_folders_are_kept_too(tmp_path, cache, monkeypatch):
    (tmp_path / "frames").mkdir()
    for i in range(3):
        Image.new("RGB", (8, 8), (i, i, i)).save(tmp_path / "frames" / f"{i}.png")
    first = read_clip(tmp_path / "frames", FrameChoice(2))
    monkeypatch.setattr("mmalign.media.video.opened", never)
    assert same(read_clip(tmp_path / "frames", FrameChoice(2)), first)
    (tmp_path / "frames" / "3.png").write_bytes((tmp_path / "frames" / "2.png").read_bytes())
    with pytest.raises(AssertionError, match="decoded again"):
        read_clip(tmp_path / "frames", FrameChoice(2))


def test_a_cache_that_cannot_be_written_stops_nothing(clip, monkeypatch):
    monkeypatch.setenv("MMALIGN_FRAME_CACHE", str(clip))  # a file
    assert len(read_clip(clip, FrameChoice(3)).frames) == 3
    monkeypatch.setenv("MMALIGN_FRAME_CACHE_SIZE", "much")
    with pytest.raises(InputError, match="MMALIGN_FRAME_CACHE_SIZE"):
        read_clip(clip)


def test_many_write_the_same_at_once(clip, cache):
    first = read_clip(clip, FrameChoice(3))
    for path in cache.glob("??/*.frames"):
        path.unlink()
    barrier = threading.Barrier(4)

    def read(_):
        barrier.wait()
        return read_clip(clip, FrameChoice(3))

    with ThreadPoolExecutor(4) as pool:
        assert all(same(found, first) for found in pool.map(read, range(4)))
    assert [path.suffix for path in cache.glob("??/*")] == [".frames"]
