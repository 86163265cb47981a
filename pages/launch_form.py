"""The form for a RunConfig, derived from its fields: groups, widgets, conditions and error messages.

Values are stored in a draft in the session, because Streamlit forgets the values of widgets that are not drawn.
"""

from collections.abc import Callable, Mapping
from textwrap import shorten
from typing import Any

import streamlit as st
from pydantic.fields import FieldInfo
from streamlit.delta_generator import DeltaGenerator

from core.config import GROUPS, RunConfig, base_type, choices, is_optional, is_relevant, metadata
from core.errors import Problem
from core.nn.architecture import FAMILY, TARGET_GROUPS
from core.views.formats import setting_text
from pages.ui.text import capitalize, escape_markdown
from pages.ui.upload import dataset_uploader

FIELDS = RunConfig.model_fields
SUGGESTIONS = {
    "base_model": list(FAMILY),
    "dataset": ["primer", "alpaca"],
    "lora_targets": list(TARGET_GROUPS),
}
EXPONENT_FIELDS = ("lr", "min_lr", "warmup_start", "epsilon")
"""Fields shown in scientific notation."""
MULTILINE_FIELDS = ("notes", "sample_prompt")
EMPTY_MEANINGS = {"eval_every": "automatic"}
"""Placeholders of empty number fields other than "none"."""
COLLAPSED_GROUPS = ("hardware", "cadence")
"""Groups whose defaults suit most runs."""
DRAFT, GENERATION, SOURCE = "draft", "draft_generation", "draft_source"
CHANGE_WIDTH = 60
"""Maximum length of a value in the list of changes, in characters."""


def start_from(values: Mapping[str, Any]) -> None:
    """Fill the form with these values, and defaults for the rest. Discards all edits."""
    st.session_state[SOURCE] = {**RunConfig().model_dump(), **values}
    reset()


def reset() -> None:
    """Discard all edits since the form was filled."""
    st.session_state[DRAFT] = dict(st.session_state[SOURCE])
    st.session_state[GENERATION] = st.session_state.get(GENERATION, 0) + 1


def fill(name: str, value: Any) -> None:
    """Set a field. Call only from callbacks, which run before the form is drawn."""
    st.session_state[DRAFT] = {**values(), name: value}
    st.session_state[GENERATION] += 1  # recreates the widgets from the draft


def changes(current: Mapping[str, Any]) -> list[str]:
    """Return a line such as `Learning rate: 5e-5 → 1e-4` for each relevant setting that differs from the source."""
    lines = []
    for name, value in settings(current).items():
        old, new = setting_text(st.session_state[SOURCE][name]), setting_text(value)
        if old != new:
            old, new = (shorten(text, CHANGE_WIDTH, placeholder=" …") for text in (old, new))
            lines.append(f"{FIELDS[name].title}: {old} → {new}")
    return lines


def is_edited(current: Mapping[str, Any]) -> bool:
    """Whether any setting differs from the source, including settings that have no effect."""
    source = st.session_state[SOURCE]
    return any(setting_text(source[name]) != setting_text(current[name]) for name in FIELDS)


def values() -> dict[str, Any]:
    """Return the current values of the form, including widgets that this rerun has not drawn yet."""
    draft = st.session_state[DRAFT]
    for name in FIELDS:
        if _key(name) in st.session_state:
            draft[name] = st.session_state[_key(name)]
    return dict(draft)


def settings(current: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings to launch with. Hidden fields have no effect, so they are omitted and not validated."""
    return {
        name: value
        for name, value in current.items()
        if name == "parent" or is_relevant(name, current)
    }


def show(
    current: Mapping[str, Any],
    problems: list[Problem],
    footers: Mapping[str, Callable[[], None]] | None = None,
) -> None:
    """Draw all groups, with error messages below their fields.

    Args:
        footers: functions that draw content below the fields of a group, by group.
    """
    for group, title in GROUPS.items():
        names = [
            name
            for name, field in FIELDS.items()
            if metadata(field)["group"] == group and is_relevant(name, current)
        ]
        has_problem = any(problem.field in names for problem in problems)
        box: DeltaGenerator
        if group in COLLAPSED_GROUPS:
            box = st.expander(title, expanded=has_problem)
        else:
            box = st.container(border=True)
            box.markdown(f"**{title}**")
        with box:
            short_fields = [name for name in names if name not in MULTILINE_FIELDS]
            for start in range(0, len(short_fields), 3):
                _row(short_fields[start : start + 3], current, problems)
            for name in names:
                if name in MULTILINE_FIELDS:
                    _row([name], current, problems)
            if footers and group in footers:
                footers[group]()
            if "dataset" in names:
                dataset_uploader(_use_upload)


def fields_to_fix(problems: list[Problem]) -> list[str]:
    """Return the titles of the invalid fields, in bold. The message is added if the form does not show the field."""
    titles = []
    for problem in problems:
        field = FIELDS[problem.field]
        is_hidden = metadata(field)["when"] == "never"
        message = f" ({escape_markdown(problem.message)})" if is_hidden else ""
        titles.append(f"**{field.title}**{message}")
    return list(dict.fromkeys(titles))


def _use_upload(path: str) -> None:
    """Select an uploaded data set."""
    fill("dataset", path)


def _row(names: list[str], current: Mapping[str, Any], problems: list[Problem]) -> None:
    """Draw up to three fields, or one long field. Fields align at the bottom unless one shows an error."""
    messages = [[p.message for p in problems if p.field == name] for name in names]
    columns = st.columns(
        1 if names[0] in MULTILINE_FIELDS else 3,
        vertical_alignment="top" if any(messages) else "bottom",
    )
    for column, name, field_messages in zip(columns, names, messages, strict=False):
        with column:
            _widget(name, FIELDS[name], current[name])
            for message in field_messages:
                st.error(escape_markdown(capitalize(message)))


def _key(name: str) -> str:
    return f"setting:{st.session_state[GENERATION]}:{name}"


def _widget(name: str, field: FieldInfo, value: Any) -> None:
    label, key = str(field.title), _key(name)
    help = f"`{name}`: {field.description}"
    kind, options = base_type(field), choices(field)
    if options:
        st.selectbox(
            label, options, options.index(value) if value in options else 0, key=key, help=help
        )
    elif name in SUGGESTIONS:
        suggestions = SUGGESTIONS[name] + ([value] if value not in SUGGESTIONS[name] else [])
        st.selectbox(
            label,
            suggestions,
            suggestions.index(value),
            key=key,
            help=help,
            accept_new_options=True,
        )
    elif kind is bool:
        st.checkbox(label, value, key=key, help=help)
    elif kind in (int, float):
        number: Any = None if value is None else kind(value)
        step: Any = 1 if kind is int else increment(value)
        format = "%d" if kind is int else "%e" if name in EXPONENT_FIELDS else "%g"
        if is_optional(field):  # Streamlit only allows clearing an input whose default is None
            st.session_state.setdefault(key, number)
            number = None
        empty = EMPTY_MEANINGS.get(name, "none") if is_optional(field) else ""
        st.number_input(
            label, value=number, step=step, format=format, placeholder=empty, key=key, help=help
        )
    elif name in MULTILINE_FIELDS:
        st.text_area(label, value, height=68, key=key, help=help)
    else:
        text = value if isinstance(value, str) else ", ".join(value or ())
        st.text_input(label, text, key=key, help=help)


def increment(value: float | None) -> float:
    """Return the step of a number input, based on the magnitude of its value: 1e-5 for 5e-5, 0.1 for 0.85."""
    return float(f"1e{f'{value:e}'.rpartition('e')[2]}") if value else 0.1
