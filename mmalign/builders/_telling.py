"""What a model is asked about the clips of a video, and what is kept of its answers (TEMPLE, arXiv 2503.16929).

The wording is ours, the sense that of the released code.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from mmalign.builders._sentences import unquoted
from mmalign.records import Message, user_message

FIRST_PROMPT = "Describe in detail what this video shows."
NEXT_PROMPT = (
    "The clips above follow one another in a video. Describe video clip {last}, then think about how it goes on from "
    "video clip {before}: what is new, what goes on, and what has gone. End with a line that holds nothing but a "
    "detailed caption of video clip {last}."
)
STORY_PROMPT = (
    "Below are captions of clips, in the order in which they follow one another in a video. Write a detailed caption "
    "of the whole video that tells what happens in it in this order. Say nothing twice, and leave out no detail. "
    "Answer with one paragraph and nothing else."
)
"""What is asked about the first clip, about one that others come before, and about a list of captions."""

PROMPTS = (
    "Describe in detail what happens in this video.",
    "Give a full account of the events of this video.",
    "Go through this video and say what happens, one event after the other.",
    "Outline the main actions and changes that this video shows.",
    "Describe the events of this video in the order in which they happen.",
    "Explain how this video goes on from its beginning to its end.",
)
"""What pairs answer: one of these for each video."""

_LABEL = re.compile(r"""^[\s*"'“”#]*(?:detailed\s+)?caption(?:\s+(?:of|for)\s+[^:]{1,40})?\s*:[\s*]*""", re.IGNORECASE)
_BOXED = re.compile(r"\\boxed\{(.*)\}", re.DOTALL)
_CLIP = re.compile(r"\b(?:the\s+)?(video\s+clip\s+(\d+))\b", re.IGNORECASE)
_ASIDE = re.compile(r"\s*\([^()]*\bcaptions?\s+\d[^()]*\)", re.IGNORECASE)


def clip_question(before: int, first_prompt: str, next_prompt: str) -> list[Message]:
    """The prompt for a clip with so many clips ``before`` it: it has a place for each of them, and last for itself."""
    if not before:
        return [user_message(first_prompt, videos=1)]
    count = before + 1
    shown = [
        block
        for number in range(1, count + 1)
        for block in ({"type": "text", "text": f"Video clip {number}:"}, {"type": "video"})
    ]
    asked = next_prompt.replace("{last}", str(count)).replace("{before}", str(count - 1))
    return [{"role": "user", "content": [*shown, {"type": "text", "text": asked}]}]


def story_question(captions: Sequence[str], story_prompt: str) -> list[Message]:
    """The prompt for a whole video, of which the model is told by captions alone."""
    listed = "\n".join(f"- Caption {number}: {caption}" for number, caption in enumerate(captions, start=1))
    return [user_message(f"{story_prompt}\n\n{listed}")]


def caption_of(answer: str, before: int) -> str:
    """The caption in an answer about a clip, on one line; '' where there is none.

    Without clips before it, all of it. Behind others, the last line, since analysis comes first, and clips are named by
    where they stand. Labels, asterisks and a pair of quotation marks around it are taken off.
    """
    text = _spoken(answer).replace("**", "")
    lines = [line for line in map(str.strip, text.splitlines()) if line.strip("\"'“” *`")]
    caption = " ".join(lines) if not before else lines[-1] if lines else ""
    caption = unquoted(_LABEL.sub("", unquoted(caption.strip())).strip())
    return _CLIP.sub(lambda found: _named(found, before + 1), caption) if before else caption


def story_of(answer: str) -> str:
    """The caption of a whole video in an answer, less asides that name captions by their numbers."""
    return _ASIDE.sub("", _spoken(answer)).strip()


def _spoken(answer: str) -> str:
    """Less what a model thinks before it speaks, and the box that some put around their answers."""
    text = answer.rpartition("</think>")[2]
    boxed = _BOXED.search(text)
    return boxed[1] if boxed else text


def _named(found: re.Match[str], last: int) -> str:
    number = int(found[2])
    if number > last:
        return found[0]
    name = "this video clip" if number == last else "the previous clip" if number == last - 1 else "an earlier clip"
    return name[0].upper() + name[1:] if found[0][0].isupper() else name
