"""A clip is seen as its frames, in its place among the pictures."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from mmalign.forward import Batch, Encoder, Engine, RecordDataset, encoding, rough_length
from mmalign.media import FrameChoice, as_pictures, open_clip, open_image, read_clip
from mmalign.records import InputError, Record, RecordFile, assistant_message, user_message
from tests.families import build
from tests.tiny import noise, write_clip

VIEWS = ("chosen", "rejected", "chosen@rejected_media")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two clips, and the frames of each as pictures."""
    folder, rng = tmp_path_factory.mktemp("clips"), np.random.default_rng(0)
    for name in ("a", "b"):
        write_clip(folder / f"{name}.avi", [noise(rng) for _ in range(7)])
        for i, frame in enumerate(read_clip(folder / f"{name}.avi", FrameChoice(3)).frames):
            frame.save(folder / f"{name}{i}.png")
    noise(rng).save(folder / "c.png")
    return folder


def record(images=(), videos=(), rejected_images=(), rejected_videos=()) -> Record:
    return Record(
        id="r",
        prompt=[user_message("What is here?", images=len(images), videos=len(videos))],
        images=images,
        videos=videos,
        rejected_images=rejected_images,
        rejected_videos=rejected_videos,
        chosen=[assistant_message("A red circle.")],
        rejected=[assistant_message("There is a blue square.")],
    )


def test_what_has_no_negative_stays(folder):
    """Of a picture and a clip only the picture is exchanged: the clip is the same in both contexts."""
    encoder = Encoder(build("llava"), VIEWS, frames=FrameChoice(3))
    short = encoder(record(("c.png",), ("a.avi",), ("b0.png",)), folder)
    whole = encoder(record(("c.png",), ("a.avi",), ("b0.png",), ("a.avi",)), folder)
    for name, context in short.contexts.items():
        assert torch.equal(context.media["pixel_values"], whole.contexts[name].media["pixel_values"])
    own, negative = (short.contexts[name].media["pixel_values"] for name in ("", "rejected_media"))
    assert torch.equal(own[1:], negative[1:]) and not torch.equal(own[0], negative[0])


@pytest.mark.parametrize("family", ["llava", "qwen2_5_vl", "gemma3"])
def test_a_clip_equals_its_frames_as_pictures(family, folder):
    backbone = build(family)
    clips = record(("c.png",), ("a.avi",), ("c.png",), ("b.avi",))
    pictures = record(("c.png", "a0.png", "a1.png", "a2.png"), (), ("c.png", "b0.png", "b1.png", "b2.png"))
    found = []
    for one in (clips, pictures, record(("c.png",))):
        encoded = Encoder(backbone, VIEWS, frames=FrameChoice(3))(one, folder)
        batch = Batch.of([encoded], VIEWS, backbone.pad_token_id, share=True, pack=backbone.can_pack)
        found.append(Engine(backbone, reference=False)(batch)[0])
    for view in VIEWS:
        torch.testing.assert_close(found[0][view].logps, found[1][view].logps)
    assert (found[0]["chosen"].logps - found[0]["chosen@rejected_media"].logps).abs().max() > 1e-3
    assert (found[0]["chosen"].logps - found[2]["chosen"].logps).abs().max() > 1e-3


def test_the_same_files_in_another_order_are_encoded_for_themselves(folder):
    backbone = build("llava")
    picture, clip, text = {"type": "image"}, {"type": "video"}, {"type": "text", "text": "Look."}
    one, other = (
        replace(record(("c.png",), ("a.avi",)), id=str(i), prompt=[{"role": "user", "content": [*media, text]}])
        for i, media in enumerate(([picture, clip], [clip, picture]))
    )
    encoder = Encoder(backbone, VIEWS, frames=FrameChoice(3))
    engine = Engine(backbone, reference=False)

    def chosen(*records):
        encoded = [encoder(each, folder) for each in records]
        batch = Batch.of(encoded, VIEWS, backbone.pad_token_id, share=True, pack=engine.pack)
        return engine(batch)[0]["chosen"].logps

    torch.testing.assert_close(chosen(one, other), torch.cat([chosen(one), chosen(other)]))
    assert (chosen(one) - chosen(other)).abs().max() > 1e-3


