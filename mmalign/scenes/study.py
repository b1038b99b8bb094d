"""What each objective does to the same model with the same pairs: a study on the embedded world.

    python -m mmalign.scenes.study --output runs/study

For each seed: pictures, BDHS pairs, and one training for each objective, with the same records, order, learning rate
and number of steps; each trained model describes pictures, answers POPE's questions, and ranks held-out pairs. All of
it resumes; the table and the picture are made of what is there.
"""

from __future__ import annotations

import argparse
import itertools
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import mean, stdev
from typing import Any, ClassVar

import numpy as np

from mmalign.benchmarks import chair
from mmalign.flags import guarded
from mmalign.records import Record, RecordFile, atomic_write, json_line, text_of, write_jsonl
from mmalign.scenes import MODEL
from mmalign.scenes.demo import Demo, processes
from mmalign.spans import differences

BASE = "base"


@dataclass(frozen=True)
class Entrant:
    """One training: an objective at its own defaults but for ``flags``, on the file ``pairs``."""

    objective: str
    flags: tuple[str, ...] = ()
    pairs: str = "pairs"


ENTRANTS = {
    "sft": Entrant("sft"),
    "dpo": Entrant("dpo"),
    "dpo + sft": Entrant("dpo", ("--sft_weight", "1")),
    "robust_dpo": Entrant("robust_dpo"),
    "mm_dpo": Entrant("mm_dpo"),
    "tdpo 1": Entrant("tdpo", ("--version", "1")),
    "tdpo 2": Entrant("tdpo"),
    "rrpo": Entrant("rrpo"),
    "rdpo": Entrant("rdpo"),
    "mdpo": Entrant("mdpo"),
}
"""What is compared."""

COLUMNS = {
    "CHAIR_i ↓": ("chair", "metrics", "chair_i"),
    "CHAIR_s ↓": ("chair", "metrics", "chair_s"),
    "recall ↑": ("chair", "metrics", "recall"),
    "named": ("chair", "metrics", "mentions"),
    "POPE adversarial ↑": ("pope", "groups", "adversarial", "accuracy"),
    "POPE yes": ("pope", "groups", "adversarial", "yes_ratio"),
    "ranked right ↑": ("ranking", "accuracy"),
    "reward right ↑": ("ranking", "reward_accuracy"),
    "distance": ("ranking", "distance"),
}
"""Columns of the table, and where each number lies: a file of answers, or ``ranking.json``."""

NO_SHARES = {"named", "distance"}
"""Columns that are not shares of something, which are shown in per cent."""


