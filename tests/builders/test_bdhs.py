"""The algorithm of BDHS, on a stand-in whose answers are known."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scripted import IMAGE_TOKENS, Scripted, media, run, source

from mmalign.backbones import Job
from mmalign.builders import Drop, load
from mmalign.media.noise import Noise
from mmalign.records import InputError, Record, text_of

CAPTION = "A red circle is at the top.  There is a blue star, No. 3, here.\n- Yes, it is big."


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return media(tmp_path_factory.mktemp("media"))


def other_words(job: Job, greedy: bool) -> str:
    return " quite another thing. And more."


def rejected(record: Record) -> str:
    return text_of(record.rejected)


def test_sentences_leave_the_answer_and_come_back(root: Path) -> None:
    model = Scripted(other_words)
    made = run(load("bdhs"), model, root, source("s", CAPTION))["s"]
    first, second, third = (job.prefix for job in model.jobs)
    sentences = ["A red circle is at the top.", "There is a blue star, No. 3, here.", "- Yes, it is big."]
    assert sentences[0].startswith(first) and first != sentences[0]
    assert second.startswith(sentences[0] + "  There"), "the context is the true text, never the rewritten one"
    assert third.startswith("  ".join(sentences[:2]) + "\n-")
    ends = [" quite another thing."] * 3
    beginnings = [first, second.removeprefix(sentences[0] + "  "), third.rpartition("\n")[2]]
    expected = [beginning + end for beginning, end in zip(beginnings, ends, strict=True)]
    assert rejected(made) == f"{expected[0]}  {expected[1]}\n{expected[2]}"
    assert text_of(made.chosen) == CAPTION


def test_record(root: Path) -> None:
    given = source("s", "A red circle.", ("a.png", "b.png"), group="g", weight=2.0, meta={"x": 1})
    made = run(load("bdhs", seed=5), Scripted(other_words), root, given)["s"]
    assert (made.id, made.prompt, made.images, made.chosen) == ("s#bdhs", given.prompt, given.images, given.chosen)
    assert (made.group, made.weight) == ("g", 2.0)
    similarity = made.meta.pop("similarity")
    assert 0 < similarity < 0.97 and made.meta.pop("similarities") == [similarity]
    kept = made.meta.pop("kept_tokens")
    assert 0 <= kept < 20
    assert made.meta == {"seed": 5, "tries": 1, "guided": True, "image_tokens": 2 * IMAGE_TOKENS,
                         "chosen_by": "source", "source": {"x": 1}}  # fmt: skip
    assert Record.parse(made.to_json()) == made


def test_a_try_is_one_batch_and_only_open_records_are_tried_again(root: Path) -> None:
    """Of three records one changes at once, one at try 3, and one never but in the unguided try."""
    true = {"easy": "A red circle. A star.", "late": "A blue circle.", "hard": "A green circle."}
    tries: list[str] = []

    def reply(job: Job, greedy: bool) -> str:
        count = tries.count(job.key) + 1
        tries.append(job.key)
        if not job.prefix or job.key == "easy" or (job.key == "late" and count == 3):
            return "An elephant."
        return true[job.key].removeprefix(job.prefix)

    model = Scripted(reply)
    sources = [source(name, text) for name, text in true.items()]
    made = run(load("bdhs"), model, root, *sources)
    assert [[job.key for job in call] for call in model.calls] == [
        ["easy", "easy", "late", "hard"], ["late", "hard"], ["late", "hard"], ["hard"], ["hard"]]  # fmt: skip
    outcomes = {name: (record.meta["tries"], record.meta["guided"]) for name, record in made.items()}
    assert outcomes == {"easy": (1, True), "late": (3, True), "hard": (5, False)}
    assert rejected(made["hard"]) == "An elephant." and made["hard"].meta["similarity"] is None
    assert made["hard"].meta["similarities"] == [1.0] * 4
    assert made["late"].meta["similarities"] == [1.0, 1.0, made["late"].meta["similarity"]]
    assert [load("bdhs").outcome(made[name]) for name in ("late", "hard")] == ["try 3 (guided)", "try 5 (unguided)"]


def test_batch_size_cuts_the_batch_and_changes_nothing(root: Path) -> None:
    sources = [source(f"s{i}", CAPTION) for i in range(3)]

    def reply(job: Job, greedy: bool) -> str:
        return f" thing {job.seed}."

    small, large = Scripted(reply), Scripted(reply)
    made = run(load("bdhs"), small, root, *sources, batch_size=2)
    assert [len(call) for call in small.calls] == [2, 2, 2, 2, 1]
    assert made == run(load("bdhs"), large, root, *sources, batch_size=100)
    assert [len(call) for call in large.calls] == [9]
    assert made["s1"] == run(load("bdhs"), Scripted(reply), root, sources[1])["s1"], "nor does the unit"


def test_seeds_differ_by_source_try_and_sentence(root: Path) -> None:
    sources = [source("a", CAPTION), source("b", CAPTION)]
    model = Scripted(lambda job, greedy: CAPTION.removeprefix(job.prefix) if job.prefix else "")
    run(load("bdhs"), model, root, *sources)
    seeds = [job.seed for job in model.jobs]
    assert len(set(seeds)) == len(seeds) == 2 * (4 * 3 + 1)
    again = Scripted(model.reply)
    run(load("bdhs", seed=1), again, root, *sources)
    assert not set(seeds) & {job.seed for job in again.jobs}


def test_one_mask_a_try_shared_by_all_sentences(root: Path) -> None:
    model = Scripted(lambda job, greedy: CAPTION.removeprefix(job.prefix) if job.prefix else "Else.")
    made = run(load("bdhs", rho_th=0.5), model, root, source("s", CAPTION, ("a.png", "b.png")))["s"]
    masks = [np.stack([job.keep for job in call]) for call in model.calls]
    assert [mask.shape for mask in masks] == [(3, 128)] * 4 + [(1, 128)]
    assert all((mask == mask[0]).all() for mask in masks)
    assert len({mask[0].tobytes() for mask in masks}) == 5, "each try draws a new one"
    assert made.meta["kept_tokens"] == masks[-1].sum()


def test_one_draw_of_noise_a_try_shared_by_all_sentences(root: Path) -> None:
    """With the mask or alone; it belongs to seed, source and try, and to nothing else."""
    sources = [source(name, CAPTION) for name in "ab"]

    def noises(*records: Record, **options: object) -> list[list[Noise]]:
        model = Scripted(lambda job, greedy: CAPTION.removeprefix(job.prefix) if job.prefix else "Else.")
        run(load("bdhs", n_tries=3, **options), model, root, *records, batch_size=100)
        assert all(job.keep.all() for job in model.jobs) == (options.get("rho_th") == 0)
        return [[job.noise for job in call] for call in model.calls]

    tries = noises(*sources, noise_steps=500, rho_th=0.0)
    assert [len(found) for found in tries] == [6, 6, 2]
    assert [len(set(found)) for found in tries] == [2, 2, 2], "one a source, whatever the sentence"
    assert len({noise.seed for found in tries for noise in found}) == 6, "each try draws another"
    assert {noise.steps for found in tries for noise in found} == {500}
    assert noises(sources[1], noise_steps=500) == [found[len(found) // 2 :] for found in tries], (
        "nor the unit, nor rho_th"
    )
    assert not {*noises(*sources, noise_steps=500, seed=1)[0]} & {*tries[0]}
    assert {noise for found in noises(*sources) for noise in found} == {None}


def test_an_answer_that_the_model_writes_first_is_of_the_clean_picture(root: Path) -> None:
    model = Scripted(lambda job, greedy: "A cat. It sits." if greedy else " dog.")
    run(load("bdhs", noise_steps=500), model, root, source("s", None))
    assert [job.noise is None for job in model.jobs] == [True, False, False]


@pytest.mark.parametrize("options, share", [
    ({"rho_th": 0.99}, 0.01),
    ({"rho_th": 0.5}, 0.5),
    ({"keep_tokens": 6}, 6 / IMAGE_TOKENS),
    ({"keep_tokens": 100}, 1.0),
    ({"rho_th": 0.0}, 1.0),
    ({"rho_th": 1.0}, 0.0),
])  # fmt: skip
def test_rate_of_kept_tokens(options: dict, share: float, root: Path) -> None:
    sources = [source(f"s{i}", "A cat.") for i in range(300)]
    made = run(load("bdhs", **options), Scripted(other_words), root, *sources)
    kept = np.array([record.meta["kept_tokens"] for record in made.values()])
    count = len(kept) * IMAGE_TOKENS
    spread = 4 * (share * (1 - share) / count) ** 0.5
    assert kept.sum() / count == pytest.approx(share, abs=spread)
    if 0 < share < 1:
        assert kept.std() == pytest.approx((IMAGE_TOKENS * share * (1 - share)) ** 0.5, rel=0.2), "binomial"


def test_yes_and_no_are_swapped_half_of_the_time(root: Path) -> None:
    sources = [source(f"s{i}", "Yes, there is a cat.") for i in range(200)]
    model = Scripted(other_words)
    made = run(load("bdhs"), model, root, *sources)
    swapped = sum(rejected(record).startswith("No,") for record in made.values())
    assert 75 < swapped < 125
    assert {job.prefix.split()[0] for job in model.jobs} == {"Yes,", "No,"}


def test_one_word_answers(root: Path) -> None:
    """Half are swapped without asking the model, which repeats the true word; the others are tried again."""
    sources = [source(f"s{i}", "Yes.") for i in range(200)]
    model = Scripted(lambda job, greedy: "yes")
    made = run(load("bdhs"), model, root, *sources)
    kept = [record for record in made.values() if isinstance(record, Record)]
    assert {rejected(record) for record in kept} == {"No."}
    assert 80 < sum(record.meta["tries"] == 1 for record in kept) < 120
    never = [drop for drop in made.values() if isinstance(drop, Drop)]
    assert {drop.reason for drop in never} == {"never_differed"} and len(never) == pytest.approx(200 / 16, abs=12)


def test_an_ending_that_is_missing_means_another_try(root: Path) -> None:
    replies = iter([" dog. And", " ", " dog.", " bird."])
    model = Scripted(lambda job, greedy: next(replies))
    made = run(load("bdhs"), model, root, source("s", "A big cat. A small dog."))["s"]
    assert made.meta["tries"] == 2 and len(model.jobs) == 4


@pytest.mark.parametrize("reply", ["", " elephant that"])
def test_a_broken_sentence_is_no_answer(reply: str, root: Path) -> None:
    """Such as the token limit leaves: another try, and none after the only one."""
    given = source("s", "A red circle is here. A star.")
    model = Scripted(lambda job, greedy: reply if job.prefix.endswith("star.") or " A" in job.prefix else " dog.")
    made = run(load("bdhs", n_tries=3), model, root, given)["s"]
    assert not made.meta["guided"] and made.meta["similarities"] == [1.0, 1.0]
    made = run(load("bdhs", n_tries=1), model, root, given)["s"]
    assert made.reason == "cut_off" and made.detail.endswith(" dog. A")
    in_time = Scripted(lambda job, greedy: f"{reply} sits.")
    assert rejected(run(load("bdhs", n_tries=1), in_time, root, given)["s"]).endswith("sits.")


def test_one_try_is_guided_and_taken_as_it_is(root: Path) -> None:
    model = Scripted(lambda job, greedy: " big cat and more.")
    made = run(load("bdhs", n_tries=1, eps_s=0.0), model, root, source("s", "A big cat."))["s"]
    assert model.jobs[0].prefix and made.meta["guided"] and made.meta["similarity"] > 0
    same = Scripted(lambda job, greedy: "A big cat.".removeprefix(job.prefix))
    assert run(load("bdhs", n_tries=1), same, root, source("s", "A big cat."))["s"].reason == "never_differed"


def test_sentence_is_stopped_and_trimmed(root: Path) -> None:
    model = Scripted(lambda job, greedy: " dog, 3.5 m long. " + "More of it. " * 50)
    made = run(load("bdhs"), model, root, source("s", "A cat."))["s"]
    assert rejected(made) == "A dog, 3.5 m long."
    assert model.written == [" dog, 3.5 m long. More"], "no more than it takes to see the end"


def test_limits(root: Path) -> None:
    model = Scripted(lambda job, greedy: (" term" if greedy else " word") * 50)
    options = {"max_sentence_tokens": 3, "max_answer_tokens": 7, "eps_s": -1.0, "n_tries": 2}
    made = run(load("bdhs", **options), model, root, source("a", "A cat."), source("b", None))
    assert rejected(made["a"]) == "word " * 6 + "word"
    assert text_of(made["b"].chosen) == "term " * 6 + "term"
    guided = run(load("bdhs", **options | {"n_tries": 1}), model, root, source("a", "A cat"))["a"]
    assert rejected(guided) == "A word word word"


def test_missing_answer_is_written_by_the_model_without_a_mask(root: Path) -> None:
    model = Scripted(lambda job, greedy: " A cat. It sits.\n" if greedy else " dog.")
    sources = [source("s", None), source("t", "A bird.")]
    made = run(load("bdhs"), model, root, *sources)
    assert text_of(made["s"].chosen) == "A cat. It sits." and text_of(made["t"].chosen) == "A bird."
    assert [job.key for job in model.calls[0]] == ["s"] and model.jobs[0].keep is None
    assert [made[name].meta["chosen_by"] for name in "st"] == ["model", "source"]
    assert run(load("bdhs", write_chosen=False), model, root, sources[0])["s"] == Drop("no_answer")


def test_drops(root: Path) -> None:
    reasons = {
        "gone.png": "missing", "cut.png": "truncated", "page.png": "unreadable", "wide.png": "too_large",
        "../up.png": "bad_path"}  # fmt: skip
    sources = [source(reason, "A cat.", (name,)) for name, reason in reasons.items()]
    sources += [source("no_image", "A cat.", ()), source("empty_answer", "  "), source("fine", "A cat.")]
    sources += [source("video", "A cat.", (), videos=("a.mp4",))]
    made = run(load("bdhs"), Scripted(other_words), root, *sources)
    assert isinstance(made.pop("fine"), Record)
    assert {name: drop.reason for name, drop in made.items()} == {name: name for name in made}
    assert "gone.png" in made["missing"].detail


def test_drops_for_the_models_fault(root: Path) -> None:
    same = Scripted(lambda job, greedy: "a CAT".removeprefix(job.prefix.lower()))
    assert run(load("bdhs"), same, root, source("s", "A cat."))["s"] == Drop("never_differed", "a CAT")
    for answer, calls in ((None, 1), ("A cat.", 5)):
        silent = Scripted(lambda job, greedy: " ")
        assert run(load("bdhs"), silent, root, source("s", answer))["s"] == Drop("model_wrote_nothing")
        assert len(silent.calls) == calls


def test_comparing_whole_texts_saturates(root: Path) -> None:
    """One word of eighty: the paper's comparison of whole texts takes it for the same, the default does not."""
    words = [f"A{chr(97 + i)} thing{i} is{i} at place{i}." for i in range(20)]

    def reply(job: Job, greedy: bool) -> str:
        text = " ".join(words).removeprefix(job.prefix)
        return text.replace(" place19.", " nowhere.") if job.prefix else "Nothing."

    answer = source("s", " ".join(words))
    assert run(load("bdhs"), Scripted(reply), root, answer)["s"].meta["tries"] == 1
    assert run(load("bdhs", compare="text"), Scripted(reply), root, answer)["s"].meta["tries"] == 5


@pytest.mark.parametrize("options", [
    {"rho_th": 1.5}, {"keep_tokens": -1}, {"noise_steps": 1001}, {"n_tries": 0}, {"temperature": -0.1}, {"top_p": 0},
    {"compare": "word"}, {"max_sentence_tokens": 0}])  # fmt: skip
def test_options_out_of_range(options: dict) -> None:
    with pytest.raises(InputError) as caught:
        load("bdhs", **options)
    assert caught.value.field == next(iter(options))
