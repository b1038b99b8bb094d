"""Pairs by self-judgement, on a stand-in whose taste and habits are known."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scripted import Scripted, media, run, source

from mmalign import backbones, objectives
from mmalign.backbones import Job
from mmalign.builders import Builder, Drop, Unit, build, load
from mmalign.forward import Usable
from mmalign.records import InputError, Record, Response, assistant_message, text_of
from mmalign.rewards.judge import PROMPT
from tests.rewards.judges import Judging, pair_in, sigmoid


class Author(Scripted, Judging):
    """Writes and judges: its longest word is what an answer is worth to it."""

    def __init__(self, habit: float = 0.0, reply=lambda job, greedy: "ab" * (1 + job.seed % 4)) -> None:
        Scripted.__init__(self, reply)
        Judging.__init__(self, lambda text: len(text) / 2, habit)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return media(tmp_path_factory.mktemp("media"))


def given(name: str, *texts: str, **scores: float) -> Record:
    answers = tuple(Response(assistant_message(text), dict(scores)) for text in texts)
    return source(name, None, responses=answers)


def all_of(builder: Builder, model: object, root: Path, record: Record) -> list[Record] | Drop:
    [(_, made)] = builder(Unit((record,), root), model)
    return made


def sides(record: Record) -> tuple[str, str]:
    return text_of(record.chosen), text_of(record.rejected)


@pytest.mark.parametrize("habit", [0.0, 2.0, -3.0])
def test_all_pairs_with_their_strengths_whatever_the_habit(root: Path, habit: float) -> None:
    made = all_of(load("osp"), Author(habit), root, given("s", "aa", "aaaaaa", "aaaa"))
    assert [(record.id, sides(record)) for record in made] == [
        ("s#osp-1", ("aaaaaa", "aa")), ("s#osp-2", ("aaaa", "aa")), ("s#osp-3", ("aaaaaa", "aaaa"))]  # fmt: skip

    def wins(gap: float) -> float:
        return (sigmoid(gap + habit) + sigmoid(gap - habit)) / 2

    assert [record.strength for record in made] == pytest.approx([wins(2), wins(1), wins(1)], abs=2e-6)
    assert made[0].chosen_scores["wins"] == pytest.approx((wins(2) + wins(1)) / 2, abs=2e-6)
    assert made[0].rejected_scores["wins"] == pytest.approx((wins(-2) + wins(-1)) / 2, abs=2e-6)
    gap = made[0].chosen_scores["wins"] - made[0].rejected_scores["wins"]
    assert made[0].meta == {"responses_by": "source", "given": 3, "k": 3, "gap": pytest.approx(gap, abs=2e-6)}


def test_wins_of_all_add_up_to_one_half_each(root: Path) -> None:
    made = all_of(load("osp"), Author(1.0), root, given("s", "aa", "aaaaaa", "aaaa", "aaaaaaaa"))
    wins = {side: score["wins"] for r in made for side, score in zip(sides(r), (r.chosen_scores, r.rejected_scores),
                                                                     strict=True)}  # fmt: skip
    assert len(wins) == 4 and sum(wins.values()) == pytest.approx(2, abs=1e-5)


def test_best_against_worst(root: Path) -> None:
    made = all_of(load("osp", pairs="best_worst"), Author(), root, given("s", "aa", "aaaaaa", "aaaa"))
    assert [(record.id, sides(record)) for record in made] == [("s#osp", ("aaaaaa", "aa"))]
    assert made[0].strength == pytest.approx(sigmoid(2), abs=2e-6)


def test_each_two_are_judged_in_both_orders(root: Path) -> None:
    model = Author()
    all_of(load("osp"), model, root, given("s", "a", "b", "c"))
    expected = [("a", "b"), ("b", "a"), ("a", "c"), ("c", "a"), ("b", "c"), ("c", "b")]
    assert [pair_in(job) for job in model.asked] == expected
    assert len({id(job.images[0]) for job in model.asked}) == 1, "the picture is opened once"


def test_undecided_pairs_are_left_out(root: Path) -> None:
    one_length = given("s", "ab", "ba", "cc")
    assert all_of(load("osp"), Author(2.0), root, one_length) == Drop("undecided", "all win as often, on average")
    some = all_of(load("osp", min_strength=0.8), Author(), root, given("s", "aa", "aaaaaa", "aaaa"))
    assert [sides(record) for record in some] == [("aaaaaa", "aa")]
    unsure = all_of(load("osp", min_strength=0.9), Author(), root, given("s", "aa", "aaaaaa"))
    assert (unsure.reason, unsure.detail[:-4]) == ("undecided", "the judge is sure of none: at most 0.88")


class Opinionated(Author):
    """Knows for each two answers how likely the first is the better one."""

    def __init__(self, likely: dict[tuple[str, str], float]) -> None:
        super().__init__()
        self.likely = likely

    def _says_a(self, a: str, b: str) -> float:
        return self.likely[a, b] if (a, b) in self.likely else 1 - self.likely[b, a]


def test_best_against_worst_or_no_pair(root: Path) -> None:
    """a, with a mean of 0.7, is the best, and d the worst; but d is found better than a."""
    likely = {("a", "b"): 0.9, ("a", "c"): 0.9, ("d", "a"): 0.7, ("b", "c"): 0.8, ("b", "d"): 0.9, ("c", "d"): 0.9}
    texts = given("s", "a", "b", "c", "d")
    assert len(all_of(load("osp"), Opinionated(likely), root, texts)) == 5, "all others"
    dropped = all_of(load("osp", pairs="best_worst"), Opinionated(likely), root, texts)
    assert dropped == Drop("undecided", "the judge is sure of none: at most 0.3")


def test_a_judge_that_says_neither_makes_no_pairs(root: Path) -> None:
    class Thinking(Author):
        def _says_a(self, a: str, b: str) -> float:
            return float("nan") if "c" in (a, b) else super()._says_a(a, b)

    dropped = all_of(load("osp"), Thinking(), root, given("s", "aa", "aaaaaa", "c"))
    assert dropped.reason == "unscored" and "neither A nor B" in dropped.detail


def test_a_better_response_that_loses_to_a_worse_one_is_no_pair(root: Path) -> None:
    """A circle with a stray: b wins over c by far, but loses to a; a hardly wins over b, and loses to c."""
    likely = {("a", "b"): 0.55, ("b", "c"): 0.95, ("c", "a"): 0.6}
    made = all_of(load("osp"), Opinionated(likely), root, given("s", "a", "b", "c"))
    wins = {"a": (0.55 + 0.4) / 2, "b": (0.45 + 0.95) / 2, "c": (0.05 + 0.6) / 2}
    assert [(sides(r), r.strength, r.chosen_scores["wins"]) for r in made] == [(("b", "c"), 0.95, pytest.approx(0.7))]
    assert wins["b"] > wins["a"] > wins["c"], "a over c and b over a are what the judge itself denies"


def test_the_order_of_responses_changes_nothing(root: Path) -> None:
    texts = ["aa", "aaaaaa", "aaaa", "bbbb"]
    made = [all_of(load("osp"), Author(1.0), root, given("s", *order)) for order in (texts, texts[::-1])]
    assert len(made[0]) == 5
    for one, other in zip(*made, strict=True):
        assert sides(one) == sides(other) and one.strength == pytest.approx(other.strength, abs=2e-6)


def test_missing_responses_are_sampled(root: Path) -> None:
    model = Author()
    made = run(load("osp", seed=3), model, root, source("s", "True."), given("t", "aa", "aaaa"))
    assert {job.key for job in model.jobs} == {"s"} and len(model.jobs) == 4
    drawn = [text_of([assistant_message(model.reply(job, False))]) for job in model.jobs]
    assert set(sides(made["s"])) <= set(drawn) and made["s"].meta["responses_by"] == "model"
    assert made["s"].meta["sampled"] == 4 and sum(made["s"].meta["counts"]) == 4
    assert made["t"].meta["responses_by"] == "source"


def test_neither_batch_nor_unit_matters(root: Path) -> None:
    sources = [source(f"s{i}", None) for i in range(3)]
    made = run(load("osp"), Author(1.0), root, *sources, batch_size=3)
    assert made == run(load("osp"), Author(1.0), root, *sources, batch_size=100)
    assert made["s1"] == run(load("osp"), Author(1.0), root, sources[1])["s1"]


def test_drops(root: Path) -> None:
    texts = ("aa", "aaaa")
    answers = tuple(Response(assistant_message(text)) for text in texts)
    sources = [source("missing", None, ("gone.png",)), source("truncated", None, ("cut.png",), responses=answers),
               given("all_alike", "aa", " aa "), given("fine", *texts)]  # fmt: skip
    made = run(load("osp"), Author(), root, *sources)
    assert isinstance(made.pop("fine"), Record)
    assert {name: drop.reason for name, drop in made.items()} == {name: name for name in made}


def test_scores_of_given_responses_are_kept(root: Path) -> None:
    [made] = all_of(load("osp"), Author(), root, given("s", "aa", "aaaa", length=3.0))
    assert made.chosen_scores.keys() == {"length", "wins"}
    assert Record.parse(made.to_json()) == made


def test_soft_dpo_trains_on_the_pairs(root: Path) -> None:
    [made] = all_of(load("osp"), Author(), root, given("s", "aa", "aaaa"))
    Usable(objectives.load("soft_dpo"))(made)
    with pytest.raises(InputError, match="strength"):
        Usable(objectives.load("dpo"))(made)
    Usable(objectives.load("dpo"), ["strength"])(made)


def test_prompt_and_its_fingerprint(root: Path) -> None:
    assert load("osp").inputs() == load("osp", prompt=PROMPT).inputs()
    other = PROMPT.replace("faithful", "kind")
    assert load("osp", prompt=other).inputs() != load("osp").inputs()
    model = Author()
    all_of(load("osp", prompt=other, prefix="Answer "), model, root, given("s", "aa", "aaaa"))
    job: Job = model.asked[0]
    assert "more kind to" in job.messages[0]["content"][-1]["text"] and job.prefix == "Answer "


@pytest.mark.parametrize("options", [
    {"k": 1}, {"pairs": "some"}, {"min_strength": 0.4}, {"min_strength": 1.1}, {"prompt": "Which?"}])  # fmt: skip
def test_options_out_of_range(options: dict) -> None:
    with pytest.raises(InputError) as caught:
        load("osp", **options)
    assert caught.value.field == next(iter(options))


def test_a_model_judges_itself_on_one_and_two_ranks(
    root: Path, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = backbones.load(tiny_model, device="cpu")
    sources = [source(f"s{i}", None, ("ab"[i % 2] + ".png",)) for i in range(4)]
    builder = load("osp", k=3, max_tokens=6)
    how = {"media_root": root, "unit_size": 1, "progress": False}
    one = build(builder, sources, model, tmp_path / "one.jsonl", **how)
    monkeypatch.setenv("WORLD_SIZE", "2")
    for rank in "10":
        monkeypatch.setenv("RANK", rank)
        build(builder, sources, model, tmp_path / "two.jsonl", **how)
    assert one.records > 4
    assert (tmp_path / "one.jsonl").read_bytes() == (tmp_path / "two.jsonl").read_bytes()
    strengths = np.array([r.strength for r in map(_parsed, (tmp_path / "one.jsonl").read_text().splitlines())])
    assert (strengths > 0.5).all() and (strengths <= 1).all() and strengths.std() > 1e-3


def _parsed(line: str) -> Record:
    import json

    return Record.parse(json.loads(line))
