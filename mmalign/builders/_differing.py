"""A true answer rewritten so that it says what is wrong in another one, by a model that is asked in two turns.

The two turns are those of Sarkar and Etemad (arXiv 2504.12083), in words of ours: first it names the key differences
between the two, then it rewrites the true one with them. So the two differ in what is wrong and in nothing else.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from mmalign.backbones import Job
from mmalign.builders import Drop, Unit
from mmalign.builders._masking import flaw
from mmalign.builders._sentences import stopped, unquoted
from mmalign.endpoint import Writer
from mmalign.records import assistant_message, user_message

DIFFERENCES = """\
Name the key differences between the two sentences below. Look at what matters in them, such as objects, actions and \
their attributes. If there is no key difference, reply with "None" and nothing else.

Sentence 1: {truth}

Sentence 2: {answer}"""

REWRITE = """\
Now rewrite Sentence 1 so that it has the differences that you have named, and leave everything else in it as it is. \
Reply with the rewritten sentence and nothing else.

Sentence 1: {truth}"""

LENGTHS = (0.5, 2.0)
"""Least and largest length of a rewritten answer, in words of the true one."""

_NONE = re.compile(
    r"\W*(?:none\W*$|there\s+(?:is|are)\s+no\s+(?:key\s+)?differences?\b(?!.*\b(?:but|except|however|than|apart)\b))",
    re.IGNORECASE | re.DOTALL,
)
_LABEL = re.compile(r"\W*(?:(?:rewritten|revised|new)\s+)?sentence(?:\s*1)?\W*:[\s*]*", re.IGNORECASE)


@dataclass(frozen=True)
class Rewritten:
    """A rewritten answer, and what the model said of the differences before."""

    text: str
    differences: str


def rewritten(
    unit: Unit, model: Writer, pairs: Sequence[tuple[str, str]], *, max_new_tokens: int
) -> Iterator[Rewritten | Drop]:
    """For each pair of a true and a wrong answer the true one with what is wrong in it, or why there is none.

    Each turn is asked for all pairs together, greedily, and no picture is shown. Drops: ``model_wrote_nothing``,
    ``no_key_difference``, and ``not_rewritten`` where the reply is no other version of the true answer.
    """
    first = [user_message(DIFFERENCES.format(truth=truth, answer=answer)) for truth, answer in pairs]
    named = _ask(unit, model, [[message] for message in first], max_new_tokens)
    told = [i for i, reply in enumerate(named) if reply and not _NONE.match(reply)]
    second = [[first[i], assistant_message(named[i]), user_message(REWRITE.format(truth=pairs[i][0]))] for i in told]
    written = dict(zip(told, _ask(unit, model, second, max_new_tokens), strict=True))
    for i, (truth, _) in enumerate(pairs):
        if i in written:
            yield _checked(written[i], truth, named[i])
        else:
            yield Drop("no_key_difference", named[i]) if named[i] else Drop("model_wrote_nothing", "of the differences")


def _ask(unit: Unit, model: Writer, prompts: Sequence[list[dict]], limit: int) -> list[str]:
    jobs = [Job(prompt) for prompt in prompts]
    return [text.strip() for text in unit.write(model, jobs, max_new_tokens=limit)] if jobs else []


def _checked(written: str, truth: str, named: str) -> Rewritten | Drop:
    text = _bare(written, truth)
    problem = flaw(text, truth, *LENGTHS)
    if problem is None and stopped(truth.rstrip()) and not stopped(text):
        problem = "cut_off"
    return Rewritten(text, named) if problem is None else Drop("not_rewritten", f"{problem}: {written}")


def _bare(written: str, truth: str) -> str:
    """What was written, less a label before it and quotes around it that the true answer does not have."""
    text = written if _LABEL.match(truth) else _LABEL.sub("", written, count=1)
    return text if truth.lstrip()[:1] == text[:1] else unquoted(text)
