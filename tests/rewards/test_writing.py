"""Scores written into records: by hand, and by the command line."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from mmalign import cli, rewards
from mmalign.records import (
    InputError,
    Record,
    RecordFile,
    Response,
    assistant_message,
    read_jsonl,
    user_message,
    write_jsonl,
)
from mmalign.rewards import _writing

BREVITY = '''
"""The shorter, the better."""

from dataclasses import dataclass
from typing import ClassVar

from mmalign.plugins import option
from mmalign.records import text_of
from mmalign.rewards import Scored


@dataclass(frozen=True)
class Brevity:
    """Minus the number of words; of a pair, whether chosen has fewer."""

    scale: float = option(1.0, "Points for a word less.")

    pairwise: ClassVar[bool] = False
    wants_model: ClassVar[bool] = False

    def __call__(self, model=None, *, media_root=".", batch_size=8, frames=8):
        return self

    def score(self, records):
        for record in records:
            words = len(text_of(record.chosen).split())
            scores = {} if words > 5 else {"brevity": -self.scale * words}
            yield Scored(record.id, scores, "" if scores else "too long to be read")


class Shorter(Brevity):
    """The same of pairs."""

    pairwise = True

    def score(self, records):
        for record in records:
            yield Scored(record.id, {"shorter": 0.75})
'''


def said(text: str) -> list:
    return [assistant_message(text)]


PAIR = Record("a", [user_message("What is it?")], said("A cat."), said("A cat and a dog."), meta={"from": "here"})
LIST = Record(
    "b",
    [user_message("What is it?")],
    responses=tuple(
        Response(assistant_message(text)) for text in ("Two words.", "These are many more than five words.")
    ),
)


@pytest.fixture
def file(tmp_path) -> Path:
    (tmp_path / "brevity.py").write_text(BREVITY)
    write_jsonl(tmp_path / "records.jsonl", [PAIR, LIST])
    return tmp_path / "records.jsonl"


def write(file: Path, scorer: str, records=None, **options) -> list[Record]:
    output = file.parent / "scored.jsonl"
    reward = rewards.load(f"{file.parent}/brevity.py:{scorer}")
    _writing.write(reward, None, records or RecordFile(file), output, media_root=file.parent, progress=False, **options)
    return list(read_jsonl(output, Record.parse))


def test_by_hand(file):
    pair, several = write(file, "Brevity")
    maker = {"scorer": "brevity", "options": {"scale": 1.0}, "model": None}
    assert (pair.chosen_scores, pair.rejected_scores) == ({"brevity": -2.0}, {"brevity": -5.0})
    assert pair.meta["from"] == "here" and pair.meta["scored_by"]["brevity"].keys() == maker.keys()
    assert [each.scores for each in several.responses] == [{"brevity": -2.0}, {}]
    assert several.meta["unscored"] == {"1": "too long to be read"}
    assert replace(pair, chosen_scores={}, rejected_scores={}, meta=PAIR.meta) == PAIR


def test_a_pair_has_what_is_left_of_one(file):
    [pair] = write(file, "Shorter", [PAIR], name="reward")
    assert (pair.chosen_scores, pair.rejected_scores) == ({"reward": 0.75}, {"reward": 0.25})


def test_the_rejected_one_answers_its_own_prompt(file):
    other = [user_message("And now?")]
    asked = _writing._asked(replace(PAIR, rejected_prompt=other), pairwise=False)
    assert {side: one.prompt for side, one in asked.items()} == {"chosen": PAIR.prompt, "rejected": other}
    assert [one.id for one in asked.values()] == ["a#chosen", "a#rejected"]


@pytest.mark.parametrize(
    ("scorer", "record", "expected"),
    [
        ("Shorter", LIST, "b is no pair"),
        ("Brevity", replace(PAIR, chosen_scores={"brevity": 1.0}), "a has a score brevity already: .* another --name"),
    ],
)
def test_what_cannot_be_written_is_refused(file, scorer, record, expected):
    with pytest.raises(InputError, match=expected):
        write(file, scorer, [record])


def test_several_scores_have_no_one_name():
    with pytest.raises(InputError, match="the scorer gives x, y"):
        _writing._named({"x": 1.0, "y": 2.0}, "reward")


def test_the_command(file, capsys):
    output = file.parent / "out.jsonl"
    command = ["reward", str(file), "--scorer", f"{file.parent}/brevity.py:Brevity", "--output", str(output)]
    assert cli.main([*command, "--name", "reward", "--scale", "0.5"]) == 0
    told = capsys.readouterr().out
    assert "chosen is better in 100.0% of 1 pairs" in told and "1 times too long to be read" in told
    first = output.read_bytes()
    assert cli.main([*command, "--name", "reward", "--scale", "0.5"]) == 0 and output.read_bytes() == first
    assert cli.main([*command, "--name", "reward"]) == 2
    assert "scale: 0.5 -> 1.0" in capsys.readouterr().err
    [pair, _] = read_jsonl(output, Record.parse)
    assert pair.chosen_scores == {"reward": -1.0}


def test_recorded_scores_by_the_command(file, capsys):
    scores = {"a#chosen": 2.0, "a#rejected": 1.0, "b#0": 0.5}
    write_jsonl(file.parent / "told.jsonl", ({"id": key, "scores": {"reward": value}} for key, value in scores.items()))
    output = file.parent / "out.jsonl"
    command = ["reward", str(file), "--scorer", "recorded", "--file", str(file.parent / "told.jsonl")]
    assert cli.main([*command, "--output", str(output)]) == 0
    pair, several = read_jsonl(output, Record.parse)
    assert (pair.chosen_scores, pair.rejected_scores) == ({"reward": 2.0}, {"reward": 1.0})
    assert [each.scores for each in several.responses] == [{"reward": 0.5}, {}]
    assert "has no scores of it" in several.meta["unscored"]["1"]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["FILE", "--output", "x"], "--scorer|scorer.*is missing: judge, faithful"),
        (["FILE", "--scorer", "judge", "--output", "x"], "model.*is missing"),
        (["--scorer", "judge", "--output", "x"], "name the file of records first"),
        (["FILE", "--scorer", "judgement", "--output", "x"], "judge"),
    ],
)
def test_what_is_missing_is_said(file, arguments, expected, capsys):
    import re

    assert cli.main(["reward", *(str(file) if word == "FILE" else word for word in arguments)]) == 2
    assert re.search(expected, capsys.readouterr().err)


def test_a_model_scores(file, tiny_model, capsys):
    output = file.parent / "out.jsonl"
    command = ["reward", str(file), "--scorer", "faithful", "--model", str(tiny_model), "--output", str(output)]
    assert cli.main(command) == 0
    pair, several = read_jsonl(output, Record.parse)
    found = [pair.chosen_scores, pair.rejected_scores, *(each.scores for each in several.responses)]
    assert all(0 < each["faithful"] < 1 for each in found)
    faithful = rewards.load("faithful")(rewards_model(tiny_model), media_root=file.parent)
    expected = [each.scores for each in faithful.score(_writing._asked(PAIR, pairwise=False).values())]
    assert expected == [pair.chosen_scores, pair.rejected_scores]
    assert pair.meta["scored_by"]["faithful"]["model"]


def rewards_model(folder: Path):
    from mmalign import backbones

    return backbones.load(folder)