def test_a_rough_length_counts_what_is_shown_and_said():
    short, clip = record(("c.png",)), record((), ("a.avi",))
    assert rough_length(clip, 8) - rough_length(short, 8) == 7 * 2_000
    assert rough_length(replace(short, gold=[assistant_message("word")]), 8) == rough_length(short, 8) + 4


def test_frames_stand_where_the_clip_stood():
    text = {"type": "text", "text": "and"}
    content = [{"type": "video"}, text, {"type": "image"}, {"type": "video"}]
    messages = [{"role": "user", "content": content}]
    written, shown = as_pictures(messages, [["p"]], [["a0", "a1"], ["b0"]])
    assert shown == ["a0", "a1", "p", "b0"]
    picture = {"type": "image"}
    assert written == [{"role": "user", "content": [picture, picture, text, picture, picture]}]


def test_a_broken_clip_is_named_by_its_field(folder):
    (folder / "broken.avi").write_bytes(b"RIFF")
    backbone = build("llava")
    with pytest.raises(InputError, match="broken.avi") as caught:
        Encoder(backbone, VIEWS)(record(videos=("broken.avi",)), folder)
    assert caught.value.field == "videos"
    other = replace(record(videos=("a.avi",)), rejected_videos=("broken.avi",))
    with pytest.raises(InputError) as caught:
        Encoder(backbone, VIEWS)(other, folder)
    assert caught.value.field == "rejected_videos"


def test_what_several_contexts_show_is_opened_once(folder, monkeypatch):
    opened = []
    monkeypatch.setattr(encoding, "open_clip", lambda *a: opened.append(a[0]) or open_clip(*a))
    monkeypatch.setattr(encoding, "open_image", lambda path: opened.append(path.name) or open_image(path))
    one = record(("c.png", "c.png"), ("a.avi", "a.avi"), ("b0.png", "c.png"))
    one = replace(one, rejected_prompt=one.prompt)
    Encoder(build("llava"), (*VIEWS, "chosen@rejected_prompt"), frames=FrameChoice(3))(one, folder)
    assert sorted(opened) == ["a.avi", "b0.png", "c.png"]


@pytest.mark.parametrize(
    ("media", "field"),
    [
        ({"images": ("c.png", "strip.png")}, "images[1]"),
        ({"images": ("c.png",), "rejected_images": ("strip.png",)}, "rejected_images[0]"),
        ({"videos": ("strips",)}, "videos[0]"),
        ({"images": ("c.png",), "videos": ("strips",), "rejected_images": ("b0.png",)}, "videos[0]"),
        ({"videos": ("a.avi",), "rejected_videos": ("strips",)}, "rejected_videos[0]"),
    ],
)
def test_what_a_models_processor_refuses_is_named_by_line_and_field(folder, tmp_path, media, field):
    """Qwen-VL takes no strips: whoever trains on a file of millions must be told which line has one."""
    strip = Image.new("RGB", (1000, 4))
    (folder / "strips").mkdir(exist_ok=True)
    for name in ("strip.png", "strips/0.png", "strips/1.png"):
        strip.save(folder / name)
    rows = [record(("c.png",)), record(**media)]
    prompts = [[user_message("What?", images=len(row.images), videos=len(row.videos))] for row in rows]
    lines = [
        {"id": str(i), "prompt": prompt, "chosen": row.chosen, "rejected": row.rejected}
        | {name: getattr(row, name) for name in ("images", "videos", "rejected_images", "rejected_videos")}
        for i, (prompt, row) in enumerate(zip(prompts, rows, strict=True))
    ]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    records = RecordFile(tmp_path / "pairs.jsonl", media_root=folder)
    good, bad = (RecordDataset(records, Encoder(build("qwen2_5_vl"), VIEWS))[i, True] for i in range(2))
    assert not isinstance(good, InputError)
    assert isinstance(bad, InputError)
    assert (bad.file, bad.line, bad.field) == (tmp_path / "pairs.jsonl", 2, field)
    assert "takes no 1000 x 4 pixels" in bad.problem


def test_a_placeholder_in_a_rejected_prompt_is_its_own_fault(folder):
    backbone = build("llava")
    other = [user_message(f"What is {backbone.marks['image']}?", images=1)]
    with pytest.raises(InputError, match="2 times") as caught:
        Encoder(backbone, ("chosen", "chosen@rejected_prompt"))(
            replace(record(("c.png",)), rejected_prompt=other), folder
        )
    assert caught.value.field == "rejected_prompt"
