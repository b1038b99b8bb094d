"""Records and rows that peers are asked about."""

from __future__ import annotations

from typing import Any

from mmalign.records import Message, Record, assistant_message, user_message

PICTURES, CLIPS = ("a.png", "b.png", "in folder/c d.png"), ("clip.avi",)


def _said(text: str) -> list[Message]:
    return [assistant_message(text)]


def _user(*parts: str) -> Message:
    """A turn of texts and, by their names, media."""
    return {
        "role": "user",
        "content": [{"type": part} if part in ("image", "video") else {"type": "text", "text": part} for part in parts],
    }


_SIDES = {"chosen": _said("There is a red circle."), "rejected": _said("There is a blue square.")}
_SYSTEM = {"role": "system", "content": [{"type": "text", "text": "Be brief."}]}

SIMPLE = [
    Record("none", [user_message("What is a circle?")], **_SIDES),
    Record("one", [user_message("Describe the image.", images=1)], **_SIDES, images=("a.png",)),
    Record("two", [_user("image", "Or ", "image", "?")], **_SIDES, images=("a.png", "in folder/c d.png")),
]
"""Pairs about pictures in words that the bundled model's tokenizer has."""

PAIRS = [
    *SIMPLE,
    Record("unicode", [_user("Was zeigt \N{SNOWMAN} ", "image", "\n?\n")], **_SIDES, images=("b.png",)),
    Record("system", [_SYSTEM, user_message("What?", images=1)], **_SIDES, images=("a.png",)),
    Record(
        "turns",
        [user_message("What?", images=1), *_said("A circle."), _user("And ", "image", "?")],
        **_SIDES,
        images=("a.png", "b.png"),
    ),
    Record("clip", [_user("video", "and ", "image")], **_SIDES, images=("b.png",), videos=("clip.avi",)),
]

ALONE = [Record(f"alone-{record.id}", record.prompt, record.chosen, images=record.images) for record in SIMPLE]
REFUSED = [Record(f"bad-{r.id}", r.prompt, rejected=r.rejected, images=r.images) for r in SIMPLE]

WIDER = [
    *PAIRS,
    Record(
        "three",
        [user_message("What?", images=1)],
        **_SIDES,
        images=("a.png",),
        rejected_images=("b.png",),
        rejected_prompt=[user_message("Who?", images=1)],
        chosen_scores={"reward": 2.0},
        rejected_scores={"reward": 0.5},
    ),
    Record("visual", [user_message("What?", 1)], _SIDES["chosen"], images=("a.png",), rejected_images=("b.png",)),
]
"""What ms-swift can carry, beside pairs of answers."""


def _gpt(text: str) -> dict[str, str]:
    return {"from": "gpt", "value": text}


_ASKED = {"from": "human", "value": "<image>What is this?"}
_OPENAI = [{"role": "user", "content": "<image>What is this?"}]
_ANSWERED = [*_OPENAI, {"role": "assistant", "content": "A cat."}]
_WRONG = [{"role": "assistant", "content": "A dog."}]

