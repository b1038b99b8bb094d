"""How likely a model is to begin its answer in one way or another: what a judge is asked for.

Legend of shapes: R rows (jobs), K answers, L tokens of an answer, H hidden size, V vocabulary.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call

from mmalign.backbones._reading import Read, check_finite, prefix_ids, prompts_of
from mmalign.records import InputError

if TYPE_CHECKING:
    from mmalign.backbones._backbone import Backbone
    from mmalign.backbones._generation import Job

_TILE = 8192
"""Tokens of the vocabulary in a tile of the head: its copy in float32 takes 128 MiB where H is 4096."""


@torch.inference_mode()
def choose(backbone: Backbone, jobs: Sequence[Job], answers: Sequence[str]) -> np.ndarray:
    """Probabilities of ``answers`` after each job's prompt and prefix, among them, as one batch.

    Exact: the probabilities of all tokens of an answer, as they stand in a templated answer, multiplied, and divided
    by their sum over the answers. Prompt, pictures and what the answers begin with in common are read once a job.

    The head computes in float32 whatever the model's dtype: bfloat16 has three digits, so of two logits near 20 the
    difference would be a multiple of 1/8.

    Args:
        answers: two or more, none of which begins with another.

    Returns:
        float64, each row adds up to 1. Shape: (R, K).

    Raises:
        InputError: answers that do not exclude each other, or that the chat template changes; the model computes no
            numbers.
    """
    check_answers(answers)
    if not jobs:
        return np.zeros((0, len(answers)))
    prompts = prompts_of(backbone, jobs)
    begun = [_beginnings(backbone, job, answers) for job in jobs]
    tokens = _padded([rest for _, rests in begun for rest in rests]).to(backbone.device)  # (R * K, L)
    steps = tokens.shape[1]
    read = Read.of(backbone, prompts, [shared for shared, _ in begun], cache=steps > 1)
    alone = bool(steps == 1 and (tokens >= 0).all())  # what all answers are divided by need not be known
    scores = _scores(backbone.head, read.hidden.repeat_interleave(len(answers), 0), tokens[:, 0], normalised=not alone)
    if steps > 1:
        read = read.repeated(len(answers))
    for step in range(1, steps):
        read = read.after(backbone, tokens[:, step - 1].clamp(min=0))
        scores = scores + _scores(backbone.head, read.hidden, tokens[:, step])
    probabilities = scores.view(len(jobs), len(answers)).softmax(-1)
    check_finite(backbone, probabilities)
    return probabilities.cpu().numpy()


def check_answers(answers: Sequence[str]) -> None:
    """Raise InputError unless at most one of ``answers`` can be the beginning of a text."""
    if len(answers) < 2 or not all(answer.strip() for answer in answers):
        raise InputError(f"expected two or more, and none empty, got {list(answers)}", field="answers")
    for number, answer in enumerate(answers):
        for other in [*answers[:number], *answers[number + 1 :]]:
            if other.startswith(answer):
                raise InputError(f"{other!r} begins with {answer!r}: an answer could be both", field="answers")


def _beginnings(backbone: Backbone, job: Job, answers: Sequence[str]) -> tuple[list[int], list[list[int]]]:
    """Tokens that prefix and answer have in common whatever the answer, and for each answer those that follow."""
    whole = [prefix_ids(backbone, replace(job, prefix=job.prefix + answer)) for answer in answers]
    shared = len(os.path.commonprefix(whole))
    return whole[0][:shared], [tokens[shared:] for tokens in whole]


def _padded(lists: Sequence[list[int]]) -> Tensor:
    """-1 where a list has no token. Shape: (R * K, L)."""
    longest = max(map(len, lists))
    return torch.tensor([tokens + [-1] * (longest - len(tokens)) for tokens in lists])


def _scores(head: nn.Module, hidden: Tensor, tokens: Tensor, *, normalised: bool = True) -> Tensor:
    """Log-probability of each row's token, or only its logit; 0 where it has none. float64.

    Shape: hidden (R * K, H), tokens (R * K,); returns (R * K,).
    """
    wanted, which = tokens.clamp(min=0).unique(return_inverse=True)
    found = _logits(head, hidden, wanted).double().gather(-1, which[:, None])[:, 0]
    if normalised:
        tiles = torch.arange(_vocabulary(head), device=hidden.device).split(_TILE)
        parts = [_logits(head, hidden, tile).double().logsumexp(-1) for tile in tiles]
        found = found - torch.stack(parts).logsumexp(0)
    return torch.where(tokens >= 0, found, 0.0)


def _logits(head: nn.Module, hidden: Tensor, tokens: Tensor) -> Tensor:
    """Logits of some tokens, by a copy in float32 of what the head, adapters and all, has for these.

    Shape: hidden (R, H), tokens (C,); returns (R, C).
    """
    whole = hasattr(head, "token_adapter")  # PEFT's, which looks for its tokens by their numbers
    size = _vocabulary(head)
    weights = {
        name: (weight[tokens] if len(weight) == size and not whole else weight).float()
        for name, weight in head.named_parameters()
    }
    logits = functional_call(head, weights, (hidden.float(),))
    return logits[:, tokens] if whole else logits


def _vocabulary(head: nn.Module) -> int:
    """How many tokens it knows: the rows of its weight, which comes before those of an adapter."""
    return len(next(head.parameters()))
