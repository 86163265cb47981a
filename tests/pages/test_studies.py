"""The Studies page: the list, and one study with its actions, tables and charts."""

import json
import math

import pytest

from core.config import RunConfig
from core.run.directory import RunDirectory
from core.studies import study as studies_on_disk
from core.studies.sweep import Axis, Sweep

AXES = (Axis(("lora_rank", "lora_alpha"), (4, 16)), Axis(("lr",), (1e-4, 1e-3)))
LOSSES = {(4, 1e-4): 3.0, (16, 1e-4): 2.0, (4, 1e-3): 1.0, (16, 1e-3): 1.5}
"""Validation loss of each combination. A higher rank helps with the small rate only."""
NAME = "rank-and-rate"


@pytest.fixture
def write_study(runs_dir):
    """A function that writes a study whose runs have finished."""

    def write(seeds=(1, 2, 3), losses=LOSSES, axes=AXES, name=NAME, finished=True, **plan):
        base = RunConfig.parse({"method": "lora"})
        found = studies_on_disk.plan(runs_dir, name, Sweep(base, axes, seeds), "Which rank?")
        studies_on_disk.create_runs(runs_dir, found)
        for member in found.members if finished else ():
            key = tuple(member.values[axis.fields[0]] for axis in axes)
            loss = losses[key] * (1 + 0.01 * member.seed * (1 if key[-1] == 1e-4 else 1.2))
            finish(RunDirectory(runs_dir / member.name), loss)
        return found

    return write


def finish(run, loss, base_loss=4.0, update=1e-3, final=True):
    """Write the events of a finished run with four steps."""
    run.append("status", status="running", pid=1, host="here")
    run.append("plan", steps=4, steps_per_epoch=4, train_examples=8, parameters=10, trainable=1, base_hash="ab", device="cpu", precision="float32")  # fmt: skip
    for step in range(5):
        position = {"step": step, "epoch": step / 4, "tokens": 10 * step, "seconds": 2.0 * step}
        value = base_loss + (loss - base_loss) * step / 4
        if step:
            measured = {"lr": 1e-3, "loss": value, "grad_norm": 1.0, "memory_mb": 500.0}
            run.append("step", **position, **measured, tokens_per_s=20.0, padding=0.1, examples=4 * step, batch=[0])  # fmt: skip
            run.append("update", **position, relative_update=update * loss, modules=["a"], relative_updates=[update])  # fmt: skip
        run.append("eval", **position, train_loss=value, val_loss=value, subset_loss=value, final=final and step == 4)  # fmt: skip
    run.append("generation", item=1, instruction="Say red.", input="", reference="red", answer="red" if loss < 2.5 else "blue", tokens=1, cut=False, prompt_cut=False, exact=loss < 2.5, memory_mb=500.0)  # fmt: skip
    run.append("status", status="finished", reason=None)


def html_of(page):
    return " ".join(str(element.value) for element in page.get("html"))


def test_without_studies_the_list_links_to_launch(open_page):
    page = open_page("studies")
    assert page.says("No studies yet.")
    page.press("Launch")
    assert page.title[0].value == "Launch"


def test_list_shows_progress_and_the_best_combination(write_study, write_run, open_page):
    write_study()
    write_study(name="waiting", finished=False)
    table = open_page("studies").dataframe[0].value.set_index("Study")
    assert table.loc[NAME, "Finished"] == "12 of 12"
    assert table.loc[NAME, "Question"] == "Which rank?"
    assert table.loc[NAME, "Varied"] == "Rank = Alpha (2), Learning rate (2)"
    assert table.loc[NAME, "Best"].endswith("with Rank = Alpha 4, Learning rate 0.001 (3 seeds)")
    assert table.loc["waiting", "Finished"] == "0 of 12"
    assert table.loc["waiting", "Best"] == "\u2014"


def test_damaged_study_is_named_in_the_list_and_its_page_works(write_study, runs_dir, open_page):
    write_study()
    (runs_dir / "studies" / f"{NAME}.json").write_text("{")
    write_study(name="good")
    page = open_page("studies")
    assert page.says(f"Study {NAME}: {NAME}.json cannot be read")
    assert len(page.dataframe[0].value) == 2
    page.go("studies", study=NAME)
    assert page.says(f"{NAME}.json cannot be read")
    assert page.dataframe[0].value["lr"].tolist() == [1e-4, 1e-3] * 2
    assert page.go("studies", study=NAME, tab="Effects").says("Effects need the study's file")


