"""The views of the Scoring page: leaderboard, comparison of two runs, head-to-head results and judge agreement."""

import math

import pandas as pd
import streamlit as st

from core.judging.answers import ANSWER_COLUMNS, EXAMPLE_COLUMNS, JudgedAnswers
from core.lab import Lab
from core.views import charts
from core.views.tables import markdown, records
from pages.ui.figures import show_figure
from pages.ui.selection import select_rows, show_cut
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
    "run": st.column_config.TextColumn("Run", pinned=True),
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
    "run": st.column_config.TextColumn("Run", pinned=True),
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
NO_SCORES = "These runs have no scores yet. Choose a judge above and press Score."
NO_PAIRS = "These runs have no head-to-head results yet. Choose Head-to-head above and press Score."
SHOWN_JUDGE_KEY = "judge_in_view"
"""Session key: the judge whose results the user has selected since the last scoring job started."""
ORDERS = ("Worst first", "Most disputed", "Missing", "All")


def show_scores(lab: Lab, judged: JudgedAnswers) -> None:
    """Show each run's score with its interval, and the answers behind it."""
    verdicts = lab.scoring.verdicts(judged)
    id = _select_judge(lab, verdicts)
    if id is None:
        return
    verdicts = verdicts[verdicts["id"] == id]
    if not judged.same_test:
        st.caption(
            "These runs were tested on different examples, so their scores are not comparable. "
            "*Compare two* uses only the examples that both runs share."
        )
    rows = lab.scoring.leaderboard(judged, verdicts, str(verdicts["model"].iloc[0]))
    rows = judged.with_titles(rows)
    st.dataframe(pd.DataFrame(rows), hide_index=True, column_config=COLUMNS)
    show_figure(charts.intervals(rows, "Score with 95% interval", "score", None), key="intervals")
    st.caption(escape_markdown(lab.scoring.describe_judge(id)))
    if unscored_runs := [row["run"] for row in rows if row["mean"] is None]:
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
        st.download_button("CSV", pd.DataFrame(rows).to_csv(index=False), "scores.csv", "text/csv")
        st.download_button("Markdown", markdown(rows), "scores.md", "text/markdown")
    example_scores = lab.scoring.example_scores(verdicts)
    groups = {
        judged.title(run): part.tolist() for run, part in example_scores.groupby("run")["score"]
    }
    if groups:
        show_figure(charts.score_histogram(groups), key="histogram")
    _show_examples(verdicts, judged)


def show_two(lab: Lab, judged: JudgedAnswers) -> None:
    """Show the score difference between two runs on their shared test examples, with its interval."""
    verdicts = lab.scoring.verdicts(judged)
    id = _select_judge(lab, verdicts)
    if id is None:
        return
    verdicts = verdicts[verdicts["id"] == id]
    example_scores = lab.scoring.example_scores(verdicts)
    rows = lab.scoring.leaderboard(judged, verdicts, id)
    scored = {row["run"] for row in rows if row["mean"] is not None}
    scored_runs = [run for run in judged.names if run in scored]
    if len(scored_runs) < 2:
        st.info("Choose at least two runs with scores from this judge.")
        return
    columns, label = st.columns(2), judged.title
    default_runs = lab.scoring.default_pair(example_scores, scored_runs)
    positions = [scored_runs.index(run) for run in default_runs]
    first = str(columns[0].selectbox("A", scored_runs, positions[0], format_func=label))
    second = str(columns[1].selectbox("B", scored_runs, positions[1], format_func=label))
    table = example_scores[example_scores["run"].isin([first, second])].pivot(
        index=EXAMPLE_COLUMNS, columns="run", values="score"
    )
    if first == second:
        st.info("A and B are the same. Choose two different runs.")
        return
    both = table.dropna()
    difference = lab.scoring.difference(both[first], both[second])
    judge, text = str(verdicts["model"].iloc[0]), difference.sentence(label(first), label(second))
    st.markdown(f"{escape_markdown(judge)}: **{escape_markdown(text)}**")
    if difference.n > 1:
        text = f"{label(first)} \u2212 {label(second)} in points, with 95% interval: {difference.gap()}."
        st.caption(escape_markdown(text))
    listed = both[[first, second]].set_axis(["A", "B"], axis=1)
    listed["gap"] = listed["A"] - listed["B"]
    listed = listed.sort_values("gap", key=abs, ascending=False).reset_index()
    listed.columns = pd.Index([*EXAMPLE_TITLES, label(first), label(second), "A \u2212 B"])
    st.caption("Largest differences first.")
    st.dataframe(_scores_first(listed, 3), hide_index=True)


def show_pairs(lab: Lab, judged: JudgedAnswers) -> None:
    """Show head-to-head results: win rates, ratings, and how often the winner depended on the order."""
    verdicts = lab.scoring.pair_verdicts(judged)
    id = _select_judge(lab, verdicts, pairwise=True)
    if id is None:
        return
    verdicts = verdicts[verdicts["id"] == id]
    rates = judged.with_titles(lab.scoring.win_rates(judged, verdicts))
    ratings = judged.with_titles(lab.scoring.tournament(judged, verdicts))
    st.dataframe(pd.DataFrame(rates), hide_index=True, column_config=PAIR_COLUMNS)
    title = "Rating with 95% interval (Bradley-Terry)"
    show_figure(charts.intervals(ratings, title, "Elo points", None), key="ratings")
    st.caption(
        "The judge sees each pair of answers in both orders. Identical answers count as a tie and are not sent to the judge. "
        "A run that never lost or never won has no interval, because only a lower bound of its distance from the others is known. "
        "A difference of 400 Elo points corresponds to odds of 10 to 1."
    )
    st.download_button("CSV", pd.DataFrame(rates).to_csv(index=False), "pairs.csv", "text/csv")


def show_judges(lab: Lab, judged: JudgedAnswers) -> None:
    """Show whether two judges agree, and whether each judge is consistent."""
    verdicts = lab.scoring.verdicts(judged)
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


def _select_judge(lab: Lab, verdicts: pd.DataFrame, pairwise: bool = False) -> str | None:
    """Let the user select the judge whose results are shown. Return its id, or None if there are no verdicts.

    The default is the judge used by the last scoring job.
    """
    ids = dict(zip(verdicts["id"], verdicts["model"], strict=True))
    if not ids:
        st.info(NO_PAIRS if pairwise else NO_SCORES)
        return None
    job, widget = lab.scoring.job, f"{SHOWN_JUDGE_KEY}:{pairwise}"
    candidates = (st.session_state.get(SHOWN_JUDGE_KEY), job and job.id, *ids)
    st.session_state[widget] = next(id for id in candidates if id in ids)
    return st.selectbox(
        "Show results from",
        list(ids),
        key=widget,
        on_change=lambda: st.session_state.update({SHOWN_JUDGE_KEY: st.session_state[widget]}),
        format_func=lambda id: f"{ids[id]} ({id})",
    )


def _scores_first(frame: pd.DataFrame, text_columns: int) -> pd.DataFrame:
    """Move the leading text columns to the end, and round the scores."""
    columns = list(frame.columns)
    return frame[[*columns[text_columns:], *columns[:text_columns]]].round(1)


def _show_examples(verdicts: pd.DataFrame, judged: JudgedAnswers) -> None:
    """Show the answers behind the scores, including those without a verdict, and the selected answer in full."""
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
