"""The page says what the code does."""

from __future__ import annotations

import dataclasses
import re

import pytest

from mmalign import flags
from mmalign.retrieval import Guard
from mmalign.retrieval.make import IndexOptions
from tests.conftest import REPOSITORY

PAGE = (REPOSITORY / "docs" / "retrieval.md").read_text(encoding="utf-8")


def shown(value: object) -> str:
    return {True: "on", False: "off", None: "", dataclasses.MISSING: ""}.get(value, str(value))


def test_options() -> None:
    """Every flag has its row, with its default; what a default of None comes to is said in words."""
    rows = dict(re.findall(r"^\| `--(\w+)`[^|]*\| ([^|]*?) *\|", PAGE, re.MULTILINE))
    assert rows.pop("config") == ""
    fields = {field.name: field.default for field in dataclasses.fields(IndexOptions)}
    assert rows.keys() == fields.keys()
    for name, default in fields.items():
        assert rows[name] == shown(default) or default is None and name in ("search", "media_root")


def test_guard() -> None:
    rows = dict(re.findall(r"^\| `(\w+)` \| (\S+) \|", PAGE, re.MULTILINE))
    guard = {field.name: field.default for field in dataclasses.fields(Guard)}
    assert rows == {name: "off" if value is None else shown(value) for name, value in guard.items()}
    assert f"**Why {Guard().similarity_max}.**" in PAGE


@pytest.mark.parametrize("given", [["--model", "m", "--images", "i"], ["--encoder", "e", "--data", "d"]])
def test_config(given: list[str]) -> None:
    """The YAML beside the script has the defaults."""
    parser = flags.parser([IndexOptions], prog="")
    config = ["--config", str(REPOSITORY / "data_builders" / "index.yaml")]
    [with_config] = flags.parse(parser, [*config, *given, "--output", "o"])
    [without] = flags.parse(parser, [*given, "--output", "o"])
    assert with_config == without