def test_unknown_study_in_a_link_is_named(write_study, open_page):
    write_study()
    page = open_page("studies", study="*gone*")
    assert page.says("Unknown study: *gone*.")
    assert len(page.dataframe[0].value) == 1


def test_summary_has_one_row_per_combination(write_study, open_page):
    write_study()
    page = open_page("studies", study=NAME)
    table = page.dataframe[0].value
    assert table["lora_rank=lora_alpha"].tolist() == [4, 4, 16, 16]
    assert table["n"].tolist() == [3] * 4
    assert table["verdict"].tolist() == ["\u2717 worse", "best", "\u2014", "\u2717 worse"]
    assert page.says("Best mean so far: 1.02")
    page.select(page.dataframe[0], 1)
    assert page.says("Rank = Alpha 4, Learning rate 0.001")
    assert len(page.get("page_link")) >= 3
    assert page.query_params["row"] == "4 · 0.001"
    page = open_page("studies", study=NAME, row="16 · 1e-4")
    assert page.says("Rank = Alpha 16, Learning rate 1e-4")
    assert open_page("studies", study=NAME, row="gone").says("Unknown combination: gone.")


def test_metric_is_in_the_url(write_study, open_page):
    write_study()
    page = open_page("studies", study=NAME)
    page.choose("Metric", "seconds")
    assert page.query_params["metric"] == "seconds"
    assert page.dataframe[0].value["mean"].tolist() == pytest.approx([8.0] * 4)
    page = open_page("studies", study=NAME, metric="exact")
    assert page.widget("Metric").value == "exact"
    assert page.dataframe[0].value["mean"].tolist() == [0, 1, 1, 1]
    assert open_page("studies", study=NAME, metric="magic").says("Unknown metric: magic.")


def test_question_and_notes_are_saved(write_study, runs_dir, open_page):
    write_study()
    page = open_page("studies", study=NAME)
    page.choose("Question", "Which *rate*?")
    page.choose("Notes", "Three seeds.")
    found = studies_on_disk.find(runs_dir, NAME)
    assert (found.question, found.notes) == ("Which *rate*?", "Three seeds.")


def test_study_is_extended_paused_continued_and_stopped(write_study, runs_dir, open_page):
    write_study(finished=False)
    page = open_page("studies", study=NAME)
    assert page.get("progress")[0].proto.text == "0 of 12 finished · 12 queued"
    page.press("Pause")
    assert page.get("progress")[0].proto.text.endswith("12 stopped · paused")
    page.press("Continue")
    page.choose("More seeds", 1)
    assert page.says("Verdicts are then exploratory")
    page.press("Add 1 seed (4 runs)")
    assert studies_on_disk.find(runs_dir, NAME).sweep.seeds == (1, 2, 3, 4)
    page.choose("New values", "16, 64")
    page.press("Add values (8 runs)")
    found = studies_on_disk.find(runs_dir, NAME)
    assert found.sweep.axes[0].values == (4, 16, 64)
    page.choose("New values", "no number")
    assert page.widget("add_seeds")
    assert page.says("no number")
    page.press("Stop 24 runs")
    statuses = {RunDirectory(runs_dir / member.name).status() for member in found.members}
    assert statuses == {"stopped"}


def test_score_opens_scoring_with_the_runs(write_study, open_page):
    found = write_study()
    page = open_page("studies", study=NAME).press("Score study")
    assert page.title[0].value == "Scoring"
    assert sorted(page.query_params["run"]) == sorted(member.name for member in found.members)


def test_deleted_and_failed_runs_are_counted(write_study, runs_dir, open_page):
    found = write_study()
    RunDirectory(runs_dir / found.members[0].name).delete()
    RunDirectory(runs_dir / found.members[1].name).append("status", status="failed", reason="full")
    page = open_page("studies", study=NAME)
    assert page.get("progress")[0].proto.text == "10 of 12 finished · 1 failed"
    assert page.says(f"1 run of this study deleted: {found.members[0].name}.")


