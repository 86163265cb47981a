"""Every run in one table: settings, losses, cost, notes; pick some to watch or to compare."""

from collections.abc import Callable
from datetime import datetime

import pandas as pd
import streamlit as st
from streamlit.elements.lib.column_types import ColumnConfig

from core import journal, report
from core.config import RunConfig
from core.errors import UserError
from core.filtering import matching
from core.judging import scores as judging
from core.tables import markdown, records
from core.tracking import queries, verdict_queries
from pages.shared import runtime
from pages.shared.status import show_run
from pages.shared.text import plain

FIRST = ["name", "status", "val_loss", "perplexity", "exact"]
USUAL = ["base_model", "method", "lora_rank", "batch_size", "epochs", "lr"]
LAST = ["seconds", "peak_memory_mb", "notes"]
"""Shown, with every setting in which the runs differ, until a person chooses columns."""
MORE = ["created", "steps", "tokens", "train_loss", "parameters", "trainable"]
"""Known of a run beside its settings and what the table of the command line has."""
BESIDE = ["device", "journal_run", "loss_to_journal"]
"""Shown too where the journal stands beside."""
LABELS = {
    **{name: str(field.title) for name, field in RunConfig.model_fields.items()},
    "name": "Run", "status": "Status", "val_loss": "Validation loss", "perplexity": "Perplexity",
    "seconds": "Time (s)", "peak_memory_mb": "Peak memory (MB)", "exact": "Exact answers",
    "created": "Created", "steps": "Steps", "tokens": "Tokens", "train_loss": "Training loss",
    "parameters": "Parameters", "trainable": "Trainable", "journal_run": "Repeats", "loss_to_journal": "Loss to the journal's",
}  # fmt: skip
FORMATS = {"lr": "%g", "min_lr": "%g", "val_loss": "%.4f", "train_loss": "%.4f", "perplexity": "%.3f", "seconds": "%.1f",
           "peak_memory_mb": "%.0f", "exact": "percent",
           "loss_to_journal": "%+.4f"}  # fmt: skip

FILTER_HELP = "Words that occur in a run, and comparisons by the names in `python -m core settings` and in the CSV: `val_loss<2`, `method=lora`."
JUDGE_HELP = "Mean score over the test answers, 0 to 100; beside it the 95 % interval and how many answers have no score."
EXACT_HELP = "Share of the test answers that equal the reference, case and punctuation aside."
CHOSEN, WIDGET = "chosen_columns", "columns"
"""In the session: the columns that a person chose, and what the widget says."""

lab = runtime.lab()


def with_scores(listed: pd.DataFrame) -> tuple[pd.DataFrame, list[str]]:
    """The table with each score in columns of its own, a judge's mean and its interval; and their names."""
    told = listed["scores"]
    table = listed.drop(columns="scores").assign(exact=[s.get("exact") for s in told])
    table["exact"] = table["exact"].astype(float)
    names = []
    for judge in dict.fromkeys(j for scores in told for j in scores if j != "exact"):
        found = [scores.get(judge) for scores in told]
        pairs = [
            (s["mean"], report.interval_text(s) or None) if isinstance(s, dict) else (s, None)
            for s in found
        ]
        table[judge], table[f"{judge} 95 %"] = zip(*pairs, strict=True)
        table[judge] = table[judge].astype(float)
        names += [judge, f"{judge} 95 %"]
    return table, names


def further(results: pd.DataFrame) -> pd.DataFrame:
    """What else is known of each run, to be chosen as columns and found by the filter."""
    names = [*RunConfig.model_fields, *MORE]
    more = [name for name in dict.fromkeys(names) if name not in report.RUN_COLUMNS]
    created = pd.to_datetime(results["created"], unit="s", utc=True)
    local = created.dt.tz_convert(datetime.now().astimezone().tzinfo)
    return results.assign(created=local.dt.strftime("%Y-%m-%d %H:%M"))[["name", *more]]


def pick_columns(known: list[str], proposed: list[str]) -> list[str]:
    """The columns that a person chose, until then those proposed; and the means to choose."""
    wanted = st.session_state.get(CHOSEN, proposed)
    st.session_state[WIDGET] = [column for column in wanted if column in known]
    st.pills(
        "Columns",
        known,
        selection_mode="multi",
        key=WIDGET,
        on_change=lambda: st.session_state.update({CHOSEN: st.session_state[WIDGET]}),
        format_func=lambda name: plain(label(name)),
        label_visibility="collapsed",
    )
    if CHOSEN in st.session_state:
        st.button("Choose for me", on_click=st.session_state.pop, args=(CHOSEN,))
    return list(st.session_state[WIDGET])


def label(name: str) -> str:
    """A column's title; a judge's is its name."""
    return LABELS.get(name) or f"{name[:1].upper()}{name[1:]}"


