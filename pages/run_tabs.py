"""The tabs of the run page: answers, samples, settings, lineage, data, notes, files and log."""

import html
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pandas as pd
import streamlit as st

from core.lab import Lab
from core.views import formats, lineage, report
from core.views.search import search
from core.views.tables import records
from pages.ui import lineage_chart
from pages.ui.dataset_size import show_size
from pages.ui.errors import show_errors
from pages.ui.notes import show_notes
from pages.ui.page_state import PageState
from pages.ui.selection import select_rows, show_cut
from pages.ui.text import escape_markdown, show_text

if TYPE_CHECKING:  # imports the hub client, which takes a second
    from core.data.inspection import InspectedDataset

MAX_SAMPLE_STEPS = 60
TABLE_HEIGHT_PX = 360
KINDS = {"All": None, "Exact": True, "Not exact": False}


def show_tabs(
    run: dict[str, Any], parent: dict[str, Any] | None, state: PageState, lab: Lab
) -> None:
    """Draw the tabs. Only the open one is computed."""
    show: dict[str, Callable[[], None]] = {
        "Answers": lambda: _show_answers(run, state, lab),
        "Samples": lambda: _show_samples(run["name"], lab),
        "Settings": lambda: _show_settings(run, parent, state),
        "Lineage": lambda: _show_lineage(run["name"], lab),
        "Data": lambda: _show_data(run["name"], lab),
        "Notes": lambda: show_notes(run["name"], run["notes"] or "", lab),
        "Files": lambda: _show_files(run["name"], lab),
        "Log": lambda: _show_log(run["name"], lab),
    }
    tabs = state.tabs(list(show), "tab")
    for tab, draw in zip(tabs, show.values(), strict=True):
        if tab.open:
            with tab, show_errors():  # the run may have been deleted since the last sync
                draw()


def _show_answers(run: dict[str, Any], state: PageState, lab: Lab) -> None:
    """Show the answers to the test examples in a table, and the selected one in full."""
    name = run["name"]
    answers = lab.answers([name])
    if answers.empty:
        st.caption("No answers yet. A run answers its test set when training finishes.")
        return
    with st.container(horizontal=True, vertical_alignment="bottom"):
        query = state.text("Find answers", "answer", placeholder="e.g. synonym for happy")
        kind = state.select("Show", list(KINDS), "kind", draw=st.segmented_control, required=True)
        if st.button("Compare", icon=":material/compare:", help="Open these answers in Compare."):
            st.switch_page("pages/compare.py", query_params={"run": name})
    exact = answers["exact"].fillna(False).astype(bool)
    wanted = KINDS[kind]
    shown = answers if wanted is None else answers[exact == wanted]
    texts = shown[["instruction", "input", "reference", "answer"]].fillna("").agg(" ".join, axis=1)
    shown = shown.iloc[search(texts.tolist(), query)]
    if shown.empty:
        st.caption("No matching answers.")
        return
    show_cut(len(shown), len(answers), "answers")
    table = pd.DataFrame({
        "Item": shown["item"],
        "Prompt": [" ".join(filter(None, p)) for p in zip(shown["instruction"], shown["input"], strict=True)],
        "Reference": shown["reference"],
        "Answer": shown["answer"].str.strip(),
        "Exact": exact[shown.index],
        "Tokens": shown["tokens"],
    })  # fmt: skip
    items = shown["item"].tolist()
    selected = select_rows(
        table, items, f"answers:{name}", height=TABLE_HEIGHT_PX,
        column_config={"Item": st.column_config.NumberColumn(width="small"),
                       "Exact": st.column_config.CheckboxColumn(width="small"),
                       "Tokens": st.column_config.NumberColumn(width="small")},
    )  # fmt: skip
    if selected:
        row = records(shown[shown["item"] == selected[0]])[0]
        _show_answer(name, row)
    else:
        st.caption("Select a row to read the answer in full.")


def _show_answer(name: str, row: dict[str, Any]) -> None:
    prompt, reference, answer = st.columns(3, border=True)
    with prompt:
        st.caption(f"Prompt (item {row['item']:,})")
        show_text("\n\n".join(filter(None, (row["instruction"], row["input"]))))
        st.page_link(
            "pages/data.py", label="Open in Data", icon=":material/dataset:",
            query_params={"run": name, "example": str(row["item"])},
        )  # fmt: skip
    with reference:
        st.caption("Reference")
        show_text(row["reference"] or "")
    with answer:
        st.caption("Answer" + (", cut off at the token limit" if row["cut"] else ""))
        show_text((row["answer"] or "").strip())