def test_curves_have_a_band_and_show_diverged_runs(write_study, runs_dir, open_page, line):
    write_study(losses={**LOSSES, (16, 1e-3): 9.0})
    page = open_page("studies", study=NAME, tab="Curves")
    figure = page.figure("Validation loss")
    lines = [trace for trace in figure["data"] if trace.get("showlegend", True)]
    assert [trace["name"] for trace in lines][-1] == "16 · 0.001 (0 seeds, 3 diverged)"
    dotted = [trace for trace in figure["data"] if "(diverged)" in trace.get("name", "")]
    assert len(dotted) == 3
    first = next(i for i, trace in enumerate(figure["data"]) if trace is lines[0])
    assert [x for x, _ in line(figure, first)] == [0, 1, 2, 3, 4]
    low, high = line(figure, first - 2)[-1][1], line(figure, first - 1)[-1][1]
    assert low < line(figure, first)[-1][1] < high
    page = open_page("studies", study=NAME, tab="Curves", group="4 · 0.001", curve="loss", log="1")
    assert page.says("Showing 1 of 4 combinations.")
    assert page.figure("Training loss per step")["layout"]["yaxis"]["type"] == "log"
    assert open_page("studies", study=NAME, tab="Curves", group="5").says("Unknown combination: 5.")


def test_heat_map_never_averages_over_other_settings(write_study, open_page):
    axes = (*AXES, Axis(("lora_scaling",), ("alpha/rank", "alpha")))
    losses = {(*key, s): 1.2 * v if s == "alpha" else v for key, v in LOSSES.items() for s in axes[2].values}  # fmt: skip
    losses[16, 1e-3, "alpha"] = 9.0
    write_study(losses=losses, axes=axes)
    page = open_page("studies", study=NAME, tab="Heat map")
    ours, theirs = (json.loads(chart.proto.spec) for chart in page.get("plotly_chart"))
    assert ours["layout"]["title"]["text"] == "Scaling alpha/rank"
    assert theirs["layout"]["title"]["text"] == "Scaling alpha"
    assert [len(row) for row in ours["data"][0]["z"]] == [2, 2]
    assert math.exp(ours["data"][0]["z"][0][0]) == pytest.approx(3.07, abs=0.01)
    assert math.exp(theirs["data"][0]["z"][0][0]) == pytest.approx(3.69, abs=0.01)
    [diverged] = [note for note in theirs["layout"]["annotations"] if "3 of 3" in note["text"]]
    assert (diverged["text"], diverged["x"], diverged["y"]) == ("\u00d7 3 of 3", 1, 1)
    page.choose("Scaling", "alpha")
    assert page.query_params["fix"] == "lora_scaling=alpha"
    assert len(page.get("plotly_chart")) == 1
    page = open_page("studies", study=NAME, tab="Heat map", x="lora_scaling", y="lr")
    assert page.widget("Horizontal").value == "lora_scaling"
    assert len(page.get("plotly_chart")) == 2
    assert open_page("studies", study=NAME, tab="Heat map", x="dropout").says(
        "Unknown setting: dropout."
    )


def test_effects_are_listed_by_context_with_reversals(write_study, open_page):
    write_study()
    page = open_page("studies", study=NAME, tab="Effects")
    text = html_of(page)
    assert "Rank = Alpha: 4 \u2192 16" in text
    assert "Reverses: better in some contexts, worse in others." in text
    assert "Learning rate 1e-4" in text
    assert "\u2713 better" in text
    page.choose("Change", "lr")
    assert page.query_params["change"] == "lr"
    assert "Rank = Alpha: 4" not in html_of(page)
    page.choose("Margin (%)", 90.0)
    assert page.query_params["margin"] == "90"
    assert open_page("studies", study=NAME, tab="Effects", margin="-1").says("Unknown margin: -1.")


def test_divergence_in_some_contexts_is_marked(write_study, open_page):
    write_study(losses={**LOSSES, (16, 1e-3): 9.0})
    text = html_of(open_page("studies", study=NAME, tab="Effects", change="lora_rank=lora_alpha"))
    assert "Runs diverge only in some contexts." in text
    assert "diverged runs: 0 \u2192 3" in text
    assert "no verdict" in text


def test_pairs_with_two_changes_are_listed_separately(write_study, open_page):
    write_study()
    page = open_page("studies", study=NAME, tab="Effects")
    page.choose("Pairs that differ by two changes", True)
    table = page.dataframe[0].value
    assert len(table) == 2
    assert set(table["Changes"]) == {
        "Rank = Alpha 4 \u2192 16, Learning rate 1e-4 \u2192 0.001",
        "Rank = Alpha 4 \u2192 16, Learning rate 0.001 \u2192 1e-4",
    }


