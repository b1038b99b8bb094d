"""The numbers side by side: which way is better, what changed, what each of them means."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from mmalign.reports.report import Report

MINUS = "\N{MINUS SIGN}"


@dataclass(frozen=True)
class Metric:
    """How one number is shown and read.

    Attributes:
        label: its name in a table.
        meaning: one plain sentence.
        best: the share that a perfect model has; None where neither direction is better.
        share: whether it is a share in [0, 1], shown in percent.
    """

    label: str
    meaning: str = ""
    best: float | None = None
    share: bool = True

    @property
    def arrow(self) -> str:
        """Where better is: up, down, or towards a value."""
        if self.best is None:
            return ""
        towards = f"\N{RIGHTWARDS ARROW} {100 * self.best:g}\N{NO-BREAK SPACE}%"
        return {0: "\N{DOWNWARDS ARROW}", 1: "\N{UPWARDS ARROW}"}.get(self.best, towards)

    @property
    def direction(self) -> str:
        """The arrow in words."""
        if self.best is None:
            return ""
        towards = f"nearer {100 * self.best:g}\N{NO-BREAK SPACE}% is better"
        return {0: "lower is better", 1: "higher is better"}.get(self.best, towards)

    def show(self, value: float | None) -> str:
        """``23.4 %``, ``12.3``, or a dash where there is nothing."""
        if value is None:
            return "\N{EN DASH}"
        return f"{100 * value:.1f}\N{NO-BREAK SPACE}%" if self.share else f"{value:.1f}"

    def change(self, before: float, after: float) -> str:
        """The signed difference, in percentage points for a share."""
        return signed((after - before) * (100 if self.share else 1))

    def verdict(self, before: float, after: float) -> str:
        """``"better"``, ``"worse"``, ``"same"`` where the gain rounds to nothing; empty where neither way is better."""
        if self.best is None:
            return ""
        gain = self.change(abs(after - self.best), abs(before - self.best))
        return {"+": "better", MINUS: "worse"}.get(gain[0], "same")


def signed(value: float, decimals: int = 1) -> str:
    """``+1.2``, or with a true minus sign; ``0.0`` has none."""
    text = f"{abs(value):.{decimals}f}"
    return text if not text.strip("0.") else ("+" if value > 0 else MINUS) + text


METRICS = {
    "chair_i": Metric(
        "CHAIR_i", "Of all objects that the descriptions name, the share that is not in the picture.", best=0
    ),
    "chair_s": Metric(
        "CHAIR_s", "Share of descriptions that name at least one object that is not in the picture.", best=0
    ),
    "recall": Metric(
        "Recall",
        "Of all objects in the pictures, the share that the descriptions name. A model that says "
        "nothing hallucinates nothing, and finds nothing.",
        best=1,
    ),
    "words": Metric("Words", "Mean length of a description.", share=False),
    "mentions": Metric("Mentions", "Mean number of objects that a description names.", share=False),
    "pope.accuracy": Metric("Accuracy", "Share of yes/no questions answered rightly; guessing gives half.", best=1),
    "pope.precision": Metric(
        "Precision", "Of the questions answered yes, the share where the object is there.", best=1
    ),
    "pope.recall": Metric(
        "Recall of yes", "Of the questions about objects that are there, the share answered yes.", best=1
    ),
    "pope.f1": Metric("F1", "Harmonic mean of precision and recall of yes: high only if both are.", best=1),
    "pope.yes_ratio": Metric("Yes ratio", "Share of questions answered yes; for half of them yes is right.", best=0.5),
}
"""By the name of a score, or ``family.name`` for one that is nested, whatever lies between the two."""

TITLES = {
    (): "Descriptions (CHAIR)",
    ("pope",): "Yes/no questions (POPE), all splits",
    ("pope", "random"): "POPE, random: any object that is not there",
    ("pope", "popular"): "POPE, popular: frequent objects that are not there",
    ("pope", "adversarial"): "POPE, adversarial: objects that often go with those that are there",
}
"""Headings by the path to a group of scores."""

HEADLINES = (("chair_i",), ("recall",), ("pope", "adversarial", "f1"))


@dataclass(frozen=True)
class Row:
    """One metric for every model; None where a model does not have it."""

    path: tuple[str, ...]
    metric: Metric
    values: tuple[float | None, ...]

    @property
    def section(self) -> tuple[str, ...]:
        """The path less the metric's own name."""
        return self.path[:-1]

    @property
    def ends(self) -> tuple[float, float] | None:
        """Before and after: the first and the last model's value; None unless there are two."""
        first, last = self.values[0], self.values[-1]
        return None if len(self.values) < 2 or first is None or last is None else (first, last)

    @property
    def change(self) -> str:
        """The signed difference from first to last."""
        return self.metric.change(*self.ends) if self.ends else ""

    @property
    def relative(self) -> str:
        """The change as a share of the value before: what a falling error rate is quoted in."""
        if not self.ends or not self.ends[0]:
            return ""
        return signed(100 * (self.ends[1] / self.ends[0] - 1), 0) + "\N{NO-BREAK SPACE}%"

    @property
    def verdict(self) -> str:
        """See `Metric.verdict`."""
        return self.metric.verdict(*self.ends) if self.ends else ""


