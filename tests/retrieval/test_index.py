"""Who is whose neighbour: against plain matrix products, and behind every guard."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from collection import Given, index_of, picture, unit, write_pictures

from mmalign.media import open_image
from mmalign.media.hashes import content_hash
from mmalign.records import InputError
from mmalign.retrieval import Guard, Index, Neighbour
from mmalign.retrieval.index import OFF
from mmalign.retrieval.make import make
from mmalign.retrieval.write import Settings
from tests.tiny import environment, noise

COUNT, WIDTH = 600, 24


@pytest.fixture(scope="module")
def vectors() -> np.ndarray:
    """Clusters around a mean that is far from zero, as features of a tower are."""
    rng = np.random.default_rng(0)
    middles = rng.standard_normal((30, WIDTH))[rng.integers(0, 30, COUNT)]
    return 5 + middles + 0.5 * rng.standard_normal((COUNT, WIDTH))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("retrieval")


@pytest.fixture(scope="module")
def flat(folder: Path, vectors: np.ndarray) -> Index:
    return index_of(folder / "flat", vectors, center=True)


def names_of(found: list[Neighbour] | None) -> list[int]:
    return [int(neighbour.name[:5]) for neighbour in found]


def expected(vectors: np.ndarray, k: int, fine: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Numbers and similarities of the k best others, by one matrix product. Shape: (N, k)."""
    similar = vectors @ vectors.T
    similar[np.eye(len(vectors), dtype=bool) | (False if fine is None else ~fine)] = -np.inf
    order = np.argsort(-similar, axis=1, kind="stable")[:, :k]
    return order, np.take_along_axis(similar, order, 1)


@pytest.mark.parametrize("center", [True, False])
def test_flat_is_exact(center: bool, flat: Index, folder: Path, vectors: np.ndarray) -> None:
    index = flat if center else index_of(folder / "raw", vectors)
    order, similar = expected(unit(vectors - vectors.mean(0) * center), 10)
    found = index.neighbours(index.names, 10, OFF)
    assert [names_of(near) for near in found] == order.tolist()
    np.testing.assert_allclose([[each.similarity for each in near] for near in found], similar, atol=1e-6)
    assert np.median(similar) > 0.99 if not center else 0.5 < np.median(similar) < 0.98, "what centring is for"


def test_one_by_one_is_as_all_together(flat: Index) -> None:
    together = flat.neighbours(flat.names[:40], 7, Guard())
    assert together == [flat.neighbours([name], 7, Guard())[0] for name in flat.names[:40]]


def test_similarity_limits_search_deeper_until_there_are_k(flat: Index, vectors: np.ndarray) -> None:
    """A limit that takes away hundreds of the nearest."""
    normal = unit(vectors - vectors.mean(0))
    similar = normal @ normal.T
    for low, high in ((-1.0, 0.0), (0.3, 0.5), (0.6, 1.0)):
        fine = (similar >= low) & (similar <= high) & ~np.eye(COUNT, dtype=bool)
        order, _ = expected(normal, 10, fine)
        found = flat.neighbours(flat.names, 10, Guard(high, low, same_content=False))
        assert [names_of(near) for near in found] == [
            row[:count].tolist() for row, count in zip(order, fine.sum(1), strict=True)
        ]
        assert (fine.sum(1) > 0).any()


def test_a_guard_that_leaves_fewer_gives_fewer(flat: Index) -> None:
    [near] = flat.neighbours(flat.names[:1], COUNT, OFF)
    assert len(near) == COUNT - 1 and flat.names[0] not in {each.name for each in near}
    assert flat.neighbours(flat.names[:1], 5, Guard(-1.5)) == [[]]


def test_unknown_names(flat: Index) -> None:
    known = flat.names[3]
    unknown = ["", "00003", "zzz.png", "00003.png" * 9, "0\ud800.png"]
    found = flat.neighbours([*unknown, f"./x/..//{known}"], 2, OFF)
    assert found[:-1] == [None] * len(unknown)
    assert found[-1] == flat.neighbours([known], 2, OFF)[0]
    assert flat.neighbours([], 2, OFF) == []
    with pytest.raises(InputError, match="1 or more"):
        flat.neighbours([known], 0, OFF)


