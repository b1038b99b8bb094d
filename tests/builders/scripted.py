"""A stand-in for a model, whose answers a test writes: it shows what a builder asks for and does with them."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from mmalign.backbones import Job
from mmalign.builders import Builder, Drop, Unit
from mmalign.records import Record, assistant_message, user_message

IMAGE_TOKENS = 64


class Scripted:
    """Answers each job by ``reply(job, greedy)``, word by word, until ``stop`` or the limit says that it is enough."""

    def __init__(self, reply: Callable[[Job, bool], str]) -> None:
        self.reply = reply
        self.calls: list[list[Job]] = []
        self.written: list[str] = []

    def generate(
        self,
        jobs: Sequence[Job],
        *,
        max_new_tokens: int,
        temperature: float = 0.0,
        top_p: float = 1.0,
        stop: Callable[[str], bool] | None = None,
        batch_size: int | None = None,
    ) -> list[str]:
        batch_size = batch_size or len(jobs)
        self.calls += [list(jobs[start : start + batch_size]) for start in range(0, len(jobs), batch_size)]
        texts = [self._write(self.reply(job, temperature == 0), max_new_tokens, stop) for job in jobs]
        self.written += texts
        return texts

    @staticmethod
    def _write(reply: str, limit: int, stop: Callable[[str], bool] | None) -> str:
        text = ""
        for piece in re.findall(r"\s*\S+", reply)[:limit]:
            text += piece
            if stop and stop(text):
                break
        return text

    def image_token_count(self, messages: Sequence[dict], images: Sequence[Image.Image]) -> int:
        return IMAGE_TOKENS * len(images)

    dtype = "float32"

    def fingerprint(self) -> str:
        return "scripted"

    @property
    def jobs(self) -> list[Job]:
        return [job for call in self.calls for job in call]


def source(name: str, answer: str | None, images: tuple[str, ...] = ("a.png",), **fields: object) -> Record:
    chosen = None if answer is None else [assistant_message(answer)]
    return Record(name, [user_message("What is here?", images=len(images))], chosen, images=images, **fields)


def media(folder: Path) -> Path:
    """A folder with a.png and b.png, and with pictures that cannot be used."""
    rng = np.random.default_rng(0)
    for name in ("a.png", "b.png"):
        Image.fromarray(rng.integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(folder / name)
    (folder / "cut.png").write_bytes((folder / "a.png").read_bytes()[:5000])
    (folder / "page.png").write_text("<html>404</html>")
    Image.new("RGB", (30_000, 2)).save(folder / "wide.png")
    return folder


def run(builder: Builder, model: object, root: Path, *records: Record, batch_size: int = 8) -> dict:
    """What the builder makes of one unit, by source id."""
    results = dict(builder(Unit(records, root, batch_size), model))
    assert results.keys() == {record.id for record in records}
    return {name: result if isinstance(result, Drop) else result[0] for name, result in results.items()}
