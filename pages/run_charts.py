"""Tiles and charts of the run page, and the batch of the selected step."""

from typing import Any

import pandas as pd
import streamlit as st

from core.lab import Lab
from core.views import charts, formats
from core.views.tables import is_missing
from pages.run_reference import Reference, delta
from pages.ui import style
from pages.ui.errors import show_errors
from pages.ui.figures import on_click, show_figure
from pages.ui.page_state import PageState
from pages.ui.selection import clicked_row
from pages.ui.text import escape_markdown

TRAINING_CURVES = ("loss", "lr", "grad_norm")
SYSTEM_CURVES = ("tokens_per_s", "memory_mb")
CURVE_BUCKETS = 500
BATCH_HELP = "Tokens exclude padding. An example counts as one token fewer than its length, because the model predicts each token from those before it."
CHARTS_KEY = "run-charts"
CLICKED_KEY = "run_clicked_step"
"""Session key: the run, and the step that was clicked in the charts as they are drawn.

A click draws no line: that would change the figure, and Streamlit would replace the chart and lose the zoom. The
clicked point's marker shows the selected step instead.
"""
FROZEN_KEY = "run_frozen_charts"
"""Session key: the frozen charts while *Follow* is off, and the view that they show."""


def show_tiles(
    run: dict[str, Any], progress: dict[str, Any], lab: Lab, reference: Reference | None
) -> None:
    """Show the main results and their differences from a reference. Missing values are dashes."""
    evaluations = _evaluations(run["name"], lab, lab.changed_at)
    best = _best(evaluations)
    best_text = f"{formats.loss(best[1])} @ {best[0]:,}" if best else formats.DASH
    both = evaluations[evaluations["x"] > 0].dropna(subset=["subset_loss", "train_loss"])
    gap = both["subset_loss"].iloc[-1] - both["train_loss"].iloc[-1] if len(both) else None
    compared = reference.run if reference else {}
    best_losses = compared.get("best_val_loss"), best and best[1]
    with st.container(horizontal=True, gap="medium", key="run-tiles"):
        st.metric(
            "Best validation loss", best_text,
            help="Lowest loss on the validation subset, and the step of that evaluation.", width="content",
            **delta(run, reference, "best_val_loss", best_losses),
        )  # fmt: skip
        st.metric(
            "Train/validation gap", formats.DASH if gap is None else f"{gap:+.4f}",
            help="Validation loss minus training loss at the latest evaluation that measured both. A growing gap is a sign of overfitting.",
            width="content",
        )  # fmt: skip
        st.metric(
            "Exact answers", formats.percent(run["exact"]), width="content",
            help="Share of test answers that match the reference, ignoring case and punctuation.",
            **delta(run, reference, "exact", (compared.get("exact"), run["exact"])),
        )  # fmt: skip
        _show_scores(run, lab, reference)
        st.metric("Time", formats.duration(progress["seconds"]), width="content",
                  help="Training time, excluding evaluations and downloads.")  # fmt: skip


def _best(evaluations: pd.DataFrame) -> tuple[int, float] | None:
    """Return the step and the loss of the best evaluation after step 0."""
    measured = evaluations[evaluations["x"] > 0].dropna(subset=["subset_loss"])
    points = zip(measured["x"].tolist(), measured["subset_loss"].tolist(), strict=True)
    return min(points, key=lambda point: point[1], default=None)


def _show_scores(run: dict[str, Any], lab: Lab, reference: Reference | None) -> None:
    """Show a tile for each judge, with the 95% interval below the mean."""
    all_scores = _scores(lab, lab.changed_at)
    scores = {} if is_missing(run["exact"]) else all_scores.get(run["name"], {})
    others = all_scores.get(reference.run["name"], {}) if reference else {}
    if not scores:
        st.metric("Score", formats.DASH, help="No judge has scored this run yet.", width="content")
    for judge, score in scores.items():
        interval = "" if is_missing(score.low) else f" ({score.low:.1f} to {score.high:.1f})"
        st.metric(
            f"Score, {escape_markdown(judge)}", f"{formats.score(score.mean)}{interval}",
            help=f"Mean score from 0 to 100 with its 95% interval, over {score.scored:,} answers.",
            width="content",
            **delta(run, reference, judge, (others[judge].mean if judge in others else None, score.mean)),
        )  # fmt: skip


def show_charts(run: dict[str, Any], progress: dict[str, Any], state: PageState, lab: Lab) -> None:
    """Draw the charts and, if a step is selected, its batch."""
    if not progress["step"]:
        st.caption("Charts appear after the first training step.")
        return
    name, is_running = run["name"], progress["status"] == "running"
    steps = int(progress["steps"] or progress["step"])  # a changing maximum would reset the input
    with st.container(horizontal=True, vertical_alignment="bottom", gap="medium"):
        step = state.number(
            "Step", "step", 1, steps, width=140, placeholder="none",
            help="Shows the examples of this step. You can also click in a chart.",
        )  # fmt: skip
        follow = not is_running or st.toggle(
            "Follow", True, key="follow", help="Turn off to freeze the charts and keep your zoom."
        )
        log = state.toggle("Log scale", "log", help="Logarithmic axis for the loss.")
        system = state.toggle(
            "System", "system", help="Add tokens per second and memory to the charts."
        )
    if is_running and follow:
        st.session_state.pop(CLICKED_KEY, None)
    line = None if st.session_state.get(CLICKED_KEY) == (name, step) else step
    view = name, run["color"], log, system, line, style.theme()
    frozen_view, figure = st.session_state.get(FROZEN_KEY, (None, {}))
    if follow or frozen_view != view:
        cache_key = repr((lab, view, lab.changed_at))
        figure = _figure(cache_key, run, progress, lab, log, system, line)
        st.session_state[FROZEN_KEY] = view, figure

    def select(x: float) -> None:
        clicked = max(1, round(x))
        state.set("step", str(clicked))
        if line is None:
            st.session_state[CLICKED_KEY] = name, clicked

    with st.container(key=CHARTS_KEY):
        show_figure(figure, key=f"run-charts:{name}")
        on_click(CHARTS_KEY, "run_chart_clicks", select)
    if step is not None:
        show_batch(name, step, state, lab)


