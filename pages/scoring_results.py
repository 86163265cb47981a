"""What verdicts tell: the leaderboard, two runs on the same items, judges against each other."""

import math
from collections.abc import Sequence

import pandas as pd
import streamlit as st

from core.judging import pairs, scores
from core.judging.job import bases_of
from core.lab import Lab
from core.statistics import agreement, intervals
from core.tracking import queries, verdict_queries
from core.views import charts
from core.views.tables import markdown, records
from pages.scoring_order import pick_judge
from pages.ui.selection import select_rows, show_cut
from pages.ui.text import escape_markdown, show_text

COLUMNS = {
    "run": st.column_config.TextColumn("Run", pinned=True),
    "judge": st.column_config.TextColumn("Judge"),
    "mean": st.column_config.NumberColumn(
        "Score", format="%.1f", help="Mean over the test answers, 0 to 100."
    ),
    "low": st.column_config.NumberColumn(
        "Low", format="%.1f", help="Lower end of the 95 % interval."
    ),
    "high": st.column_config.NumberColumn(
        "High", format="%.1f", help="Upper end of the 95 % interval."
    ),
    "scored": st.column_config.NumberColumn("Scored", help="Test answers that have a score."),
    "missing": st.column_config.NumberColumn(
        "Missing",
        help="Test answers none of whose verdicts has a score. They enter no mean.",
    ),
}
PAIR_COLUMNS = {
    "run": st.column_config.TextColumn("Run", pinned=True),
    "other": st.column_config.TextColumn("Against"),
    "rate": st.column_config.NumberColumn("Wins (%)", format="%.1f", help="A tie is half a win."),
    "low": st.column_config.NumberColumn(
        "Low", format="%.1f", help="Lower end of the 95 % interval."
    ),
    "high": st.column_config.NumberColumn(
        "High", format="%.1f", help="Upper end of the 95 % interval."
    ),
    "scored": st.column_config.NumberColumn("Items", help="Test examples judged in both orders."),
    "flips": st.column_config.NumberColumn(
        "Flips",
        format="percent",
        help="Share of items whose winner changes with the order of showing.",
    ),
}
ANSWER_COLUMN_TITLES = {
    "score": "Score", "shown": "Run", "instruction": "Instruction", "input": "Input", "answer": "Answer",
    "reference": "Reference", "reason": "Reason",
}  # fmt: skip
EXAMPLE_TITLES = ["Instruction", "Input", "Reference"]
SHOWN_DISAGREEMENTS = 10
ORDERS = ("Worst first", "Most disputed", "Missing", "All")


def show_scores(lab: Lab, names: Sequence[str], hashes: dict[str, str]) -> None:
    """Every run's score with its interval, and the answers behind it."""
    everyone, verdicts = _verdicts(lab, names, hashes)
    id = pick_judge(verdicts)
    if id is None:
        return
    verdicts = verdicts[verdicts["id"] == id]
    shown = scores.shown_names(everyone)
    answers = _answers(lab, everyone, names)
    if not scores.same_test(answers):
        st.caption(
            "These runs were tested on different examples, so their scores do not rank them. "
            "Compare two looks at the examples that two runs share."
        )
    rows = scores.leaderboard(verdicts, answers, str(verdicts["model"].iloc[0]), partial=False)
    rows = scores.display_name(rows, everyone)
    st.dataframe(pd.DataFrame(rows), hide_index=True, column_config=COLUMNS)
    st.plotly_chart(
        charts.intervals(rows, "Score with its 95 % interval", "score", None), key="intervals"
    )
    [judge_row] = records(verdict_queries.judges(lab.db).query("id == @id"))
    st.caption(escape_markdown(scores.described(judge_row)))
    if unseen := [row["run"] for row in rows if row["mean"] is None]:
        st.caption(
            f"Not scored in full: {escape_markdown(', '.join(unseen))}. Press Score; a run's score is shown from "
            f"{verdict_queries.MIN_JUDGED_SHARE:.0%} of its answers on."
        )
    if sentence := scores.scale_sentence(verdicts):
        st.warning(escape_markdown(sentence))
    for sentence in (scores.missing_sentence(verdicts), scores.noise_sentence(verdicts)):
        if sentence:
            st.caption(escape_markdown(sentence))
    with st.container(horizontal=True):
        st.download_button("CSV", pd.DataFrame(rows).to_csv(index=False), "scores.csv", "text/csv")
        st.download_button("Markdown", markdown(rows), "scores.md", "text/markdown")
    example_scores = scores.by_example(verdicts)
    groups = {
        shown.get(str(r), str(r)): part.tolist()
        for r, part in example_scores.groupby("run")["score"]
    }
    if groups:
        st.plotly_chart(charts.score_histogram(groups), key="histogram")
    _show_examples(verdicts, answers, shown)