@pytest.fixture(scope="module")
def copies(tmp_path_factory: pytest.TempPathFactory) -> Index:
    """a.png; the same pixels under other names and as other formats; a lossy copy of it; and other pictures."""
    root = tmp_path_factory.mktemp("copies")
    rng = np.random.default_rng(0)
    photo = noise(rng).resize((16, 16)).resize((64, 64))
    photo.paste(picture(0, 8))
    for name in ("a.png", "b.bmp", "c.webp"):
        photo.save(root / name, **({"lossless": True} if name == "c.webp" else {}))
    photo.resize((48, 48)).save(root / "d.png")
    for number in range(1, 6):
        other = noise(rng)
        other.paste(picture(number, 1))
        other.save(root / f"e{number}.png")
    table = unit(np.array([[1.0, 0.0], [0.9, 0.1], [0.7, 0.4], [0.5, 0.5], [0.1, 0.9], [0.0, 1.0]]))
    names = sorted(path.name for path in root.iterdir())
    return make(Given(table), names, root, root / "index", Settings(center=False), progress=False)


@pytest.mark.parametrize("guard, nearest", [
    (OFF, ["b.bmp", "c.webp", "d.png", "e1.png"]),
    (Guard(None), ["d.png", "e1.png", "e2.png", "e3.png"]),
    (Guard(None, hash_distance=8), ["e1.png", "e2.png", "e3.png", "e4.png"]),
    (Guard(0.98, same_content=False), ["e2.png", "e3.png", "e4.png", "e5.png"]),
    (Guard(0.98, 0.6), ["e2.png", "e3.png"]),
    (Guard(None, 0.6, False), ["b.bmp", "c.webp", "d.png", "e1.png", "e2.png", "e3.png"]),
])  # fmt: skip
def test_guards(guard: Guard, nearest: list[str], copies: Index) -> None:
    [found] = copies.neighbours(["a.png"], len(nearest) if len(nearest) == 4 else 9, guard)
    assert [each.name for each in found] == nearest
    assert [each.similarity for each in found] == sorted((each.similarity for each in found), reverse=True)


def test_copies_of_a_neighbour_are_one_neighbour(copies: Index) -> None:
    [found] = copies.neighbours(["e5.png"], 6, Guard(None))
    assert [each.name for each in found] == ["e4.png", "e3.png", "e2.png", "e1.png", "a.png", "d.png"]
    [found] = copies.neighbours(["e5.png"], 8, Guard(None, same_content=False))
    assert [each.name for each in found][4:] == ["a.png", "b.bmp", "c.webp", "d.png"]


def test_many_copies_hide_no_neighbour(tmp_path: Path) -> None:
    """More of them than the search looks at first."""
    names = [f"{number:02d}.png" for number in range(60)]
    for place, name in enumerate(names):
        picture({0: 0, 58: 2, 59: 3}.get(place, 1)).save(tmp_path / name)
    table = unit(np.array([[1.0, 0.0], [0.9, 0.1], [0.7, 0.4], [0.5, 0.5]]))
    index = make(Given(table), names, tmp_path, tmp_path / "index", Settings(center=False), progress=False)
    [found] = index.neighbours(["00.png"], 3, Guard(None))
    assert [each.name for each in found] == ["01.png", "58.png", "59.png"]


def test_contents(copies: Index) -> None:
    root = copies.folder.parent
    names = ["e1.png", "gone.png", "./a.png", "b.bmp"]
    first, missing, own, copy = copies.contents(names)
    assert missing is None and own == copy != first
    assert first == content_hash(open_image(root / "e1.png"))


def test_default_guard_lets_no_copy_pass(copies: Index) -> None:
    assert Guard().same_content and Guard().similarity_max < 1
    [found] = copies.neighbours(["c.webp"], 9, Guard())
    assert [each.name for each in found] == ["e2.png", "e3.png", "e4.png", "e5.png"]


@pytest.mark.parametrize("kind", ["IVF16,Flat", "IVF16,PQ12", "HNSW16", "SQ8"])
def test_approximate_indexes_find_most(kind: str, folder: Path, vectors: np.ndarray) -> None:
    index = index_of(folder / kind, vectors, kind, center=True, search="nprobe=8" if "IVF" in kind else None)
    normal = unit(vectors - vectors.mean(0))
    order, _ = expected(normal, 10)
    found = index.neighbours(index.names, 10, OFF)
    recall = np.mean([len(set(names_of(near)) & set(row)) / 10 for near, row in zip(found, order, strict=True)])
    assert recall > 0.8
    for row, near in enumerate(found[:50]):  # exact whatever the index holds
        assert row not in names_of(near)
        np.testing.assert_allclose([each.similarity for each in near], normal[names_of(near)] @ normal[row], atol=1e-6)


