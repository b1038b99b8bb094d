"""What a model reads before it goes on: prompts, of which media tokens may be hidden, and the beginnings of answers.

Legend of shapes: R rows, T tokens of a row, P tokens of a prompt, A axes of a position, H hidden size, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from mmalign.backbones._cache import roomy_cache
from mmalign.backbones._written import Processed
from mmalign.records import InputError, assistant_message

if TYPE_CHECKING:
    from mmalign.backbones._backbone import Backbone, Context, Features
    from mmalign.backbones._generation import Job

MASKINGS = ("drop", "mask")


@dataclass(frozen=True, eq=False)
class Prompt:
    """A prompt as it stands in a row.

    Attributes:
        input_ids: Shape: (P,).
        positions: Shape: (A, P).
        seen: whether others can see a token, boolean. Shape: (P,).
        next_position: of what follows.
        features: of its media tokens; None where it has none.
    """

    input_ids: Tensor
    positions: Tensor
    seen: Tensor
    next_position: int
    features: Features | None

    @classmethod
    def of(cls, context: Context, features: Features | None) -> Prompt:
        """All of it can be seen."""
        seen = torch.ones_like(context.input_ids, dtype=torch.bool)
        return cls(context.input_ids, context.positions, seen, context.next_position, features)

    def hiding(self, keep: np.ndarray, is_media: Tensor, *, drop: bool) -> Prompt:
        """The prompt of which only the media tokens in ``keep`` can be seen; the others are marked, or left out.

        No token's position moves. See `Job.keep`. Shape: is_media (P,), boolean.
        """
        if len(keep) != int(is_media.sum()):
            raise ValueError(f"keep has {len(keep)} entries for {int(is_media.sum())} media tokens")
        seen = self.seen.clone()
        seen[is_media] = torch.from_numpy(np.array(keep, dtype=bool))
        if not drop:
            return replace(self, seen=seen)
        features = self.features.only(seen[is_media]) if keep.any() else None
        left = {"input_ids": self.input_ids[seen], "positions": self.positions[:, seen], "seen": seen[seen]}
        return replace(self, features=features, **left)

    def followed_by(self, tokens: Sequence[int]) -> Prompt:
        """With the beginning of an answer behind it."""
        positions = self.next_position + torch.arange(len(tokens)).expand(len(self.positions), -1)
        return replace(
            self,
            input_ids=torch.cat([self.input_ids, torch.tensor(tokens, dtype=torch.long)]),
            positions=torch.cat([self.positions, positions], dim=1),
            seen=torch.cat([self.seen, torch.ones(len(tokens), dtype=torch.bool)]),
            next_position=self.next_position + len(tokens),
        )

    def cut(self, at: int) -> tuple[Prompt, Prompt]:
        """Its first ``at`` tokens with all that it shows, and the text behind them."""

        def part(place: slice, features: Features | None) -> Prompt:
            ids, positions, seen = self.input_ids[place], self.positions[:, place], self.seen[place]
            return Prompt(ids, positions, seen, self.next_position, features)

        return part(slice(at), self.features), part(slice(at, None), None)


@dataclass(frozen=True)
class Read:
    """What rows have read so far, and what they expect next.

    Attributes:
        hidden: what the head makes the logits of each row's next token of. Shape: (R, H).
        cache: transformers' own. It belongs to the latest `Read` alone: earlier ones are used up.
        mask: which tokens can be seen. Shape: (R, T).
        last: position of the last token. Shape: (R,).
        axes: of a position.
    """

    hidden: Tensor
    cache: Any
    mask: Tensor
    last: Tensor
    axes: int

    @classmethod
    def of(
        cls, backbone: Backbone, prompts: Sequence[Prompt], prefixes: Sequence[Sequence[int]], *, cache: bool = True
    ) -> Read:
        """Prompts, each with the tokens of an answer's beginning, as one batch; without ``cache`` nothing is `after`.

        A prompt that several rows have (the same object) is read once for them, where that is less to read.
        """
        rows = [prompt.followed_by(prefix) for prompt, prefix in zip(prompts, prefixes, strict=True)]
        if not cache or not shares(backbone, prompts, prefixes):
            return cls._first(backbone, rows, cache or None)
        distinct = list(dict.fromkeys(prompts))
        number = {prompt: i for i, prompt in enumerate(distinct)}
        heads = cls._first(backbone, [prompt.cut(len(prompt.input_ids) - 1)[0] for prompt in distinct], True)
        tails = [row.cut(len(prompt.input_ids) - 1)[1] for prompt, row in zip(prompts, rows, strict=True)]
        which = torch.tensor([number[prompt] for prompt in prompts], device=heads.mask.device)
        return heads.only(which)._behind(backbone, tails)

    @classmethod
    def _first(cls, backbone: Backbone, rows: Sequence[Prompt], cache: bool | None) -> Read:
        input_ids, mask, positions, last = _left_padded(backbone, rows)
        places = torch.arange(mask.shape[1], device=mask.device).expand_as(mask)
        seen = backbone.masks(input_ids, mask - 1, places, whole=False)
        cache = roomy_cache() if cache and backbone.allows_gaps else cache
        hidden, filled = _step(backbone, input_ids, seen, positions, cache, [row.features for row in rows])
        return cls(hidden, filled, mask, last, len(positions))

    def _behind(self, backbone: Backbone, rows: Sequence[Prompt]) -> Read:
        """Some text more, of another length in each row."""
        input_ids, mask, positions, last = _left_padded(backbone, rows)
        mask = torch.cat([self.mask, mask], dim=1)
        hidden, cache = _step(backbone, input_ids, mask, positions, self.cache)
        return replace(self, hidden=hidden, cache=cache, mask=mask, last=last)

    def logits(self, backbone: Backbone) -> Tensor:
        """Of each row's next token, as the model computes them. Shape: (R, V), float32."""
        return backbone.head(self.hidden).float()

    def after(self, backbone: Backbone, tokens: Tensor) -> Read:
        """One more token a row. Shape: (R,)."""
        mask, last = torch.cat([self.mask, self.mask.new_ones(len(tokens), 1)], dim=1), self.last + 1
        positions = last[None, :, None].expand(self.axes, -1, -1)
        hidden, cache = _step(backbone, tokens[:, None], mask, positions, self.cache)
        return replace(self, hidden=hidden, cache=cache, mask=mask, last=last)

    def only(self, rows: Tensor) -> Read:
        """The rows of these numbers, each as often as it is named."""
        self.cache.batch_select_indices(rows)
        return replace(self, hidden=self.hidden[rows], mask=self.mask[rows], last=self.last[rows])

    def repeated(self, times: int) -> Read:
        """Every row so often, one copy after the other."""
        return self.only(torch.arange(len(self.mask), device=self.mask.device).repeat_interleave(times))