def show_two(lab: Lab, names: Sequence[str], hashes: dict[str, str]) -> None:
    """Two runs on the same test examples: the difference, its interval, and in words what it tells."""
    everyone, verdicts = _verdicts(lab, names, hashes)
    id = pick_judge(verdicts)
    if id is None:
        return
    shown = scores.shown_names(everyone)
    verdicts = verdicts[verdicts["id"] == id]
    example_scores = scores.by_example(verdicts)
    rows = scores.leaderboard(verdicts, _answers(lab, everyone, names), id, partial=False)
    scored = {row["run"] for row in rows if row["mean"] is not None}
    scored_runs = [run for run in everyone if run in scored]
    if len(scored_runs) < 2:
        st.info("Two runs with scores of this judge are needed.")
        return
    columns = st.columns(2)

    def label(run: object) -> str:
        return shown.get(str(run), str(run))

    positions = [scored_runs.index(run) for run in scores.last_pair(example_scores, scored_runs)]
    first = str(columns[0].selectbox("A", scored_runs, positions[0], format_func=label))
    second = str(columns[1].selectbox("B", scored_runs, positions[1], format_func=label))
    table = example_scores[example_scores["run"].isin([first, second])].pivot(
        index=scores.EXAMPLE_COLUMNS, columns="run", values="score"
    )
    if first == second:
        st.info("A and B are the same.")
        return
    both = table.dropna()
    difference = intervals.paired(both[first], both[second])
    judge, text = str(verdicts["model"].iloc[0]), difference.sentence(label(first), label(second))
    st.markdown(f"By {escape_markdown(judge)}: **{escape_markdown(text)}**")
    if difference.n > 1:
        text = f"{label(first)} less {label(second)}, in points with the 95 % interval: {difference.gap()}."
        st.caption(escape_markdown(text))
    listed = both[[first, second]].set_axis(["A", "B"], axis=1)
    listed["gap"] = listed["A"] - listed["B"]
    listed = listed.sort_values("gap", key=abs, ascending=False).reset_index()
    listed.columns = pd.Index([*EXAMPLE_TITLES, label(first), label(second), "A less B"])
    st.caption("The answers on which they differ most come first.")
    st.dataframe(_scores_first(listed, 3), hide_index=True)


def show_pairs(lab: Lab, names: Sequence[str], hashes: dict[str, str]) -> None:
    """Runs against each other by pairwise verdicts: ratings, win rates, and how often the order decided."""
    everyone = _with_bases(lab, names, hashes)
    verdicts = verdict_queries.pair_verdicts(lab.db, everyone)
    id = pick_judge(verdicts, pairwise=True)
    if id is None:
        return
    verdicts = verdicts[verdicts["id"] == id]
    rates = scores.display_name(pairs.win_rates(verdicts, everyone), everyone)
    ratings = scores.display_name(pairs.tournament(verdicts, everyone), everyone)
    st.dataframe(pd.DataFrame(rates), hide_index=True, column_config=PAIR_COLUMNS)
    title = "Rating with its 95 % interval (Bradley-Terry)"
    st.plotly_chart(charts.intervals(ratings, title, "Elo points", None), key="ratings")
    st.caption(
        "Every two answers were shown in both orders; equal answers are a tie without asking. "
        "A run that never lost, or never won, has no interval: it is at least so far from the others. 400 Elo points are odds of ten to one."
    )
    st.download_button("CSV", pd.DataFrame(rates).to_csv(index=False), "pairs.csv", "text/csv")


