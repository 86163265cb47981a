"""The form for a RunConfig, derived from its fields: groups, widgets, conditions and error messages.

Values are stored in a draft in the session, because Streamlit forgets the values of widgets that are not drawn.
"""

from collections.abc import Callable, Mapping, Sequence
from textwrap import shorten
from typing import Any, NamedTuple

import streamlit as st
from pydantic.fields import FieldInfo

from core.config import GROUPS, RunConfig, base_type, choices, is_optional, is_relevant, metadata
from core.errors import Problem
from core.views.formats import dataset_text, setting_text, value_text
from pages.ui import runtime
from pages.ui.text import capitalize, escape_markdown
from pages.ui.upload import dataset_uploader
from pages.ui.varied_values import SUGGESTIONS

FIELDS = RunConfig.model_fields
NUMBER_TEXT_FIELDS = ("lr", "min_lr", "warmup_start", "epsilon", "weight_decay")
"""Numbers entered as text, because number inputs cannot show both 5e-5 and 2.5e-5 without rounding or padding."""
MULTILINE_FIELDS = ("notes", "sample_prompt")
EMPTY_MEANINGS = {"eval_every": "automatic", "early_stopping_patience": "never"}
"""Placeholders of empty number fields other than "none"."""
ADVANCED_GROUPS = ("hardware", "cadence")
ADVANCED_FIELDS = {
    *("tie_weights", "columns", "empty_outputs", "train_fraction", "test_fraction"),
    *("lora_scaling", "lora_init", "lora_dora", "lora_plus_ratio", "lora_dropout"),
    *("lora_last_layers", "decay_fraction", "warmup_start", "beta1", "beta2", "epsilon"),
    *("decay_scope", "nonfinite", "group_by_length"),
    *(name for name, field in FIELDS.items() if metadata(field)["group"] in ADVANCED_GROUPS),
}
"""Settings whose defaults suit most runs."""
DRAFT, GENERATION, SOURCE = "draft", "draft_generation", "draft_source"
REDRAWN = "draft_redrawn"
"""Session key: how many times callbacks have set each field since the form was filled."""
ALPHA_LOCK = "alpha_lock"
"""Session key: whether alpha follows the rank."""
ADVANCED_OPEN = "advanced_open"
"""Session key: whether a problem has opened the advanced settings since the form was filled."""
CHANGE_WIDTH = 60
"""Maximum length of a value in the list of changes, in characters."""


Variants = Sequence[Mapping[str, Any]]


class Change(NamedTuple):
    """A setting that differs from the source, with both values as text."""

    name: str
    old: str
    new: str


def start_from(values: Mapping[str, Any]) -> None:
    """Fill in the form with these values, using defaults for the rest. Discards all edits."""
    st.session_state[SOURCE] = {**RunConfig().model_dump(), **values}
    reset()


def reset() -> None:
    """Discard all edits since the form was filled."""
    st.session_state[DRAFT] = dict(st.session_state[SOURCE])
    st.session_state[ALPHA_LOCK] = _alpha_equals_rank(st.session_state[DRAFT])
    st.session_state[ADVANCED_OPEN] = False
    st.session_state[REDRAWN] = {}
    st.session_state[GENERATION] = st.session_state.get(GENERATION, 0) + 1


def continue_from(parent: str) -> None:
    """Make the run just launched the source of the form. The settings stay, so no changes are listed."""
    st.session_state[DRAFT] = {**values(), "parent": parent}
    st.session_state[SOURCE] = dict(st.session_state[DRAFT])


def fill(name: str, value: Any) -> None:
    """Set a field. Call only from callbacks, which run before the form is drawn."""
    st.session_state[DRAFT] = {**values(), name: value}
    _redraw(name)


def undo(name: str) -> None:
    """Restore the source's value of a field. Call only from callbacks."""
    fill(name, st.session_state[SOURCE][name])
    if name == "lora_alpha":
        st.session_state[ALPHA_LOCK] = _alpha_equals_rank(st.session_state[DRAFT])
        _redraw(ALPHA_LOCK)


def changes(current: Mapping[str, Any], variants: Variants = ({},)) -> list[Change]:
    """Return the relevant settings that differ from the source."""
    found = []
    for name, value in settings(current, variants).items():
        old, new = value_text(name, st.session_state[SOURCE][name]), value_text(name, value)
        if old != new:
            old, new = (shorten(text, CHANGE_WIDTH, placeholder=" …") for text in (old, new))
            found.append(Change(name, old, new))
    return found


def is_edited(current: Mapping[str, Any]) -> bool:
    """Whether any setting differs from the source, including settings that have no effect."""
    source = st.session_state[SOURCE]
    return any(setting_text(source[name]) != setting_text(current[name]) for name in FIELDS)


