"""What a model makes of the test split, measured with its plain processor and plain ``generate``."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from mmalign.benchmarks import chair, pope
from mmalign.scenes.clips import sample_clip
from mmalign.scenes.language import (
    CAPTION_PROMPTS,
    Exchange,
    event_questions,
    existence_questions,
    first_question,
    in_turn,
    moment_questions,
    order_question,
    where_questions,
)
from mmalign.scenes.render import BACKGROUND, render
from mmalign.scenes.things import NAMES, Draw, Scene, partners
from mmalign.scenes.world import sample_scene

if TYPE_CHECKING:
    from transformers import LlavaForConditionalGeneration, LlavaProcessor

BATCH = 64
VOCABULARY = chair.vocabulary(NAMES)


@dataclass(frozen=True)
class Item:
    """One question about some pictures, each of shape (SIDE, SIDE, 3), uint8."""

    exchange: Exchange
    pictures: tuple[np.ndarray, ...]


def answers(
    model: LlavaForConditionalGeneration, processor: LlavaProcessor, items: Sequence[Item], max_new_tokens: int = 24
) -> list[str]:
    """The model's greedy answers."""
    import torch
    from PIL import Image

    texts: list[str] = []
    for start in range(0, len(items), BATCH):
        batch = items[start : start + BATCH]
        prompts = [
            processor.apply_chat_template(
                [{"role": "user", "content": [{"type": "image"}] * len(item.pictures) + [_text(item)]}],
                add_generation_prompt=True,
            )
            for item in batch
        ]
        pictures = [[Image.fromarray(picture) for picture in item.pictures] for item in batch]
        inputs = processor(images=pictures, text=prompts, padding=True, return_tensors="pt")
        with torch.inference_mode():
            output = model.generate(**inputs, max_new_tokens=max_new_tokens, do_sample=False)
        new = output[:, inputs["input_ids"].shape[1] :]
        texts += [text.strip() for text in processor.batch_decode(new, skip_special_tokens=True)]
    return texts


def _text(item: Item) -> dict[str, str]:
    return {"type": "text", "text": item.exchange.question}


def blank(items: Iterable[Item]) -> list[Item]:
    """The same questions with an empty background in the place of every picture."""
    return [
        Item(item.exchange, tuple(np.full_like(picture, BACKGROUND) for picture in item.pictures)) for item in items
    ]


def question_items(split: str, count: int, seed: int) -> list[Item]:
    """Questions of every type about ``count`` pictures and ``count`` clips."""
    items = []
    for index in range(count):
        draw = Draw("evaluation", split, seed, index)
        scene = sample_scene(split, seed, index)
        asked = [*existence_questions(scene, draw, 2), *in_turn(where_questions(scene), draw, 4)]
        items += [Item(exchange, (render(scene),)) for exchange in asked]
        clip = sample_clip(split, seed, index)
        asked = [order_question(clip, draw), first_question(clip, draw), *moment_questions(clip, draw, 1)]
        asked.append(draw.pick(list(event_questions(clip))))
        frames = tuple(render(frame) for frame in clip.frames)
        items += [Item(exchange, frames) for exchange in asked]
    return items


def accuracy(items: Sequence[Item], texts: Sequence[str]) -> dict[str, float]:
    """Share of exactly right answers for each type of question."""
    right: dict[str, list[bool]] = defaultdict(list)
    for item, text in zip(items, texts, strict=True):
        right[item.exchange.kind].append(text == item.exchange.answer)
    return {kind: float(np.mean(hits)) for kind, hits in sorted(right.items())}


def pope_items(scenes: Sequence[Scene], statistics: Sequence[Scene], seed: int) -> dict[str, list[Item]]:
    """POPE's questions of each split; popular and adversarial names are counted in ``statistics``."""
    objects, counted = ({f"{index:06d}": scene.names for index, scene in enumerate(s)} for s in (scenes, statistics))
    pictures = {name: (render(scene),) for name, scene in zip(objects, scenes, strict=True)}
    return {
        split: [
            Item(Exchange("exists", row["text"], "Yes." if row["label"] == "yes" else "No."), pictures[row["image"]])
            for row in pope.build_questions(objects, split=split, seed=seed, statistics=counted)
        ]
        for split in pope.SPLITS
    }


def named(text: str) -> list[str]:
    """The world's object names in ``text``, in order, repeats kept."""
    return [name for _, _, name in chair.mentions(text, VOCABULARY)]


def chair_figures(scenes: Sequence[Scene], captions: Sequence[str]) -> dict[str, float]:
    """CHAIR of the captions against the scenes' own names, and recall.

    ``partners`` is the share of the wrong names that are partners of a thing in the picture, ``partner_chance`` what
    that share would be if wrong names were drawn evenly from the absent ones.
    """
    wrong, partner, total, bad, found, chance = 0, 0, 0, 0, 0, []
    for scene, text in zip(scenes, captions, strict=True):
        said, present = named(text), set(scene.names)
        expected = {name for seen in present for name in partners(seen)} - present
        absent = [name for name in said if name not in present]
        wrong, total, bad = wrong + len(absent), total + len(said), bad + bool(absent)
        partner += sum(name in expected for name in absent)
        chance.append(len(expected) / (len(NAMES) - len(present)))
        found += len(set(said) & present)
    return {
        "chair_i": wrong / max(1, total),
        "chair_s": bad / len(scenes),
        "recall": found / sum(len(scene.names) for scene in scenes),
        "partners": partner / max(1, wrong),
        "partner_chance": float(np.mean(chance)),
    }


def evaluate(
    model: LlavaForConditionalGeneration,
    processor: LlavaProcessor,
    count: int = 300,
    seed: int = 1,
    split: str = "test",
) -> dict[str, dict[str, float]]:
    """All the figures of the model card: accuracy with pictures and without, POPE, CHAIR.

    Args:
        count: pictures, and clips, that are asked about.
        seed: of the pictures; others than those of training when it differs from the training seed.
        split: ``test`` is balanced; ``train`` shows how much of the skill is habit.
    """
    model.eval()
    items = question_items(split, count, seed)
    scenes = [sample_scene(split, seed, index) for index in range(count)]
    statistics = [sample_scene("train", seed, index) for index in range(2000)]
    pope = pope_items(scenes, statistics, seed)
    captions = [Item(Exchange("caption", CAPTION_PROMPTS[0], ""), (render(scene),)) for scene in scenes]
    return {
        "accuracy": accuracy(items, answers(model, processor, items)),
        "blank": accuracy(items, answers(model, processor, blank(items))),
        "pope": {
            name: float(np.mean(list(accuracy(asked, answers(model, processor, asked)).values())))
            for name, asked in pope.items()
        },
        "chair": chair_figures(scenes, answers(model, processor, captions, max_new_tokens=128)),
    }
