"""The tabs of the Scoring page: scores, answers, their distribution, two runs, head-to-head results, and agreement."""

import math
from collections.abc import Mapping
from typing import Any

import pandas as pd
import streamlit as st

from core.judging.answers import ANSWER_COLUMNS, EXAMPLE_COLUMNS, JudgedAnswers, is_base
from core.lab import Lab
from core.views import charts
from core.views.comparison import SCORE_DIFFERENCE
from core.views.formats import DASH
from core.views.tables import markdown, records
from pages.scoring_selection import Selection
from pages.scoring_verdict import common_scores, show_difference
from pages.ui.figures import show_figure
from pages.ui.page_state import PageState
from pages.ui.run_links import dot_image, open_run
from pages.ui.selection import clicked_row, select_rows, show_cut
from pages.ui.text import escape_markdown, show_text

INTERVAL_COLUMNS = {
    "low": st.column_config.NumberColumn(
        "Low", format="%.1f", help="Lower bound of the 95% interval."
    ),
    "high": st.column_config.NumberColumn(
        "High", format="%.1f", help="Upper bound of the 95% interval."
    ),
}
COLUMNS = {
    "judge": st.column_config.TextColumn("Judge"),
    "mean": st.column_config.NumberColumn(
        "Score", format="%.1f", help="Mean score over the test answers, from 0 to 100."
    ),
    **INTERVAL_COLUMNS,
    "scored": st.column_config.NumberColumn("Scored", help="Number of test answers with a score."),
    "missing": st.column_config.NumberColumn(
        "Missing",
        help="Number of test answers without a score. They are excluded from the mean.",
    ),
}
PAIR_COLUMNS = {
    "other": st.column_config.TextColumn("Opponent"),
    "rate": st.column_config.NumberColumn(
        "Win rate (%)", format="%.1f", help="A tie counts as half a win."
    ),
    **INTERVAL_COLUMNS,
    "scored": st.column_config.NumberColumn(
        "Examples", help="Number of test examples judged in both orders."
    ),
    "flips": st.column_config.NumberColumn(
        "Flips",
        format="percent",
        help="Share of examples whose winner changes when the order is swapped.",
    ),
}
ANSWER_COLUMN_TITLES = {
    "score": "Score", "shown": "Run", "instruction": "Instruction", "input": "Input", "answer": "Answer",
    "reference": "Reference", "reason": "Reason",
}  # fmt: skip
EXAMPLE_TITLES = ["Instruction", "Input", "Reference"]
SHOWN_DISAGREEMENTS = 10
NO_SCORES = "These runs have no scores yet."
NO_VERDICT = "No verdict yet: these runs have no scores."
NO_PAIRS = "These runs have no head-to-head results yet. Choose Head-to-head mode and press Score."
NO_RESULTS = "No results for these runs from this judge"
JUDGE_PARAMETERS = {False: "judge", True: "pair_judge"}
"""URL parameters of the selected judge for single answers and for pairs."""
ORDERS = ("Worst first", "Most disputed", "Missing", "All")


def select_judge(
    lab: Lab, state: PageState, verdicts: pd.DataFrame, pairwise: bool = False
) -> str | None:
    """Let the user select the judge whose results are shown. Return its ID, or None if there are no verdicts.

    The default is the judge used by the last scoring job.
    """
    ids = dict(zip(verdicts["id"], verdicts["model"], strict=True))
    parameter = JUDGE_PARAMETERS[pairwise]
    if not ids:
        state.check(parameter, (), NO_RESULTS)
        return None
    job = lab.scoring.job
    id = state.select(
        "Show head-to-head results from" if pairwise else "Show results from",
        list(ids),
        parameter,
        job.id if job and job.id in ids else None,
        problem=NO_RESULTS,
        format_func=lambda id: f"{ids[id]} ({id})",
    )
    state.show(parameter, id)  # even the default, which depends on the last scoring job
    return id


def forget_judges(state: PageState) -> None:
    """Return to the default judge, the one used by the newest scoring job."""
    state.clear(*JUDGE_PARAMETERS.values())


