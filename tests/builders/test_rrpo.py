"""RRPO's self-alignment, on a stand-in that answers, judges and rewrites as a test says, and on the bundled model."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scripted import Scripted, media, run

from mmalign import backbones, builders, endpoint, training
from mmalign.backbones import Job
from mmalign.builders import Drop, build, load
from mmalign.builders._differing import DIFFERENCES, REWRITE
from mmalign.builders._verdict import asked as verdict_of
from mmalign.builders.rrpo import SMALLEST_MASK, _Draft, _Source
from mmalign.media import FrameChoice, open_clip, open_image
from mmalign.media.perturb import AREA, Plan
from mmalign.records import (
    InputError,
    Question,
    Record,
    assistant_message,
    read_jsonl,
    text_of,
    user_message,
    validate,
    write_jsonl,
)
from mmalign.scenes import MODEL
from mmalign.scenes.dataset import write_split
from mmalign.training import metrics
from tests.tiny import noise, write_clip

CHOICES = "What does he do?\n(A) He opens the door.\n(B) He closes the door."
OPEN = "He opens the door and walks out into the rain."


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = media(tmp_path_factory.mktemp("media"))
    rng = np.random.default_rng(1)
    write_clip(folder / "c.avi", [noise(rng).resize((96, 64)) for _ in range(20)])
    write_clip(folder / "one.avi", [noise(rng)])
    return folder


def asked(
    name: str, question: str, answer: str | None, videos: tuple[str, ...] = ("c.avi",), **fields: object
) -> Record:
    chosen = None if answer is None else [assistant_message(answer)]
    images = fields.get("images", ())
    return Record(
        name, [user_message(question, images=len(images), videos=len(videos))], chosen, videos=videos, **fields
    )


def said(text: str) -> Scripted:
    return Scripted(lambda job, greedy: text)


def question_of(job: Job) -> str:
    return job.messages[-1]["content"][-1]["text"]


class Actor(Scripted):
    """Answers, rewrites (names ``differences``, then writes ``rewriting``) and judges (says Yes with ``yes``)."""

    def __init__(
        self, answer: str, differences: str = "", rewriting: str = "", yes: Callable[[str], float] | float = 0.0
    ):
        super().__init__(self._reply)
        self.answer, self.differences, self.rewriting, self.yes = answer, differences, rewriting, yes
        self.judged: list[Job] = []

    def _reply(self, job: Job, greedy: bool) -> str:
        if len(job.messages) == 3:
            return self.rewriting
        return self.differences if question_of(job).startswith(DIFFERENCES[:40]) else self.answer

    def choose(self, jobs, answers, *, batch_size=None) -> np.ndarray:
        self.judged += jobs
        first = [self.yes(question_of(job)) if callable(self.yes) else self.yes for job in jobs]
        return np.array([[each, 1 - each] for each in first])


def span_texts(record: Record, side: str) -> list[str]:
    return [text_of(getattr(record, side))[start:end] for start, end in getattr(record, f"{side}_spans")]


# ---- the record ----------------------------------------------------------------------------------------------------


def test_record(root: Path) -> None:
    kept = {"group": "g", "weight": 2.0, "gold": [assistant_message("Gold.")], "difficulty": 3.0}
    given = asked("s", CHOICES, "(A) He opens the door.", meta={"x": 1}, **kept)
    made = run(load("rrpo", seed=5), said("The answer is (B)."), root, given)["s"]
    assert (made.id, made.prompt, made.videos, made.chosen) == ("s#rrpo", given.prompt, ("c.avi",), given.chosen)
    assert {name: getattr(made, name) for name in kept} == kept
    assert text_of(made.rejected) == "(B) He closes the door."
    assert span_texts(made, "chosen") == ["(A)", "opens"] and span_texts(made, "rejected") == ["(B)", "closes"]
    [plan] = made.meta.pop("plans")
    assert made.meta == {"seed": 5, "tries": 1, "answer": "The answer is (B).", "kind": "choice", "judged_by": "rule",
                         "rejected_by": "rule", "changed": 0.4, "source": {"x": 1}}  # fmt: skip
    assert Plan.of(plan).kind == "mask+local_shuffle"
    assert load("rrpo").outcome(made) == "choice, rule"
    assert Record.parse(made.to_json()) == made


def test_the_model_sees_the_perturbed_clip_with_the_times_of_the_clean_one(root: Path) -> None:
    model = said("(B)")
    made = run(load("rrpo"), model, root, asked("s", CHOICES, "(A)"))["s"]
    [job], [plan] = model.jobs, map(Plan.of, made.meta["plans"])
    clean = open_clip("c.avi", root, FrameChoice(16))
    [shown] = job.videos
    assert job.messages == made.prompt and plan.units == len(shown.frames) == 16 and plan.order != tuple(range(16))
    assert [frame.tobytes() for frame in shown.frames] == [frame.tobytes() for frame in plan.show(clean.frames)]
    assert [frame.tobytes() for frame in shown.frames] != [frame.tobytes() for frame in clean.frames]
    assert (shown.times, shown.duration) == (clean.times, clean.duration)
    assert shown.indices == tuple(clean.indices[place] for place in plan.order)
    windows = [plan.order[start : start + 4] for start in range(0, 16, 4)]
    assert [sorted(window) for window in windows] == [list(range(start, start + 4)) for start in range(0, 16, 4)]
    left, top, right, bottom = plan.box
    assert AREA[0] <= (right - left) * (bottom - top) <= AREA[1]
    assert (right - left) * 96 == pytest.approx((bottom - top) * 64, abs=1e-3), "a square of pixels"


def test_options_of_the_perturbation(root: Path) -> None:
    options = {"kinds": "local_shuffle,mask", "window": 2, "mask_min": 0.1, "mask_max": 0.1, "frames": 6, "attempts": 3}
    model = Scripted(lambda job, greedy: "(A)" if len(model.calls) < 3 else "(B)")
    made = run(load("rrpo", **options), model, root, asked("s", CHOICES, "(A)"))["s"]
    [plan] = map(Plan.of, made.meta["plans"])
    assert (made.meta["tries"], plan.kind, plan.units) == (3, "local_shuffle", 6), "kinds come in turn"
    assert [sorted(plan.order[i : i + 2]) for i in (0, 2, 4)] == [[0, 1], [2, 3], [4, 5]]
    assert [frame.size for frame in model.jobs[1].videos[0].frames] == [(96, 64)] * 6
    hidden = np.asarray(model.jobs[1].videos[0].frames[0]) == 242
    assert hidden.all(-1).mean() == pytest.approx(0.1, abs=0.02), "the second try: a mask"


def test_seeds(root: Path) -> None:
    def shown(source: str, **options: object) -> tuple[bytes, int]:
        model = said("(B)")
        run(load("rrpo", **options), model, root, asked(source, CHOICES, "(A)"))
        return b"".join(frame.tobytes() for frame in model.jobs[0].videos[0].frames), model.jobs[0].seed

    first = shown("s")
    assert shown("s") == first
    for other in (shown("s", seed=1), shown("t")):
        assert other[0] != first[0] and other[1] != first[1]


def test_options_reach_the_model(root: Path) -> None:
    class Listening(Actor):
        options: list[dict] = []

        def generate(self, jobs, **options):
            self.options.append(options)
            return super().generate(jobs, **options)

    model = Listening("Wrong in so many other words.", "The door.", "He opens the gate and walks out into the rain.")
    how = {"temperature": 0.7, "top_p": 0.9, "max_tokens": 30, "judge": "truth"}
    run(load("rrpo", **how), model, root, asked("s", "What?", OPEN))
    turn = {"max_new_tokens": 30, "batch_size": 8}
    assert model.options == [{**turn, "temperature": 0.7, "top_p": 0.9}, turn, turn], "what is rewritten is not sampled"


# ---- what is dropped -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("question, truth, answer, reason, detail", [
    (CHOICES, "(A)", "(A) He opens the door.", "answered_right", "(A) He opens the door."),
    (CHOICES, "(A)", "(A) or (B)", "unparsed", "(A) or (B)"),
    (CHOICES, "He sings.", "(A)", "no_such_option", "He sings."),
    ("Is it?", "Yes", "There is one", "unparsed", "There is one"),
    ("How many?", "3", "Three.", "answered_right", "Three."),
    ("What?", "goose", "A goose!", "answered_right", "A goose!"),
    ("What?", "goose", "...", "unparsed", "..."),
    ("What?", "goose", " \n", "model_wrote_nothing", ""),
    ("What?", OPEN, "He sings.", "open_answer", "no rule can judge it, and no judge is given (judge)"),
    ("What?", " ", "He sings.", "empty_answer", ""),
    ("What?", None, "He sings.", "no_answer", ""),
])  # fmt: skip
def test_drops(root: Path, question: str, truth: str | None, answer: str, reason: str, detail: str) -> None:
    assert run(load("rrpo"), said(answer), root, asked("s", question, truth))["s"] == Drop(reason, detail)


def test_media_that_cannot_be_had(root: Path) -> None:
    model = said("(B)")
    names = {"missing": "gone.avi", "bad_path": "../c.avi"}
    sources = [asked(reason, CHOICES, "(A)", (name,)) for reason, name in names.items()]
    sources += [asked("no_media", CHOICES, "(A)", ()), asked("fine", CHOICES, "(A)")]
    made = run(load("rrpo"), model, root, *sources)
    assert isinstance(made.pop("fine"), Record) and len(model.jobs) == 1
    assert {name: drop.reason for name, drop in made.items()} == {name: name for name in made}


def test_what_can_be_told_before_the_model_answers_costs_no_answer(root: Path) -> None:
    model = said("(B)")
    run(
        load("rrpo"),
        model,
        root,
        asked("a", "What?", OPEN),
        asked("b", CHOICES, "He sings."),
        asked("c", "What?", None),
    )
    assert not model.calls


def test_equal_texts_are_no_pair(root: Path) -> None:
    """White space and punctuation are no difference, and cost no judge; nor are they a record."""
    model = Actor("He opens the door\nand walks out,  into the rain")
    builder = load("rrpo", judge="truth", rewrite="none")
    assert run(builder, model, root, asked("s", "What?", OPEN))["s"].reason == "answered_right" and not model.judged
    source = _Source(asked("s", "What?", OPEN), None, verdict_of("What?", OPEN, 3))
    assert builder._record(_Draft(source, 1, "", (), OPEN.replace(" ", "  "))).reason == "same_words"


# ---- pictures, and clips that are none -----------------------------------------------------------------------------


def test_pictures_and_a_clip_of_one_frame_are_only_masked(root: Path) -> None:
    model = said("(B)")
    given = asked("s", CHOICES, "(A)", ("one.avi", "c.avi"), images=("a.png",))
    made = run(load("rrpo"), model, root, given)["s"]
    plans = [Plan.of(each) for each in made.meta["plans"]]
    assert [plan.kind for plan in plans] == ["mask", "mask", "mask+local_shuffle"]
    assert len({plan.box for plan in plans}) == 3 and made.images == ("a.png",) and made.videos == given.videos
    [picture], [one, many] = model.jobs[0].images, model.jobs[0].videos
    assert picture.tobytes() == plans[0].show([open_image(root / "a.png")])[0].tobytes()
    assert len(one.frames) == 1 and len(many.frames) == 16
    alone = run(load("rrpo", kinds="local_shuffle"), model, root, given, asked("t", CHOICES, "(A)"))
    assert alone["s"] == Drop("not_perturbed", "one frame, and no mask") and alone["t"].id == "t#rrpo"


# ---- attempts ------------------------------------------------------------------------------------------------------


def test_attempts(root: Path) -> None:
    """Only sources whose answers were not wrong so far are asked again, each about another perturbation."""
    wrong_at = {"first": 1, "third": 3, "never": 9}
    sources = [asked(name, f"{name}? {CHOICES}", "(A)") for name in wrong_at]
    model = Scripted(
        lambda job, greedy: "(B)" if wrong_at[question_of(job).partition("?")[0]] <= len(model.calls) else "(A)"
    )
    made = run(load("rrpo", attempts=3), model, root, *sources)
    assert [len(call) for call in model.calls] == [3, 2, 2]
    assert (made["first"].meta["tries"], made["third"].meta["tries"]) == (1, 3)
    assert made["never"] == Drop("answered_right", "answered_right (A); answered_right (A); answered_right (A)")
    shown = [job.videos[0].frames[0].tobytes() for job in model.jobs if question_of(job).startswith("never")]
    assert len(set(shown)) == 3


def test_the_last_attempt_gives_the_reason(root: Path) -> None:
    replies = iter(["(A)", "(A) or (B)"])
    made = run(load("rrpo", attempts=2), Scripted(lambda *_: next(replies)), root, asked("s", CHOICES, "(A)"))["s"]
    assert made == Drop("unparsed", "answered_right (A); unparsed (A) or (B)")


# ---- the judge -----------------------------------------------------------------------------------------------------


def test_the_judge_of_the_truth_reads_texts_alone(root: Path) -> None:
    model = Actor("He shuts the door.", yes=lambda text: 0.2 if "shuts" in text else 0.9)
    builder = load("rrpo", judge="truth", rewrite="none", short_words=0)
    made = run(builder, model, root, asked("s", "What happens?", OPEN))["s"]
    [job] = model.judged
    assert not job.videos and not job.images
    asks = f"Question: What happens?\n\nCorrect answer: {OPEN}\n\nGiven answer: He shuts the door.\n\nIs the given"
    assert asks in question_of(job)
    assert {key: made.meta[key] for key in ("kind", "judged_by", "judge_score", "rejected_by")} == {
        "kind": "open", "judged_by": "truth", "judge_score": 0.2, "rejected_by": "answer"}  # fmt: skip
    assert text_of(made.rejected) == "He shuts the door." and span_texts(made, "rejected") == ["shuts", "door."]
    model.answer = "He pulls the door towards himself."
    assert run(builder, model, root, asked("s", "What happens?", OPEN))["s"] == Drop(
        "answered_right", "He pulls the door towards himself. (truth: 0.9)"
    )


@pytest.mark.parametrize("threshold, kept", [(0.6, False), (0.61, True)])
def test_below_the_threshold_is_wrong(root: Path, threshold: float, kept: bool) -> None:
    builder = load("rrpo", judge="truth", rewrite="none", threshold=threshold)
    made = run(builder, Actor("He shuts it.", yes=0.6), root, asked("s", "What?", OPEN))["s"]
    assert isinstance(made, Record) == kept


def test_a_rule_that_is_not_certain_asks_the_judge_where_there_is_one(root: Path) -> None:
    source = asked("s", "What?", "goose")
    assert run(load("rrpo"), said("A bird"), root, source)["s"].meta["judged_by"] == "rule"
    model = Actor("A bird", yes=0.9)
    assert run(load("rrpo", judge="truth"), model, root, source)["s"].reason == "answered_right"
    model.yes = 0.1
    made = run(load("rrpo", judge="truth"), model, root, source)["s"]
    assert text_of(made.rejected) == "bird" and made.meta["judge_score"] == 0.1
    sure = Actor("(B)", yes=0.9)
    assert run(load("rrpo", judge="truth"), sure, root, asked("s", CHOICES, "(A)"))["s"].meta["judged_by"] == "rule"
    assert not sure.judged


def test_scorers_that_look_see_the_clean_clip(root: Path) -> None:
    clean = open_clip("c.avi", root, FrameChoice(16))
    model = Actor("He shuts it.", yes=0.25)
    made = run(load("rrpo", judge="faithful", rewrite="none"), model, root, asked("s", "What?", OPEN))["s"]
    [job] = model.judged
    assert [frame.tobytes() for frame in job.videos[0].frames] == [frame.tobytes() for frame in clean.frames]
    assert "He shuts it." in question_of(job) and OPEN not in question_of(job)
    assert (made.meta["judged_by"], made.meta["judge_score"]) == ("faithful", 0.25)


def test_a_pairwise_judge_compares_with_the_truth(root: Path) -> None:
    """Says A, which is the truth once and the answer once: strength (0.9 + 0.8) / 2."""
    model = Actor("He shuts it.", yes=lambda text: 0.9 if f"Answer A: {OPEN}" in text else 0.2)
    made = run(load("rrpo", judge="judge", rewrite="none"), model, root, asked("s", "What?", OPEN))["s"]
    assert made.meta["judge_score"] == pytest.approx(0.15) and len(model.judged) == 2
    assert (
        run(load("rrpo", judge="judge", threshold=0.1), model, root, asked("s", "What?", OPEN))["s"].reason
        == "answered_right"
    )


def test_recorded_scores(root: Path, tmp_path: Path) -> None:
    rows = [{"id": "a#1", "scores": {"reward": 0.7}}, {"id": "b#1", "scores": {"reward": 0.1}},
            {"id": "d#1", "scores": {"x": 1, "y": 2}}]  # fmt: skip
    write_jsonl(tmp_path / "scores.jsonl", rows)
    builder = load("rrpo", judge="recorded", judge_file=str(tmp_path / "scores.jsonl"), rewrite="none")
    made = run(builder, said("He shuts it."), root, *(asked(name, "What?", OPEN) for name in "abcd"))
    assert made["a"].reason == "answered_right" and made["b"].meta["judge_score"] == 0.1
    assert made["c"].reason == made["d"].reason == "unscored"
    assert made["c"].detail.startswith("c#1: ") and made["c"].detail.endswith(": He shuts it."), "what is to be scored"
    assert "2 scores" in made["d"].detail


def test_a_judge_that_says_neither(root: Path) -> None:
    made = run(load("rrpo", judge="truth"), Actor("He shuts it.", yes=math.nan), root, asked("s", "What?", OPEN))["s"]
    assert made.reason == "unscored" and "neither Yes nor No" in made.detail


def test_other_models_judge_and_rewrite(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    others = {
        "judging": Actor("", yes=0.0),
        "writing": Actor("", "The door.", "He shuts the door and walks out into the rain."),
    }
    monkeypatch.setattr(endpoint, "load_writer", others.__getitem__)
    model = said("He shuts it.")
    builder = load("rrpo", judge="truth", judge_model="judging", rewrite="writing")
    made = run(builder, model, root, asked("s", "What?", OPEN))["s"]
    assert text_of(made.rejected).startswith("He shuts the door and") and len(model.jobs) == 1
    assert len(others["judging"].judged) == 1 and len(others["writing"].jobs) == 2
    assert builder.inputs().keys() == {"judge_prompt", "judge_model", "rewrite_prompts", "rewriter"}


def test_inputs(tmp_path: Path) -> None:
    assert load("rrpo", rewrite="none").inputs() == {} and load("rrpo").inputs().keys() == {"rewrite_prompts"}
    server = load("rrpo", judge="truth", judge_model="http://127.0.0.1:9/v1#m", rewrite="http://127.0.0.1:9/v1#n")
    assert (server.inputs()["judge_model"], server.inputs()["rewriter"]) == (
        "http://127.0.0.1:9/v1#m",
        "http://127.0.0.1:9/v1#n",
    )
    prompts = [
        load("rrpo", judge="truth", judge_prompt=given).inputs()["judge_prompt"]
        for given in (None, "{question}{answer}")
    ]
    assert prompts[0] != prompts[1]
    (tmp_path / "scores.jsonl").write_text("")
    recorded = load("rrpo", judge="recorded", judge_file=str(tmp_path / "scores.jsonl"))
    before = recorded.inputs()["judge_file"]
    (tmp_path / "scores.jsonl").write_text('{"id": "a#1", "scores": {"reward": 1}}\n')
    assert recorded.inputs()["judge_file"] != before


# ---- rewriting -----------------------------------------------------------------------------------------------------


def rewrite(root: Path, named: str, written: str, truth: str = OPEN, **options: object) -> tuple[Record | Drop, Actor]:
    model = Actor("A man shuts a door and then he goes away.", named, written)
    made = run(load("rrpo", judge="truth", **options), model, root, asked("s", "What?", truth))["s"]
    return made, model


def test_the_two_turns(root: Path) -> None:
    made, model = rewrite(root, "The door is shut.", "He shuts the door and walks out into the rain.")
    first, second = model.jobs[1:]
    asks = DIFFERENCES.format(truth=OPEN, answer=model.answer)
    assert first.messages == [user_message(asks)] and f"Sentence 1: {OPEN}\n\nSentence 2: {model.answer}" in asks
    asks_again = user_message(REWRITE.format(truth=OPEN))
    assert second.messages == [user_message(asks), assistant_message("The door is shut."), asks_again]
    assert not (first.videos or second.videos)
    assert text_of(made.rejected) == "He shuts the door and walks out into the rain."
    assert span_texts(made, "chosen") == ["opens"] and span_texts(made, "rejected") == ["shuts"]
    assert made.meta["rejected_by"] == "rewriting" and made.meta["differences"] == "The door is shut."
    assert made.meta["answer"] == model.answer and made.meta["changed"] == 0.1
    assert load("rrpo").outcome(made) == "open, rewriting"


def test_what_only_one_side_says_is_marked_there(root: Path) -> None:
    made, _ = rewrite(root, "A dog.", "He opens the door and walks his dog out into the rain.")
    assert made.chosen_spans == () and span_texts(made, "rejected") == ["his dog"]
    assert Record.parse(made.to_json()) == made


@pytest.mark.parametrize("named, written, reason", [
    ("None", "", "no_key_difference"), (" none. ", "", "no_key_difference"), ('"None"', "", "no_key_difference"),
    ("There are no key differences between them.", "", "no_key_difference"),
    ("There are no differences in the objects, but one says open and one says closed.", "", "not_rewritten"),
    ("", "x", "model_wrote_nothing"),
    ("The door.", "", "not_rewritten"), ("The door.", "A dog.", "not_rewritten"), ("The door.", OPEN, "not_rewritten"),
    ("The door.", "he opens the door, and walks out into the rain!", "not_rewritten"),
    ("The door.", f"{OPEN} {OPEN} And more.", "not_rewritten"),
    ("The door.", "Sure! Here is the sentence: He shuts the door and walks out.", "not_rewritten"),
    ("The door.", "He shuts the door and walks out into", "not_rewritten"),
])  # fmt: skip
def test_drops_of_rewriting(root: Path, named: str, written: str, reason: str) -> None:
    made, model = rewrite(root, named, written)
    assert made.reason == reason
    assert len(model.jobs) == (2 if reason != "not_rewritten" else 3), (
        "the second turn is asked only where it has a use"
    )
    again, _ = rewrite(root, "None of them walks.", "He shuts the door and runs out into the rain.")
    assert isinstance(again, Record), "a sentence that begins with None is no None"


@pytest.mark.parametrize("written", [
    '"He shuts the door and walks out into the rain."', "Sentence 1: He shuts the door and walks out into the rain.",
    "**Revised sentence:** He shuts the door and walks out into the rain.",
    "Rewritten Sentence 1: “He shuts the door and walks out into the rain.”"])  # fmt: skip
def test_labels_and_quotes_are_left_out(root: Path, written: str) -> None:
    made, _ = rewrite(root, "The door.", written)
    assert text_of(made.rejected) == "He shuts the door and walks out into the rain."


def test_a_choice_with_reasons_is_rewritten(root: Path) -> None:
    truth = "(A) He opens the door, since it is hot."
    model = Actor("(B)", "He closes it.", "(B) He closes the door, since it is cold.")
    made = run(load("rrpo"), model, root, asked("s", CHOICES, truth))["s"]
    assert (made.meta["kind"], made.meta["judged_by"], made.meta["rejected_by"]) == ("choice", "rule", "rewriting")


@pytest.mark.parametrize("truth, answer, written", [
    ("(A) He opens the door, since it is hot.", "(B)", "(A) He opens the door, because it is hot."),
    ("He opens the door, since it is hot.", "(B)", "He opens the door, because it is hot."),
])  # fmt: skip
def test_a_rewritten_answer_that_is_still_right_is_not_rejected(
    root: Path, truth: str, answer: str, written: str
) -> None:
    made = run(load("rrpo"), Actor(answer, "The reason.", written), root, asked("s", CHOICES, truth))["s"]
    assert made == Drop("not_rewritten", f"still_right: {written}")


def test_without_rewriting_the_answer_is_rejected_as_it_is(root: Path) -> None:
    made, model = rewrite(root, "", "", rewrite="none")
    assert text_of(made.rejected) == model.answer and len(model.jobs) == 1 and "differences" not in made.meta


def test_neither_batch_nor_unit_matters(root: Path) -> None:
    def model() -> Actor:
        return Actor("A man shuts a door.", "The door.", "He shuts the door and walks out into the rain.", yes=0.1)

    sources = [asked("a", CHOICES, "(A)"), asked("b", "What?", OPEN), asked("c", "Is it?", "Yes"),
               asked("d", "What?", OPEN.replace("rain", "snow"))]  # fmt: skip
    builder, small = load("rrpo", judge="truth", attempts=2), model()
    made = run(builder, small, root, *sources, batch_size=1)
    assert made == run(builder, model(), root, *sources, batch_size=100)
    for each in sources:
        assert run(builder, model(), root, each)[each.id] == made[each.id]
    assert {name: getattr(each, "reason", "") for name, each in made.items()} == {
        "a": "unparsed",
        "b": "",
        "c": "unparsed",
        "d": "",
    }
    assert all(len(call) == 1 for call in small.calls)


@pytest.mark.parametrize("options", [
    {"kinds": "drop"}, {"kinds": ""}, {"mask_min": 0}, {"mask_min": 1e-13, "mask_max": 1e-13},
    {"mask_max": 0.2}, {"mask_max": 1.1}, {"window": 1},
    {"frames": 0}, {"attempts": 0}, {"temperature": -1}, {"top_p": 0}, {"max_tokens": 0}, {"short_words": -1},
    {"threshold": math.nan},
])  # fmt: skip
def test_options_out_of_range(options: dict) -> None:
    with pytest.raises(InputError) as caught:
        load("rrpo", **options)
    assert caught.value.field == next(iter(options))


def test_the_smallest_mask_is_a_mask() -> None:
    """Also of frames that are very wide or high."""
    builder = load("rrpo", kinds="mask", mask_min=SMALLEST_MASK, mask_max=SMALLEST_MASK)
    for size in ((96, 64), (2000, 2), (2, 2000)):
        for seed in range(20):
            plan = builder._plan([Image.new("RGB", size)], seed, 1)
            assert Plan.of(plan.to_json()) == plan


@pytest.mark.parametrize("options, field, problem", [
    ({"judge": "nobody"}, None, "has no 'nobody'"),
    ({"judge": "recorded", "judge_prompt": "?"}, "judge_prompt", "the judge recorded has no prompt"),
    ({"judge": "truth", "judge_file": "f"}, "judge_file", "the judge truth has no file"),
    ({"judge": "truth", "judge_prompt": "{question}"}, "judge_prompt", "{answer}"),
])  # fmt: skip
def test_judges_that_cannot_be_had(options: dict, field: str | None, problem: str) -> None:
    with pytest.raises(InputError, match=problem) as caught:
        load("rrpo", **options)
    assert caught.value.field == field


# ---- the bundled model ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Questions about clips of the embedded world, with their answers."""
    folder = write_split(tmp_path_factory.mktemp("world"), "pairs", 0, clips=3)
    rows = [
        {"id": each.id, "video": each.videos[0], "question": text_of(each.prompt), "answer": each.gold}
        for file in sorted((folder / "questions").glob("*.jsonl"))
        for each in read_jsonl(file, Question.parse)
    ]
    write_jsonl(folder / "sources.jsonl", rows)
    return folder


