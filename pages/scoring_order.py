"""Ordering a scoring: who judges what, what that will cost, how far it is, and whose verdicts are in view."""

from dataclasses import replace

import pandas as pd
import streamlit as st

from core.errors import UserError
from core.judging import prices, scorer, scores
from core.judging.job import Job, Order, bases_of, items_of
from core.judging.judge import Judge, Kind, judge_id
from core.judging.judges import (
    GEMINI_MODEL,
    JUDGES,
    KEY_VARIABLES,
    MAX_TIMEOUT_S,
    MEASURES,
    JudgeSettings,
    build,
    default_in_flight,
    default_timeout,
    may_send_stored_key,
)
from core.judging.ledger import known_verdicts
from core.judging.limits import Limits
from core.judging.pairs import pair_items
from core.judging.questions import PAIR_TEMPLATE, SCORE_TEMPLATE
from core.lab import Lab
from core.tracking import queries, verdict_queries
from pages.ui import runtime
from pages.ui.access import secret
from pages.ui.text import escape_markdown

KIND_LABELS: dict[str, Kind] = {"Each answer": "score", "Every two runs": "pair"}
NO_SCORES = "These runs have no scores yet: choose a judge above and press Score."
NO_PAIRS = "No two runs were compared yet: choose Every two runs above and press Score."
SHOWN_JUDGE_KEY = "judge_in_view"
"""In the session: the judge that a person chose to see since the last scoring."""
BASE_LABEL = "Score the pretrained base too"
TITLES = {
    "reference": "Reference (no network)",
    "gemini": "Gemini",
    "openai": "OpenAI-compatible",
}


def order_form(lab: Lab, names: list[str], hashes: dict[str, str]) -> None:
    """Choose a judge, see what it will cost, go."""
    with st.container(border=True):
        order = _choose(names)
        if not names:
            st.info("Choose at least one run.")
            return
        try:
            judge = build(order.judge, order.kind, check_key=False)
        except UserError as error:
            st.error(escape_markdown(str(error)))
            return
        answers = queries.answers(lab.db, names)
        needed = _show_cost(lab, order, judge, answers, hashes)
        job = runtime.scoring()
        is_disabled = (job is not None and job.going) or not needed
        if st.button("Score", type="primary", icon=":material/grading:", disabled=is_disabled):
            try:
                new = Job(lab.runs_dir, order, answers, hashes, runtime.answerer)
                runtime.start_scoring(new)
                st.session_state.pop(SHOWN_JUDGE_KEY, None)
            except UserError as error:
                st.error(escape_markdown(str(error)))


@st.fragment(run_every=1.0)
def _follow() -> None:
    job = runtime.scoring()
    if job is None:
        return
    p = job.progress
    if not job.going:
        runtime.rerun()
    total = max(p.requested, 1)
    done = p.stored + p.done
    model = job.judge.spec["model"]
    text = (
        f"{escape_markdown(model)}, {job.phase}: {done:,} of {p.requested:,}"
        if p.requested
        else job.phase
    )
    with st.container(horizontal=True, vertical_alignment="center"):
        st.progress(min(1.0, done / total), text, width="stretch")
        st.button("Stop scoring", icon=":material/stop:", on_click=job.stop)
    if p.waiting:
        st.caption(f"waiting: {escape_markdown(p.waiting)}")


def show_progress() -> None:
    """How far the scoring is that goes on; how the last one ended."""
    job = runtime.scoring()
    if job is None:
        return
    if job.going:
        _follow()
        return
    if job.error:
        st.error(escape_markdown(job.error))
    elif job.phase == "stopped":
        model = escape_markdown(job.judge.spec["model"])
        st.info(f"Stopped. What {model} scored is kept; scoring with it again goes on from there.")
    elif reason := job.progress.nothing_scored:
        st.error(f"Nothing was scored: {escape_markdown(reason)}.")
    elif given_up := job.progress.given_up:
        reasons = escape_markdown(scorer.summary(given_up))
        st.warning(f"{len(given_up):,} verdicts failed ({reasons}). Score again to retry them.")