def show_scores(shown: Selection) -> None:
    """Show each run's score with its interval."""
    if shown.judge is None:
        _show_no_scores(shown)
        return
    lab, judged, verdicts = shown.lab, shown.judged, shown.judge_verdicts
    if not judged.same_test:
        st.caption(
            "These runs were tested on different examples, so their scores are not comparable. "
            "*Two runs* compares only the examples that both runs share."
        )
    rows = shown.leaderboard
    _show_runs(judged, rows, shown.colors, COLUMNS, "scores")
    colored = [{**row, "color": shown.colors[row["run"]]} for row in rows]
    titled_rows = judged.with_titles(rows)
    title = "Score with 95% interval"
    show_figure(
        charts.intervals(judged.with_titles(colored), title, "Score", None), key="intervals"
    )
    st.caption(escape_markdown(lab.scoring.describe_judge(shown.judge)))
    if unscored_runs := [row["run"] for row in titled_rows if row["mean"] is None]:
        st.caption(
            f"Not fully scored: {escape_markdown(', '.join(unscored_runs))}. Press Score to continue. A run's score appears "
            f"once {lab.scoring.MIN_JUDGED_SHARE:.0%} of its answers have been judged."
        )
    notes = lab.scoring.notes(verdicts)
    if notes.scale:
        st.warning(escape_markdown(notes.scale))
    for sentence in (notes.missing, notes.noise):
        if sentence:
            st.caption(escape_markdown(sentence))
    with st.container(horizontal=True):
        csv = pd.DataFrame(titled_rows).to_csv(index=False)
        st.download_button("CSV", csv, "scores.csv", "text/csv")
        st.download_button("Markdown", markdown(titled_rows), "scores.md", "text/markdown")


def _show_no_scores(shown: Selection) -> None:
    """Show that there are no scores, with a button to score the runs."""
    with st.container(key="no-scores", border=True):
        st.markdown(NO_VERDICT if len(shown.judged.runs) == 2 else NO_SCORES)
        shown.show_score_button("score_tab")


def show_distribution(shown: Selection) -> None:
    """Show a histogram of each run's scores."""
    lab, judged = shown.lab, shown.judged
    example_scores = lab.scoring.example_scores(shown.judge_verdicts)
    scores = {run: part.tolist() for run, part in example_scores.groupby("run")["score"]}
    if not scores:
        _show_no_scores(shown)
        return
    run_names = [name for name in judged.names if name in scores]
    figure = charts.score_histogram(
        {judged.title(run): scores[run] for run in run_names},
        {judged.title(run): shown.colors[run] for run in run_names},
    )
    show_figure(figure, key="histogram")


def show_two(shown: Selection) -> None:
    """Show the score difference between two runs on their shared test examples, with its interval."""
    if shown.judge is None:
        _show_no_scores(shown)
        return
    lab, judged, verdicts = shown.lab, shown.judged, shown.judge_verdicts
    scored_runs = shown.scored_runs
    if len(scored_runs) < 2:
        st.info("Choose at least two runs with scores from this judge.")
        return
    columns, label = st.columns(2), judged.title
    default_runs = lab.scoring.default_pair(lab.scoring.example_scores(verdicts), scored_runs)
    selected = []
    for column, letter, run in zip(columns, "AB", default_runs, strict=True):
        with column:
            name = shown.state.select(letter, scored_runs, letter.lower(), run, format_func=label)
            shown.state.show(letter.lower(), name)  # even the default, which depends on the scores
            selected.append(name)
    first, second = selected
    if first == second:
        st.info("A and B are the same. Choose two different runs.")
        return
    is_on_top = len(judged.runs) == 2 and {first, second} == {*judged.runs}
    if is_on_top:
        both = common_scores(lab, verdicts, first, second)
    else:
        with st.container(key="two-runs", border=True):
            both = show_difference(shown, first, second, "two")
    listed = both[[first, second]].set_axis(["A", "B"], axis=1)
    listed["gap"] = listed["A"] - listed["B"]
    listed = listed.sort_values("gap", key=abs, ascending=False).reset_index()
    listed.columns = pd.Index([*EXAMPLE_TITLES, label(first), label(second), "A \u2212 B"])
    with st.container(horizontal=True, vertical_alignment="center"):
        st.caption("Largest differences first.", width="content")
        if not is_base(first) and not is_base(second):
            st.page_link(
                "pages/compare.py",
                label="Compare the answers",
                icon=":material/compare:",
                query_params=[("run", first), ("run", second), ("sort", SCORE_DIFFERENCE)],
            )
    st.dataframe(_scores_first(listed, 3), hide_index=True)


