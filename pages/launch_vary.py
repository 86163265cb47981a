"""The settings that the Launch form varies, stored in the session and in the URL.

The URL parameters are `vary` (one per axis, such as `lr=1e-4,3e-4`) and the options of the study; see DEFAULTS.
"""

import itertools
import json
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple, get_args

import streamlit as st

from core.config import RunConfig, base_type
from core.errors import UserError
from core.metrics import RESULTS
from core.studies import sweep
from core.studies.sweep import Axis, Mode, can_vary
from core.views.formats import axis_title, setting_text
from pages.ui.text import capitalize, escape_markdown
from pages.ui.varied_values import HELP, Typed, first_typed, link_text, parse, show_values

STATE = "vary"
"""Session key: the varied settings and the options of the study."""
ADDRESS = "vary_address"
"""Session key: the URL parameters that were last read or written."""
DEFAULTS: dict[str, Any] = {
    "seeds": 3, "mode": "grid", "runs": None, "metric": "val_loss", "prune": False, "skip": False, "study": "",
    "question": "",
}  # fmt: skip
"""Options of a study. One seed supports no verdict."""
PARAMETERS = ("vary", *DEFAULTS)
DEFAULT_MAX_RUNS = 20
MAX_SEEDS = 100
MODE_TITLES = {"grid": "Grid", "random": "Random", "search": "Search"}
SWITCHES = (
    *("method", "trained_weights", "schedule", "warmup_fraction", "optimizer"),
    *("lora_dora", "weight_decay", "early_stopping_patience"),
)
"""Settings that determine whether others have an effect."""
MAX_VARIANTS = 200
"""Maximum number of combinations that are considered when hiding settings without an effect."""


class Vary(NamedTuple):
    """The axes that could be parsed, and the errors in the others, by their first setting."""

    axes: tuple[Axis, ...]
    errors: dict[str, str]


def clear() -> None:
    """Vary nothing."""
    st.session_state[STATE] = {"axes": [], **DEFAULTS}


def forget_texts() -> None:
    """Clear the name and the question, which belong to one study."""
    _state().update(study="", question="")


def open_link() -> None:
    """Apply the URL, unless this page wrote it. A URL without parameters keeps the state of the previous visit."""
    if STATE not in st.session_state:
        clear()
    linked = _address()
    if not linked.get("vary") or linked == st.session_state.get(ADDRESS):
        return
    clear()
    state = _state()
    for text in linked["vary"]:
        fields, typed = _split(text)
        if fields and all(can_vary(field) for field in fields):
            state["axes"].append({"fields": fields, "typed": typed})
        else:
            st.warning(f"Unknown setting: {escape_markdown(text)}.")
    given = {name: values[-1] for name, values in linked.items()}
    for name, most in (("seeds", MAX_SEEDS), ("runs", sweep.MAX_RUNS)):
        if (text := given.get(name, "")).isdecimal():
            state[name] = min(most, max(1, int(text[:9])))
    if given.get("mode") in get_args(Mode):
        state["mode"] = given["mode"]
    if given.get("metric") in sweep.SEARCH_METRICS:
        state["metric"] = given["metric"]
    state.update({name: given.get(name) == "1" for name in ("prune", "skip")})
    state.update({name: given.get(name, "") for name in ("study", "question")})


def write_url() -> None:
    """Update the URL."""
    state = _state()
    shown = (
        {"vary": [link_text(axis["fields"], axis["typed"]) for axis in state["axes"]]}
        if state["axes"]
        else {}
    )
    if shown:
        given = {n: state[n] for n in DEFAULTS if state[n] not in (DEFAULTS[n], None, "")}
        shown |= {n: ["1" if value is True else str(value)] for n, value in given.items()}
    for name in PARAMETERS:
        if name in shown and st.query_params.get_all(name) != shown[name]:
            st.query_params[name] = shown[name]
        elif name not in shown and name in st.query_params:
            del st.query_params[name]
    st.session_state[ADDRESS] = shown


