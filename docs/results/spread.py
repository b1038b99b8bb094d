"""Mean and spread of several runs, before and after alignment, as a Markdown table.

    python docs/results/spread.py runs/nlvr-0 runs/nlvr-1 runs/nlvr-2

Each run is a folder with answers/{base,aligned}/{chair,pope}.json, as `mmalign demo` and nlvr.sh write them.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from statistics import mean, stdev

ROWS = {
    "CHAIR_i": ("chair", "metrics", "chair_i"),
    "CHAIR_s": ("chair", "metrics", "chair_s"),
    "recall of objects": ("chair", "metrics", "recall"),
    "objects named": ("chair", "metrics", "mentions"),
    "POPE random, accuracy": ("pope", "groups", "random", "accuracy"),
    "POPE popular, accuracy": ("pope", "groups", "popular", "accuracy"),
    "POPE adversarial, accuracy": ("pope", "groups", "adversarial", "accuracy"),
    "POPE adversarial, yes-ratio": ("pope", "groups", "adversarial", "yes_ratio"),
}


def value(run: Path, model: str, path: tuple[str, ...]) -> float:
    content = json.loads((run / "answers" / model / f"{path[0]}.json").read_text(encoding="utf-8"))
    for key in path[1:]:
        content = content[key]
    return content


def spread(values: list[float]) -> str:
    deviation = stdev(values) if len(values) > 1 else 0.0
    return f"{mean(values):.3f} ± {deviation:.3f}"


def main(runs: list[Path]) -> None:
    print(f"| mean ± standard deviation of {len(runs)} seeds | base | aligned | change | of each seed |")
    print("|---|---|---|---|---|")
    for name, path in ROWS.items():
        base, aligned = ([value(run, model, path) for run in runs] for model in ("base", "aligned"))
        changes = [after - before for before, after in zip(base, aligned, strict=True)]
        each = ", ".join(f"{change:+.3f}" for change in changes)
        print(f"| {name} | {spread(base)} | {spread(aligned)} | {mean(changes):+.3f} | {each} |")


if __name__ == "__main__":
    main([Path(argument) for argument in sys.argv[1:]])
