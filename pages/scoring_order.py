"""The panel that starts a scoring job: judge, settings, cost and progress."""

from dataclasses import replace

import pandas as pd
import streamlit as st

from core.judging.answers import JudgedAnswers
from core.judging.order import (
    GEMINI_MODEL,
    KEY_VARIABLES,
    MAX_TIMEOUT_S,
    MEASURE_TITLES,
    MEASURES,
    JudgeSettings,
    Kind,
    Limits,
    Order,
)
from core.judging.prompts import PAIR_TEMPLATE, SCORE_TEMPLATE
from core.lab import Lab
from pages.scoring_selection import REQUESTED
from pages.ui import runtime
from pages.ui.access import secret
from pages.ui.errors import show_errors
from pages.ui.text import escape_markdown

KIND_LABELS: dict[str, Kind] = {"Single answers": "score", "Head-to-head": "pair"}
BASE_LABEL = "Also score the pretrained base model"
JUDGE_TITLES = {
    "reference": "Reference (no network)",
    "gemini": "Gemini",
    "openai": "OpenAI-compatible",
}


def order_form(lab: Lab, judged: JudgedAnswers) -> tuple[bool, bool]:
    """Draw the form with the cost and the Score button.

    Returns:
        Whether a scoring job was started, and whether the settings are valid and there is anything to score.
    """
    st.subheader("Score answers")
    order = _draw_settings(lab)
    is_requested = st.session_state.pop(REQUESTED, False)
    if not judged.runs:
        st.info("Choose at least one run.")
        return False, False
    with show_errors():
        is_needed = _show_cost(lab, order, judged)
        job = lab.scoring.job
        can_score = is_needed and not (job is not None and job.is_running)
        is_pressed = st.button(
            "Score",
            type="primary",
            icon=":material/grading:",
            disabled=not can_score,
            width="stretch",
        )
        if is_pressed or (is_requested and can_score):
            lab.start_scoring(order, judged)
            return True, False
        return False, can_score
    return False, False


@st.fragment(run_every=1.0)
def _show_running(lab: Lab) -> None:
    """Show the progress of the running scoring job, updated every second."""
    job = lab.scoring.job
    if job is None:
        return
    progress = job.progress
    if not job.is_running:
        runtime.rerun()
    total = max(progress.requested, 1)
    done = progress.stored + progress.done
    text = (
        f"{escape_markdown(job.model)}, {job.phase}: {done:,} of {progress.requested:,}"
        if progress.requested
        else job.phase
    )
    with st.container(horizontal=True, vertical_alignment="center"):
        st.progress(min(1.0, done / total), text, width="stretch")
        st.button("Stop scoring", icon=":material/stop:", on_click=job.stop)
    if progress.waiting:
        st.caption(f"Waiting: {escape_markdown(progress.waiting)}")


def show_progress(lab: Lab) -> None:
    """Show the progress of the current scoring job, or the outcome of the last one."""
    job = lab.scoring.job
    if job is None:
        return
    if job.is_running:
        _show_running(lab)
        return
    if job.error:
        st.error(escape_markdown(job.error))
    elif job.phase == "stopped":
        model = escape_markdown(job.model)
        st.info(
            f"Stopped. Verdicts from {model} are kept. Score with this model again to continue."
        )
    elif reason := job.progress.nothing_scored:
        st.error(f"Nothing was scored: {escape_markdown(reason)}.")
    elif failures := job.progress.failures:
        st.warning(escape_markdown(failures))


def _draw_settings(lab: Lab) -> Order:
    """Draw the judge settings and return the resulting order."""
    kind_label = st.segmented_control(
        "Mode", list(KIND_LABELS), default=next(iter(KIND_LABELS)), required=True
    )
    kind = KIND_LABELS[kind_label]
    judges = list(JUDGE_TITLES)
    judge = st.selectbox(
        "Judge",
        judges,
        judges.index("gemini" if _stored_key("gemini") else "reference"),
        format_func=JUDGE_TITLES.__getitem__,
    )
    if judge != "reference":
        return _draw_model_settings(lab, judge, kind)
    measure = st.selectbox(
        "Measure",
        list(MEASURES),
        format_func=lambda name: MEASURE_TITLES[MEASURES[name]],
        help="chrF compares character n-grams. ROUGE-L compares the longest common sequence of words. Exact match is all or nothing.",
    )
    base = st.checkbox(BASE_LABEL, True)
    return Order(JudgeSettings(judge, measure), kind, with_base=base)