def option(name: str) -> Any:
    """Return an option of the study, a key of DEFAULTS."""
    return _state()[name]


def parsed() -> Vary:
    """Return the axes and the errors in their values."""
    axes, errors = [], {}
    for axis in _state()["axes"]:
        try:
            axes.append(parse(axis["fields"], axis["typed"]))
        except UserError as error:
            errors[axis["fields"][0]] = str(error)
    return Vary(tuple(axes), errors)


def texts() -> dict[str, str]:
    """Return the values of each varied setting as text."""
    return {
        field: axis["typed"] if isinstance(axis["typed"], str) else ", ".join(axis["typed"])
        for axis in _state()["axes"]
        for field in axis["fields"]
    }


def variants(axes: Sequence[Axis]) -> list[dict[str, Any]]:
    """Return the combinations of those varied settings that determine whether others have an effect."""
    switches = [axis for axis in axes if set(axis.fields) & {*SWITCHES}]
    return [*itertools.islice(sweep.products(switches), MAX_VARIANTS)]


def show(current: Mapping[str, Any], names: Sequence[str], is_alpha_locked: bool) -> None:
    """Draw the varied settings and the options of the study.

    Args:
        current: the settings in the form.
        names: settings that have an effect, in the order of the form.
        is_alpha_locked: whether alpha is varied together with the rank.
    """
    axes, errors = _state()["axes"], parsed().errors
    for number, axis in enumerate(axes):
        _show_axis(number, axis, names, errors)
    varied = texts()
    free = [name for name in names if can_vary(name) and name not in varied]
    st.session_state["vary:add"] = None

    def add() -> None:
        if (field := st.session_state["vary:add"]) is not None:
            tied = field == "lora_rank" and is_alpha_locked and "lora_alpha" not in varied
            fields = [field, "lora_alpha"] if tied else [field]
            _state()["axes"].append({"fields": fields, "typed": first_typed(field, current[field])})

    st.selectbox(
        "Vary a setting",
        free,
        index=None,
        key="vary:add",
        placeholder="Vary another setting" if axes else "Vary a setting",
        label_visibility="collapsed",
        format_func=lambda name: str(RunConfig.model_fields[name].title),
        on_change=add,
        help="Train a study: one run for each combination of values and each seed.",
    )
    if axes:
        _show_options()


def show_invalid(message: str) -> None:
    """List the invalid combinations, and let the user skip them."""
    if option("skip"):
        st.caption(escape_markdown(f"Skipped. {message}."))
    else:
        st.error(escape_markdown(f"{message}."))
    _widget(st.toggle, "skip", label="Skip invalid combinations")


def _show_axis(
    number: int, axis: dict[str, Any], names: Sequence[str], errors: Mapping[str, str]
) -> None:
    fields, help = axis["fields"], HELP if isinstance(axis["typed"], str) else None
    with st.container(key=f"axis-{number}", gap="xsmall"):
        with st.container(horizontal=True, vertical_alignment="center", gap="xsmall"):
            st.markdown(f"**{escape_markdown(axis_title(fields))}**", width="stretch", help=help)
            _show_tie(axis, names)
            st.button(
                ":material/close:",
                key=f"vary:remove:{fields[0]}",
                type="tertiary",
                help=f"Stop varying {axis_title(fields)}",
                on_click=_state()["axes"].remove,
                args=(axis,),
            )
        key = f"vary:{fields[0]}"
        show_values(fields[0], axis["typed"], key, partial(axis.__setitem__, "typed"))
        if fields[0] in errors:
            st.error(escape_markdown(capitalize(errors[fields[0]])))


