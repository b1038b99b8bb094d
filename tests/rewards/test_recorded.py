"""Scores from a file."""

from __future__ import annotations

from pathlib import Path

import pytest

from mmalign import rewards
from mmalign.records import InputError, Record, user_message, write_jsonl


def asked(*names: str) -> list[Record]:
    return [Record(name, [user_message("?")]) for name in names]


def test_scores_are_looked_up_and_what_is_missing_is_told(tmp_path: Path):
    file = tmp_path / "scores.jsonl"
    rows = [{"id": "b", "scores": {"reward": 0.5, "length": 7}, "text": "good"}, {"id": "a", "scores": {"reward": -1}}]
    write_jsonl(file, [*rows, {"id": "not asked for", "scores": {"reward": 3}}])
    found = list(rewards.load("recorded", file=str(file))().score(asked("a", "c", "b")))
    assert found == [
        ("a", {"reward": -1}, ""),
        ("c", {}, f"{file} has no scores of it"),
        ("b", {"reward": 0.5, "length": 7}, "good"),
    ]


@pytest.mark.parametrize("lines, problem", [
    ('{"id": "a"}', ":1: field 'scores': is missing"),
    ('{"id": "a", "scores": {"reward": "high"}}', ":1: field 'scores.reward'"),
    ('{"id": "a", "scores": {"reward": NaN}}', ":1: field 'scores.reward'"),
    ('{"id": "a", "scores": {}, "score": 1}', ":1: field 'score'"),
    ('{"id": "a", "scores": {}}\n\n{"id": "a", "scores": {}}', ":3: field 'id': 'a' has scores before"),
    ("scores", ":1: malformed JSON"),
])  # fmt: skip
def test_a_broken_file_is_refused_with_its_line(tmp_path: Path, lines: str, problem: str):
    file = tmp_path / "scores.jsonl"
    file.write_text(lines + "\n")
    with pytest.raises(InputError) as caught:
        rewards.load("recorded", file=str(file))()
    assert problem in str(caught.value)


def test_no_file(tmp_path: Path):
    with pytest.raises(InputError, match="name the file"):
        rewards.load("recorded")()
    with pytest.raises(InputError, match="cannot be read"):
        rewards.load("recorded", file=str(tmp_path / "nowhere.jsonl"))()
