"""A generative judge: a model is asked which of two responses is better, A or B, in both orders.

As a judge prefers what it reads first, or last, whatever it says (Zheng et al., arXiv 2306.05685), each
pair is asked about twice, with the two in turned places, and the probabilities are averaged.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from mmalign.endpoint import Writer
from mmalign.media import FRAMES, FrameChoice
from mmalign.plugins import option
from mmalign.records import InputError, Record, text_of
from mmalign.rewards import DIGITS, Scored
from mmalign.rewards._asking import Asker, check_template, conversation

ANSWERS = ("A", "B")

PROMPT = """\
Here is a question about what is shown above, and two answers to it. Which answer is more faithful to what is shown? \
An answer is faithful if all that it mentions is there, and if what it says of kinds, numbers, colours, places and \
actions is true. Whether it is long or short, and how well it is put, does not count.

Question: {question}

Answer A: {a}

Answer B: {b}

Which answer is more faithful to what is shown? Say A or B, and nothing else."""


@dataclass(frozen=True)
class Judge:
    """How likely it is that chosen is better than rejected, by a model that is asked so in both orders.

    Score ``strength``, from 0 to 1: the mean of P(A) with chosen as A and P(B) with chosen as B, where P is among the
    two answers. So strength(a, b) + strength(b, a) = 1, equals have 0.5, and a habit of saying A cancels.
    """

    prompt: str = option(PROMPT, "What is asked, with places {question}, {a} and {b}; the answer must be A or B.")
    prefix: str = option("", "Beginning of the judge's answer, such as 'Answer '.")

    pairwise: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_template(self.prompt, ("question", "a", "b"), "prompt")

    def __call__(
        self, model: Writer, *, media_root: str | Path, batch_size: int = 8, frames: FrameChoice = FRAMES
    ) -> Asker:
        """Set it up with the model that judges, loaded here or behind an endpoint."""
        return Asker(model, Path(media_root), batch_size, frames, ANSWERS, self.prefix, self._texts, _verdict)

    def _texts(self, record: Record) -> list[str]:
        """The pair in both orders."""
        if not record.chosen or not record.rejected:
            raise InputError(f"{record.id} lacks one of two responses: a judge compares chosen with rejected")
        question, one, other = conversation(record.prompt), text_of(record.chosen), text_of(record.rejected)
        return [self.prompt.format(question=question, a=a, b=b) for a, b in ((one, other), (other, one))]


def _verdict(id: str, said_a: list[float]) -> Scored:  # noqa: A002 - the record's word
    as_a, as_b = said_a[0], 1 - said_a[1]
    text = f"chosen is better with {as_a:.3f} where it stands as A, {as_b:.3f} where it stands as B"
    return Scored(id, {"strength": round((as_a + as_b) / 2, DIGITS)}, text)