def show_judges(lab: Lab, names: Sequence[str], hashes: dict[str, str]) -> None:
    """Whether two judges agree, and whether one agrees with itself."""
    _, verdicts = _verdicts(lab, names, hashes)
    if verdicts.empty:
        st.info("Nothing is scored yet.")
        return
    ids = list(dict.fromkeys(verdicts["id"]))
    answer = scores.ANSWER_COLUMNS
    if len(ids) < 2:
        st.info("Score with a second judge to see whether the two agree.")
    else:
        columns = st.columns(2)
        models = dict(zip(verdicts["id"], verdicts["model"], strict=True))

        def label(id: str) -> str:
            return f"{models[id]} ({id})"

        first_judge = columns[0].selectbox("One judge", ids, 0, format_func=label)
        second_judge = columns[1].selectbox(
            "Another", [id for id in ids if id != first_judge], format_func=label
        )
        a, b = (
            verdicts[verdicts["id"] == id].groupby(answer)["score"].mean().dropna()
            for id in (first_judge, second_judge)
        )
        result = agreement.agreement(a, b)
        if math.isnan(result.correlation):
            st.markdown("No rank correlation: one of the two gave every answer the same score.")
        else:
            st.markdown(
                f"Rank correlation **{result.correlation:.2f}** over {result.n:,} different answers."
            )
        st.caption("They disagree most on these; ranks are percentiles among these answers.")
        top = agreement.disagreements(a, b, top=len(a)).reset_index()
        show_cut(SHOWN_DISAGREEMENTS, len(top), "answers on which the judges disagree")
        top = top.head(SHOWN_DISAGREEMENTS)
        titles = [label(first_judge), label(second_judge)]
        names = [*titles, *(f"Rank by {title}" for title in titles), "Gap"]
        top.columns = pd.Index([*EXAMPLE_TITLES, "Answer", *names])
        st.dataframe(_scores_first(top, 4), hide_index=True)
    st.subheader("Equal answers, different scores")
    unique_verdicts = verdicts.dropna(subset=["score"]).drop_duplicates(["id", *answer, "repeat"])
    differing = agreement.inconsistent(unique_verdicts, by=("id", *answer))
    if differing.empty:
        st.caption(
            "None: every answer that was judged more than once got the same score each time."
        )
    else:
        names = ["Lowest", "Highest", "Spread", "Verdicts"]
        differing.columns = pd.Index(["Judge", *EXAMPLE_TITLES, "Answer", *names])
        st.dataframe(_scores_first(differing, 5), hide_index=True)


def _verdicts(
    lab: Lab, names: Sequence[str], hashes: dict[str, str]
) -> tuple[list[str], pd.DataFrame]:
    """The runs with their bases, and every verdict on them."""
    everyone = _with_bases(lab, names, hashes)
    verdicts = verdict_queries.verdicts(lab.db, everyone)
    return everyone, scores.of_runs(verdicts, queries.answers(lab.db, names))


def _answers(lab: Lab, everyone: Sequence[str], names: Sequence[str]) -> pd.DataFrame:
    """What the runs answered, and their bases to the same examples."""
    return scores.of_runs(queries.answers(lab.db, everyone), queries.answers(lab.db, names))


def _with_bases(lab: Lab, names: Sequence[str], hashes: dict[str, str]) -> list[str]:
    """The bases of some runs as the index calls them, and the runs."""
    bases = bases_of(lab.runs_dir, queries.answers(lab.db, names), hashes) if names else {}
    return [*(base.name for base in bases), *names]


def _scores_first(frame: pd.DataFrame, texts: int) -> pd.DataFrame:
    """With the first columns, which hold long texts, behind the numbers; these to a tenth."""
    columns = list(frame.columns)
    return frame[[*columns[texts:], *columns[:texts]]].round(1)


def _show_examples(verdicts: pd.DataFrame, answers: pd.DataFrame, shown: dict[str, str]) -> None:
    """The answers behind the scores; one row ticked shows it in full. Those without a verdict are there too."""
    order = st.segmented_control(
        "Answers", ORDERS, default=ORDERS[0], help="Disputed: scores of one example differ most."
    )
    join_columns = ["run", "item", *scores.ANSWER_COLUMNS]
    frame = answers[join_columns].merge(verdicts, "left", on=join_columns)
    # Independent of the judge, so that an answer stays selected when the judge changes.
    identities = zip(*(frame[c] for c in join_columns), frame["repeat"].fillna(0), strict=True)
    frame = frame.assign(
        shown=[shown.get(run, run) for run in frame["run"]],
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
        spread = frame.groupby(scores.EXAMPLE_COLUMNS)["score"].transform(
            lambda s: s.max() - s.min()
        )
        frame = frame.assign(spread=spread).sort_values("spread", ascending=False, kind="stable")
    if frame.empty:
        st.caption("None.")
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
