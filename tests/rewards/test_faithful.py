"""The judge of one response."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from mmalign import rewards
from mmalign.backbones import Job
from mmalign.records import InputError, Record, assistant_message, user_message
from tests.families import build
from tests.tiny import noise


class Saying:
    """Says Yes with the share of words that are ``red``."""

    def __init__(self) -> None:
        self.asked: list[Job] = []

    def choose(self, jobs: Sequence[Job], answers: Sequence[str], *, batch_size: int | None = None) -> np.ndarray:
        assert tuple(answers) == ("Yes", "No")
        self.asked += jobs
        replies = [job.messages[0]["content"][-1]["text"].partition("Answer: ")[2].split("\n")[0] for job in jobs]
        yes = np.array([reply.split().count("red") / len(reply.split()) for reply in replies])
        return np.stack([yes, 1 - yes], axis=1)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("media")
    noise(np.random.default_rng(0)).save(folder / "a.png")
    return folder


def one(name: str, text: str, images: tuple[str, ...] = ("a.png",)) -> Record:
    prompt = [user_message("What colour?", images=len(images))]
    return Record(name, prompt, [assistant_message(text)], images=images)


def test_score_is_the_probability_of_yes(root):
    model = Saying()
    records = [one("x", "red red blue red"), one("gone", "red", ("gone.png",)), one("y", "blue")]
    found = list(rewards.load("faithful")(model, media_root=root, batch_size=2).score(records))
    assert [(each.id, each.scores) for each in found] == [
        ("x", {"faithful": 0.75}), ("gone", {}), ("y", {"faithful": 0.0})]  # fmt: skip
    assert "gone.png" in found[1].text
    assert "Question: What colour?" in model.asked[0].messages[0]["content"][-1]["text"]
    assert len(model.asked) == 2 and len(model.asked[0].images) == 1


def test_a_model_that_says_neither_yes_nor_no_gives_no_score(root):
    class Thinking(Saying):
        def choose(self, *args, **options):
            return np.full_like(super().choose(*args, **options), np.nan)

    [scored] = rewards.load("faithful")(Thinking(), media_root=root).score([one("x", "red")])
    assert scored.scores == {} and "neither Yes nor No" in scored.text


def test_on_a_model(root):
    model, records = build("llava"), [one("x", "red circle"), one("y", "blue")]
    found = [each.scores["faithful"] for each in rewards.load("faithful")(model, media_root=root).score(records)]
    spy = Saying()
    list(rewards.load("faithful")(spy, media_root=root).score(records))
    assert found == pytest.approx(model.choose(spy.asked, ["Yes", "No"])[:, 0], abs=2e-6)


def test_refusals(root):
    with pytest.raises(InputError, match="answer"):
        rewards.load("faithful", prompt="Is it so? {question}")
    with pytest.raises(InputError, match="x has none"):
        list(rewards.load("faithful")(Saying(), media_root=root).score([Record("x", [user_message("?")])]))
