"""Records that an objective can learn from, asked of the objective itself."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import pytest

from mmalign import objectives
from mmalign.forward import Usable
from mmalign.objectives import Term
from mmalign.records import InputError, Record

PROMPT = [{"role": "user", "content": "What is it?"}]
YES, NO = ([{"role": "assistant", "content": word}] for word in ("Yes.", "No."))


def record(**fields) -> Record:
    return Record.parse({"id": "a", "prompt": PROMPT, **fields})


@dataclass(frozen=True)
class EitherTerm:
    """A text term for pairs, and a visual one for records with other media."""

    views: ClassVar[tuple[str, ...]] = ("chosen", "rejected", "chosen@rejected_media")
    needs: ClassVar[frozenset[str]] = frozenset()

    def __call__(self, policy: Mapping, reference, batch: Mapping, state=None):
        chosen, rejected, blind = (policy[view] for view in self.views)
        return {
            "text": Term(chosen.sum(), chosen.present & rejected.present),
            "visual": Term(chosen.sum(), chosen.present & blind.present),
        }, {}


def test_pairs_for_dpo_and_answers_for_sft():
    Usable(objectives.load("dpo"))(record(chosen=YES, rejected=NO))
    Usable(objectives.load("sft"))(record(chosen=YES, rejected=NO))
    Usable(objectives.load("sft"))(record(chosen=YES))
    for fields, lacks in (({"chosen": YES}, "rejected"), ({"rejected": NO}, "chosen")):
        with pytest.raises(InputError, match=f"dpo has nothing to learn from it: it lacks {lacks}$"):
            Usable(objectives.load("dpo"))(record(**fields))


def test_one_term_is_enough():
    both = {"images": ["a.png"], "rejected_images": ["b.png"]}
    prompt = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What?"}]}]
    Usable(EitherTerm())(record(chosen=YES, rejected=NO))
    Usable(EitherTerm())(record(chosen=YES, prompt=prompt, **both))
    with pytest.raises(InputError, match="lacks rejected, chosen@rejected_media"):
        Usable(EitherTerm())(record(chosen=YES))


def test_media_that_no_view_looks_at_are_refused_unless_ignored():
    prompt = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What?"}]}]
    given = record(chosen=YES, rejected=NO, prompt=prompt, images=["a.png"], rejected_images=["b.png"])
    with pytest.raises(InputError, match="--ignore rejected_images") as caught:
        Usable(objectives.load("dpo"))(given)
    assert caught.value.field == "rejected_images"
    Usable(objectives.load("dpo"), ignore=["rejected_images"])(given)
    Usable(EitherTerm())(given)