def rows(report: Report) -> list[Row]:
    """Every number of the scores: those in `METRICS` and `TITLES` in their order, then the others."""
    models = [dict(_numbers(scores)) for scores in report.scores.values()]
    found = {path: None for model in models for path in model}
    table = [Row(path, _metric(path), tuple(model.get(path) for model in models)) for path in found]
    sections, metrics = list(TITLES), list(METRICS)

    def place(row: Row) -> tuple[int, int]:
        key = _key(row.path)
        return (sections.index(row.section) if row.section in sections else len(sections),
                metrics.index(key) if key in metrics else len(metrics))  # fmt: skip

    return sorted(table, key=place)


def sections(report: Report) -> dict[str, list[Row]]:
    """The rows under their headings."""
    grouped: dict[str, list[Row]] = {}
    for row in rows(report):
        grouped.setdefault(TITLES.get(row.section, ", ".join(row.section)), []).append(row)
    return grouped


def headlines(report: Report) -> list[Row]:
    """The few rows that say it all, where two models have them."""
    by_path = {row.path: row for row in rows(report)}
    return [by_path[path] for path in HEADLINES if path in by_path and by_path[path].ends]


def meanings(report: Report) -> list[Metric]:
    """The metrics that occur and have an explanation, each once."""
    return list(dict.fromkeys(row.metric for row in rows(report) if row.metric.meaning))


def markdown(report: Report) -> str:
    """The comparison as one Markdown table, shares in percent and changes in points; empty without scores."""
    if not report.scores:
        return ""
    last = ("change",) if len(report.scores) > 1 else ()
    lines = [["", *map(_cell, report.scores), *last], ["---", *["---:"] * (len(report.scores) + len(last))]]
    for title, group in sections(report).items():
        lines.append([f"**{_cell(title)}**", *[""] * (len(lines[0]) - 1)])
        for row in group:
            name = f"{_cell(row.metric.label)} {row.metric.arrow}".strip()
            lines.append([name, *map(row.metric.show, row.values), *[row.change for _ in last]])
    return "".join("| " + " | ".join(line) + " |\n" for line in lines)


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def _key(path: tuple[str, ...]) -> str:
    return path[0] if len(path) == 1 else f"{path[0]}.{path[-1]}"


def _metric(path: tuple[str, ...]) -> Metric:
    return METRICS.get(_key(path)) or Metric(path[-1], share=False)


def _numbers(scores: Mapping[str, Any], prefix: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], float]]:
    """The finite numbers among the leaves, each with its path."""
    for name, value in scores.items():
        if isinstance(value, Mapping):
            yield from _numbers(value, (*prefix, name))
        elif isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
            yield (*prefix, name), float(value)
