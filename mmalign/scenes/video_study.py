"""What each way of learning from clips does to the same model: DPO, RRPO and TEMPLE, on the embedded world.

    python -m mmalign.scenes.video_study --output runs/video_study

For each seed: clips; RRPO's pairs, of the model's wrong answers to questions about perturbed clips; TEMPLE's, of its
stories of clean and of perturbed clips, at two difficulties; as many true answers for SFT; and one training for each
entrant. TEMPLE's pairs are learnt in stages, the reference moving along: easy to hard, hard to easy, and with the
difficulties dealt out anew; and before and after SFT. The rest is as in `mmalign.scenes.study`; it resumes likewise.
"""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import yaml

from mmalign.records import Question, Record, RecordFile, assistant_message, read_jsonl, text_of, write_jsonl
from mmalign.runs import stable_seed
from mmalign.scenes import MODEL, clip_questions, clip_stories
from mmalign.scenes.dataset import write_split
from mmalign.scenes.study import Entrant, Study, changes, main, table

ASKED = ("order", "first", "event")
"""Kinds of questions whose answers are built on and taught, one of each kind a clip."""

LEVELS = (2, 4)
"""TEMPLE's levels on four frames: 4, 8 and 16 come to the same."""

EASY_TO_HARD = {"name": "level", "each_difficulty": "easy_to_hard"}
HARD_TO_EASY = {"name": "level", "each_difficulty": "hard_to_easy"}
TRUE_ANSWERS = {"name": "sft", "objective": "sft", "sft_weight": 0.0}

STAGES: dict[str, tuple[dict[str, Any], ...]] = {
    "temple": (EASY_TO_HARD,),
    "temple, hard to easy": (HARD_TO_EASY,),
    "temple, shuffled": (EASY_TO_HARD,),
    "temple, then sft": (EASY_TO_HARD, TRUE_ANSWERS),
    "sft, then temple": (TRUE_ANSWERS, EASY_TO_HARD),
}
"""Stages of the entrants that have some."""

ENTRANTS = {
    "sft": Entrant("sft", pairs="sft"),
    "dpo": Entrant("dpo", pairs="rrpo"),
    "dpo + sft": Entrant("dpo", ("--sft_weight", "1"), pairs="rrpo"),
    "rrpo": Entrant("rrpo", pairs="rrpo"),
    **{name: Entrant("dpo", ("--sft_weight", "1"), pairs="temple") for name in STAGES},
    "temple, shuffled": Entrant("dpo", ("--sft_weight", "1"), pairs="shuffled"),
}
"""What is compared. With TEMPLE's pairs DPO has the likelihood of the chosen story beside it, as there."""

COLUMNS = {
    "order ↑": ("clip_questions", "groups", "order", "right"),
    "first ↑": ("clip_questions", "groups", "first", "right"),
    "event ↑": ("clip_questions", "groups", "event", "right"),
    "moment ↑": ("clip_questions", "groups", "moment", "right"),
    "invented ↓": ("clip_stories", "metrics", "invented"),
    "told ↑": ("clip_stories", "metrics", "told"),
    "told in order ↑": ("clip_stories", "metrics", "in_order"),
    "forwards ↑": ("ranking", "accuracy"),
    "distance": ("ranking", "distance"),
}
"""See `clip_questions` and `clip_stories`; forwards: the true story is likelier than the same one backwards."""


