"""The algorithm of Re-Align, on a stand-in whose answers are known and an index whose neighbours are."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from PIL import Image
from scripted import Scripted, run, source

from mmalign import endpoint, runs
from mmalign.backbones import Job
from mmalign.builders import Drop, _similarity, load
from mmalign.builders.realign import COMPLETE_PROMPT, MASK_PROMPTS
from mmalign.media import open_image
from mmalign.media.hashes import content_hash
from mmalign.records import InputError, Record, assistant_message, text_of
from mmalign.retrieval import Guard, Index, Neighbour

CAPTION = "A red circle is at the top.  There is a blue star here."
MASKED = "A [MASK] is at the [MASK].  There is a [MASK] here."
OTHER = "A green cat is at the side.  There is a small dog here."
PICTURES = ("a", "b", "c", "d", "e")


@dataclass
class FakeIndex:
    """Knows who is near whom."""

    near: dict[str, Sequence[str] | None]
    root: Path
    changed: set[str] = field(default_factory=set)
    asked: list[tuple[list[str], int, Guard]] = field(default_factory=list)

    def neighbours(self, names: Sequence[str], k: int, guard: Guard) -> list[list[Neighbour] | None]:
        self.asked.append((list(names), k, guard))
        found = [self.near.get(name, ["b.png", "c.png", "d.png"]) for name in names]
        return [
            names if names is None else [Neighbour(name, 0.9 - i / 10) for i, name in enumerate(names[:k])]
            for names in found
        ]

    def contents(self, names: Sequence[str]) -> list[str]:
        return ["of before" if name in self.changed else content_hash(open_image(self.root / name)) for name in names]

    def fingerprint(self) -> str:
        return "near"

    names = ("first.png", "second.png")
    manifest = {"made_by": {"media_root": "/where/it/was"}}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures of one color each, so that a job's picture can be told by a pixel; and one that cannot be opened."""
    folder = tmp_path_factory.mktemp("media")
    for number, name in enumerate(PICTURES):
        Image.new("RGB", (8, 8), (number, 0, 0)).save(folder / f"{name}.png")
    (folder / "page.png").write_text("<html>404</html>")
    return folder


@pytest.fixture
def index(root: Path, monkeypatch: pytest.MonkeyPatch) -> FakeIndex:
    fake = FakeIndex({}, root)
    monkeypatch.setattr(Index, "open", lambda folder: fake)
    return fake


def realign(**options: object) -> Callable:
    return load("realign", **{"index": "near", "mask_rate": 1.0, **options})


def picture_of(job: Job) -> str:
    [image] = job.images
    return PICTURES[image.getpixel((0, 0))[0]]


def asked(job: Job) -> str:
    return text_of(list(job.messages))


def completes(job: Job, greedy: bool) -> str:
    return OTHER


def rejected(record: Record) -> str:
    return text_of(record.rejected)


def test_record(root: Path, index: FakeIndex) -> None:
    prompts = {"group": "g", "weight": 2.0, "gold": [assistant_message("Gold.")], "difficulty": 3.0}
    given = source("s", CAPTION, **prompts, meta={"x": 1}, rejected_images=("e.png",), strength=0.7)
    model = Scripted(completes)
    made = run(realign(seed=5), model, root, given)["s"]
    assert (made.id, made.prompt, made.images, made.chosen) == ("s#realign", given.prompt, given.images, given.chosen)
    assert (rejected(made), made.rejected_images) == (OTHER, ("b.png",))
    assert {name: getattr(made, name) for name in prompts} == prompts and made.strength is None
    assert 0 < made.meta.pop("similarity") < 0.95
    assert made.meta == {
        "seed": 5, "rank": 1, "image_similarity": 0.9, "masked": MASKED, "mask_ratio": round(5 / 13, 6),
        "masked_by": "rule", "mask_tries": 0, "chosen_by": "source", "source": {"x": 1}}  # fmt: skip
    assert Record.parse(made.to_json()) == made
    [job] = model.jobs
    assert asked(job) == f"{COMPLETE_PROMPT}\n{MASKED}" and picture_of(job) == "b" and not job.prefix


