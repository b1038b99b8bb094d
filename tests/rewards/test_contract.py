"""What every scorer promises; run on every file in ``mmalign/rewards``."""

from __future__ import annotations

import dataclasses

import pytest

from mmalign import plugins, rewards
from mmalign.records import Record, Response, assistant_message, text_of, user_message
from tests.conftest import REPOSITORY

NAMES = plugins.names("mmalign.rewards")


def test_scorers_were_found():
    assert {"implicit", "judge", "faithful", "recorded"} <= set(NAMES)


@pytest.mark.parametrize("name", NAMES)
class TestReward:
    def test_is_a_frozen_dataclass_with_documented_options(self, name):
        reward = rewards.load(name)
        with pytest.raises(dataclasses.FrozenInstanceError):
            reward.anything = 1
        assert type(reward).__doc__ and isinstance(reward.pairwise, bool)
        for field in dataclasses.fields(reward):
            assert field.metadata.get("help"), f"{name}.{field.name} has no help"

    def test_has_a_row_on_the_page_and_tests(self, name):
        assert f"| `{name}` |" in (REPOSITORY / "docs" / "rewards.md").read_text(encoding="utf-8")
        assert (REPOSITORY / "tests" / "rewards" / f"test_{name}.py").is_file()


def test_responses_one_by_one_and_two_by_two():
    answers = tuple(Response(assistant_message(text)) for text in "abc")
    record = Record("s", [user_message("?", images=1)], responses=answers, images=("a.png",), gold=None, weight=2.0)
    ones, twos = rewards.singles(record), rewards.couples(record)
    assert [(one.id, text_of(one.chosen), one.rejected) for one in ones] == [
        ("s#0", "a", None), ("s#1", "b", None), ("s#2", "c", None)]  # fmt: skip
    assert [(two.id, text_of(two.chosen) + text_of(two.rejected)) for two in twos] == [
        ("s#0-1", "ab"), ("s#0-2", "ac"), ("s#1-2", "bc")]  # fmt: skip
    assert {(each.prompt is record.prompt, each.images) for each in ones + twos} == {(True, ("a.png",))}


def test_the_example_on_the_page(tmp_path):
    page = (REPOSITORY / "docs" / "rewards.md").read_text(encoding="utf-8")
    file = tmp_path / "my_reward.py"
    file.write_text(page.partition("as the tests run it -->\n```python\n")[2].partition("```")[0])
    scorer = rewards.load(f"{file}:Brevity", scale=0.5)()
    record = Record("s", [user_message("?")], [assistant_message("one two three")])
    assert list(scorer.score([record])) == [("s", {"brevity": -1.5}, "")]
