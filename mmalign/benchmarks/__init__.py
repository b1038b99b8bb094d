"""Benchmarks: official files in, questions out; predictions in, scores out. No torch, no model here.

A benchmark is one file, found by its name (``mmalign.benchmarks.pope`` is ``pope``; ``path/to/mine.py`` works
wherever a name does). It offers:

``questions(root, **options) -> Iterator[Question]``
    reads the official files at ``root`` (a file or a folder).
``score(questions, predictions, *, rule=...) -> dict``
    joins by id and measures. Pure: no file, no model. Its result is::

        {"benchmark": "pope", "rule": "official",
         "metrics": {"accuracy": 0.86, ...},              # over everything
         "groups": {"random": {"accuracy": 0.89, ...}},   # the same metrics for each part
         "n_items": 9000, "n_missing": 0, "n_unparsed": 3}
``RULES``
    the names that ``rule`` may take; the official one is the default. Where an official asset is not part of
    this package, no rule is called official.
``MAX_NEW_TOKENS``
    how long an answer `mmalign predict` asks for unless told otherwise.

A benchmark may also offer ``read_predictions(path, questions)`` for answer files in the shapes of its own
official scorer. Predictions for unknown ids, and two for one id, are errors: they mean that the file belongs
to other questions. Questions without a prediction are counted in ``n_missing``, and each benchmark says what
else they do to its metrics.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import ModuleType
from typing import Any

from mmalign import plugins
from mmalign.records import InputError

Score = dict[str, Any]
"""What ``score`` of a benchmark returns; see the docstring of this module."""

_VERBS = frozenset({"predict", "score", "suite"})
"""Files of this folder that run benchmarks and are none."""

_CONTRACT = ("questions", "score", "RULES", "MAX_NEW_TOKENS")


def names() -> list[str]:
    """The benchmarks of this package, in alphabetical order."""
    return [name for name in plugins.names(__name__) if name not in _VERBS]


def load(name: str) -> ModuleType:
    """The benchmark ``name``: a file of this folder, or a path that ends in ``.py``.

    Raises:
        InputError: there is none (the message lists what there is), or it lacks a part of the contract.
    """
    if not name.endswith(".py") and name not in names():
        raise InputError(f"no benchmark {name!r} (there is: {', '.join(names())}; or a path to your own .py file)")
    module = plugins.find_module(__name__, name)
    lacking = [part for part in _CONTRACT if not hasattr(module, part)]
    if lacking:
        raise InputError(f"a benchmark offers {', '.join(_CONTRACT)}; lacking: {', '.join(lacking)}", file=name)
    return module


def choose(kind: str, table: Mapping[str, Any], name: str) -> Any:
    """The entry of ``table`` called ``name``, or an InputError that says what ``kind`` of thing there is."""
    if name not in table:
        raise InputError(f"no {kind} {name!r} (there is: {', '.join(table)})")
    return table[name]


def ratio(part: float, whole: float) -> float:
    """``part / whole``, and 0.0 where ``whole`` is 0: a metric over nothing is nothing, not a crash."""
    return part / whole if whole else 0.0
