"""BDHS with a real, untrained model: what it writes depends on the mask, and on nothing that it should not."""

from __future__ import annotations

from pathlib import Path

import pytest
from scripted import media, run, source

from mmalign import backbones
from mmalign.backbones import Backbone
from mmalign.builders import load
from mmalign.records import Record, text_of
from tests.tiny import write_model

CAPTION = (
    "A large red circle is at the top\n- There is a small blue star on the right"  # no stops: this model writes none
)
SHORT = {"max_sentence_tokens": 8, "max_answer_tokens": 12}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return media(tmp_path_factory.mktemp("media"))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Backbone:
    return backbones.load(write_model(tmp_path_factory.mktemp("model"), seed=0), device="cpu")


class Unmasked:
    """The same model, to which no mask is passed on; it counts how often pictures are encoded."""

    def __init__(self, model: Backbone) -> None:
        self.model = model
        self.image_token_count = model.image_token_count

    def generate(self, jobs: list, **options: object) -> list[str]:
        shown = [backbones.Job(job.messages, job.images, job.prefix, job.seed, None, job.key) for job in jobs]
        return self.model.generate(shown, **options)


def written(model: object, root: Path, *records: Record, batch_size: int = 8, **options: object) -> list[str]:
    made = run(load("bdhs", **SHORT, **options), model, root, *records, batch_size=batch_size)
    return [text_of(made[record.id].rejected) for record in records]


def with_picture(name: str) -> list[Record]:
    return [source(f"s{i}", CAPTION, (name,)) for i in range(3)]


def test_threshold_0_is_no_mask(model: Backbone, root: Path) -> None:
    sources = with_picture("a.png")
    plain = written(Unmasked(model), root, *sources)
    assert written(model, root, *sources, rho_th=0.0) == plain
    assert written(model, root, *sources, rho_th=0.5) != plain


def test_threshold_1_is_blind(model: Backbone, root: Path) -> None:
    one, other = with_picture("a.png"), with_picture("b.png")
    assert written(model, root, *one, rho_th=1.0) == written(model, root, *other, rho_th=1.0)
    assert written(model, root, *one, rho_th=0.0) != written(model, root, *other, rho_th=0.0)


def test_batches_do_not_matter(model: Backbone, root: Path) -> None:
    sources = [source("one", "A cat"), source("three", f"{CAPTION}\n- It is 3.5 m long"),
               source("two", CAPTION, ("a.png", "b.png")), source("none", None)]  # fmt: skip
    together = written(model, root, *sources, batch_size=64)
    assert written(model, root, *sources, batch_size=1) == together
    assert [text for record in reversed(sources) for text in written(model, root, record)] == together[::-1]


def test_seeds(model: Backbone, root: Path) -> None:
    sources = with_picture("a.png")
    assert written(model, root, *sources, seed=1) == written(model, root, *sources, seed=1)
    assert written(model, root, *sources, seed=1) != written(model, root, *sources, seed=2)


def test_noise_alone_hides_the_picture_and_changes_with_the_seed(model: Backbone, root: Path) -> None:
    sources = with_picture("a.png")
    clean = written(model, root, *sources, rho_th=0.0)
    some = written(model, root, *sources, rho_th=0.0, noise_steps=1000)
    assert some != clean
    assert written(model, root, *sources, rho_th=0.0, noise_steps=1000, batch_size=1) == some
    blind = written(model, root, *sources, rho_th=1.0)
    assert written(model, root, *sources, rho_th=1.0, noise_steps=1000) == blind, "nothing to see, so no noise either"


@pytest.mark.parametrize("batch_size", [1, 64])
def test_a_picture_is_looked_at_once_for_all_sentences(
    model: Backbone, root: Path, monkeypatch: pytest.MonkeyPatch, batch_size: int
) -> None:
    encoded: list[int] = []
    merge = model.merge_media
    monkeypatch.setattr(model, "merge_media", lambda contexts: encoded.append(len(contexts)) or merge(contexts))
    written(model, root, *with_picture("a.png"), batch_size=batch_size, n_tries=1)
    assert encoded == ([3] if batch_size == 64 else [1, 1, 1]), "three records of two sentences each"
