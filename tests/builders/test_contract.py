"""What every builder promises; run on every file in ``mmalign/builders``."""

from __future__ import annotations

import dataclasses
import re
import shlex
from fractions import Fraction

import pytest

from mmalign import builders, flags, plugins
from mmalign.builders import BACKBONE
from mmalign.records import json_line
from tests.conftest import REPOSITORY

NAMES = plugins.names("mmalign.builders")
DOCS = REPOSITORY / "docs"
HEADINGS = ["Paper", "Algorithm", "Data", "Launch", "Options", "What is logged", "Departures from the paper"]


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.split("|")[1:-1]]


def page(name: str) -> str:
    return (DOCS / "builders" / f"{name}.md").read_text(encoding="utf-8")


def option_rows(name: str) -> list[tuple[list[str], str, str]]:
    """Of the table of options: flags (without their ``--no_`` twins), what is said of the default, the meaning."""
    section = page(name).partition("\n## Options\n")[2].partition("\n## ")[0]
    rows = [cells(line) for line in section.splitlines() if line.startswith("| `--")]
    return [
        ([flag for flag in re.findall(r"`--(\w+)`", row[0]) if not flag.startswith("no_")], row[1], row[2])
        for row in rows
    ]


def is_said(default: object, shown: str, meaning: str) -> bool:
    """Whether a cell gives a default. Long texts, and rows that point to another page, may leave it out."""
    if isinstance(default, bool):
        return shown == ("on" if default else "off")
    if shown in ("", "the paper's"):
        return default in (None, "") or "](" in meaning or len(str(default)) > 80
    if isinstance(default, float) and "/" in shown:
        return float(Fraction(shown)) == default
    return shown == str(default)


def test_builders_were_found():
    assert "bdhs" in NAMES


@pytest.mark.parametrize("name", NAMES)
class TestBuilder:
    def test_is_a_frozen_dataclass_with_documented_options(self, name):
        builder = builders.load(name)
        with pytest.raises(dataclasses.FrozenInstanceError):
            builder.anything = 1
        assert type(builder).__doc__
        for field in dataclasses.fields(builder):
            assert field.metadata.get("help"), f"{name}.{field.name} has no help"

    def test_its_options_can_stand_in_a_manifest(self, name):
        assert json_line(dataclasses.asdict(builders.load(name)))

    def test_has_a_script_with_a_yaml_a_page_and_tests(self, name):
        for file in (f"data_builders/{name}.py", f"data_builders/{name}.yaml", f"docs/builders/{name}.md"):
            assert (REPOSITORY / file).is_file(), f"{file} is missing"
        assert (REPOSITORY / "tests" / "builders" / f"test_{name}.py").is_file()

    def test_its_page(self, name):
        text = page(name)
        assert re.findall(r"^## (.+)$", text, re.MULTILINE) == HEADINGS
        command = re.search(rf"^    python data_builders/{name}\.py (?:.*\\\n)*.*$", text, re.MULTILINE)
        words = shlex.split(command[0].replace("\\\n", " "), comments=True)[2:]
        words = [str(REPOSITORY / word) if word.endswith(".yaml") else word for word in words]
        assert str(REPOSITORY / "data_builders" / f"{name}.yaml") in words
        flags.parse(builders.parser(name), words)

    def test_its_table_of_options(self, name):
        """Every option stands in it with its default, and there is no flag in it that is not there."""
        rows = option_rows(name)
        listed = [flag for several, _, _ in rows for flag in several]
        assert len(listed) == len(set(listed))
        known = builders.parser(name)._option_string_actions
        assert [flag for flag in listed if f"--{flag}" not in known] == []
        builder = builders.load(name)
        for field in dataclasses.fields(builder):
            assert field.name in listed, f"docs/builders/{name}.md says nothing of --{field.name}"
        for several, shown, meaning in rows:
            each = shown.split(", ") if len(several) > 1 and shown else [shown] * len(several)
            assert len(each) == len(several), several
            for flag, one in zip(several, each, strict=True):
                if hasattr(builder, flag):
                    assert is_said(getattr(builder, flag), one, meaning), f"{name}: --{flag} is said to be {one!r}"


def test_table_of_builders():
    rows = [cells(line) for line in (DOCS / "builders.md").read_text(encoding="utf-8").splitlines()]
    found = {row[0]: row[2] for row in rows if len(row) == 4 and row[0].startswith("[")}
    wants = {name: getattr(builders.load(name), "wants", BACKBONE) for name in NAMES}
    assert found == {f"[`{name}`](builders/{name}.md)": wanted for name, wanted in wants.items()}


@pytest.mark.parametrize("name", NAMES)
def test_units_of_the_yaml_are_on_the_page(name: str) -> None:
    text = (REPOSITORY / "data_builders" / f"{name}.yaml").read_text(encoding="utf-8")
    [size] = re.findall(r"^unit_size: (\d+)", text, re.MULTILINE)
    default = builders.BuildOptions.__dataclass_fields__["unit_size"].default
    said = str(default) if int(size) == default else f"{default}; {size} in the YAML"
    assert [cell for several, cell, _ in option_rows(name) if several == ["unit_size"]] in ([said], [])
