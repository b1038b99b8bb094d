"""What every scorer promises; run on every file in ``mmalign/rewards``."""

from __future__ import annotations

import dataclasses
import re
from dataclasses import replace

import pytest

from mmalign import backbones, cli, plugins, rewards
from mmalign.records import Record, Response, assistant_message, read_jsonl, text_of, user_message, write_jsonl
from tests.conftest import REPOSITORY
from tests.rewards.test_faithful import Saying

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


class Lengths:
    """A pointwise scorer that cannot score `b`; what it was given is remembered."""

    def __init__(self) -> None:
        self.given: list[str] = []

    def score(self, records):
        for record in records:
            self.given.append(record.id)
            text = text_of(record.chosen)
            yield rewards.Scored(record.id, {} if text == "b" else {"length": float(len(text))}, "")


def listed(name: str, *texts: str) -> Record:
    answers = tuple(Response(assistant_message(text), {"old": 1.0}, rank=2) for text in texts) or None
    return Record(name, [user_message("?")], responses=answers, meta={"k": 1})


def test_scores_go_into_the_list():
    records = [listed("s", "aaa", "b"), listed("none"), listed("t", "aa", "a", "b")]
    made = list(rewards.scored(iter(records), Lengths()))
    assert [[each.scores for each in record.responses or ()] for record in made] == [
        [{"old": 1.0, "length": 3.0}, {"old": 1.0}], [],
        [{"old": 1.0, "length": 2.0}, {"old": 1.0, "length": 1.0}, {"old": 1.0}],
    ]  # fmt: skip
    bare = [
        replace(r, responses=r.responses and tuple(replace(a, scores={"old": 1.0}) for a in r.responses)) for r in made
    ]
    assert bare == records, "and nothing else changes"


def test_lists_are_read_as_they_are_needed():
    scorer, names = Lengths(), iter("stuv")
    first = next(rewards.scored((listed(name, "a", "c") for name in names), scorer))
    assert first.id == "s" and scorer.given == ["s#0", "s#1"] and next(names) == "t"


def test_from_samples_to_pairs_as_on_the_page(tmp_path, monkeypatch):
    page = (REPOSITORY / "docs" / "rewards.md").read_text(encoding="utf-8")
    section = page.partition("samples to scores, as the tests run it -->\n```python\n")[2]
    snippet, _, rest = section.partition("```")
    (tmp_path / "photos").mkdir()
    write_jsonl(tmp_path / "samples.jsonl", [listed("s", "blue sky", "red sky", "red red"), listed("t", "red", "blue")])
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(backbones, "load", lambda name: Saying())
    exec(snippet, {})
    [command] = re.findall(r"^    mmalign (build ranks .*)$", rest.partition("\n## ")[0], re.MULTILINE)
    assert cli.main(command.split()) == 0
    pairs = [(pair.id, pair.meta["gap"]) for pair in read_jsonl("pairs.jsonl", Record.parse)]
    assert pairs == [("s#2-0", 1.0), ("s#2-1", 0.5), ("s#1-0", 0.5), ("t#0-1", 1.0)]


def test_the_example_on_the_page(tmp_path):
    page = (REPOSITORY / "docs" / "rewards.md").read_text(encoding="utf-8")
    file = tmp_path / "my_reward.py"
    file.write_text(page.partition("my_reward.py, as the tests run it -->\n```python\n")[2].partition("```")[0])
    scorer = rewards.load(f"{file}:Brevity", scale=0.5)()
    record = Record("s", [user_message("?")], [assistant_message("one two three")])
    assert list(scorer.score([record])) == [("s", {"brevity": -1.5}, "")]
