"""The Studies page: a list of all studies or, at `/studies?study=NAME`, one study."""

import streamlit as st

from core.errors import UserError
from core.lab import Lab
from core.studies.study import Study
from core.views.report import incomparable_settings
from pages import (
    study_curves,
    study_effects,
    study_explore,
    study_heatmap,
    study_list,
    study_report,
    study_summary,
    study_updates,
)
from pages.study_header import show_header
from pages.study_view import (
    METRIC,
    METRICS,
    STUDY,
    TAB,
    StudyView,
    judges_of,
    metric_title,
    summary,
)
from pages.ui import runtime
from pages.ui.errors import show_errors
from pages.ui.page_state import PageState
from pages.ui.text import escape_markdown

PARAMETERS = (
    STUDY, METRIC, TAB, *study_summary.PARAMETERS, *study_curves.PARAMETERS, *study_heatmap.PARAMETERS,
    *study_effects.PARAMETERS, *study_updates.PARAMETERS, *study_explore.PARAMETERS,
)  # fmt: skip
STATE = "studies"
METRIC_KEY = f"{STATE}_{METRIC}"
"""Widget key of the metric, which is on every study's page."""
OPEN_KEY = "open_study_name"
"""Session key: the study shown last."""


def show_explore(view: StudyView) -> None:
    """Draw the charts, which need the study's plan."""
    if view.study:
        study_explore.show(view.lab, view.study, view.metric, view.state)


def show_report(view: StudyView) -> None:
    """Draw the written summary and the downloads, which need the study's plan."""
    if view.study:
        study_report.show_report(view.lab, view.study)


TABS = {
    "Summary": study_summary.show,
    "Curves": study_curves.show,
    "Heat map": study_heatmap.show,
    "Effects": study_effects.show,
    "Why": study_updates.show,
    "Explore": show_explore,
    "Report": show_report,
}


def show_study(name: str, lab: Lab) -> None:
    """Draw the page of one study."""
    runs = lab.runs()
    runs = runs[runs["study"] == name].reset_index(drop=True)
    study, problem = _read(name, lab)
    if study is None and name not in {row["name"] for row in lab.studies()}:
        st.title("Studies")
        st.warning(f"Unknown study: {escape_markdown(name)}. It may have been renamed or deleted.")
        study_list.show_list(lab)
        return
    state = PageState(STATE, PARAMETERS)
    state.show(STUDY, name)
    top, notices = st.container(), st.container()
    metric = _select_metric(state, runs["name"].tolist(), lab)
    margin = study_effects.margin_of(state, metric)
    table = None
    with show_errors():
        table = summary(lab, repr(lab), lab.changed_at, name, metric, margin)
    if table is None:
        return
    view = StudyView(lab, name, study, runs, metric, margin, table, state)
    with top:
        show_header(view)
        if problem:
            st.error(
                escape_markdown(f"{problem}. The results of its runs are shown without the plan.")
            )
        varied = [name for axis in view.axes for name in axis.split("=")]
        if warning := incomparable_settings(varied):
            st.warning(warning)
    tabs = state.tabs(list(TABS), TAB)
    for tab, show in zip(tabs, TABS.values(), strict=True):
        if tab.open:
            with tab, show_errors():
                show(view)
    with notices:
        state.show_notices()
    state.write()


def _read(name: str, lab: Lab) -> tuple[Study | None, str]:
    """Return a study, or None and the reason why it cannot be read."""
    try:
        return lab.study(name), ""
    except UserError as error:
        return None, str(error)


def _select_metric(state: PageState, names: list[str], lab: Lab) -> str:
    judges = judges_of(_scores(repr(lab), lab.changed_at, lab), names)
    return state.select(
        "Metric", [*METRICS, *judges], METRIC, format_func=metric_title, width=240,
        problem="Unknown metric",
    )  # fmt: skip


@st.cache_resource(max_entries=2, show_spinner=False)
def _scores(lab_id: str, changed_at: int, _lab: Lab) -> dict:
    return _lab.scores_by_run()


def open_study_name() -> str | None:
    """Return the study in the URL. On return from another page, restores the last one: Streamlit drops the parameters."""
    is_same_page = METRIC_KEY in st.session_state  # Streamlit forgets the widgets of other pages
    last = None if is_same_page else st.session_state.get(OPEN_KEY)
    name = st.query_params.get(STUDY) or last
    st.session_state[OPEN_KEY] = name
    return name


lab = runtime.lab()
if name := open_study_name():
    show_study(name, lab)
else:
    st.query_params.clear()  # a link from a study to this list does not change the URL
    st.title("Studies")
    study_list.show_list(lab)