@dataclass(frozen=True)
class Study(Demo):
    """Train the bundled model with each objective on the same pairs, and compare what becomes of it.

    One seed of it: a demo with several trainings.

    Attributes:
        learning_rate: of every training.
        entrants: which of ``all_entrants`` take part.

    A study of something else has other ``columns``, of which the ``headline`` is told as changes, and drawn on
    ``panels``.
    """

    learning_rate: float = 1e-4
    entrants: tuple[str, ...] = tuple(ENTRANTS)
    all_entrants: ClassVar[Mapping[str, Entrant]] = ENTRANTS
    columns: ClassVar[Mapping[str, tuple[str, ...]]] = COLUMNS
    headline: ClassVar[tuple[str, ...]] = ("CHAIR_i ↓", "recall ↑", "POPE adversarial ↑", "ranked right ↑")
    panels: ClassVar[tuple[str, ...]] = ("CHAIR_i ↓", "recall ↑", "POPE adversarial ↑")
    sizes: ClassVar[Mapping[str, int]] = {"pictures": 2000, "held_out": 300, "test": 300}
    module: ClassVar[str] = "mmalign.scenes.study"

    def prepare(self) -> None:
        """Everything that the trainings share, unless it is there."""
        self.begin()
        for move in self.preparations():
            if move.__name__ not in self._state().get("prepared", ()):
                move()
                self._remember(prepared=[*self._state().get("prepared", ()), move.__name__])

    def preparations(self) -> tuple[Callable[[], None], ...]:
        """What comes before the first training, in order."""
        return self.world, self.build, self.enrich

    def _settings(self) -> dict[str, Any]:
        return {key: value for key, value in super()._settings().items() if key != "entrants"}

    def enrich(self) -> None:
        """Give the pairs all that any of the objectives reads: spans, rewards, another picture."""
        world = self.folder / "world" / "pairs"
        questions = {question.id: question for question in chair.questions(world / "objects.json")}
        other = most_alike({image: set(question.meta["objects"]) for image, question in questions.items()})
        for name in ("pairs", "held_out"):
            records = RecordFile(self.folder / f"{name}.jsonl", world)
            rows = (enriched(record, questions[record.images[0]], other[record.images[0]]) for record in records)
            write_jsonl(self.folder / f"{name}.jsonl", rows)

    def compare(self) -> None:
        """Train as each entrant says, and let each model answer and rank."""
        self.answer(BASE, MODEL)
        self.rank(BASE, MODEL)
        for name in self.entrants:
            model = self.folder / "models" / _folder(name)
            self.train_with(name, model)
            self.answer(name, model)
            self.rank(name, model)

    def train_with(self, name: str, output: Path) -> None:
        """Train the bundled model once."""
        entrant = self.all_entrants[name]
        ends = () if entrant.objective == "sft" else ("--end_of_turn", "false")  # BDHS's answers end where others did
        self._launch(
            "mmalign.cli", "train", entrant.objective, "--config", Path(__file__).with_name("study.yaml"),
            "--model", MODEL, "--data", self.folder / f"{entrant.pairs}.jsonl",
            "--media_root", self.folder / "world" / "pairs", "--output_dir", output,
            "--seed", self.seed, "--learning_rate", self.learning_rate,
            "--per_device_train_batch_size", max(1, 16 // self.processes), *ends, *entrant.flags,
        )  # fmt: skip

    def answer(self, name: str, model: str | Path) -> None:
        """Describe the test pictures, and answer POPE's questions about them."""
        self._launch(
            "mmalign.benchmarks.suite", "--config", self.folder / "suite.yaml", "--model", model,
            "--output", self.folder / "answers" / _folder(name), "--batch_size", 64,
        )  # fmt: skip

    def rank(self, name: str, model: str | Path) -> None:
        """Score the held-out pairs."""
        file = self.folder / "answers" / _folder(name) / "ranking.json"
        if not file.exists():
            found = ranking(str(model), self.folder / "held_out.jsonl", self.ranked_root)
            with atomic_write(file) as written:
                written.write(json_line(found))

    @property
    def ranked_root(self) -> Path:
        """Folder of the pictures of the held-out pairs."""
        return self.folder / "world" / "pairs"

    def scores(self, name: str) -> dict[str, float]:
        """The numbers of one model, by column."""
        folder, found = self.folder / "answers" / _folder(name), {}
        for column, (file, *keys) in self.columns.items():
            value: Any = json.loads((folder / f"{file}.json").read_text(encoding="utf-8"))
            for key in keys:
                value = value[key]
            found[column] = float(value)
        return found


def enriched(record: Record, question: Any, other: str) -> Record:
    """The pair with spans where its texts differ, rewards by what is true, and another picture.

    The reward is minus the number of objects named that are not there. So it is what a perfect judge of hallucinations
    would say, which real reward models are not.
    """
    chosen, rejected = text_of(record.chosen), text_of(record.rejected)
    spans = differences(chosen, rejected)
    rewards = [{"reward": -float(len(chair.hallucinated(question, text)))} for text in (chosen, rejected)]
    return replace(
        record,
        chosen_spans=spans[0],
        rejected_spans=spans[1],
        chosen_scores=rewards[0],
        rejected_scores=rewards[1],
        rejected_images=(other,),
    )


def most_alike(objects: Mapping[str, set[str]]) -> dict[str, str]:
    """For each picture the one whose objects are most like its own, by Jaccard's index, yet not the same.

    What a retriever would find, if it saw what is there. The first of several.
    """
    images, names = list(objects), sorted(set().union(*objects.values()))
    has = np.array([[name in objects[image] for name in names] for image in images], dtype=np.float32)
    common, sizes = has @ has.T, has.sum(1)
    alike = common / (sizes[:, None] + sizes - common)
    alike[alike == 1] = -1
    return {image: images[index] for image, index in zip(images, alike.argmax(1), strict=True)}


def ranking(model: str, pairs: Path, media_root: Path, batch_size: int = 32) -> dict[str, float]:
    """What a model makes of held-out pairs, beside the bundled one.

    Returns:
        ``accuracy``, the share of pairs whose chosen response is the likelier by its own log-probability per token;
        ``reward_accuracy``, of those whose chosen response gained more than the rejected one (0 for the bundled model,
        which gained nothing); ``distance``, KL(bundled || model) of a token of the chosen responses, in nats.
    """
    import torch

    from mmalign import backbones
    from mmalign.forward import Batch, Encoder, Engine, RecordDataset

    backbone = backbones.load(model, device="cpu")
    original = None if model == str(MODEL) else backbones.load(MODEL, device="cpu").model
    backbone.model.requires_grad_(False)
    engine = Engine(backbone, reference=True, reference_model=original, token_kl=True).eval()
    views = ("chosen", "rejected")
    dataset = RecordDataset(RecordFile(pairs, media_root), Encoder(backbone, views))
    right, gained, far, tokens = 0.0, 0.0, 0.0, 0.0
    with torch.no_grad():
        for start in range(0, len(dataset), batch_size):
            records = [dataset[i, True] for i in range(start, min(start + batch_size, len(dataset)))]
            batch = Batch.of(records, views, backbone.pad_token_id, share=engine.share_prefix, pack=engine.pack)
            policy, reference = engine(batch)
            chosen, rejected = (policy[view] for view in views)
            more = [(policy[view].sum() - reference[view].sum()) for view in views]
            right += float((chosen.mean() > rejected.mean()).sum())
            gained += float((more[0] > more[1]).sum())
            far, tokens = far + float(chosen.kl.sum()), tokens + float(chosen.mask.sum())
    return {"accuracy": right / len(dataset), "reward_accuracy": gained / len(dataset), "distance": far / tokens}


def table(studies: Sequence[Study]) -> str:
    """Mean and standard deviation over seeds, as Markdown."""
    columns = studies[0].columns
    lines = [f"| | {' | '.join(columns)} |", f"|{'---|' * (len(columns) + 1)}"]
    for name in (BASE, *studies[0].entrants):
        each = [study.scores(name) for study in studies]
        lines.append(f"| {name} | {' | '.join(_cell(c, [scores[c] for scores in each]) for c in columns)} |")
    return "\n".join(lines)


def changes(studies: Sequence[Study]) -> str:
    """What each seed gained on its own base, in points, as Markdown: seeds differ by more than objectives do."""
    columns = studies[0].headline
    lines = [f"| change, of each seed | {' | '.join(columns)} |", f"|{'---|' * (len(columns) + 1)}"]
    base = [study.scores(BASE) for study in studies]
    for name in studies[0].entrants:
        each = [study.scores(name) for study in studies]
        cells = []
        for column in columns:
            gains = [100 * (after[column] - before[column]) for after, before in zip(each, base, strict=True)]
            cells.append(f"{mean(gains):+.1f} ({', '.join(f'{gain:+.1f}' for gain in gains)})")
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def pairs_in_words(studies: Sequence[Study]) -> str:
    """What the rewards say of the pairs, all seeds together."""
    margins = [
        record.chosen_scores["reward"] - record.rejected_scores["reward"]
        for study in studies
        for record in RecordFile(study.folder / "pairs.jsonl", study.folder)
    ]
    equal = sum(margin == 0 for margin in margins) / len(margins)
    return (
        f"{len(margins)} pairs: the rejected answer names {mean(margins):.2f} more things that are not there than the "
        f"chosen one, on average; {equal:.0%} of them name as many"
    )


def _folder(name: str) -> str:
    return name.replace(" ", "_")


def _cell(column: str, values: Sequence[float]) -> str:
    scale, digits = (1, 3 if column == "distance" else 2) if column in NO_SHARES else (100, 1)
    spread = stdev(values) if len(values) > 1 else 0.0
    return f"{scale * mean(values):.{digits}f} ± {scale * spread:.{digits}f}"


def draw(studies: Sequence[Study], path: Path) -> None:
    """Gains on each seed's own base, over the distance from it: a large mark an objective, a small one a seed."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    panels = studies[0].panels
    figure, axes = pyplot.subplots(1, len(panels), figsize=(13, 4.4), layout="constrained")
    base = [study.scores(BASE) for study in studies]
    styles = zip(studies[0].entrants, itertools.cycle(pyplot.get_cmap("tab10").colors), itertools.cycle("os^DvPX"))
    for name, color, marker in styles:
        scores = [study.scores(name) for study in studies]
        distances = [each["distance"] for each in scores]
        for axis, column in zip(axes, panels, strict=True):
            gains = [100 * (after[column] - before[column]) for after, before in zip(scores, base, strict=True)]
            style = {"color": color, "marker": marker}
            axis.scatter(distances, gains, s=12, alpha=0.45, **style)
            axis.scatter(mean(distances), mean(gains), s=75, edgecolor="white", label=name, **style)
    for axis, column in zip(axes, panels, strict=True):
        axis.axhline(0, color="0.4", linewidth=1, linestyle="--")
        axis.set_xlabel("distance from the base model (nats a token)")
        axis.set_title(f"{column}, change in points")
        axis.grid(alpha=0.25)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside right center", frameon=False)
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


def in_words(studies: Sequence[Study]) -> str:
    """The tables and what is said of the pairs, as Markdown."""
    return f"{table(studies)}\n\n{changes(studies)}\n\n{pairs_in_words(studies)}"


_SIZES = {
    "pictures": "pictures, or clips, that pairs are built on",
    "held_out": "more of them, whose pairs are only ranked",
    "test": "those that models are judged on",
}


def main(
    arguments: Sequence[str] | None = None,
    kind: type[Study] = Study,
    told: Callable[[Sequence[Study]], str] = in_words,
) -> int:
    """Run a study, or go on with it. Returns the exit status."""
    command, name = f"python -m {kind.module}", kind.module.rpartition(".")[2]
    runs = Path("runs") / name
    parser = argparse.ArgumentParser(
        prog=command,
        description=(kind.__doc__ or "").partition("\n")[0],
        epilog=f"Example: {command} --output {runs} --seeds 0 1 2",
    )
    parser.add_argument("--output", type=Path, default=runs, help=f"folder to write (default {runs})")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="each: other pictures, pairs and order")
    known = list(kind.all_entrants)
    parser.add_argument(
        "--entrants", nargs="+", choices=known, default=known, metavar="NAME",
        help=f"which to compare (default all: {', '.join(known)})",
    )  # fmt: skip
    parser.add_argument("--learning_rate", type=float, default=kind.learning_rate, help="of every training")
    for size, what in _SIZES.items():
        parser.add_argument(
            f"--{size}", type=int, default=kind.sizes[size], help=f"{what} (default {kind.sizes[size]})"
        )
    parser.add_argument("--processes", type=int, help="ranks (default: one a GPU, or two on CPUs)")
    return guarded(command, lambda: _run(kind, parser.parse_args(arguments), told))


def _run(kind: type[Study], options: argparse.Namespace, told: Callable[[Sequence[Study]], str]) -> int:
    studies = [
        kind(
            (options.output / f"seed-{seed}").resolve(),
            seed=seed,
            pictures=options.pictures,
            held_out=options.held_out,
            test=options.test,
            processes=options.processes or processes(),
            learning_rate=options.learning_rate,
            entrants=tuple(options.entrants),
        )
        for seed in options.seeds
    ]
    for study in studies:
        study.prepare()
        study.compare()
    made = told(studies)
    (options.output / "table.md").write_text(made + "\n", encoding="utf-8")
    picture = options.output / f"{kind.module.rpartition('.')[2]}.png"
    draw(studies, picture)
    print(f"\n{made}\n\nThe same in {options.output / 'table.md'}; the picture is {picture}.")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
