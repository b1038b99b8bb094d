"""`mmalign score`: one JSON object, a table, and errors that say what to do."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import pytest

from mmalign.benchmarks import score
from mmalign.records import InputError


@pytest.fixture
def files(tmp_path: Path) -> list[str]:
    row = {"image": "a.jpg", "text": "Is there a dog in the image?"}
    questions = [{**row, "question_id": n, "label": label} for n, label in ((1, "yes"), (2, "no"))]
    answers = [{"id": "random/1", "text": "Yes"}]
    for name, rows in (("pope_random.json", questions), ("answers.jsonl", answers)):
        (tmp_path / name).write_text("".join(json.dumps(r) + "\n" for r in rows), encoding="utf-8")
    return [
        "pope",
        "--data",
        str(tmp_path / "pope_random.json"),
        "--predictions",
        str(tmp_path / "answers.jsonl"),
    ]


def run(argv: list[str]) -> int:
    parser = argparse.ArgumentParser()
    score.add_arguments(parser)
    return score.command(parser.parse_args(argv))


def test_json_is_one_object_and_the_warning_is_elsewhere(files: list[str], capsys: pytest.CaptureFixture) -> None:
    assert run([*files, "--json"]) == 0
    out, err = capsys.readouterr()
    result = json.loads(out)
    assert result["metrics"]["accuracy"] == 0.5 and result["n_missing"] == 1
    assert "1 of 2 questions have no prediction" in err


def test_table_names_rule_counts_groups_and_metrics(files: list[str], capsys: pytest.CaptureFixture) -> None:
    assert run([*files, "--rule", "xor"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "pope (rule xor): 2 items, 1 missing, 0 unparsed"
    assert lines[2].split() == ["accuracy", "precision", "recall", "f1", "yes_ratio"]
    assert lines[3].split() == ["random", "0.5000", "1.0000", "1.0000", "1.0000", "0.5000"]
    assert lines[4].split() == ["all", *lines[3].split()[1:]]


def test_output_file_holds_what_json_prints(files: list[str], tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    run([*files, "--json", "--output", str(tmp_path / "new" / "score.json")])
    assert json.loads((tmp_path / "new" / "score.json").read_text()) == json.loads(capsys.readouterr().out)


def test_options_reach_the_questions_and_unknown_ones_are_refused(files: list[str]) -> None:
    assert run([*files, "--option", "prompt=short"]) == 0
    with pytest.raises(InputError, match="no prompt 'long' .*official, short"):
        run([*files, "--option", "prompt=long"])
    with pytest.raises(InputError, match="field 'promt': no such option .*prompt"):
        run([*files, "--option", "promt=short"])


def test_help_shows_an_example(capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit):
        run(["--help"])
    assert "mmalign score pope --data" in capsys.readouterr().out
