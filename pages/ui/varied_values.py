"""The input for the values of a varied setting, such as `1e-4, 3e-4` or a few options.

Input for numbers is one string. Input for other settings, whose values may contain commas, is a list of strings.
"""

import json
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import streamlit as st

from core.config import RunConfig, base_type, choices
from core.errors import UserError
from core.nn.architecture import FAMILY, TARGET_GROUPS
from core.studies.sweep import Axis, parse_values, typed_values
from core.views.formats import axis_title, input_text, setting_text

Typed = str | list[str]
SUGGESTIONS = {
    "base_model": list(FAMILY),
    "dataset": ["primer", "alpaca"],
    "lora_targets": list(TARGET_GROUPS),
}
"""Suggested values for text settings."""
ON_OFF = ("off", "on")
PLACEHOLDER = "1e-4, 3e-4 or log 1e-5..1e-2 x 7"
HELP = "Values separated by commas, or a range such as 2..8 x 4 or log 1e-5..1e-2 x 7."


def typed_values_of(field: str, values: Sequence[Any]) -> Typed:
    """Return the input for some values of a setting."""
    texts = list(map(input_text, values))
    return ", ".join(texts) if base_type(RunConfig.model_fields[field]) in (int, float) else texts


def first_typed(field: str, value: Any) -> Typed:
    """Return the initial input for a setting: its current value, or both options if there are exactly two."""
    options = _options(field)
    return list(options) if len(options) == 2 else typed_values_of(field, [value])


def link_text(fields: Sequence[str], typed: Typed) -> str:
    """Return varied settings as a parameter of the URL of Launch, such as `lora_rank=lora_alpha=4,16`."""
    return "=".join([*fields, typed if isinstance(typed, str) else json.dumps(typed)])


def parse(fields: Sequence[str], typed: Typed) -> Axis:
    """Return the axis. Raises UserError if a value is invalid or missing."""
    field = fields[0]
    try:
        values = (
            parse_values(field, typed) if isinstance(typed, str) else typed_values(field, typed)
        )
    except UserError as error:
        raise UserError(str(error).removeprefix(f"axis {field}: ")) from None
    if not values:
        raise UserError(f"{field}: enter at least one value")
    if repeated := [value for value, count in Counter(values).items() if count > 1]:
        raise UserError(f"{field} = {setting_text(repeated[0])}: this value is listed twice")
    return Axis(tuple(fields), tuple(values))


def show_values(field: str, typed: Typed, key: str, on_change: Callable[[Typed], None]) -> None:
    """Draw the input.

    Args:
        typed: the current input.
        on_change: called with the new input.
    """
    st.session_state[key] = typed

    def take() -> None:
        content = st.session_state[key]
        on_change(content if isinstance(content, str) else list(content or ()))

    arguments: dict[str, Any] = {
        "label": f"Values for {axis_title(field)}",
        "key": key,
        "label_visibility": "collapsed",
        "on_change": take,
    }
    if isinstance(typed, str):
        st.text_input(placeholder=PLACEHOLDER, **arguments)
    elif options := _options(field):
        st.session_state[key] = [value for value in typed if value in options]
        st.pills(options=options, selection_mode="multi", **arguments)
    else:
        options = tuple(dict.fromkeys([*SUGGESTIONS.get(field, ()), *typed]))
        st.multiselect(options=options, accept_new_options=True, **arguments)


def _options(field: str) -> tuple[str, ...]:
    info = RunConfig.model_fields[field]
    return ON_OFF if base_type(info) is bool else choices(info)