def test_the_papers_prompts() -> None:
    """Word for word."""
    assert MASK_PROMPTS["segment"] == (
        "Please mask any words of the segments related to the objects, attributes, and logical relationships of the "
        "input image in the following description by replacing them with [MASK]."
    )
    assert COMPLETE_PROMPT == (
        "Please complete the following sentence based on the input image by filling in the masked segments."
    )


def test_a_wave_asks_only_who_has_no_answer_yet_with_the_next_neighbour(root: Path, index: FakeIndex) -> None:
    """One takes the first neighbour, one the third, and one has only two and takes neither."""
    index.near["e.png"] = ["b.png", "c.png"]

    def reply(job: Job, greedy: bool) -> str:
        good = job.key == "easy" or (job.key == "late" and picture_of(job) == "d")
        return OTHER if good else CAPTION.replace("star", "Star!")

    model = Scripted(reply)
    sources = [source("easy", CAPTION), source("late", CAPTION), source("hard", CAPTION, ("e.png",))]
    made = run(realign(), model, root, *sources)
    assert [[(job.key, picture_of(job)) for job in call] for call in model.calls] == [
        [("easy", "b"), ("late", "b"), ("hard", "b")], [("late", "c"), ("hard", "c")], [("late", "d")]]  # fmt: skip
    assert (made["easy"].rejected_images, made["late"].rejected_images) == (("b.png",), ("d.png",))
    assert (made["late"].meta["rank"], made["late"].meta["image_similarity"]) == (3, 0.7)
    assert made["late"].meta["refused"] == ["same_words", "same_words"]
    assert made["hard"] == Drop("never_accepted", "same_words; same_words")
    assert [load("realign").outcome(made[name]) for name in ("easy", "late")] == ["neighbour  1", "neighbour  3"]
    assert index.asked[0][:2] == (["a.png", "a.png", "e.png"], 10)


def test_thresholds(root: Path, index: FakeIndex) -> None:
    """Three completions, each less like the answer: what is accepted is strictly below tau and at least sim_min."""
    texts = {"b": CAPTION.replace("star", "moon"), "c": CAPTION.replace("blue star", "red cat"), "d": OTHER}

    def take(**options: object) -> Record | Drop:
        model = Scripted(lambda job, greedy: texts[picture_of(job)])
        return run(realign(**options), model, root, source("s", CAPTION))["s"]

    values = _similarity.cosines(_similarity.encode_words, [CAPTION] * 3, list(texts.values())).tolist()
    assert take(tau=1.0).meta["similarity"] == round(values[0], 6)
    first, second, third = values
    assert [take(tau=tau).meta["rank"] for tau in (1.0, first, second)] == [1, 2, 3]
    assert take(tau=third).detail == "; ".join(f"too_similar ({value:.3f})" for value in values)
    assert take(tau=second, sim_min=third).meta["rank"] == 3
    refused = take(tau=first, sim_min=second + 1e-9)
    assert refused.detail.endswith(f"too_different ({second:.3f}); too_different ({third:.3f})")


def test_comparing_sentences_finds_one_word_among_many(root: Path, index: FakeIndex) -> None:
    answer = " ".join(f"A{chr(97 + i)} thing{i} is{i} at place{i}." for i in range(20))
    model = Scripted(lambda job, greedy: answer.replace("thing7", "nothing"))
    assert run(realign(compare="sentence"), model, root, source("s", answer))["s"].meta["similarity"] < 0.7
    assert run(realign(), model, root, source("s", answer))["s"].reason == "never_accepted"
    longer = Scripted(lambda job, greedy: f"{answer} More.")
    assert run(realign(compare="sentence"), longer, root, source("s", answer))["s"].reason == "never_accepted"


