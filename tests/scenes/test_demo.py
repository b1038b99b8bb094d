"""The demo, small: every move really runs, through the launcher, and its page stands alone."""

from __future__ import annotations

import json
import re

from tests.tiny import run_command

SMALL = ("--pictures", "40", "--test", "20", "--seed", "5")


def test_demo(tmp_path):
    shown = run_command("demo", "--output", tmp_path, *SMALL).stdout
    for move in ("build bdhs", "train dpo", "mmalign.benchmarks.suite"):
        assert move in shown
    summary = json.loads((tmp_path / "summary.json").read_text())
    for name in ("base", "aligned"):
        scores = summary[name]
        assert {"chair_i", "chair_s", "recall", "pope"} <= set(scores)
        assert set(scores["pope"]) == {"random", "popular", "adversarial"}
        assert 0 <= scores["chair_i"] < 1
        assert scores["recall"] > 0.3  # it looks
    page = (tmp_path / "report.html").read_text()
    assert "data:image/png" in page
    assert not re.search(r"""(src|href)=["']?https?:""", page)
    log = (tmp_path / "log.txt").read_text()
    assert "exits successfully" in log

    made = [*tmp_path.glob("bdhs.jsonl"), *tmp_path.glob("aligned/*.safetensors"), *tmp_path.glob("answers/*/*.jsonl")]
    before = {file: file.stat().st_mtime_ns for file in made}
    assert len(before) == 6
    again = run_command("demo", "--output", tmp_path, *SMALL).stdout
    assert {file: file.stat().st_mtime_ns for file in made} == before  # finished moves are not done again
    assert json.loads((tmp_path / "summary.json").read_text()) == summary
    assert (tmp_path / "report.html").read_text() == page
    assert "Look at" in again

    pictures = {file: file.stat().st_mtime_ns for file in tmp_path.glob("world/*/images/*.png")}
    other = run_command("demo", "--output", tmp_path, *SMALL[:-1], "6", check=False)
    assert other.returncode == 2
    assert "another demo (seed 5)" in other.stderr
    assert {file: file.stat().st_mtime_ns for file in pictures} == pictures  # nothing was drawn over
