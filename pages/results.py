"""Every run in one table: settings, losses, cost, notes; pick some to watch or to compare."""

import streamlit as st

from core.errors import UserError
from core.judging import scores as judging
from core.tracking import queries
from core.views import journal, report
from core.views.filter import matching
from core.views.tables import markdown, records
from pages import results_columns
from pages.results_selection import show_one, show_settings
from pages.ui import runtime
from pages.ui.selection import select_rows
from pages.ui.text import escape_markdown

FILTER_HELP = "Words that occur in a run, and comparisons of a column: `validation loss < 2`, `lr>=1e-4`, `method=lora`, `exact answers > 80%`."

lab = runtime.lab()


def open_page(page: str, key: str, names: list[str]) -> None:
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
with_journal = bar.toggle(
    "Journal", help="Below: what the study reported that the presets run_1 to run_19 come from."
)
if results.empty and not with_journal:
    st.stop()
judged = judging.by_run(queries.scores(lab.db))
listed = (
    report.beside_journal(results, judged) if with_journal else report.run_frame(results, judged)
)
table, judges = results_columns.with_scores(listed)
table = table.merge(results_columns.further(results), on="name", how="left")
first = [*results_columns.LEADING_COLUMNS, *judges]
default_columns = results_columns.proposed(results, judges, with_journal)
table = table[[*default_columns, *table.columns.difference(default_columns, sort=False)]]
with bar.popover("Columns", icon=":material/view_column:"):
    shown = results_columns.pick(
        list(table.columns), default_columns, "journal" if with_journal else "own"
    )
try:
    table = matching(table, words, {results_columns.label(c): c for c in table.columns})
except UserError as error:
    st.error(escape_markdown(str(error)))
rows = tuple(table["name"])
identities = list(zip(rows, table["status"] == journal.JOURNAL_STATUS, strict=True))
table = table[[c for c in table.columns if c in (shown or first)]]
actions = st.container(horizontal=True)  # above: there the table's own buttons cover nothing
selected = select_rows(
    table,
    identities,
    "results",
    multiple=True,
    placeholder="",
    column_config={name: results_columns.column(name, table[name]) for name in table.columns},
)
picked = [name for name, is_journal in selected if not is_journal]
visible_rows = listed[listed["name"].isin(rows)]
exported = markdown(
    [journal.columns(row) for row in records(visible_rows)] if with_journal else records(table)
)
with actions:
    if st.button("Open in Live", disabled=not picked, icon=":material/show_chart:"):
        open_page("pages/live.py", "watch", picked)
    if st.button("Compare", disabled=not picked, icon=":material/compare:"):
        open_page("pages/compare.py", "compare", picked)
    st.download_button("CSV", table.to_csv(index=False), "runs.csv", "text/csv")
    st.download_button("Markdown", exported, "runs.md", "text/markdown")
ticked = records(results[results["name"].isin(picked)])
counted_runs = results[results["name"].isin(picked or rows)]
if len(ticked) == 1:
    show_one(ticked[0], lab)
if ticked:
    show_settings(ticked)
elif not rows:
    st.caption("No run fits this filter.")
elif not results.empty:
    st.caption(
        f"{len(counted_runs)} {'run' if len(counted_runs) == 1 else 'runs'}. Tick rows to open or compare them and see what "
        "sets them apart; one, to annotate or delete it."
    )
if unlike := report.incomparable(counted_runs):
    st.caption(escape_markdown(unlike))
