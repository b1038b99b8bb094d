"""What every objective promises; run on every file in ``mmalign/objectives``."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch

from mmalign import objectives, plugins
from mmalign.forward.encoding import split_view
from mmalign.objectives import TokenStats
from tests.objectives.helpers import numbers, random_views

NAMES = plugins.names("mmalign.objectives")


def test_objectives_were_found():
    assert {"dpo", "rdpo", "rrpo", "sft"} <= set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_has_a_test_file_with_the_four_kinds_of_test(name):
    text = (Path(__file__).parent / f"test_{name}.py").read_text(encoding="utf-8")
    for kind in ("test_worked_arithmetic", "test_oracle", "test_limits", "test_gradient"):
        assert f"def {kind}" in text, f"tests/objectives/test_{name}.py lacks {kind}"


@pytest.mark.parametrize("name", NAMES)
class TestObjective:
    def test_is_a_frozen_dataclass_with_documented_fields(self, name):
        cls = type(objectives.load(name))
        assert dataclasses.is_dataclass(cls)
        with pytest.raises(dataclasses.FrozenInstanceError):
            objectives.load(name).anything = 1
        assert cls.__doc__
        for field in dataclasses.fields(cls):
            assert field.metadata.get("help"), f"{name}.{field.name} has no help"

    def test_views_and_needs_are_known(self, name):
        objective = objectives.load(name)
        assert objective.needs <= objectives.NEEDS
        assert objective.views
        for view in objective.views:
            split_view(view)

    def test_terms_and_metrics_have_a_value_for_each_record(self, name):
        terms, metrics = self.call(name, batch=4)
        assert terms
        for term in terms.values():
            assert term.values.shape == term.present.shape == (4,)
            assert term.present.dtype == torch.bool
            assert term.values.isfinite().all()
        for values in metrics.values():
            assert values.shape == (4,)
            assert not values.requires_grad

    def test_records_do_not_see_each_other(self, name):
        """A record's loss is the same whatever else is in the batch, and however far it is padded."""
        whole, _ = self.call(name, batch=4)
        for row in (0, 2):
            alone, _ = self.call(name, batch=4, rows=[row], padding=3)
            for key, term in whole.items():
                torch.testing.assert_close(alone[key].values[0], term.values[row])

    def test_absent_records_are_not_counted(self, name):
        terms, _ = self.call(name, batch=4, absent=1)
        assert all(not term.present[1] for term in terms.values())
        assert all(term.present[0] for term in terms.values())

    def call(self, name, batch, rows=None, padding=0, absent=None):
        objective = objectives.load(name)
        rows = list(range(batch)) if rows is None else rows

        def change(stats: TokenStats) -> TokenStats:
            present = stats.present.clone()
            if absent is not None:
                present[absent] = False
            tokenwise = {name: getattr(stats, name) for name in ("logps", "mask", "kl", "spans")}
            longer = {name: torch.nn.functional.pad(values, (0, padding))[rows] for name, values in tokenwise.items()}
            return TokenStats(present=present[rows], **longer)

        views = [
            {view: change(stats) for view, stats in random_views(objective.views, seed, batch).items()}
            for seed in (1, 2)
        ]
        return objective(views[0], views[1], {k: v[rows] for k, v in numbers(batch).items()})