@pytest.mark.parametrize("bad, why", [
    ("A [MASK] is at the top. There is a small dog here.", "mask_left"),
    (f"Sure, here it is: {OTHER}", "preamble"),
    ("A cat.", "length"),
    (f"{OTHER} {OTHER} {OTHER}", "length"),
    (" ", "empty"),
])  # fmt: skip
def test_completions_that_are_none(bad: str, why: str, root: Path, index: FakeIndex) -> None:
    model = Scripted(lambda job, greedy: bad if picture_of(job) == "b" else OTHER)
    made = run(realign(), model, root, source("s", CAPTION))["s"]
    assert (rejected(made), made.rejected_images, made.meta["refused"]) == (OTHER, ("c.png",), [why])


def test_a_neighbour_that_cannot_be_opened_is_passed_over(root: Path, index: FakeIndex) -> None:
    index.near["a.png"] = ["gone.png", "page.png", "c.png"]
    model = Scripted(completes)
    made = run(realign(), model, root, source("s", CAPTION))["s"]
    assert made.rejected_images == ("c.png",) and made.meta["refused"] == ["missing", "unreadable"]
    assert len(model.jobs) == 1
    index.near["a.png"] = ["gone.png"]
    assert run(realign(), model, root, source("s", CAPTION))["s"] == Drop("never_accepted", "missing")


def test_a_picture_that_is_not_the_one_indexed(root: Path, index: FakeIndex) -> None:
    """Of a neighbour it is refused, of a source dropped before it is masked; names with both folders to look at."""
    index.changed = {"b.png", "e.png"}
    model = Scripted(completes)
    made = run(realign(mask_by="model"), model, root, source("s", CAPTION), source("t", CAPTION, ("e.png",)))
    assert made["s"].rejected_images == ("c.png",) and made["s"].meta["refused"] == ["other_picture"]
    assert made["t"].reason == "other_picture" and {job.key for job in model.jobs} == {"s"}
    assert "/where/it/was" in made["t"].detail and str(root) in made["t"].detail


# ---- masks -------------------------------------------------------------------------------------------------------


def masking(replies: dict[str, list[str]]) -> Callable[[Job, bool], str]:
    """Masks each source's answer by its next reply; completes everything."""

    def reply(job: Job, greedy: bool) -> str:
        return replies[job.key].pop(0) if "replacing" in asked(job) else OTHER

    return reply


def test_masks_by_the_model_with_the_own_picture(root: Path, index: FakeIndex) -> None:
    mask = "A red [MASK] is at the top.  There is a blue star [MASK]."
    model = Scripted(masking({"s": [mask]}))
    made = run(realign(mask_by="model"), model, root, source("s", CAPTION))["s"]
    assert (made.meta["masked_by"], made.meta["mask_tries"], made.meta["masked"]) == ("model", 1, mask)
    first, second = model.jobs
    assert asked(first) == f"{MASK_PROMPTS['segment']}\n{CAPTION}" and picture_of(first) == "a"
    assert asked(second) == f"{COMPLETE_PROMPT}\n{mask}" and picture_of(second) == "b"


def test_who_masks_badly_is_asked_once_more_and_then_the_rule_does_it(root: Path, index: FakeIndex) -> None:
    good, bad = "A [MASK] is at the top. There is a blue star here.", "Sure! A [MASK] is at the top."
    model = Scripted(masking({"at once": [good], "then": [bad, good], "never": [bad, CAPTION]}))
    sources = [source(name, CAPTION) for name in ("at once", "then", "never")]
    made = run(realign(mask_by="model"), model, root, *sources)
    assert [[job.key for job in call] for call in model.calls] == [
        ["at once", "then", "never"], ["then", "never"], ["at once", "then", "never"]]  # fmt: skip
    by = {name: (record.meta["masked_by"], record.meta["mask_tries"]) for name, record in made.items()}
    assert by == {"at once": ("model", 1), "then": ("model", 2), "never": ("rule", 2)}
    assert made["never"].meta["masked"] == MASKED
    assert load("realign").outcome(made["never"]) == "neighbour  1 (masked by the rule after all)"
    assert load("realign").outcome(made["then"]) == "neighbour  1"


