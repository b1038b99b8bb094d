"""Noise as a diffusion process adds it: what becomes of a picture in N steps.

POVID (Zhou et al., arXiv 2402.11411) distorts pictures in this way, and BDHS has a variant that does (Amirloo et al.,
arXiv 2407.02477, appendix E.1). For k = 1, ..., N, with eps_k from the standard normal distribution::

    x_k    = sqrt(1 - beta_k) x_(k-1) + sqrt(beta_k) eps_k
    beta_k = sigmoid(-6 + 12 k / 1000) (0.005 - 0.00001) + 0.00001

which comes to ``x_N = sqrt(alphabar_N) x_0 + sqrt(1 - alphabar_N) eps`` with ``alphabar_N``, the product of all
1 - beta_k. Pixels x are those that a model is given: resized, normalised.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mmalign import runs

MAX_STEPS = 1000
"""Where the schedule ends: 8 % of the picture's variance are left."""


@dataclass(frozen=True)
class Noise:
    """A draw of noise: as much as ``steps`` give, 0 to `MAX_STEPS`, from the stream that ``seed`` begins."""

    steps: int
    seed: int

    def __post_init__(self) -> None:
        if not 0 <= self.steps <= MAX_STEPS:
            raise ValueError(f"steps must be from 0 to {MAX_STEPS}, got {self.steps}")

    @property
    def alpha_bar(self) -> float:
        """The share of the variance that is still the picture's."""
        return float(np.prod(1 - betas()[: self.steps]))

    def draw(self, shape: Sequence[int]) -> np.ndarray:
        """Standard normal numbers, float32, which depend on seed and shape alone; see `mmalign.runs.uniform`."""
        count = int(np.prod(shape))
        seeds = np.uint64(self.seed) + np.arange((count + 1) // 2, dtype=np.uint64)
        radius = np.sqrt(-2 * np.log1p(-runs.uniform(seeds, 0)))  # Box and Muller: two normal numbers of two uniform
        angle = 2 * np.pi * runs.uniform(seeds, 1)
        pairs = np.concatenate([radius * np.cos(angle), radius * np.sin(angle)])
        return pairs[:count].astype(np.float32).reshape(shape)


def betas() -> np.ndarray:
    """The variance that each step adds, beta_1 first. Shape: (MAX_STEPS,)."""
    step = np.arange(1, MAX_STEPS + 1)
    return (0.5e-2 - 1e-5) / (1 + np.exp(6 - 12 * step / 1000)) + 1e-5
