"""Flags from dataclasses, and YAML under them."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import pytest

from mmalign import flags
from mmalign.plugins import option
from mmalign.records import InputError


@dataclass(frozen=True)
class Method:
    """A method."""

    beta: float = option(0.1, "100%% of it.")
    keep: float | None = option(None, "How many.")
    soft: bool = option(True, "Whether.")
    name: str = option("plain", "Its name.")


@dataclass
class Data:
    """Some data."""

    data: str = field(metadata={"help": "A file."})
    freeze: list[str] = field(default_factory=lambda: ["tower"], metadata={"help": "Parts."})


def parse(*arguments: str) -> tuple[Method, Data]:
    parser = flags.parser([Method, Data], prog="mmalign test", description="Nothing.", epilog="Example: none")
    return flags.parse(parser, arguments)


def config(folder: Path, text: str | bytes) -> str:
    path = folder / "config.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return str(path)


def test_defaults_and_flags() -> None:
    assert parse("--data", "d.jsonl") == (Method(), Data("d.jsonl"))
    method, data = parse("--data=d", "--beta", "1e-3", "--keep", "6", "--no_soft", "--freeze", "a", "b")
    assert method == Method(1e-3, 6.0, False) and data.freeze == ["a", "b"]


def test_yaml_stands_under_the_flags(tmp_path: Path) -> None:
    text = "data: d.jsonl\nbeta: 2e-6\nsoft: false\nkeep: null\nname: --odd\nfreeze: [a, b]\n"
    path = config(tmp_path, text)
    assert parse("--config", path) == (Method(2e-6, None, False, "--odd"), Data("d.jsonl", ["a", "b"]))
    method, data = parse("--beta", "3", f"--config={path}", "--data", "e.jsonl", "--soft", "--freeze", "c")
    assert method == Method(3.0, None, True, "--odd") and data == Data("e.jsonl", ["c"])


def test_an_empty_file_and_what_the_launcher_appends(tmp_path: Path) -> None:
    path = config(tmp_path, "# nothing\n")
    assert parse("--config", path, "--data", "d", "--local_rank=3") == (Method(), Data("d"))
    assert parse("--data", "d", "--local-rank", "3")[1] == Data("d")


@pytest.mark.parametrize("arguments, problem", [
    ((), "arguments are required: --data"),
    (("--data", "d", "--betta", "1"), "no such flag: --betta; did you mean beta?"),
    (("--data", "d", "--zzz=1"), "no such flag: --zzz=1; see --help"),
    (("--data", "d", "stray"), "no such flag: stray"),
    (("--dat", "d"), "required: --data"),
    (("--data", "d", "--beta", "much"), "--beta: invalid float value: 'much'"),
    (("--data", "d", "--config"), "--config: expected one argument"),
    (("--data", "d", "--config", "nowhere.yaml"), "nowhere.yaml: cannot be read: No such file"),
])  # fmt: skip
def test_wrong_flags(arguments: tuple[str, ...], problem: str) -> None:
    with pytest.raises(InputError, match=problem):
        parse(*arguments)


@pytest.mark.parametrize("text, name, problem", [
    ("betta: 1", "betta", "no such flag; did you mean beta?"),
    ("config: other.yaml", "config", "no such flag"),
    ("1: 2", "1", "no such flag"),
    ("- beta", None, "expected one mapping"),
    ("a: [", None, "not YAML"),
    (b"\xff\xfe\x00", None, "not YAML"),
])  # fmt: skip
def test_wrong_yaml(text: str | bytes, name: str | None, problem: str, tmp_path: Path) -> None:
    path = config(tmp_path, text)
    with pytest.raises(InputError, match=problem) as caught:
        parse("--data", "d", "--config", path)
    assert str(caught.value.file) == path and caught.value.field == name


def test_help(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        parse("--help")
    said = capsys.readouterr().out
    assert caught.value.code == 0
    assert "100% of it. (default: 0.1)" in said and "Example: none" in said and "--config FILE.yaml" in said
