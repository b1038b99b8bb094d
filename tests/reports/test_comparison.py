"""The table: order, directions, signs and words."""

from __future__ import annotations

import pytest

from mmalign.reports import Report, markdown
from mmalign.reports.comparison import METRICS, headlines, meanings, rows

NBSP = "\N{NO-BREAK SPACE}"

SCORES = {
    "base": {"pope": {"adversarial": {"yes_ratio": 0.6, "f1": 0.8}, "random": {"f1": 0.9}}, "own@0.5": 3.25,
             "chair_i": 0.25, "recall": 0.9, "words": 20.0, "rule": "map", "complete": True},
    "aligned": {"chair_i": 0.2, "recall": 0.9, "words": 18.0, "own@0.5": 3.25,
                "pope": {"adversarial": {"yes_ratio": 0.45, "f1": 0.75}, "random": {"f1": 0.9}}},
}  # fmt: skip


def test_markdown_is_the_whole_comparison():
    assert (
        markdown(Report("Title", scores=SCORES)).replace(NBSP, " ")
        == """\
|  | base | aligned | change |
| --- | ---: | ---: | ---: |
| **Descriptions (CHAIR)** |  |  |  |
| CHAIR_i ↓ | 25.0 % | 20.0 % | −5.0 |
| Recall ↑ | 90.0 % | 90.0 % | 0.0 |
| Words | 20.0 | 18.0 | −2.0 |
| own@0.5 | 3.2 | 3.2 | 0.0 |
| **POPE, random: any object that is not there** |  |  |  |
| F1 ↑ | 90.0 % | 90.0 % | 0.0 |
| **POPE, adversarial: objects that often go with those that are there** |  |  |  |
| F1 ↑ | 80.0 % | 75.0 % | −5.0 |
| Yes ratio → 50 % | 60.0 % | 45.0 % | −15.0 |
"""
    )


def test_markdown_of_one_model_and_of_none():
    table = markdown(Report("Title", scores={"a | b": {"chair_i": 0.25}}))
    assert table.splitlines()[0] == "|  | a \\| b |" and table.splitlines()[-1] == f"| CHAIR_i ↓ | 25.0{NBSP}% |"
    assert markdown(Report("Title")) == ""


@pytest.mark.parametrize(("name", "before", "after", "verdict"), [
    ("chair_i", 0.2, 0.1, "better"), ("chair_i", 0.1, 0.2, "worse"), ("recall", 0.1, 0.2, "better"),
    ("pope.yes_ratio", 0.6, 0.45, "better"), ("pope.yes_ratio", 0.5, 0.45, "worse"),
    ("pope.yes_ratio", 0.52, 0.48, "same"),
    ("chair_i", 0.2, 0.2001, "same"), ("words", 20, 10, ""),
])  # fmt: skip
def test_verdict(name, before, after, verdict):
    assert METRICS[name].verdict(before, after) == verdict


def test_a_number_that_one_model_lacks_has_no_change():
    table = {row.path: row for row in rows(Report("Title", scores={"a": {"chair_i": 0.1}, "b": {"recall": 0.5}}))}
    assert table[("chair_i",)].values == (0.1, None) and table[("recall",)].values == (None, 0.5)
    assert {(row.ends, row.change, row.verdict, row.relative) for row in table.values()} == {(None, "", "", "")}


def test_headlines_and_relative_change():
    found = headlines(Report("Title", scores=SCORES))
    assert [row.path for row in found] == [("chair_i",), ("recall",), ("pope", "adversarial", "f1")]
    assert found[0].relative == f"−20{NBSP}%"
    from_zero = headlines(Report("Title", scores={"a": {"chair_i": 0.0}, "b": {"chair_i": 0.1}}))
    assert from_zero[0].relative == ""


def test_each_metric_is_explained_once():
    assert [metric.label for metric in meanings(Report("Title", scores=SCORES))] == [
        "CHAIR_i", "Recall", "Words", "F1", "Yes ratio",
    ]  # fmt: skip