LLAMA_FACTORY: dict[str, tuple[str, dict[str, Any], list[dict[str, Any]]]] = {
    "sharegpt": (
        "rm",
        {"formatting": "sharegpt", "ranking": True, "columns": {
            "messages": "conversations", "chosen": "chosen", "rejected": "rejected", "images": "images"}},
        [
            {"conversations": [_ASKED], "chosen": _gpt("A cat."), "rejected": _gpt("A dog."), "images": ["a.png"]},
            {"conversations": [{"from": "system", "value": "Be brief."}, _ASKED, _gpt("A cat."),
                               {"from": "human", "value": "And\n<image>?"}],
             "chosen": _gpt("A fox."), "rejected": _gpt("A cow."), "images": ["a.png", "b.png"]},
        ],
    ),
    "tagged": (
        "rm",
        {"formatting": "sharegpt", "ranking": True,
         "columns": {"messages": "talk", "chosen": "good", "rejected": "bad", "images": "photos", "system": "rules"},
         "tags": {"role_tag": "role", "content_tag": "content", "user_tag": "user", "assistant_tag": "assistant"}},
        [{"talk": _OPENAI, "good": _ANSWERED[-1], "bad": _WRONG[-1], "photos": ["b.png"], "rules": "Be brief."}],
    ),
    "alpaca": (
        "rm",
        {"ranking": True, "columns": {
            "prompt": "instruction", "query": "input", "chosen": "chosen", "rejected": "rejected", "images": "images"}},
        [{"instruction": "<image>What is this?", "input": "In a word.", "chosen": "Cat.", "rejected": "Dog.",
          "images": ["a.png"]}],
    ),
    "history": (
        "sft",
        {"columns": {"prompt": "instruction", "query": "input", "response": "output", "history": "history"}},
        [{"instruction": "And now?", "input": "", "output": "A fox.", "history": [["What?", "A cat."]]}],
    ),
    "kto": (
        "kto",
        {"formatting": "sharegpt", "columns": {"messages": "conversations", "images": "images", "kto_tag": "kto_tag"}},
        [
            {"conversations": [_ASKED, _gpt("A cat.")], "images": ["a.png"], "kto_tag": True},
            {"conversations": [_ASKED, _gpt("A dog.")], "images": ["a.png"], "kto_tag": False},
        ],
    ),
}  # fmt: skip
"""Stage, entry of dataset_info.json and rows, in every layout that is read."""

MS_SWIFT: dict[str, list[dict[str, Any]]] = {
    "response": [
        {"messages": _ANSWERED, "images": ["a.png"], "rejected_response": "A dog."},
        {"messages": [{"role": "system", "content": "Be brief."}, *_ANSWERED, {"role": "user", "content": "<image>?"},
                      {"role": "assistant", "content": "A fox."}],
         "images": ["a.png", "b.png"], "rejected_response": "A cow.", "margin": 1.5},
    ],
    "list": [{"messages": _ANSWERED, "images": ["a.png"], "rejected_response": _WRONG}],
    "media": [{"messages": _ANSWERED, "images": ["a.png"], "rejected_images": ["b.png"]}],
    "whole": [
        {"messages": _ANSWERED, "images": ["a.png"],
         "rejected_messages": _OPENAI + _WRONG, "rejected_images": ["a.png"]},
        {"messages": _ANSWERED, "images": ["a.png"], "rejected_messages": _ANSWERED, "rejected_images": ["b.png"]},
        {"messages": _ANSWERED, "images": ["a.png"], "rejected_images": ["a.png"],
         "rejected_messages": [{"role": "user", "content": "<image>Who is this?"}, _ANSWERED[-1]]},
    ],
    "untagged": [
        {"messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "What?"}, *_WRONG],
         "images": ["a.png", "b.png"], "videos": ["clip.avi"], "rejected_response": "A cat."},
    ],
    "query": [{"query": "<image>What is this?", "response": "A cat.", "images": ["a.png"], "system": "Be brief.",
               "history": [["Hello.", "Hello!"]], "rejected_response": "A dog."}],
    "sharegpt": [{"conversations": [_ASKED, _gpt("A cat.")], "image": "a.png", "rejected_response": "A dog."}],
    "kto": [
        {"messages": _ANSWERED, "images": ["a.png"], "label": True},
        {"messages": _OPENAI + _WRONG, "images": ["a.png"], "label": False},
    ],
}  # fmt: skip
"""Rows in every layout that is read."""

MIXED_RESPONSES = [MS_SWIFT["response"][0], MS_SWIFT["media"][0]]
"""Of these in one file ms-swift keeps the first alone, since the second has no ``rejected_response``."""

MIXED_PAIRS = [MS_SWIFT["whole"][0], {"messages": _ANSWERED, "images": ["a.png"]}]
"""Of these in one file ms-swift makes two pairs, the second of equals."""
