"""Memory of an index: what a million vectors take while they are added and while they are searched.

    python -m tests.performance.retrieval                          # as a table
    python -m tests.performance.retrieval --json                   # one JSON object
    python -m tests.performance.retrieval --count 100000 --index Flat HNSW32

Vectors are made up, chunk by chunk, in a file, as those of pictures come out of their rows. Every step runs in a
process of its own. A file that is mapped counts as resident, too, but its pages are shared by all processes that search
it and are given back when memory is short, so they stand apart: `own` is memory that nobody shares (RssAnon), `file`
mapped pages (RssFile), both at their peak and less what the process had before.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from contextlib import redirect_stdout
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np

from mmalign.retrieval import Index, write
from mmalign.retrieval.index import HASHES, LAYOUT, OFF

CHUNK = 1 << 14
QUERIES, K = 32, 10
STEPS = ("add", "search, mapped", "search, in memory")


@dataclass(frozen=True)
class Measured:
    """One step: bytes at their peak, and seconds."""

    index: str
    step: str
    vectors: int
    on_disk: int
    own: int
    file: int
    seconds: float


def make_vectors(file: Path, count: int, width: int) -> None:
    """Random ones, normalised where they lie. Shape: (count, width), float32."""
    rng = np.random.default_rng(0)
    vectors = np.lib.format.open_memmap(file, "w+", np.float32, (count, width))
    for start in range(0, count, CHUNK):
        part = vectors[start : start + CHUNK]
        part[:] = rng.standard_normal(part.shape, dtype=np.float32)
    write._normalise(vectors, True)


def add(folder: Path, index: str) -> None:
    """What `mmalign index` does once all is embedded: train, add, write."""
    settings = write.Settings(index)
    vectors = np.load(folder / "raw.npy", mmap_mode="r")
    filled = write._filled(vectors, settings)
    write._save(folder, filled)
    names = np.array([f"{row:08d}.jpg".encode() for row in range(len(vectors))])
    hashes = np.zeros(len(vectors), HASHES)
    np.save(folder / "names.npy", names)
    np.save(folder / "hashes.npy", hashes)
    (folder / "vectors.npy").unlink(missing_ok=True)
    if settings.lossy:
        (folder / "vectors.npy").hardlink_to(folder / "raw.npy")
    manifest = {"layout": LAYOUT, "count": len(vectors), "lossy": settings.lossy, "made_by": {"encoder": "none"}}
    manifest |= {"search": write._search_of(filled, settings)}
    (folder / "manifest.json").write_text(json.dumps(manifest))


def search(folder: Path, mapped: bool) -> None:
    """Neighbours of some pictures."""
    import faiss

    index = Index.open(folder)
    if not mapped:
        index._faiss = faiss.read_index(str(folder / "index.faiss"))
    names = [f"{row:08d}.jpg" for row in range(0, len(index), max(1, len(index) // QUERIES))][:QUERIES]
    assert all(len(near) == K for near in index.neighbours(names, K, OFF))


def resident() -> tuple[int, int]:
    """Bytes of this process alone, and of files that it has mapped."""
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return tuple(1024 * int(lines[name].split()[0]) for name in ("RssAnon", "RssFile"))


def watch(work: Callable[..., None], *arguments: Any) -> tuple[int, int, float]:
    """Peaks of `resident`, less what was there before, looked at every few milliseconds, and seconds."""
    import faiss  # noqa: F401 - its own memory is not what is measured

    before = peak = resident()
    done = threading.Event()

    def look() -> None:
        nonlocal peak
        while not done.wait(0.005):
            peak = tuple(map(max, peak, resident()))

    watcher = threading.Thread(target=look)
    watcher.start()
    start = time.perf_counter()
    try:
        work(*arguments)
    finally:
        seconds = time.perf_counter() - start
        done.set()
        watcher.join()
    own, file = (most - first for most, first in zip(peak, before, strict=True))
    return own, file, seconds


def alone(work: Callable[..., Any], *arguments: Any) -> Any:
    """``work`` in a process of its own: memory once had is kept."""
    with ProcessPoolExecutor(max_workers=1, mp_context=get_context("spawn")) as pool:
        return pool.submit(work, *arguments).result()


def measure(folder: Path, index: str, count: int, width: int) -> list[Measured]:
    """The steps of one kind of index, over the vectors in ``folder``."""
    found = []
    for step in STEPS:
        work = (add, folder, index) if step == "add" else (search, folder, step == "search, mapped")
        own, file, seconds = alone(watch, *work)
        size = (folder / "index.faiss").stat().st_size
        found.append(Measured(index, step, 4 * count * width, size, own, file, seconds))
    return found


def table(found: list[Measured]) -> str:
    rows = [("index", "step", "vectors", "index on disk", "own", "file", "own / vectors", "seconds"), ("---",) * 8]
    for each in found:
        sizes = [f"{value / 1e6:,.0f}" for value in (each.vectors, each.on_disk, each.own, each.file)]
        rows.append((each.index, each.step, *sizes, f"{each.own / each.vectors:.2f}", f"{each.seconds:.1f}"))
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=1_000_000, help="vectors (default: a million)")
    parser.add_argument("--width", type=int, default=768, help="numbers of a vector (default: 768)")
    parser.add_argument("--index", nargs="+", default=["Flat", "IVF128,PQ64x4"], help="kinds of index")
    parser.add_argument("--folder", type=Path, help="where files are written and deleted again (default: temporary)")
    parser.add_argument("--json", action="store_true", help="print one JSON object and nothing else")
    args = parser.parse_args()
    found: list[Measured] = []
    with tempfile.TemporaryDirectory(dir=args.folder) as name, redirect_stdout(sys.stderr):
        alone(make_vectors, Path(name) / "raw.npy", args.count, args.width)
        for index in args.index:
            found += measure(Path(name), index, args.count, args.width)
            print(table(found), flush=True)
    about = {"count": args.count, "width": args.width, "queries": QUERIES, "k": K}
    said = {**about, "measured": [asdict(each) for each in found]}
    print(json.dumps(said) if args.json else f"{about}, sizes in MB (10^6 bytes)\n\n{table(found)}")


if __name__ == "__main__":
    main()