@st.cache_resource(max_entries=32, show_spinner=False)
def _figure(
    cache_key: str,
    _run: dict[str, Any],
    _progress: dict[str, Any],
    _lab: Lab,
    _log: bool,
    _system: bool,
    _line: int | None,
) -> charts.Figure:
    """Return the charts, shared by all sessions that watch the run."""
    name, color = _run["name"], _run["color"]
    metrics = [*TRAINING_CURVES, *(SYSTEM_CURVES if _system else ())]
    curves = _lab.curves([name], metrics, buckets=CURVE_BUCKETS)
    evaluations = _evaluations(name, _lab, _lab.changed_at)
    best = _best(evaluations)
    rates = curves["lr"]["y"]
    rate = _run["lr"] or 0.0  # missing if config.json is damaged
    has_warmup = len(rates) and rates.iloc[0] < rate  # older versions could ignore it
    warmup = int((_run["warmup_fraction"] or 0) * (_progress["steps"] or 0)) if has_warmup else 0
    panels = [charts.run_loss(evaluations, curves["loss"], color, best and best[0], _log)]
    for metric in metrics[1:]:
        options: dict[str, Any] = {}
        if metric == "lr":
            options = {"warmup_steps": warmup}
        elif metric == "grad_norm":
            options = {"threshold": _run["grad_clip"]}
        panels.append(charts.run_curve(curves[metric], metric, color, **options))
    return charts.clickable(charts.stack(panels), _line)


@st.cache_resource(max_entries=32, show_spinner=False)
def _evaluations(name: str, _lab: Lab, changed_at: int) -> pd.DataFrame:
    return _lab.evaluations([name])


@st.cache_resource(max_entries=8, show_spinner=False)
def _scores(_lab: Lab, changed_at: int) -> dict[str, dict[str, Any]]:
    return _lab.scores_by_run()


def show_batch(name: str, step: int, state: PageState, lab: Lab) -> None:
    """Show the metrics of a step and the examples of its batch."""
    recorded = lab.step(name, step)
    with st.container(border=True, key="run-batch"):
        with st.container(horizontal=True, vertical_alignment="center"):
            st.markdown(f"**Batch of step {step:,}**", width="stretch")
            st.button(
                ":material/close:", key="close_batch", type="tertiary", help="Close",
                on_click=state.set, args=("step",),
            )  # fmt: skip
        if recorded is None:
            st.caption(f"Step {step:,} has not been recorded.")
            return
        texts = [
            f"loss {formats.loss(recorded['loss'])}",
            f"learning rate {_rounded(recorded['lr'])}",
            f"gradient norm {formats.loss(recorded['grad_norm'])}",
        ]
        if recorded["batch"]:
            texts.append(f"{len(recorded['batch']):,} examples")
        if recorded["batch_tokens"] is not None:
            texts.append(f"{recorded['batch_tokens']:,} tokens")
        if recorded["padding"] is not None:
            texts.append(f"padding {formats.percent(recorded['padding'])}")
        st.caption(escape_markdown(" · ".join(texts)), help=BATCH_HELP)
        with show_errors(), st.spinner("Loading the examples…"):
            _show_examples(name, lab.batch(name, step))


def _rounded(rate: float | None) -> str:
    """Format a learning rate with three significant digits."""
    return formats.DASH if rate is None else formats.setting_text(float(f"{rate:.3g}"))


def _show_examples(name: str, examples: pd.DataFrame) -> None:
    """Show the examples of a batch, each with a button that opens it on the Data page."""
    cut = (examples["tokens"] > examples["trained"]).any()
    table = pd.DataFrame({
        "open": [f"{item:,}" for item in examples["item"]],
        "Tokens": examples["tokens"],
        **({"Trained": examples["trained"]} if cut else {}),
        "Prompt": [" ".join(filter(None, pair)) for pair in zip(examples["instruction"], examples["input"], strict=True)],
        "Response": examples["output"],
    })  # fmt: skip
    key = "open_example"
    st.dataframe(
        table, hide_index=True, key="batch_examples",
        column_config={
            "open": st.column_config.ButtonColumn(
                "Example", help="Open it on the Data page.", type="tertiary", width="small", key=key
            ),
            "Tokens": st.column_config.NumberColumn(width="small", format="localized"),
            "Trained": st.column_config.NumberColumn(
                width="small", format="localized", help="Tokens left after truncation."
            ),
        },
    )  # fmt: skip
    item = clicked_row(key, examples["item"].tolist())
    if item is not None:
        st.switch_page("pages/data.py", query_params={"run": name, "example": str(item)})
