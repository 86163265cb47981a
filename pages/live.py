"""Watch runs train: losses, learning rate, speed, samples and logs, refreshed every second while a run is active."""

import streamlit as st

from core.metrics import AXES, CURVES
from core.views import charts
from core.views.tables import records
from pages.ui import runtime, style
from pages.ui.errors import show_errors
from pages.ui.figures import show_figure
from pages.ui.selection import show_cut
from pages.ui.status import show_run
from pages.ui.text import escape_markdown, show_text

X_LABELS = {name: metric.title for name, metric in AXES.items()}
ACTIVE_STATUSES = ("running", "queued")
MAX_OVERLAID_RUNS = 8
"""Maximum number of runs in one chart: one per color in the palette."""
SHOWN_SAMPLES = 20
REQUESTED = "live_requested"
"""Session key: number of runs requested by a link or another page. Removed when the user changes the selection."""
CHARTS = tuple(name for name, metric in CURVES.items() if metric.chart)

lab = runtime.lab()


def default_runs(results: list[dict]) -> list[str]:
    """Return the runs requested by a link or another page, or else the active run, or else the newest one."""
    existing_names = [run["name"] for run in results]
    requested = st.session_state.pop("watch", None) or st.query_params.get_all("run")
    if unknown := [name for name in requested if name not in existing_names]:
        st.warning(f"Unknown run: {escape_markdown(', '.join(unknown))}.")
    active_names = [
        run["name"] for s in ACTIVE_STATUSES for run in reversed(results) if run["status"] == s
    ]
    matches = [name for name in dict.fromkeys(requested) if name in existing_names]
    st.session_state[REQUESTED] = len(matches)
    return matches[:MAX_OVERLAID_RUNS] or active_names[:1] or existing_names[:1]


@st.cache_resource(max_entries=32, show_spinner=False)
def states(synced_at: int, names: list[str]) -> list[dict]:
    """Return the progress of runs. All sessions share one query per index sync."""
    return lab.states(names)


@st.cache_resource(max_entries=32, show_spinner=False)
def show_figures(
    cache_key: str, _names: list[str], _x: str, _log: bool, _window: int
) -> tuple[list[dict], int]:
    """Draw the charts. Return the newest samples and the total number of samples.

    Streamlit caches both the return value and the drawn elements, so sessions with the same view share them.

    Args:
        cache_key: Everything the charts depend on, as a string, because Streamlit is slow at hashing nested structures.
    """
    names, x, log, window = _names, _x, _log, _window
    colors = lab.colors(names)
    evaluations = lab.evaluations(names, x)
    figures = {
        f"evaluation-{i}": charts.loss_curves(evaluations, colors, x, log, perplexity)
        for i, perplexity in enumerate((False, True))
    }
    raw = lab.curves(names, CHARTS, x=x)
    noisy = [metric for metric in CHARTS if metric != "lr"]
    smooth = lab.curves(names, noisy, x=x, window=window) if window > 1 else {}
    for metric in CHARTS:
        figures[metric] = charts.step_curves(
            raw[metric], smooth.get(metric), colors, metric, x, log and metric != "lr"
        )
    keys = [*figures]
    for column, part in zip(st.columns(2), (keys[::2], keys[1::2]), strict=True):
        with column:
            show_figure(charts.stack([figures[key] for key in part]), key=part[0])
    samples = lab.samples(names)
    return records(samples.head(SHOWN_SAMPLES)), len(samples)


def show_details(names: list[str], view: str, samples: list[dict], total_samples: int) -> None:
    """Show the newest samples, the warnings or the trainer logs for the selected runs."""
    if view == "Samples":
        if not samples:
            st.caption("No samples yet. Set the interval with *Sample every*.")
        show_cut(len(samples), total_samples, "samples, newest first")
        for sample in samples:
            st.caption(
                f"{escape_markdown(sample['run'])}, step {sample['step']}: {escape_markdown(sample['prompt'])}"
            )
            show_text(sample["text"].strip())
    elif view == "Warnings":
        warnings = lab.warnings(names)
        if warnings.empty:
            st.caption("No warnings.")
        else:
            st.dataframe(warnings, hide_index=True)
    else:
        for name in names:
            st.caption(escape_markdown(name))
            with show_errors():  # the run may have been deleted since the last sync
                st.code(lab.log(name) or "(empty)", language=None)


st.title("Live")
results = records(lab.runs())
if not results:
    st.info("No runs yet. Launch the demo: it takes about a minute.")
    st.page_link("pages/launch.py", label="Launch", icon=":material/rocket_launch:")
    st.stop()

if "live_runs" not in st.session_state or "watch" in st.session_state:
    st.session_state["live_runs"] = default_runs(results)
existing_names = [run["name"] for run in results]
st.session_state["live_runs"] = [
    name for name in st.session_state["live_runs"] if name in existing_names
]
names = st.multiselect(
    "Runs",
    existing_names,
    key="live_runs",
    max_selections=MAX_OVERLAID_RUNS,
    on_change=st.session_state.pop,
    args=(REQUESTED, None),
)
show_cut(len(names), st.session_state.get(REQUESTED, 0))
with st.container(
    horizontal=True, vertical_alignment="bottom", gap="medium"
):  # wraps on narrow screens
    x = st.selectbox("X-axis", list(X_LABELS), format_func=lambda key: X_LABELS[key], width=150)
    window = int(
        st.number_input(
            "Smoothing (steps)", 1, 1000, 1, help="Moving average over this many steps.", width=150
        )
    )
    log = st.toggle("Log scale")
    follow = st.toggle("Follow", True, help="Turn off to freeze the charts and keep your zoom.")
st.query_params["run"] = names
was_active = any(run["status"] in ACTIVE_STATUSES for run in states(lab.synced_at, names))


@st.fragment(run_every=1.0 if was_active and follow else None)
def show() -> None:
    """Draw the part of the page that changes while a run is active."""
    runtime.lower_priority()
    if not runtime.is_open(lab):  # another session took over from a read-only Lab
        runtime.rerun()
    chosen = states(lab.synced_at, names)
    if was_active != any(run["status"] in ACTIVE_STATUSES for run in chosen):
        runtime.rerun()
    for run in chosen:
        show_run(run, lab)
    samples: list[dict] = []
    total_samples = 0
    if any(run["steps"] for run in chosen):
        cache_key = repr((lab, chosen, names, x, log, window, style.theme()))
        samples, total_samples = show_figures(cache_key, names, x, log, window)
    if chosen:
        view = st.segmented_control("Details", ["Samples", "Warnings", "Log"], default="Samples")
        show_details(names, view or "Samples", samples, total_samples)
    runtime.freeze_garbage_collection("Live")


show()
