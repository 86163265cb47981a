"""The study on Launch: its plan, its problems and the launch."""

import itertools
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import streamlit as st

from core.config import RunConfig
from core.errors import ConfigError
from core.lab import Lab
from core.studies.sweep import Axis, Sweep, products
from core.views.formats import plural
from pages import launch_vary
from pages.launch_measurements import show_measurement
from pages.ui.errors import show_errors
from pages.ui.planned_study import show_remarks, show_table, show_totals
from pages.ui.run_links import live_link, study_link

if TYPE_CHECKING:  # imports PyTorch, which takes seconds
    from core.studies.planning import SweepPlan

LAUNCHED = "launched_study"
"""Session key: name, runs and sweep of the study launched last."""
PLAN = "study_plan"
"""Session key: the latest plan, its cache key and the time when it was made."""
PLAN_LIFETIME_S = 10.0
"""Time for which a plan is reused while nothing changes, in seconds."""
MAX_TRIED = 1000
"""Maximum number of combinations to try when looking for a valid one."""


def first_valid(settings: Mapping[str, Any], axes: Sequence[Axis]) -> RunConfig | None:
    """Return the settings of the first combination that is valid, or None."""
    for values in itertools.islice(products(axes), MAX_TRIED):
        try:
            return RunConfig.parse({**settings, **values})
        except ConfigError:
            continue
    return None


def with_first_values(settings: Mapping[str, Any], axes: Sequence[Axis]) -> dict[str, Any]:
    """Return the settings with the first value of each axis."""
    return {**settings, **next(products(axes))}


def sweep(base: RunConfig, axes: tuple[Axis, ...]) -> Sweep:
    """Return the sweep with the options that the user has chosen."""
    seeds = tuple(base.seed + i for i in range(launch_vary.option("seeds")))
    mode = launch_vary.option("mode")
    runs = None if mode == "grid" else launch_vary.max_runs()
    metric, prune = launch_vary.option("metric"), launch_vary.option("prune")
    return Sweep(base, axes, seeds, mode, runs, metric, prune)


def plan(lab: Lab, planned: Sweep) -> "SweepPlan":
    """Return the plan of a study. It is cached for a few seconds, because every click redraws the page."""
    key, now = (planned, launch_vary.option("study")), time.monotonic()
    cached_key, made_at, cached = st.session_state.get(PLAN, (None, 0.0, None))
    if cached_key != key or now - made_at > PLAN_LIFETIME_S:
        cached = lab.plan_sweep(planned, launch_vary.option("study"))
        st.session_state[PLAN] = (key, now, cached)
    result: SweepPlan = cached
    return result


def is_blocked(current: "SweepPlan") -> bool:
    """Whether there are invalid combinations and the user has not chosen to skip them."""
    return bool(current.invalid) and not launch_vary.option("skip")


def is_launched(planned: Sweep, runs: Mapping[str, str]) -> bool:
    """Whether this study was launched last and its runs still exist."""
    launched = st.session_state.get(LAUNCHED)
    return bool(launched and launched["sweep"] == planned and launched["runs"][0] in runs)


def launch(lab: Lab, planned: Sweep, current: "SweepPlan") -> bool:
    """Launch the study. Returns False after showing an error."""
    with show_errors():
        names = lab.sweep(current.sweep, current.study, launch_vary.option("question"))
        st.session_state[LAUNCHED] = {"name": current.study, "runs": names, "sweep": planned}
        st.session_state.pop(PLAN, None)
        launch_vary.forget_texts()
        return True
    return False


def show_launched(runs: Mapping[str, str]) -> None:
    """Show links to the study launched last, unless its runs have been deleted.

    Args:
        runs: the color of each run.
    """
    launched = st.session_state.get(LAUNCHED)
    if launched is None or not (names := [name for name in launched["runs"] if name in runs]):
        return
    with st.container(key="launched-study", border=True, gap="xsmall"):
        st.markdown(f":green[:material/check_circle:] Launched {plural(len(names), 'run')}")
        study_link(launched["name"])
        live_link(names)


def show_plan(lab: Lab, base: RunConfig, current: "SweepPlan") -> None:
    """Draw the totals, the button that opens the table of runs, and the button that measures the time."""
    if current.runs:
        totals = st.container()
        if st.button("Show all runs", icon=":material/table_rows:", width="stretch"):
            show_table(current)
        cost = show_measurement(base, lab)
        with totals:
            one = cost.seconds + cost.evaluation_seconds if cost else None
            show_totals(current, one and current.scaled_seconds(base, one))
    show_remarks(current)
