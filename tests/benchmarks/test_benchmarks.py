"""The contract: benchmarks are found by file name, import nothing heavy, and all keep to one shape."""

from __future__ import annotations

import inspect
import subprocess
import sys
from pathlib import Path

import pytest

from mmalign import benchmarks
from mmalign.records import InputError

SCORE_KEYS = {"benchmark", "rule", "metrics", "groups", "n_items", "n_missing", "n_unparsed"}


def test_the_benchmarks_are_found() -> None:
    assert {"chair", "pope"} <= set(benchmarks.names())
    assert not {"predict", "score", "suite"} & set(benchmarks.names())


@pytest.mark.parametrize("name", benchmarks.names())
def test_every_benchmark_keeps_the_contract(name: str) -> None:
    module = benchmarks.load(name)
    assert "http" in module.__doc__ and "{" in module.__doc__, "the docstring links the scorer and shows an item"
    assert next(iter(inspect.signature(module.questions).parameters)) == "root"
    parameters = inspect.signature(module.score).parameters
    assert list(parameters) == ["questions", "predictions", "rule"]
    assert parameters["rule"].default == next(iter(module.RULES))


OWN = """
from mmalign.records import Question, user_message
RULES = {"any": None}
MAX_NEW_TOKENS = 4
def questions(root):
    yield Question(id="1", prompt=[user_message("Well?")])
def score(questions, predictions, *, rule="any"):
    metrics = {"given": float(len(list(predictions)))}
    return {"benchmark": "own", "rule": rule, "metrics": metrics, "groups": {},
            "n_items": len(list(questions)), "n_missing": 0, "n_unparsed": 0}
"""


def test_a_file_of_ones_own_is_a_benchmark(tmp_path: Path) -> None:
    path = tmp_path / "own.py"
    path.write_text(OWN, encoding="utf-8")
    module = benchmarks.load(str(path))
    assert module.score(module.questions(tmp_path), []).keys() == SCORE_KEYS


def test_what_is_no_benchmark(tmp_path: Path) -> None:
    for name in ("popes", "predict", "_files"):
        with pytest.raises(InputError, match="no benchmark .*chair, pope"):
            benchmarks.load(name)
    path = tmp_path / "half.py"
    path.write_text("RULES = {}\n", encoding="utf-8")
    with pytest.raises(InputError, match="lacking: questions, score, MAX_NEW_TOKENS"):
        benchmarks.load(str(path))
    with pytest.raises(InputError, match="no such file"):
        benchmarks.load(str(tmp_path / "absent.py"))


def test_scoring_imports_no_torch() -> None:
    modules = [f"mmalign.benchmarks.{name}" for name in (*benchmarks.names(), "score", "predict", "suite")]
    heavy = "sorted({'torch', 'transformers'} & set(sys.modules))"
    code = f"import sys, {', '.join(modules)}; sys.exit({heavy} or 0)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
