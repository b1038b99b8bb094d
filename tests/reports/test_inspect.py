"""The page to look through a record file: what it holds, what it never runs, how it opens."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import time
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
from PIL import Image

from mmalign import cli
from mmalign.records import Record, Response, assistant_message, json_line, user_message, write_jsonl
from mmalign.reports import gallery
from mmalign.reports.inspect import choose
from tests.tiny import noise, write_clip

HOSTILE = "<script>document.title='taken'</script></script><!-- & \"quoted\" {{ 7 * 7 }} \N{GRINNING FACE}"


class Page(HTMLParser):
    """Tags with their attributes, and the text of every script."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[tuple[dict[str, str | None], str]] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag == "script":
            self._parts: list[str] = []

    def handle_data(self, data: str) -> None:
        if self.tags and self.tags[-1][0] == "script":
            self._parts.append(data)

    def handle_endtag(self, tag: str) -> None:
        if tag == "script":
            self.scripts.append((self.tags[-1][1], "".join(self._parts)))

    @property
    def data(self) -> dict[str, Any]:
        return json.loads(next(text for attributes, text in self.scripts if attributes.get("id") == "data"))

    @property
    def pictures(self) -> list[Any]:
        blocks = [json.loads(text) for attributes, text in self.scripts if attributes.get("class") == "pictures"]
        assert all(len(block) == gallery.BLOCK for block in blocks[:-1])
        return [picture for block in blocks for picture in block]


def pair(name: str, chosen: str = "A red cat.", rejected: str = "A blue cat.", **fields: Any) -> Record:
    fields.setdefault("images", ())
    prompt = [user_message("What is here?", images=len(fields["images"]), videos=len(fields.get("videos", ())))]
    return Record(name, prompt, [assistant_message(chosen)], [assistant_message(rejected)], **fields)


def page_of(folder: Path, *records: Record, options: tuple[str, ...] = ()) -> Page:
    write_jsonl(folder / "pairs.jsonl", records)
    assert cli.main(["inspect", str(folder / "pairs.jsonl"), "--output", str(folder / "page.html"), *options]) == 0
    return Page((folder / "page.html").read_text(encoding="utf-8"))


def test_holds_all_of_a_record(tmp_path: Path) -> None:
    given = pair(
        "a#1", "A red cat sits.", "A blue cat.", chosen_scores={"reward": 1.5}, rejected_scores={"reward": 2.0},
        difficulty=0.5, strength=0.9, weight=2.0, group="g", gold=[assistant_message("A cat.")],
        chosen_critique="Right.", meta={"builder": "bdhs", "options": {"rho_th": 0.9}, "seed": 2**62 + 1, "tries": 2},
    )  # fmt: skip
    data = page_of(tmp_path, given, pair("b", meta={"options": {"rho_th": 0.9}})).data
    first, second = data["records"]
    assert first.pop("meta") == {"builder": "bdhs", "options": [0], "seed": str(2**62 + 1), "tries": 2}
    assert second["meta"] == {"options": [0]} and data["shared"] == [{"rho_th": 0.9}], "kept once"
    assert first == {
        "line": 1, "id": "a#1", "prompt": [["user", "What is here?"]], "gold": "A cat.",
        "chosen": "A red cat sits.", "chosenWords": 4, "chosenMarks": first["chosenMarks"], "chosenCritique": "Right.",
        "rejected": "A blue cat.", "rejectedWords": 3, "rejectedMarks": first["rejectedMarks"],
        "scores": {"reward": [1.5, 2.0]}, "difficulty": 0.5, "strength": 0.9, "weight": 2.0, "group": "g",
    }  # fmt: skip
    marked = " ".join(first["chosen"][start:end] for start, end in first["chosenMarks"])
    assert "red" in marked and "sits" in marked and not marked.startswith("A")


def test_spans_of_the_record_stand_before_differences(tmp_path: Path) -> None:
    """They count in UTF-16 units, of which a face is two."""
    face = "\N{GRINNING FACE}"
    text = f"{face} A red cat."
    own = pair("own", text, "A blue cat.", chosen_spans=((4, 7),), rejected_spans=())
    first, second = page_of(tmp_path, own, pair("none", text, f"{face} A blue cat.")).data["records"]
    assert first["ownSpans"] and first["chosenMarks"] == [[5, 8]] and "rejectedMarks" not in first
    assert "ownSpans" not in second and second["chosenMarks"] == [[5, 8]]
    units = text.encode("utf-16-le")
    assert units[2 * 5 : 2 * 8].decode("utf-16-le") == text[4:7] == "red"


