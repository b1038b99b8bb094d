"""The audit's questions about texts: length, repetition, contradiction, yes and no, scores, fields."""

from __future__ import annotations

import json
import re
from array import array
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, fields
from hashlib import blake2b
from typing import Any

import numpy as np

from mmalign.records import Record
from mmalign.reports.audit import SHOWN, Finding, Row, Tally, percent

COIN = 0.6
"""From here on a rule that knows nothing of the picture predicts too much. A coin has 0.5."""

COMMON, COMMON_COUNT = 0.01, 10
"""A chosen text is too common if it has this share of the records, is in this many, and has more than three words."""

CONTAINED = 0.05
"""Up to this share of pairs one text may be a part of the other without a warning."""


def beats_a_coin(share: float, count: int) -> bool:
    """Whether a rule that is right in ``share`` of ``count`` cases is too good, by more than chance (3 deviations)."""
    return share >= COIN and share - 0.5 > 1.5 / count**0.5


# ---- lengths ---------------------------------------------------------------------------------------------------------


@dataclass
class LengthBias:
    """Whether length alone tells chosen from rejected.

    Attributes:
        unit: what is counted.
        measure: a row -> lengths of chosen and rejected, or None for a row that is no pair.
    """

    unit: str
    measure: Callable[[Row], tuple[int, int] | None]
    chosen: array = field(default_factory=lambda: array("L"))
    rejected: array = field(default_factory=lambda: array("L"))
    longer: Tally = field(default_factory=Tally)
    shorter: Tally = field(default_factory=Tally)

    def add(self, row: Row) -> None:
        """See `Check`."""
        lengths = self.measure(row)
        if lengths is None:
            return
        self.chosen.append(lengths[0])
        self.rejected.append(lengths[1])
        if lengths[0] != lengths[1]:
            (self.longer if lengths[0] > lengths[1] else self.shorter).add(row.line)

    def findings(self) -> Iterator[Finding]:
        """See `Check`."""
        count = len(self.chosen)
        if not count:
            return
        chosen, rejected = np.array(self.chosen, dtype=float), np.array(self.rejected, dtype=float)
        ratios = np.maximum(chosen, 1) / np.maximum(rejected, 1)
        ties = count - self.longer.count - self.shorter.count
        better, side = max((self.longer.count, "longer"), (self.shorter.count, "shorter"))
        rule = (better + ties / 2) / count
        numbers = {
            "pairs": count,
            "chosen_longer": self.longer.count / count,
            "chosen_shorter": self.shorter.count / count,
            "mean_ratio": float(ratios.mean()),
            "median_ratio": float(np.median(ratios)),
            "accuracy_of_length": rule,
            "point_biserial": _point_biserial(chosen, rejected),
        }
        yield Finding(
            f"length_{self.unit}",
            beats_a_coin(rule, count),
            f"In {self.unit}, chosen is longer in {percent(self.longer.count / count)} of {count} pairs and shorter in "
            f"{percent(self.shorter.count / count)}; {numbers['mean_ratio']:.2f} times as long in the mean, "
            f"{numbers['median_ratio']:.2f} times in the median. Taking the {side} text for chosen is right in "
            f"{percent(rule)} (a coin: 50%); correlation of length and being chosen {numbers['point_biserial']:.2f}.",
            better if beats_a_coin(rule, count) else 0,
            tuple((self.longer if side == "longer" else self.shorter).lines) if beats_a_coin(rule, count) else (),
            numbers=numbers,
        )


def _point_biserial(chosen: np.ndarray, rejected: np.ndarray) -> float:
    """Correlation of a text's length with whether it is chosen, over all texts; 0 where all are of one length."""
    lengths = np.concatenate([chosen, rejected])
    labels = np.repeat([1.0, 0.0], len(chosen))
    spread = lengths.std()
    return float(((lengths - lengths.mean()) * (labels - 0.5)).mean() / (spread * 0.5)) if spread else 0.0


