"""What each way of making pairs does to the same model: BDHS, retrieval, and both, on the embedded world.

    python -m mmalign.scenes.pairs_study --output runs/pairs_study

For each seed: pictures, pairs of each kind on them, and one training for each entrant over the pairs of its kind.
``both, all`` has twice as many pairs, and so twice the steps; so has ``retrieval, twice``, which sees its own again.
The rest is as in `mmalign.scenes.study`; it resumes likewise.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import ClassVar

from mmalign.benchmarks import chair
from mmalign.records import Record, RecordFile, text_of, write_jsonl
from mmalign.scenes import MODEL
from mmalign.scenes.study import Entrant, Study, changes, main, table

KINDS = {"pairs": "BDHS", "retrieval": "retrieval"}
"""Files of pairs that are built, and what they are called."""

ENTRANTS = {
    "sft": Entrant("sft"),
    "BDHS": Entrant("dpo"),
    "retrieval": Entrant("rdpo", pairs="retrieval"),
    "retrieval, texts": Entrant("dpo", pairs="retrieval"),
    "both, half each": Entrant("rdpo", pairs="half"),
    "both, all": Entrant("rdpo", pairs="all"),
    "retrieval, twice": Entrant("rdpo", ("--num_train_epochs", "2"), pairs="retrieval"),
}
"""What is compared. Re-Align's objective (`rdpo`) reads the retrieved picture too; for pairs without one it is DPO."""


@dataclass(frozen=True)
class PairsStudy(Study):
    """Train the bundled model on pairs of each kind, and compare what becomes of it.

    One seed of it; attributes as in `Study`.
    """

    entrants: tuple[str, ...] = tuple(ENTRANTS)
    all_entrants: ClassVar[Mapping[str, Entrant]] = ENTRANTS
    module: ClassVar[str] = "mmalign.scenes.pairs_study"

    def preparations(self) -> tuple[Callable[[], None], ...]:
        """What comes before the first training, in order."""
        return self.world, self.build, self.retrieve, self.unite

    @property
    def pool(self) -> Path:
        """Folder of the pictures that pairs are built on."""
        return self.folder / "world" / "pairs"

    def retrieve(self) -> None:
        """Pairs by retrieval over the same pictures: the model's own tower, words masked by the rule."""
        index, output = self.folder / "index", self.folder / "realign.jsonl"
        self._launch(
            "mmalign.cli", "index", "--model", MODEL, "--images", self.pool / "images", "--media_root", self.pool,
            "--output", index, "--batch_size", 64,
        )  # fmt: skip
        self._launch(
            "mmalign.cli", "build", "realign", "--model", MODEL, "--index", index, "--data", self.pool / "sft.jsonl",
            "--output", output, "--mask_by", "rule", "--complete_by", "prefix", "--seed", self.seed,
            "--batch_size", 64, "--unit_size", 32,
        )  # fmt: skip

    def unite(self) -> None:
        """Cut what was retrieved as the BDHS pairs are cut, and mix the two: half of the sources each, and all."""
        held_out = {_source(record) for record in RecordFile(self.folder / "held_out.jsonl", self.pool)}
        hidden = list(RecordFile(self.folder / "pairs.jsonl", self.pool))
        found = [r for r in RecordFile(self.folder / "realign.jsonl", self.pool) if _source(r) not in held_out]
        write_jsonl(self.folder / "retrieval.jsonl", found)
        write_jsonl(self.folder / "all.jsonl", [*hidden, *found])
        from_hidden = {record.id for record in hidden[::2]}
        sources = {_source(record) for record in hidden if record.id in from_hidden}
        halves = [record for record in hidden if record.id in from_hidden]
        write_jsonl(self.folder / "half.jsonl", [*halves, *(r for r in found if _source(r) not in sources)])


def _source(record: Record) -> str:
    return record.id.rpartition("#")[0]


def pairs_in_words(studies: Sequence[PairsStudy]) -> str:
    """What is true of the pairs of each kind, all seeds together, as Markdown.

    *more wrong*: things that are not there named by the rejected text, less those of the chosen one. *picture could be
    the same*: negative pictures in which all is there that the chosen text names: negative in name only.
    """
    lines = ["| pairs | of sources | more wrong | as many wrong | picture could be the same |", "|---|---|---|---|---|"]
    for file, name in KINDS.items():
        count, more, same = 0, [], []
        for study in studies:
            questions = {question.id: question for question in chair.questions(study.pool / "objects.json")}
            for record in RecordFile(study.folder / f"{file}.jsonl", study.pool):
                count += 1
                own, texts = questions[record.images[0]], [text_of(record.chosen), text_of(record.rejected)]
                right, wrong = (len(chair.hallucinated(own, text)) for text in texts)
                more.append(wrong - right)
                same += [not chair.hallucinated(questions[other], texts[0]) for other in record.rejected_images]
        sources = sum(study.pictures for study in studies)
        share = f"{100 * mean(same):.1f} %" if same else "–"
        equal = 100 * mean(number == 0 for number in more)
        lines.append(f"| {name} | {count} of {sources} | {mean(more):+.2f} | {equal:.0f} % | {share} |")
    return "\n".join(lines)


def in_words(studies: Sequence[PairsStudy]) -> str:
    """All tables, as Markdown."""
    return f"{pairs_in_words(studies)}\n\n{table(studies)}\n\n{changes(studies)}"


if __name__ == "__main__":
    raise SystemExit(main(kind=PairsStudy, told=in_words))
