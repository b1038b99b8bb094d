from __future__ import annotations

import json

import numpy as np
from PIL import Image

from mmalign.media import open_clip, open_image
from mmalign.records import Question, RecordFile, read_jsonl, text_of, validate
from mmalign.scenes.clips import sample_clip
from mmalign.scenes.dataset import write_split
from mmalign.scenes.evaluate import named
from mmalign.scenes.language import clip_caption
from mmalign.scenes.render import render
from mmalign.scenes.world import sample_scene


def test_a_split_on_disk_is_valid_and_says_what_is_in_its_pictures(tmp_path):
    folder = write_split(tmp_path / "pairs", "pairs", count=5, seed=2, clips=2)
    objects = json.loads((folder / "objects.json").read_text())
    assert list(objects) == [f"images/pairs-{index:05d}.png" for index in range(5)]
    for name in ("sft.jsonl", "clips.jsonl"):
        assert list(validate(folder / name, open_media=open_image, open_clip=open_clip)) == []
    for index, record in enumerate(RecordFile(folder / "sft.jsonl")):
        scene = sample_scene("pairs", 2, index)
        assert objects[record.images[0]] == scene.names
        assert set(named(text_of(record.chosen))) == set(scene.names)
        assert np.array_equal(np.asarray(Image.open(folder / record.images[0])), render(scene))
    for index, record in enumerate(RecordFile(folder / "clips.jsonl")):
        clip = open_clip(record.videos[0], folder)
        frames = sample_clip("pairs", 2, index).frames
        assert text_of(record.chosen) == clip_caption(sample_clip("pairs", 2, index))
        assert len(clip.frames) == len(frames) == 4
        for seen, frame in zip(clip.frames, frames, strict=True):
            assert np.array_equal(np.asarray(seen), render(frame))


def test_questions_are_in_one_file_a_type(tmp_path):
    folder = write_split(tmp_path, "test", count=4, clips=2)
    files = {path.stem: list(read_jsonl(path, Question.parse)) for path in (folder / "questions").iterdir()}
    assert {"exists", "where", "event", "order", "first", "moment"} <= set(files)
    assert all(question.meta["type"] == kind for kind, questions in files.items() for question in questions)
    assert all(question.gold and (folder / question.images[0]).is_file() for question in files["exists"])


def test_writing_again_gives_the_same_bytes(tmp_path):
    one, two = (write_split(tmp_path / name, "test", count=3, clips=1) for name in ("one", "two"))
    names = sorted(path.relative_to(one) for path in one.rglob("*") if path.is_file())
    assert names and all((one / name).read_bytes() == (two / name).read_bytes() for name in names)
