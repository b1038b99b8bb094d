"""The parts of the study of clips; what it launches is tested where it belongs."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from mmalign.records import RecordFile, assistant_message, text_of, write_jsonl
from mmalign.scenes.video_study import ASKED, STAGES, TRUE_ANSWERS, VideoStudy, backwards, pairs_in_words


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    one = VideoStudy(tmp_path_factory.mktemp("study"), seed=3, pictures=20, held_out=4, test=3)
    one.world()
    sources = list(RecordFile(one.folder / "sources.jsonl", one.pool))
    wrong = [replace(r, id=f"{r.id}#rrpo", rejected=[assistant_message("Never.")]) for r in sources[:31]]
    write_jsonl(one.folder / "built_rrpo.jsonl", wrong)
    stories = list(RecordFile(one.pool / "clips.jsonl"))
    told = [
        replace(backwards(r), id=f"{r.id}#reverse-r{level}", difficulty=1 / level)
        for level, some in ((2, stories[:9]), (4, stories))
        for r in some
    ]
    write_jsonl(one.folder / "built_temple.jsonl", told)
    one.even_out()
    return one


def records(study, name):
    return list(RecordFile(study.folder / f"{name}.jsonl", study.pool))


def test_one_question_of_each_kind_is_a_source(study):
    sources = records(study, "sources")
    kinds = [(record.videos[0], record.meta["type"]) for record in sources]
    assert len(set(kinds)) == len(kinds) == 20 * len(ASKED)
    assert all(len(record.chosen) == 1 and record.videos for record in sources)


def test_every_kind_of_training_has_as_many_records(study):
    """18: the harder level has nine."""
    temple, shuffled = records(study, "temple"), records(study, "shuffled")
    assert [len(records(study, name)) for name in ("rrpo", "temple", "shuffled", "sft")] == [18] * 4
    assert sorted(record.difficulty for record in temple) == [0.25] * 9 + [0.5] * 9
    assert sorted(record.difficulty for record in shuffled) == sorted(record.difficulty for record in temple)
    assert [r.id for r in shuffled] == [r.id for r in temple]
    assert [r.difficulty for r in shuffled] != [r.difficulty for r in temple]
    assert all(record.rejected is None for record in records(study, "sft"))


def test_a_story_backwards_has_the_same_events(study):
    [pair, *_] = RecordFile(study.folder / "held_out.jsonl", study.ranked_root)
    chosen, rejected = (text_of(side).split(". ") for side in (pair.chosen, pair.rejected))
    assert [part.split()[0] for part in rejected] == ["First", "Then", "Last"]
    assert [p.rstrip(".").split(" ", 1)[1] for p in chosen] == [p.rstrip(".").split(" ", 1)[1] for p in rejected][::-1]


def test_stages_are_written_for_those_that_have_some(study, monkeypatch):
    launched = []
    monkeypatch.setattr(VideoStudy, "_launch", lambda self, *arguments: launched.append([*map(str, arguments)]))
    for name in ("rrpo", *STAGES):
        study.train_with(name, study.folder / "models" / name)
        config = json.loads((study.folder / "configs" / f"{name}.yaml").read_text())
        assert len(config.get("stages", ())) == len(STAGES.get(name, ()))
        for stage in config.get("stages", ()):
            assert ("data" in stage) == (stage["name"] == TRUE_ANSWERS["name"])
    assert [command[2] for command in launched] == ["rrpo", *["dpo"] * len(STAGES)]


def test_what_is_said_of_the_pairs(study):
    rows = [line.split(" | ") for line in pairs_in_words([study, study]).splitlines()[2:]]
    assert [row[1] for row in rows] == ["36", "36"]
    assert [row[3] for row in rows] == ["100.0 %", "100.0 %"]
    assert [row[4].rstrip(" |") for row in rows] == ["0.0 %", "0.0 %"]