def test_asking_again_without_a_temperature_would_give_the_same(root: Path, index: FakeIndex) -> None:
    model = Scripted(masking({"s": ["nothing"]}))
    made = run(realign(mask_by="model", temperature=0.0), model, root, source("s", CAPTION))["s"]
    assert (made.meta["masked_by"], made.meta["mask_tries"]) == ("rule", 1)


def test_another_model_masks(root: Path, index: FakeIndex, monkeypatch: pytest.MonkeyPatch) -> None:
    mask = "A [MASK] is at the top.  There is a blue star here."
    masker, model = Scripted(lambda job, greedy: mask), Scripted(completes)
    monkeypatch.setattr(endpoint, "load_writer", {"http://there/v1#big": masker}.get)
    builder = realign(mask_by="http://there/v1#big", mask_prompt="Hide things:", complete_prompt="Fill in:")
    assert builder.inputs() == {
        "index": "near", "masker": "scripted", "mask_prompt": runs.fingerprint("Hide things:")}  # fmt: skip
    made = run(builder, model, root, source("s", CAPTION))["s"]
    assert made.meta["masked"] == mask
    assert [asked(job) for job in masker.jobs + model.jobs] == [f"Hide things:\n{CAPTION}", f"Fill in:\n{mask}"]
    assert realign().inputs() == {"index": "near"}


@pytest.mark.parametrize("level", ["segment", "sentence"])
def test_what_a_model_that_masks_is_asked_belongs_to_the_run(level: str, index: FakeIndex) -> None:
    """Also where it is no option: another version may ask otherwise."""
    inputs = realign(mask_by="model", level=level).inputs()
    assert inputs == {"index": "near", "mask_prompt": runs.fingerprint(MASK_PROMPTS[level])}


def test_masks_of_sentences(root: Path, index: FakeIndex) -> None:
    made = run(realign(level="sentence"), Scripted(completes), root, source("s", CAPTION))["s"]
    assert made.meta["masked"] == "[MASK]  [MASK]" and made.meta["mask_ratio"] == 1


def test_seeds_change_the_masks(root: Path, index: FakeIndex) -> None:
    def masks(seed: int) -> list[str]:
        made = run(realign(mask_rate=0.1, seed=seed), Scripted(completes), root, *sources)
        return [made[record.id].meta["masked"] for record in sources]

    sources = [source(f"s{i}", CAPTION) for i in range(20)]
    assert masks(0) == masks(0) != masks(1)
    assert len(set(masks(0))) == 3, "three segments, one of which is drawn for each source"


# ---- prefix ------------------------------------------------------------------------------------------------------


def test_prefix_continues_each_sentence_from_its_first_mask(root: Path, index: FakeIndex) -> None:
    answer = "It is so.  A red circle is at the top.\n- There is a blue star, No. 3, here."
    model = Scripted(lambda job, greedy: " green thing. And more.")
    made = run(realign(complete_by="prefix"), model, root, source("s", answer))["s"]
    assert [job.prefix for job in model.jobs] == ["It is so.  A", f"{answer.rpartition('There')[0]}There is a"]
    assert {(asked(job), picture_of(job)) for job in model.jobs} == {("What is here?", "b")}
    assert rejected(made) == "It is so.  A green thing.\n- There is a green thing."
    assert model.written == [" green thing. And"] * 2, "no more than it takes to see the end"


def test_prefix_writes_a_whole_sentence_where_it_is_masked_from_its_beginning(root: Path, index: FakeIndex) -> None:
    model = Scripted(lambda job, greedy: "Green things stand. And more.")
    answer = source("s", "It is so. Red things stand here.")
    for level in ("segment", "sentence"):
        made = run(realign(complete_by="prefix", level=level), model, root, answer)["s"]
        assert rejected(made) == "It is so. Green things stand."
    assert [job.prefix for job in model.jobs] == ["It is so."] * 2


