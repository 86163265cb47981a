"""Change one thing: a study that varies one setting of a run, with the run's own value as one of the values."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

import streamlit as st

from core.config import RunConfig, is_relevant
from core.errors import UserError
from core.lab import Lab
from core.studies.sweep import Axis, Sweep, can_vary
from core.views.formats import axis_title, duration, plural, setting_text
from pages.ui.errors import show_errors, toast_errors
from pages.ui.planned_study import TIME_HELP
from pages.ui.run_links import live_link, study_link
from pages.ui.text import capitalize, escape_markdown
from pages.ui.varied_values import HELP, Typed, first_typed, parse, show_values

if TYPE_CHECKING:  # imports PyTorch, which takes seconds
    from core.studies.planning import SweepPlan

DEFAULT_FIELD = "lr"
DEFAULT_SEEDS = 3
"""One seed supports no verdict."""
MAX_SEEDS = 100
OPEN, TYPED, LAUNCHED = "change:open", "change:typed", "change:launched"
"""Session keys: the run whose dialog is open, the typed values by setting, and the study just launched."""
SEEDS = "change:seeds"
"""Widget key of the number of seeds."""


def show_button(name: str, seconds: float | None, lab: Lab) -> None:
    """Draw the button that opens the dialog.

    Args:
        seconds: the training time of the run; None if it has not finished.
    """
    if st.button(
        "Change one thing",
        icon=":material/science:",
        help="Train copies of this run that differ from it in one setting.",
    ):
        st.session_state.update({OPEN: name, TYPED: {}})
        st.session_state.pop(LAUNCHED, None)
    elif SEEDS not in st.session_state:  # the user has left the page
        st.session_state.pop(OPEN, None)
    if st.session_state.get(OPEN) == name:
        show_dialog(name, seconds, lab)


def _close() -> None:
    st.session_state.pop(OPEN, None)


@st.dialog("Change one thing", on_dismiss=_close)
def show_dialog(name: str, seconds: float | None, lab: Lab) -> None:
    """Draw the dialog for choosing a setting, its values and the number of seeds."""
    with show_errors(stop=True):
        run = lab.config(name)
    if launched := st.session_state.get(LAUNCHED):
        _show_launched(*launched)
        return
    st.caption(
        f"Trains copies of {escape_markdown(name)} with the same seeds and the same order of examples, so that "
        "differences are due to this setting. The current value is always included."
    )
    settings = run.model_dump()
    options = [f for f in RunConfig.model_fields if can_vary(f) and is_relevant(f, settings)]
    field = st.selectbox(
        "Setting",
        options,
        options.index(DEFAULT_FIELD),
        key="change:field",
        format_func=axis_title,
    )
    current = setting_text(settings[field])
    st.markdown(f"New values (current: {escape_markdown(current)})", help=HELP)
    typed: dict[str, Typed] = st.session_state[TYPED]
    nothing: Typed = [] if isinstance(first_typed(field, settings[field]), list) else ""
    show_values(
        field,
        typed.get(field, nothing),
        f"change:values:{field}",
        lambda values: typed.update({field: values}),
    )
    fields = [field]
    can_tie = field == "lora_rank" and settings["lora_rank"] == settings["lora_alpha"]
    if can_tie and st.toggle("Alpha = rank", True, key="change:tie"):
        fields.append("lora_alpha")
    seeds = st.number_input(
        "Seeds",
        1,
        MAX_SEEDS,
        DEFAULT_SEEDS,
        key=SEEDS,
        help=f"Each value is trained with seeds {run.seed}, {run.seed + 1} and so on. One seed supports no verdict.",
    )
    if not typed.get(field):
        st.caption("Enter at least one other value.")
        return
    try:
        sweep = _sweep(run, fields, typed[field], int(seeds))
    except UserError as error:
        st.error(escape_markdown(capitalize(str(error))))
        return
    with st.spinner("Planning the runs…"):
        plan = lab.plan_sweep(sweep, reuse=True)
    _show_plan(run, seconds, plan, lab)


def _sweep(run: RunConfig, fields: list[str], typed: Typed, seeds: int) -> Sweep:
    """Return a sweep over the run's own value and the typed values. Raises UserError if one is invalid."""
    axis = parse(fields, typed)
    own = getattr(run, fields[0])
    others = tuple(value for value in axis.values if value != own)
    if not others:
        raise UserError(
            f"{fields[0]} = {setting_text(own)}: this is the current value; enter another one"
        )
    identity = {"parent": run.name, "study": None, "notes": "", "color": "", "archived": False}
    base = run.changed(**identity)
    return Sweep(
        base, (Axis(tuple(fields), (own, *others)),), tuple(range(run.seed, run.seed + seeds))
    )


def _show_plan(run: RunConfig, seconds: float | None, plan: "SweepPlan", lab: Lab) -> None:
    """Draw the problems or the cost, and the button that launches the runs.

    Args:
        seconds: the training time of the run; None if it has not finished.
    """
    problems = [*plan.problems, *map(str, plan.setting_problems)]
    if plan.invalid_message:
        problems.append(plan.invalid_message)
    for problem in problems:
        st.error(escape_markdown(capitalize(problem)))
    if plan.runs:
        total = plan.scaled_seconds(run, seconds) if seconds else plan.seconds
        basis = f" This estimate is based on how long {run.name} took." if seconds else ""
        st.markdown(
            f"**{plural(plan.count, 'run')}**, about {duration(total)}",
            help=TIME_HELP + escape_markdown(basis),
        )
        st.caption(escape_markdown(_reuse_text(run, plan.reused)))
    st.button(
        f"Launch {plural(plan.count, 'run')}",
        key="change:launch",
        type="primary",
        icon=":material/rocket_launch:",
        disabled=bool(problems) or not plan.trained,
        on_click=_launch,
        args=(plan, lab),
    )


def _launch(plan: "SweepPlan", lab: Lab) -> None:
    with toast_errors():
        names = lab.sweep(plan.sweep, plan.study, reused=plan.reused)
        st.session_state[LAUNCHED] = (plan.study, names, len(names) - len(plan.reused))


def _reuse_text(run: RunConfig, reused: Mapping[str, str]) -> str:
    """Return a sentence about the finished runs that are not trained again."""
    others = len([name for name in reused.values() if name != run.name])
    if run.name in reused.values():
        text = f"{run.name} is reused and becomes part of the study."
    elif run.study:
        text = f"{run.name} belongs to the study {run.study}, so its settings are trained again."
    else:
        text = f"{run.name} has not finished, so its settings are trained again."
    if others:
        verb = "is" if others == 1 else "are"
        text += f" {plural(others, 'run')} with the same settings {verb} reused, too."
    return text


def _show_launched(study: str, names: list[str], count: int) -> None:
    st.success(f"Launched {plural(count, 'run')}.", icon=":material/check_circle:")
    study_link(study)
    live_link(names)
