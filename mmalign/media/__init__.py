"""Pixels in: open an image, and refuse what cannot be used with a reason that can be counted."""

from mmalign.media.image import MAX_PIXELS, MAX_SIDE, MediaError, open_image

__all__ = ["MAX_PIXELS", "MAX_SIDE", "MediaError", "open_image"]