def test_ranked_lists_turns_and_answers_without_a_pair(tmp_path: Path) -> None:
    ranked = Record(
        "ranked", [user_message("?")],
        responses=(Response(assistant_message("Bad."), {"reward": -1.0}, critique="No."),
                   Response(assistant_message("Good."), rank=1, spans=((0, 4),))),
    )  # fmt: skip
    talk = [{"role": "system", "content": [{"type": "text", "text": "Be brief."}]}, user_message("What?", images=1),
            assistant_message("A cat."), {"role": "user", "content": [{"type": "text", "text": "And "},
                                                                     {"type": "image"}]}]  # fmt: skip
    turned = Record("turns", talk, [assistant_message("A dog.")], images=("a.png", "b.png"))
    first, second = page_of(tmp_path, ranked, turned).data["records"]
    assert first["responses"] == [{"text": "Bad.", "scores": {"reward": -1.0}, "critique": "No."},
                                  {"text": "Good.", "rank": 1, "marks": [[0, 4]]}]  # fmt: skip
    assert second["prompt"] == [["system", "Be brief."], ["user", "What?"], ["assistant", "A cat."],
                                ["user", "And [image]"]]  # fmt: skip
    assert "rejected" not in second and "chosenMarks" not in second


def test_each_distinct_picture_once_and_small(tmp_path: Path) -> None:
    photo = noise(np.random.default_rng(0)).resize((640, 320), Image.Resampling.BICUBIC)
    photo.save(tmp_path / "a.png")
    photo.save(tmp_path / "same.bmp")
    noise(np.random.default_rng(1)).save(tmp_path / "small.png")
    (tmp_path / "broken.png").write_text("no picture")
    write_clip(tmp_path / "a.avi", [noise(np.random.default_rng(seed)) for seed in range(9)])
    records = [pair(f"r{i}", images=("a.png",), rejected_images=("same.bmp",)) for i in range(3)]
    records += [pair("s", images=("small.png", "a.png")), pair("bad", images=("broken.png",))]
    records += [pair("gone", images=("gone.png",)), pair("clip", videos=("a.avi",))]
    page = page_of(tmp_path, *records)
    rows = {row["id"]: row for row in page.data["records"]}
    assert rows["r2"]["images"] == [["a.png", [0]]] and rows["r2"]["negatives"] == [["same.bmp", [0]]]
    assert rows["s"]["images"] == [["small.png", [1]], ["a.png", [0]]]
    pictures = page.pictures
    assert [picture[:2] for picture in pictures[:2]] == [[160, 80], [64, 64]]
    assert [pictures[rows[name]["images"][0][1][0]] for name in ("bad", "gone")] == ["unreadable", "missing"]
    assert len(rows["clip"]["images"][0][1]) == gallery.FRAMES
    assert len(pictures) == 2 + 2 + gallery.FRAMES
    assert page_of(tmp_path, *records, options=("--thumbnails", "32")).pictures[0][:2] == [32, 16]
    bare = page_of(tmp_path, *records, options=("--no_pictures",))
    assert not bare.pictures and bare.data["records"][0]["images"] == [["a.png", []]] and bare.data["noPictures"]


def hostile(folder: Path) -> Page:
    noise(np.random.default_rng(0)).save(folder / "a.png")
    record = pair(
        HOSTILE, HOSTILE, f"No {HOSTILE}", group=HOSTILE, images=("a.png",), chosen_critique=HOSTILE,
        chosen_scores={HOSTILE: 1.0}, meta={HOSTILE: HOSTILE, "builder": HOSTILE, "deep": {HOSTILE: [HOSTILE]}},
    )  # fmt: skip
    (folder / "pairs.jsonl.run").mkdir()
    write_jsonl(folder / "pairs.jsonl.run" / "drops.jsonl", [{"source": HOSTILE, "reason": HOSTILE, "detail": HOSTILE}])
    return page_of(folder, record, pair("plain", images=("a.png",)))


