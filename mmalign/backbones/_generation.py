"""Batched generation that a builder can steer: masked image tokens, continued answers, one seed a row.

``transformers.generate`` draws every row from torch's global generator, so a row's text depends on the batch
it happens to be in. Here each row has its own counter-based stream: batching, order and the number of
processes do not change what is written.

Legend of shapes: R rows (jobs), T tokens, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from mmalign import runs
from mmalign.records import InputError, assistant_message

if TYPE_CHECKING:
    from mmalign.backbones._backbone import Backbone, Context, Features


@dataclass(frozen=True, eq=False)
class Job:
    """One text to write.

    Attributes:
        messages: the prompt, with a block for every image.
        images: its pictures, in order.
        prefix: beginning of the assistant's answer, to be continued. The text written does not repeat it.
        seed: of this row's own random stream; only used with a temperature.
        keep: which image tokens of the prompt can be seen, over all its images; False hides a token from every
            other token, in all layers and heads, while every position stays what it was. None: all.
            Shape: (image tokens,), boolean.
        key: jobs with the same non-empty key have the same messages and images, which are then encoded once.
    """

    messages: Sequence[dict]
    images: tuple[Image.Image, ...] = ()
    prefix: str = ""
    seed: int = 0
    keep: np.ndarray | None = None
    key: str = ""


@torch.inference_mode()
def generate(
    backbone: Backbone,
    jobs: Sequence[Job],
    *,
    max_new_tokens: int,
    temperature: float = 0.0,
    top_p: float = 1.0,
    stop: Callable[[str], bool] | None = None,
) -> list[str]:
    """Continue every job as one batch.

    Args:
        max_new_tokens: limit a row.
        temperature: 0 takes the likeliest token; otherwise tokens are sampled from softmax(logits / temperature).
        top_p: sample from the smallest set of tokens that holds this much probability.
        stop: asked after every token with the text written so far; True ends the row, text kept.

    Returns:
        For each job what was written after its prefix, end-of-turn token left out.
    """
    if not jobs:
        return []
    contexts, rows = distinct_contexts(backbone, jobs)
    prefixes = [prefix_ids(backbone, contexts[r], job) for r, job in zip(rows, jobs, strict=True)]
    read = Read.of(backbone, jobs, contexts, rows, prefixes)

    seeds = np.array([job.seed for job in jobs], dtype=np.uint64)
    written: list[list[int]] = [[] for _ in jobs]
    active = np.arange(len(jobs))  # which job each row that is read is
    for step in range(max_new_tokens):
        tokens = _choose(read.logits, runs.uniform(seeds[active], step), temperature, top_p)
        finished = np.zeros(len(active), dtype=bool)
        for i, (job, token) in enumerate(zip(active, tokens.tolist(), strict=True)):
            if token in backbone.end_token_ids:
                finished[i] = True
                continue
            written[job].append(token)
            finished[i] = stop is not None and stop(_decode_after(backbone, prefixes[job], written[job]))
        if finished.all() or step == max_new_tokens - 1:
            break
        if finished.any():
            rest = torch.from_numpy(np.flatnonzero(~finished)).to(tokens.device)
            active, tokens, read = active[~finished], tokens[rest], read.only(rest)
        read = read.after(backbone, tokens)
    return [_decode_after(backbone, prefix, text) for prefix, text in zip(prefixes, written, strict=True)]


@dataclass(frozen=True)
class Read:
    """What rows have read so far, and what they expect next.

    Attributes:
        logits: of each row's next token, float32. Shape: (R, V).
        cache: transformers' own. It belongs to the latest `Read` alone: earlier ones are used up.
        mask: which tokens can be seen. Shape: (R, T).
        last: position of the last token. Shape: (R,).
        axes: of a position.
    """

    logits: Tensor
    cache: Any
    mask: Tensor
    last: Tensor
    axes: int

    @classmethod
    def of(
        cls,
        backbone: Backbone,
        jobs: Sequence[Job],
        contexts: list[Context],
        rows: list[int],
        prefixes: list[list[int]],
        *,
        cache: bool = True,
    ) -> Read:
        """Prompts and prefixes, read as one batch; without a ``cache`` there is nothing `after` it."""
        input_ids, mask, positions = _left_padded(backbone, contexts, rows, prefixes, jobs)
        features = backbone.image_features(contexts)
        places = torch.arange(mask.shape[1], device=mask.device).expand_as(mask)
        first = backbone.masks(input_ids, mask - 1, places, whole=False)
        shown = [features[row] for row in rows]
        logits, filled = _step(backbone, input_ids, first, positions, cache or None, shown)
        # An image's rows and columns may lie beyond the last token's place in time.
        return cls(logits, filled, mask, positions.amax((0, 2)), len(positions))

    def after(self, backbone: Backbone, tokens: Tensor) -> Read:
        """One more token a row. Shape: (R,)."""
        mask, last = torch.cat([self.mask, self.mask.new_ones(len(tokens), 1)], dim=1), self.last + 1
        positions = last[None, :, None].expand(self.axes, -1, -1)
        logits, cache = _step(backbone, tokens[:, None], mask, positions, self.cache)
        return replace(self, logits=logits, cache=cache, mask=mask, last=last)

    def only(self, rows: Tensor) -> Read:
        """Some of the rows, by number."""
        self.cache.batch_select_indices(rows)
        return replace(self, logits=self.logits[rows], mask=self.mask[rows], last=self.last[rows])

    def repeated(self, times: int) -> Read:
        """Every row so often, one copy after the other."""
        self.cache.batch_repeat_interleave(times)
        rows = torch.arange(len(self.mask), device=self.mask.device).repeat_interleave(times)
        return replace(self, logits=self.logits[rows], mask=self.mask[rows], last=self.last[rows])


def distinct_contexts(backbone: Backbone, jobs: Sequence[Job]) -> tuple[list[Context], list[int]]:
    """Encode every distinct prompt once; for each job the index of its context.

    Prompts that show the same pictures, which is to say the same objects, share what the tower makes of them.
    """
    contexts: list[Context] = []
    seen: dict[str, int] = {}
    rows = []
    for number, job in enumerate(jobs):
        key = job.key or f"\0{number}"
        if key not in seen:
            seen[key] = len(contexts)
            contexts.append(backbone.encode_prompt(job.messages, job.images, tuple(map(id, job.images))))
        rows.append(seen[key])
    return contexts, rows


def prefix_ids(backbone: Backbone, context: Context, job: Job) -> list[int]:
    """Tokens of an answer's beginning as they stand in a templated answer.

    Not simply prompt + prefix: a template may put a space before the answer, which belongs to its first token.
    """
    if not job.prefix:
        return []
    answered = backbone.template([*job.messages, assistant_message(job.prefix)], generation_prompt=False)
    start = answered.find(job.prefix, len(context.text))
    special = backbone.adds_special_tokens(context.text)
    before = backbone.tokenizer(context.text, add_special_tokens=special)["input_ids"]
    whole = backbone.tokenizer(answered[: start + len(job.prefix)], add_special_tokens=special)["input_ids"]
    if start < 0 or not answered.startswith(context.text) or whole[: len(before)] != before:
        raise InputError("the chat template or tokenizer merges prompt and answer; this model cannot continue one")
    return whole[len(before) :]


def _left_padded(
    backbone: Backbone, contexts: list[Context], rows: list[int], prefixes: list[list[int]], jobs: Sequence[Job]
) -> tuple[Tensor, Tensor, Tensor]:
    """The prefill batch: tokens, attention mask with hidden image tokens at 0, and positions.

    Hiding an image token moves no other token: a 2-D mask with explicit positions removes the token as a key in every
    layer, and nothing ever reads what is computed at the hidden token itself.

    Shape: (R, T), (R, T), (A, R, T).
    """
    lengths = [len(contexts[r].input_ids) + len(p) for r, p in zip(rows, prefixes, strict=True)]
    shape = (len(rows), max(lengths))
    input_ids = torch.full(shape, backbone.pad_token_id, dtype=torch.long)
    mask = torch.zeros(shape, dtype=torch.long)
    positions = torch.zeros(len(contexts[0].positions), *shape, dtype=torch.long)
    for i, (row, prefix, length) in enumerate(zip(rows, prefixes, lengths, strict=True)):
        context, start = contexts[row], shape[1] - length
        input_ids[i, start:] = torch.cat([context.input_ids, torch.tensor(prefix, dtype=torch.long)])
        mask[i, start:] = 1
        answer = shape[1] - len(prefix)
        positions[:, i, start:answer] = context.positions
        positions[:, i, answer:] = context.next_position + torch.arange(len(prefix))
    for i, job in enumerate(jobs):
        if job.keep is not None:
            mask[i] = _hide(mask[i], input_ids[i] == backbone.image_token_id, job.keep)
    return input_ids.to(backbone.device), mask.to(backbone.device), positions.to(backbone.device)


def _hide(mask: Tensor, image_tokens: Tensor, keep: np.ndarray) -> Tensor:
    if len(keep) != int(image_tokens.sum()):
        raise ValueError(f"keep has {len(keep)} entries for {int(image_tokens.sum())} image tokens")
    mask = mask.clone()
    mask[image_tokens] = torch.from_numpy(np.asarray(keep, dtype=np.int64))
    return mask


def _step(
    backbone: Backbone,
    input_ids: Tensor,
    mask: Tensor | dict[str, Tensor],
    positions: Tensor,
    cache: Any,
    features: Sequence[Features | None] = (),
) -> tuple[Tensor, Any]:
    """Logits of each row's last token, float32, and the cache. Shape: (R, V)."""
    output = backbone.run(input_ids, features, mask, positions, cache)
    return backbone.head(output.last_hidden_state[:, -1]).float(), output.past_key_values


def _choose(logits: Tensor, uniform: np.ndarray, temperature: float, top_p: float) -> Tensor:
    """One token a row: the likeliest, or the inverse of the distribution function at ``uniform``.

    Shape: logits (R, V), uniform (R,) in [0, 1); returns (R,).
    """
    if temperature <= 0:
        return logits.argmax(-1)
    probabilities, order = (logits.double() / temperature).softmax(-1).sort(stable=True, dim=-1, descending=True)
    total = probabilities.cumsum(-1)
    probabilities = torch.where(total - probabilities < top_p, probabilities, 0.0)
    total = probabilities.cumsum(-1)
    threshold = torch.from_numpy(uniform).to(total)[:, None] * total[:, -1:]
    index = (total <= threshold).sum(-1, keepdim=True).clamp(max=logits.shape[-1] - 1)
    return order.gather(-1, index)[:, 0]


def _decode_after(backbone: Backbone, prefix: list[int], written: list[int]) -> str:
    """Text of ``written``. SentencePiece drops the space of a first token, so it is decoded with its prefix."""
    decode = backbone.tokenizer.decode
    options = {"skip_special_tokens": True, "clean_up_tokenization_spaces": False}
    return decode(prefix + written, **options)[len(decode(prefix, **options)) :]
