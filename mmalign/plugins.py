"""Finding objectives, builders, benchmarks and backbones: the file name is the name.

`mmalign.objectives.dpo` is the objective `dpo`; `path/to/my_loss.py:MyLoss` names a class in a file of the
user's own. There is no registry to keep in step: adding a file adds the plugin.
"""

from __future__ import annotations

import ast
import dataclasses
import difflib
import importlib
import importlib.util
import os
import pkgutil
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

from mmalign.records import InputError


def option(default: Any, help: str) -> Any:  # noqa: A002 - argparse's word for it
    """A field of a plugin's dataclass that is a flag on the command line: its default and what it does."""
    return dataclasses.field(default=default, metadata={"help": help})


def check(plugin: Any, name: str, fine: bool, wanted: str) -> None:
    """Raise InputError unless an option of ``plugin`` is ``fine``; ``wanted`` says in words what it may be."""
    if not fine:
        raise InputError(f"must be {wanted}, got {getattr(plugin, name)}", field=name)


def own_files(plugin: Any) -> list[str]:
    """Python files that are not part of this package: the plugin's own, and those that its options name."""
    values = [value for value in dataclasses.asdict(plugin).values() if isinstance(value, str) and ".py:" in value]
    files = [file for value in values if os.path.isfile(file := f"{value.partition('.py:')[0]}.py")]  # else a text
    if not type(plugin).__module__.startswith(f"{__name__.partition('.')[0]}."):
        files.append(type(plugin).__call__.__code__.co_filename)
    return files


def names(package: str) -> list[str]:
    """Names of the plugins in ``package`` (its modules whose name does not start with an underscore)."""
    folder = importlib.import_module(package).__path__
    return sorted(m.name for m in pkgutil.iter_modules(folder) if not m.name.startswith("_"))


def summary(package: str, name: str) -> str:
    """What the file of a plugin says of itself in its first line; it is not imported for that."""
    spec = importlib.util.find_spec(f"{package}.{name}")
    assert spec is not None and spec.origin is not None
    doc = ast.get_docstring(ast.parse(Path(spec.origin).read_text(encoding="utf-8"))) or ""
    return doc.partition("\n")[0]


def find_module(package: str, name: str) -> ModuleType:
    """The module behind ``name``: a plugin of ``package``, or a path that ends in ``.py``.

    Raises:
        InputError: there is no such plugin or file; the message lists what there is.
    """
    if name.endswith(".py"):
        return _module_from_file(Path(name))
    known = names(package)
    if name not in known:
        close = difflib.get_close_matches(name, known, n=1)
        hint = f"; did you mean {close[0]!r}?" if close else ""
        raise InputError(f"{package} has no {name!r}{hint} (it has: {', '.join(known)})")
    return importlib.import_module(f"{package}.{name}")


def find_class(package: str, name: str) -> type:
    """The plugin class behind ``name`` (``dpo`` or ``path/to/file.py:Class``).

    A plugin file holds one public dataclass that can be called: that is the plugin. A file with several says
    which by ``file.py:Class``.
    """
    file_name, _, class_name = name.partition(":")
    module = find_module(package, file_name)
    if class_name:
        found = getattr(module, class_name, None)
        if not isinstance(found, type):
            raise InputError(f"{file_name} has no class {class_name!r}")
        return found
    classes = [c for c in vars(module).values() if _is_plugin(c, module)]
    if len(classes) != 1:
        found = ", ".join(c.__name__ for c in classes) or "none"
        raise InputError(f"{file_name}: expected one callable dataclass, found {found}; name it as FILE.py:Class")
    return classes[0]


def _is_plugin(candidate: object, module: ModuleType) -> bool:
    return (
        isinstance(candidate, type)
        and dataclasses.is_dataclass(candidate)
        and candidate.__module__ == module.__name__
        and not candidate.__name__.startswith("_")
        and "__call__" in vars(candidate)
    )


def _module_from_file(path: Path) -> ModuleType:
    if not path.is_file():
        raise InputError("no such file", file=path)
    spec = importlib.util.spec_from_file_location(f"mmalign_plugin_{path.stem}", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up there
    spec.loader.exec_module(module)
    return module
