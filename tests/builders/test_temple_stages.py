"""Results that are kept: by what they depend on, whole or not at all, and never made twice."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from mmalign.builders import Drop
from mmalign.builders._stages import Stages


class Maker:
    """Makes results, and counts."""

    def __init__(self, things: list[Any], results: dict[Any, Any]) -> None:
        self.things, self.results, self.made = things, results, []

    def __call__(self, missing: list[int]) -> list[Any]:
        self.made += [self.things[place] for place in missing]
        return [self.results[self.things[place]] for place in missing]


RESULTS = {"a": [1, (2, 3)], "b": Drop("broken", "at byte 5"), "c": "text", "d": {"x": None}}
KEPT = {"a": [1, [2, 3]], "b": Drop("broken", "at byte 5"), "c": "text", "d": {"x": None}}


def ask(stages: Stages, things: str, stage: str = "s") -> tuple[list[Any], list[str]]:
    maker = Maker([*things], RESULTS)
    return stages.results(stage, [*things], maker), maker.made


@pytest.mark.parametrize("kept", [True, False])
def test_results_in_order_each_made_once(tmp_path: Path, kept: bool) -> None:
    stages = Stages(tmp_path if kept else None)
    assert ask(stages, "abcab") == ([KEPT[name] for name in "abcab"], ["a", "b", "c"])
    assert ask(stages, "dca") == ([KEPT[name] for name in "dca"], ["d"] if kept else ["d", "c", "a"])
    assert ask(stages, "a", "other")[1] == ["a"], "another stage"
    assert any(tmp_path.iterdir()) == kept


def test_places_of_files(tmp_path: Path) -> None:
    assert Stages(tmp_path).result("s", ["a"], lambda: 5) == 5
    [file] = tmp_path.rglob("*.json")
    stage, two, key = file.relative_to(tmp_path).with_suffix("").parts
    assert stage == "s" and len(two) == 2 and key.startswith(two)
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and path != file]


@pytest.mark.parametrize("damage", [
    lambda data: data[: len(data) // 2], lambda data: b"\0" * len(data), lambda data: b"", lambda data: b"[1, 2]\n",
    lambda data: data.replace(b"text", b"test"), lambda data: b'{"crc32": 0, "entry": {}}'])  # fmt: skip
def test_damaged_entries_are_made_anew(tmp_path: Path, damage: Any) -> None:
    stages = Stages(tmp_path)
    ask(stages, "c")
    [file] = tmp_path.rglob("*.json")
    whole = file.read_bytes()
    file.write_bytes(damage(whole))
    assert ask(stages, "c") == (["text"], ["c"]) and file.read_bytes() == whole
    assert ask(stages, "c")[1] == []


@pytest.mark.parametrize("reason", ["timeout", "crashed", "missing"])
def test_what_the_machine_may_be_to_blame_for_is_tried_again(tmp_path: Path, reason: str) -> None:
    stages = Stages(tmp_path)
    assert stages.result("s", "a", lambda: Drop(reason)) == Drop(reason)
    assert stages.result("s", "a", lambda: "done") == "done" == stages.result("s", "a", lambda: "again")


def test_what_was_made_before_a_failure_is_kept(tmp_path: Path) -> None:
    def breaks(missing: list[int]):
        yield "one"
        raise KeyboardInterrupt

    stages = Stages(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        stages.results("s", ["a", "c"], breaks)
    assert ask(stages, "ac") == (["one", "text"], ["c"])


def test_keys_follow_the_bytes_of_files(tmp_path: Path) -> None:
    clip = tmp_path / "a"
    made = []
    for content in ("one", "two", "one"):
        clip.write_text(content)
        Stages(tmp_path / "work").result("s", clip, lambda: made.append(content) or content)  # noqa: B023
    assert made == ["one", "two"]
