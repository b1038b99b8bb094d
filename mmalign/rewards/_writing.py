"""Scores written into a file of records: what ``mmalign reward`` does."""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmalign import flags, plugins, rewards, runs
from mmalign.endpoint import Writer, WriterOptions
from mmalign.media import FRAMES, FrameChoice
from mmalign.plugins import option
from mmalign.records import InputError, Record, RecordFile, read_jsonl
from mmalign.rewards import DIGITS, Reward, Scored

if TYPE_CHECKING:
    from transformers import HfArgumentParser

SCORERS = "judge, faithful, implicit, recorded or path/to/my_reward.py:MyReward"

UNSCORED = "unscored"
"""Where ``meta`` says which responses have no score, and why."""


def write(
    reward: Reward,
    model: Writer | None,
    records: Sequence[Record],
    output: str | Path,
    *,
    media_root: str | Path,
    name: str | None = None,
    unit_size: int = 64,
    batch_size: int = 8,
    frames: FrameChoice = FRAMES,
    progress: bool = True,
) -> runs.Summary:
    """Write the records with the scores of ``reward`` in them, or go on writing; see `mmalign.runs.run`.

    A pointwise scorer scores ``chosen``, ``rejected`` and each of the ``responses``, a pairwise one says how likely it
    is that chosen is better, p: chosen has p, rejected 1 - p. A response that cannot be scored stays without a score,
    and ``meta`` says why. For a recorded scorer the ids are ``ID#chosen``, ``ID#rejected`` and ``ID#0``, ``ID#1`` of
    responses; of a pair the record's own.

    Args:
        reward: the scorer's options.
        model: that scores; None for a scorer that needs none.
        name: what the score is called in the records; by default what the scorer calls it.

    Raises:
        InputError: a record has such a score already, or no responses that the scorer reads; or as `mmalign.runs.run`.
    """
    root = Path(media_root).resolve()
    maker = {
        "scorer": type(reward).__module__.rpartition(".")[2],
        "options": asdict(reward),
        "model": model.fingerprint() if model else None,
    }
    scorer = reward(model, media_root=root, batch_size=batch_size, frames=frames)

    def work(unit: runs.Unit) -> Iterator[tuple[str, list[Record]]]:
        asked = [_asked(record, reward.pairwise) for record in unit.items]
        said = iter(scorer.score(one for ones in asked for one in ones.values()))
        for record, ones in zip(unit.items, asked, strict=True):
            yield record.id, [_with_scores(record, {place: next(said) for place in ones}, reward.pairwise, name, maker)]

    return runs.run(
        output,
        records,
        work,
        unit_size=unit_size,
        manifest={
            **maker,
            "name": name,
            "frames": asdict(frames),
            "dtype": str(getattr(model, "dtype", None)),
            "files": {file: runs.fingerprint(Path(file)) for file in plugins.own_files(reward)},
            "inputs": {file: runs.fingerprint(Path(file)) for file in [getattr(reward, "file", None)] if file},
            "media_root": str(root),
        },
        description="reward",
        progress=progress,
    )


def _asked(record: Record, pairwise: bool) -> dict[str, Record]:
    """What the scorer reads of a record, by the place that it is about."""
    media = {"images": record.images, "videos": record.videos}
    if pairwise:
        if record.chosen is None or record.rejected is None:
            raise InputError(f"{record.id} is no pair: this scorer compares chosen with rejected", field="data")
        return {"pair": Record(record.id, record.prompt, record.chosen, record.rejected, **media)}
    sides = {
        "chosen": (record.prompt, record.chosen),
        "rejected": (record.rejected_prompt or record.prompt, record.rejected),
    }
    found = {
        side: Record(f"{record.id}#{side}", prompt, response, **media)
        for side, (prompt, response) in sides.items()
        if response is not None
    }
    found |= {str(number): one for number, one in enumerate(rewards.singles(record))}
    if not found:
        raise InputError(f"{record.id} has no response that could be scored", field="data")
    return found


def _with_scores(
    record: Record, said: dict[str, Scored], pairwise: bool, name: str | None, maker: dict[str, Any]
) -> Record:
    """The record with what was said of its places, and in ``meta`` who said it and what has no score."""
    scores = {place: _named(one.scores, name) for place, one in said.items()}
    if pairwise:
        scores = {"chosen": scores["pair"], "rejected": {k: round(1 - v, DIGITS) for k, v in scores["pair"].items()}}
    whole: dict[str, Any] = {
        f"{side}_scores": _together(record, getattr(record, f"{side}_scores"), scores[side])
        for side in ("chosen", "rejected")
        if side in scores
    }
    if record.responses:
        whole["responses"] = tuple(
            replace(each, scores=_together(record, each.scores, scores.get(str(number), {})))
            for number, each in enumerate(record.responses)
        )
    meta = {**record.meta}
    if by := {each: maker for found in scores.values() for each in found}:
        meta["scored_by"] = {**meta.get("scored_by", {}), **by}
    if missing := {place: one.text for place, one in said.items() if not one.scores}:
        meta[UNSCORED] = {**meta.get(UNSCORED, {}), **missing}
    return replace(record, **whole, meta=meta)


