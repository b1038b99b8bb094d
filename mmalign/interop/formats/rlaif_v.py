"""RLAIF-V and RLHF-V: parquet or JSONL rows of a question, two answers and a picture.

openbmb/RLAIF-V-Dataset (arXiv 2405.17220)::

    {"ds_name": "RLAIF-V", "idx": 0, "question": "...", "chosen": "...", "rejected": "...",
     "image": {"bytes": b"...", "path": "0.jpg"}, "image_path": "...", "origin_dataset": "...", "origin_split": "..."}

question, chosen, rejected and image are as published; the other columns, and the layout of openbmb/RLHF-V-Dataset, in
which question and answers are JSON in a column ``text``, are recalled and were not checked. A row without ``image``
names its picture in ``image_path``. Log-probabilities of another model (``logps``, ``ref_win_logp`` and the like) are
left behind: they belong to that model.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from mmalign.interop._media import Media
from mmalign.interop._turns import mapping, message, pair, question
from mmalign.interop.formats import Unfit

_ORIGIN = ("origin_dataset", "origin_split", "image_path")
READS = frozenset({"ds_name", "idx", "question", "chosen", "rejected", "image", "text", *_ORIGIN})


def record(row: Any, media: Media) -> dict[str, Any]:
    """The pair of a row; its id is ``DS_NAME-IDX``, as far as it has these."""
    row = mapping(row)
    said = _texts(row)
    pictures = row.get("image") if row.get("image") is not None else row.get("image_path")
    pictures = pictures if isinstance(pictures, list) else [pictures]
    prompt = [message("user", question(said.get("question")))]
    identity = [str(row[name]) for name in ("ds_name", "idx") if row.get(name) is not None]
    return {
        "id": "-".join(identity) if row.get("idx") is not None else None,
        **pair(prompt, said.get("chosen"), said.get("rejected")),
        "images": [media.picture(picture) for picture in pictures],
        "meta": {name: row[name] for name in _ORIGIN if row.get(name) is not None},
    }


def _texts(row: Mapping[str, Any]) -> Mapping[str, Any]:
    if "text" not in row or "question" in row:
        return row
    try:
        return mapping(json.loads(row["text"]))
    except (TypeError, ValueError) as error:
        raise Unfit("invalid", f"expected JSON of question, chosen and rejected: {error}", field="text") from None