def test_texts_stay_texts(tmp_path: Path) -> None:
    page = hostile(tmp_path)
    kinds = [attributes.get("type") for attributes, _ in page.scripts]
    assert kinds == ["application/json"] * (len(kinds) - 1) + [None], "data, and one script that runs"
    assert page.data["records"][0]["chosen"] == HOSTILE, "and nothing is lost"
    assert page.data["drops"] == {"reasons": [[HOSTILE, 1]], "rows": [[HOSTILE] * 3]}
    text = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert text.count("<script>") == 1 and HOSTILE not in text and "<!--" not in text
    assert "innerHTML" not in text and "insertAdjacentHTML" not in text and "eval(" not in text


def test_asks_for_nothing_from_outside(tmp_path: Path) -> None:
    page = hostile(tmp_path)
    assert not [tag for tag, attributes in page.tags if {"src", "href", "srcset", "action"} & attributes.keys()]
    assert not [tag for tag, _ in page.tags if tag in ("link", "iframe", "object", "embed", "base")]
    text = (tmp_path / "page.html").read_text(encoding="utf-8")
    addresses = re.findall(r"\bhttps?://[^\s\"')]+|url\(|@import|fetch\(|XMLHttpRequest|WebSocket|import\(", text)
    assert set(addresses) <= {"http://www.w3.org/2000/svg"}, "a name, not an address that is asked"
    [policy] = [attributes["content"] for _, attributes in page.tags if "http-equiv" in attributes]
    assert "default-src 'none'" in policy and re.search(r"script-src 'sha256-[\w+/=]{44}'", policy)


CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine to open the page in")
def test_in_a_browser(tmp_path: Path) -> None:
    """The policy lets the page's own script run; it draws the records, and nothing in them runs."""
    hostile(tmp_path)
    options = ["--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}", "--dump-dom"]
    done = subprocess.run([CHROMIUM, *options, f"file://{tmp_path / 'page.html'}"], capture_output=True, timeout=120)
    dom = Page(done.stdout.decode())
    articles = [attributes["id"] for tag, attributes in dom.tags if tag == "article"]
    assert articles == ["line-1", "line-2"]
    images = [attributes for tag, attributes in dom.tags if tag == "img"]
    assert [image["src"][:23] for image in images] == ["data:image/webp;base64,"] * 2
    assert "<title>pairs.jsonl</title>" in done.stdout.decode()
    assert sum(tag == "mark" for tag, _ in dom.tags) >= 3 and sum(tag == "svg" for tag, _ in dom.tags) >= 2


def test_same_records_same_bytes(tmp_path: Path) -> None:
    pages = []
    for name in ("one", "two"):
        folder = tmp_path / name
        folder.mkdir()
        noise(np.random.default_rng(0)).save(folder / "a.png")
        page_of(
            folder, *[pair(f"r{i}", images=(("a.png", "gone.png")[i % 2],), meta={"x": {"y": i}}) for i in range(9)]
        )
        pages.append((folder / "page.html").read_bytes())
    assert pages[0] == pages[1]


