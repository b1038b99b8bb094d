"""From rows of embedded pictures to an index: mean taken off, length 1, trained where it needs to be, whole or not.

Memory is the FAISS index and a chunk: vectors lie in a memory-mapped file until they are in it.
"""

from __future__ import annotations

import base64
import fcntl
import hashlib
import json
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mmalign import runs
from mmalign.records import InputError, atomic_write, read_jsonl
from mmalign.retrieval.index import HASHES, LAYOUT, OFF, Index, read_manifest, set_search

_CHUNK = 1 << 14  # vectors at a time
_SAMPLE = 1 << 16  # vectors that an index is trained on; more where it has many cells
_PER_CELL = 64  # vectors that a cell is trained on; FAISS itself warns below 39
_PROBES = 256  # pictures that the report looks at


@dataclass(frozen=True)
class Settings:
    """How pictures are indexed.

    Attributes:
        index: a FAISS factory string: ``Flat``, ``IVF1024,PQ32``, ``HNSW32``...
        center: take the collection's mean off every vector.
        search: options of the search, such as ``nprobe=64``.
    """

    index: str = "Flat"
    center: bool = True
    search: str | None = None

    @property
    def lossy(self) -> bool:
        """Whether the index cannot give the vectors back as they are."""
        return self.index != "Flat"


def check(settings: Settings, width: int) -> None:
    """Refuses what FAISS cannot make of vectors of ``width`` numbers, before any picture is embedded.

    Raises:
        InputError: no such index, none for this width, or no such option of its search.
    """
    _search_of(_empty(settings, width), settings)