def _choose(names: list[str]) -> Order:
    kind_label = st.segmented_control(
        "Ask about", list(KIND_LABELS), default=next(iter(KIND_LABELS))
    )
    kind = KIND_LABELS[kind_label or next(iter(KIND_LABELS))]
    row = st.container(horizontal=True, vertical_alignment="bottom")
    judges = list(JUDGES)
    judge = row.selectbox(
        "Judge",
        judges,
        judges.index("gemini" if _found_key("gemini") else "reference"),
        format_func=TITLES.__getitem__,
        width=240,
    )
    if judge == "reference":
        measure = row.selectbox(
            "Measure",
            list(MEASURES),
            format_func=MEASURES.__getitem__,
            width=240,
            help="chrF compares letters in a row, ROUGE-L words in the same order; exact match is all or nothing.",
        )
        base = row.checkbox(BASE_LABEL, True)
        return Order(tuple(names), JudgeSettings(judge, measure), kind, with_base=base)
    model = row.text_input("Model", GEMINI_MODEL if judge == "gemini" else "", width=240)
    # Streamlit only allows clearing an input whose default is None, so the initial 0 comes from the session.
    st.session_state.setdefault("judge_temperature", 0.0)
    temperature = row.number_input(
        "Temperature",
        0.0,
        2.0,
        None,
        0.1,
        width=150,
        key="judge_temperature",
        placeholder="model default",
        help="Leave empty to use the model's default. Some models accept only that.",
    )
    repeats = row.number_input(
        "Repeats",
        1,
        20,
        1,
        width=150,
        help="Verdicts on each answer: more show the judge's own noise, little of it at temperature 0.",
    )
    row = st.container(horizontal=True, vertical_alignment="bottom")
    key = row.text_input(
        "API key",
        type="password",
        width=360,
        placeholder="from the environment" if _found_key(judge) else "",
        help=f"Kept in memory only. If empty, {KEY_VARIABLES[judge]} from the environment or Streamlit's secrets is "
        "used, unless you enter a different base URL.",
    )
    base = row.checkbox(BASE_LABEL, True)
    with st.expander("Prompt, address and limits"):
        built_in = SCORE_TEMPLATE if kind == "score" else PAIR_TEMPLATE
        template = st.text_area("Prompt", built_in, height=320, key=f"prompt:{kind}")
        url = st.text_input(
            "Base URL", placeholder="the service's own", help="Of a proxy, Ollama or vLLM."
        )
        stored = _found_key(judge) if may_send_stored_key(judge, url) else ""
        settings = JudgeSettings(
            judge,
            model.strip(),
            None if temperature is None else float(temperature),
            template,
            url.strip(),
            key or stored,
            environment=False,
        )
        bounds = st.columns(4)
        in_flight = bounds[0].number_input(
            "Requests in flight", 1, 64, None, placeholder=f"{default_in_flight(settings)}"
        )
        timeout = bounds[1].number_input(
            "Timeout (s)",
            1.0,
            MAX_TIMEOUT_S,
            None,
            format="%g",
            placeholder=f"{default_timeout(settings):g}",
            help="Local servers may need to load the model first, so their default is longer.",
        )
        requests = bounds[2].number_input(
            "Requests per minute", 1, None, None, placeholder="no limit"
        )
        tokens = bounds[3].number_input("Tokens per minute", 1, None, None, placeholder="no limit")
        retry_missing = st.checkbox("Ask again where a verdict has no score")
    limits = Limits(
        int(in_flight or default_in_flight(settings)),
        requests and int(requests),
        tokens and int(tokens),
    )
    settings = replace(settings, timeout=timeout)
    return Order(tuple(names), settings, kind, int(repeats), base, retry_missing, limits)


def pick_judge(verdicts: pd.DataFrame, pairwise: bool = False) -> str | None:
    """Which judge's verdicts are in view: of those there are the one chosen last, else the one that scored last."""
    ids = dict(zip(verdicts["id"], verdicts["model"], strict=True))
    if not ids:
        st.info(NO_PAIRS if pairwise else NO_SCORES)
        return None
    job, widget = runtime.scoring(), f"{SHOWN_JUDGE_KEY}:{pairwise}"
    candidates = (st.session_state.get(SHOWN_JUDGE_KEY), job and job.id, *ids)
    st.session_state[widget] = next(id for id in candidates if id in ids)
    return st.selectbox(
        "Verdicts of",
        list(ids),
        key=widget,
        on_change=lambda: st.session_state.update({SHOWN_JUDGE_KEY: st.session_state[widget]}),
        format_func=lambda id: f"{ids[id]} ({id})",
    )


def _found_key(judge: str) -> str:
    """The key from the environment, else from Streamlit's secrets."""
    return secret(KEY_VARIABLES[judge])


def _show_cost(
    lab: Lab, order: Order, judge: Judge, answers: pd.DataFrame, hashes: dict[str, str]
) -> bool:
    """What would be asked, with the price table to edit; whether anything is to be done."""
    note, unanswered = "", 0
    if order.with_base:
        bases = bases_of(lab.runs_dir, answers, hashes)
        base_answers = queries.answers(lab.db, [base.name for base in bases])
        base_answers = scores.of_runs(base_answers, answers)
        answers = pd.concat([answers, base_answers], ignore_index=True)
        if unanswered := sum(map(len, bases.values())) - len(base_answers):
            note = f" The pretrained base has to answer {unanswered:,} examples first; they come on top."
    items = items_of(answers) if order.kind == "score" else pair_items(answers)
    tasks = scorer.plan(judge, items, order.repeats)
    scores_by_key = known_verdicts(lab.runs_dir, judge.spec)
    remaining = scorer.open_tasks(tasks, scores_by_key, order.retry_missing)
    table = prices.load(lab.runs_dir)
    length = verdict_queries.reply_tokens(lab.db, judge_id(judge.spec))
    cost = prices.estimate(tasks, remaining, order.judge.model or GEMINI_MODEL, table, length)
    if order.kind == "score" and cost.requested < len(items) * order.repeats:
        note += f" Of {len(items):,} answers, equal ones share a verdict."
    with st.container(horizontal=True, vertical_alignment="center"):
        st.write(escape_markdown(cost.sentence() + note))
        if order.judge.judge != "reference":
            with st.popover("Prices", icon=":material/payments:"):
                _edit_prices(lab, table)
    return bool(cost.requests or unanswered)


def _edit_prices(lab: Lab, table: dict[str, tuple[float, float]]) -> None:
    st.caption("US dollars a million tokens.")
    frame = pd.DataFrame(
        [(model, *price) for model, price in table.items()], columns=["Model", "Read", "Written"]
    )
    edited = st.data_editor(frame, num_rows="dynamic", hide_index=True, key="prices").dropna()
    new = {str(m): (float(r), float(w)) for m, r, w in edited.itertuples(index=False)}
    if new != table and st.button("Keep these prices"):
        try:
            prices.save(lab.runs_dir, new)
            st.rerun()
        except UserError as error:
            st.error(escape_markdown(str(error)))