def prompts_of(
    backbone: Backbone, jobs: Sequence[Job], *, batch_size: int | None = None, masking: str | None = None
) -> list[Prompt]:
    """The prompt of each job. Jobs that see the same have the same object.

    Every distinct prompt is encoded once, and the tower runs once over every distinct picture or clip, ``batch_size``
    prompts at a time: no more than so many have their pixels in memory. What stays is the features of all of them.
    Prompts show the same where they hold the same object.

    Args:
        masking: see `_generation.generate`.
    """
    if masking not in (None, *MASKINGS) or masking == "drop" and not backbone.allows_gaps:
        raise ValueError(f"masking {masking!r}: there is mask, and drop where no layer has a window")
    drop = backbone.allows_gaps if masking is None else masking == "drop"
    whole, rows = _encoded(backbone, jobs, batch_size or max(1, len(jobs)))
    made: dict[Hashable, Prompt] = {}
    prompts = []
    for job, row in zip(jobs, rows, strict=True):
        name = row, None if job.keep is None else job.keep.tobytes()
        if name not in made:
            prompt = whole[row]
            hidden = job.keep is not None
            made[name] = prompt.hiding(job.keep, backbone.is_media(prompt.input_ids), drop=drop) if hidden else prompt
        prompts.append(made[name])
    return prompts


def _encoded(backbone: Backbone, jobs: Sequence[Job], size: int) -> tuple[list[Prompt], list[int]]:
    """Every distinct prompt with its features, and for each job the number of its own."""
    contexts: list[Context] = []
    features: dict[Hashable, Features | None] = {}
    waiting: dict[Hashable, Context] = {}
    numbers: dict[Hashable, int] = {}
    processed = Processed(size)
    rows = []

    def look() -> None:
        features.update(zip(waiting, backbone.media_features(list(waiting.values())), strict=True))
        waiting.clear()

    for place, job in enumerate(jobs):
        name = (job.key or place, job.noise)
        if name not in numbers:
            numbers[name] = len(contexts)
            shown = (tuple(map(id, (*job.images, *job.videos))), job.noise)
            context = backbone.encode_prompt(job.messages, job.images, shown, videos=job.videos, processed=processed)
            if context.media and context.media_key not in features:
                waiting[context.media_key] = backbone.with_noise(context, job.noise) if job.noise else context
            contexts.append(replace(context, media={}))
            if len(waiting) == size:
                look()
        rows.append(numbers[name])
    look()
    return [Prompt.of(context, features.get(context.media_key)) for context in contexts], rows