def test_one_seed_supports_no_verdict_and_offers_more(write_study, runs_dir, open_page):
    write_study(seeds=(1,))
    page = open_page("studies", study=NAME, tab="Effects")
    assert page.says("One run per group proves nothing")
    assert page.says("unknown until some combination has two seeds")
    assert "no verdict: one seed" in html_of(page)
    assert "\u2713" not in html_of(page)
    page.press("settle_study")
    assert studies_on_disk.find(runs_dir, NAME).sweep.seeds == (1, 2, 3)
    page.run()
    assert page.says("Exploratory: seeds were added")


def test_study_without_comparable_values_has_no_effects(write_study, runs_dir, open_page):
    found = write_study(finished=False)
    for member in found.members:
        finish(RunDirectory(runs_dir / member.name), 1.0, final=False)
    page = open_page("studies", study=NAME, tab="Effects")
    assert page.says("No two combinations have a comparable value of validation loss yet.")
    assert '<tr class="effect-change">' not in html_of(page)


def test_seeds_needed_are_estimated_from_the_noise_of_other_runs(write_study, open_page):
    write_study(name="earlier")
    write_study(seeds=(1,), axes=AXES, name=NAME)
    page = open_page("studies", study=NAME, tab="Effects", margin="5")
    assert page.says("To detect a difference of 5%, ")
    assert page.says("seeds per combination are needed")


def test_interval_that_excludes_0_without_a_verdict_is_explained(write_study, runs_dir, open_page):
    losses = {1e-4: [2.0, 2.0, 2.0], 2e-4: [2.025, 2.03, 2.04], 3e-4: [1.5, 2.5, 2.0]}
    found = write_study(axes=(Axis(("lr",), tuple(losses)),), finished=False)
    for member in found.members:
        loss = losses[member.values["lr"]][member.seed - 1]
        finish(RunDirectory(runs_dir / member.name), loss)
    page = open_page("studies", study=NAME, tab="Effects")
    assert "? undecided \u2020" in html_of(page)
    assert page.says("The interval excludes 0, but of 3 comparisons, some do so by chance.")


def test_relative_updates_are_shown_next_to_the_metric(write_study, open_page):
    write_study(losses={**LOSSES, (16, 1e-3): 9.0})
    page = open_page("studies", study=NAME, tab="Why")
    figure = page.figure("Validation loss by mean relative update")
    assert [trace["name"] for trace in figure["data"]] == ["Rank = Alpha 4", "Rank = Alpha 16"]
    assert "x" in figure["data"][1]["marker"]["symbol"]
    text = html_of(page)
    assert "Learning rate 1e-4" in text
    assert "3 of 3 runs diverged" in text
    page.choose("Setting", "lr")
    assert page.query_params["setting"] == "lr"


def test_text_from_users_is_escaped(write_study, runs_dir, open_page):
    axes = (Axis(("dataset",), ("<b>a</b>", "*b*")), Axis(("lr",), (1e-4, 1e-3)))
    losses = {(name, lr): LOSSES[4, lr] for name in axes[0].values for lr in axes[1].values}
    write_study(losses=losses, axes=axes)
    for tab in ("Summary", "Curves", "Heat map", "Effects", "Why"):
        page = open_page("studies", study=NAME, tab=tab)
        assert "<b>a</b>" not in html_of(page)
    assert "&lt;b&gt;a&lt;/b&gt;" in html_of(page)


def test_study_of_a_setting_that_does_not_affect_learning(write_study, open_page):
    axes = (Axis(("precision",), ("fp32", "bf16")),)
    write_study(axes=axes, losses={("fp32",): 2.0, ("bf16",): 2.1})
    assert open_page("studies").dataframe[0].value["Varied"].tolist() == ["Precision (2)"]
    page = open_page("studies", study=NAME, tab="Effects", metric="seconds")
    assert "Precision: bf16 \u2192 fp32" in html_of(page)


def test_study_of_incomparable_losses_has_a_warning(write_study, open_page):
    write_study(axes=(Axis(("max_length",), (64, 128)),), losses={(64,): 2.0, (128,): 1.0})
    page = open_page("studies", study=NAME)
    assert page.says("These losses may be averaged over different tokens (Max length).")


@pytest.mark.parametrize("margin", ["1e-9", "1e300"])
def test_extreme_margins_in_a_link_are_accepted(write_study, open_page, margin):
    write_study()
    page = open_page("studies", study=NAME, tab="Effects", margin=margin)
    assert page.says("Difference: right side")
