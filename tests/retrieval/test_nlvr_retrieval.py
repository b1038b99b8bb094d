"""The study of false negatives counts by what the pictures really show."""

from __future__ import annotations

import sys
from collections import defaultdict
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from mmalign.media import open_image
from mmalign.media.hashes import content_hash
from mmalign.records import InputError, Record, assistant_message, read_jsonl, user_message, write_jsonl
from tests.conftest import REPOSITORY


@pytest.fixture(scope="module")
def study() -> ModuleType:
    spec = spec_from_file_location("nlvr_retrieval", REPOSITORY / "docs" / "results" / "nlvr_retrieval.py")
    module = sys.modules[spec.name] = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def folder(shared_data: Path) -> Path:
    return shared_data / "nlvr"


@pytest.fixture(scope="module")
def truth(study: ModuleType, folder: Path):
    return study.read_truth(folder)


def test_rules_contain_each_other(truth) -> None:
    """Equal drawings are of one scene, and of one scene is of one list; each rule says more than the one before."""
    assert len(truth.names) == 5934 and truth.names == sorted(truth.names)
    counts = [len(set(rule.tolist())) for rule in (truth.drawing, truth.scene, truth.listed)]
    assert counts == sorted(counts, reverse=True) and len(set(counts)) == 3
    for finer, coarser in ((truth.drawing, truth.scene), (truth.scene, truth.listed)):
        group = defaultdict(set)
        for one, other in zip(finer.tolist(), coarser.tolist(), strict=True):
            group[one].add(other)
        assert all(len(found) == 1 for found in group.values())


def test_equal_drawings_are_equal_pictures(truth, folder: Path) -> None:
    """The pixels agree with what the object lists say of each of the six orders."""
    scenes = set(truth.scene[:: len(truth.names) // 60].tolist())
    rows = [row for row, scene in enumerate(truth.scene.tolist()) if scene in scenes]
    hashes = [content_hash(open_image(folder / truth.names[row])) for row in rows]
    by_list = {(int(truth.drawing[row]), digest) for row, digest in zip(rows, hashes, strict=True)}
    assert len(rows) > 300 and len(by_list) == len({drawing for drawing, _ in by_list}) == len(set(hashes))


def test_sources_are_true_of_every_order(study: ModuleType, truth, tmp_path: Path) -> None:
    study.write_sources(truth, tmp_path / "sources.jsonl")
    rows = list(read_jsonl(tmp_path / "sources.jsonl", lambda row, file, line: row))
    assert [row["image"] for row in rows] == truth.names and all(row["answer"] for row in rows)


def test_built_pairs(study: ModuleType, truth, tmp_path: Path) -> None:
    """One of the same scene, one of the same list alone, one true negative."""
    same = int(np.flatnonzero(truth.scene == truth.scene[0])[1])
    counts = np.bincount(truth.listed)
    listed = next(row for row in np.flatnonzero(counts[truth.listed] > 6)
                  if (truth.scene[truth.listed == truth.listed[row]] != truth.scene[row]).any())  # fmt: skip
    alike = int(np.flatnonzero((truth.listed == truth.listed[listed]) & (truth.scene != truth.scene[listed]))[0])
    other = int(np.flatnonzero(truth.listed != truth.listed[0])[0])
    pairs = [(0, same), (int(listed), alike), (0, other)]
    records = [
        Record(f"r{number}", [user_message("?", images=1)], [assistant_message("yes")],
               images=(truth.names[own],), rejected_images=(truth.names[negative],))
        for number, (own, negative) in enumerate(pairs)
    ]  # fmt: skip
    write_jsonl(tmp_path / "pairs.jsonl", records)
    [found] = study.built({"on": tmp_path / "pairs.jsonl"}, truth)
    assert (found.records, found.scene, found.listed) == (3, 1, 2)
    write_jsonl(tmp_path / "none.jsonl", [Record("a", [user_message("?")], [assistant_message("yes")])])
    with pytest.raises(InputError, match="a has no rejected picture"):
        study.built({"on": tmp_path / "none.jsonl"}, truth)
