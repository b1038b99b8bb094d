"""MM-RLHF: dpo_pairs.jsonl and mm_reward_bench.jsonl, pairs with critiques, by people.

Zhang et al., "MM-RLHF" (arXiv 2502.10391). Paths start from the folder of the release (``--media_root``)::

    {"id": "12", "image": "mcq/a.png", "prompt": "...", "chosen": "...", "rejected": "...",
     "chosen_reason": "...", "rejected_reason": "..."}

- ``image`` may be a list; ``video`` stands in its place. A video is a folder of frames, which become pictures, in the
  order of the numbers in their names; ``--option frames=N`` takes N of them, evenly spaced. A video file stays one.
- ``id`` is the query's: it becomes ``group``, and ids of records are made unique.
- ``chosen_reason`` and ``rejected_reason`` are the critiques.
- ``margin``, where there is one, becomes the reward of the chosen answer, against 0.
- A tie (``is_tie``) prefers nothing, and is dropped.
- Log-probabilities of another model, ``ls_factor`` and ``mixed_up_image`` are left behind.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from mmalign.interop import _tables
from mmalign.interop._media import Media
from mmalign.interop._turns import IMAGE, VIDEO, mapping, message, pair, question
from mmalign.interop.formats import Unfit
from mmalign.records import InputError

OPTIONS = {"frames": "how many frames of a clip, evenly spaced (default: all that its folder holds)"}

READS = frozenset(
    {
        *("id", "image", "video", "prompt", "chosen", "rejected"),
        *("chosen_reason", "rejected_reason", "margin", "is_tie"),
    }
)


def rows(source: Path, *, frames: str = "") -> Iterator[tuple[str, tuple[int, Any]]]:
    """Each row with the number of frames to take, 0 for all."""
    if frames and not (frames.isdecimal() and int(frames)):
        raise InputError(f"expected a number of 1 or more, got {frames!r}", field="frames")
    for place, row in _tables.rows(source):
        yield place, (int(frames or 0), row)


def record(row: tuple[int, Any], media: Media) -> dict[str, Any]:
    """The pair of a row."""
    frames, row = row[0], mapping(row[1])
    if row.get("is_tie"):
        raise Unfit("tie", "is_tie: neither answer is the better one")
    asked, files = _media(row, question(row.get("prompt")), media, frames)
    found = {
        "id": row.get("id"),
        **pair([message("user", asked)], row.get("chosen"), row.get("rejected")),
        **files,
        "chosen_critique": row.get("chosen_reason"),
        "rejected_critique": row.get("rejected_reason"),
    }
    if row.get("id") is not None:
        found["group"] = str(row["id"])
    if row.get("margin") is not None:
        found |= {"chosen_scores": {"reward": row["margin"]}, "rejected_scores": {"reward": 0}}
    return found


def _media(row: Mapping[str, Any], asked: str, media: Media, frames: int) -> tuple[str, dict[str, list[str]]]:
    """The question, without placeholders where frames have taken the place of a clip; and the names of the media."""
    if row.get("video") is None:
        pictures = row["image"] if isinstance(row.get("image"), list) else [row.get("image")]
        return asked, {"images": [media.picture(picture) for picture in pictures]}
    clip = row["video"][0] if isinstance(row["video"], list) and len(row["video"]) == 1 else row["video"]
    if not isinstance(clip, str):
        raise Unfit("no_media", "expected one path", field="video")
    if media.is_folder(clip) or not PurePosixPath(clip).suffix:
        return asked.replace(IMAGE, "").replace(VIDEO, "").strip("\n"), {"images": media.frames(clip, frames)}
    return asked.replace(IMAGE, VIDEO), {"videos": [media.video(clip)]}
