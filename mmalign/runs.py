"""Long work that survives ``kill -9``: sharded append-only output, manifest, resume, stable merge; and seeds.

``run`` gives builders, scorers and predictions one way of working. The list of sources is cut into units,
the units are dealt to the ranks, and every rank appends finished units to a shard of its own. Beside OUTPUT
stands the folder OUTPUT.run::

    manifest.json      what the output depends on; once complete, its counts too
    shard-00000.jsonl  units that rank 0 finished, whatever the number of ranks was then
    drops.jsonl        once complete: every source that gave nothing, and why
    lock               byte 0: manifest and merge; byte 1 + r: the shard of rank r

A unit in a shard is its rows, as they will stand in OUTPUT, and one end line after them::

    #{"unit": 3, "crc32": 912559, "kept": 1, "records": 2, "drops": [{"source": "b", "reason": "blank"}]}

It counts only with its end line and the right checksum, so a write that was cut short by a kill, or that a
power failure left as zeros, is as if it had never been, and the unit is done again.
"""

from __future__ import annotations

import dataclasses
import errno
import fcntl
import hashlib
import json
import os
import sys
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from tqdm import tqdm

from mmalign.records import InputError, atomic_write, json_line, sync_folder

_END = b"#"  # begins an end line; a row begins with {
_LAYOUT = 1  # goes up when the files of OUTPUT.run change their meaning


# ---------------------------------------------------------------------------------------------------------
# Ranks, seeds, fingerprints
# ---------------------------------------------------------------------------------------------------------


def world_size() -> int:
    """Number of processes that share the work, from WORLD_SIZE (torchrun, deepspeed); 1 without either."""
    return _from_environment("WORLD_SIZE", 1, lowest=1)


def rank() -> int:
    """This process among them, from RANK; 0 without either."""
    number = _from_environment("RANK", 0, lowest=0)
    if number >= world_size():
        raise InputError(f"environment variable RANK={number} must be less than WORLD_SIZE={world_size()}")
    return number


def _from_environment(name: str, default: int, lowest: int) -> int:
    text = os.environ.get(name, str(default))
    if not text.isdecimal() or int(text) < lowest:
        raise InputError(f"environment variable {name}={text!r} must be an integer of at least {lowest}")
    return int(text)


def _plain(value: Any) -> Any:
    """What ``json.dumps`` is to write for an object it does not know."""
    if hasattr(value, "to_json"):
        return value.to_json()
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return dataclasses.asdict(value)
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    raise TypeError(f"{type(value).__name__} cannot be written as JSON")


