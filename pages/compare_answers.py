"""The two views of the Compare page: stored answers to a test prompt, and live answers to any prompt."""

from typing import Any

import streamlit as st

from core.lab import Lab
from core.views import report
from core.views.search import differing_words, search
from core.views.tables import records
from pages.ui.errors import show_errors
from pages.ui.selection import show_cut
from pages.ui.text import escape_markdown, show_text, show_words

EXAMPLE_KEY = ["item", "instruction", "input", "reference"]


def show_stored(lab: Lab) -> None:
    """Select runs, find a test prompt, and show the answers next to the reference."""
    results = lab.runs()
    answered = results[results["exact"].notna()]
    if answered.empty:
        st.info("No answers yet. A run answers its test set when training finishes.")
        return
    answered_names = answered["name"].tolist()
    names = _select_runs(
        "stored_runs", answered_names, report.same_test_set(answered)[:3], 6, "have no answers yet"
    )
    table = lab.answers(names)
    if table.empty:
        st.info("Choose at least one run.")
        return
    prompt_counts = (
        table.groupby(EXAMPLE_KEY, sort=False, dropna=False).size().reset_index(name="runs")
    )
    prompts = records(prompt_counts.sort_values("runs", ascending=False, kind="stable"))
    texts = [f"{p['instruction']} {p['input']} {p['reference']}" for p in prompts]
    query = st.text_input("Find a prompt", placeholder="e.g. synonym for happy")
    matches = search(texts, query)
    if not matches:
        st.info("No test prompts match this search.")
        return
    prompt = _select_prompt([prompts[i] for i in matches], query)
    rows = {
        row["run"]: row for row in records(table) if all(row[k] == prompt[k] for k in EXAMPLE_KEY)
    }
    st.caption("Instruction")
    show_text(prompt["instruction"])
    if prompt["input"]:
        st.caption("Input")
        show_text(prompt["input"])
    columns = st.columns(1 + len(names), border=True)
    with columns[0]:
        st.markdown("**Reference**")
        show_text(prompt["reference"])
    for column, name in zip(columns[1:], names, strict=True):
        with column:
            st.markdown(f"**{escape_markdown(name)}**")
            if name not in rows:
                st.caption("This run has no answer to this prompt.")
                continue
            row = rows[name]
            show_words(differing_words(row["answer"].strip(), prompt["reference"]))
            if row["cut"]:
                st.caption(f"Cut off at {row['tokens']} tokens.")
            if row["prompt_cut"]:
                st.caption("The prompt exceeded the context length, so its beginning was cut off.")
    st.caption("Words that differ from the reference are highlighted.")


def show_live(lab: Lab) -> None:
    """Let the user send a prompt to runs and their base models."""
    results = lab.runs()
    has_no_weights = (results["status"] == "finished") & (results["keep_weights"] == "none")
    names = results.loc[(results["step"] > 0) & ~has_no_weights, "name"].tolist()
    if not names:
        st.info(
            "No runs with weights yet. Launch the demo to get started. It takes about a minute."
        )
        return
    chosen = _select_runs("asked_runs", names, names[:2], 4, "have no weights")
    with st.form("prompt", border=False):
        instruction = st.text_area("Instruction", "Suggest an alternate word for 'happy'.")
        input_text = st.text_input("Input", help="Optional context for the instruction.")
        settings = st.columns(5, vertical_alignment="bottom")
        temperature = settings[0].number_input(
            "Temperature", 0.0, 5.0, 0.0, 0.1, help="0 means greedy decoding."
        )
        top_k = settings[1].number_input("Top-k", 1, 50257, None, placeholder="all")
        max_new_tokens = settings[2].number_input("Max new tokens", 1, 1024, 64)
        seed = settings[3].number_input("Seed", 0, 2**31 - 1, 123)
        submitted = settings[4].form_submit_button("Generate", type="primary", width="stretch")
    if not submitted:
        return
    if not (chosen and instruction.strip()):
        st.info("Enter an instruction." if chosen else "Choose at least one run.")
        return
    sampling = {
        "max_new_tokens": int(max_new_tokens),
        "temperature": float(temperature),
        "top_k": top_k and int(top_k),
        "seed": int(seed),
    }
    base_hashes = {row["name"]: row["base_hash"] for row in records(results)}
    with show_errors():
        bases = dict.fromkeys(lab.base_of(name) for name in chosen)
        hashes = {name: base_hashes[name] for name in chosen}
        _stream(lab, [*bases, *chosen], hashes, instruction, input_text, sampling)