def values() -> dict[str, Any]:
    """Return the current values in the form, including those of widgets that this rerun has not drawn yet."""
    draft = st.session_state[DRAFT]
    for name in FIELDS:
        if _key(name) in st.session_state:
            value = st.session_state[_key(name)]
            draft[name] = _number(value) if name in NUMBER_TEXT_FIELDS else value
    if _key(ALPHA_LOCK) in st.session_state:
        st.session_state[ALPHA_LOCK] = st.session_state[_key(ALPHA_LOCK)]
    if st.session_state[ALPHA_LOCK] and (draft["lora_rank"] or 0) > 0:
        draft["lora_alpha"] = float(draft["lora_rank"])
    return dict(draft)


def settings(current: Mapping[str, Any], variants: Variants = ({},)) -> dict[str, Any]:
    """Return the settings to launch with. Hidden fields have no effect, so they are neither included nor validated.

    Args:
        variants: combinations of varied settings. A field is hidden only if it has no effect in any of them.
    """
    return {
        name: value
        for name, value in current.items()
        if name == "parent" or _has_effect(name, current, variants)
    }


def names(current: Mapping[str, Any], variants: Variants = ({},)) -> list[str]:
    """Return the fields that have an effect, in the order of the form."""
    return [
        name
        for group in GROUPS
        for name, field in FIELDS.items()
        if metadata(field)["group"] == group and _has_effect(name, current, variants)
    ]


def is_alpha_locked() -> bool:
    """Whether alpha follows the rank."""
    return bool(st.session_state[ALPHA_LOCK])


def _has_effect(name: str, current: Mapping[str, Any], variants: Variants) -> bool:
    return any(is_relevant(name, {**current, **variant}) for variant in variants)


def show(
    current: Mapping[str, Any],
    problems: list[Problem],
    footers: Mapping[str, Callable[[], None]] | None = None,
    varied: Mapping[str, str] | None = None,
    variants: Variants = ({},),
) -> None:
    """Draw all groups, with error messages below their fields and the advanced settings at the end.

    Args:
        footers: functions that draw content below the fields of a group, by group.
        varied: the values of varied settings as text, by setting.
        variants: see `settings`.
    """
    advanced: dict[str, list[str]] = {}
    shown = names(current, variants)
    varied = varied or {}
    for group, title in GROUPS.items():
        relevant = [name for name in shown if metadata(FIELDS[name])["group"] == group]
        advanced[group] = [name for name in relevant if name in ADVANCED_FIELDS]
        basic = [name for name in relevant if name not in ADVANCED_FIELDS]
        if not basic:
            continue
        with st.container(border=True):
            st.markdown(f"**{title}**")
            _fields(f"fields-{group}", basic, current, problems, varied)
            if footers and group in footers:
                footers[group]()
            if "dataset" in basic:
                dataset_uploader(_use_upload)
    _show_advanced(advanced, current, problems, varied)


def messages(problems: list[Problem]) -> list[str]:
    """Return each problem as Markdown: the title of the field in bold, and the message."""
    lines = [
        f"**{FIELDS[problem.field].title}**: {escape_markdown(problem.message)}"
        for problem in problems
    ]
    return list(dict.fromkeys(lines))


def _show_advanced(
    groups: Mapping[str, list[str]],
    current: Mapping[str, Any],
    problems: list[Problem],
    varied: Mapping[str, str],
) -> None:
    """Draw the advanced settings, which are collapsed unless one has a problem, and list those that were changed."""
    names = [name for group in groups.values() for name in group]
    if any(problem.field in names for problem in problems):
        st.session_state[ADVANCED_OPEN] = True
    with st.expander("Advanced", expanded=st.session_state[ADVANCED_OPEN]):
        for group, fields in groups.items():
            if fields:
                st.markdown(f"**{GROUPS[group]}**")
                _fields(f"fields-advanced-{group}", fields, current, problems, varied)
    defaults = RunConfig()
    changed = [
        f"{FIELDS[name].title} {setting_text(current[name])}"
        for name in names
        if name not in varied
        and setting_text(current[name]) != setting_text(getattr(defaults, name))
    ]
    if changed:
        short = [shorten(text, CHANGE_WIDTH, placeholder=" …") for text in changed]
        st.caption("Changed advanced settings: " + escape_markdown(", ".join(short)))


def _use_upload(path: str) -> None:
    """Select an uploaded data set."""
    fill("dataset", path)


def _fields(
    key: str,
    names: Sequence[str],
    current: Mapping[str, Any],
    problems: list[Problem],
    varied: Mapping[str, str],
) -> None:
    """Draw fields in rows (see style.css): inputs first, then checkboxes, then long text fields at full width."""
    is_checkbox = {n: base_type(FIELDS[n]) is bool and n not in varied for n in names}
    short_fields = [name for name in names if name not in MULTILINE_FIELDS]
    rows = {
        key: [name for name in short_fields if not is_checkbox[name]],
        f"{key}-checkboxes": [name for name in short_fields if is_checkbox[name]],
    }
    for row_key, row in rows.items():
        if row:
            with st.container(key=row_key):
                for name in row:
                    _field(name, current, problems, varied)
    for name in names:
        if name in MULTILINE_FIELDS:
            _field(name, current, problems, varied)


