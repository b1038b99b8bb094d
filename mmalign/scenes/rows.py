"""Training rows in which many questions share one picture.

A row is ``[prefix | branch 1 | branch 2 | ...]``: the prefix opens the user's turn and holds the image tokens, a branch
is one question with its answer. A mask hides the branches from one another and positions start again after the prefix,
so each branch sees exactly what it would see alone, and the picture is encoded once for all of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from mmalign.scenes.clips import sample_clip
from mmalign.scenes.language import Exchange, clip_exchanges, scene_exchanges
from mmalign.scenes.render import render
from mmalign.scenes.things import SIDE, Draw, Scene
from mmalign.scenes.tiny import ASSISTANT, END, IMAGE, PATCH, USER
from mmalign.scenes.world import MAX_THINGS, sample_scene

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedTokenizerFast

IMAGE_TOKENS = (SIDE // PATCH) ** 2
BLIND_RATE = 0.15  # of rows, in which nearly all image tokens are hidden
BLIND_SHARE = 0.1  # of the image tokens, that such a row can see at most


@dataclass(frozen=True)
class Row:
    """One row; all arrays have shape (T,). ``segment`` is 0 in the prefix and k in branch k."""

    tokens: np.ndarray
    segment: np.ndarray
    position: np.ndarray
    answer: np.ndarray  # True where the token is to be predicted

    @classmethod
    def build(cls, exchanges: Sequence[Exchange], frames: int, tokenizer: PreTrainedTokenizerFast) -> Row:
        """The row that asks all ``exchanges`` about the same ``frames`` pictures."""
        user, assistant, end, image = tokenizer.convert_tokens_to_ids([USER, ASSISTANT, END, IMAGE])
        texts = tokenizer([text for pair in exchanges for text in (pair.question, pair.answer)]).input_ids
        prefix = [user] + [image] * (IMAGE_TOKENS * frames)
        parts = [(prefix, 0, 0, len(prefix))]
        for number, (question, answer) in enumerate(zip(texts[::2], texts[1::2], strict=True), start=1):
            head = [*question, end, assistant]
            parts.append(([*head, *answer, end], number, len(prefix), len(head)))
        return cls(
            tokens=np.concatenate([tokens for tokens, *_ in parts]),
            segment=np.concatenate([np.full(len(tokens), number) for tokens, number, *_ in parts]),
            position=np.concatenate([start + np.arange(len(tokens)) for tokens, _, start, _ in parts]),
            answer=np.concatenate([np.arange(len(tokens)) >= head for tokens, _, _, head in parts]),
        )


def collate(rows: Sequence[Row], pictures: np.ndarray, pad: int) -> dict[str, torch.Tensor]:
    """A batch for the model's forward, and ``answer (B, T)``, True at the tokens to be predicted.

    Args:
        rows: B rows.
        pictures: their pictures in order. Shape: (N, SIDE, SIDE, 3), uint8.
        pad: token id to fill short rows with.
    """
    import torch

    length = max(len(row.tokens) for row in rows)

    def padded(name: str, fill: int) -> np.ndarray:
        return np.stack(
            [np.pad(getattr(row, name), (0, length - len(row.tokens)), constant_values=fill) for row in rows]
        )

    segment = padded("segment", -1)  # padding sees padding, since a row of the mask must not be empty
    shared = (segment[:, None, :] == 0) & (segment[:, :, None] >= 0)
    seen = (shared | (segment[:, None, :] == segment[:, :, None])) & np.tri(length, dtype=bool)
    return {
        "input_ids": torch.from_numpy(padded("tokens", pad)),
        "attention_mask": torch.from_numpy(seen[:, None]),
        "position_ids": torch.from_numpy(padded("position", 0)),
        "pixel_values": torch.from_numpy(pictures).permute(0, 3, 1, 2).float() / 127.5 - 1.0,
        "answer": torch.from_numpy(padded("answer", False)),
    }


def blindfold(batch: dict[str, torch.Tensor], image_token: int, draws: Sequence[Draw]) -> None:
    """Hide nearly all image tokens of some rows, in place: no token sees them any more, and no position moves.

    A large model knew its language before it saw a picture, and stays fluent when it sees little. A small one that
    never met a question without a picture writes gibberish then, and not what its prior says.

    Args:
        batch: of `collate`; B rows.
        image_token: id of the image tokens.
        draws: one for each row. Shape: (B,).
    """
    import torch

    for row, draw in enumerate(draws):
        if not draw.chance(BLIND_RATE):
            continue
        share = draw.between(0, BLIND_SHARE)
        images = (batch["input_ids"][row] == image_token).nonzero()[:, 0].tolist()
        mask = batch["attention_mask"][row, 0]
        mask[:, [place for place in images if not draw.chance(share)]] = False
        mask |= torch.eye(len(mask), dtype=torch.bool)  # a row of the mask must not be empty


@dataclass(frozen=True)
class Batches:
    """The training batches, a map-style dataset of them.

    Pictures have one thing for the first tenths of the training and then gain one more in each twentieth: a model that
    can speak of one thing soon tells six apart, where one that starts with six stays blind for long. After that the
    last ``clip_run`` of every ``clip_every`` batches are of clips. Without ``ramp`` there is no such beginning: for a
    model that sees already.
    """

    tokenizer: PreTrainedTokenizerFast
    seed: int
    steps: int
    size: int
    clip_every: int
    clip_run: int = 1
    ramp: bool = True

    def __len__(self) -> int:
        return self.steps

    def __getitem__(self, step: int) -> dict[str, torch.Tensor]:
        most = max(1, step * 20 // self.steps - 1) if self.ramp else MAX_THINGS + 1
        clips = most > MAX_THINGS and self.clip_every > 0 and step % self.clip_every >= self.clip_every - self.clip_run
        count = max(1, self.size // 3) if clips else self.size  # a clip costs about as much as three pictures
        samples = [
            self._clip(index) if clips else self._scene(index, most)
            for index in range(step * self.size, step * self.size + count)
        ]
        rows = [Row.build(exchanges, len(frames), self.tokenizer) for frames, exchanges in samples]
        pictures = np.stack([render(frame) for frames, _ in samples for frame in frames])
        batch = collate(rows, pictures, self.tokenizer.pad_token_id)
        draws = [Draw("blind", self.seed, step, row) for row in range(count)]
        blindfold(batch, self.tokenizer.convert_tokens_to_ids(IMAGE), draws)
        return batch

    def _scene(self, index: int, most: int) -> tuple[tuple[Scene, ...], list[Exchange]]:
        scene = sample_scene("train", self.seed, index)
        scene = replace(scene, things=scene.things[-most:])  # the front ones, which are the large ones
        return (scene,), scene_exchanges(scene, Draw("exchanges", self.seed, index))

    def _clip(self, index: int) -> tuple[tuple[Scene, ...], list[Exchange]]:
        clip = sample_clip("train", self.seed, index)
        return clip.frames, clip_exchanges(clip, Draw("exchanges", self.seed, index))
