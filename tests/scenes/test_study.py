"""The study's own parts; what it launches is tested where it belongs."""

from __future__ import annotations

import json

import pytest

from mmalign.benchmarks import chair
from mmalign.records import Record, assistant_message, user_message, write_jsonl
from mmalign.scenes import MODEL, study
from mmalign.scenes.dataset import write_split
from mmalign.scenes.study import (
    COLUMNS,
    Study,
    changes,
    enriched,
    most_alike,
    pairs_in_words,
    ranking,
    table,
)


def test_most_alike_is_another_picture_with_other_things():
    objects = {"a": {"x", "y", "z"}, "b": {"x", "y"}, "c": {"q"}, "d": {"x", "y", "z"}, "e": {"q", "z"}}
    found = most_alike(objects)
    assert found["a"] == "b"  # not d, which shows the same
    assert found["b"] == "a"
    assert found["c"] == "e"
    assert all(objects[found[name]] != objects[name] for name in objects)


def test_pairs_get_spans_rewards_and_a_picture(tmp_path):
    (tmp_path / "objects.json").write_text(json.dumps({"1.png": ["red square"], "2.png": ["blue circle"]}))
    question = next(q for q in chair.questions(tmp_path) if q.id == "1.png")
    prompt = [user_message("Describe the image.", images=1)]
    pair = Record(
        id="p", prompt=prompt, images=("1.png",), chosen=[assistant_message("A red square.")],
        rejected=[assistant_message("A blue circle and a red square and a blue circle.")],
    )  # fmt: skip
    found = enriched(pair, question, "2.png")
    assert found.chosen_scores == {"reward": 0.0}
    assert found.rejected_scores == {"reward": -2.0}
    assert found.rejected_images == ("2.png",)
    assert found.rejected_spans
    assert Record.parse(found.to_json()) == found


def test_pairs_in_words(tmp_path):
    one = Study(tmp_path, seed=0)
    prompt = [user_message("What?")]
    margins = (2.0, 0.0, 1.0, 0.0)
    write_jsonl(
        tmp_path / "pairs.jsonl",
        [Record(str(i), prompt, chosen=[assistant_message("A.")], rejected=[assistant_message("B.")],
                chosen_scores={"reward": m}, rejected_scores={"reward": 0.0}) for i, m in enumerate(margins)],
    )  # fmt: skip
    assert pairs_in_words([one, one]).startswith("8 pairs: the rejected answer names 0.75 more things")
    assert pairs_in_words([one]).endswith("50% of them name as many")


def test_ranking_of_the_bundled_model_by_itself(tmp_path):
    world = write_split(tmp_path, "pairs", 6, seed=3)
    rows = [json.loads(line) for line in (world / "sft.jsonl").read_text().splitlines()]
    wrong = [{**row, "rejected": [assistant_message("There is nothing at all.")]} for row in rows]
    write_jsonl(world / "pairs.jsonl", wrong)
    found = ranking(str(MODEL), world / "pairs.jsonl", world, batch_size=4)
    assert found["accuracy"] == 1.0  # true captions against nonsense
    assert found["reward_accuracy"] == 0.0
    assert found["distance"] == pytest.approx(0.0, abs=1e-6)


def test_table_and_picture(tmp_path):
    studies = [Study(tmp_path / str(seed), seed=seed, entrants=("sft", "tdpo 1")) for seed in (0, 1)]
    for number, one in enumerate(studies):
        for shift, name in enumerate(("base", "sft", "tdpo_1")):
            folder = one.folder / "answers" / name
            folder.mkdir(parents=True)
            for column, (file, *keys) in COLUMNS.items():
                path = folder / f"{file}.json"
                content = json.loads(path.read_text()) if path.exists() else {}
                inner = content
                for key in keys[:-1]:
                    inner = inner.setdefault(key, {})
                inner[keys[-1]] = 0.25 + 0.5 * number + 0.01 * shift + 0 * len(column)
                path.write_text(json.dumps(content))
    lines = table(studies).splitlines()
    assert [line.split("|")[1].strip() for line in lines] == ["", "---", "base", "sft", "tdpo 1"]
    assert lines[3].split("|")[2].strip() == "51.0 ± 35.4"  # 26 and 76 %
    rows = changes(studies).splitlines()
    assert rows[2] == "| sft | +1.0 (+1.0, +1.0) | +1.0 (+1.0, +1.0) | +1.0 (+1.0, +1.0) | +1.0 (+1.0, +1.0) |"
    study.draw(studies, tmp_path / "picture.png")
    assert (tmp_path / "picture.png").stat().st_size > 10_000