def word_counts(row: Row) -> tuple[int, int] | None:
    """Words of chosen and rejected where these are two texts."""
    if not row.is_pair or row.chosen == row.rejected:
        return None
    return len(row.chosen_words), len(row.rejected_words)


# ---- repetition ------------------------------------------------------------------------------------------------------


def _digest(*parts: Any) -> int:
    """64 bits: among a million records two different ones share them once in 30 million files."""
    text = json.dumps(parts, sort_keys=True, ensure_ascii=False, default=list).encode("utf-8", "surrogatepass")
    return int.from_bytes(blake2b(text, digest_size=8).digest(), "big")


@dataclass
class Repeats:
    """Records, prompts and answers that come again, and pairs that stand both ways round.

    Attributes:
        media: a media name -> what the file shows, where that is known, or the name itself.
    """

    media: Callable[[str], Any]
    lines: array = field(default_factory=lambda: array("L"))
    prompts: array = field(default_factory=lambda: array("Q"))
    records: array = field(default_factory=lambda: array("Q"))
    pairs: array = field(default_factory=lambda: array("Q"))
    turned: array = field(default_factory=lambda: array("Q"))
    answers: array = field(default_factory=lambda: array("Q"))

    def add(self, row: Row) -> None:
        """See `Check`."""
        record = row.record
        shown = [[*map(self.media, names)] for names in (record.images, record.videos)]
        hidden = [[*map(self.media, names)] for names in (record.rejected_images, record.rejected_videos)]
        prompt = _digest(record.prompt, shown)
        ranked = sorted(_digest(response.to_json()) for response in record.responses or ())
        self.lines.append(row.line)
        self.prompts.append(prompt)
        self.records.append(
            _digest(prompt, record.chosen, record.rejected, record.gold, ranked, hidden, record.rejected_prompt)
        )
        turnable = row.is_pair and not row.has_negative
        sides = (row.chosen_words, row.rejected_words)
        self.pairs.append(_digest(prompt, *sides) if turnable else 0)
        self.turned.append(_digest(prompt, *sides[::-1]) if turnable and sides[0] != sides[1] else 0)
        self.answers.append(_digest(row.chosen_words) if len(row.chosen_words) > 3 else 0)

    def findings(self) -> Iterator[Finding]:
        """See `Check`."""
        lines = np.array(self.lines)
        yield from _repeated(
            lines, self.records, "same_record", True,
            "{n} ({share}) have prompt, media and answers of an earlier line: they count twice, and may stand on both "
            "sides of a split.",
        )  # fmt: skip
        yield from self._contradictions(lines)
        yield from self._common_answer(lines)
        yield from _repeated(
            lines, self.prompts, "same_prompt", False,
            "{n} ({share}) have prompt and media of an earlier line: keep them on one side of a split.",
        )  # fmt: skip

    def _contradictions(self, lines: np.ndarray) -> Iterator[Finding]:
        pairs, turned = np.array(self.pairs), np.array(self.turned)
        known, first = np.unique(pairs, return_index=True)
        place = np.searchsorted(known, turned).clip(max=max(len(known) - 1, 0))
        found = np.flatnonzero((turned != 0) & (known[place] == turned)) if len(known) else np.array([], dtype=int)
        found = found[lines[first[place[found]]] < lines[found]]  # the later of the two says it
        if len(found):
            yield Finding(
                "contradictions",
                True,
                f"{_many(len(found))} ({percent(len(found) / len(lines))}) prefer what an earlier line of the same "
                "prompt and media rejects, and reject what it prefers: together they teach nothing.",
                len(found),
                tuple(lines[found[:SHOWN]].tolist()),
                tuple(lines[first[place[found[:SHOWN]]]].tolist()),
            )

    def _common_answer(self, lines: np.ndarray) -> Iterator[Finding]:
        answers = np.array(self.answers)
        given = answers[answers != 0]
        if not len(given):
            return
        known, counts = np.unique(given, return_counts=True)
        count = int(counts.max())
        places = lines[answers == known[counts.argmax()]]
        if count >= max(COMMON_COUNT, COMMON * len(lines)):
            yield Finding(
                "same_chosen",
                True,
                f"One chosen text stands in {_many(count)} ({percent(count / len(lines))}): it is learnt by heart, "
                "whatever the picture.",
                count,
                tuple(places[:SHOWN].tolist()),
                numbers={"texts": len(known)},
            )


