"""Writes a split of the embedded world to a folder, in the formats that the rest of the project reads.

images/                     test-00000.png ...
clips/                      test-clip-00000/0.png ..., a folder of frames for each clip
objects.json                {"images/test-00000.png": ["blue square", "red circle"], ...}, pictures only
sft.jsonl                   records: a prompt and the picture's true caption as ``chosen``
clips.jsonl                 the same for clips
questions/exists.jsonl ...  one file for each type of question, the true answer as ``gold``
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

from PIL import Image

from mmalign.records import Question, Record, assistant_message, user_message, write_jsonl
from mmalign.scenes.clips import sample_clip
from mmalign.scenes.language import (
    CAPTION_PROMPTS,
    CLIP_PROMPTS,
    Exchange,
    caption,
    clip_caption,
    clip_questions,
    scene_questions,
)
from mmalign.scenes.render import render
from mmalign.scenes.things import Clip, Draw
from mmalign.scenes.world import sample_scene


def write_split(folder: str | Path, split: str, count: int, seed: int = 0, clips: int = 0) -> Path:
    """Render ``count`` pictures and ``clips`` clips of ``split`` into ``folder``, with all that is known about them.

    Args:
        folder: is made where it does not exist; files of the same names are written anew.
        split: ``train``, in which things keep company; or ``pairs`` (for preference pairs) or ``test``, which are
            balanced.
        seed: another seed gives other pictures of the same split.

    Returns:
        The folder.
    """
    folder = Path(folder)
    for name in ("images", "clips", "questions"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    records, stories = [], []
    asked: dict[str, list[Question]] = defaultdict(list)
    objects: dict[str, list[str]] = {}
    for index in range(count):
        scene, source = sample_scene(split, seed, index), f"{split}-{index:05d}"
        image = f"images/{source}.png"
        Image.fromarray(render(scene)).save(folder / image)
        draw = Draw("dataset", split, seed, index)
        objects[image] = scene.names
        records.append(_record(source, CAPTION_PROMPTS[0], caption(scene, draw), images=(image,)))
        _ask(asked, scene_questions(scene, draw), source, images=(image,))
    for index in range(clips):
        clip, source = sample_clip(split, seed, index), f"{split}-clip-{index:05d}"
        video = _save_clip(folder, source, clip)
        draw = Draw("dataset clip", split, seed, index)
        stories.append(_record(source, CLIP_PROMPTS[0], clip_caption(clip), videos=(video,)))
        _ask(asked, clip_questions(clip, draw), source, videos=(video,))
    (folder / "objects.json").write_text(json.dumps(objects, indent=0), encoding="utf-8")
    write_jsonl(folder / "sft.jsonl", records)
    write_jsonl(folder / "clips.jsonl", stories)
    for kind, questions in asked.items():
        write_jsonl(folder / "questions" / f"{kind}.jsonl", questions)
    return folder


def _save_clip(folder: Path, source: str, clip: Clip) -> str:
    """Write the frames; the name of their folder relative to ``folder``."""
    name = f"clips/{source}"
    (folder / name).mkdir(exist_ok=True)
    for number, frame in enumerate(clip.frames):
        Image.fromarray(render(frame)).save(folder / name / f"{number}.png")
    return name


def _record(source: str, prompt: str, text: str, **media: tuple[str, ...]) -> Record:
    return Record(
        id=source,
        prompt=[user_message(prompt, **{kind: len(names) for kind, names in media.items()})],
        chosen=[assistant_message(text)],
        **media,
        meta={"maker": "mmalign.scenes"},
    )


def _ask(
    asked: dict[str, list[Question]], exchanges: Iterable[Exchange], source: str, **media: tuple[str, ...]
) -> None:
    for number, exchange in enumerate(exchanges):
        asked[exchange.kind].append(
            Question(
                id=f"{source}#{number}",
                prompt=[user_message(exchange.question, **{kind: len(names) for kind, names in media.items()})],
                **media,
                gold=exchange.answer,
                meta={"type": exchange.kind},
            )
        )
