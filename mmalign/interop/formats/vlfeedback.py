"""VLFeedback: several models' answers to a prompt, rated on three aspects by GPT-4V.

Li et al., "VLFeedback" (arXiv 2410.09421; first used for Silkie, arXiv 2312.10665). MMInstruction/VLFeedback, recalled
and not checked against the release::

    {"id": "...", "image": {"bytes": b"...", "path": "..."}, "prompt": "...", "models": ["..."],
     "completions": [{"model": "...", "response": "...", "annotations": {
         "Helpfulness": {"Rating": "5", "Rationale": "..."}, "Visual Faithfulness": {...},
         "Ethical Considerations": {...}}}]}

Each row becomes a ranked list, ``responses``. A rating is a score of its aspect (``helpfulness``,
``visual_faithfulness``, ``ethical_considerations``); ``reward`` is the mean of the three, where all are numbers: an
``N/A`` is no score. Rationales are the critique. An answer without text or a single rating is left out, and ``meta``
says so. `build` makes pairs of such lists.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from mmalign.interop._media import Media
from mmalign.interop._turns import mapping, message, question
from mmalign.interop.formats import Unfit

READS = frozenset({"id", "image", "prompt", "models", "completions"})

ASPECTS = ("Helpfulness", "Visual Faithfulness", "Ethical Considerations")


def record(row: Any, media: Media) -> dict[str, Any]:
    """The ranked list of a row."""
    row = mapping(row)
    completions = _listed(row.get("completions"))
    responses = [_response(completion) for completion in completions]
    models = [completion.get("model") for completion in completions]
    kept = [(model, response) for model, response in zip(models, responses, strict=True) if response]
    if len(kept) < 2:
        raise Unfit("too_few", f"{len(kept)} of {len(responses)} answers have text and ratings: 2 make a list")
    left_out = [model for model, response in zip(models, responses, strict=True) if not response]
    return {
        "id": row.get("id"),
        "prompt": [message("user", question(row.get("prompt")))],
        "responses": [response for _, response in kept],
        "images": [media.picture(row.get("image"))],
        "meta": {"models": [model for model, _ in kept], **({"left_out": left_out} if left_out else {})},
    }


def _listed(completions: Any) -> list[Mapping[str, Any]]:
    """Completions as a list: tables may hold a list in each column instead."""
    if isinstance(completions, Mapping) and all(isinstance(column, list) for column in completions.values()):
        columns = completions.values()
        completions = [dict(zip(completions, values, strict=False)) for values in zip(*columns, strict=False)]
    if not isinstance(completions, list):
        raise Unfit("invalid", "expected a list", field="completions")
    return [mapping(completion) for completion in completions]


def _response(completion: Mapping[str, Any]) -> dict[str, Any] | None:
    """An answer with its scores and critique; None without text or a rating."""
    text, annotations = completion.get("response"), mapping(completion.get("annotations") or {})
    said = {aspect: mapping(annotations.get(aspect) or {}) for aspect in ASPECTS}
    scores = {_key(aspect): rating for aspect in ASPECTS if (rating := _rating(said[aspect].get("Rating"))) is not None}
    if not scores or not isinstance(text, str) or not text.strip():
        return None
    if len(scores) == len(ASPECTS):
        scores["reward"] = sum(scores.values()) / len(ASPECTS)
    rationales = [f"{aspect}: {said[aspect]['Rationale']}" for aspect in ASPECTS if said[aspect].get("Rationale")]
    critique = {"critique": "\n".join(rationales)} if rationales else {}
    return {"message": {"role": "assistant", "content": text}, "scores": scores, **critique}


def _key(aspect: str) -> str:
    return aspect.lower().replace(" ", "_")


def _rating(value: Any) -> float | None:
    """A rating as a number; None for ``N/A`` and whatever else is none."""
    try:
        rating = float(value)
    except (TypeError, ValueError):
        return None
    return rating if math.isfinite(rating) else None
