"""The pages say what the code does: tables against the classes, commands against their flags, examples run."""

from __future__ import annotations

import dataclasses
import math
import re
import shlex

import pytest

from mmalign import flags, objectives, plugins
from mmalign.objectives import load, numbers_of
from mmalign.training import metrics
from mmalign.training.options import DataOptions, ModelOptions, TrainOptions
from tests.conftest import REPOSITORY
from tests.tiny import run_command

DOCS = REPOSITORY / "docs"
NAMES = plugins.names("mmalign.objectives")
CORE = sorted(page.stem for page in (DOCS / "objectives").glob("*.md"))
HEADINGS = ["Paper", "Equation", "Data", "Launch", "Options", "What is logged", "Departures"]
TABLE = (DOCS / "objectives.md").read_text(encoding="utf-8")


def cells(line: str) -> list[str]:
    """A row of a Markdown table, whose cells may hold ``\\|``."""
    return [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]


def row_of(name: str) -> list[str]:
    rows = [cells(line) for line in TABLE.splitlines() if re.match(rf"\| \[?`{name}`", line)]
    wide = [row for row in rows if len(row) == 6]
    assert len(wide) == 1, f"docs/objectives.md has {len(wide)} rows for {name}"
    return wide[0]


def shown(value: object) -> str:
    return " ".join(map(str, value)) if isinstance(value, list) else str(value)


@pytest.mark.parametrize("name", NAMES)
def test_table_of_objectives(name):
    """Its defaults are the class's, and what it needs stands there."""
    objective = load(name)
    _, _, _, needs, defaults, when = row_of(name)
    options = [f"{field.name} {shown(getattr(objective, field.name))}" for field in dataclasses.fields(objective)]
    assert defaults == (", ".join(options) or "–")
    for need in objective.needs:
        assert need in needs
    for number in numbers_of(objective):
        assert number in needs
    for view in objective.views:
        response, _, context = view.partition("@")
        assert response in ("chosen", "rejected") or response in needs
        assert context != "rejected_prompt" or context in needs + defaults
    assert when


def test_no_objective_in_the_table_that_is_not_there():
    listed = {match for match in re.findall(r"^\| \[?`(\w+)`", TABLE, re.MULTILINE) if len(row_of_any(match)) == 6}
    assert listed == set(NAMES)


def row_of_any(name: str) -> list[str]:
    return max((cells(line) for line in TABLE.splitlines() if re.match(rf"\| \[?`{name}`", line)), key=len)


def test_numbers_of_the_records_are_explained():
    section = TABLE.partition("## Numbers of a record")[2].partition("\n## ")[0]
    for name in objectives.NUMBERS.keys() - {"margin", "scores"}:
        assert name in section
    for name in NAMES:
        if numbers_of(load(name)):
            assert f"`{name}`" in section, f"{name} reads numbers"


@pytest.mark.parametrize("name", CORE)
def test_page_of_an_objective(name):
    text = (DOCS / "objectives" / f"{name}.md").read_text(encoding="utf-8")
    assert re.findall(r"^## (.+)$", text, re.MULTILINE) == HEADINGS
    assert f"[`{name}`](objectives/{name}.md)" in TABLE
    options = dict(re.findall(r"^\| `--(\w+)` \| (\S+) \|", text, re.MULTILINE))
    assert options == {field.name: shown(getattr(load(name), field.name)) for field in dataclasses.fields(load(name))}
    assert (REPOSITORY / "train" / f"{name}.py").is_file()
    parser = flags.parser([type(load(name)), ModelOptions, DataOptions, TrainOptions], prog="")
    command = next(line for line in text.splitlines() if line.strip().startswith(f"mmalign train {name}"))
    words = shlex.split(command)[3:]
    flags.parse(parser, [str(REPOSITORY / word) if word.endswith(".yaml") else word for word in words])


def test_every_core_objective_has_a_script_a_config_and_a_page():
    scripts = {file.stem for file in (REPOSITORY / "train").glob("*.py")} - {"objective"}
    configs = {file.stem for file in (REPOSITORY / "train").glob("*.yaml")} - {"lora"}
    chains = {"temple"}  # of several objectives; docs/curriculum.md is their page
    assert scripts == configs == {*CORE, *chains}


@pytest.mark.parametrize("name", NAMES)
def test_lora_yaml_fits_every_objective(name):
    """It is what --help shows."""
    parser = flags.parser([type(load(name)), ModelOptions, DataOptions, TrainOptions], prog="")
    given = ["--model", "m", "--data", "d", "--output_dir", "o"]
    flags.parse(parser, ["--config", str(REPOSITORY / "train" / "lora.yaml"), *given])


def test_links_between_pages_lead_somewhere():
    pages = [*DOCS.rglob("*.md"), *REPOSITORY.glob("*.md")]
    assert len(pages) > 10
    for page in pages:
        for link in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
            assert (page.parent / link).exists(), f"{page}: {link}"


def test_example_of_an_objective_of_one_s_own(tiny_model, pairs, tmp_path):
    """The file as it is printed, trained by the command as it is printed, but for the model and its size."""
    example = TABLE.partition("as the tests run it -->\n```python\n")[2].partition("```")[0]
    command = next(line for line in TABLE.splitlines() if "mmalign train --objective my_loss.py:CalDPO" in line)
    (tmp_path / "my_loss.py").write_text(example)
    (tmp_path / "train").symlink_to(REPOSITORY / "train")
    arguments = shlex.split(command.rstrip("\\"))[2:]
    arguments = arguments[: arguments.index("--model")]
    done = run_command(
        "train", *arguments, "--model", tiny_model, "--data", pairs,
        "--output_dir", tmp_path / "out", "--max_steps", "2", "--logging_steps", "1", "--save_strategy", "no",
        cwd=tmp_path,
    )  # fmt: skip
    assert "22 records" in done.stdout
    rows = [row for row in metrics.read(tmp_path / "out") if "loss" in row]
    assert {"loss/dpo", "loss/calibration", "rewards/margins"} <= rows[0].keys()
    # Policy and reference are equal at the start: log 2, and weight * 2 * (1 / (2 beta))^2, of the same records.
    assert rows[0]["loss/calibration"] / rows[0]["loss/dpo"] == pytest.approx(0.5 * 50 / math.log(2), rel=1e-4)
