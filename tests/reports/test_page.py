"""The page: it says what the report says, safely, and asks for nothing from outside."""

from __future__ import annotations

import base64
import io
import re
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest
from PIL import Image

pytest.importorskip("jinja2")
pytest.importorskip("matplotlib")

from mmalign.media import MediaError
from mmalign.records import InputError
from mmalign.reports import Answer, Example, Report, write
from mmalign.reports.page import PNG_BYTES, inline, segments

HOSTILE = "<script>alert('1')</script> & \"quoted\" {{ 7 * 7 }} http://example.org/a.png"
VOID = {"meta", "img", "input", "br", "link", "use", "path", "rect", "circle"}


class Page(HTMLParser):
    """The parsed page: its tags with their attributes, its visible text, and the words of each mark."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.marks: list[tuple[str, str]] = []
        self.open: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] not in {"style", "title"}:
            self.words.append(data)
        if self.open and self.open[-1] == "mark":
            self.marks.append((self.tags[-1][1]["class"], data))

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]

    @property
    def text(self) -> str:
        return " ".join("".join(self.words).split())


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    Image.new("RGB", (64, 64), "orange").save(tmp_path / "small.png")
    return tmp_path / "small.png"


def example(picture: Path, before: str, after: str, **marks: tuple) -> Example:
    answers = {"base": Answer(before, marks.get("base", ())), "aligned": Answer(after, marks.get("aligned", ()))}
    return Example(picture, "What is here?", ("red circle", "blue star"), answers)


def full(picture: Path) -> Report:
    return Report(
        "Before and after",
        "One or two sentences.",
        scores={
            "base": {"chair_i": 0.2, "recall": 0.9, "pope": {"adversarial": {"f1": 0.8}}},
            "aligned": {"chair_i": 0.15, "recall": 0.89, "pope": {"adversarial": {"f1": 0.85}}},
        },
        curves=[{"step": 5, "loss": 0.7, "rewards/chosen": 0.1, "rewards/rejected": -0.2, "logps/chosen": -20.0},
                {"step": 5, "eval_loss": 0.69}, {"step": 10, "loss": 0.5, "eval_loss": 0.6}],
        examples=[
            example(picture, "Unchanged words.", "Unchanged words."),
            example(picture, "A dog.", "A red circle.", base=((2, 5, "hallucinated"),), aligned=((2, 12, "true"),)),
        ],
        facts={"Command": "make demo"},
    )  # fmt: skip


def written(report: Report, folder: Path) -> Page:
    write(report, folder / "report.html")
    page = Page((folder / "report.html").read_text(encoding="utf-8"))
    assert not page.open, "every tag is closed"
    return page


def test_shows_all_that_the_report_says(picture, tmp_path):
    page = written(full(picture), tmp_path)
    for words in ("Before and after", "One or two sentences.", "Unchanged words.", "A red circle.", "What is here?",
                  "blue star", "−25\N{NO-BREAK SPACE}% relative, better", "−1.0 points, worse", "+5.0 points, better",
                  "make demo"):  # fmt: skip
        assert " ".join(words.split()) in page.text
    assert len(page.all("article")) == 2
    assert [svg["aria-label"].partition(":")[0] for svg in page.all("svg")] == ["Loss", "Reward", "Log-probability"]
    assert all(image["alt"] == "Picture of red circle, blue star" for image in page.all("img"))


def test_changed_examples_come_first(picture, tmp_path):
    page = written(full(picture), tmp_path)
    assert [article["data-change"] for article in page.all("article")] == ["fewer", "none"]
    assert "Of the 2 answers shown, 1 changed: fewer hallucinations in 1, more in 0." in page.text


def test_untrusted_text_stays_text(picture, tmp_path):
    report = Report(HOSTILE, HOSTILE, {HOSTILE: {"chair_i": 0.1, HOSTILE: 1}, "b": {"chair_i": 0.2}}, (),
                    [Example(picture, HOSTILE, (HOSTILE,), {HOSTILE: Answer(HOSTILE, ((0, 8, "hallucinated"),))})],
                    {HOSTILE: HOSTILE})  # fmt: skip
    page = written(report, tmp_path)
    assert not page.all("script")
    assert page.all("img")[0]["alt"] == f"Picture of {HOSTILE}"
    assert page.marks[-1] == ("hallucinated", "<script>")
    # title, lead, two heads of a column, the name of a score, question, truth, name and text of the answer, a fact
    assert page.text.count(" ".join(HOSTILE.split())) >= 10


def test_loads_nothing_and_says_so(picture, tmp_path):
    write(full(picture), tmp_path / "report.html")
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    page = Page(text)
    wants = [value for _, attributes in page.tags for name, value in attributes.items()
             if name in {"src", "href", "xlink:href", "srcset", "action"}]  # fmt: skip
    assert wants and all(value.startswith(("data:image/", "#")) for value in wants)
    assert all(target.startswith("#") for target in re.findall(r"url\(['\"]?([^)]*)", text))
    assert "@import" not in text and not page.all("script") and not page.all("link")
    assert any("default-src 'none'" in (meta.get("content") or "") for meta in page.all("meta"))


def test_every_id_is_unique_and_every_reference_lands(picture, tmp_path):
    page = written(full(picture), tmp_path)
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    links = [attributes["xlink:href"] for _, attributes in page.tags if "xlink:href" in attributes]
    assert links and {link[1:] for link in links} <= set(ids)


def test_same_report_same_bytes(picture, tmp_path):
    for name in ("one.html", "two.html"):
        write(full(picture), tmp_path / name)
    assert (tmp_path / "one.html").read_bytes() == (tmp_path / "two.html").read_bytes()


@pytest.mark.parametrize("report", [
    Report("Nothing"),
    Report("Scores of one model", scores={"base": {"chair_i": 0.0}}),
    Report("Zero to zero", scores={"base": {"chair_i": 0.0}, "aligned": {"chair_i": 0}}),
    Report("No model in common", scores={"base": {"recall": 0.1}, "aligned": {"chair_i": float("nan")}}),
    Report("Curves that cannot be drawn", curves=[{"loss": 1.0}, {"step": 1, "loss": float("nan")}, {"step": 2}]),
    Report("One point", curves=[{"step": 1, "loss": 1.0}]),
], ids=lambda report: report.title)  # fmt: skip
def test_what_is_missing_is_left_out(report, tmp_path):
    page = written(report, tmp_path)
    assert report.title in page.text
    assert ("Training" in page.text) == (report.title == "One point")
    assert "Examples" not in page.text and "How this was made" not in page.text


def test_example_without_truth_marks_or_answers(picture, tmp_path):
    examples = [Example(picture, "Q", (), {}), Example(picture, "Q", (), {"base": Answer("")})]
    page = written(Report("Bare", examples=examples), tmp_path)
    assert [image["alt"] for image in page.all("img")] == ["small.png"] * 2
    assert "Really there" not in page.text


def test_marks_land_on_their_words(picture, tmp_path):
    said = "A dog & a red circle, a <b>cat</b>."
    marks = tuple((said.index(words), said.index(words) + len(words), kind) for words, kind in
                  [("<b>cat</b>", "hallucinated"), ("dog", "hallucinated"), ("red circle", "true")])  # fmt: skip
    page = written(Report("Marks", examples=[Example(picture, "Q", (), {"base": Answer(said, marks)})]), tmp_path)
    in_the_text = [mark for mark in page.marks if "picture" not in mark[1]]  # less those of the key
    assert in_the_text == [("hallucinated", "dog"), ("true", "red circle"), ("hallucinated", "<b>cat</b>")]
    assert said in page.text and "3 named, 2 not there" in page.text


@pytest.mark.parametrize(("marks", "expected"), [
    ((), [("abcdef", None)]),
    (((0, 6, "true"),), [("abcdef", "true")]),
    (((0, 4, "true"), (2, 6, "hallucinated")), [("ab", "true"), ("cdef", "hallucinated")]),
    (((2, 6, "hallucinated"), (0, 4, "true")), [("ab", "true"), ("cdef", "hallucinated")]),
    (((0, 6, "true"), (2, 3, "hallucinated")), [("ab", "true"), ("c", "hallucinated"), ("def", "true")]),
    (((1, 3, "true"), (1, 3, "true")), [("a", None), ("bc", "true"), ("def", None)]),
])  # fmt: skip
def test_overlapping_marks_show_the_hallucination(marks, expected):
    assert list(segments(Answer("abcdef", marks))) == expected


@pytest.mark.parametrize("mark", [(0, 7, "true"), (-1, 2, "true"), (3, 3, "true"), (0, 2, "false")])
def test_a_mark_that_marks_nothing_is_refused(mark):
    with pytest.raises(ValueError, match="no mark"):
        Answer("abcdef", (mark,))


def test_small_pictures_are_inlined_exactly():
    image = Image.effect_noise((64, 48), 80).convert("RGB")
    shown = inline(image)
    assert (shown.width, shown.height, shown.small, shown.wide) == (192, 144, True, False)
    assert decoded(shown.uri, "png").tobytes() == image.tobytes()


def test_photographs_are_shrunk_and_the_page_stays_small():
    noise = Image.merge("RGB", [Image.effect_noise((900, 300), 90)] * 3)
    shown = inline(noise.copy())
    assert (shown.width, shown.height, shown.small, shown.wide) == (448, 149, False, True)
    assert decoded(shown.uri, "jpeg").size == (448, 149)
    assert len(shown.uri) < 4 * PNG_BYTES / 3
    assert noise.size == (900, 300)


def decoded(uri: str, kind: str) -> Image.Image:
    start = f"data:image/{kind};base64,"
    assert uri.startswith(start)
    return Image.open(io.BytesIO(base64.b64decode(uri[len(start) :]))).convert("RGB")


def test_a_broken_picture_is_named_and_no_page_is_left(tmp_path):
    with pytest.raises(MediaError, match=r"gone\.png"):
        write(Report("Gone", examples=[example(tmp_path / "gone.png", "a", "b")]), tmp_path / "report.html")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["jinja2", "matplotlib"])
def test_absent_extra_says_what_to_install(name, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, name, None)  # what Python itself writes for "cannot be imported"
    with pytest.raises(InputError, match=rf"{name}.*mmalign\[report\]"):
        write(Report("Title"), tmp_path / "report.html")