def test_prefix_follows_the_masks_of_a_model(root: Path, index: FakeIndex) -> None:
    mask = "A red circle is at [MASK].  There is a blue star here."
    model = Scripted(lambda job, greedy: mask if "replacing" in asked(job) else " no place at all.")
    made = run(realign(complete_by="prefix", mask_by="model"), model, root, source("s", CAPTION))["s"]
    assert rejected(made) == "A red circle is at no place at all.  There is a blue star here."
    assert made.meta["mask_ratio"] == round(2 / 13, 6)


def test_prefix_without_an_ending_is_refused(root: Path, index: FakeIndex) -> None:
    model = Scripted(lambda job, greedy: " " if picture_of(job) == "b" else " cat is there.")
    made = run(realign(complete_by="prefix"), model, root, source("s", CAPTION))["s"]
    assert made.meta["refused"] == ["empty"] and rejected(made) == "A cat is there.  There is a cat is there."


def test_limits(root: Path, index: FakeIndex) -> None:
    model = Scripted(lambda job, greedy: " word" * 50)
    options = {"max_sentence_tokens": 3, "max_answer_tokens": 7}
    made = run(realign(**options), model, root, source("s", CAPTION))["s"]
    assert rejected(made) == "word word word word word word word"
    made = run(realign(**options, complete_by="prefix"), model, root, source("s", CAPTION))["s"]
    assert made == Drop("never_accepted", "; ".join(["empty"] * 3)), "sentences that are cut off make no answer"
    model = Scripted(lambda job, greedy: " word word word." if len(job.prefix) < 9 else " word" * 50)
    made = run(realign(**options, complete_by="prefix"), model, root, source("s", CAPTION.rstrip(".")))["s"]
    assert rejected(made) == "A word word word.  There is a word word word", "where there is no stop none is missing"


# ---- the picture alone -------------------------------------------------------------------------------------------


def test_visual_only_takes_the_nearest_picture_and_writes_nothing(root: Path, index: FakeIndex) -> None:
    index.near["a.png"] = ["gone.png", "c.png", "d.png"]
    made = run(realign(visual_only=True), None, root, source("s", CAPTION), source("short", "It is there."))
    assert made["s"].rejected is None and made["s"].rejected_images == ("c.png",)
    assert made["s"].meta == {
        "seed": 0, "rank": 2, "image_similarity": 0.8, "refused": ["missing"], "chosen_by": "source"}  # fmt: skip
    assert Record.parse(made["s"].to_json()) == made["s"]
    assert made["short"].rejected_images == ("c.png",), "nothing has to be masked"
    assert load("realign").outcome(made["s"]) == "neighbour  2"


def test_visual_only_loads_no_second_model(index: FakeIndex) -> None:
    assert realign(visual_only=True, mask_by="nowhere").inputs() == {"index": "near"}


def test_without_a_model_a_missing_answer_is_not_written(root: Path, index: FakeIndex) -> None:
    made = run(realign(visual_only=True), None, root, source("s", None), source("t", CAPTION))
    assert made["s"] == Drop("no_answer") and made["t"].rejected_images == ("b.png",)


# ---- all else ----------------------------------------------------------------------------------------------------


def test_batch_size_cuts_the_batch_and_changes_nothing(root: Path, index: FakeIndex) -> None:
    sources = [source(f"s{i}", CAPTION) for i in range(3)]

    def reply(job: Job, greedy: bool) -> str:
        return f"A thing {job.seed} is at the side of the other one." if job.seed % 2 else CAPTION

    for options in ({}, {"complete_by": "prefix"}, {"mask_by": "model", "mask_rate": 0.3}):
        made = run(realign(**options), Scripted(reply), root, *sources, batch_size=2)
        assert made == run(realign(**options), Scripted(reply), root, *sources, batch_size=100)
        for record in sources:
            assert made[record.id] == run(realign(**options), Scripted(reply), root, record)[record.id]