def column(name: str) -> ColumnConfig:
    """How a column is shown: its title, and its numbers to a sensible digit."""
    of_judge = name not in LABELS
    if name in FORMATS or (of_judge and not name.endswith(" %")):
        help = JUDGE_HELP if of_judge else EXACT_HELP if name == "exact" else None
        return st.column_config.NumberColumn(
            label(name), format=FORMATS.get(name, "%.1f"), help=help
        )
    return st.column_config.Column(label(name), pinned=name == "name")


def show_one(run: dict) -> None:
    """State, notes and removal of one run."""
    show_run(run, lab)
    key = f"notes:{run['name']}"
    st.text_area(
        "Notes", run["notes"] or "", key=key, on_change=save_notes, args=(run["name"], key)
    )
    with st.popover("Delete", icon=":material/delete:"):
        st.write("Its weights, events and answers are removed for good.")
        if st.button("Delete this run", type="primary") and attempt(
            lambda: lab.delete(run["name"])
        ):
            st.rerun()


def save_notes(name: str, key: str) -> None:
    """Keep what was typed as soon as the field is left."""
    if attempt(lambda: lab.edit(name, notes=st.session_state[key])):
        st.toast("Notes saved.")


def attempt(action: Callable[[], object]) -> bool:
    """Do it and have the index look again, or say why not."""
    try:
        action()
    except UserError as error:
        st.error(plain(str(error)))
        return False
    lab.refresh()
    return True


def show_settings(runs: list[dict]) -> None:
    """The settings of one run beside the defaults, or those of several beside each other."""
    alone = len(runs) == 1
    every = st.toggle(
        "Every setting", help=f"Off: those that {'are not the default' if alone else 'differ'}."
    )
    if told := report.settings_of(runs, every):
        st.dataframe(pd.DataFrame(told), hide_index=True)
    else:
        st.caption("Every setting is the default." if alone else "They differ in no setting.")


def go(page: str, key: str, names: list[str]) -> None:
    """Open another page on these runs."""
    st.session_state[key] = names
    st.switch_page(page)


st.title("Results")
results = queries.results(lab.db)
if results.empty:
    st.info("No run yet. Launch one: the demo takes about a minute.")
    st.page_link("pages/launch.py", label="Launch", icon=":material/rocket_launch:")

bar = st.container(horizontal=True, vertical_alignment="bottom")
words = ""
if not results.empty:
    words = bar.text_input("Filter", placeholder="such as: lora lr>1e-4", help=FILTER_HELP)
beside = bar.toggle(
    "Journal", help="Below: what the study reported that the presets run_1 to run_19 come from."
)
if results.empty and not beside:
    st.stop()
judged = judging.by_run(verdict_queries.scores(lab.db))
listed = report.beside_journal(results, judged) if beside else report.run_frame(results, judged)
table, judges = with_scores(listed)
table = table.merge(further(results), on="name", how="left")
first = [*FIRST, *judges]
table = table[[*first, *table.columns.difference(first, sort=False)]]
proposed = [*first, *USUAL, *report.differing(results), *LAST, *(BESIDE if beside else [])]
with bar.popover("Columns", icon=":material/view_column:"):
    columns = pick_columns(list(table.columns), proposed)
try:
    table = matching(table, words)
except UserError as error:
    st.error(plain(str(error)))
rows = tuple(table["name"])
table = table[[c for c in table.columns if c in (columns or first)]]
event = st.dataframe(
    table,
    hide_index=True,
    placeholder="",
    key=f"results:{hash(rows)}",  # Streamlit keeps ticks by place: in other rows they mean other runs
    column_config={name: column(name) for name in table.columns},
    on_select="rerun",
    selection_mode="multi-row",
)
own = set(results["name"])
picked = [rows[place] for place in event.selection.rows if rows[place] in own]
kept = listed[listed["name"].isin(rows)]
exported = markdown([journal.columns(row) for row in records(kept)] if beside else records(table))
with st.container(horizontal=True):
    if st.button("Open in Live", disabled=not picked, icon=":material/show_chart:"):
        go("pages/live.py", "watch", picked)
    if st.button("Compare", disabled=not picked, icon=":material/compare:"):
        go("pages/compare.py", "compare", picked)
    st.download_button("CSV", table.to_csv(index=False), "runs.csv", "text/csv")
    st.download_button("Markdown", exported, "runs.md", "text/markdown")
ticked = records(results[results["name"].isin(picked)])
mine = results[results["name"].isin(picked or rows)]
if len(ticked) == 1:
    show_one(ticked[0])
if ticked:
    show_settings(ticked)
elif not rows:
    st.caption("No run has all of these words.")
elif not results.empty:
    st.caption(
        f"{len(mine)} {'run' if len(mine) == 1 else 'runs'}. Tick rows to open or compare them and see what "
        "sets them apart; one, to annotate or delete it."
    )
if unlike := report.incomparable(mine):
    st.caption(plain(unlike))