@dataclass(frozen=True)
class VideoStudy(Study):
    """Train the bundled model on pairs about clips, and compare what becomes of it.

    One seed of it; attributes as in `Study`, with clips in the place of pictures.
    """

    entrants: tuple[str, ...] = tuple(ENTRANTS)
    all_entrants: ClassVar[Mapping[str, Entrant]] = ENTRANTS
    columns: ClassVar[Mapping[str, tuple[str, ...]]] = COLUMNS
    headline: ClassVar[tuple[str, ...]] = ("order ↑", "first ↑", "event ↑", "moment ↑", "invented ↓", "told in order ↑")
    panels: ClassVar[tuple[str, ...]] = ("first ↑", "event ↑", "invented ↓")
    sizes: ClassVar[Mapping[str, int]] = {"pictures": 1200, "held_out": 200, "test": 200}
    module: ClassVar[str] = "mmalign.scenes.video_study"

    def preparations(self) -> tuple[Callable[[], None], ...]:
        """What comes before the first training, in order."""
        return self.world, self.self_align, self.perturb, self.even_out

    @property
    def pool(self) -> Path:
        """Folder of the clips that pairs are built on."""
        return self.folder / "world" / "pairs"

    def world(self) -> None:
        """Draw the clips, and say what is asked about them."""
        write_split(self.pool, "pairs", 0, seed=self.seed, clips=self.pictures)
        test = write_split(self.folder / "world" / "test", "test", 0, seed=self.seed, clips=self.test)
        held_out = write_split(
            self.folder / "world" / "held_out", "test", 0, seed=self.seed + 1000, clips=self.held_out
        )
        write_jsonl(self.folder / "held_out.jsonl", map(backwards, RecordFile(held_out / "clips.jsonl")))
        write_jsonl(self.folder / "sources.jsonl", self._sources())
        suite = [{"benchmark": each.__file__, "data": str(test)} for each in (clip_questions, clip_stories)]
        (self.folder / "suite.yaml").write_text(json.dumps({"suite": suite}, indent=2), encoding="utf-8")

    def _sources(self) -> list[Record]:
        """Of each clip and kind the first question, with its true answer."""
        found: dict[tuple[str, str], Question] = {}
        for kind in ASKED:
            for question in read_jsonl(self.pool / "questions" / f"{kind}.jsonl", Question.parse):
                found.setdefault((question.videos[0], kind), question)
        return [
            Record(each.id, each.prompt, chosen=[assistant_message(each.gold)], videos=each.videos, meta=each.meta)
            for each in (found[key] for key in sorted(found))
        ]

    def self_align(self) -> None:
        """RRPO's pairs: what the model says wrongly of a masked and locally shuffled clip."""
        self._launch(
            "mmalign.cli", "build", "rrpo", "--model", MODEL, "--data", self.folder / "sources.jsonl",
            "--media_root", self.pool, "--output", self.folder / "built_rrpo.jsonl", "--seed", self.seed,
            "--short_words", 10,
            "--batch_size", 64, "--unit_size", 64,
        )  # fmt: skip

    def perturb(self) -> None:
        """TEMPLE's pairs: what the model tells of the clip, and of the clip perturbed."""
        self._launch(
            "mmalign.cli", "build", "temple", "--model", MODEL, "--data", self.pool / "clips.jsonl",
            "--output", self.folder / "built_temple.jsonl", "--seed", self.seed, "--level", "pixel", "--ask", "source",
            "--detector", "every", "--min_frames", 1, "--min_seconds", 0, "--same_above", 1,
            "--levels", ",".join(map(str, LEVELS)), "--batch_size", 64, "--unit_size", 16,
        )  # fmt: skip

    def even_out(self) -> None:
        """As many records for each kind of training: what there is least of decides."""
        draw = random.Random(stable_seed("video study", self.seed))
        answered = list(RecordFile(self.folder / "built_rrpo.jsonl", self.pool))
        told = list(RecordFile(self.folder / "built_temple.jsonl", self.pool))
        levels = {value: [r for r in told if r.difficulty == value] for value in {r.difficulty for r in told}}
        count = min(len(answered), len(levels) * min(map(len, levels.values())))
        each = [draw.sample(records, count // len(levels)) for _, records in sorted(levels.items())]
        temple = [record for records in each for record in records]
        dealt = draw.sample([record.difficulty for record in temple], len(temple))
        stories = {record.videos[0]: record for record in RecordFile(self.pool / "clips.jsonl")}
        truths = [*RecordFile(self.folder / "sources.jsonl", self.pool), *stories.values()]
        write_jsonl(self.folder / "rrpo.jsonl", draw.sample(answered, len(temple)))
        write_jsonl(self.folder / "temple.jsonl", temple)
        shuffled = (replace(record, difficulty=value) for record, value in zip(temple, dealt, strict=True))
        write_jsonl(self.folder / "shuffled.jsonl", shuffled)
        write_jsonl(self.folder / "sft.jsonl", draw.sample(truths, len(temple)))

    def train_with(self, name: str, output: Path) -> None:
        """Train the bundled model once, in stages where the entrant has some."""
        settings = yaml.safe_load(Path(__file__).with_name("study.yaml").read_text(encoding="utf-8"))
        stages = [
            {**stage, "data": str(self.folder / "sft.jsonl")} if stage is TRUE_ANSWERS else stage
            for stage in STAGES.get(name, ())
        ]
        settings = {key: value for key, value in settings.items() if key != "ignore"}
        config = self.folder / "configs" / f"{output.name}.yaml"
        config.parent.mkdir(exist_ok=True)
        config.write_text(json.dumps({**settings, **({"stages": stages} if stages else {})}), encoding="utf-8")
        entrant = self.all_entrants[name]
        self._launch(
            "mmalign.cli", "train", entrant.objective, "--config", config, "--model", MODEL,
            "--data", self.folder / f"{entrant.pairs}.jsonl", "--media_root", self.pool, "--output_dir", output,
            "--seed", self.seed, "--learning_rate", self.learning_rate,
            "--per_device_train_batch_size", max(1, 16 // self.processes), *entrant.flags,
        )  # fmt: skip

    @property
    def ranked_root(self) -> Path:
        """Folder of the clips of the held-out pairs."""
        return self.folder / "world" / "held_out"


def backwards(record: Record) -> Record:
    """The pair of a clip's story and the same story from its end to its beginning."""
    told = [
        f"{when} {event}." for when, event in zip(("First", "Then", "Last"), reversed(_events(record)), strict=True)
    ]
    return replace(record, rejected=[assistant_message(" ".join(told))])


def _events(record: Record) -> list[str]:
    return clip_stories.events(text_of(record.chosen))


def pairs_in_words(studies: Sequence[VideoStudy]) -> str:
    """What is true of the pairs, all seeds together, as Markdown.

    *chosen true*: chosen texts that are the true answer or, of stories, tell the three events in order; *rejected
    true*: the same of rejected texts.
    """
    lines = ["| pairs | records | built of | chosen true | rejected true |", "|---|---|---|---|---|"]
    for name, sources in (("rrpo", "sources"), ("temple", "world/pairs/clips")):
        records = [record for study in studies for record in RecordFile(study.folder / f"{name}.jsonl", study.pool)]
        count = sum(len(RecordFile(study.folder / f"{sources}.jsonl", study.pool)) for study in studies)
        true = [_truths(study) for study in studies]
        right = Counter()
        for study, truths in zip(studies, true, strict=True):
            for record in RecordFile(study.folder / f"{name}.jsonl", study.pool):
                gold = truths[record.id.partition("#rrpo")[0] if name == "rrpo" else record.videos[0]]
                right.update(side for side in ("chosen", "rejected") if text_of(getattr(record, side)) == gold)
        shares = " | ".join(f"{100 * right[side] / len(records):.1f} %" for side in ("chosen", "rejected"))
        lines.append(f"| {name} | {len(records)} | {count} {'questions' if name == 'rrpo' else 'clips'} | {shares} |")
    return "\n".join(lines)


def _truths(study: VideoStudy) -> dict[str, str]:
    """The true answer of each question by its id, and the true story of each clip by its name."""
    answers = {r.id: text_of(r.chosen) for r in RecordFile(study.folder / "sources.jsonl", study.pool)}
    return answers | {r.videos[0]: text_of(r.chosen) for r in RecordFile(study.pool / "clips.jsonl")}


def in_words(studies: Sequence[VideoStudy]) -> str:
    """All tables, as Markdown."""
    return f"{pairs_in_words(studies)}\n\n{table(studies)}\n\n{changes(studies)}"


if __name__ == "__main__":
    raise SystemExit(main(kind=VideoStudy, told=in_words))
