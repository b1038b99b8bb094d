"""Samples, on a stand-in whose answers are known, and on the bundled model."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scripted import Scripted, media, run, source

from mmalign import backbones
from mmalign.backbones import Job
from mmalign.builders import Drop, build, load
from mmalign.records import InputError, Record, assistant_message, text_of
from mmalign.scenes import MODEL
from tests.tiny import noise, write_clip


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = media(tmp_path_factory.mktemp("media"))
    rng = np.random.default_rng(1)
    write_clip(folder / "c.avi", [noise(rng) for _ in range(5)])
    return folder


def four(job: Job, greedy: bool) -> str:
    return f" answer {job.seed % 4}. "


def texts(record: Record) -> list[str]:
    return [text_of([response.message]) for response in record.responses]


def test_record(root: Path) -> None:
    kept = {"group": "g", "weight": 2.0, "gold": [assistant_message("Gold.")], "difficulty": 3.0,
            "rejected_images": ("b.png",)}  # fmt: skip
    given = source("s", "True.", meta={"x": 1}, **kept)
    model = Scripted(four)
    made = run(load("sample", k=20, seed=5), model, root, given)["s"]
    assert (made.id, made.prompt, made.images) == ("s#sample", given.prompt, given.images)
    assert {name: getattr(made, name) for name in kept} == kept and made.chosen is made.rejected is None
    drawn = [f"answer {job.seed % 4}." for job in model.jobs]
    assert texts(made) == list(dict.fromkeys(drawn)) and len(texts(made)) == 4
    assert all(not response.scores and response.rank is None for response in made.responses)
    assert made.meta == {"seed": 5, "responses_by": "model", "sampled": 20, "blank": 0, "source": {"x": 1},
                         "counts": [drawn.count(text) for text in texts(made)]}  # fmt: skip
    assert load("sample").outcome(made) == "4 different responses"
    assert Record.parse(made.to_json()) == made


def test_each_sample_has_a_seed_of_its_own(root: Path) -> None:
    model, again = Scripted(four), Scripted(four)
    run(load("sample"), model, root, source("a", None), source("b", None))
    seeds = [job.seed for job in model.jobs]
    assert len(set(seeds)) == 16 and {job.key for job in model.jobs} == {"a", "b"}
    run(load("sample", seed=1), again, root, source("a", None))
    assert not set(seeds) & {job.seed for job in again.jobs}


def test_neither_batch_nor_unit_matters(root: Path) -> None:
    sources = [source(f"s{i}", None) for i in range(3)]
    small, large = Scripted(four), Scripted(four)
    made = run(load("sample"), small, root, *sources, batch_size=5)
    assert made == run(load("sample"), large, root, *sources, batch_size=100)
    assert made["s1"] == run(load("sample"), Scripted(four), root, sources[1])["s1"]
    assert [len(call) for call in small.calls] == [5, 5, 5, 5, 4]


def test_options_reach_the_model(root: Path) -> None:
    class Listening(Scripted):
        def generate(self, jobs, **options):
            self.options = options
            return super().generate(jobs, **options)

    model = Listening(four)
    run(load("sample", temperature=0.7, top_p=0.9, max_tokens=1), model, root, source("s", None), source("t", None))
    assert model.options == {"temperature": 0.7, "top_p": 0.9, "max_new_tokens": 1, "batch_size": 8}


def test_blanks_are_counted_and_no_responses(root: Path) -> None:
    replies = iter(["One.", " ", "Two.", "\n", "One.", ""])
    made = run(load("sample", k=6), Scripted(lambda job, greedy: next(replies)), root, source("s", None))["s"]
    assert texts(made) == ["One.", "Two."] and made.meta["counts"] == [2, 1] and made.meta["blank"] == 3


def test_drops(root: Path) -> None:
    reasons = {"gone.png": "missing", "cut.png": "truncated", "page.png": "unreadable", "wide.png": "too_large",
               "../up.png": "bad_path"}  # fmt: skip
    sources = [source(reason, None, (name,)) for name, reason in reasons.items()]
    made = run(load("sample"), Scripted(four), root, *sources, source("fine", None))
    assert isinstance(made.pop("fine"), Record)
    assert {name: drop.reason for name, drop in made.items()} == {name: name for name in made}
    same = run(load("sample"), Scripted(lambda job, greedy: "Same."), root, source("s", None))["s"]
    assert same == Drop("all_alike", "Same.")
    assert run(load("sample"), Scripted(lambda *_: " "), root, source("s", None))["s"].reason == "model_wrote_nothing"


def test_pictures_and_clips_in_their_places(root: Path) -> None:
    prompt = [{"role": "user", "content": [{"type": "video"}, {"type": "text", "text": "and"}, {"type": "image"}]}]
    given = Record("s", prompt, images=("a.png",), videos=("c.avi",))
    model = Scripted(four)
    made = run(load("sample", frames=3), model, root, given)["s"]
    job = model.jobs[0]
    assert job.messages == prompt and [len(clip.frames) for clip in job.videos] == [3]
    assert len(job.images) == 1 and made.prompt == prompt and made.videos == ("c.avi",)
    [dropped] = run(load("sample"), model, root, Record("s", prompt, images=("a.png",), videos=("x.avi",))).values()
    assert dropped.reason == "missing"


@pytest.mark.parametrize("options", [
    {"k": 1}, {"temperature": 0}, {"top_p": 0}, {"top_p": 1.1}, {"max_tokens": 0}, {"frames": 0}])  # fmt: skip
def test_options_out_of_range(options: dict) -> None:
    with pytest.raises(InputError) as caught:
        load("sample", **options)
    assert caught.value.field == next(iter(options))


def test_the_bundled_model_on_one_and_two_ranks(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = backbones.load(MODEL, device="cpu")
    sources = [source(f"s{i}", None, ("ab"[i % 2] + ".png",)) for i in range(4)]
    how = {"media_root": root, "unit_size": 1, "progress": False}
    builder = load("sample", k=3, max_tokens=12)
    one = build(builder, sources, model, tmp_path / "one.jsonl", **how)
    monkeypatch.setenv("WORLD_SIZE", "2")
    for rank in "10":
        monkeypatch.setenv("RANK", rank)
        two = build(builder, sources, model, tmp_path / "two.jsonl", **how, batch_size=2)
    assert one.kept == two.kept >= 3
    assert (tmp_path / "one.jsonl").read_bytes() == (tmp_path / "two.jsonl").read_bytes()
