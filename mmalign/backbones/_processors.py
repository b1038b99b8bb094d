"""Processors, also where there is no torchvision, without which no video processor of transformers runs."""

from __future__ import annotations

from typing import Any

from transformers import AutoProcessor, AutoTokenizer, PreTrainedConfig, ProcessorMixin
from transformers.models.auto.image_processing_auto import AutoImageProcessor  # without torchvision too, before 5.20
from transformers.models.auto.processing_auto import PROCESSOR_MAPPING
from transformers.models.auto.video_processing_auto import get_video_processor_config
from transformers.utils import PushToHubMixin, is_torchvision_available

_VIDEO_PART = "video_processor"
"""What transformers calls the part of a processor that reads clips."""


class UnreadClips(PushToHubMixin):
    """Stands in a processor for its video part: holds what that is configured with, and reads nothing.

    What is saved has the configuration still, so that the folder reads clips on a machine with torchvision.
    """

    _auto_class = None

    def __init__(self, config: dict[str, Any]) -> None:
        self.config = config

    def __getattr__(self, name: str) -> Any:
        """What is configured: some processors ask for it wherever there is a clip in a conversation, or none."""
        if name.startswith("_") or name == "config":
            raise AttributeError(name)
        return self.config.get(name)

    def to_dict(self) -> dict[str, Any]:
        """As `transformers.ProcessorMixin.save_pretrained` writes it."""
        return dict(self.config)


def load_processor(path: str, config: PreTrainedConfig, **options: Any) -> ProcessorMixin:
    """A model's processor; where there is no torchvision, one that reads pictures alone.

    Args:
        path: folder or hub name.
        config: of the model.
        options: of ``from_pretrained``.
    """
    kind = PROCESSOR_MAPPING.get(type(config), None)
    if is_torchvision_available() or kind is None or _VIDEO_PART not in kind.get_attributes():
        return AutoProcessor.from_pretrained(path, **options)
    parts = {
        _VIDEO_PART: UnreadClips(get_video_processor_config(path)),
        "image_processor": AutoImageProcessor.from_pretrained(path, **options),
        "tokenizer": AutoTokenizer.from_pretrained(path, **options),
    }
    settings, _ = kind.get_processor_dict(path)
    return of_pictures(kind).from_args_and_dict([parts[name] for name in kind.get_attributes()], settings)


def of_pictures(kind: type[ProcessorMixin]) -> type[ProcessorMixin]:
    """The same processor, but it takes `UnreadClips` for its video part."""

    class OfPictures(kind):
        def check_argument_for_proper_class(self, argument_name: str, argument: Any) -> Any:
            if not isinstance(argument, UnreadClips):
                return super().check_argument_for_proper_class(argument_name, argument)

    OfPictures.__name__ = kind.__name__  # which is what is saved
    return OfPictures


def reads_clips(processor: ProcessorMixin) -> bool:
    """Whether it has a video part that runs."""
    return not isinstance(getattr(processor, _VIDEO_PART, None), UnreadClips | None)


def settle(processor: ProcessorMixin) -> None:
    """Say what the video part leaves to a default that transformers will change: no frame of Qwen-VL's is capped.

    So it is the same in every version, part of the fingerprint, and saved with what is trained.
    """
    if getattr(processor.video_processor, "cap_pixels_per_frame", False) is None:
        processor.video_processor.cap_pixels_per_frame = False
