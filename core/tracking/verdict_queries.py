"""What pages and tables read of judges and their verdicts from the index. Nothing here writes."""

from collections.abc import Sequence

import duckdb
import pandas as pd

MIN_JUDGED_SHARE = 0.99
"""Share of a run's test examples that a judge must have seen before its score is shown. The rest is what a service would
not judge: answers shared with a run that was judged are more often right than others, and no fair part."""


def verdicts(db: duckdb.DuckDBPyConnection, runs: Sequence[str]) -> pd.DataFrame:
    """What judges said of the stored answers of some runs, one row a run, test example, judge and repeat.

    Columns: run, item, instruction, input, reference, answer, id (of the judge with its settings), judge, model,
    repeat, score, reason, missing. Answers are found by the hash that `core.judging.judge.Item` has too, so equal
    answers of two runs share a verdict.
    """
    return db.execute(
        """
        with asked as (
            select run, item, instruction, input, reference, answer,
                   sha256(concat_ws(chr(31), instruction, input, reference, answer)) as subject
            from generation where run in (select unnest(?))),
        judges as (select id, any_value(judge) as judge, any_value(model) as model, any_value(kind) as kind
                   from judge group by id),
        newest as (select * from verdict qualify row_number() over (partition by id, key order by seq desc) = 1)
        select asked.run, item, instruction, input, reference, answer, id, judge, model, "repeat",
               score, reason, missing
        from asked join newest using (subject) join judges using (id)
        where kind = 'score' order by asked.run, item, id, "repeat", subject
        """,
        [list(runs)],
    ).df()


def judges(db: duckdb.DuckDBPyConnection) -> pd.DataFrame:
    """Every judge that ever gave a verdict, with its settings: id, judge, kind, model, temperature, prompt."""
    return db.execute("""
        select id, any_value(judge) as judge, any_value(kind) as kind, any_value(model) as model,
               any_value(temperature) as temperature, any_value(prompt) as prompt
        from judge group by id order by id
        """).df()


def reply_tokens(db: duckdb.DuckDBPyConnection, judge: str) -> float | None:
    """Mean length of a judge's replies so far, what it thought included; None where it has not said."""
    query = "select avg(tokens_out) from verdict where id = ?"
    [[mean]] = db.execute(query, [judge]).fetchall()
    return None if mean is None else float(mean)


def pair_verdicts(db: duckdb.DuckDBPyConnection, runs: Sequence[str]) -> pd.DataFrame:
    """What judges said of the stored answers of two runs: run (shown first), other, the test example, id, model, score.

    Equal answers, about which nobody is asked, are a tie. Two runs are left out while a judge has not seen all
    the answers in which they differ: the ties alone would say that nobody is better.
    """
    return db.execute(
        """
        with asked as (
            select run, instruction, input, reference, answer
            from generation where run in (select unnest(?))),
        pairs as (
            select a.run, b.run as other, a.instruction, a.input, a.reference, a.answer = b.answer as same,
                   sha256(concat_ws(chr(31), a.instruction, a.input, a.reference, a.answer, b.answer)) as subject
            from asked a join asked b using (instruction, input, reference) where a.run <> b.run),
        judges as (select id, any_value(model) as model from judge where kind = 'pair' group by id),
        newest as (select * from verdict qualify row_number() over (partition by id, key order by seq desc) = 1),
        told as (
            select pairs.*, judges.id, judges.model, same or key is not null as judged,
                   case when same then 50.0 else score end as score
            from pairs cross join judges
            left join newest on newest.subject = pairs.subject and newest.id = judges.id)
        select run, other, instruction, input, reference, id, model, score from told
        qualify bool_and(judged) over (partition by least(run, other), greatest(run, other), id)
        """,
        [list(runs)],
    ).df()


def scores(db: duckdb.DuckDBPyConnection) -> pd.DataFrame:
    """Mean score of every run at each test example by each judge: run, example, id, judge, model, score, examples.

    NaN where all verdicts are missing; `examples` is how many the run has. A run is left out of which a judge has
    not seen ENOUGH.
    """
    return db.execute(
        f"""
        with judges as (select id, any_value(judge) as judge, any_value(model) as model
                        from judge where kind = 'score' group by id),
        newest as (select id, subject, arg_max_null(score, seq) as score from verdict group by id, subject, key),
        means as (select id, subject, avg(score) as score from newest group by id, subject),
        asked as (select run, sha256(concat_ws(chr(31), instruction, input, reference)) as example,
                         sha256(concat_ws(chr(31), instruction, input, reference, answer)) as subject
                  from generation where exists (from means)),
        sizes as (select run, count(distinct example) as examples from asked group by run)
        select run, example, id, judge, model, avg(score) as score, examples
        from means join judges using (id) join asked using (subject) join sizes using (run)
        group by run, example, id, judge, model, examples
        qualify count(*) over (partition by run, id) >= {MIN_JUDGED_SHARE} * examples
        order by run, id, example
        """
    ).df()
