"""MM-RLHF's pairs: critiques, ids that are the query's, clips that are folders of frames."""

from __future__ import annotations

from pathlib import Path

import pytest

from mmalign.records import InputError, Record, user_message
from tests.interop.reading import convert_rows, put_pictures, says


@pytest.fixture
def release(tmp_path: Path) -> Path:
    put_pictures(tmp_path, "mcq/a.png", "long/b.png", *(f"video/clip/frame_{i}.jpg" for i in (10, 9, 1)))
    (tmp_path / "video" / "c.mp4").write_bytes(b"a clip")
    (tmp_path / "video" / "empty").mkdir()
    return tmp_path


def row(**others: object) -> dict:
    return {"id": "q1", "image": "mcq/a.png", "prompt": "What?", "chosen": "A cat.", "rejected": "A dog.", **others}


def test_pairs_of_one_query_share_a_group_and_keep_their_critiques(release: Path) -> None:
    rows = [row(chosen_reason="Right.", rejected_reason="Wrong."), row(rejected="A cow."), row(id=2, margin=1.5)]
    records, drops = convert_rows(release / "dpo_pairs.jsonl", rows, "mm_rlhf")
    prompt, images = [user_message("What?", images=1)], ("mcq/a.png",)
    right, wrong = says("A cat."), says("A dog.")
    assert records == [
        Record("q1", prompt, right, wrong, images=images, group="q1", chosen_critique="Right.",
               rejected_critique="Wrong."),
        Record("q1#1", prompt, right, says("A cow."), images=images, group="q1"),
        Record("2", prompt, right, wrong, images=images, group="2", chosen_scores={"reward": 1.5},
               rejected_scores={"reward": 0.0}),
    ]  # fmt: skip
    assert not drops


def test_lists_of_pictures_folders_of_frames_and_files(release: Path) -> None:
    rows = [
        row(image=["mcq/a.png", "long/b.png"], prompt="<image>\nand <image>?"),
        row(image=None, video="video/clip", prompt="<image>\nWhat?"),
        row(image=None, video=["video/c.mp4"], prompt="What?\n<image>"),
    ]
    records, _ = convert_rows(release / "a.jsonl", rows, "mm_rlhf")
    text, image, video = (lambda said: {"type": "text", "text": said}), {"type": "image"}, {"type": "video"}
    assert records[0].prompt[0]["content"] == [image, text("and "), image, text("?")]
    assert records[1].images == tuple(f"video/clip/frame_{i}.jpg" for i in (1, 9, 10))
    assert records[1].prompt == [user_message("What?", images=3)]
    assert records[2].videos == ("video/c.mp4",) and records[2].prompt[0]["content"] == [text("What?"), video]


def test_some_frames_of_a_clip(release: Path) -> None:
    rows = [row(image=None, video="video/clip")]
    [record], _ = convert_rows(release / "a.jsonl", rows, "mm_rlhf", options={"frames": "1"})
    assert record.images == ("video/clip/frame_9.jpg",)
    for wrong in ("0", "many", "-1"):
        with pytest.raises(InputError, match="field 'frames': expected a number of 1 or more"):
            convert_rows(release / "a.jsonl", rows, "mm_rlhf", options={"frames": wrong})


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"is_tie": True}, "tie"),
        ({"prompt": ""}, "no_prompt"),
        ({"chosen": None}, "no_answer"),
        ({"rejected": "A cat."}, "equal"),
        ({"margin": "large"}, "invalid"),
        ({"chosen_reason": 3}, "invalid"),
        ({"image": None}, "no_media"),
        ({"image": "gone.png"}, "missing"),
        ({"video": "video/gone"}, "missing"),
        ({"video": "video/gone.mp4"}, "missing"),
        ({"video": "video/empty"}, "missing"),
        ({"video": "../clip"}, "outside"),
        ({"video": ["a", "b"]}, "no_media"),
    ],
)
def test_bad_rows(release: Path, change: dict, reason: str) -> None:
    rows = [row(is_tie=False), row(**change)]
    records, drops = convert_rows(release / "a.jsonl", rows, "mm_rlhf")
    assert len(records) == 1 and drops == {"a.jsonl:2": reason}