def _repeated(lines: np.ndarray, digests: array, kind: str, warning: bool, text: str) -> Iterator[Finding]:
    """The records whose digest an earlier one has."""
    _, first, inverse = np.unique(np.array(digests), return_index=True, return_inverse=True)
    later = np.flatnonzero(first[inverse] != np.arange(len(lines)))
    if len(later):
        yield Finding(
            kind,
            warning,
            text.format(n=_many(len(later)), share=percent(len(later) / len(lines))),
            len(later),
            tuple(lines[later[:SHOWN]].tolist()),
            tuple(lines[first[inverse[later[:SHOWN]]]].tolist()),
        )


def _many(count: int) -> str:
    return f"{count} record{'' if count == 1 else 's'}"


# ---- texts that do not differ ----------------------------------------------------------------------------------------


@dataclass
class SameTexts:
    """Pairs whose two texts say the same words, or one of which is a part of the other."""

    pairs: int = 0
    equal: Tally = field(default_factory=Tally)
    cut: Tally = field(default_factory=Tally)
    grown: Tally = field(default_factory=Tally)

    def add(self, row: Row) -> None:
        """See `Check`."""
        if not row.is_pair or row.has_negative:
            return
        self.pairs += 1
        chosen, rejected = (f" {' '.join(side)} " for side in (row.chosen_words, row.rejected_words))
        if chosen == rejected:
            self.equal.add(row.line)
        elif chosen in rejected:
            self.grown.add(row.line)
        elif rejected in chosen:
            self.cut.add(row.line)

    def findings(self) -> Iterator[Finding]:
        """See `Check`."""
        for kind, tally, limit, text in (
            ("same_words", self.equal, 0.0, "the same words on both sides, but for case, punctuation and white space: "
             "what is preferred is a form."),
            ("chosen_in_rejected", self.grown, CONTAINED, "the whole chosen text within the rejected one: what is "
             "preferred is to say less."),
            ("rejected_in_chosen", self.cut, CONTAINED, "the whole rejected text within the chosen one: what is "
             "preferred is to say more."),
        ):  # fmt: skip
            if tally.count:
                share = tally.count / self.pairs
                yield Finding(
                    kind,
                    share > limit,
                    f"{tally.count} of {self.pairs} pairs ({percent(share)}) have {text}",
                    tally.count,
                    tuple(tally.lines),
                    numbers={"pairs": self.pairs, "share": share},
                )


# ---- yes and no ------------------------------------------------------------------------------------------------------


@dataclass
class YesNo:
    """Whether pairs teach one of yes and no, whatever is asked."""

    counts: Counter = field(default_factory=Counter)  # of (side, word)
    towards: dict[str, Tally] = field(default_factory=lambda: {"yes": Tally(), "no": Tally()})

    def add(self, row: Row) -> None:
        """See `Check`."""
        begun = {side: _yes_or_no(getattr(row, side)) for side in ("chosen", "rejected")}
        for side, word in begun.items():
            if word:
                self.counts[side, word] += 1
        taught = begun["chosen"] or {"yes": "no", "no": "yes"}.get(begun["rejected"])
        if taught and begun["chosen"] != begun["rejected"]:
            self.towards[taught].add(row.line)

    def findings(self) -> Iterator[Finding]:
        """See `Check`."""
        count = sum(tally.count for tally in self.towards.values())
        if not count:
            return
        taught, word = max((tally.count, word) for word, tally in self.towards.items())
        warning = beats_a_coin(taught / count, count)
        sides = [
            f"of {sum(self.counts[side, w] for w in self.towards)} {side} answers that begin with yes or no, "
            f"{percent(self.counts[side, 'yes'] / total)} say yes"
            for side in ("chosen", "rejected")
            if (total := sum(self.counts[side, w] for w in self.towards))
        ]
        text = "; ".join(sides)
        yield Finding(
            "yes_no",
            warning,
            f"{text[0].upper()}{text[1:]}. Of {count} that tell the two apart, {percent(taught / count)} teach to say "
            f"{word}{', whatever is asked' if warning else ''}.",
            taught if warning else 0,
            tuple(self.towards[word].lines) if warning else (),
            numbers={"taught": word, "share": taught / count}
            | {f"{side}_{w}": self.counts[side, w] for side in ("chosen", "rejected") for w in self.towards},
        )


