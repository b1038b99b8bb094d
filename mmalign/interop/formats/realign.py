r"""Re-Align: pref_data.json, pairs with a retrieved picture that the wrong answer came from.

Xing et al., "Re-Align" (arXiv 2502.13146), as the loader of its released code reads it::

    {"image": "COCO_1.jpg", "retrieved_image": "COCO_2.jpg",
     "chosen": [{"role": "user", "content": "<image>\nWhat ...?"}, {"role": "assistant", "content": "..."}],
     "rejected": [the same user turn, {"role": "assistant", "content": "..."}]}

Both pictures are in one folder (``--media_root``). The retrieved one becomes ``rejected_images``, the visual
negative of `rdpo`; a row without one is a pair of texts alone.
"""

from __future__ import annotations

from typing import Any

from mmalign.interop._media import Media
from mmalign.interop._turns import mapping, message, pair, turns
from mmalign.interop.formats import Unfit

READS = frozenset({"id", "image", "retrieved_image", "chosen", "rejected"})


def record(row: Any, media: Media) -> dict[str, Any]:
    """The pair of a row, with its visual negative."""
    row = mapping(row)
    chosen, rejected = turns(row.get("chosen")), turns(row.get("rejected"))
    if [role for role, _ in chosen + rejected] != ["user", "assistant"] * 2:
        raise Unfit("turns", "expected a user's and an assistant's turn, in chosen and in rejected")
    if chosen[0] != rejected[0]:
        raise Unfit("prompts_differ", "chosen and rejected answer different questions")
    found = {
        "id": row.get("id"),
        **pair([message(*chosen[0])], chosen[1][1], rejected[1][1]),
        "images": [media.picture(row.get("image"))],
    }
    if row.get("retrieved_image"):
        found["rejected_images"] = [media.picture(row["retrieved_image"])]
    return found