def _named(scores: dict[str, float], name: str | None) -> dict[str, float]:
    if name is None or not scores:
        return scores
    if len(scores) > 1:
        raise InputError(f"the scorer gives {', '.join(sorted(scores))}: they cannot have one name", field="name")
    return dict.fromkeys([name], *scores.values())


def _together(record: Record, before: dict[str, float], found: dict[str, float]) -> dict[str, float]:
    if twice := before.keys() & found.keys():
        raise InputError(f"{record.id} has a score {min(twice)} already: give the new one another --name", field="data")
    return {**before, **found}


# ---- the command line ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class RewardOptions:
    """What is scored, and where it goes."""

    output: str = field(metadata={"help": "Records with scores to write (JSONL). The same command again resumes."})
    media_root: str | None = option(None, "Folder that media paths start from (default: the file's own).")
    name: str | None = option(None, "What the score is called in the records (default: what the scorer calls it).")
    frames: int = option(FRAMES.count, "Frames of each clip that are shown.")
    fps: float | None = option(None, "So many frames a second, at most --frames.")
    video_pixels: int | None = option(None, "Most pixels of all frames of a clip together; larger ones are shrunk.")
    unit_size: int = option(64, "Records in a unit: the most that a kill can cost.")


@dataclass(frozen=True)
class ScoringModel(WriterOptions):
    """The model that scores, where the scorer wants one."""

    model: str | None = option(None, "Model that scores: a folder or name, a PEFT adapter's folder, or URL#MODEL.")


def main(arguments: Sequence[str]) -> int:
    """Score a file: ``mmalign reward FILE --scorer NAME ...``. Returns the exit status."""
    return flags.guarded("mmalign reward", lambda: _run([*arguments]))


def _run(arguments: list[str]) -> int:
    first = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    first.add_argument("--scorer", nargs="?")
    found, rest = first.parse_known_args(arguments)
    file = Path(rest.pop(0)) if rest and not rest[0].startswith("-") else None
    if found.scorer is None:
        if {"-h", "--help"} & {*rest}:
            _parser("judge").print_help()
            return 0
        raise InputError(f"is missing: {SCORERS}", field="scorer")
    reward, options, of_model = flags.parse(_parser(found.scorer), rest)
    if file is None:
        raise InputError("mmalign reward FILE --scorer NAME ...: name the file of records first")
    return _score(reward, file, options, of_model)


def _parser(scorer: str) -> HfArgumentParser:
    plugin = plugins.find_class(rewards.__name__, scorer)
    given = f"FILE --scorer {scorer} --model MODEL --output SCORED.jsonl"
    return flags.parser(
        [plugin, RewardOptions, ScoringModel],
        prog="mmalign reward",
        usage=f"%(prog)s {given} [--config FILE.yaml] [flags]",
        description=f"Write scores into records, by a scorer: {SCORERS}. {(plugin.__doc__ or '').strip()}",
        epilog=f"Example: mmalign reward {given.replace('FILE', 'pairs.jsonl')}",
    )


def _score(reward: Reward, file: Path, options: RewardOptions, of_model: ScoringModel) -> int:
    wants = getattr(reward, "wants_model", True)
    if wants and of_model.model is None:
        raise InputError("is missing: what scores", field="model")
    root, output = Path(options.media_root or file.parent), Path(options.output)
    summary = write(
        reward,
        of_model.load() if wants else None,
        RecordFile(file),
        output,
        media_root=root,
        name=options.name,
        unit_size=options.unit_size,
        batch_size=of_model.batch_size,
        frames=FrameChoice(options.frames, options.fps, options.video_pixels),
    )
    if summary.complete:
        print(report(output))
    return 0


def report(output: Path) -> str:
    """What was scored: how many responses, the mean of each score by place, and how often chosen has the larger one."""
    sums: dict[tuple[str, str], list[float]] = {}
    right: Counter[str] = Counter()
    pairs: Counter[str] = Counter()
    missing: Counter[str] = Counter()
    for record in read_jsonl(output, Record.parse):
        for place, scores in [("chosen", record.chosen_scores), ("rejected", record.rejected_scores)]:
            for name, value in scores.items():
                sums.setdefault((name, place), []).append(value)
        for each in record.responses or ():
            for name, value in each.scores.items():
                sums.setdefault((name, "responses"), []).append(value)
        for name in record.chosen_scores.keys() & record.rejected_scores.keys():
            pairs[name] += 1
            right[name] += record.chosen_scores[name] > record.rejected_scores[name]
        missing.update(record.meta.get(UNSCORED, {}).values())
    lines = [f"{output}:"]
    for (name, place), values in sorted(sums.items()):
        lines.append(f"  {name:<20} {place:<10} {len(values):>8}   mean {sum(values) / len(values):.4f}")
    lines += [
        f"  {name:<20} chosen is better in {right[name] / pairs[name]:.1%} of {pairs[name]} pairs" for name in pairs
    ]
    lines += [f"  without a score: {count} times {why}" for why, count in missing.most_common(5)]
    return "\n".join(lines)
