"""The Results page: current activity, and a table of all runs with their changes, metrics and cost."""

import streamlit as st

from core.views import journal, lineage, report
from core.views.filter import matching
from core.views.formats import plural
from core.views.tables import markdown, records
from pages import results_actions as actions
from pages import results_baseline, results_table
from pages import results_columns as columns
from pages.results_activity import show_activity
from pages.results_selection import show_one, show_settings
from pages.results_start import show_start
from pages.ui import lineage_chart, runtime
from pages.ui.errors import show_errors
from pages.ui.page_state import ON, PageState
from pages.ui.selection import preselect
from pages.ui.text import escape_markdown

FILTER_HELP = "Search for words, or compare a column with a value: `final loss < 2`, `lr>=1e-4`, `method=lora`, `exact answers > 80%`."
SORT_HELP = "Also applies to downloads and links. To sort only on screen, click a column heading."
PARAMETERS = ("filter", "group", "sort", "column", "archived", "journal", "lineage", "run")
"""URL parameters. In `sort`, a minus sign before the column means descending order."""

lab = runtime.lab()
results_table.handle_clicks()
state = PageState("results", PARAMETERS)


def select_sort(names: list[str]) -> tuple[str | None, bool]:
    """Let the user choose the sort order. Return the column, or None for newest first, and the direction."""
    text = state.value("sort") or ""
    descending = text.startswith("-")

    def keep_direction() -> None:
        if descending and (chosen := state.value("sort")):
            state.set("sort", f"-{chosen}")

    sort = state.option(
        "Sort by",
        names,
        "sort",
        prefix="-",
        on_change=keep_direction,
        format_func=columns.label,
        placeholder="Newest first",
        help=SORT_HELP,
        width=170,
    )
    st.button(
        f":material/arrow_{'down' if descending else 'up'}ward:",
        help="Descending" if descending else "Ascending",
        on_click=state.set,
        args=("sort", f"{'' if descending else '-'}{sort}"),
        disabled=sort is None,
    )
    if sort:
        state.show("sort", f"{'-' if descending else ''}{sort}")
    return sort, descending


st.title("Results")
results = lab.runs()
colors = dict(zip(results["name"], results["color"], strict=True))
activity = st.container()  # drawn last, to show the table sooner
journal_names = [row["name"] for row in journal.rows()]
known_names = [*results["name"], *journal_names]
linked_names = [name for name in state.values("run") or () if name in known_names]
if state.is_opened_by_link:
    preselect(results_table.KEY, [(n, n in journal_names) for n in linked_names])
notices = st.container()
if results.empty:
    show_start(lab)

with_journal = state.value("journal") == ON
query, group = "", None
bar = st.container(horizontal=True, vertical_alignment="bottom", key="results-bar")
if not results.empty or with_journal:
    with bar:
        query = state.text("Filter", "filter", placeholder="e.g. lora lr>1e-4", help=FILTER_HELP)
        group = state.option(
            "Group by",
            results_table.GROUPS,
            "group",
            format_func=columns.label,
            placeholder="None",
            width=150,
        )
    sort_bar, columns_bar = (
        bar.container(horizontal=True, width="content", gap="xsmall", vertical_alignment="bottom"),
        bar.container(width="content"),
    )
with_archived = with_lineage = False
with bar:
    if results["archived"].any():
        with_archived = state.toggle("Archived", "archived", help="Also show archived runs.")
    state.toggle(
        "Journal",
        "journal",
        help="Add the results reported in the journal that the presets run_1 to run_19 reproduce.",
    )
    if not results.empty:
        with_lineage = state.toggle(
            "Lineage",
            "lineage",
            help="Below the table, draw which run was cloned from which: for the selected runs or, if none is selected, for all listed runs.",
        )
if results.empty and not with_journal:
    state.check("run", known_names, "Unknown run")
    with notices:
        state.show_notices()
    with activity:
        show_activity(lab, colors)
    state.write()
    st.stop()

hidden = set()
if not with_archived:
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
with columns_bar, st.popover("Columns", icon=":material/view_column:"):
    shown = columns.pick(available, default, state)
sort, descending = None, False
with sort_bar:
    sortable = [*dict.fromkeys(["name", *(n for n in available if n in table), *table.columns])]
    sort, descending = select_sort(sortable)
with show_errors():
    searched = table.drop(columns="changed")  # names presets and old values
    table = table.loc[matching(searched, query, columns.names_by_title(searched.columns)).index]
table = results_table.ordered(table, sort, descending)
table = results_table.grouped(table, group)
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
if selected_runs or with_lineage:  # leave room for the content below
    styles.html("<style>:root { --table-share: 0.6; }</style>")
if [name for name, _ in selected] != linked_names:
    state.set("run", *(name for name, _ in selected))
state.check("run", known_names, "Unknown run")
state.show("run", *(name for name, _ in selected))
state.write()
results_baseline.show_note(lab, comparison, results, selected_names)
if with_lineage:
    relatives = [name for run in selected_names for name in lineage.family(results, run)]
    drawn = [*dict.fromkeys(relatives)] or visible_names
    lineage_chart.show(lab, results, drawn, with_isolated=bool(relatives))
counted_runs = results[results["name"].isin(selected_names or visible_names)]
if len(selected_runs) == 1:
    changed = selected_rows["changed"].iloc[0]  # the table cuts long texts
    st.caption(escape_markdown(f"{columns.label('changed')}: {changed}."))
    show_one(selected_runs[0], lab)
if selected_runs:
    show_settings(selected_runs)
elif not visible_names:
    st.caption("No runs match this filter.")
elif not results.empty:
    count = plural(len(counted_runs), "run")
    archived = f", {len(hidden)} archived" if hidden else ""
    st.caption(f"{count}{archived}. Select runs to compare them, or one to edit its notes.")
if warning := report.incomparable(counted_runs):
    st.caption(escape_markdown(warning))
with notices:
    state.show_notices()
with activity:
    show_activity(lab, colors)