def show_pairs(shown: Selection) -> None:
    """Show head-to-head results: win rates, ratings, and how often the winner depended on the order."""
    lab, judged = shown.lab, shown.judged
    verdicts = lab.scoring.pair_verdicts(judged)
    id = select_judge(lab, shown.state, verdicts, pairwise=True)
    if id is None:
        st.info(NO_PAIRS)
        return
    verdicts = verdicts[verdicts["id"] == id]
    rows = lab.scoring.win_rates(judged, verdicts)
    rates = judged.with_titles(rows)
    rated = lab.scoring.tournament(judged, verdicts)
    ratings = judged.with_titles([{**row, "color": shown.colors[row["run"]]} for row in rated])
    _show_runs(judged, rows, shown.colors, PAIR_COLUMNS, "pairs")
    title = "Rating with 95% interval (Bradley-Terry)"
    show_figure(charts.intervals(ratings, title, "Elo points", None), key="ratings")
    st.caption(
        "The judge sees each pair of answers in both orders. Identical answers count as a tie and are not sent to the judge. "
        "A run that never lost or never won has no interval, because only a lower bound of its distance from the others is known. "
        "A difference of 400 Elo points corresponds to odds of 10 to 1."
    )
    st.download_button("CSV", pd.DataFrame(rates).to_csv(index=False), "pairs.csv", "text/csv")


def show_agreement(shown: Selection) -> None:
    """Show whether two judges agree, and whether each judge is consistent."""
    lab, verdicts = shown.lab, shown.verdicts
    if verdicts.empty:
        st.info("No scores yet.")
        return
    ids = list(dict.fromkeys(verdicts["id"]))
    if len(ids) < 2:
        st.info("Score with a second judge to see whether the two agree.")
    else:
        columns = st.columns(2)
        models = dict(zip(verdicts["id"], verdicts["model"], strict=True))

        def label(id: str) -> str:
            return f"{models[id]} ({id})"

        first_judge = columns[0].selectbox("First judge", ids, 0, format_func=label)
        second_judge = columns[1].selectbox(
            "Second judge", [id for id in ids if id != first_judge], format_func=label
        )
        result, top = lab.scoring.judge_agreement(verdicts, str(first_judge), str(second_judge))
        if math.isnan(result.correlation):
            st.markdown("No rank correlation, because one judge gave every answer the same score.")
        else:
            st.markdown(
                f"Rank correlation **{result.correlation:.2f}** over {result.n:,} distinct answers."
            )
        st.caption(
            "Largest disagreements first. Ranks are percentiles among the answers scored by both judges."
        )
        show_cut(SHOWN_DISAGREEMENTS, len(top), "answers on which the judges disagree")
        top = top.head(SHOWN_DISAGREEMENTS)
        titles = [label(first_judge), label(second_judge)]
        names = [*titles, *(f"Rank by {title}" for title in titles), "Rank gap"]
        top.columns = pd.Index([*EXAMPLE_TITLES, "Answer", *names])
        st.dataframe(_scores_first(top, 4), hide_index=True)
    st.subheader("Identical answers with different scores")
    differing = lab.scoring.inconsistent_scores(verdicts)
    if differing.empty:
        st.caption("None. Every answer judged more than once got the same score each time.")
    else:
        names = ["Lowest", "Highest", "Spread", "Verdicts"]
        differing.columns = pd.Index(["Judge", *EXAMPLE_TITLES, "Answer", *names])
        st.dataframe(_scores_first(differing, 5), hide_index=True)


