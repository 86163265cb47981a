"""The lineage of runs: relatives, nodes for several seeds and for studies, edge labels, and escaping in DOT."""

import itertools

import pandas as pd
import pytest

from core.config import RunConfig, is_relevant
from core.statistics.comparisons import NoiseFloor
from core.studies.effects import effects
from core.studies.noise import Noise
from core.views import lineage
from core.views.differences import effect_text
from core.views.lineage import build, dot, family

NOISE = Noise("best_val_loss")
NO_EFFECTS = effects(pd.DataFrame(columns=["seed"]), "best_val_loss")


def runs_of(*rows):
    """Return rows like those of `Lab.runs`, newest first, from settings and results, oldest first."""
    table = []
    for i, given in enumerate(rows):
        settings = {name: v for name, v in given.items() if name in RunConfig.model_fields}
        values = RunConfig.parse(settings).model_dump()
        identity = ("name", "parent", "study", "color", "tags", "notes", "archived")
        shown = {
            n: v if n in identity or is_relevant(n, values) else None for n, v in values.items()
        }
        loss = given.get("best_val_loss", 2.0)
        results = {"best_val_loss": loss, "subset_loss": loss, "val_loss": loss, "base_loss": 9.0}
        other = {
            "status": "finished",
            "reason": None,
            "step": 9,
            "val_set": "whole set",
            "created": float(i),
        }
        table.append({**shown, **results, **other, "color": "#112233"})
    return pd.DataFrame(table[::-1]).reset_index(drop=True)  # fmt: skip


def graph(runs, *names, table=NO_EFFECTS, noise=NOISE, **options):
    return build(runs, names or tuple(runs["name"]), table, noise, **options)


def edges(found):
    return {
        (found.nodes[e.source].title, found.nodes[e.target].title): (*e.change, e.result)
        for e in found.edges
    }


FAMILY = runs_of(
    {"name": "root", "best_val_loss": 2.0},
    {"name": "a", "parent": "root", "lr": 1e-3, "best_val_loss": 1.9},
    {"name": "b", "parent": "root", "grad_clip": None, "best_val_loss": 2.1},
    {"name": "a1", "parent": "a", "lr": 1e-3, "epochs": 2, "best_val_loss": 1.8},
    {"name": "lost", "parent": "deleted"},
    {"name": "alone", "lr": 1e-5},
)


def test_family_has_ancestors_siblings_and_descendants():
    assert set(family(FAMILY, "a")) == {"root", "a", "b", "a1"}
    assert family(FAMILY, "a1") == ["a1", "a", "root"]
    assert family(FAMILY, "lost") == ["lost"]


def test_family_ends_for_runs_that_are_their_own_ancestors():
    runs = runs_of({"name": "a", "parent": "b"}, {"name": "b", "parent": "a"})
    assert set(family(runs, "a")) == {"a", "b"}
    assert len(graph(runs).nodes) == 1, "both have the same settings"


def test_edges_name_the_change_and_the_difference_of_a_single_pair():
    found = graph(FAMILY, *family(FAMILY, "root"))
    assert edges(found) == {
        ("root", "a"): ("learning rate 5e-5 → 0.001", "-0.1000, single pair"),
        ("root", "b"): ("gradient clipping 1 → none", "+0.1000, single pair"),
        ("a", "a1"): ("epochs 1 → 2", "-0.1000, single pair"),
    }
    assert next(node.caption for node in found.nodes) == "best loss 2.0000"


def test_difference_within_the_noise_is_gray():
    floors = {("lora", "gpt2-nano", "primer"): NoiseFloor(0.1, 0.05, 0.2, 9)}
    noise = Noise("best_val_loss", floors, others=floors)
    found = graph(FAMILY, "root", "b", noise=noise)
    [edge] = found.edges
    assert (edge.result, edge.is_gray) == ("+0.1000, within the noise", True)


def test_losses_on_different_examples_have_no_difference():
    runs = runs_of({"name": "a"}, {"name": "b", "parent": "a", "dataset": "alpaca"})
    assert edges(graph(runs)) == {("a", "b"): ("data set primer → alpaca", "")}


def repeated(parent, losses, **settings):
    return [
        {"name": f"{settings['name']}-{seed}", "parent": parent, "seed": seed, "best_val_loss": loss,
         **{k: v for k, v in settings.items() if k != "name"}}
        for seed, loss in enumerate(losses, 1)
    ]  # fmt: skip


def test_repeats_are_one_node_with_an_effect_and_verdict():
    runs = runs_of(
        *repeated(None, [2.0, 2.1, 2.05], name="old"),
        *repeated("old-1", [1.0, 1.05, 1.02], name="new", lr=1e-3),
    )
    table = effects(runs, "best_val_loss")
    found = graph(runs, table=table)
    assert {node.title for node in found.nodes} == {"old-1 + 2 runs", "new-1 + 2 runs"}
    [(change, result)] = edges(found).values()
    assert change == "learning rate 5e-5 → 0.001"
    assert result.startswith("-1.0")
    assert result.endswith("), better, 3 seeds")
    assert "mean best loss 1.0233" in [node.caption for node in found.nodes]


