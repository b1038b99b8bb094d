"""How likely a model is to begin its answer in one way or another: what a judge is asked for.

Legend of shapes: R rows (jobs), K answers, L tokens of an answer, V vocabulary.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from mmalign.backbones._reading import Prompt, Read, prefix_ids, prompts_of
from mmalign.records import InputError

if TYPE_CHECKING:
    from mmalign.backbones._backbone import Backbone
    from mmalign.backbones._generation import Job


@torch.inference_mode()
def choose(backbone: Backbone, jobs: Sequence[Job], answers: Sequence[str]) -> np.ndarray:
    """Probabilities of ``answers`` after each job's prompt and prefix, among them, as one batch.

    Exact: the probabilities of all tokens of an answer, as they stand in a templated answer, multiplied, and divided
    by their sum over the answers. Prompt, pictures and what the answers begin with in common are read once a job.

    Args:
        answers: two or more, none of which begins with another.

    Returns:
        float64, each row adds up to 1. Shape: (R, K).

    Raises:
        InputError: answers that do not exclude each other, or that the chat template changes.
    """
    check_answers(answers)
    if not jobs:
        return np.zeros((0, len(answers)))
    prompts = prompts_of(backbone, jobs)
    begun = [_beginnings(backbone, prompt, job, answers) for prompt, job in zip(prompts, jobs, strict=True)]
    tokens = _padded([rest for _, rests in begun for rest in rests]).to(backbone.device)  # (R * K, L)
    steps = tokens.shape[1]
    read = Read.of(backbone, prompts, [shared for shared, _ in begun], cache=steps > 1)
    scores = _of(read.logits.repeat_interleave(len(answers), 0), tokens[:, 0])
    if steps > 1:
        read = read.repeated(len(answers))
    for step in range(1, steps):
        read = read.after(backbone, tokens[:, step - 1].clamp(min=0))
        scores = scores + _of(read.logits, tokens[:, step])
    return scores.view(len(jobs), len(answers)).softmax(-1).cpu().numpy()


def check_answers(answers: Sequence[str]) -> None:
    """Raise InputError unless at most one of ``answers`` can be the beginning of a text."""
    if len(answers) < 2 or not all(answer.strip() for answer in answers):
        raise InputError(f"expected two or more, and none empty, got {list(answers)}", field="answers")
    for number, answer in enumerate(answers):
        for other in [*answers[:number], *answers[number + 1 :]]:
            if other.startswith(answer):
                raise InputError(f"{other!r} begins with {answer!r}: an answer could be both", field="answers")


def _beginnings(
    backbone: Backbone, prompt: Prompt, job: Job, answers: Sequence[str]
) -> tuple[list[int], list[list[int]]]:
    """Tokens that prefix and answer have in common whatever the answer, and for each answer those that follow."""
    whole = [prefix_ids(backbone, prompt, replace(job, prefix=job.prefix + answer)) for answer in answers]
    shared = len(os.path.commonprefix(whole))
    return whole[0][:shared], [tokens[shared:] for tokens in whole]


def _padded(lists: Sequence[list[int]]) -> Tensor:
    """-1 where a list has no token. Shape: (R * K, L)."""
    longest = max(map(len, lists))
    return torch.tensor([tokens + [-1] * (longest - len(tokens)) for tokens in lists])


def _of(logits: Tensor, tokens: Tensor) -> Tensor:
    """Log-probability of each row's token, 0 where it has none. Shape: (R * K, V), (R * K,) -> (R * K,)."""
    found = logits.double().log_softmax(-1).gather(-1, tokens.clamp(min=0)[:, None])[:, 0]
    return torch.where(tokens >= 0, found, 0.0)