def test_search_options(folder: Path, vectors: np.ndarray) -> None:
    """A search of one cell finds less than one of all; what it was made with is kept; others may be given."""
    made = index_of(folder / "cells", vectors, "IVF16,Flat", center=True)
    assert made.manifest["search"] == "nprobe=4"
    order, _ = expected(unit(vectors - vectors.mean(0)), 10)

    def recall(index: Index) -> float:
        found = index.neighbours(index.names, 10, OFF)
        return float(np.mean([len(set(names_of(near)) & set(row)) for near, row in zip(found, order, strict=True)]))

    one, four, all_cells = (Index.open(made.folder, search=f"nprobe={n}") for n in (1, 4, 16))
    assert recall(one) < recall(four) == recall(made) < recall(all_cells) == 10
    with pytest.raises(InputError, match="no such option: 'nprobs=4'"):
        Index.open(made.folder, search="nprobs=4")


def test_opened_index_is_mapped_not_read(tmp_path: Path) -> None:
    """Another process's own memory grows by less than the vectors take, also after searching all of them."""
    rng = np.random.default_rng(0)
    index = index_of(tmp_path, rng.standard_normal((500, 8192)))
    code = f"""
import faiss, numpy
from mmalign.retrieval import Index
from mmalign.retrieval.index import OFF
def own():
    return next(int(l.split()[1]) for l in open("/proc/self/smaps_rollup") if l.startswith("Anonymous"))
before = own()
index = Index.open({str(index.folder)!r})
opened = own()
index.neighbours(index.names[:2], 3, OFF)
print(opened - before, own() - before)
"""
    done = subprocess.run([sys.executable, "-c", code], env=environment(), capture_output=True, text=True, check=True)
    opened, searched = map(int, done.stdout.split())  # KiB; the vectors are 16,000
    assert opened < 2000 and searched < 6000


def test_few_pictures(tmp_path: Path) -> None:
    """One alone, and copies of one: after centring nothing is left to compare, and nothing is divided by zero."""
    alone = index_of(tmp_path / "one", np.ones((1, 4)), center=True)
    assert alone.neighbours(alone.names, 3, OFF) == [[]]
    same = index_of(tmp_path / "same", np.ones((3, 4)), center=True)
    [near, *_] = same.neighbours(same.names, 3, OFF)
    assert [each.similarity for each in near] == [0.0, 0.0]


def test_what_is_no_index(tmp_path: Path, vectors: np.ndarray) -> None:
    with pytest.raises(InputError, match="no finished index.*mmalign index"):
        Index.open(tmp_path)
    index = index_of(tmp_path, vectors[:20])
    with pytest.raises(InputError, match="by another encoder \\(given, not mine\\)"):
        Index.open(index.folder, encoder="mine")
    assert len(Index.open(index.folder, encoder="given")) == 20
    whole = (index.folder / "index.faiss").read_bytes()
    (index.folder / "index.faiss").write_bytes(whole[:100])
    with pytest.raises(InputError, match="cannot be read"):
        Index.open(index.folder)
    (index.folder / "index.faiss").write_bytes(whole)
    np.save(index.folder / "names.npy", np.array([b"a.png"]))
    with pytest.raises(InputError, match="of different sizes"):
        Index.open(index.folder)
    (index.folder / "manifest.json").write_text('{"layout": 0}')
    with pytest.raises(InputError, match="another version"):
        Index.open(index.folder)


def test_fingerprint(tmp_path: Path, vectors: np.ndarray) -> None:
    names = write_pictures(tmp_path / "p", 20)
    prints = set()
    for number, (table, center) in enumerate([(vectors, True), (vectors, False), (vectors + 1e-3, False)]):
        place = tmp_path / str(number)
        made = make(Given(table), names, tmp_path / "p", place, Settings(center=center), progress=False)
        assert made.fingerprint() == Index.open(place).fingerprint()
        prints.add(made.fingerprint())
    assert len(prints) == 3
