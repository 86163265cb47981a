"""The live view of the Compare page: answers to any prompt, streamed from runs and their base models."""

from typing import Any

import streamlit as st

from core.lab import Lab
from core.views.tables import records
from pages.ui.compared_runs import select_runs
from pages.ui.errors import show_errors
from pages.ui.page_state import PageState
from pages.ui.run_links import run_link
from pages.ui.text import escape_markdown, show_text

MAX_MODELS = 4


def show_live(lab: Lab, state: PageState) -> None:
    """Let the user send a prompt to runs and their base models."""
    results = lab.runs()
    has_no_weights = (results["status"] == "finished") & (results["keep_weights"] == "none")
    names = results.loc[(results["step"] > 0) & ~has_no_weights, "name"].tolist()
    if not names:
        st.info(
            "No runs with weights yet. Launch the demo to get started. It takes about a minute."
        )
        st.page_link("pages/launch.py", label="Launch", icon=":material/rocket_launch:")
        return
    chosen = select_runs(
        state,
        names,
        results["name"].tolist(),
        names[:2],
        MAX_MODELS,
        "have no weights",
    )
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
        colors = dict(zip(results["name"], results["color"], strict=True))
        _stream(lab, [*bases, *chosen], hashes, colors, instruction, input_text, sampling)


def _stream(
    lab: Lab,
    models: list[str],
    hashes: dict[str, str | None],
    colors: dict[str, str],
    instruction: str,
    input_text: str,
    sampling: dict[str, Any],
) -> None:
    """Stream answers from all models side by side, taking one token from each model in turn.

    Args:
        hashes: Hash of the base weights recorded by each run, or None. Base models are not included.
        colors: The color of each run.
    """
    columns = st.columns(len(models), border=True)
    placeholders, streams = {}, {}
    for column, name in zip(columns, models, strict=True):
        with column:
            if name in colors:
                run_link(name, colors[name])
            else:
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