_YES_NO = re.compile(r"\W*(yes|no)\b", re.IGNORECASE)


def _yes_or_no(text: str | None) -> str | None:
    match = _YES_NO.match(text or "")
    return match[1].lower() if match else None


# ---- scores and fields -----------------------------------------------------------------------------------------------


@dataclass
class _Range:
    """What one score is like on both sides."""

    values: int = 0
    low: float = float("inf")
    high: float = float("-inf")
    both: int = 0
    ties: int = 0
    below: Tally = field(default_factory=Tally)

    def add(self, *given: float) -> None:
        self.values += len(given)
        self.low, self.high = min(self.low, *given), max(self.high, *given)


@dataclass
class Scores:
    """The range of every score, and pairs whose chosen side has the lower one."""

    ranges: dict[str, _Range] = field(default_factory=dict)

    def add(self, row: Row) -> None:
        """See `Check`."""
        chosen, rejected = row.record.chosen_scores, row.record.rejected_scores
        for scores in (chosen, rejected, *(response.scores for response in row.record.responses or ())):
            for name, value in scores.items():
                self.ranges.setdefault(name, _Range()).add(value)
        for name in chosen.keys() & rejected.keys():
            self.ranges[name].both += 1
            self.ranges[name].ties += chosen[name] == rejected[name]
            if chosen[name] < rejected[name]:
                self.ranges[name].below.add(row.line)

    def findings(self) -> Iterator[Finding]:
        """See `Check`."""
        for name, seen in sorted(self.ranges.items()):
            share = seen.below.count / seen.both if seen.both else 0.0
            text = f"Score {name}: {seen.values} values from {seen.low:g} to {seen.high:g}."
            if seen.both:
                text += (
                    f" Of {seen.both} pairs with both, chosen has the lower one in {percent(share)}, an equal one in "
                    f"{percent(seen.ties / seen.both)}."
                )
            yield Finding(
                f"score_{name}",
                name == "reward" and seen.below.count > 0,  # of others lower may be better
                text,
                seen.below.count,
                tuple(seen.below.lines),
                numbers={"score": name, "low": seen.low, "high": seen.high, "pairs": seen.both, "chosen_lower": share},
            )


@dataclass
class Fields:
    """Which fields the records have."""

    records: int = 0
    counts: Counter = field(default_factory=Counter)

    def add(self, row: Row) -> None:
        """See `Check`."""
        self.records += 1
        self.counts.update(name for name in _OPTIONAL if getattr(row.record, name) not in (None, (), {}))

    def findings(self) -> Iterator[Finding]:
        """See `Check`."""
        present = {name: self.counts[name] for name in _OPTIONAL if self.counts[name]}
        said = [name if count == self.records else f"{name} in {count}" for name, count in present.items()]
        if said:
            yield Finding("fields", False, f"Of {self.records} records: {', '.join(said)}.", numbers=present)


_OPTIONAL: Sequence[str] = tuple(f.name for f in fields(Record) if f.name not in ("id", "prompt"))
