"""What both readers know of video files."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from mmalign.records import MediaError

_BOXES = (b"ftyp", b"moov", b"mdat", b"free", b"wide", b"skip", b"pnot")
_BEGINNINGS = {
    b"\x1aE\xdf\xa3": "matroska",
    b"FLV": "flv",
    b"0&\xb2u\x8ef\xcf\x11": "asf",
    b"OggS": "ogg",
    b"GIF8": "gif",
    b"DKIF": "ivf",
    b"\0\0\1\xba": "mpeg",
}
_SOUNDS = (b"ID3", b"fLaC", b"\xff\xfb", b"\xff\xf3", b"\xff\xf2", b"\xff\xf1", b"\xff\xf9")


def container(path: Path) -> str:
    """The name that libav gives to the container of a file, by its first bytes.

    A name proves nothing, and to guess would take a text for a list of other files.

    Raises:
        MediaError: with reason unreadable (it is none that is read here) or no_video (it is sound).
    """
    try:
        with path.open("rb") as file:
            head = file.read(400)
    except OSError as error:
        raise MediaError(f"cannot be read ({error.strerror})") from None
    if head[4:8] in _BOXES:
        return "mov"
    if head[:4] == b"RIFF" and head[8:12] == b"AVI ":
        return "avi"
    if head.startswith(_SOUNDS) or head[:4] == b"RIFF" and head[8:12] == b"WAVE":
        raise MediaError("is sound, without a picture", reason="no_video")
    for start in (0, 4):  # Blu-ray puts four bytes before each packet
        if all(head[at : at + 1] == b"G" for at in (start, start + 188 + start)):
            return "mpegts"
    for beginning, name in _BEGINNINGS.items():
        if head.startswith(beginning):
            return name
    raise MediaError("not a video (MP4, MOV, MKV, WebM, AVI, MPEG, FLV, WMV, OGG, GIF and IVF are read)")


def duration_of(times: np.ndarray, rate: float) -> float:
    """Seconds until the last frame ends, which no container says of the frame itself.

    What frames there are at the mean ``rate`` of the header, if that leaves the last one a likely time; otherwise it is
    shown for as long as is usual. ``times``: of all frames, in display order. Shape: (frames,).
    """
    gaps = np.diff(times)
    if not len(gaps):
        return 1 / rate
    said = len(times) / rate
    likely = 0 < said - times[-1] <= 1.5 * gaps.max()
    return float(said if likely else times[-1] + np.median(gaps))