def test_ten_thousand_records_in_seconds(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = "There is a large red circle at the top, and a small blue star number {} on the right of it."
    records = [pair(f"r{i}", text.format(i), text.format("none"), meta={"tries": i % 3}) for i in range(10_000)]
    start = time.monotonic()
    page = page_of(tmp_path, *records, options=("--no_pictures",))
    assert time.monotonic() - start < 60, "seconds on a machine that does nothing else"
    assert len(page.data["records"]) == 10_000
    size = (tmp_path / "page.html").stat().st_size
    assert f"10,000 records, 0 pictures, {size / 1e6:.1f} MB ({size / 1e7:.1f} kB a record)" in capsys.readouterr().out
    assert size < 1000 * 10_000


def test_limit_and_sample(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    records = [pair(f"r{i}") for i in range(50)]
    first = page_of(tmp_path, *records, options=("--limit", "7")).data
    assert [row["line"] for row in first["records"]] == [*range(1, 8)]
    assert first["selection"] == "the first 7 of 50 records"
    assert "more of them: --limit N" in capsys.readouterr().out
    drawn = page_of(tmp_path, *records, options=("--limit", "7", "--sample", "3")).data
    lines = [row["line"] for row in drawn["records"]]
    assert lines == sorted(set(lines)) and len(lines) == 7 and lines != [*range(1, 8)]
    assert drawn["selection"] == "7 of 50 records, drawn with seed 3"
    assert choose(50, 7, 3)[0] == choose(50, 7, 3)[0] != choose(50, 7, 4)[0]
    assert list(choose(5, 7, 3)[0]) == [0, 1, 2, 3, 4]
    counts = np.bincount(np.concatenate([choose(20, 5, seed)[0] for seed in range(400)]), minlength=20)
    assert counts.min() > 60 and counts.max() < 145, "each is drawn about 100 times"


def test_lines_that_cannot_be_read_are_listed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "pairs.jsonl"
    file.write_bytes(json_line(pair("a")) + b"{<broken\n\n" + json_line({"id": "c"}) + json_line(pair("d")))
    assert cli.main(["inspect", str(file), "--output", str(tmp_path / "page.html")]) == 0
    data = Page((tmp_path / "page.html").read_text(encoding="utf-8")).data
    assert [row["line"] for row in data["records"]] == [1, 5]
    assert [problem[:2] for problem in data["problems"]] == [[2, ""], [4, "prompt"]]
    assert "cannot be read: 2" in capsys.readouterr().out


@pytest.mark.parametrize("text, options, problem", [
    ("", [], "holds no record"),
    ("{broken\n", [], "no line of it can be read"),
    (None, [], "pairs.jsonl: cannot be read"),
    ("{}\n", ["--limit", "0"], "field 'limit': must be 1 or more"),
    ("{}\n", ["--thumbnails", "8"], "field 'thumbnails': must be 16 or more"),
    ("{}\n", ["--output", "{file}"], "is the record file itself"),
])  # fmt: skip
def test_input_that_cannot_be_used(
    tmp_path: Path, text: str | None, options: list[str], problem: str, capsys: pytest.CaptureFixture[str]
) -> None:
    file, page = tmp_path / "pairs.jsonl", tmp_path / "page.html"
    if text is not None:
        file.write_text(text)
    options = [option.format(file=file) for option in options]
    assert cli.main(["inspect", str(file), "--output", str(page), *options]) == 2
    assert problem in capsys.readouterr().err and not page.exists()


@pytest.mark.parametrize("content, written", [
    (b"# results\n", False), (b"", False), (b'{"id": "a"}\n', False), (b"<!DOCTYPE html>\nold", True),
    (b"<!doctype HTML>", True),
])  # fmt: skip
def test_only_a_page_is_written_over(
    tmp_path: Path, content: bytes, written: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    write_jsonl(tmp_path / "pairs.jsonl", [pair("a")])
    output = tmp_path / "page.html"
    output.write_bytes(content)
    assert cli.main(["inspect", str(tmp_path / "pairs.jsonl"), "--output", str(output)]) == (0 if written else 2)
    assert (output.read_bytes() != content) == written
    assert written or "page.html: field 'output': is no HTML page" in capsys.readouterr().err


def test_a_folder_is_no_output(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with mock.patch.object(gallery, "write") as write:
        assert cli.main(["inspect", str(tmp_path / "gone.jsonl"), "--output", str(tmp_path)]) == 2
    assert "field 'output': is a folder" in capsys.readouterr().err and not write.called


def test_media_that_cannot_be_opened_are_counted_apart(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    noise(np.random.default_rng(0)).save(tmp_path / "a.png")
    records = [pair(f"r{i}", images=("a.png", f"{i}.png")) for i in range(4)] + [pair("again", images=("0.png",))]
    page_of(tmp_path, *records)
    said = capsys.readouterr().out
    assert "5 records, 1 pictures," in said
    hint = f"4 media cannot be opened (missing 4): names start from {tmp_path}; is --media_root right?"
    assert hint in said
    (tmp_path / "0.png").write_text("no picture")
    page_of(tmp_path, *records)
    assert "4 media cannot be opened (missing 3, unreadable 1): names" in capsys.readouterr().out
    page_of(tmp_path, records[-1])
    said = capsys.readouterr().out
    assert "1 media cannot be opened (unreadable 1)\n" in said and "--media_root" not in said
    page_of(tmp_path, pair("fine", images=("a.png",)))
    assert "cannot be opened" not in capsys.readouterr().out


def test_a_page_that_would_be_too_large(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_jsonl(tmp_path / "pairs.jsonl", [pair("a")])
    with mock.patch.object(gallery, "MOST_BYTES", 1_000):
        assert cli.main(["inspect", str(tmp_path / "pairs.jsonl"), "--output", str(tmp_path / "page.html")]) == 2
    assert "show fewer (--limit), smaller pictures (--thumbnails)" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["pairs.jsonl"]
