"""The Results page: all runs in one table, with settings, metrics, cost and notes."""

import streamlit as st

from core.views import journal, report
from core.views.filter import matching
from core.views.tables import markdown, records
from pages import results_columns
from pages.results_selection import show_one, show_settings
from pages.ui import runtime
from pages.ui.errors import show_errors
from pages.ui.selection import select_rows
from pages.ui.text import escape_markdown

FILTER_HELP = "Search for words, or compare a column with a value: `validation loss < 2`, `lr>=1e-4`, `method=lora`, `exact answers > 80%`."

lab = runtime.lab()


def open_page(page: str, key: str, names: list[str]) -> None:
    """Open another page with these runs selected."""
    st.session_state[key] = names
    st.switch_page(page)


st.title("Results")
results = lab.runs()
if results.empty:
    st.info("No runs yet. Launch the demo to get started. It takes about a minute.")
    st.page_link("pages/launch.py", label="Launch", icon=":material/rocket_launch:")

bar = st.container(horizontal=True, vertical_alignment="bottom")
query = ""
if not results.empty:
    query = bar.text_input("Filter", placeholder="e.g. lora lr>1e-4", help=FILTER_HELP)
with_journal = bar.toggle(
    "Journal",
    help="Add the results reported by the study that the presets run_1 to run_19 reproduce.",
)
if results.empty and not with_journal:
    st.stop()
run_scores = lab.scores_by_run()
listed = (
    report.with_journal_rows(results, run_scores)
    if with_journal
    else report.run_frame(results, run_scores)
)
table, judges = results_columns.with_scores(listed)
table = table.merge(results_columns.optional_columns(results), on="name", how="left")
leading = [*results_columns.LEADING_COLUMNS, *judges]
default_columns = results_columns.default_columns(results, judges, with_journal)
table = table[[*default_columns, *table.columns.difference(default_columns, sort=False)]]
with bar.popover("Columns", icon=":material/view_column:"):
    shown = results_columns.pick(
        list(table.columns), default_columns, "journal" if with_journal else "own"
    )
with show_errors():
    table = matching(table, query, results_columns.names_by_title(table.columns))
visible_names = tuple(table["name"])
identities = list(zip(visible_names, table["status"] == journal.JOURNAL_STATUS, strict=True))
table = table[[c for c in table.columns if c in (shown or leading)]]
actions = st.container(
    horizontal=True
)  # above the table, because the table's toolbar would otherwise cover them
selected = select_rows(
    table,
    identities,
    "results",
    multiple=True,
    placeholder="",
    column_config={name: results_columns.column(name, table[name]) for name in table.columns},
)
selected_names = [name for name, is_journal in selected if not is_journal]
visible_rows = listed[listed["name"].isin(visible_names)]
exported = markdown(
    [journal.columns(row) for row in records(visible_rows)] if with_journal else records(table)
)
with actions:
    if st.button("Open in Live", disabled=not selected_names, icon=":material/show_chart:"):
        open_page("pages/live.py", "watch", selected_names)
    if st.button("Compare", disabled=not selected_names, icon=":material/compare:"):
        open_page("pages/compare.py", "compare", selected_names)
    st.download_button("CSV", table.to_csv(index=False), "runs.csv", "text/csv")
    st.download_button("Markdown", exported, "runs.md", "text/markdown")
selected_runs = records(results[results["name"].isin(selected_names)])
counted_runs = results[results["name"].isin(selected_names or visible_names)]
if len(selected_runs) == 1:
    show_one(selected_runs[0], lab)
if selected_runs:
    show_settings(selected_runs)
elif not visible_names:
    st.caption("No runs match this filter.")
elif not results.empty:
    st.caption(
        f"{len(counted_runs)} {'run' if len(counted_runs) == 1 else 'runs'}. "
        "Select runs to compare. Select one to edit its notes or delete it."
    )
if warning := report.incomparable(counted_runs):
    st.caption(escape_markdown(warning))
