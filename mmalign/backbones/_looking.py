"""What a model's tower makes of pictures by themselves, and pictures as it gets them, noised."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from mmalign import runs
from mmalign.media.noise import Noise
from mmalign.records import user_message

if TYPE_CHECKING:
    from mmalign.backbones._backbone import Backbone


@torch.inference_mode()
def embed_images(backbone: Backbone, images: Sequence[Image.Image], batch_size: int) -> np.ndarray:
    """One vector a picture, to find pictures that look alike to this model: its tower's features, averaged.

    They are those that the projector is given, so the layer that the model looks through, and neither projector nor
    language model has a part in them. Where a picture is cut into tiles, only the view of the whole counts: tiles are
    filled up to the shape of their grid, and pictures of one shape would be alike for that.

    Args:
        images: any sizes, mode RGB.
        batch_size: pictures in the tower at a time; moves nothing but floating-point sums.

    Returns:
        As they are, neither centred nor of length 1. Shape: (N, D), float32.
    """
    seen: list[Tensor] = []
    look = [user_message("", images=1)]
    handle = backbone.projector.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    vectors = []
    try:
        for start in range(0, len(images), batch_size):
            contexts = [backbone.encode_prompt(look, [image]) for image in images[start : start + batch_size]]
            backbone.media_features(contexts)
            features = seen.pop()
            for own in features.split([_places(context.media["pixel_values"]) for context in contexts]):
                whole = own[backbone.whole_view] if own.dim() > 2 else own
                vectors.append(whole.float().mean(0))
    finally:
        handle.remove()
    return torch.stack(vectors).cpu().numpy() if vectors else np.zeros((0, 0), np.float32)


def with_noise(backbone: Backbone, media: Mapping[str, Tensor], noise: Noise) -> dict[str, Tensor]:
    """The media of a prompt, their pixels noised as the tower gets them: resized, normalised, cut up.

    Tiles of nothing but zeros, which fill up where pictures have fewer than others, stay what they are: SmolVLM knows
    them by that.
    """
    names = [name for name in ("pixel_values", "pixel_values_videos") if name in media]
    # Kinds that lie apart are noised by streams of their own: pictures by the noise's, as if there were no clips.
    streams = (noise, replace(noise, seed=runs.stable_seed(noise.seed, "clips")))
    noised = {name: _noised(backbone, media[name], own) for name, own in zip(names, streams, strict=False)}
    return {**media, **noised}


def _noised(backbone: Backbone, pixels: Tensor, noise: Noise) -> Tensor:
    drawn = backbone.pixel_noise(noise, pixels).to(pixels)
    filled = (pixels != 0).flatten(-3 if pixels.dim() > 3 else -1).any(-1)
    filled = filled.view(*filled.shape, *[1] * (pixels.dim() - filled.dim()))
    noised = noise.alpha_bar**0.5 * pixels + (1 - noise.alpha_bar) ** 0.5 * drawn
    return torch.where(filled, noised, pixels)


def _places(pixels: Tensor) -> int:
    """How many rows a picture has in its tower's output: its tiles, (..., C, H, W), or its patches, (patches, C)."""
    return pixels.shape[:-3].numel() if pixels.dim() > 3 else len(pixels)
