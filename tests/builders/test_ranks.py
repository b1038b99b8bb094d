"""Pairs of ranked responses: which there are, what they carry, and why there is none."""

from __future__ import annotations

from pathlib import Path

import pytest
from scripted import source

from mmalign.builders import Drop, Unit, load, main
from mmalign.records import InputError, Record, Response, assistant_message, read_jsonl, text_of, write_jsonl


def ranked(*ranks: int | None, scores: tuple[float | None, ...] = (), name: str = "s", **fields: object) -> Record:
    """A source whose responses are called a, b, c, ..."""
    scores = scores or (None,) * len(ranks)
    responses = tuple(
        Response(assistant_message("abcdef"[i]), {} if score is None else {"help": score}, rank)
        for i, (rank, score) in enumerate(zip(ranks, scores, strict=True))
    )
    return source(name, None, responses=responses, **fields)


def made(record: Record, **options: object) -> list[Record] | Drop:
    [(name, result)] = load("ranks", **options)(Unit((record,), Path()), None)
    assert name == record.id
    return result


def texts(records: list[Record] | Drop) -> set[str]:
    assert isinstance(records, list)
    assert all(Record.parse(record.to_json()) == record for record in records)
    assert len({record.id for record in records}) == len(records)
    return {f"{text_of(record.chosen)}>{text_of(record.rejected)}" for record in records}


def test_every_pair_with_different_ranks():
    assert texts(made(ranked(2, 0, 1, 3))) == {"b>c", "b>a", "b>d", "c>a", "c>d", "a>d"}
    assert texts(made(ranked(0, 1, 1))) == {"a>b", "a>c"}
    assert {record.id for record in made(ranked(0, 1, 1))} == {"s#0-1", "s#0-2"}, "places, for ranks are not unique"


def test_best_against_worst():
    assert texts(made(ranked(2, 0, 1, 3), pairs="best_worst")) == {"b>d"}


def test_by_a_score():
    record = ranked(0, 0, None, scores=(1.0, 2.5, 2.0))
    assert texts(made(record, by="help")) == {"b>a", "b>c", "c>a"}
    [first, *_] = made(record, by="help")
    assert first.meta == {"gap": 1.5, "ranks": [0, 0]}


def test_gap():
    record = ranked(0, 1, 3)
    assert texts(made(record, min_gap=2)) == {"a>c", "b>c"}
    assert made(record, min_gap=4) == Drop("gap_too_small", "at most 3")


def test_a_pair_carries_what_belongs_to_its_responses():
    good = Response(assistant_message("A cat."), {"help": 2.0}, 0, ((2, 6),), "Right.")
    bad = Response(assistant_message("A dog."), {"help": 1.0}, 1, ((2, 5),), "Wrong.")
    given = source("s", "Something else.", responses=(bad, good), group="g", weight=2.0, meta={"x": 1})
    [pair] = made(given)
    assert pair.id == "s#1-0" and pair.images == given.images and pair.responses is None
    assert (text_of(pair.chosen), pair.chosen_scores, pair.chosen_spans) == ("A cat.", {"help": 2.0}, ((2, 6),))
    assert (pair.chosen_critique, pair.rejected_critique) == ("Right.", "Wrong.")
    assert (pair.rejected_scores, pair.rejected_spans) == ({"help": 1.0}, ((2, 5),))
    assert (pair.group, pair.weight) == ("g", 2.0)
    assert pair.meta == {"gap": 1.0, "ranks": [0, 1], "source": {"x": 1}}


def test_drops():
    assert made(source("s", "A cat.")) == Drop("no_responses")
    assert made(ranked(None, 1, None)) == Drop("no_rank", "1 of 3 have a rank")
    assert made(ranked(0, 1), by="help") == Drop("no_score", "0 of 2 have a help")
    assert made(ranked(1, 1, 1)) == Drop("all_tied")
    same = tuple(Response(assistant_message("A cat."), rank=rank) for rank in (0, 1))
    assert made(source("s", None, responses=same)) == Drop("all_tied"), "one text is not better than itself"
    assert texts(made(ranked(0, None, 1))) == {"a>c"}, "what has no rank is in no pair"


@pytest.mark.parametrize("options", [{"by": ""}, {"pairs": "some"}, {"min_gap": -1.0}, {"min_gap": float("nan")}])
def test_options_out_of_range(options: dict):
    with pytest.raises(InputError) as caught:
        load("ranks", **options)
    assert caught.value.field == next(iter(options))


def test_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    write_jsonl(tmp_path / "lists.jsonl", [ranked(0, 1, 2, name="one"), ranked(0, 0, name="two")])
    assert main("ranks", ["--data", f"{tmp_path}/lists.jsonl", "--output", f"{tmp_path}/pairs.jsonl"]) == 0
    said = capsys.readouterr().out
    assert "3 records from 1 of 2 sources" in said and "dropped: all_tied" in said
    ids = [record.id for record in read_jsonl(tmp_path / "pairs.jsonl", Record.parse)]
    assert sorted(ids) == ["one#0-1", "one#0-2", "one#1-2"] and ids[0] == "one#0-2", "the largest gap first"