@pytest.mark.parametrize("complete_by", ["prompt", "prefix"])
def test_seeds_differ_by_source_neighbour_and_sentence(complete_by: str, root: Path, index: FakeIndex) -> None:
    sources = [source("a", CAPTION), source("b", CAPTION)]
    seeds = []
    for seed in (0, 1):
        model = Scripted(lambda job, greedy: CAPTION.removeprefix(job.prefix))
        made = run(realign(complete_by=complete_by, seed=seed), model, root, *sources)
        assert {drop.reason for drop in made.values()} == {"never_accepted"}
        seeds += [job.seed for job in model.jobs]
    assert len(set(seeds)) == len(seeds) == 2 * 2 * 3 * (2 if complete_by == "prefix" else 1)


def test_missing_answer_is_written_by_the_model_before_all_else(root: Path, index: FakeIndex) -> None:
    model = Scripted(lambda job, greedy: " A cat. It sits.\n" if greedy else "A dog. It runs.")
    made = run(realign(), model, root, source("s", None), source("t", "A bird. It flies."))
    assert text_of(made["s"].chosen) == "A cat. It sits." and made["s"].meta["chosen_by"] == "model"
    assert [(job.key, picture_of(job)) for job in model.calls[0]] == [("s", "a")]
    assert run(realign(write_chosen=False), model, root, source("s", None))["s"] == Drop("no_answer")


def test_drops(root: Path, index: FakeIndex) -> None:
    index.near |= {"x.png": None, "d.png": []}
    sources = [
        source("missing", CAPTION, ("gone.png",)), source("unreadable", CAPTION, ("page.png",)),
        source("no_image", CAPTION, ()), source("several_images", CAPTION, ("a.png", "b.png")),
        source("video", CAPTION, videos=("a.mp4",)), source("not_in_index", CAPTION, ("x.png",)),
        source("no_neighbour", CAPTION, ("d.png",)), source("empty_answer", " "),
        source("nothing_to_mask", "It is there."), source("fine", CAPTION)]  # fmt: skip
    made = run(realign(), Scripted(completes), root, *sources)
    assert isinstance(made.pop("fine"), Record)
    assert {name: drop.reason for name, drop in made.items()} == {name: name for name in made}
    assert made["not_in_index"].detail == "x.png; a name that is there: first.png"
    silent = Scripted(lambda job, greedy: " ")
    assert run(realign(), silent, root, source("s", None))["s"] == Drop("model_wrote_nothing")


def test_guard(root: Path, index: FakeIndex) -> None:
    options = {"image_similarity_min": 0.2, "same_content": False, "hash_distance": 4, "k": 3}
    for given in ({}, {"image_similarity_max": 0.9}, {"image_similarity_max": 1.0, **options}):
        run(realign(**given), Scripted(completes), root, source("s", CAPTION))
    assert [(k, guard) for _, k, guard in index.asked] == [
        (10, Guard()), (10, Guard(similarity_max=0.9)), (3, Guard(None, 0.2, False, 4))]  # fmt: skip


def test_a_model_is_asked_for() -> None:
    with pytest.raises(InputError, match="it completes the answers") as caught:
        realign().check(None)
    assert caught.value.field == "model"
    realign(visual_only=True).check(None)
    realign().check(Scripted(completes))


def test_the_index_is_asked_for() -> None:
    builder = load("realign")
    with pytest.raises(InputError, match="mmalign index") as caught:
        builder.inputs()
    assert caught.value.field == "index"


@pytest.mark.parametrize("options", [
    {"k": 0}, {"sim_min": 0.96}, {"compare": "word"}, {"level": "word"}, {"mask_rate": 0}, {"mask_rate": 1.5},
    {"complete_by": "magic"}, {"length_min": 1.1}, {"length_max": 0.9}, {"temperature": -0.1}, {"top_p": 0},
    {"encoder": "mpnet"}, {"max_sentence_tokens": 0}, {"max_answer_tokens": 0}])  # fmt: skip
def test_options_out_of_range(options: dict) -> None:
    with pytest.raises(InputError) as caught:
        load("realign", **options)
    assert caught.value.field == next(iter(options))