def _draw_model_settings(lab: Lab, judge: str, kind: Kind) -> Order:
    """Draw the settings of a judge that is a language model."""
    model = st.text_input("Model", GEMINI_MODEL if judge == "gemini" else "")
    # Streamlit lets users clear an input only if its default is None, so session state holds the initial 0.
    st.session_state.setdefault("judge_temperature", 0.0)
    columns = st.columns(2)
    temperature = columns[0].number_input(
        "Temperature",
        0.0,
        2.0,
        None,
        0.1,
        key="judge_temperature",
        placeholder="model default",
        help="Leave empty to use the model's default. Some models do not accept any other value.",
    )
    repeats = columns[1].number_input(
        "Repeats",
        1,
        20,
        1,
        help="Verdicts per answer. Repeats measure the judge's own noise, which is small at temperature 0.",
    )
    key = st.text_input(
        "API key",
        type="password",
        placeholder="from the environment" if _stored_key(judge) else "",
        help=f"Kept in memory only. If empty, {KEY_VARIABLES[judge]} is read from the environment or Streamlit's "
        "secrets, unless you enter a different base URL.",
    )
    base = st.checkbox(BASE_LABEL, True)
    with st.expander("Prompt, URL and limits"):
        built_in = SCORE_TEMPLATE if kind == "score" else PAIR_TEMPLATE
        template = st.text_area("Prompt", built_in, height=320, key=f"prompt:{kind}")
        url = st.text_input(
            "Base URL",
            placeholder="service default",
            help="URL of a proxy or a local server, such as Ollama or vLLM.",
        )
        settings = JudgeSettings(
            judge,
            model.strip(),
            None if temperature is None else float(temperature),
            template,
            url.strip(),
            key,
            stored_key=_stored_key(judge),
        )
        limits, timeout = _draw_limits(lab, settings)
        retry_missing = st.checkbox("Retry verdicts without a score")
    settings = replace(settings, timeout=timeout)
    return Order(settings, kind, int(repeats), base, retry_missing, limits)


def _draw_limits(lab: Lab, settings: JudgeSettings) -> tuple[Limits, float | None]:
    """Draw the limits of requests. Return them and the timeout in seconds, or None for the default."""
    defaults = lab.scoring.request_defaults(settings)
    bounds = [*st.columns(2), *st.columns(2)]
    in_flight = bounds[0].number_input(
        "Requests in flight", 1, 64, None, placeholder=f"{defaults.in_flight}"
    )
    timeout = bounds[1].number_input(
        "Timeout (s)",
        1.0,
        MAX_TIMEOUT_S,
        None,
        format="%g",
        placeholder=f"{defaults.timeout:g}",
        help="The default is longer for local servers because they may have to load the model first.",
    )
    requests = bounds[2].number_input("Requests per minute", 1, None, None, placeholder="no limit")
    tokens = bounds[3].number_input("Tokens per minute", 1, None, None, placeholder="no limit")
    limits = Limits(
        int(in_flight or defaults.in_flight),
        requests and int(requests),
        tokens and int(tokens),
    )
    return limits, timeout


def _stored_key(judge: str) -> str:
    """Return the API key from the environment or, if it is not set there, from Streamlit's secrets."""
    return secret(KEY_VARIABLES[judge])


def _show_cost(lab: Lab, order: Order, judged: JudgedAnswers) -> bool:
    """Show the estimated cost and the price table. Return whether there is anything to score.

    Raises UserError if the judge's settings are invalid.
    """
    cost = lab.scoring.cost(order, judged)
    with st.container(horizontal=True, vertical_alignment="center"):
        st.write(escape_markdown(cost.sentence()))
        if order.judge.judge != "reference":
            with st.popover("Prices", icon=":material/payments:"):
                _edit_prices(lab)
    return cost.is_needed


def _edit_prices(lab: Lab) -> None:
    st.caption("US dollars per million tokens.")
    prices = lab.scoring.prices()
    frame = pd.DataFrame(
        [(model, *price) for model, price in prices.items()], columns=["Model", "Input", "Output"]
    )
    edited = st.data_editor(frame, num_rows="dynamic", hide_index=True, key="prices").dropna()
    edited_prices = {str(m): (float(i), float(o)) for m, i, o in edited.itertuples(index=False)}
    if edited_prices != prices and st.button("Save prices"):
        with show_errors():
            lab.scoring.save_prices(edited_prices)
            st.rerun()
