"""The training curve as a file: one JSON object a log line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from transformers import TrainerCallback

NAME = "metrics.jsonl"


class MetricsFile(TrainerCallback):
    """Writes ``metrics.jsonl`` beside the model; after a resume it reads as if there had been no interruption."""

    def __init__(self, output_dir: Path) -> None:
        self.file = output_dir / NAME

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.is_world_process_zero:
            self.file.parent.mkdir(parents=True, exist_ok=True)
            lines = [json.dumps(row) + "\n" for row in state.log_history]
            self.file.write_text("".join(lines), encoding="utf-8")

    def on_log(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.is_world_process_zero and "train_runtime" not in state.log_history[-1]:
            with self.file.open("a", encoding="utf-8") as file:
                file.write(json.dumps(state.log_history[-1]) + "\n")


def read(output_dir: Path) -> list[dict[str, float]]:
    """The log lines of a run, in order; a torn last line is left out."""
    rows = []
    for line in (output_dir / NAME).read_text(encoding="utf-8").splitlines():
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return rows
