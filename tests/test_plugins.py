"""The file name is the name; a path to a file of one's own works wherever a name does."""

from __future__ import annotations

import pytest

from mmalign import objectives, plugins
from mmalign.records import InputError

SOURCE = '''
from __future__ import annotations

from dataclasses import dataclass

from mmalign.plugins import option


@dataclass(frozen=True)
class Mine:
    """A loss."""

    scale: float = option(2.0, "How much.")
    views = ("chosen",)
    needs = frozenset()

    def __call__(self, policy, reference, batch, state=None):
        return {}, {}
'''


def test_a_file_of_one_s_own(tmp_path):
    file = tmp_path / "my_loss.py"
    file.write_text(SOURCE)
    for name in (str(file), f"{file}:Mine"):
        assert objectives.load(name, scale=3.0).scale == 3.0
    with pytest.raises(InputError, match="no class 'Yours'"):
        objectives.load(f"{file}:Yours")
    file.write_text(SOURCE + SOURCE.replace("Mine", "Other").replace("from __future__ import annotations", ""))
    with pytest.raises(InputError, match=r"found Mine, Other; name it as FILE.py:Class"):
        objectives.load(str(file))


def test_unknown_names_list_what_there_is():
    with pytest.raises(InputError, match=r"did you mean 'dpo'\? .*dpo.*sft"):
        objectives.load("dpoo")
    with pytest.raises(InputError, match="no such file"):
        objectives.load("gone.py")


def test_files_with_an_underscore_are_no_plugins(tmp_path, monkeypatch):
    package = tmp_path / "shelf"
    package.mkdir()
    for name in ("__init__", "_shared", "plain"):
        (package / f"{name}.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    assert plugins.names("shelf") == ["plain"]


def test_a_function_is_no_plugin(tmp_path):
    file = tmp_path / "mine.py"
    file.write_text("def my_loss(policy, reference, batch):\n    return {}, {}\n")
    with pytest.raises(InputError, match="no class 'my_loss'"):
        objectives.load(f"{file}:my_loss")