def _show_runs(
    judged: JudgedAnswers,
    rows: list[dict[str, Any]],
    colors: Mapping[str, str],
    columns: dict[str, Any],
    key: str,
) -> None:
    """Draw a table with one row per run. Each row links to the run page and has a dot in the run's color."""
    names = [row["run"] for row in rows]
    frame = pd.DataFrame(judged.with_titles(rows))
    frame.insert(0, "dot", [dot_image(colors[name]) for name in names])
    config: dict[str, Any] = {
        "dot": st.column_config.ImageColumn("", width=30, pinned=True),
        "run": st.column_config.ButtonColumn(
            "Run", type="tertiary", key=f"open_{key}", pinned=True, alignment="left"
        ),
    }
    st.dataframe(frame, hide_index=True, placeholder=DASH, column_config=config | columns)
    name = clicked_row(f"open_{key}", names)
    if name is not None and not is_base(name):
        open_run(name)


def _scores_first(frame: pd.DataFrame, text_columns: int) -> pd.DataFrame:
    """Move the leading text columns to the end, and round the scores."""
    columns = list(frame.columns)
    return frame[[*columns[text_columns:], *columns[:text_columns]]].round(1)


def show_answers(shown: Selection) -> None:
    """Show the answers behind the scores, including those without a verdict, and the selected answer in full."""
    if shown.judge is None:
        _show_no_scores(shown)
        return
    judged, verdicts = shown.judged, shown.judge_verdicts
    order = st.segmented_control(
        "Answers",
        ORDERS,
        default=ORDERS[0],
        help="Most disputed: examples whose scores vary the most.",
    )
    join_columns = ["run", "item", *ANSWER_COLUMNS]
    frame = judged.answers[join_columns].merge(verdicts, "left", on=join_columns)
    # Independent of the judge, so that an answer stays selected when the judge changes.
    identities = zip(*(frame[c] for c in join_columns), frame["repeat"].fillna(0), strict=True)
    frame = frame.assign(
        shown=frame["run"].map({run: judged.title(run) for run in judged.names}),
        identity=pd.Series([*identities], index=frame.index, dtype=object),
    )
    st.download_button(
        "Answers (CSV)",
        frame.drop(columns=["run", "identity"]).to_csv(index=False),
        "verdicts.csv",
        "text/csv",
    )
    if order == "Missing":
        frame = frame[frame["score"].isna()]
        frame = frame.assign(reason=frame["missing"].fillna("not judged yet"))
    elif order == "Worst first":
        frame = frame.sort_values("score", na_position="last", kind="stable")
    elif order == "Most disputed":
        spread = frame.groupby(EXAMPLE_COLUMNS)["score"].transform(lambda s: s.max() - s.min())
        frame = frame.assign(spread=spread).sort_values("spread", ascending=False, kind="stable")
    if frame.empty:
        st.caption("No answers to show.")
        return
    selected = select_rows(
        frame[list(ANSWER_COLUMN_TITLES)].rename(columns=ANSWER_COLUMN_TITLES),
        frame["identity"].tolist(),
        "scored_answers",
        column_config={
            "Score": st.column_config.NumberColumn(format="%.1f"),
            **dict.fromkeys(
                ("Instruction", "Answer", "Reference"), st.column_config.Column(width="medium")
            ),
        },
    )
    for row in records(frame[frame["identity"].isin(selected)]):
        score = "no score" if row["score"] is None else f"{row['score']:.1f}"
        st.markdown(f"**{escape_markdown(row['shown'])}**: {score}")
        if row["reason"]:
            show_text(str(row["reason"]))
        columns = st.columns(3, border=True)
        for column, field in zip(columns, ("instruction", "answer", "reference"), strict=True):
            with column:
                st.caption(ANSWER_COLUMN_TITLES[field])
                show_text(str(row[field]).strip())
                if field == "instruction" and row["input"]:
                    show_text(str(row["input"]))
