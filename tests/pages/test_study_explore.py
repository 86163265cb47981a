"""The charts and the report of a study, on a minimal page."""

import json
import math

import pytest
from streamlit.testing.v1 import AppTest

from core.config import RunConfig
from core.lab import Lab
from core.run.directory import RunDirectory
from core.studies import study
from core.studies.sweep import Sweep, parse_axis

RATES = "1e-4,3e-4,1e-3"


def script(runs_dir: str) -> None:
    """Draw both parts with a Lab that lives as long as the session."""
    import streamlit as st

    from core.lab import Lab
    from pages import study_explore, study_report
    from pages.ui.page_state import PageState

    if "lab" not in st.session_state:
        st.session_state["lab"] = Lab(runs_dir, "idle")
    lab = st.session_state["lab"]
    state = PageState("studies", study_explore.PARAMETERS)
    study_explore.show(lab, lab.study("rates"), st.session_state.get("metric", "val_loss"), state)
    study_report.show_report(lab, lab.study("rates"))
    state.show_notices()
    state.write()


def write_study(runs_dir, ranks="4,16", seeds=(1, 2, 3), finished=True):
    axes = (parse_axis(f"lora_rank=lora_alpha={ranks}"), parse_axis(f"lr={RATES}"))
    planned = study.plan(runs_dir, "rates", Sweep(RunConfig(), axes, seeds), "Which rate?")
    study.create_runs(runs_dir, planned)
    for member in planned.members if finished else ():
        run = RunDirectory(runs_dir / member.name)
        loss = 1 + abs(math.log10(member.values["lr"]) + 3) + 0.01 * (member.seed % 3)
        run.append("plan", steps=4, steps_per_epoch=4, parameters=9, trainable=9, device="a CPU")
        for step, value in ((0, 4.0), (4, loss)):
            position = {
                "step": step,
                "epoch": step / 4,
                "tokens": step,
                "seconds": 2.0 + member.seed,
            }
            run.append("eval", **position, val_loss=value, subset_loss=value, final=step == 4)
        run.append("step", **position, loss=value, lr=1e-3, memory_mb=100.0)
        run.append("update", **position, module="all", relative_update=0.01)
        run.append("status", status="finished")


@pytest.fixture
def page(runs_dir):
    def open(**query):
        app = AppTest.from_function(script, kwargs={"runs_dir": str(runs_dir)}, default_timeout=60)
        app.query_params.update(query)
        opened.append(app)
        return run(app)

    opened: list[AppTest] = []
    yield open
    for app in opened:
        app.session_state["lab"].close()


def run(app):
    app.run()
    assert not app.exception, app.exception[0].message
    return app


def figures(app):
    return [json.loads(chart.proto.spec) for chart in app.get("plotly_chart")]


def says(app, text):
    shown = [e.value for kind in ("caption", "warning", "markdown") for e in app.get(kind)]
    return any(text in str(value).replace("\\", "").replace("\u2060", "") for value in shown)


def test_charts_of_a_study(page, runs_dir):
    write_study(runs_dir)
    app = page()
    setting, parallel, pareto, importance = figures(app)
    assert setting["layout"]["title"]["text"] == "Validation loss by rank = alpha"
    assert [d["label"] for d in parallel["data"][0]["dimensions"]] == [
        "Rank = Alpha",
        "Learning rate",
        "Validation loss",
    ]
    assert pareto["layout"]["title"]["text"] == "Validation loss and time"
    assert importance["data"][0]["y"][-1] == "Learning rate", "the most important is on top"
    assert says(app, "best third of 18 runs")
    assert says(app, "no setting stands out"), "six combinations are too few"


def test_controls_are_in_the_url(page, runs_dir):
    write_study(runs_dir)
    app = page(by=["lr"], measure=["relative_update"], cost=["peak_memory_mb"])
    setting, _, pareto, _ = figures(app)
    assert setting["layout"]["title"]["text"] == "Relative update by learning rate"
    assert pareto["layout"]["title"]["text"] == "Validation loss and peak memory"
    app.selectbox(key="studies_measure").set_value("seconds")
    run(app)
    assert app.query_params["measure"] == "seconds"
    assert figures(app)[0]["layout"]["title"]["text"] == "Time (s) by learning rate"


def test_unknown_value_in_a_link_is_named(page, runs_dir):
    write_study(runs_dir)
    app = page(by=["batch_size"])
    assert says(app, "Unknown setting: batch_size.")
    assert figures(app)[0]["layout"]["title"]["text"] == "Validation loss by rank = alpha"


def test_importance_is_unknown_with_too_few_runs(page, runs_dir):
    write_study(runs_dir, seeds=(1,))
    app = page()
    assert len(figures(app)) == 3
    assert says(
        app, "Importance needs at least 15 finished or diverged runs with this metric. There are 6."
    )


def test_study_without_finished_runs_has_no_charts(page, runs_dir):
    write_study(runs_dir, finished=False)
    app = page()
    assert figures(app) == []
    assert says(app, "These charts appear after the first run with this metric has finished.")
    assert app.text_area[0].value == "No comparison of the validation loss is possible yet."


def test_summary_is_generated_until_it_is_edited(page, runs_dir):
    write_study(runs_dir)
    app = page()
    [summary] = app.text_area
    assert summary.value.startswith("Rank = alpha = 16 and 4 are equivalent")
    assert says(app, "It changes with the results until you edit it.")
    summary.set_value("Use 1e-3.")
    run(app)
    with Lab(runs_dir, "idle") as lab:
        assert lab.study("rates").summary == "Use 1e-3."
    assert says(app, "This summary was edited, so")
    [reset] = [button for button in app.button if button.label == "Reset"]
    reset.click()
    run(app)
    assert app.text_area[0].value.startswith("Rank = alpha = 16 and 4 are equivalent")
    assert [button.label for button in app.get("download_button")] == [
        "HTML report",
        "Markdown report",
    ]
