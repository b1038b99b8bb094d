"""The judge on a stand-in whose taste is known, and on tiny models."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from mmalign import rewards
from mmalign.media import FrameChoice
from mmalign.records import InputError, Record, assistant_message, user_message
from tests.families import build
from tests.rewards.judges import Judging, pair_in, sigmoid
from tests.tiny import noise, write_clip


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder, rng = tmp_path_factory.mktemp("media"), np.random.default_rng(0)
    for name in ("a.png", "b.png"):
        noise(rng).save(folder / name)
    (folder / "page.png").write_text("<html>404</html>")
    write_clip(folder / "c.avi", [noise(rng) for _ in range(5)])
    return folder


def pair(name: str, chosen: str, rejected: str, images: tuple[str, ...] = ("a.png",), **fields) -> Record:
    prompt = [user_message("What is here?", images=len(images), videos=len(fields.get("videos", ())))]
    answers = {"chosen": [assistant_message(chosen)], "rejected": [assistant_message(rejected)]}
    return Record(name, prompt, images=images, **answers, **fields)


def strengths(scored) -> list[float]:
    return [each.scores["strength"] for each in scored]


@pytest.mark.parametrize("habit", [0.0, 1.5, -4.0])
def test_a_habit_of_saying_a_cancels(root, habit):
    model = Judging(len, habit)
    score = rewards.load("judge")(model, media_root=root).score
    better, worse, equal = strengths(score([pair("x", "abc", "ab"), pair("y", "ab", "abc"), pair("z", "ab", "cd")]))
    expected = (sigmoid(1 + habit) + sigmoid(1 - habit)) / 2
    assert better == pytest.approx(expected, abs=1e-6) and better > 0.5
    assert better + worse == pytest.approx(1, abs=2e-6)
    assert equal == 0.5


def test_both_orders_are_asked_about_and_told(root):
    model = Judging(len, habit=2.0)
    [scored] = rewards.load("judge")(model, media_root=root).score([pair("x", "abc", "ab")])
    assert [pair_in(job) for job in model.asked] == [("abc", "ab"), ("ab", "abc")]
    assert f"{sigmoid(3):.3f} where it stands as A, {1 - sigmoid(1):.3f} where it stands as B" in scored.text


def test_what_is_asked(root):
    model = Judging(len)
    prompt = "Q {question} A: {a} B: {b}\n\nAnswer A: {a}\n\nAnswer B: {b}\n\nWhich"
    record = pair("x", "{a} {0}", "plain", ("a.png", "b.png"))
    list(rewards.load("judge", prompt=prompt, prefix="Answer ")(model, media_root=root).score([record]))
    job = model.asked[0]
    *pictures, text = job.messages[0]["content"]
    assert pictures == [{"type": "image"}] * 2 and len(job.images) == 2 and job.prefix == "Answer "
    assert text["text"].startswith("Q What is here? A: {a} {0} B: plain"), "braces in a response are its own"


def test_a_clip_is_judged_by_its_frames(root):
    model = Judging(len)
    scorer = rewards.load("judge")(model, media_root=root, frames=FrameChoice(3))
    [scored] = scorer.score([pair("x", "abc", "ab", ("a.png",), videos=("c.avi",))])
    [clip] = model.asked[0].videos
    assert scored.scores and len(model.asked[0].images) == 1 and len(clip.frames) == 3
    assert [block["type"] for block in model.asked[0].messages[0]["content"]] == ["image", "video", "text"]


def test_several_turns_are_told_by_role(root):
    model = Judging(len)
    turns = [user_message("Hello", images=1), assistant_message("Hi"), user_message("How many?")]
    list(rewards.load("judge")(model, media_root=root).score([replace(pair("x", "abc", "ab"), prompt=turns)]))
    assert (
        "Question: user: Hello\nassistant: Hi\nuser: How many?\n" in model.asked[0].messages[0]["content"][-1]["text"]
    )


def test_a_record_that_cannot_be_judged_says_why_and_harms_no_other(root):
    records = [pair("x", "abc", "ab"), pair("gone", "a", "b", ("gone.png",)), pair("page", "a", "b", ("page.png",)),
               pair("up", "a", "b", ("../a.png",)), pair("y", "a", "b")]  # fmt: skip
    found = list(rewards.load("judge")(Judging(len), media_root=root).score(records))
    assert [each.id for each in found] == ["x", "gone", "page", "up", "y"]
    assert [bool(each.scores) for each in found] == [True, False, False, False, True]
    assert "gone.png" in found[1].text


def test_a_judge_that_says_neither_gives_no_score(root):
    """One order of one pair is enough."""

    class Thinking(Judging):
        def _says_a(self, a, b):
            return np.nan if (a, b) == ("second", "first") else super()._says_a(a, b)

    records = [pair("x", "abc", "ab"), pair("lost", "first", "second"), pair("y", "a", "b")]
    found = list(rewards.load("judge")(Thinking(len), media_root=root).score(records))
    assert [(each.id, list(each.scores)) for each in found] == [("x", ["strength"]), ("lost", []), ("y", ["strength"])]
    assert "neither A nor B" in found[1].text


def test_records_are_read_as_they_are_needed(root):
    taken = []

    def records():
        for i in range(100):
            taken.append(i)
            yield pair(f"r{i}", "abc", "ab")

    scored = rewards.load("judge")(Judging(len), media_root=root, batch_size=4).score(records())
    next(scored)
    assert len(taken) == 4


def test_a_record_without_two_responses_is_refused(root):
    with pytest.raises(InputError, match="x lacks one of two responses"):
        list(rewards.load("judge")(Judging(len), media_root=root).score([replace(pair("x", "a", "b"), rejected=None)]))


@pytest.mark.parametrize("prompt", ["Which of {a} and {b}?", "{question} {a} {b} {c}", "{question} {a} {b} {", "{}"])
def test_a_prompt_without_its_places_is_refused(prompt):
    with pytest.raises(InputError) as caught:
        rewards.load("judge", prompt=prompt)
    assert caught.value.field == "prompt"


@pytest.mark.parametrize("family", ["llava", "qwen2_5_vl"])
class TestModel:
    def test_strength_is_made_of_two_plain_choices(self, family, root):
        model = build(family)
        records = [pair("x", "A red circle.", "blue"), pair("y", "blue", "A red circle."),
                   pair("z", "A red circle.", "blue", ("a.png", "b.png")), pair("same", "red", "red")]  # fmt: skip
        judge = rewards.load("judge")
        one, other, two, same = strengths(judge(model, media_root=root, batch_size=3).score(records))
        assert same == 0.5 and one + other == pytest.approx(1, abs=3e-6) and one != two
        alone = [strengths(judge(model, media_root=root).score([record]))[0] for record in records]
        assert alone == pytest.approx([one, other, two, same], abs=3e-6)
        spy = Judging(len)
        list(judge(spy, media_root=root).score(records[2:3]))
        (first, _), (_, second) = model.choose(spy.asked, ["A", "B"])
        assert two == pytest.approx((first + second) / 2, abs=2e-6)

    def test_a_placeholder_in_a_response_is_no_picture(self, family, root):
        model = build(family)
        mark = model.tokenizer.convert_ids_to_tokens(model.image_token_id)
        found = list(
            rewards.load("judge")(model, media_root=root).score([pair("x", f"red {mark}", "blue"), pair("y", "a", "b")])
        )
        assert not found[0].scores and "placeholder" in found[0].text and found[1].scores
