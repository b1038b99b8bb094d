"""Fixtures that every test may use."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("OMP_NUM_THREADS", "1")  # two cores: parallel ranks must not fight over them

REPOSITORY = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder of real inputs beside the checkout (``MMALIGN_DATA`` names another); skips where there is none."""
    folder = Path(os.environ.get("MMALIGN_DATA", REPOSITORY.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"real inputs are not on this machine: {folder} (set MMALIGN_DATA)")
    return folder


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of an untrained tiny LLaVA whose weights are large enough for every part to matter."""
    from tests.tiny import write_model

    return write_model(tmp_path_factory.mktemp("tiny") / "model", seed=0)


@pytest.fixture(scope="session")
def moved_model(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Path:
    """The tiny model with every weight moved a little: a policy that has left its reference."""
    from tests.tiny import write_moved

    return write_moved(tmp_path_factory.mktemp("moved") / "model", tiny_model, seed=1)


@pytest.fixture(scope="session")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of 22 preference records over random pictures: one or two pictures, uneven lengths, weights."""
    from tests.tiny import write_pairs

    return write_pairs(tmp_path_factory.mktemp("pairs"), count=22, seed=0)


@pytest.fixture(scope="session")
def mixed_pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As `pairs`, but most records have no picture, some have a clip, and now and then a whole micro-batch has none."""
    from tests.tiny import write_pairs

    folder, pictures, clips = tmp_path_factory.mktemp("mixed"), (0, 0, 1, 0, 2, 0, 0, 0), (0, 0, 0, 0, 0, 0, 1)
    return write_pairs(folder, count=22, seed=1, pictures=pictures, clips=clips)