def test_clones_with_another_seed_are_one_node():
    runs = runs_of(
        {"name": "a"},
        {"name": "b", "parent": "a", "seed": 5},
        {"name": "c", "parent": "b", "lr": 1e-3},
    )
    assert [*edges(graph(runs))] == [("a + 1 run", "c")]


def test_effect_is_reversed_for_a_change_in_the_other_direction():
    runs = runs_of(
        *repeated(None, [2.0, 2.1, 2.05], name="old"),
        *repeated("old-1", [1.0, 1.05, 1.02], name="new", lr=1e-3),
    )
    table = effects(runs, "best_val_loss")
    rows = runs.set_index("name", drop=False)
    forward, backward = (
        effect_text(table, rows.loc[a].to_dict(), rows.loc[b].to_dict(), "best_val_loss")
        for a, b in (("old-1", "new-1"), ("new-1", "old-1"))
    )
    assert "better" in forward
    assert "worse" in backward
    assert forward.split()[0] == backward.split()[0].replace("+", "-")


def test_repeats_on_different_examples_have_no_effect():
    runs = runs_of(
        *repeated(None, [2.0, 2.1, 2.05], name="old"),
        *repeated("old-1", [1.0, 1.05, 1.02], name="new", mask_prompt=True),
    )
    found = graph(runs, table=effects(runs, "best_val_loss"))
    assert [edge.result for edge in found.edges] == [""]


def test_tooltip_of_many_runs_is_short():
    text = dot(graph(runs_of(*repeated(None, [2.0] * 30, name="old"))), "light")
    assert 'old-20, and 10 more"' in text


def test_effect_of_another_context_is_not_used():
    runs = runs_of(
        *repeated(None, [2.0, 2.1, 2.05], name="old"),
        *repeated("old-1", [1.0, 1.05, 1.02], name="new", lr=1e-3),
        {"name": "wide", "lora_rank": 4},
        {"name": "wide-2", "parent": "wide", "lora_rank": 4, "lr": 1e-3},
    )
    table = effects(runs, "best_val_loss")
    assert (
        edges(graph(runs, "wide", "wide-2", table=table))["wide", "wide-2"][1] == "0, single pair"
    )


def study_of(combinations, parent=None):
    return [
        {"name": f"s-{i}", "study": "s", "parent": parent, "lr": lr, "seed": seed}
        for i, (seed, lr) in enumerate(itertools.product((1, 2), combinations), 1)
    ]


def test_combinations_of_a_small_study_are_nodes():
    found = graph(runs_of(*study_of([1e-4, 1e-3])))
    assert {node.title for node in found.nodes} == {"Study s", "s-1 + 1 run", "s-2 + 1 run"}
    assert edges(found)["Study s", "s-1 + 1 run"] == ("Learning rate 1e-4", "")
    found = graph(runs_of({"name": "root"}, *study_of([1e-4, 1e-3], parent="root")))
    assert ("root", "s-2 + 1 run") in edges(found)


def test_large_study_is_one_node():
    rates = [rate / 1e4 for rate in range(1, lineage.MAX_STUDY_NODES + 2)]
    runs = runs_of(
        {"name": "root"}, *study_of(rates, parent="root"), {"name": "c", "parent": "s-3"}
    )
    found = graph(runs, *family(runs, "s-3"))
    assert {node.title for node in found.nodes} == {"root", "Study s", "c"}
    assert edges(found)["root", "Study s"] == ("13 combinations", "")


def test_large_family_is_cut_near_the_run():
    children = [{"name": f"c{i}", "parent": "root", "lr": i / 1e4} for i in range(1, 81)]
    runs = runs_of({"name": "root"}, *children)
    found = graph(runs, *family(runs, "c7"))
    assert len(found.nodes) == lineage.MAX_NODES
    assert found.hidden == 81 - lineage.MAX_NODES
    assert [node.title for node in found.nodes[:2]] == ["c7", "root"]


def test_isolated_runs_can_be_left_out():
    found = graph(FAMILY, with_isolated=False)
    assert {node.title for node in found.nodes} == {"root", "a", "b", "a1"}
    assert found.isolated == 2


def test_only_four_changes_are_listed():
    changed = {
        "lr": 1e-3,
        "epochs": 2,
        "batch_size": 8,
        "weight_decay": 0.0,
        "dropout": 0.1,
        "seed": 5,
    }
    runs = runs_of({"name": "a"}, {"name": "b", "parent": "a", **changed})
    [(*change, _)] = edges(graph(runs)).values()
    assert len(change) == 5
    assert change[-1] == "and 2 more"


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_names_are_escaped_in_dot(theme):
    name = 'a<b>"c"&amp;\\N]; x'
    text = dot(graph(runs_of({"name": name})), theme, focus=name)
    assert "<B>a&lt;b&gt;&quot;c&quot;&amp;amp;&#92;N]; x</B>" in text
    assert 'tooltip="a<b>\\"c\\"&amp;amp;\\\\N]; x"' in text
    assert 'URL="run?name=a%3Cb%3E%22c%22%26amp%3B%5CN%5D%3B%20x"' in text
    assert lineage.COLORS[theme]["focus"] in text


def test_empty_lineage_is_valid_dot():
    assert dot(graph(FAMILY, "nobody"), "light").endswith("}")