def write(folder: Path, rows: Path, settings: Settings, made_by: dict[str, str], summary: runs.Summary) -> None:
    """Write the index of ``rows`` into ``folder``, unless this very index is there. One process at a time does it.

    Args:
        rows: the merged rows of embedded pictures, in the order of their names.
        made_by: what they depend on.
        summary: their counts.
    """
    with _alone(folder):
        wanted = {"layout": LAYOUT, "made_by": made_by, "settings": asdict(settings)}
        wanted |= {"rows": runs.fingerprint(rows)}  # their bytes: pictures may have changed under the same names
        manifest = read_manifest(folder) or {}
        if all(manifest.get(key) == value for key, value in wanted.items()):
            return
        (folder / "manifest.json").unlink(missing_ok=True)
        raw = folder / "vectors.tmp.npy"
        vectors, digest = _read(folder, raw, rows, summary.records, settings.center)
        index = _filled(vectors, settings)
        _save(folder, index)
        if settings.lossy:
            raw.replace(folder / "vectors.npy")
        else:
            raw.unlink()
            (folder / "vectors.npy").unlink(missing_ok=True)
        about = {"count": len(vectors), "width": vectors.shape[1], "metric": "cosine", "lossy": settings.lossy}
        about |= {"search": _search_of(index, settings), "drops": summary.drops, "digest": digest}
        with atomic_write(folder / "manifest.json") as file:
            file.write(json.dumps(wanted | about, indent=1, ensure_ascii=False).encode() + b"\n")


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Ranks that are done at the same moment take turns; the kernel lets go of the lock with the process."""
    with (folder / "lock").open("ab") as file:
        fcntl.lockf(file, fcntl.LOCK_EX)
        yield


# ---- vectors ---------------------------------------------------------------------------------------------------------


def _read(folder: Path, raw: Path, rows: Path, count: int, center: bool) -> tuple[np.ndarray, str]:
    """Writes names and hashes, and gives the vectors, centred and of length 1, in the file ``raw``, and a digest.

    Shape: (N, D).
    """
    names, hashes, vectors = [], np.zeros(count, HASHES), None
    digest = hashlib.sha256()
    for place, (name, content, dhash, vector) in enumerate(read_jsonl(rows, _row)):
        if vectors is None:
            vectors = np.lib.format.open_memmap(raw, "w+", np.float32, (count, len(vector)))
        names.append(name.encode())
        hashes[place] = content, dhash
        vectors[place] = vector
    _normalise(vectors, center)
    for array, file in ((np.array(names), "names.npy"), (hashes, "hashes.npy")):
        digest.update(array.tobytes())
        with atomic_write(folder / file) as target:
            np.save(target, array, allow_pickle=False)
    for start in range(0, count, _CHUNK):
        digest.update(vectors[start : start + _CHUNK].tobytes())
    return vectors, digest.hexdigest()[:16]


def _row(row: dict[str, Any], *, file: Path, line: int) -> tuple[str, bytes, np.ndarray, np.ndarray]:
    dhash = np.frombuffer(bytes.fromhex(row["dhash"]), np.uint8)
    return row["id"], row["content"].encode(), dhash, np.frombuffer(base64.b64decode(row["vector"]), "<f4")


def _normalise(vectors: np.ndarray, center: bool) -> None:
    """In place, chunk by chunk. A vector that is the mean itself stays zero: it is like nothing."""
    chunks = [slice(start, start + _CHUNK) for start in range(0, len(vectors), _CHUNK)]
    mean = sum(vectors[chunk].sum(0, dtype=np.float64) for chunk in chunks) / len(vectors) if center else 0.0
    for chunk in chunks:
        part = vectors[chunk] - mean
        length = np.linalg.norm(part, axis=1, keepdims=True)
        vectors[chunk] = part / np.where(length > 0, length, 1)


# ---- the FAISS index -------------------------------------------------------------------------------------------------


def _empty(settings: Settings, width: int) -> Any:
    import faiss

    try:
        index = faiss.index_factory(width, settings.index, faiss.METRIC_INNER_PRODUCT)
    except RuntimeError as error:
        problem = f"FAISS makes no {settings.index!r} of vectors of {width} numbers ({_last(error)}); as IVF1024,PQ32"
        raise InputError(problem, field="index") from None
    inner = index
    while isinstance(inner, faiss.IndexPreTransform):
        inner = faiss.downcast_index(inner.index)
    if hasattr(inner, "do_polysemous_training"):
        inner.do_polysemous_training = False  # seconds for each part of a vector, for a search that is not used
    return index


def _search_of(index: Any, settings: Settings) -> str:
    """The options of its search: those asked for, or those that suit an index of cells."""
    import faiss

    cells = faiss.try_extract_index_ivf(index)
    search = settings.search if settings.search is not None else f"nprobe={math.isqrt(cells.nlist)}" if cells else ""
    if search:
        set_search(index, search)
    return search


def _filled(vectors: np.ndarray, settings: Settings) -> Any:
    """An index of ``vectors``, trained on some of them if it has to be."""
    index = _empty(settings, vectors.shape[1])
    if not index.is_trained:
        try:
            index.train(_sample(vectors, index))
        except RuntimeError as error:
            problem = f"{len(vectors)} pictures are too few to train {settings.index!r} on ({_last(error)}): take Flat"
            raise InputError(problem, field="index") from None
    if settings.lossy:
        for start in range(0, len(vectors), _CHUNK):
            index.add(np.asarray(vectors[start : start + _CHUNK]))
    else:
        index.add(vectors)  # at once: what grows by chunks is copied as it grows, and needs up to three times as much
    return index


def _sample(vectors: np.ndarray, index: Any) -> np.ndarray:
    """Vectors spread over the collection, the same ones at every call."""
    import faiss

    cells = faiss.try_extract_index_ivf(index)
    size = min(len(vectors), max(_SAMPLE, _PER_CELL * cells.nlist if cells else 0))
    chosen = np.random.default_rng(0).choice(len(vectors), size, replace=False, shuffle=False)
    return np.asarray(vectors[np.sort(chosen)])


def _save(folder: Path, index: Any) -> None:
    import faiss

    with atomic_write(folder / "index.faiss") as file:
        faiss.write_index(index, faiss.PyCallbackIOWriter(file.write))


def _last(error: RuntimeError) -> str:
    """FAISS's message without its place in the source."""
    return str(error).strip().splitlines()[-1].rpartition(": ")[2]


# ---- a look at it ----------------------------------------------------------------------------------------------------


def similarities(index: Index) -> dict[str, float]:
    """How alike pictures are: of some that are spread over the index any two, and each with its nearest."""
    rows = np.unique(np.linspace(0, len(index) - 1, min(len(index), _PROBES)).astype(int))
    if len(rows) < 2:
        return {}
    vectors = index.vectors(rows)
    any_two = (vectors @ vectors.T)[np.triu_indices(len(rows), 1)]
    names = index.names
    near = index.neighbours([names[row] for row in rows], 1, OFF)
    nearest = [found[0].similarity for found in near if found]
    return {
        "similarity of any two, median": float(np.median(any_two)),
        "of a picture and its nearest, median": float(np.median(nearest)),
        "of a picture and its nearest, 9 of 10 are below": float(np.quantile(nearest, 0.9)),
    }
