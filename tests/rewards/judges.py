"""A stand-in for a judge, whose taste and habits a test knows."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence

import numpy as np

from mmalign.backbones import Job

_PAIR = re.compile(r"Answer A: (.*)\n\nAnswer B: (.*)\n\nWhich", re.DOTALL)


class Judging:
    """Says A with sigmoid(worth(a) - worth(b) + habit): a taste for what is worth more, and one for the first place."""

    def __init__(self, worth: Callable[[str], float], habit: float = 0.0) -> None:
        self.worth, self.habit = worth, habit
        self.asked: list[Job] = []

    def choose(self, jobs: Sequence[Job], answers: Sequence[str], *, batch_size: int | None = None) -> np.ndarray:
        assert tuple(answers) == ("A", "B")
        self.asked += jobs
        said_a = np.array([self._says_a(*pair_in(job)) for job in jobs])
        return np.stack([said_a, 1 - said_a], axis=1)

    def _says_a(self, a: str, b: str) -> float:
        return sigmoid(self.worth(a) - self.worth(b) + self.habit)


def pair_in(job: Job) -> tuple[str, str]:
    """The two answers that a job asks about."""
    return _PAIR.search(job.messages[0]["content"][-1]["text"]).groups()


def sigmoid(value: float) -> float:
    return 1 / (1 + math.exp(-value))