def prefix_ids(backbone: Backbone, job: Job) -> list[int]:
    """Tokens of an answer's beginning as they stand in a templated answer.

    Not simply prompt + prefix: a template may put a space before the answer, which belongs to its first token.
    """
    if not job.prefix:
        return []
    messages = backbone.with_media(job.messages)
    asked = backbone.template(messages, generation_prompt=True)
    answered = backbone.template([*messages, assistant_message(job.prefix)], generation_prompt=False)
    start = answered.find(job.prefix, len(asked))
    special = backbone.adds_special_tokens(asked)
    before = backbone.tokenizer(asked, add_special_tokens=special)["input_ids"]
    whole = backbone.tokenizer(answered[: start + len(job.prefix)], add_special_tokens=special)["input_ids"]
    if start < 0 or not answered.startswith(asked) or whole[: len(before)] != before:
        raise InputError("the chat template or tokenizer merges prompt and answer; this model cannot continue one")
    return whole[len(before) :]


def batches(
    backbone: Backbone, prompts: Sequence[Prompt], prefixes: Sequence[Sequence[int]], size: int
) -> list[list[int]]:
    """Numbers of the rows that are read together, at most ``size``: as little to read as can be.

    Either rows of like lengths, so that there is little padding, or rows of one prompt, which is then read once. Long
    ones come first: what does not fit in memory should say so at once.
    """
    everyone = range(len(prompts))
    first = {prompt: number for number, prompt in reversed(list(enumerate(prompts)))}

    def whole(i: int) -> int:
        return len(prompts[i].input_ids) + len(prefixes[i])

    def together(i: int) -> tuple[int, int, int]:
        return len(prompts[i].input_ids), first[prompts[i]], len(prefixes[i])

    def cost(plan: list[list[int]]) -> int:
        return sum(min(_costs(backbone, *_picked(batch, prompts, prefixes))) for batch in plan)

    orders = [sorted(everyone, key=key, reverse=True) for key in (whole, together)]
    plans = [[order[start : start + size] for start in range(0, len(order), size)] for order in orders]
    return min(plans, key=cost)


def _picked(batch: Sequence[int], *lists: Sequence) -> list[list]:
    return [[values[i] for i in batch] for values in lists]


def shares(backbone: Backbone, prompts: Sequence[Prompt], prefixes: Sequence[Sequence[int]]) -> bool:
    """Whether a batch reads prompts once for all of their rows."""
    alone, shared = _costs(backbone, prompts, prefixes)
    return shared < alone


def _costs(backbone: Backbone, prompts: Sequence[Prompt], prefixes: Sequence[Sequence[int]]) -> tuple[float, float]:
    """Tokens to be read, padding included: row by row, and with prompts once for all of their rows.

    These need gaps between prompt and prefix, and a last token, the prefixes' first, that is text.
    """
    count, longest = len(prompts), max(map(len, prefixes))
    alone = count * max(len(p.input_ids) + len(prefix) for p, prefix in zip(prompts, prefixes, strict=True))
    distinct = set(prompts)
    if not backbone.allows_gaps or any(backbone.is_media(p.input_ids[-1:]) for p in distinct):
        return alone, float("inf")
    return alone, len(distinct) * max(len(p.input_ids) - 1 for p in distinct) + count * (1 + longest)


def check_finite(backbone: Backbone, numbers: Tensor) -> None:
    """Raise InputError where the model computed no numbers: of NaN, too, one token or answer would be chosen."""
    if not numbers.isfinite().all():
        half = backbone.dtype == torch.float16
        why = "numbers beyond the dtype's range: give --dtype bfloat16 or float32"
        raise InputError(f"{backbone.dtype}: {why if half else 'the model computes NaN: are its weights whole?'}")


def _left_padded(backbone: Backbone, rows: Sequence[Prompt]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Rows as a batch: tokens, which can be seen, positions, and the last of these.

    Hiding a token moves no other: a 2-D mask with explicit positions removes it as a key in every layer, and nothing
    ever reads what is computed at the hidden token itself.

    Shape: (R, T), (R, T), (A, R, T), (R,).
    """
    shape = len(rows), max(len(row.input_ids) for row in rows)
    input_ids = torch.full(shape, backbone.pad_token_id, dtype=torch.long)
    mask = torch.zeros(shape, dtype=torch.long)
    positions = torch.zeros(len(rows[0].positions), *shape, dtype=torch.long)
    for i, row in enumerate(rows):
        start = shape[1] - len(row.input_ids)
        input_ids[i, start:], mask[i, start:], positions[:, i, start:] = row.input_ids, row.seen, row.positions
    last = torch.tensor([row.next_position - 1 for row in rows])
    return tuple(tensor.to(backbone.device) for tensor in (input_ids, mask, positions, last))


def _step(
    backbone: Backbone,
    input_ids: Tensor,
    mask: Tensor | dict[str, Tensor],
    positions: Tensor,
    cache: Any,
    features: Sequence[Features | None] = (),
) -> tuple[Tensor, Any]:
    """Hidden state of each row's last token, and the cache. Shape: (R, H)."""
    output = backbone.run(input_ids, features, mask, positions, cache)
    return output.last_hidden_state[:, -1], output.past_key_values
