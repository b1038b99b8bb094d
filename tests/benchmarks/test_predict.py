"""Predicting: one loop for all benchmarks, resumable, sharded, and never stopped by a picture."""

from __future__ import annotations

import json
import weakref
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from mmalign.benchmarks import suite
from mmalign.benchmarks.predict import predict
from mmalign.media import Clip, FrameChoice, MediaError
from mmalign.records import InputError, Prediction, Question, read_jsonl, text_of, user_message
from tests.families import build
from tests.tiny import write_clip


class ReddestPicture:
    """A backbone in the sense of the contract: says how red the first picture is; counts its work."""

    dtype = "float32"

    def __init__(self, name: str = "red-1", fail_after: int | None = None) -> None:
        self.name, self.fail_after = name, fail_after
        self.batches: list[int] = []

    def fingerprint(self) -> str:
        return self.name

    def generate(self, jobs: Sequence, *, max_new_tokens: int, temperature: float = 0.0) -> list[str]:
        if len(self.batches) == self.fail_after:
            raise KeyboardInterrupt
        self.batches.append(len(jobs))
        shown = [[*job.images, *(frame for clip in job.videos for frame in clip.frames)] for job in jobs]
        return [" ".join(["red", *(str(each.getpixel((0, 0))[0]) for each in own)])[:max_new_tokens] for own in shown]


@pytest.fixture
def asked(tmp_path: Path) -> list[Question]:
    for number in range(7):
        Image.new("RGB", (4, 4), (10 * number, 0, 0)).save(tmp_path / f"{number}.png")
    return [
        Question(id=f"q{n}", prompt=[user_message("How red?", images=1)], images=(f"{n}.png",), gold="x")
        for n in range(7)
    ]


def answers(path: Path) -> dict[str, str]:
    return {p.id: p.text for p in read_jsonl(path, Prediction.parse)}


def test_answers_stand_in_the_order_of_the_questions(asked: list[Question], tmp_path: Path) -> None:
    output, backbone = tmp_path / "out.jsonl", ReddestPicture()
    summary = predict(backbone, asked, output, media_root=tmp_path, batch_size=3, progress=False)
    assert list(answers(output).items()) == [(f"q{n}", f"red {10 * n}") for n in range(7)]
    assert backbone.batches == [3, 3, 1]
    assert summary.complete and summary.records == 7 and not summary.drops
    first = next(read_jsonl(output, Prediction.parse))
    assert first.meta == {"model": "red-1", "max_new_tokens": 64, "temperature": 0.0, "seed": 0}


def test_an_interrupted_run_goes_on_and_gives_the_same_file(asked: list[Question], tmp_path: Path) -> None:
    whole, output = tmp_path / "whole.jsonl", tmp_path / "out.jsonl"
    predict(ReddestPicture(), asked, whole, media_root=tmp_path, batch_size=2, unit_size=2, progress=False)
    with pytest.raises(KeyboardInterrupt):
        predict(
            ReddestPicture(fail_after=2), asked, output, media_root=tmp_path, batch_size=2, unit_size=2, progress=False
        )
    assert not output.exists()
    rest = ReddestPicture()
    predict(rest, asked, output, media_root=tmp_path, batch_size=2, unit_size=2, progress=False)
    assert rest.batches == [2, 1]
    assert output.read_bytes() == whole.read_bytes()


def test_a_smaller_batch_may_go_on(asked: list[Question], tmp_path: Path) -> None:
    output = tmp_path / "out.jsonl"
    with pytest.raises(KeyboardInterrupt):
        flaky = ReddestPicture(fail_after=1)
        predict(flaky, asked, output, media_root=tmp_path, batch_size=4, unit_size=4, progress=False)
    rest = ReddestPicture()
    predict(rest, asked, output, media_root=tmp_path, batch_size=2, unit_size=4, progress=False)
    assert rest.batches == [2, 1]
    assert list(answers(output)) == [q.id for q in asked]


def test_a_temperature_below_zero_is_refused(asked: list[Question], tmp_path: Path) -> None:
    with pytest.raises(InputError, match="temperature"):
        predict(ReddestPicture(), asked, tmp_path / "out.jsonl", media_root=tmp_path, temperature=-1, progress=False)


def test_pictures_that_cannot_be_used_are_counted_with_their_reason(asked: list[Question], tmp_path: Path) -> None:
    (tmp_path / "1.png").unlink()
    Image.effect_noise((64, 64), 50).save(tmp_path / "2.png")
    (tmp_path / "2.png").write_bytes((tmp_path / "2.png").read_bytes()[:2000])
    asked[3] = Question(id="q3", prompt=asked[3].prompt, images=("../../etc/passwd",))
    output = tmp_path / "out.jsonl"
    summary = predict(ReddestPicture(), asked, output, media_root=tmp_path, batch_size=4, progress=False)
    assert list(answers(output)) == ["q0", "q4", "q5", "q6"]
    assert summary.drops == {"missing": 1, "truncated": 1, "bad_path": 1}