def _stream(
    lab: Lab,
    models: list[str],
    hashes: dict[str, str | None],
    instruction: str,
    input_text: str,
    sampling: dict[str, Any],
) -> None:
    """Stream answers from all models side by side, taking one token from each model in turn.

    Args:
        hashes: Hash of the base weights recorded by each run, or None. Base models are not included.
    """
    columns = st.columns(len(models), border=True)
    placeholders, streams = {}, {}
    for column, name in zip(columns, models, strict=True):
        with column:
            st.markdown(f"**{escape_markdown(name)}**")
            placeholders[name] = st.empty()
            with show_errors():
                streams[name] = lab.generate(name, instruction, input_text, **sampling)
                current = lab.base_hash(name)
                if name in hashes:
                    _show_recorded_hash(hashes[name], current)
                else:
                    help = "SHA-256 of the base model's weights. Runs trained from these weights show the same hash."
                    st.caption(f"Weights: {current[:16]}", help=help)
    while streams:
        for name, pieces in list(streams.items()):
            if (piece := next(pieces, None)) is None:
                del streams[name]
                continue
            with placeholders[name].container():
                show_text(piece.text)
                if piece.prompt_cut:
                    st.caption(
                        "The prompt exceeds the context length, so its beginning was cut off."
                    )


def _show_recorded_hash(recorded: str | None, current: str) -> None:
    """Show the hash of the base weights recorded when a run started, and warn if the weights have changed."""
    if recorded is None:
        st.caption("Base weights: not recorded")
        return
    st.caption(f"Base weights: {escape_markdown(recorded[:16])}")
    if recorded != current:
        st.warning(
            f"The base model's weights have changed since training. Current weights: {current[:16]}"
        )


def _select_runs(
    key: str, available: list[str], default: list[str], limit: int, unusable: str
) -> list[str]:
    """Let the user select runs. The initial selection is the runs sent from Results or selected earlier, or else the default.

    Args:
        available: The runs that can be compared.
        limit: Maximum number of runs to show side by side.
        unusable: Why a requested run may be missing from `available`. Completes the sentence "These runs ...".
    """
    requested = st.session_state.get("compare")
    matches = [name for name in (default if requested is None else requested) if name in available]
    st.session_state[key] = matches[:limit] or (default if requested else [])
    names = st.multiselect(
        "Runs", available, key=key, max_selections=limit, on_change=_remember_selection, args=(key,)
    )
    show_cut(len(names), len(matches))
    if absent := [name for name in requested or () if name not in available]:
        st.caption(f"Not shown: {escape_markdown(', '.join(absent))}. These runs {unusable}.")
    return names


def _remember_selection(key: str) -> None:
    st.session_state["compare"] = st.session_state[key]


def _select_prompt(prompts: list[dict[str, Any]], query: str) -> dict[str, Any]:
    """Let the user select a prompt and return it. A new query selects its best match.

    The selection is stored by content, because a prompt's position depends on the selected runs.
    """
    ids = [tuple(prompt[k] for k in EXAMPLE_KEY) for prompt in prompts]
    if st.session_state.get("searched_for") != query:
        st.session_state.update(searched_for=query, prompt_in_view=None)
    selected_id = st.session_state.get("prompt_in_view")
    position = st.session_state["position"] = ids.index(selected_id) if selected_id in ids else 0
    last = len(ids) - 1
    with st.container(horizontal=True, vertical_alignment="bottom"):
        st.button(
            "Previous",
            disabled=position == 0,
            on_click=_select_position,
            args=(ids, max(0, position - 1)),
        )
        st.selectbox(
            f"{len(ids)} test prompts, best match first",
            range(len(ids)),
            key="position",
            format_func=lambda i: f"{i + 1}. {prompts[i]['instruction']}",
            on_change=_select_position,
            args=(ids,),
        )
        st.button(
            "Next",
            disabled=position == last,
            on_click=_select_position,
            args=(ids, min(last, position + 1)),
        )
    return prompts[position]


def _select_position(ids: list[tuple[Any, ...]], position: int | None = None) -> None:
    """Select the prompt at a position in the list, by default the one chosen in the select box."""
    st.session_state["prompt_in_view"] = ids[
        st.session_state["position"] if position is None else position
    ]
