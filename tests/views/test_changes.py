"""Changes of runs from their parents, or from the most similar preset."""

import pandas as pd
import pytest

from core.config import RunConfig, is_relevant
from core.presets import preset
from core.views.changes import from_parents


@pytest.fixture
def runs():
    """A function that returns runs as `Lab.runs` does: settings that have no effect are missing."""

    def build(*configs):
        rows = [config.model_dump() for config in configs]
        return pd.DataFrame(
            [{k: v if is_relevant(k, row) else None for k, v in row.items()} for row in rows],
            dtype=object,
        ).assign(**{name: [getattr(c, name) for c in configs] for name in ("parent", "study")})

    return build


def test_changes_from_the_parent_are_listed(runs):
    parent = RunConfig(name="parent", grad_clip=1.0, lr=5e-5, notes="mine")
    child = parent.changed(name="child", parent="parent", grad_clip=None, lr=1e-4, notes="")
    same = parent.changed(name="same", parent="parent", color="#112233", tags=("a",))
    _, changed, unchanged = from_parents(runs(parent, child, same))
    assert changed == "learning rate 5e-5 → 1e-4, gradient clipping 1 → none"
    assert unchanged == "same settings"


def test_settings_without_an_effect_are_not_changes(runs):
    full = RunConfig(name="full", method="full")
    lora = RunConfig(name="lora", parent="full", method="lora", lora_rank=64)
    _, changed = from_parents(runs(full, lora))
    assert changed == "method full → lora, rank 16 → 64"
    back = RunConfig(name="back", parent="lora", method="full")
    *_, changed = from_parents(runs(full, lora, back))
    assert changed == "method lora → full"


def test_runs_without_a_parent_are_compared_with_the_most_similar_preset(runs):
    exact = preset("demo").changed(name="exact")
    orphan = preset("demo_lora").changed(name="orphan", parent="deleted", lora_rank=4)
    assert from_parents(runs(exact, orphan)) == ["preset demo", "preset demo_lora: rank 16 → 4"]


def test_runs_of_a_study_name_the_varied_settings(runs):
    first = RunConfig(name="s-1", study="s", method="lora", lora_rank=4, seed=1)
    members = [first, first.changed(name="s-2", lora_rank=8), first.changed(name="s-3", seed=2)]
    alone = RunConfig(name="t-1", study="t", parent="s-1", method="lora", lora_rank=16, seed=1)
    assert from_parents(runs(*members, alone)) == [
        "study s: rank 4, seed 1",
        "study s: rank 8, seed 1",
        "study s: rank 4, seed 2",
        "rank 4 → 16",
    ]


def test_empty_table_has_no_changes(runs):
    assert from_parents(runs(RunConfig(name="one")).head(0)) == []