def test_a_corrected_label_keeps_the_answers_and_another_model_does_not(asked: list[Question], tmp_path: Path) -> None:
    output = tmp_path / "out.jsonl"
    predict(ReddestPicture(), asked, output, media_root=tmp_path, progress=False)
    relabelled = [Question(id=q.id, prompt=q.prompt, images=q.images, gold="y") for q in asked]
    again = ReddestPicture()
    assert predict(again, relabelled, output, media_root=tmp_path, progress=False).complete
    assert again.batches == []
    with pytest.raises(InputError, match="model: red-1 -> red-2"):
        predict(ReddestPicture("red-2"), asked, output, media_root=tmp_path, progress=False)


def test_two_ranks_write_what_one_writes(
    asked: list[Question], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two = tmp_path / "one.jsonl", tmp_path / "two.jsonl"
    predict(ReddestPicture(), asked, one, media_root=tmp_path, batch_size=2, unit_size=2, progress=False)
    monkeypatch.setenv("WORLD_SIZE", "2")
    for rank, complete in (("1", False), ("0", True)):
        monkeypatch.setenv("RANK", rank)
        summary = predict(ReddestPicture(), asked, two, media_root=tmp_path, batch_size=2, unit_size=2, progress=False)
        assert summary.complete is complete
    assert one.read_bytes() == two.read_bytes()


def test_clips_are_seen_by_the_frames_that_are_asked_for(tmp_path: Path) -> None:
    write_clip(tmp_path / "a.avi", [Image.new("RGB", (64, 48), (20 * number, 0, 0)) for number in range(10)])
    prompt = [user_message("How red?", videos=1)]
    asked = [Question(id=name, prompt=prompt, videos=(f"{name}.avi",)) for name in ("a", "gone")]
    for count, expected in ((2, [40, 140]), (5, [20, 60, 100, 140, 180])):
        output = tmp_path / f"{count}.jsonl"
        summary = predict(
            ReddestPicture(), asked, output, media_root=tmp_path, frames=FrameChoice(count), progress=False
        )
        assert summary.drops == {"missing": 1}
        said = [int(number) for number in answers(output)["a"].split()[1:]]
        assert said == pytest.approx(expected, abs=12)  # frames 2 and 7 of 10, in JPEG
    with pytest.raises(InputError, match="frames"):
        predict(ReddestPicture(), asked, output, media_root=tmp_path, frames=FrameChoice(2), progress=False)


def test_the_clips_of_a_batch_are_held_and_not_those_of_a_unit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    held, shown = [], []
    monkeypatch.setattr("mmalign.benchmarks.predict._DISTINCT_MEDIA", 1)

    def opened(name: str, *_: object) -> Clip:
        clip = Clip((Image.new("RGB", (4, 4)),), (0.0,), (0,), 1.0)
        shown.append(weakref.ref(clip))
        return clip

    class Counting(ReddestPicture):
        def generate(self, jobs: Sequence, **how: object) -> list[str]:
            held.append(sum(clip() is not None for clip in shown))
            return super().generate(jobs, **how)

    monkeypatch.setattr("mmalign.benchmarks.predict.open_clip", opened)
    asked = [Question(id=f"{i}", prompt=[user_message("?", videos=1)], videos=(f"{i}.avi",)) for i in range(11)]
    predict(Counting(), asked, tmp_path / "out.jsonl", media_root=tmp_path, batch_size=3, progress=False)
    assert held == [3, 3, 3, 2] and list(answers(tmp_path / "out.jsonl")) == [q.id for q in asked]


class Choosy(ReddestPicture):
    """Cannot be shown a picture that is 30 red, nor a word."""

    def encode_prompt(self, messages: Sequence[dict], images: Sequence[Image.Image], videos: Sequence) -> None:
        if images[0].getpixel((0, 0))[0] == 30:
            raise MediaError("is too red", reason="too_large")
        if "Never" in text_of(messages):
            raise InputError("is a word that is not said")

    def generate(self, jobs: Sequence, **how: object) -> list[str]:
        for job in jobs:
            self.encode_prompt(job.messages, job.images, job.videos)
        return super().generate(jobs, **how)


def test_what_the_model_cannot_be_shown_is_counted_with_its_reason(asked: list[Question], tmp_path: Path) -> None:
    asked[5] = replace(asked[5], prompt=[user_message("Never?", images=1)])
    for batch_size, batches in ((8, [5]), (3, [3, 1, 1]), (1, [1] * 5)):
        backbone, output = Choosy(), tmp_path / f"{batch_size}.jsonl"
        summary = predict(backbone, asked, output, media_root=tmp_path, batch_size=batch_size, progress=False)
        assert list(answers(output)) == ["q0", "q1", "q2", "q4", "q6"]
        assert summary.drops == {"too_large": 1, "not_encodable": 1}
        assert backbone.batches == batches, "the rest of a batch is answered together"
    drops = [json.loads(line) for line in (tmp_path / "8.jsonl.run" / "drops.jsonl").read_text().splitlines()]
    assert [drop["source"] for drop in drops] == ["q3", "q5"] and "too red" in drops[0]["detail"]


def test_a_model_that_cannot_answer_stops(asked: list[Question], tmp_path: Path) -> None:
    """Whatever it is shown: counted as drops, all its questions would be done for good."""

    class Overflowing(Choosy):
        def generate(self, jobs: Sequence, **how: object) -> list[str]:
            raise InputError("computes no numbers")

    for count in (2, 7):  # the second time with a picture that cannot be shown among them
        with pytest.raises(InputError, match="no numbers"):
            predict(Overflowing(), asked[:count], tmp_path / f"{count}.jsonl", media_root=tmp_path, progress=False)


def test_a_question_with_the_models_own_placeholder_is_dropped(asked: list[Question], tmp_path: Path) -> None:
    backbone = build("llava")
    asked[1] = replace(asked[1], prompt=[user_message(f"What is {backbone.marks['image']}?", images=1)])
    how = {"media_root": tmp_path, "max_new_tokens": 2, "progress": False}
    assert predict(backbone, asked[:3], tmp_path / "out.jsonl", **how).drops == {"not_encodable": 1}
    assert list(answers(tmp_path / "out.jsonl")) == ["q0", "q2"]


def test_nothing_at_all_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no questions"):
        predict(ReddestPicture(), [], tmp_path / "out.jsonl", media_root=tmp_path)


# --- suites ---------------------------------------------------------------------------------------


@pytest.fixture
def config(tmp_path: Path, asked: list[Question]) -> Path:
    objects = {q.images[0]: ["red dog"] for q in asked}
    (tmp_path / "objects.json").write_text(json.dumps(objects), encoding="utf-8")
    path = tmp_path / "suite.yaml"
    path.write_text(
        f"suite:\n  - {{benchmark: chair, data: {tmp_path}}}\n  - {{benchmark: chair, data: {tmp_path}, "
        "name: short, options: {prompt: Objects}, max_new_tokens: 3}\n",
        encoding="utf-8",
    )
    return path


def test_a_suite_predicts_and_scores_every_entry(config: Path, tmp_path: Path) -> None:
    output = tmp_path / "runs"
    scores = suite.run_suite(ReddestPicture(), suite.read_suite(config), output, progress=False)
    assert list(scores) == ["chair", "short"]
    for label, text in (("chair", "red 60"), ("short", "red")):
        assert json.loads((output / f"{label}.json").read_text()) == scores[label]
        assert answers(output / f"{label}.jsonl")["6.png"] == text
    assert scores["chair"]["n_items"] == 7


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("suite: [", "not YAML"),
        ("- pope", "field 'suite': expected a list"),
        ("suite: []", "field 'suite': expected a list"),
        ("suite: [{benchmark: pope}]", r"field 'suite\[0\]': expected benchmark and data"),
        ("suite: [{benchmark: pope, data: a, media: b}]", r"field 'suite\[0\]'"),
        ("suite: [{benchmark: pope, data: a}, {benchmark: pope, data: b}]", "two entries have one name"),
    ],
)
def test_suites_that_are_wrong(tmp_path: Path, content: str, problem: str) -> None:
    path = tmp_path / "suite.yaml"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(InputError, match=problem):
        suite.read_suite(path)


def test_the_shipped_suite_reads() -> None:
    shipped = Path(__file__).resolve().parents[2] / "eval" / "hallucination.yaml"
    assert [entry.label for entry in suite.read_suite(shipped)] == ["pope", "chair"]


def test_a_machine_that_cannot_read_clips_stops(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Counted as drops, its questions would be done for good."""
    write_clip(tmp_path / "a.avi", [Image.new("RGB", (64, 48), "red")] * 3)
    asked = [Question(id="a", prompt=[user_message("How red?", videos=1)], videos=("a.avi",))]
    monkeypatch.setenv("MMALIGN_VIDEO_READER", "none")
    with pytest.raises(InputError, match="MMALIGN_VIDEO_READER"):
        predict(ReddestPicture(), asked, tmp_path / "out.jsonl", media_root=tmp_path, progress=False)
    monkeypatch.delenv("MMALIGN_VIDEO_READER")
    assert predict(ReddestPicture(), asked, tmp_path / "out.jsonl", media_root=tmp_path, progress=False).records == 1
