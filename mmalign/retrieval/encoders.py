"""Image encoders: pictures in, one vector each out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from mmalign import plugins
from mmalign.records import InputError

if TYPE_CHECKING:
    from PIL import Image
    from torch import nn

    from mmalign.backbones import Backbone


class Encoder(Protocol):
    """What `mmalign.retrieval.make` embeds with."""

    def __call__(self, images: Sequence[Image.Image]) -> np.ndarray:
        """One vector a picture, whatever pictures are beside it. Shape: (N, D), float32."""

    def identity(self) -> dict[str, str]:
        """Changes whenever other vectors would come of a picture."""


@dataclass(frozen=True)
class Tower:
    """The vision tower of the model that is to be aligned: pictures that look alike to it. See `embed_images`."""

    backbone: Backbone

    def __call__(self, images: Sequence[Image.Image]) -> np.ndarray:
        return self.backbone.embed_images(images, batch_size=len(images))

    def identity(self) -> dict[str, str]:
        return {
            "encoder": f"tower of {self.backbone.fingerprint()}",
            "processor": self.backbone.processor_fingerprint(),
            "dtype": str(self.backbone.dtype),
        }


@dataclass(frozen=True, eq=False)
class ImageEncoder:
    """A model of images alone, or the image side of one of images and texts (CLIP, SigLIP, DINOv2, ViT).

    Its vector is what is compared with texts (``get_image_features``) where there is such; else what the model itself
    pools, if those weights were trained; else its class token, or the mean over its tokens where it has none.

    Attributes:
        pools: whether the model's own pooling is trained.
    """

    model: nn.Module
    processor: Any
    source: str
    pools: bool

    def __call__(self, images: Sequence[Image.Image]) -> np.ndarray:
        import torch

        weights = next(self.model.parameters())
        pixels = self.processor(images=list(images), return_tensors="pt").to(weights.device, weights.dtype)
        with torch.inference_mode():
            return self._pooled(pixels).float().cpu().numpy()

    def _pooled(self, pixels: Any) -> Any:
        """Shape: (N, D)."""
        if hasattr(self.model, "get_image_features"):
            return self.model.get_image_features(**pixels).pooler_output
        output = self.model(**pixels)
        if self.pools and getattr(output, "pooler_output", None) is not None:
            return output.pooler_output.flatten(1)  # of ConvNets with two axes more, of size 1
        if any(name.endswith(("cls_token", "class_embedding")) for name, _ in self.model.named_parameters()):
            return output.last_hidden_state[:, 0]
        return output.last_hidden_state.mean(1)

    def identity(self) -> dict[str, str]:
        from mmalign import runs
        from mmalign.backbones import fingerprint_of

        kind = type(self.processor).__name__  # with torchvision another class, and other pixels
        return {
            "encoder": fingerprint_of(self.source),
            "processor": runs.fingerprint(kind, self.processor.to_dict()),
            "dtype": str(next(self.model.parameters()).dtype),
        }


def load_encoder(name: str, dtype: str = "auto") -> ImageEncoder:
    """The image encoder in a Hugging Face folder or of that name; code that comes with a model is not run.

    Raises:
        InputError: there is none that transformers can load; or it is a vision-language model.
    """
    from transformers import AutoConfig, AutoImageProcessor, AutoModel

    from mmalign.backbones import _UNLOADABLE, _default_device, _first_line

    path = str(Path(name).resolve()) if Path(name).is_dir() else name
    try:
        config = AutoConfig.from_pretrained(path)
        if config.model_type in plugins.names("mmalign.backbones"):
            raise InputError(f"{name} is a vision-language model: give it as --model", field="encoder")
        processor = AutoImageProcessor.from_pretrained(path)
        model, loaded = AutoModel.from_pretrained(path, dtype=dtype, output_loading_info=True)
    except InputError:
        raise
    except _UNLOADABLE as error:
        raise InputError(f"cannot load an image encoder: {_first_line(error)}", file=name) from error
    missing = {key for key in loaded["missing_keys"] if "pooler" not in key}
    if missing:  # transformers would go on with random ones
        raise InputError(f"lacks {len(missing)} of the model's weights, {min(missing)} for one", file=name)
    return ImageEncoder(model.to(_default_device()).eval(), processor, path, pools=not loaded["missing_keys"])
