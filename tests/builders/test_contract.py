"""What every builder promises; run on every file in ``mmalign/builders``."""

from __future__ import annotations

import dataclasses

import pytest

from mmalign import builders, plugins
from mmalign.records import json_line
from tests.conftest import REPOSITORY

NAMES = plugins.names("mmalign.builders")


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