def _show_samples(name: str, lab: Lab) -> None:
    """Show the answers to the sample prompts: one row per prompt, one column per step."""
    samples = lab.samples([name])
    if samples.empty:
        st.caption("No samples yet. Set the interval with *Sample every*.")
        return
    steps = sorted(samples["step"].unique())
    shown = steps[-MAX_SAMPLE_STEPS:]
    show_cut(len(shown), len(steps), "steps (the latest)")
    newest = samples.drop_duplicates(["prompt", "step"])  # newest first
    texts = {(row["prompt"], row["step"]): row["text"] or "" for row in records(newest)}
    prompts = list(dict.fromkeys(samples["prompt"]))
    head = "".join(f"<th scope='col'>Step {step:,}</th>" for step in shown)
    body = "".join(
        f"<tr><th scope='row' dir='auto'>{html.escape(prompt or '')}</th>"
        + "".join(
            f"<td dir='auto'>{html.escape(texts.get((prompt, step), formats.DASH).strip())}</td>"
            for step in shown
        )
        + "</tr>"
        for prompt in prompts
    )
    st.html(
        "<div class='samples' tabindex='0' role='region' aria-label='Samples by step'><table>"
        f"<thead><tr><th scope='col'>Prompt</th>{head}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def _show_settings(run: dict[str, Any], parent: dict[str, Any] | None, state: PageState) -> None:
    """Show the settings next to the defaults and, if the run was cloned, its parent's settings."""
    if run["parent"] and parent is None:
        st.caption(f"The parent, {escape_markdown(run['parent'])}, no longer exists.")
    show_all = state.toggle(
        "Show all settings",
        "all",
        help="Turn off to show only settings that differ from the defaults or the parent.",
    )
    table = report.run_settings(run, parent, show_all)
    if table.empty:
        st.caption("All settings have their default values.")
        return
    if parent:
        differs = table["Value"] != table["Parent"]
        table = table.assign(Changed=differs.map({True: "changed", False: ""}))
        table = table.rename(columns={"Parent": f"Parent: {parent['name']}"})
    st.dataframe(table, hide_index=True)


def _show_lineage(name: str, lab: Lab) -> None:
    """Draw the runs that this one was cloned from, and those cloned from it."""
    runs = lab.runs()
    lineage_chart.show(lab, runs, lineage.family(runs, name), focus=name)


def _show_data(name: str, lab: Lab) -> None:
    """Show a summary of the run's data set, with a link to the Data page."""
    config = lab.config(name)
    with st.spinner("Loading the data set…"):
        dataset: InspectedDataset | None = lab.dataset(config)
    if dataset is None:
        st.caption(
            f"{escape_markdown(formats.dataset_text(config.dataset))} is not on this machine."
        )
        return
    with st.container(horizontal=True, gap="large", key="data-tiles"):
        st.metric(
            "Data set", escape_markdown(formats.dataset_text(config.dataset)), width="content"
        )
        show_size(dataset.table)
    st.caption(escape_markdown(f"Columns: {dataset.columns}"))
    if dataset.skipped:
        st.caption(escape_markdown(f"{dataset.skipped}."))
    st.page_link(
        "pages/data.py", label="Open in Data", icon=":material/dataset:", query_params={"run": name}
    )


def _show_files(name: str, lab: Lab) -> None:
    """List the files in the run directory. Links are omitted, because they could point outside it."""
    files = lab.files(name)
    total = formats.file_size(sum(size for _, size in files))
    st.caption(f"{len(files):,} files, {total}")
    table = pd.DataFrame({
        "File": [path for path, _ in files], "Size": [formats.file_size(size) for _, size in files]
    })  # fmt: skip
    st.dataframe(
        table, hide_index=True, width=640,
        column_config={"Size": st.column_config.Column(alignment="right")},
    )  # fmt: skip


def _show_log(name: str, lab: Lab) -> None:
    log = lab.log(name)
    if log:
        st.code(log, language=None, height=TABLE_HEIGHT_PX)
    else:
        st.caption("The log is empty.")
