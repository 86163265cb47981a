"""Every run in one table: settings, losses, cost, notes; pick some to watch or to compare."""

from datetime import datetime

import pandas as pd
import streamlit as st
from streamlit.elements.lib.column_types import ColumnConfig

from core import journal, report
from core.config import RunConfig
from core.errors import UserError
from core.judging import scores as judging
from core.tables import markdown, records
from core.tracking import queries, verdict_queries
from pages.shared import runtime
from pages.shared.status import show_run
from pages.shared.text import plain

FIRST = ["name", "status", "val_loss", "perplexity", "exact"]
SHOWN = [*FIRST, "base_model", "method", "lora_rank", "lora_alpha", "batch_size", "epochs", "lr",
         "min_lr", "warmup_fraction", "seconds", "peak_memory_mb", "notes"]  # fmt: skip
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

JUDGE_HELP = "Mean score over the test answers, 0 to 100; beside it the 95 % interval and how many answers have no score."
EXACT_HELP = "Share of the test answers that equal the reference, case and punctuation aside."

lab = runtime.lab()


def filtered(frame: pd.DataFrame, words: str) -> pd.DataFrame:
    """The rows in which every word occurs somewhere."""
    cells = ([str(v) for v in row.values() if v is not None] for row in records(frame))
    texts = [" ".join(row).lower() for row in cells]
    return frame[[all(word in text for word in words.lower().split()) for text in texts]]


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
    text = st.text_area("Notes", run["notes"] or "", key=f"notes:{run['name']}")
    with st.container(horizontal=True):
        if st.button("Save notes", icon=":material/save:"):
            attempt(lambda: lab.edit(run["name"], notes=text))
        with st.popover("Delete", icon=":material/delete:"):
            st.write("Its weights, events and answers are removed for good.")
            if st.button("Delete this run", type="primary"):
                attempt(lambda: lab.delete(run["name"]))


def attempt(action) -> None:  # type: ignore[no-untyped-def]
    """Do it and show the table anew, or say why not."""
    try:
        action()
        lab.refresh()
        st.rerun()
    except UserError as error:
        st.error(plain(str(error)))


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
hint = "words, such as: lora finished"
words = "" if results.empty else bar.text_input("Filter", placeholder=hint)
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
with bar.popover("Columns", icon=":material/view_column:"):
    columns = st.pills(
        "Columns",
        [*table.columns],
        selection_mode="multi",
        default=[*SHOWN, *judges, *BESIDE] if beside else [*SHOWN, *judges],
        format_func=lambda name: plain(label(name)),
        label_visibility="collapsed",
    )
table = filtered(table, words)
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
if len(picked) == 1:
    [run] = [r for r in records(results) if r["name"] == picked[0]]
    show_one(run)
elif not rows:
    st.caption("No run has all of these words.")
elif not picked and not results.empty:
    mine = len(own.intersection(rows))
    st.caption(
        f"{mine} {'run' if mine == 1 else 'runs'}. Tick rows to open or compare them, one to annotate or delete it."
    )
