"""The Results page: current activity, and a table of all runs with their changes, metrics and cost."""

import streamlit as st

from core.views import journal, lineage, report
from core.views.filter import matching
from core.views.tables import markdown, records
from pages import results_actions as actions
from pages import results_baseline, results_table, results_view
from pages import results_columns as columns
from pages.results_activity import show_activity
from pages.results_selection import show_one, show_settings
from pages.results_start import show_start
from pages.ui import lineage_chart, runtime
from pages.ui.errors import show_errors
from pages.ui.selection import preselect
from pages.ui.text import escape_markdown

FILTER_HELP = "Search for words, or compare a column with a value: `final loss < 2`, `lr>=1e-4`, `method=lora`, `exact answers > 80%`."
SORT_HELP = "Also applies to downloads and links. To sort only on screen, click a column heading."

lab = runtime.lab()
results_table.handle_clicks()
st.title("Results")
results = lab.runs()
colors = dict(zip(results["name"], results["color"], strict=True))
activity = st.container()  # drawn last, to show the table sooner
journal_names = [row["name"] for row in journal.rows()]
linked_names = results_view.restore([*results["name"], *journal_names])
if linked_names is not None:
    preselect(results_table.KEY, [(n, n in journal_names) for n in linked_names])
problems = st.container()
if results.empty:
    show_start(lab)

with_journal = st.session_state[results_view.JOURNAL]
bar = st.container(horizontal=True, vertical_alignment="bottom", key="results-bar")
if not results.empty or with_journal:
    results_view.drop_unknown(results_view.GROUP, results_table.GROUPS)
    bar.text_input(
        "Filter", key=results_view.FILTER, placeholder="e.g. lora lr>1e-4", help=FILTER_HELP
    )
    bar.selectbox(
        "Group by",
        results_table.GROUPS,
        index=None,
        key=results_view.GROUP,
        format_func=columns.label,
        placeholder="None",
        width=150,
    )
    sort_bar, columns_bar = (
        bar.container(horizontal=True, width="content", gap="xsmall", vertical_alignment="bottom"),
        bar.container(width="content"),
    )
if results["archived"].any():
    bar.toggle("Archived", key=results_view.ARCHIVED, help="Also show archived runs.")
bar.toggle(
    "Journal",
    key=results_view.JOURNAL,
    help="Add the results reported in the journal that the presets run_1 to run_19 reproduce.",
)
if not results.empty:
    bar.toggle(
        "Lineage",
        key=results_view.LINEAGE,
        help="Draw which run was cloned from which, below the table: for the selected runs or, if none is selected, for all listed runs.",
    )
if results.empty and not with_journal:
    with problems:
        results_view.show_problems()
    with activity:
        show_activity(lab, colors)
    st.stop()

hidden = set()
if not st.session_state[results_view.ARCHIVED]:
    hidden = set(results["name"][results["archived"].fillna(False).astype(bool)])
run_scores = lab.scores_by_run()
listed = (
    report.with_journal_rows(results, run_scores)
    if with_journal
    else report.run_frame(results, run_scores)
)
listed = listed[~listed["name"].isin(hidden)]
table, bars, judges = columns.with_scores(listed)
table = columns.with_changes(table, results)
table.index = listed.index
table, comparison = results_baseline.add_columns(table, results, run_scores, judges, lab)
default = columns.default_columns(results, judges, with_journal)
default = results_baseline.default_columns(default, judges, comparison)
available = [name for name in dict.fromkeys([*default, *table.columns]) if name != "name"]
results_view.check_columns(available)
with columns_bar, st.popover("Columns", icon=":material/view_column:"):
    shown = columns.pick(available, default)
results_view.drop_unknown(results_view.SORT, table.columns)
with sort_bar:
    st.selectbox(
        "Sort by",
        [*dict.fromkeys(["name", *(n for n in available if n in table), *table.columns])],
        index=None,
        key=results_view.SORT,
        format_func=columns.label,
        placeholder="Newest first",
        help=SORT_HELP,
        width=170,
    )
    descending = st.session_state[results_view.DESCENDING]
    st.button(
        f":material/arrow_{'down' if descending else 'up'}ward:",
        help="Descending" if descending else "Ascending",
        on_click=results_view.reverse,
        disabled=st.session_state[results_view.SORT] is None,
    )
with show_errors():
    query = st.session_state[results_view.FILTER]
    searched = table.drop(columns="changed")  # names presets and old values
    table = table.loc[matching(searched, query, columns.names_by_title(searched.columns)).index]
table = results_table.ordered(table, st.session_state[results_view.SORT], descending)
table = results_table.grouped(table, st.session_state[results_view.GROUP])
visible_names = [*dict.fromkeys(table["name"])]

actions.show_undo()
toolbar = st.container(horizontal=True, key="results-toolbar")
styles = st.container()
selected = results_table.show(table, shown, bars, results, lab, comparison)
selected_names = [name for name, is_journal in selected if not is_journal]
selected_runs = records(results.set_index("name", drop=False).loc[selected_names])
selected_rows = table[table["name"].isin([name for name, _ in selected])]
with toolbar:
    actions.show_selection(
        lab, selected_runs, results_table.as_markdown(selected_rows, shown) if selected else ""
    )
    st.space("stretch")
    exported = (
        markdown([journal.columns(row) for row in records(listed.loc[table.index])])
        if with_journal
        else results_table.as_markdown(table, shown)
    )
    actions.show_exports(lab, results_table.csv(table, shown), exported)
if selected_runs or st.session_state[results_view.LINEAGE]:  # leave room for what follows
    styles.html("<style>:root { --table-share: 0.6; }</style>")
results_view.save([name for name, _ in selected])
results_baseline.show_note(lab, comparison, results, selected_names)
if st.session_state[results_view.LINEAGE]:
    relatives = [name for run in selected_names for name in lineage.family(results, run)]
    drawn = [*dict.fromkeys(relatives)] or visible_names
    lineage_chart.show(lab, results, drawn, with_isolated=bool(relatives))
counted_runs = results[results["name"].isin(selected_names or visible_names)]
if len(selected_runs) == 1:
    show_one(selected_runs[0], lab)
if selected_runs:
    show_settings(selected_runs)
elif not visible_names:
    st.caption("No runs match this filter.")
elif not results.empty:
    count = f"{len(counted_runs)} {'run' if len(counted_runs) == 1 else 'runs'}"
    archived = f", {len(hidden)} archived" if hidden else ""
    st.caption(f"{count}{archived}. Select runs to compare them, or one to edit its notes.")
if warning := report.incomparable(counted_runs):
    st.caption(escape_markdown(warning))
with problems:
    results_view.show_problems()
with activity:
    show_activity(lab, colors)
