"""Batched generation that a builder can steer: masked media tokens, continued answers, one seed a row.

``transformers.generate`` draws every row from torch's global generator, so a row's text depends on the batch
it happens to be in. Here each row has its own counter-based stream: batching, order and the number of
processes do not change what is drawn.

Legend of shapes: R rows (jobs), K tokens that are looked at, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from mmalign import runs
from mmalign.backbones._reading import Read, batches, check_finite, prefix_ids, prompts_of
from mmalign.media import Clip
from mmalign.media.noise import Noise

if TYPE_CHECKING:
    from mmalign.backbones._backbone import Backbone

_LIKELIEST = 1024
"""Tokens among which the next one is looked for first: to sort a whole vocabulary takes longer than a small model."""


@dataclass(frozen=True, eq=False)
class Job:
    """One text to write.

    Attributes:
        messages: the prompt, with a block for every image.
        images: its pictures, in order.
        prefix: beginning of the assistant's answer, to be continued. The text written does not repeat it.
        seed: of this row's own random stream; only used with a temperature.
        keep: which media tokens of the prompt can be seen, over all its pictures and clips; False hides a token from
            every other token, in all layers and heads, while every position stays what it was. None: all.
            Shape: (media tokens,), boolean.
        key: jobs with the same non-empty key have the same messages and media, which are then encoded once.
        noise: what is added to the pixels that the tower gets. None: nothing.
        videos: its clips, in order.
    """

    messages: Sequence[dict]
    images: tuple[Image.Image, ...] = ()
    prefix: str = ""
    seed: int = 0
    keep: np.ndarray | None = None
    key: str = ""
    noise: Noise | None = None
    videos: tuple[Clip, ...] = ()


@dataclass(frozen=True)
class _Sampling:
    """How tokens are chosen, and when a text is enough; see `generate`."""

    max_new_tokens: int
    temperature: float
    top_p: float
    stop: Callable[[str], bool] | None


@torch.inference_mode()
def generate(
    backbone: Backbone,
    jobs: Sequence[Job],
    *,
    max_new_tokens: int,
    temperature: float = 0.0,
    top_p: float = 1.0,
    stop: Callable[[str], bool] | None = None,
    batch_size: int | None = None,
    masking: str | None = None,
) -> list[str]:
    """Continue every job.

    A call encodes every distinct prompt once and runs the tower once over every distinct picture, whatever the number
    of jobs that share them. It holds the features of all these pictures until it ends: give it the jobs of one unit of
    the work, not all there are. Pixels it holds of ``batch_size`` prompts at a time.

    Args:
        max_new_tokens: limit a row.
        temperature: 0 takes the likeliest token; otherwise tokens are sampled from softmax(logits / temperature).
        top_p: sample from the smallest set of tokens that holds this much probability.
        stop: asked after every token with the text written so far; True ends the row, text kept.
        batch_size: jobs that are written at a time, all of them by default. They are not taken in order, but so that
            little is read twice or padded. It moves nothing but floating-point sums: in float32 these turn next to
            no sampled word, in bfloat16 and float16 many. The distribution is the same.
        masking: how media tokens are hidden: ``drop`` leaves them out of the row, ``mask`` hides them by the attention
            mask. Every other token keeps its position, and so both give the same logits, but where a layer sees a
            window of so many tokens, since there they would move together. By default the first, which is much less
            to read, or the second where there is such a layer.

    Returns:
        For each job what was written after its prefix, end-of-turn token left out.

    Raises:
        InputError: the model computes no numbers: its own leave the range of float16, say.
    """
    if not jobs:
        return []
    sampling = _Sampling(max_new_tokens, temperature, top_p, stop)
    prompts = prompts_of(backbone, jobs, batch_size=batch_size, masking=masking)
    prefixes = [prefix_ids(backbone, job) for job in jobs]
    texts = [""] * len(jobs)
    for batch in batches(backbone, prompts, prefixes, batch_size or len(jobs)):
        begun = [prefixes[i] for i in batch]
        read = Read.of(backbone, [prompts[i] for i in batch], begun)
        written = _write(backbone, read, begun, np.array([jobs[i].seed for i in batch], dtype=np.uint64), sampling)
        for i, text in zip(batch, written, strict=True):
            texts[i] = text
    return texts


def _write(
    backbone: Backbone, read: Read, prefixes: Sequence[list[int]], seeds: np.ndarray, sampling: _Sampling
) -> list[str]:
    """What follows in each row."""
    texts = [_Text(backbone, prefix) for prefix in prefixes]
    active = np.arange(len(texts))  # which text each row that is read is
    for step in range(sampling.max_new_tokens):
        uniform = runs.uniform(seeds[active], step)
        logits = read.logits(backbone)
        if step == 0:
            check_finite(backbone, logits.amax(-1))  # -inf only rules a token out
        tokens = _choose(logits, uniform, sampling.temperature, sampling.top_p)
        finished = np.zeros(len(active), dtype=bool)
        for i, (row, token) in enumerate(zip(active, tokens.tolist(), strict=True)):
            if token in backbone.end_token_ids:
                finished[i] = True
                continue
            texts[row].tokens.append(token)
            finished[i] = sampling.stop is not None and sampling.stop(str(texts[row]))
        if finished.all() or step == sampling.max_new_tokens - 1:
            break
        if finished.any():
            rest = torch.from_numpy(np.flatnonzero(~finished)).to(tokens.device)
            active, tokens, read = active[~finished], tokens[rest], read.only(rest)
        read = read.after(backbone, tokens)
    return [str(text) for text in texts]


class _Text:
    """Tokens written behind a prefix. SentencePiece drops the space of a first token, so both are decoded together."""

    def __init__(self, backbone: Backbone, prefix: list[int]) -> None:
        self.tokenizer, self.prefix = backbone.tokenizer, prefix
        self.tokens: list[int] = []
        self.start = len(self._decoded(prefix))

    def _decoded(self, tokens: list[int]) -> str:
        return self.tokenizer.decode(tokens, skip_special_tokens=True, clean_up_tokenization_spaces=False)

    def __str__(self) -> str:
        return self._decoded(self.prefix + self.tokens)[self.start :]


def _choose(logits: Tensor, uniform: np.ndarray, temperature: float, top_p: float) -> Tensor:
    """One token a row: the likeliest, or the inverse of the distribution function at ``uniform``.

    The distribution goes from the likeliest token to the least likely, and by number among equals.

    Shape: logits (R, V), uniform (R,) in [0, 1); returns (R,).
    """
    if temperature <= 0:
        return logits.argmax(-1)
    probabilities = (logits.double() / temperature).softmax(-1)
    wanted = torch.from_numpy(uniform).to(probabilities)[:, None]
    tokens = _found(probabilities, wanted, top_p, _LIKELIEST)
    deeper = tokens < 0
    if deeper.any():
        tokens[deeper] = _found(probabilities[deeper], wanted[deeper], top_p, logits.shape[-1])
    return tokens


def _found(probabilities: Tensor, wanted: Tensor, top_p: float, count: int) -> Tensor:
    """The tokens where the distribution function reaches ``wanted``, or -1 where the ``count`` likeliest cannot tell.

    Shape: probabilities (R, V), wanted (R, 1); returns (R,).
    """
    everyone = count >= probabilities.shape[-1]
    tokens = torch.arange(probabilities.shape[-1], device=probabilities.device).expand_as(probabilities)
    tokens = tokens if everyone else probabilities.topk(count).indices.sort().values
    chances, order = probabilities.gather(-1, tokens).sort(stable=True, dim=-1, descending=True)  # Shape: (R, K)
    total = chances.cumsum(-1)
    inside = total - chances < top_p
    total = torch.where(inside, chances, 0.0).cumsum(-1)
    closed = torch.full_like(inside[:, -1:], everyone) | ~inside[:, -1:]  # all that top_p lets in is here
    threshold = wanted * torch.where(closed, total[:, -1:], 1.0)
    index = (total <= threshold).sum(-1, keepdim=True).clamp(max=count - 1)
    # Of tokens as unlikely as the last one here there may be more, with smaller numbers.
    certain = chances.gather(-1, index) > chances[:, -1:]
    known = everyone | certain & (closed | (top_p >= 1))
    return torch.where(known, tokens.gather(-1, order).gather(-1, index), -1)[:, 0]
