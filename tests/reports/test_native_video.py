"""Tokens of native clips are those of training, though nothing of them is shown to the processor."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from transformers.utils import is_torchvision_available

from mmalign import cli
from mmalign.forward import Encoder
from mmalign.media import FrameChoice
from mmalign.records import Record, assistant_message, user_message, write_jsonl
from mmalign.reports.audit_pictures import Pictures
from mmalign.reports.audit_tokens import Clips, TokenCounter
from tests.families import build
from tests.tiny import noise, write_clip

if not is_torchvision_available():
    pytest.skip("video processors need torchvision: make test runs them with it", allow_module_level=True)

FAMILIES = ("internvl", "llava_next_video", "llava_onevision", "qwen2_5_vl", "qwen3_vl", "smolvlm")
VIEWS = ("chosen", "rejected", "chosen@rejected_media", "chosen@rejected_prompt")
CHOICE = FrameChoice(5, fps=1.0, pixels=20_000)


def record(*videos: str, **fields: object) -> Record:
    """Text begins with what may stick to that of a clip: a line's end, a blank."""
    prompt = user_message("\n\nWhat is here?", videos=len(videos), images=len(fields.get("images", ())))
    answers = {"chosen": [assistant_message("A red circle.")], "rejected": [assistant_message("Two of them, I think.")]}
    return Record(id="r", prompt=[prompt], videos=videos, **answers, **fields)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Clips of other lengths, rates and sizes, and a picture."""
    root, rng = tmp_path_factory.mktemp("clips"), np.random.default_rng(0)
    for name, rate, count, size in (("a", 2, 7, (96, 64)), ("b", 1, 12, (60, 130)), ("c", 30, 1, (64, 64))):
        write_clip(root / f"{name}.avi", [noise(rng).resize(size) for _ in range(count)], fps=rate)
    noise(rng).resize((70, 50)).save(root / "p.png")
    return root


@pytest.mark.parametrize("family", FAMILIES)
def test_tokens_are_counted_as_training_counts_them(root: Path, family: str) -> None:
    backbone, pictures, clips = build(family, native=True), Pictures(root), Clips(CHOICE)
    pictures(root / "p.png")
    names = ("a.avi", "b.avi", "c.avi", "b.avi#t=2,9")
    for name in names:
        clips(name, root)
    counter, encoder = TokenCounter(backbone, pictures, clips), Encoder(backbone, VIEWS, frames=CHOICE, prompts=True)
    for each in (
        *map(record, names),
        record("a.avi", "b.avi#t=2,9", images=("p.png",)),
        record("c.avi", rejected_videos=("b.avi",)),
        record("a.avi", rejected_prompt=[user_message("What is in this clip of some seconds?", videos=1)]),
    ):
        found, expected = counter(each), encoder(each, root)
        assert found.whole == expected.length
        assert found.prompt - found.media in [len(context.text_places) for context in expected.contexts.values()]


def test_the_command_counts_what_training_would_show(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_jsonl(root / "pairs.jsonl", [record("b.avi")])
    build("qwen2_5_vl", native=True).save(tmp_path / "model")
    capsys.readouterr()

    def media(*flags: str) -> int:
        given = ["validate", root / "pairs.jsonl", "--processor", tmp_path / "model", "--json", *flags]
        assert cli.main(list(map(str, given))) == 0
        findings = {each["kind"]: each for each in json.loads(capsys.readouterr().out)["findings"]}
        return findings["tokens"]["numbers"]["media_max"]

    native = media()
    assert media("--video", "native") == native < media("--video", "frames")
    assert media("--frames", "4") < native
    assert media("--fps", "0.25") < native
    assert media("--video_pixels", "8000") < native
