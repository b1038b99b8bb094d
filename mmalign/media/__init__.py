"""Pixels in: open an image or frames of a clip, and refuse what cannot be used with a reason that can be counted."""

from mmalign.media.image import MAX_PIXELS, MAX_SIDE, MediaError, open_image
from mmalign.media.video import read_frames

__all__ = ["MAX_PIXELS", "MAX_SIDE", "MediaError", "open_image", "read_frames"]
