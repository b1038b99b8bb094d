"""Each thing that can spoil a file: found where it is, not found where it is not."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mmalign.forward.encoding import Encoder
from mmalign.media import FrameChoice, open_image
from mmalign.media.hashes import content_hash, dhash
from mmalign.records import InputError, Record, Response, assistant_message, user_message
from mmalign.reports.audit import Check, Finding, Row, Tally, as_text
from mmalign.reports.audit_pictures import Evaluation, Leaks, Negatives, Pictures
from mmalign.reports.audit_texts import Fields, LengthBias, Repeats, SameTexts, Scores, YesNo, word_counts
from mmalign.reports.audit_tokens import Clips, TokenCounter, TokenLengths
from tests.families import FAMILIES, build
from tests.tiny import write_clip


def pair(chosen: str | None, rejected: str | None = None, prompt: str = "What is here?", **fields: object) -> Record:
    images = fields.setdefault("images", ("a.png",))
    sides = [[assistant_message(text)] if text else None for text in (chosen, rejected)]
    fields["prompt"] = [user_message(prompt, images=len(images), videos=len(fields.get("videos", ())))]
    return Record("r", chosen=sides[0], rejected=sides[1], **fields)


def found(check: Check, records: Iterable[Record]) -> dict[str, Finding]:
    """The findings by kind; lines count from 1."""
    for line, record in enumerate(records, start=1):
        check.add(Row(record, line))
    return {finding.kind: finding for finding in check.findings()}


# ---- lengths ---------------------------------------------------------------------------------------------------------


def length_of(*sides: tuple[int, int]) -> Finding:
    records = [pair("a " * chosen, "b " * rejected) for chosen, rejected in sides]
    return found(LengthBias("words", word_counts), records)["length_words"]


def test_length_alone_predicts() -> None:
    finding = length_of(*[(20, 10)] * 90, *[(10, 20)] * 5, *[(10, 10)] * 5)
    assert finding.warning and finding.count == 90 and finding.lines == (1, 2, 3, 4, 5)
    assert finding.numbers["accuracy_of_length"] == pytest.approx(0.925), "a tie is a coin"
    assert finding.numbers["mean_ratio"] == pytest.approx(0.9 * 2 + 0.05 * 0.5 + 0.05)
    assert finding.numbers["median_ratio"] == 2
    lengths, labels = [20] * 90 + [10] * 10 + [10] * 90 + [20] * 5 + [10] * 5, [1] * 100 + [0] * 100
    assert finding.numbers["point_biserial"] == pytest.approx(np.corrcoef(lengths, labels)[0, 1])
    assert "right in 92.5%" in finding.text


def test_short_answers_predict_too() -> None:
    finding = length_of(*[(10, 20)] * 100)
    assert finding.warning and "Taking the shorter text for chosen is right in 100.0%" in finding.text


@pytest.mark.parametrize("sides", [[(20, 10), (10, 20)] * 50, [(20, 10)] * 8, [(10, 10)] * 100],
                         ids=["balanced", "few", "equal"])  # fmt: skip
def test_no_length_bias(sides: list[tuple[int, int]]) -> None:
    finding = length_of(*sides)
    assert not finding.warning and not finding.lines


def test_length_bias_of_ranked_lists_is_of_best_and_worst() -> None:
    answers = [("a b c", 1), ("a", 3), ("a b", 2)]
    responses = tuple(Response(assistant_message(text), rank=rank) for text, rank in answers)
    ranked = Record("r", [user_message("?")], responses=responses)
    check = LengthBias("words", word_counts)
    check.add(Row(ranked, 1))
    assert (list(check.chosen), list(check.rejected)) == ([3], [1])
    scored = tuple(Response(assistant_message(t), {"reward": float(len(t))}) for t in ("a", "a b", "a b c"))
    assert Row(Record("r", [user_message("?")], responses=scored), 1).chosen == "a b c"
    mixed = tuple(
        Response(assistant_message(text), scores, rank=rank)
        for text, scores, rank in (("a", {"reward": 9.0}, 1), ("b", {}, 2), ("c", {"reward": -5.0}, 3))
    )
    row = Row(Record("r", [user_message("?")], responses=mixed), 1)
    assert (row.chosen, row.rejected) == ("a", "c"), "ranks, which all have: not rewards and ranks on one scale"
    for partly in ((mixed[0], replace(mixed[1], rank=None)), (replace(mixed[0], rank=None), mixed[1])):
        assert not Row(Record("r", [user_message("?")], responses=partly), 1).is_pair, "neither is of all"
    unranked = tuple(Response(assistant_message(t)) for t in ("a", "b"))
    assert not Row(Record("r", [user_message("?")], responses=unranked), 1).is_pair


# ---- repetition ------------------------------------------------------------------------------------------------------

DIFFERENT = [pair(f"A thing of kind {i} here.", f"Nothing {i}.", f"What is {i}?") for i in range(30)]


def repeats(*records: Record) -> dict[str, Finding]:
    return found(Repeats(str), records)


def test_records_that_differ_repeat_nothing() -> None:
    assert repeats(*DIFFERENT) == {}
    assert found(Repeats(str), []) == {}


def test_the_same_record_twice() -> None:
    again = repeats(*DIFFERENT, DIFFERENT[4], DIFFERENT[2])
    assert (again["same_record"].lines, again["same_record"].like) == ((31, 32), (5, 3))
    assert again["same_record"].warning and not again["same_prompt"].warning
    assert "31 (as 5), 32 (as 3)" in as_text(again.values())


def test_the_same_prompt_is_a_note_and_other_media_make_another_prompt() -> None:
    first, other = pair("A cat.", "A dog."), pair("A cow.", "A hen.")
    assert repeats(first, other).keys() == {"same_prompt"}
    assert repeats(first, pair("A cow.", "A hen.", images=("b.png",))) == {}
    assert found(Repeats(lambda name: 7), [first, pair("A cow.", "A hen.", images=("b.png",))]).keys() == {
        "same_prompt"
    }, "another name of the same picture"


def test_contradictions() -> None:
    turned = pair(" a DOG!", "a cat")
    finding = repeats(pair("A cat.", "A dog."), *DIFFERENT, turned)["contradictions"]
    assert (finding.count, finding.lines, finding.like) == (1, (32,), (1,))
    assert "contradictions" not in repeats(pair("A cat.", "A dog."), pair("A dog.", "A cat.", prompt="And here?"))
    assert "contradictions" not in repeats(pair("A cat.", "A dog."), pair("A cat.", "A dog."))
    assert "contradictions" not in repeats(pair("A cat.", "a CAT"), pair("a CAT", "A cat."))


def test_one_answer_for_everything() -> None:
    same = [pair("I cannot see that well.", f"A {i}.", f"{i}?") for i in range(12)]
    finding = repeats(*DIFFERENT, *same)["same_chosen"]
    assert finding.warning and finding.count == 12 and finding.lines[0] == 31
    short = [pair("Yes.", f"No {i}.", f"{i}?") for i in range(30)]
    assert "same_chosen" not in repeats(*short), "one word is no text to learn by heart"
    assert "same_chosen" not in repeats(*same[:9])


# ---- texts -----------------------------------------------------------------------------------------------------------


def test_same_words_and_parts() -> None:
    records = [pair("A cat.", "a  CAT!"), pair("A cat.", "A cat. It sits."), pair("A cat sits.", "a cat")]
    findings = found(SameTexts(), [*records, *DIFFERENT])
    lines = {kind: finding.lines for kind, finding in findings.items()}
    assert lines == {"same_words": (1,), "chosen_in_rejected": (2,), "rejected_in_chosen": (3,)}
    assert [finding.warning for finding in findings.values()] == [True, False, False], "1 of 33 is no habit"
    assert found(SameTexts(), records)["chosen_in_rejected"].warning
    assert found(SameTexts(), DIFFERENT) == {}
    assert found(SameTexts(), [pair("A cat.", "A catfish.")]) == {}, "whole words"
    assert found(SameTexts(), [pair("A cat.", "a cat", rejected_images=("b.png",))]) == {}


def test_yes_and_no() -> None:
    biased = [pair("No, there is none.", "Yes, there is.")] * 40
    finding = found(YesNo(), biased)["yes_no"]
    assert finding.warning and finding.numbers["taught"] == "no" and finding.numbers["share"] == 1
    assert "of 40 chosen answers that begin with yes or no, 0.0% say yes" in finding.text.lower()
    balanced = [pair("No.", "Yes."), pair("**Yes**, two.", "no")] * 20
    assert not found(YesNo(), balanced)["yes_no"].warning
    assert found(YesNo(), [pair("Nobody is here.", "Noon."), pair("Yesterday.", "A cat.")]) == {}
    assert found(YesNo(), [pair("Yes, a cat.", "Yes, a dog.")] * 40) == {}, "nothing is taught about yes"
    assert found(YesNo(), [pair("No.")] * 40)["yes_no"].warning, "SFT teaches too"


def test_scores() -> None:
    good = [pair("a", "b", chosen_scores={"reward": 1.0 + i, "clip": 0.1}, rejected_scores={"reward": 0.5, "clip": 0.2})
            for i in range(3)]  # fmt: skip
    findings = found(Scores(), good)
    reward = findings["score_reward"]
    assert not reward.warning and (reward.numbers["low"], reward.numbers["high"]) == (0.5, 3.0)
    assert findings["score_clip"].numbers["chosen_lower"] == 1 and not findings["score_clip"].warning
    turned = pair("a", "b", chosen_scores={"reward": 0.0}, rejected_scores={"reward": 1.0})
    wrong = found(Scores(), [*good, turned])["score_reward"]
    assert wrong.warning and wrong.lines == (4,) and wrong.numbers["chosen_lower"] == 0.25
    assert found(Scores(), DIFFERENT) == {}


def test_fields() -> None:
    finding = found(Fields(), [pair("a", "b", weight=2.0), pair("a")])["fields"]
    assert finding.text == "Of 2 records: chosen, rejected in 1, images, weight in 1."


# ---- pictures --------------------------------------------------------------------------------------------------------


def smooth(seed: int) -> Image.Image:
    noise = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    return Image.fromarray(noise).resize((96, 64), Image.Resampling.BICUBIC)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """a.png; copies of it: byte by byte, in another format, scaled; and b.png, which is another picture."""
    folder = tmp_path_factory.mktemp("pictures")
    smooth(0).save(folder / "a.png")
    (folder / "copy.png").write_bytes((folder / "a.png").read_bytes())
    smooth(0).save(folder / "a.bmp")
    smooth(0).resize((60, 40)).save(folder / "small.jpg", quality=60)
    smooth(1).save(folder / "b.png")
    (folder / "broken.png").write_bytes((folder / "a.png").read_bytes()[:500])
    return folder


def opened(root: Path) -> Pictures:
    pictures = Pictures(root)
    for path in root.iterdir():
        if path.name != "broken.png":
            pictures(path)
    return pictures


@pytest.mark.parametrize("names, kind", [
    ([("a.png", "copy.png")], "negative_file"),
    ([("a.png", "a.png")], "negative_file"),
    ([("a.png", "a.bmp")], "negative_pixels"),
    ([("a.png", "small.jpg")], "negative_near"),
    ([("a.png", "copy.png"), ("b.png", "small.jpg")], None),
    ([("a.png", "copy.png"), ("a.png", "a.bmp")], "negative_pixels"),
    ([("a.png", "b.png")], None),
    ([("a.png", "broken.png")], None),
])  # fmt: skip
def test_negatives_that_show_the_same(root: Path, names: list[tuple[str, str]], kind: str | None) -> None:
    own, other = zip(*names, strict=True)
    findings = found(Negatives(opened(root)), [pair("a", images=own, rejected_images=other), *DIFFERENT])
    assert list(findings) == ([kind] if kind else [])
    assert all(finding.warning and finding.lines == (1,) for finding in findings.values())


def leaks(root: Path, *places: Path, of: Iterable[str] = ("a.png", "b.png")) -> dict[str, Finding]:
    return found(Leaks(opened(root), Evaluation(places)), [pair("a", images=(name,)) for name in of])


@pytest.mark.parametrize("file, kind", [("copy.png", "file"), ("a.bmp", "pixels"), ("small.jpg", "near")])
def test_leaks_from_a_folder(root: Path, tmp_path: Path, file: str, kind: str) -> None:
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / file).write_bytes((root / file).read_bytes())
    (tmp_path / "notes.txt").write_text("no picture")
    findings = leaks(root, tmp_path)
    assert list(findings) == [f"leak_{kind}"] and findings[f"leak_{kind}"].lines == (1,)
    assert f"a.png is {tmp_path / 'deep' / file}" in findings[f"leak_{kind}"].text


def test_no_leak(root: Path, tmp_path: Path) -> None:
    (tmp_path / "other.png").write_bytes((root / "b.png").read_bytes())
    clean = leaks(root, tmp_path, of=["a.png"])["leaks"]
    assert not clean.warning and "None of 1 pictures" in clean.text
    (tmp_path / "broken.png").write_bytes((root / "broken.png").read_bytes())
    doubtful = leaks(root, tmp_path, of=["a.png"])["leaks"]
    assert doubtful.warning and "1 more cannot be opened" in doubtful.text


def test_leaks_from_lists_of_hashes(root: Path, tmp_path: Path) -> None:
    image = open_image(root / "a.png")
    digests = {
        "file": hashlib.sha256((root / "a.png").read_bytes()).hexdigest(),
        "pixels": content_hash(image),
        "dhash": f"{dhash(image):016x}",
    }
    listed, objects = tmp_path / "sums.txt", tmp_path / "hashes.jsonl"
    for kind, digest in digests.items():
        expected = [f"leak_{'near' if kind == 'dhash' else kind}"]
        listed.write_text(f"{digest}  val/a.png\n{'0' * len(digest)}\n")
        assert list(leaks(root, listed)) == expected
        objects.write_text(json.dumps({"name": "val/a.png", kind: digest}) + "\n\n")
        assert list(leaks(root, objects)) == expected
        assert "a.png is val/a.png" in leaks(root, objects)[expected[0]].text


@pytest.mark.parametrize("text, field", [("not a hash", "leaks"), ('{"pixels": "12"}', "pixels"), ("{", "leaks"),
                                         ("{}", "leaks")])  # fmt: skip
def test_a_list_with_a_bad_line(tmp_path: Path, text: str, field: str) -> None:
    (tmp_path / "sums.txt").write_text(f"{'0' * 64}\n{text}\n")
    with pytest.raises(InputError) as caught:
        Evaluation([tmp_path / "sums.txt"])
    assert (caught.value.line, caught.value.field) == (2, field)


@pytest.mark.parametrize("place", ["nowhere", "empty"])
def test_nothing_to_compare_with(tmp_path: Path, place: str) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=place):
        Evaluation([tmp_path / place])


# ---- tokens ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
def test_tokens_are_counted_as_training_counts_them(root: Path, family: str, tmp_path: Path) -> None:
    """Blank pictures of the same sizes take as many tokens as the pictures themselves."""
    backbone, pictures, clips = build(family), Pictures(tmp_path), Clips(FrameChoice(3))
    for name, size in {"a.png": (96, 64), "b.png": (40, 130), "c.png": (300, 210)}.items():
        smooth(2).resize(size).save(tmp_path / name)
        pictures(tmp_path / name)
    write_clip(tmp_path / "a.avi", [smooth(i) for i in range(5)])
    clips("a.avi", tmp_path)
    records = [
        pair("A red circle.", "Three blue squares, I think."),
        pair("A red circle.", images=("a.png", "b.png"), rejected_images=("c.png", "a.png")),
        pair("No.", "Yes, a green one.", images=(), prompt="A long question without any picture?"),
        pair("A red circle.", "A blue one.", images=("b.png",), videos=("a.avi",)),
        pair("A cat.", images=("c.png",), rejected_prompt=[user_message("Another, longer question?", images=1)]),
    ]
    views = ("chosen", "rejected", "chosen@rejected_media", "chosen@rejected_prompt")
    counter, encoder = TokenCounter(backbone, pictures, clips), Encoder(backbone, views, frames=FrameChoice(3))
    for record in records:
        assert counter(record).whole == encoder(record, tmp_path).length


@pytest.fixture(scope="module")
def counted(root: Path) -> Callable[..., TokenLengths]:
    backbone = build("llava")
    return lambda limit=None: TokenLengths(TokenCounter(backbone, opened(root), Clips()), limit)


def test_records_that_do_not_fit(counted: Callable[..., TokenLengths]) -> None:
    records = [pair("a", "b"), pair("a " * 50, "b"), pair("a", "b", prompt="why " * 60)]
    spread = found(counted(), records)["tokens"].numbers
    assert spread["media_min"] == spread["media_max"] == 16, "4 x 4 patches"
    fits = found(counted(spread["max"]), records)
    assert fits.keys() == {"tokens"}
    tight = found(counted(spread["min"] + 1), records)["too_long"]
    assert tight.warning and tight.lines == (2, 3) and tight.numbers["prompt_alone"] == 1


def test_length_bias_in_tokens(counted: Callable[..., TokenLengths]) -> None:
    lengths = counted()
    bias = LengthBias("tokens", lengths.of_pair)
    for record in (pair("a cat", "a"), pair("a"), pair("a", "b", images=("broken.png",))):
        for check in (lengths, bias):
            check.add(Row(record, 1))
    assert len(bias.chosen) == 1 and bias.chosen[0] > bias.rejected[0]


def test_length_bias_in_tokens_of_ranked_lists_is_of_best_and_worst(counted: Callable[..., TokenLengths]) -> None:
    lengths = counted()
    texts = {"A red circle, I think.": 1, "No.": 2, "Three blue squares.": 3}
    ranked = tuple(Response(assistant_message(text), rank=rank) for text, rank in texts.items())
    row = Row(Record("r", [user_message("?", images=1)], responses=ranked, images=("a.png",)), 1)
    lengths.add(row)
    one_by_one = [lengths.latest.responses[f"responses[{i}]"] for i in range(3)]
    assert lengths.of_pair(row) == (one_by_one[0], one_by_one[2]) and len(set(one_by_one)) == 3


def test_a_text_that_the_model_cannot_take(counted: Callable[..., TokenLengths]) -> None:
    finding = found(counted(), [pair("a", "b"), pair("an <image>", "b")])["not_encodable"]
    assert finding.warning and finding.lines == (2,) and "the response holds" in finding.text


# ---- the report ------------------------------------------------------------------------------------------------------


def test_tally_names_the_first_lines_only() -> None:
    tally = Tally()
    for line in range(1, 10):
        tally.add(line)
    assert (tally.count, tally.lines) == (9, [1, 2, 3, 4, 5])


def test_warnings_come_first_and_say_where() -> None:
    text = as_text([Finding("quiet", False, "All is well."), Finding("loud", True, "Not so.", 9, (1, 2, 3))])
    assert text.splitlines() == [
        "Warnings",
        "  loud                 Not so. Lines 1, 2, 3 and more.",
        "",
        "Notes",
        "  quiet                All is well.",
    ]
    assert as_text([]) == ""
