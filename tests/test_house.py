"""The house: rooms stand in order, and a room imports only from rooms above it."""

from __future__ import annotations

import ast
import subprocess
import sys
from configparser import ConfigParser
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY
from tests.tiny import run_command

ROOMS = (
    "checks", "records", "spans", "plugins", "flags", "runs", "media", "backbones", "endpoint", "objectives",
    "forward", "retrieval", "rewards", "builders", "training", "benchmarks", "interop", "reports", "scenes", "cli",
)  # fmt: skip
FILES = sorted((REPOSITORY / "mmalign").rglob("*.py"))


def room_of(path: Path) -> str:
    return path.relative_to(REPOSITORY / "mmalign").parts[0].removesuffix(".py")


def imported_rooms(path: Path) -> set[str]:
    """Rooms that a file imports from, also inside functions."""
    rooms = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        rooms.update(name.split(".")[1] for name in names if name.startswith("mmalign."))
    return rooms & set(ROOMS)


def test_files_were_found():
    assert len(FILES) > 20


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(REPOSITORY)))
def test_imports_go_one_way(path):
    room = room_of(path)
    if room == "__init__":
        assert not imported_rooms(path)
        return
    assert room in ROOMS, f"{room} has no place in the order of rooms"
    below = [other for other in imported_rooms(path) if ROOMS.index(other) > ROOMS.index(room)]
    assert not below, f"{path.name} in room {room} imports from below: {below}"


def test_objectives_know_torch_and_nothing_else():
    for path in (REPOSITORY / "mmalign" / "objectives").glob("*.py"):
        assert imported_rooms(path) <= {"objectives", "plugins"}, path
        text = path.read_text(encoding="utf-8")
        assert "transformers" not in text, path


@pytest.mark.parametrize(
    "module", ["mmalign.cli", "mmalign.records", "mmalign.benchmarks.pope", "mmalign.benchmarks.chair"]
)
def test_light_modules_import_nothing_heavy(module):
    code = f"import {module}, sys; print([m for m in ('torch', 'transformers', 'PIL') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=REPOSITORY)
    assert done.stdout.strip() == "[]"


def test_scripts_shadow_no_package():
    """A script's folder comes first on sys.path, so its neighbours must not carry the names of packages."""
    for folder in ("data_builders", "train", "eval"):
        stems = {path.stem for path in (REPOSITORY / folder).glob("*.py")}
        assert stems
        assert "__init__" not in stems
        assert not stems & {"datasets", "trl", "deepspeed", "torch", "transformers", "peft", "evaluate", "mmalign"}


def test_everything_that_is_not_python_is_installed_too():
    config = ConfigParser()
    config.read(REPOSITORY / "setup.cfg", encoding="utf-8")
    covered = set()
    for package, patterns in config["options.package_data"].items():
        folder = REPOSITORY / package.replace(".", "/")
        covered |= {file for pattern in patterns.split(",") for file in folder.glob(pattern.strip())}
    others = {
        file for file in (REPOSITORY / "mmalign").rglob("*") if file.is_file() and file.suffix not in (".py", ".pyc")
    }
    assert others
    assert others <= covered, f"not in package_data: {sorted(map(str, others - covered))}"


def test_the_readme_s_commands_have_no_flag_that_is_not_there():
    text = (REPOSITORY / "README.md").read_text(encoding="utf-8").replace("\\\n", " ")
    commands = [line.split("#")[0].split() for line in text.splitlines() if line.startswith("    mmalign ")]
    verbs = {"index", "build", "convert", "validate", "inspect", "train", "merge", "predict", "score"}
    assert {command[1] for command in commands} == verbs
    for _, verb, name, *words in commands:
        plugin = [name] if verb in ("build", "train") else []
        known = run_command(verb, *plugin, "--help").stdout
        for flag in (word for word in words if word.startswith("--")):
            assert f"{flag} " in known, f"README: mmalign {verb} has no {flag}"
