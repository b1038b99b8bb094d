"""Teaches the vision tower to see before there is any language, as the tower of a real VLM comes pretrained.

Each patch is asked for the color and the shape of what fills it. Without this the language model has nothing to look
at, finds that guessing pays, and stays blind for long. The pictures are of the split ``tower``, balanced as ``test`` is
but its own: so that habit is in what the language model has read, not in what the tower sees.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from mmalign.scenes.render import coverage, render
from mmalign.scenes.things import COLORS, SHAPES, SIDE, Scene
from mmalign.scenes.tiny import PATCH
from mmalign.scenes.world import sample_scene

if TYPE_CHECKING:
    import torch
    from transformers import LlavaForConditionalGeneration, PreTrainedTokenizerFast

EMPTY = 0  # the label of a patch that shows background
EMPTY_WORD = "image"  # what an empty patch is read as
LEAST_SHARE = 0.12  # of a patch, that a thing must fill to be its label
EMPTY_WEIGHT = 0.1  # most patches are empty


def patch_labels(scene: Scene) -> np.ndarray:
    """For each patch, row by row, 1 + index of the color and of the shape that fill most of it. Shape: (N, 2)."""
    grid = SIDE // PATCH
    best = np.full((grid, grid), LEAST_SHARE)
    labels = np.full((grid, grid, 2), EMPTY)
    free = np.ones((SIDE, SIDE))
    for thing in reversed(scene.things):
        own = coverage(thing)
        share = (own * free).reshape(grid, PATCH, grid, PATCH).mean(axis=(1, 3))
        free = free * (1.0 - own)
        labels[share > best] = 1 + list(COLORS).index(thing.color), 1 + SHAPES.index(thing.shape)
        best = np.maximum(best, share)
    return labels.reshape(-1, 2)


@dataclass(frozen=True)
class TowerBatches:
    """Batches of normalised pictures (B, 3, SIDE, SIDE) and patch labels (B, N, 2), a map-style dataset.

    ``first`` is the number of the first batch, so that one training's later batches are new ones too.
    """

    seed: int
    steps: int
    size: int
    first: int = 0

    def __len__(self) -> int:
        return self.steps

    def __getitem__(self, step: int) -> tuple[torch.Tensor, torch.Tensor]:
        import torch

        start = (self.first + step) * self.size
        scenes = [sample_scene("tower", self.seed, index) for index in range(start, start + self.size)]
        labels = np.stack([patch_labels(scene) for scene in scenes])
        return normalised([render(scene) for scene in scenes]), torch.from_numpy(labels)


def normalised(pictures: Sequence[np.ndarray]) -> torch.Tensor:
    """Pictures as the processor gives them to the tower. Shape: (B, 3, SIDE, SIDE), float32 in [-1, 1]."""
    import torch

    return torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).float() / 127.5 - 1.0


class PatchWords:
    """Reads each image token as words: its embedding, times the word embeddings, tells color and shape.

    This trains tower, projector and word embeddings together, so that an image token comes to look like the words for
    what it shows; the language model then has something to read from its first step.
    """

    def __init__(self, model: LlavaForConditionalGeneration, tokenizer: PreTrainedTokenizerFast) -> None:
        import torch

        self.model = model
        words = [[EMPTY_WORD, *names] for names in (COLORS, SHAPES)]
        self.words = [torch.tensor([tokenizer.encode(f" {word}") for word in row])[:, 0] for row in words]

    def weights(self) -> dict[str, torch.nn.Parameter]:
        """Those that the reading goes through, by their names in the model."""
        parts = ("model.vision_tower.", "model.multi_modal_projector.", "model.language_model.embed_tokens.")
        return {name: weight for name, weight in self.model.named_parameters() if name.startswith(parts)}

    def loss(self, batch: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
        """Mean weighted cross entropy over patches, color and shape."""
        from torch.nn.functional import cross_entropy

        pixels, labels = batch
        total = 0.0
        for index, scores in enumerate(self.scores(pixels)):
            weight = scores.new_ones(scores.shape[-1])
            weight[EMPTY] = EMPTY_WEIGHT
            total = total + cross_entropy(scores.flatten(0, 1), labels[..., index].flatten(), weight) / 2
        return total

    def scores(self, pixels: torch.Tensor) -> list[torch.Tensor]:
        """Unnormalised scores of [empty, colors...] (B, N, 9) and of [empty, shapes...] (B, N, 6) for each patch."""
        import torch

        with torch.autocast("cpu", torch.bfloat16):
            found = torch.stack(self.model.model.get_image_features(pixels).pooler_output)
            return [(found @ self.model.lm_head.weight[words].T).float() for words in self.words]