def _field(
    name: str, current: Mapping[str, Any], problems: list[Problem], varied: Mapping[str, str]
) -> None:
    """Draw a field with its error messages. Varied fields show their values instead of an input."""
    with st.container(key=f"field-{name}"):
        if name in varied:
            _show_varied(name, varied[name])
        else:
            _widget(name, FIELDS[name], current[name])
        if name == "lora_alpha" and name not in varied:
            st.toggle(
                "Alpha = rank",
                st.session_state[ALPHA_LOCK],
                key=_key(ALPHA_LOCK),
                help="Keep alpha equal to the rank. With alpha/rank scaling, the scale is then always 1.",
            )
        for problem in problems:
            if problem.field == name:
                st.error(escape_markdown(capitalize(problem.message)))


def _show_varied(name: str, values: str) -> None:
    key = f"varied:{name}"
    st.session_state[key] = values
    st.text_input(
        f"{FIELDS[name].title} :blue-badge[varied]",
        key=key,
        disabled=True,
        help=f"Runs are trained with each of these values. `{name}`: {FIELDS[name].description}",
    )


def _key(name: str) -> str:
    """Return the key of a field's widget. A new key makes Streamlit redraw the widget from the draft."""
    return f"setting:{st.session_state[GENERATION]}:{name}:{st.session_state[REDRAWN].get(name, 0)}"


def _redraw(name: str) -> None:
    count = st.session_state[REDRAWN].get(name, 0)
    st.session_state[REDRAWN] = {**st.session_state[REDRAWN], name: count + 1}


def _widget(name: str, field: FieldInfo, value: Any) -> None:
    label, key = str(field.title), _key(name)
    help = f"`{name}`: {field.description}"
    kind, options = base_type(field), choices(field)
    if options:
        st.selectbox(
            label, options, options.index(value) if value in options else 0, key=key, help=help
        )
    elif name in SUGGESTIONS:
        uploads = runtime.lab().uploads() if name == "dataset" else []
        suggestions = list(dict.fromkeys([*SUGGESTIONS[name], *uploads, value]))
        st.selectbox(
            label,
            suggestions,
            suggestions.index(value),
            key=key,
            help=help,
            format_func=dataset_text,
            accept_new_options=True,
        )
    elif kind is bool:
        st.checkbox(label, value, key=key, help=help)
    elif name in NUMBER_TEXT_FIELDS:
        _number_text(name, field, value)
    elif kind in (int, float):
        _number_input(name, field, value)
    elif name in MULTILINE_FIELDS:
        st.text_area(label, value, height=68, key=key, help=help)
    else:
        text = value if isinstance(value, str) else ", ".join(value or ())
        st.text_input(label, text, key=key, help=help)


def _number_input(name: str, field: FieldInfo, value: Any) -> None:
    key, kind = _key(name), base_type(field)
    is_locked = name == "lora_alpha" and st.session_state[ALPHA_LOCK]
    number: Any = None if value is None else kind(value)
    step: Any = 1 if kind is int else increment(value)
    if is_locked:
        key += ":locked"
        st.session_state[key], number = number, None
    elif is_optional(field):  # Streamlit only allows clearing an input whose default is None
        st.session_state.setdefault(key, number)
        number = None
    st.number_input(
        str(field.title),
        value=number,
        step=step,
        format="%d" if kind is int else "%g",
        placeholder=EMPTY_MEANINGS.get(name, "none") if is_optional(field) else "",
        key=key,
        help=f"`{name}`: {field.description}",
        disabled=is_locked,
    )


def _number_text(name: str, field: FieldInfo, value: Any) -> None:
    """Draw a text input for a number, so that it reads 5e-5. Invalid text is kept, so that its error can be shown."""
    key = _key(name)
    st.session_state.setdefault(key, "" if value is None else _number_as_text(value))
    st.text_input(
        str(field.title),
        placeholder="none" if is_optional(field) else "",
        key=key,
        help=f"`{name}`: {field.description}",
        on_change=_normalize,
        args=(key,),
    )


def _normalize(key: str) -> None:
    """Rewrite a typed number in the format used on all pages, such as 5e-5 for 0.00005."""
    value = _number(st.session_state[key])
    st.session_state[key] = "" if value is None else _number_as_text(value)


def _number(text: str) -> float | str | None:
    """Return the number that the user typed, None for empty text, and any other text unchanged."""
    try:
        return float(text) if text.strip() else None
    except ValueError:
        return text


def _number_as_text(value: float | str) -> str:
    return setting_text(value) if isinstance(value, float) else str(value)


def _alpha_equals_rank(values: Mapping[str, Any]) -> bool:
    return bool(values["lora_alpha"] == values["lora_rank"])


def increment(value: float | None) -> float:
    """Return the step of a number input, based on the magnitude of its value: 1e-5 for 5e-5, 0.1 for 0.85."""
    return float(f"1e{f'{value:e}'.rpartition('e')[2]}") if value else 0.1