def _show_tie(axis: dict[str, Any], names: Sequence[str]) -> None:
    """Draw the menu that applies this setting's values to other settings."""
    field, taken = axis["fields"][0], texts()
    kind = base_type(RunConfig.model_fields[field])
    kinds = (int, float) if kind in (int, float) else (kind,)
    others = [
        name
        for name in names
        if can_vary(name)
        and name != field
        and base_type(RunConfig.model_fields[name]) in kinds
        and (name in axis["fields"] or name not in taken)
    ]
    key = f"vary:tie:{field}"
    st.session_state[key] = [name for name in axis["fields"][1:] if name in others]

    def tie() -> None:
        axis["fields"] = [field, *st.session_state[key]]

    with st.popover(":material/link:", type="tertiary", help="Vary together with other settings"):
        st.multiselect(
            "Give the same value to",
            others,
            key=key,
            format_func=lambda name: str(RunConfig.model_fields[name].title),
            on_change=tie,
            help="Settings that vary together count as one change.",
        )


def _show_options() -> None:
    seeds, mode = st.columns(2)
    with seeds:
        _widget(
            st.number_input, "seeds", label="Seeds", min_value=1, max_value=MAX_SEEDS, step=1,
            help="All combinations are trained with the same seeds, starting with the seed in the form. One seed "
            "supports no verdict.",
        )  # fmt: skip
    with mode:
        _widget(
            st.selectbox, "mode", label="Mode", options=get_args(Mode),
            format_func=lambda mode: MODE_TITLES.get(mode, str(mode).capitalize()),
            help="Grid trains all combinations, Random a random subset, and Search those that are likely to improve.",
        )  # fmt: skip
    if option("mode") != "grid":
        max_runs()
        _widget(
            st.number_input, "runs", label="Max runs", min_value=1, max_value=sweep.MAX_RUNS, step=1,
            help="Maximum number of runs, rounded down to a multiple of the number of seeds.",
        )  # fmt: skip
    if option("mode") == "search":
        _widget(
            st.selectbox, "metric", label="Improve", options=sweep.SEARCH_METRICS,
            format_func=lambda name: RESULTS[name].title, help="The metric that the search improves.",
        )  # fmt: skip
    _widget(
        st.toggle, "prune", label="Prune runs that fall behind",
        help="Stop a run at 20, 40 or 80% of its steps if at least three others with the same seed have got that far and "
        "its loss is not in the better half. Has no effect with fewer than four combinations. Effects exclude pruned runs.",
    )  # fmt: skip
    _widget(st.text_input, "study", label="Study name", placeholder="automatic", max_chars=40)
    _widget(
        st.text_input, "question", label="Question", placeholder="What question should this study answer?",
        max_chars=500,
    )  # fmt: skip


def max_runs() -> int:
    """Return the maximum number of runs of a random study or a search."""
    if option("runs") is None:
        _state()["runs"] = max(DEFAULT_MAX_RUNS, option("seeds"))
    return int(option("runs"))


def _widget(draw: Callable[..., Any], name: str, **arguments: Any) -> None:
    """Draw a widget for an option of the study."""
    key = f"vary:option:{name}"
    st.session_state[key] = _state()[name]

    def take() -> None:
        _state()[name] = st.session_state[key]

    draw(key=key, on_change=take, **arguments)


def _state() -> dict[str, Any]:
    state: dict[str, Any] = st.session_state[STATE]
    return state


def _address() -> dict[str, list[str]]:
    given = {name: st.query_params.get_all(name) for name in PARAMETERS}
    return {name: values for name, values in given.items() if values}


def _split(text: str) -> tuple[list[str], Typed]:
    """Return the settings and the values of an axis in the URL."""
    fields = []
    while "=" in text and (name := text.partition("=")[0].strip()) in RunConfig.model_fields:
        fields.append(name)
        text = text.partition("=")[2]
    is_number = bool(fields) and base_type(RunConfig.model_fields[fields[0]]) in (int, float)
    if is_number:
        return fields, text
    try:
        values = json.loads(text)
    except ValueError:
        values = [value.strip() for value in text.split(",") if value.strip()]
    return fields, [setting_text(v) if not isinstance(v, str) else v for v in values] if isinstance(
        values, list
    ) else [text]