def test_the_bundled_model_on_one_and_two_ranks_and_training_on_its_pairs(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = backbones.load(MODEL, device="cpu")
    sources = builders.sources(world / "sources.jsonl")
    how = {"media_root": world, "progress": False}
    builder = load("rrpo", frames=4, max_tokens=16, rewrite="none")
    one = build(builder, sources, model, world / "one.jsonl", unit_size=4, **how)
    assert one.kept >= 4 and one.drops["answered_right"] >= 4 and one.kept + sum(one.drops.values()) == len(sources)
    assert not list(validate(world / "one.jsonl", world, open_image))
    for record in read_jsonl(world / "one.jsonl", Record.parse):
        assert record.meta["kind"] in ("yes_no", "short") and (record.chosen_spans or record.rejected_spans)
        assert record.meta["options"]["kinds"] == "mask+local_shuffle" and len(record.meta["plans"]) == 1
    monkeypatch.setenv("WORLD_SIZE", "2")
    for rank in "10":
        monkeypatch.setenv("RANK", rank)
        build(builder, sources, model, tmp_path / "two.jsonl", unit_size=4, batch_size=3, **how)
    monkeypatch.undo()
    assert (world / "one.jsonl").read_bytes() == (tmp_path / "two.jsonl").read_bytes()
    arguments = [
        "--model", MODEL, "--data", world / "one.jsonl", "--output_dir", tmp_path / "out", "--frames", "4",
        "--max_steps", "2",
        "--per_device_train_batch_size", "2", "--logging_steps", "1", "--save_strategy", "no",
        "--learning_rate", "1e-4",
    ]  # fmt: skip
    assert training.main("rrpo", list(map(str, arguments))) == 0
    rows = [row for row in metrics.read(tmp_path / "out") if "loss" in row]
    assert len(rows) == 2 and all(0 < row["spans/rejected"] <= 1 for row in rows)
    assert rows[0]["loss/ranking"] == pytest.approx(math.log(2), rel=1e-4) and rows[1]["loss/kl"] > 0


def test_the_command(world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "pairs.jsonl"
    paths = ["--model", MODEL, "--data", world / "sources.jsonl", "--output", output]
    assert builders.main("rrpo", [*map(str, paths), "--rewrite", "none", "--frames", "4", "--max_tokens", "16"]) == 0
    printed = capsys.readouterr().out
    assert "yes_no, rule" in printed and "dropped: answered_right" in printed
    manifest = json.loads(Path(f"{output}.run", "manifest.json").read_text())["identity"]["manifest"]
    assert manifest["inputs"] == {} and manifest["options"]["seed"] == 0
