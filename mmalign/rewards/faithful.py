"""A generative judge of one response: a model is asked whether it is faithful to what is shown, yes or no."""

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

ANSWERS = ("Yes", "No")

PROMPT = """\
Here is a question about what is shown above, and an answer to it. Is the answer faithful to what is shown? It is if \
all that it mentions is there, and if what it says of kinds, numbers, colours, places and actions is true.

Question: {question}

Answer: {answer}

Is this answer faithful to what is shown? Say Yes or No, and nothing else."""


@dataclass(frozen=True)
class Faithful:
    """How likely a model is to say Yes where it is asked whether chosen is faithful to what is shown, and not No.

    Score ``faithful``, from 0 to 1. A model leans to Yes or to No as a habit: compare scores of one model and prompt.
    """

    prompt: str = option(PROMPT, "What is asked, with places {question} and {answer}; the reply must be Yes or No.")
    prefix: str = option("", "Beginning of the judge's reply.")

    pairwise: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check_template(self.prompt, ("question", "answer"), "prompt")

    def __call__(
        self, model: Writer, *, media_root: str | Path, batch_size: int = 8, frames: FrameChoice = FRAMES
    ) -> Asker:
        """Set it up with the model that judges, loaded here or behind an endpoint."""
        return Asker(model, Path(media_root), batch_size, frames, ANSWERS, self.prefix, self._texts, _verdict)

    def _texts(self, record: Record) -> list[str]:
        if not record.chosen:
            raise InputError(f"{record.id} has none, and it is what is scored", field="chosen")
        return [self.prompt.format(question=conversation(record.prompt), answer=text_of(record.chosen))]


def _verdict(id: str, said_yes: list[float]) -> Scored:  # noqa: A002 - the record's word
    return Scored(id, {"faithful": round(said_yes[0], DIGITS)})
