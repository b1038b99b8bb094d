"""A folder of indexed pictures, and who is whose neighbour in it.

The folder, as `mmalign.retrieval.make` writes it::

    manifest.json    what the index depends on; it is written last, so that without it nothing is there
    index.faiss      the FAISS index, opened memory-mapped: processes on one machine share its pages
    names.npy        names of the pictures, as UTF-8, in order. Shape: (N,)
    hashes.npy       their hashes, see `HASHES`. Shape: (N,)
    vectors.npy      their vectors, where the index does not hold them as they are. Shape: (N, D), float32

A picture's vector is the encoder's, less the mean over the collection (with ``center``), brought to length 1. The
similarity of two pictures is the cosine, the product of their vectors.

Legend of shapes: N pictures of the index, Q pictures asked about, D numbers of a vector.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mmalign import runs
from mmalign.records import InputError
from mmalign.retrieval.pictures import spelled

LAYOUT = 1
"""Goes up when the files of an index change their meaning."""

HASHES = np.dtype([("content", "S32"), ("dhash", "u1", 8)])
"""`content_hash` and the bytes of `dhash`, both of `mmalign.media.hashes`."""

_MORE = 16  # candidates beyond those wanted: a guard takes some, and the order of an approximate index is not exact
_QUERIES = 256  # pictures asked about at a time: what bounds memory


@dataclass(frozen=True)
class Guard:
    """Which neighbours are passed over because they show what the picture itself shows. That picture always is.

    Attributes:
        similarity_max: those more similar than this. None: none for that reason, as in the paper of Re-Align
            (arXiv 2502.13146), which guards against the picture itself alone.
        similarity_min: those less similar than this.
        same_content: those with the very same pixels, under another name or in another format; and of neighbours with
            the same pixels all but the first by name.
        hash_distance: those whose `dhash` differs in at most so many of its 64 bits. For photographs; drawings on a
            plain ground have most bits in common, whatever they show.
    """

    similarity_max: float | None = 0.95
    similarity_min: float | None = None
    same_content: bool = True
    hash_distance: int | None = None

    def passes(self, similarities: np.ndarray, hashes: np.ndarray, own: np.void) -> np.ndarray:
        """Which candidates are let through. Shape: (C,), hashes (C,) and ``own`` of `HASHES`; returns (C,), boolean."""
        fine = np.ones(len(similarities), dtype=bool)
        if self.similarity_max is not None:
            fine &= similarities <= self.similarity_max
        if self.similarity_min is not None:
            fine &= similarities >= self.similarity_min
        if self.same_content:
            fine &= hashes["content"] != own["content"]
        if self.hash_distance is not None:
            differing = np.unpackbits(hashes["dhash"] ^ own["dhash"], axis=-1).sum(-1)
            fine &= differing > self.hash_distance
        return fine


OFF = Guard(similarity_max=None, same_content=False)
"""Lets all pass but the picture itself, as in the paper."""


@dataclass(frozen=True)
class Neighbour:
    """A picture by its media name, and its cosine with the one asked about."""

    name: str
    similarity: float


class Index:
    """Indexed pictures. `open` makes one; it can be used by threads, and opened by any number of processes."""

    def __init__(self, folder: Path, manifest: dict[str, Any], search: str) -> None:
        import faiss

        self.folder, self.manifest = folder, manifest
        try:
            self._names = np.load(folder / "names.npy", mmap_mode="r", allow_pickle=False)
            self._hashes = np.load(folder / "hashes.npy", mmap_mode="r", allow_pickle=False)
            # IO_FLAG_MMAP, the older one, maps lists of cells only, and reads flat indexes and graphs into memory.
            self._faiss = faiss.read_index(str(folder / "index.faiss"), faiss.IO_FLAG_MMAP_IFC)
            exact = folder / "vectors.npy"
            self._exact = np.load(exact, mmap_mode="r", allow_pickle=False) if manifest["lossy"] else None
        except (OSError, ValueError, RuntimeError) as error:
            reason = str(error).strip().splitlines()[-1]
            raise InputError(f"cannot be read ({reason}): make the index again", file=folder) from None
        sizes = {len(self._names), len(self._hashes), self._faiss.ntotal, manifest["count"]}
        if len(sizes) > 1:
            raise InputError("its files are of different sizes: make the index again", file=folder)
        if search:
            set_search(self._faiss, search)

    @classmethod
    def open(cls, folder: str | Path, *, encoder: str | None = None, search: str | None = None) -> Index:
        """The index in ``folder``, memory-mapped.

        Args:
            encoder: the fingerprint of the encoder that it is expected to be of; any by default.
            search: options of the search, such as ``nprobe=64``; by default those it was made with.

        Raises:
            InputError: there is no index, it is not finished or damaged, or is of another encoder.
        """
        folder = Path(folder)
        manifest = read_manifest(folder)
        if manifest is None:
            raise InputError("holds no finished index: `mmalign index --output` makes one", file=folder)
        made_by = manifest["made_by"]["encoder"]
        if encoder is not None and made_by != encoder:
            raise InputError(f"is an index by another encoder ({made_by}, not {encoder}): make it again", file=folder)
        return cls(folder, manifest, manifest["search"] if search is None else search)

    def __len__(self) -> int:
        return len(self._names)

    @property
    def names(self) -> list[str]:
        """Names of all pictures, in order."""
        return [name.decode() for name in self._names]

    def fingerprint(self) -> str:
        """Changes whenever other neighbours may be found."""
        return runs.fingerprint({key: self.manifest[key] for key in ("digest", "settings", "search")})

    def rows(self, names: Sequence[str]) -> np.ndarray:
        """Where pictures stand in the index; -1 where they do not. Shape: (Q,)."""
        spellings = [spelled(name).encode("utf-8", "replace") for name in names]
        width = self._names.dtype.itemsize
        wanted = np.array(spellings, dtype=self._names.dtype)  # of another width, all names would be copied
        rows = np.searchsorted(self._names, wanted)
        found = (rows < len(self)) & np.array([len(spelling) <= width for spelling in spellings], dtype=bool)
        found[found] = self._names[rows[found]] == wanted[found]
        return np.where(found, rows, -1)

    def contents(self, names: Sequence[str]) -> list[str | None]:
        """The `content_hash` of each picture when it was indexed; None for a name that is not in the index."""
        rows = self.rows(names)
        return [self._hashes["content"][row].decode() if row >= 0 else None for row in rows]

    def vectors(self, rows: np.ndarray) -> np.ndarray:
        """The vectors of pictures, of length 1. Shape: (Q,) -> (Q, D), float32."""
        rows = np.asarray(rows, dtype=np.int64)
        return self._faiss.reconstruct_batch(rows) if self._exact is None else np.asarray(self._exact[rows])

    def neighbours(self, names: Sequence[str], k: int, guard: Guard) -> list[list[Neighbour] | None]:
        """For each of ``names`` its ``k`` most similar pictures that ``guard`` lets pass, the most similar first.

        The search goes deeper until it has them or has seen all that the index offers. So fewer come only where
        the guard leaves fewer, or where an approximate index (one of cells, say) has no more in the part of it that it
        looks at. Similarities are exact in any case. Equally similar pictures come in the order of their names.

        Returns:
            None for a name that is not in the index.
        """
        if k < 1:
            raise InputError(f"must be 1 or more, got {k}", field="k")
        rows = self.rows(names)
        found: list[list[Neighbour] | None] = [None] * len(names)
        known = np.flatnonzero(rows >= 0)
        for start in range(0, len(known), _QUERIES):
            part = known[start : start + _QUERIES]
            for place, near in zip(part, self._search(rows[part], k, guard), strict=True):
                found[place] = near
        return found

    def _search(self, rows: np.ndarray, k: int, guard: Guard) -> list[list[Neighbour]]:
        vectors = self.vectors(rows)
        found: list[list[Neighbour]] = [[] for _ in rows]
        left, depth = np.arange(len(rows)), k + _MORE
        while len(left):
            depth = min(depth, len(self))
            _, candidates = self._faiss.search(vectors[left], depth)
            open_still = []
            for place, ids in zip(left, candidates, strict=True):
                near, enough = self._choose(rows[place], vectors[place], ids[ids >= 0], k, guard)
                found[place] = near
                if not enough and depth < len(self) and ids[-1] >= 0:
                    open_still.append(place)
            left, depth = np.array(open_still, dtype=np.int64), 4 * depth
        return found

    def _choose(
        self, row: int, vector: np.ndarray, ids: np.ndarray, k: int, guard: Guard
    ) -> tuple[list[Neighbour], bool]:
        """The best of the candidates, and whether deeper ones cannot change that."""
        ids = ids[ids != row]
        # In double precision, so that ties stay ties whatever the batch that FAISS multiplied them in.
        similarities = self.vectors(ids).astype(np.float64) @ vector.astype(np.float64)
        similarities = similarities.astype(np.float32).clip(-1, 1)
        passed = guard.passes(similarities, self._hashes[ids], self._hashes[row])
        order = np.lexsort((ids, -similarities))
        best = order[passed[order]]
        if guard.same_content:  # k copies of one picture would be one picture
            best = best[np.sort(np.unique(self._hashes["content"][ids[best]], return_index=True)[1])]
        best = best[:k]
        near = [Neighbour(self._names[ids[i]].decode(), float(similarities[i])) for i in best]
        low = guard.similarity_min is not None and len(ids) > 0 and similarities.min() < guard.similarity_min
        return near, len(near) == k or low


def set_search(index: Any, search: str) -> None:
    """Sets options of a FAISS index's search, ``nprobe=64`` or ``efSearch=128``, several with commas between them.

    Raises:
        InputError: this kind of index has no such option.
    """
    import faiss

    try:
        faiss.ParameterSpace().set_index_parameters(index, search)
    except RuntimeError:
        kind = type(index).__name__
        raise InputError(f"{kind} has no such option: {search!r} (as nprobe=64 of IVF)", field="search") from None


def read_manifest(folder: Path) -> dict[str, Any] | None:
    """What the index in ``folder`` depends on; None where there is no finished one.

    Raises:
        InputError: it is damaged, or of another version.
    """
    file = folder / "manifest.json"
    try:
        manifest = json.loads(file.read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError) as error:
        raise InputError(f"cannot be read ({error}): delete it and make the index again", file=file) from None
    if not isinstance(manifest, dict) or manifest.get("layout") != LAYOUT:
        raise InputError("is of another version: delete it and make the index again", file=file)
    return manifest