def _canonical(value: Any) -> bytes:
    """The same bytes for the same value on every machine and in every process."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), default=_plain).encode()


def stable_seed(*parts: Any) -> int:
    """A seed in [0, 2**63) that depends on ``parts`` alone: ``stable_seed(seed, record.id, attempt)``.

    The first 8 bytes, big-endian, of the SHA-256 of the parts as a JSON list (sorted keys, no spaces, ASCII),
    without the lowest bit. 1, 1.0, True and "1" are different parts.
    """
    return int.from_bytes(hashlib.sha256(_canonical(parts)).digest()[:8], "big") >> 1


def _mix(state: np.ndarray) -> np.ndarray:
    """The output function of splitmix64 (Steele, Lea and Flood, 2014), on uint64 that wraps around."""
    state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return state ^ (state >> np.uint64(31))


def uniform(seeds: np.ndarray, counter: int) -> np.ndarray:
    """The ``counter``-th random number of each seed's own stream, as float64 in [0, 1); keeps no state.

    A stream is splitmix64 started at the mixed seed, so that seeds side by side give unrelated streams; its
    upper 53 bits are the fraction. A row of a batch thus draws the same numbers whatever rows are beside it.
    ``seeds``: integers in [0, 2**64) of any shape, which is the shape of the result.
    """
    if np.asarray(seeds).dtype.kind not in "iu":  # a list with 2**63 in it becomes floats, which lose bits
        raise TypeError("seeds must be an array of integers")
    seeds = np.atleast_1d(seeds).astype(np.uint64)
    golden = 0x9E3779B97F4A7C15
    start = _mix(seeds + np.uint64(golden))
    bits = _mix(start + np.uint64((counter + 1) * golden % 2**64))
    return ((bits >> np.uint64(11)) * 2.0**-53).reshape(np.shape(seeds))


def fingerprint(*things: Any) -> str:
    """16 hex digits that change when one of ``things`` does.

    A Path stands for the content of that file, or of all files of that folder with their names; str, bytes
    and anything JSON can write stand for themselves. Raises InputError where a Path does not exist.
    """
    digest = hashlib.sha256()
    for thing in things:
        for part in _parts(thing):
            digest.update(len(part).to_bytes(8, "big") + part)
    return digest.hexdigest()[:16]


def _parts(thing: Any) -> Iterator[bytes]:
    """The kind of a thing, then its bytes; files as their SHA-256."""
    if isinstance(thing, bytes):
        yield from (b"bytes", thing)
    elif not isinstance(thing, Path):
        yield from (b"json", _canonical(thing))
    elif thing.is_dir():
        yield b"folder"
        for path in sorted(path for path in thing.rglob("*") if path.is_file()):
            yield from (os.fsencode(path.relative_to(thing).as_posix()), _file_digest(path))
    else:
        yield from (b"file", _file_digest(thing))


def _file_digest(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").digest()
    except OSError as error:
        raise InputError(f"cannot be read: {error.strerror}", file=path) from None


# ---------------------------------------------------------------------------------------------------------
# The run
# ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Drop:
    """A source that gave no record: ``reason`` is a word that is counted, ``detail`` is for a reader."""

    reason: str
    detail: str = ""


@dataclass(frozen=True)
class Unit:
    """A stretch of the global list of sources that one rank does in one go: what is batched and resumed."""

    index: int
    items: tuple


@dataclass
class Summary:
    """Counts over all ranks. ``complete``: every source is done and OUTPUT is written; otherwise the counts
    are of the units that are finished so far, and another rank is still at work."""

    sources: int = 0
    kept: int = 0
    records: int = 0
    drops: dict[str, int] = field(default_factory=dict)
    complete: bool = False


Work = Callable[[Unit], Iterator[tuple[str, "list[Any] | Drop"]]]


def run(
    output: str | Path,
    items: Sequence[Any],
    work: Work,
    *,
    unit_size: int,
    manifest: Mapping[str, Any],
    description: str,
    progress: bool = True,
) -> Summary:
    """Does ``work`` on every unit of ``items`` that is not yet done, and writes ``output`` when all are.

    Args:
        output: The merged JSONL file. It has the order of ``items``, whatever the number of ranks, and it
            appears when the last rank is done.
        items: The sources, with unique ids: dicts with an ``id``, dataclasses or objects with ``to_json()``
            that have one, or plain strings. They are gone through once more at each start.
        work: Yields for each source of a unit, in any order, its id and its records (a list of dicts or of
            objects with ``to_json()``, not empty) or a Drop. An exception in it is passed on, and its unit
            stays undone.
        unit_size: Sources in a unit. It belongs to the manifest, since results may depend on batching.
        manifest: All else that the output depends on (options, model and input fingerprints), as JSON.
        description: Said beside the progress bar, which counts sources, on rank 0 only.

    Returns:
        The counts so far. The same call again resumes, or finds the output complete.

    Raises:
        InputError: Two sources have one id; ``output`` is there but did not come from a run; it was begun
            with another manifest; another process is at work as the same rank.
    """
    if unit_size < 1:
        raise InputError(f"must be 1 or more, got {unit_size}", field="unit_size")
    output, folder = Path(output), Path(f"{output}.run")
    ids, digest = _survey(items)
    sources = f"{len(ids)} with fingerprint {digest}"
    identity = {"manifest": manifest, "sources": sources, "unit_size": unit_size, "layout": _LAYOUT}
    _refuse_foreign_output(output, folder)
    folder.mkdir(parents=True, exist_ok=True)
    say = progress and rank() == 0
    with _Lock(folder) as lock:
        lock.take_shard(rank())
        with lock.manifest():
            summary = _agree(folder, identity)
        if summary and output.exists():
            if say:
                tqdm.write(f"{output} is already complete", file=sys.stderr)
            return summary
        _work_off(folder, items, ids, work, unit_size, description, say)
        done = _finished(folder)
        summary = _count(done.values())
        summary.complete = len(done) == _units(ids, unit_size)
        if summary.complete:
            with lock.manifest():
                if not (_agree(folder, identity) and output.exists()):  # else another rank was quicker
                    _merge(output, folder, done)
                    _write_manifest(folder, identity, summary)
        return summary


def _units(ids: Sequence[str], unit_size: int) -> int:
    return -(-len(ids) // unit_size)


def _survey(items: Sequence[Any]) -> tuple[list[str], str]:
    """The ids of all sources, and a fingerprint of their content."""
    first: dict[str, int] = {}
    digest = hashlib.sha256()
    for position, item in enumerate(items, start=1):
        source = item if isinstance(item, str) else item["id"] if isinstance(item, Mapping) else item.id
        if first.setdefault(source, position) != position:
            raise InputError(
                f"sources {first[source]} and {position} of the input are both {source!r}: make ids unique", field="id"
            )
        digest.update(_canonical(item) + b"\n")
    return list(first), digest.hexdigest()[:16]


def _work_off(
    folder: Path, items: Sequence[Any], ids: Sequence[str], work: Work, unit_size: int, description: str, progress: bool
) -> None:
    """Does this rank's share of the units that no shard holds yet.

    Unit i belongs to rank i modulo the number of ranks: no two ranks of a job ever have to agree on it.
    """
    done = _finished(folder)
    spans = {
        index: range(len(ids))[index * unit_size : (index + 1) * unit_size]
        for index in range(rank(), _units(ids, unit_size), world_size())
        if index not in done
    }
    so_far = _count(done.values())
    counts = {"kept": so_far.kept, "dropped": so_far.sources - so_far.kept}
    if world_size() > 1:
        description = f"{description} (rank {rank()} of {world_size()})"
    with (
        _Shard(_shard_path(folder, rank())) as shard,
        tqdm(
            total=so_far.sources + sum(map(len, spans.values())),
            initial=so_far.sources,
            desc=description,
            unit="source",
            disable=not progress,
        ) as bar,
    ):
        for index, span in spans.items():
            results = {}
            unit = Unit(index, tuple(items[i] for i in span))
            for source, result in _checked(work(unit), [ids[i] for i in span]):
                results[source] = result
                counts["dropped" if isinstance(result, Drop) else "kept"] += 1
                bar.set_postfix(counts, refresh=False)
                bar.update()
            shard.append(index, {ids[i]: results[ids[i]] for i in span})


def _checked(results: Iterator[tuple[str, Any]], ids: Sequence[str]) -> Iterator[tuple[str, Any]]:
    """Holds ``work`` to its contract: every source once, with records or with a reason."""
    left = set(ids)
    for source, result in results:
        if source not in left:
            raise RuntimeError(f"work gave source {source!r} twice, or it is not in the unit")
        if not isinstance(result, Drop) and not result:
            raise RuntimeError(f"work gave no record and no Drop for source {source!r}")
        left.remove(source)
        yield source, result
    if left:
        raise RuntimeError(f"work gave nothing for source(s) {', '.join(sorted(left))}")


# ---------------------------------------------------------------------------------------------------------
# The manifest
# ---------------------------------------------------------------------------------------------------------


def _refuse_foreign_output(output: Path, folder: Path) -> None:
    """In this order: another rank may be writing both at this moment, and the manifest is there first."""
    if output.exists() and not (folder / "manifest.json").exists():
        raise InputError(
            f"already exists, and no {folder.name} beside it says how it was made: move it away "
            "or choose another output",
            file=output,
        )


def _agree(folder: Path, identity: dict[str, Any]) -> Summary | None:
    """The counts, once the run is complete. Writes the manifest if there is none. To be called locked.

    Raises InputError if the manifest is of another run.
    """
    path = folder / "manifest.json"
    if not path.exists():
        if any(folder.glob("shard-*")):
            raise InputError(
                "holds results, but its manifest.json is gone: delete the folder to begin anew", file=folder
            )
        _write_manifest(folder, identity, None)
        return None
    wanted = json.loads(_canonical(identity))
    try:
        state = json.loads(path.read_bytes())
        begun, counts = state["identity"], state["counts"] and Summary(**state["counts"])
    except (ValueError, KeyError, TypeError):
        raise InputError(f"is damaged: delete {folder} and the output to begin anew", file=path) from None
    changes = list(_changes(begun, wanted))
    if changes:
        raise InputError(
            f"the output was begun differently: {'; '.join(changes)}. Give the old values again to resume, "
            f"choose another output, or delete {folder} and the output to begin anew",
            file=path,
        )
    return counts


def _changes(old: Any, new: Any, name: str = "") -> Iterator[str]:
    """``options.temperature: 0.7 -> 1.0`` for every value that differs."""
    if isinstance(old, dict) and isinstance(new, dict):
        for key in sorted(old.keys() | new.keys()):
            place = f"{name}.{key}".removeprefix(".").removeprefix("manifest.")
            yield from _changes(old.get(key, "(absent)"), new.get(key, "(absent)"), place)
    elif _canonical(old) != _canonical(new):
        yield f"{name}: {old} -> {new}"


def _write_manifest(folder: Path, identity: dict[str, Any], counts: Summary | None) -> None:
    """``counts`` are there from the merge on. To be called locked."""
    with atomic_write(folder / "manifest.json", folder / "manifest.tmp") as file:
        state = {"identity": identity, "counts": counts}
        file.write(json.dumps(state, indent=1, ensure_ascii=False, default=_plain).encode() + b"\n")


# ---------------------------------------------------------------------------------------------------------
# Shards
# ---------------------------------------------------------------------------------------------------------


class _Block(NamedTuple):
    """A finished unit in a shard: its rows are the bytes [start, stop), its end line goes on to ``end``."""

    shard: Path
    start: int
    stop: int
    end: int
    kept: int
    records: int
    drops: Counter[str]


def _shard_path(folder: Path, number: int) -> Path:
    return folder / f"shard-{number:05d}.jsonl"


def _blocks(path: Path) -> Iterator[tuple[int, _Block]]:
    """(unit, block) of every finished unit of a shard, also of one that is being written or was cut short."""
    start = stop = checksum = 0
    with path.open("rb") as file:
        for line in file:
            if not line.startswith(_END):
                stop, checksum = stop + len(line), zlib.crc32(line, checksum)
                continue
            end = stop + len(line)
            with suppress(ValueError, KeyError, TypeError):  # an end line that is itself cut short or broken
                said = json.loads(line[len(_END) :])
                if line.endswith(b"\n") and said["crc32"] == checksum:
                    drops = Counter(drop["reason"] for drop in said["drops"])
                    yield said["unit"], _Block(path, start, stop, end, said["kept"], said["records"], drops)
            start, stop, checksum = end, end, 0


def _finished(folder: Path) -> dict[int, _Block]:
    """Unit -> where it is. A unit that two shards hold (two jobs at once) counts once."""
    done: dict[int, _Block] = {}
    for path in sorted(folder.glob("shard-*.jsonl")):
        for unit, block in _blocks(path):
            done.setdefault(unit, block)
    return done


def _count(blocks: Any) -> Summary:
    summary, drops = Summary(), Counter()
    for block in blocks:
        summary.kept += block.kept
        summary.records += block.records
        drops.update(block.drops)
    summary.drops = dict(sorted(drops.items()))
    summary.sources = summary.kept + drops.total()
    return summary


class _Shard:
    """The shard of this rank, opened to append after the last finished unit; what follows that is cut off."""

    def __init__(self, path: Path) -> None:
        path.touch()
        sync_folder(path.parent)
        end = max((block.end for _, block in _blocks(path)), default=0)
        self.file: BinaryIO = path.open("r+b")
        self.file.truncate(end)
        self.file.seek(end)

    def append(self, unit: int, results: Mapping[str, Any]) -> None:
        """Writes a unit, and returns when it is on the disk."""
        drops = [
            {"source": source, "reason": result.reason, "detail": result.detail}
            for source, result in results.items()
            if isinstance(result, Drop)
        ]
        kept = [result for result in results.values() if not isinstance(result, Drop)]
        lines = [json_line(row) for result in kept for row in result]
        rows = b"".join(lines)
        self.file.write(
            rows
            + _END
            + json_line(
                {"unit": unit, "crc32": zlib.crc32(rows), "kept": len(kept), "records": len(lines), "drops": drops}
            )
        )
        self.file.flush()
        os.fsync(self.file.fileno())

    def __enter__(self) -> _Shard:
        return self

    def __exit__(self, *exception: object) -> None:
        self.file.close()


def _merge(output: Path, folder: Path, done: Mapping[int, _Block]) -> None:
    """Copies the units to ``output`` in global order, with one unit in memory at a time."""
    handles = {path: path.open("rb") for path in {block.shard for block in done.values()}}
    try:
        with (
            atomic_write(folder / "drops.jsonl", folder / "drops.tmp") as dropped,
            atomic_write(output, folder / "merged.tmp") as merged,
        ):
            for _, block in sorted(done.items()):
                handle = handles[block.shard]
                handle.seek(block.start)
                merged.write(handle.read(block.stop - block.start))
                for drop in json.loads(handle.read(block.end - block.stop)[len(_END) :])["drops"]:
                    dropped.write(json_line(drop))
    finally:
        for handle in handles.values():
            handle.close()


class _Lock:
    """Locks on single bytes of OUTPUT.run/lock, which the kernel releases with the process, killed or not.

    Record locks and not ``flock``: a worker that was forked and outlives its killed parent would keep the
    latter. The file is opened only once, since closing any handle of it gives all locks up.
    """

    def __init__(self, folder: Path) -> None:
        self.file = (folder / "lock").open("ab")

    def take_shard(self, number: int) -> None:
        """Refuses to be the second process of one rank."""
        try:
            fcntl.lockf(self.file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, 1 + number)
        except OSError as error:
            problem = f"another process is at work on this output as rank {number}: wait for its end or stop it"
            if error.errno not in (errno.EACCES, errno.EAGAIN):
                problem = f"cannot be locked ({error.strerror}): choose an output on another file system"
            raise InputError(problem, file=self.file.name) from None

    @contextmanager
    def manifest(self) -> Iterator[None]:
        """Waits for its turn at the manifest and the merged file."""
        fcntl.lockf(self.file, fcntl.LOCK_EX, 1, 0)
        try:
            yield
        finally:
            fcntl.lockf(self.file, fcntl.LOCK_UN, 1, 0)

    def __enter__(self) -> _Lock:
        return self

    def __exit__(self, *exception: object) -> None:
        self.file.close()
