"""Pixels in: open an image or frames of a clip, and refuse what cannot be used with a reason that can be counted."""

from mmalign.media.choice import FRAMES, FrameChoice, Part
from mmalign.media.files import Probe, probe, read_indices, stream
from mmalign.media.image import MAX_PIXELS, MAX_SIDE, open_image
from mmalign.media.video import Clip, as_pictures, open_clip, read_clip
from mmalign.records import MediaError

__all__ = [
    "FRAMES",
    "MAX_PIXELS",
    "MAX_SIDE",
    "Clip",
    "FrameChoice",
    "MediaError",
    "Part",
    "Probe",
    "as_pictures",
    "open_clip",
    "open_image",
    "probe",
    "read_clip",
    "read_indices",
    "stream",
]
