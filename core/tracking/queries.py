"""Read-only queries on the index. Most return DataFrames."""

import math
import re
from collections.abc import Sequence
from typing import Any

import duckdb
import numpy as np
import pandas as pd

from core.colors import color_of_old_run
from core.config import RunConfig, base_type, condition, is_optional, metadata
from core.metrics import AXES, CURVES, EVALUATIONS, RESULTS

SQL_TYPES = {bool: "BOOLEAN", int: "BIGINT", float: "DOUBLE", str: "VARCHAR", tuple: "VARCHAR"}
CONDITIONAL_FIELDS = [
    name
    for name, field in RunConfig.model_fields.items()
    if metadata(field)["when"] and metadata(field)["group"] != "identity"
]
"""Settings that have no effect in some runs. Excludes identity settings, which are always shown."""
RESULT_SOURCES = {
    "base_hash": "last(plan.base_hash)",
    "device_name": "last(plan.device)",
    "number_format": "last(plan.precision)",
    "step": "coalesce(max(step.step), 0)",
    **{name: str(metric.result) for name, metric in RESULTS.items()},
}
"""Columns of `results` that are computed from events, as aggregates of event fields."""
SOURCE = re.compile(r"(last|min|max|mean|step_of_min)\((\w+)\.(\w+)\)")
AGGREGATES = {
    "last": 'arg_max("{}", seq)',
    "min": 'min("{}")',
    "max": 'max("{}")',
    "mean": 'avg("{}"::double)',
    "step_of_min": 'arg_min(step, "{}")',
}
INTEGER_COLUMNS = (
    *(name for name, field in RunConfig.model_fields.items() if base_type(field) is int),
    *(name for name, metric in RESULTS.items() if metric.type == "BIGINT"),
    "step",
)
"""Nullable integer columns of `results`."""
COLOR = re.compile(r"#[0-9a-f]{6}")
"""Colors that are safe in CSS. An edited config.json may contain any text."""
COMPLETE_ANSWER = " and ".join(
    f"{name} is not null" for name in ("item", "instruction", "input", "reference", "answer")
)
"""SQL condition that a generation has all of its texts. A manually edited event may lack some."""
CURVE_BUCKETS = 250
"""Default number of buckets in a downsampled curve."""


def runs_with_status(
    db: duckdb.DuckDBPyConnection, status: str, cutoff: float = math.inf
) -> list[str]:
    """Return the runs that have had this status since before `cutoff`, in the order in which they were first queued."""
    query = """
        select run from status group by run having arg_max(status, seq) = ? and max(time) < ? order by min(time), run
    """
    return [name for (name,) in db.execute(query, [status, cutoff]).fetchall()]


def states(db: duckdb.DuckDBPyConnection, runs: Sequence[str]) -> list[dict[str, Any]]:
    """Return the progress of some runs in the given order, omitting deleted runs. Much faster than `results`.

    Each row has name, status, reason, steps, step and seconds; the newest `loss` and `val_loss` (as in `results`);
    `is_trained`, whether it has taken its last step, possibly before `steps`; `heard`, the timestamp of the newest event;
    and `download`, the latest download (repository, bytes, total).
    """
    result = db.execute(
        """
        with chosen as (select unnest($runs) as run, generate_subscripts($runs, 1) as run_index),
        statuses as (
            select run, arg_max(status, seq) as status, arg_max_null(reason, seq) as reason, max(time) as time
            from status where run in (select run from chosen) group by run),
        plans as (
            select run, arg_max(steps, seq) as steps
            from plan where run in (select run from chosen) group by run),
        taken as (
            select run, max(step) as step, max(seconds) as seconds, arg_max_null(loss, step) as loss, max(time) as time
            from step where run in (select run from chosen) group by run),
        downloads as (
            select run, arg_max({'repository': repository, 'bytes': bytes, 'total': total}, seq) as download
            from download where run in (select run from chosen) and bytes between 0 and total group by run),
        evals as (
            select run, arg_max_null(val_loss, seq) as val_loss, arg_max(final, seq) as is_trained
            from eval where step > 0 and run in (select run from chosen) group by run),
        others as (
            select run, max(time) as time from (
                select run, time from eval union all select run, time from sample
                union all select run, time from download
                union all select run, time from warning union all select run, time from generation)
            where run in (select run from chosen) group by run)
        select run as name, coalesce(status, 'queued') as status, reason, steps,
               coalesce(step, 0) as step, seconds, loss, val_loss, coalesce(is_trained, false) as is_trained, greatest(statuses.time, taken.time, others.time) as heard,
               download
        from chosen join config using (run) left join statuses using (run) left join downloads using (run)
        left join plans using (run) left join taken using (run) left join evals using (run) left join others using (run)
        order by run_index
        """,
        {"runs": list(runs)},
    )
    columns = [column[0] for column in result.description]
    return [dict(zip(columns, row, strict=True)) for row in result.fetchall()]


def results(db: duckdb.DuckDBPyConnection) -> pd.DataFrame:
    """Return all runs, newest first: status, all settings, losses, perplexity, time, memory and device.

    Settings that have no effect (such as a rank without LoRA) are empty, as are all settings of a run whose
    config.json is damaged. A setting that is missing from config.json was added after the run was created and has its
    default value. A run without a color gets one derived from its name.

    Losses come from the newest evaluation after step 0. Step 0 measures the base model, so a run that ended before
    its next evaluation has no losses. `val_set` says whether `val_loss` was measured on the `whole set` (at the
    end of a run) or on the `subset` used in every evaluation. `subset_loss`, `best_val_loss` and `best_step` always
    refer to the subset.
    """
    names = [name for name in RunConfig.model_fields if name != "name"]
    settings = ", ".join(f"{_setting(name)} as {name}" for name in names)
    expressions, joins, measured = _measured_columns()
    frame = db.execute(
        f"""
        with
        parsed as (select run, {settings} from config),
        statuses as (
            select run, arg_max(status, seq) as status, arg_max_null(reason, seq) as reason,
                   min(time) as created, max(time) as changed
            from status group by run),
        {expressions}
        select run as name, coalesce(status, 'queued') as status, reason, created, changed, {", ".join(names)},
               {measured}
        from parsed left join statuses using (run) {joins}
        order by created desc, name
        """
    ).df()
    # Otherwise pandas would turn 16 into 16.0 in columns with nulls.
    frame = frame.astype(dict.fromkeys(INTEGER_COLUMNS, "Int64"))
    relevant = {name: frame[name].where(condition(name)(frame)) for name in CONDITIONAL_FIELDS}
    colors = [
        color if COLOR.fullmatch(color) else color_of_old_run(name)
        for name, color in zip(frame["name"], frame["color"].fillna(""), strict=True)
    ]
    return frame.assign(**relevant, color=colors)


def _measured_columns() -> tuple[str, str, str]:
    """Convert RESULT_SOURCES to SQL: common table expressions, joins and columns."""
    aggregates: dict[str, set[str]] = {}
    columns = []
    for name, source in RESULT_SOURCES.items():
        for function, table, field in SOURCE.findall(source):
            aggregate = AGGREGATES[function].format(field)
            aggregates.setdefault(table, set()).add(f"{aggregate} as {function}_{table}_{field}")
        columns.append(SOURCE.sub(r"\1_\2_\3", source) + f" as {name}")
    expressions = [
        f"""{table}_values as (select run, {", ".join(sorted(values))} from "{table}"
        {"where step > 0" if table == "eval" else ""} group by run)"""
        for table, values in aggregates.items()
    ]
    joins = [f"left join {table}_values using (run)" for table in aggregates]
    return ", ".join(expressions), " ".join(joins), ", ".join(columns)


def curves(
    db: duckdb.DuckDBPyConnection,
    runs: Sequence[str],
    metrics: Sequence[str],
    x: str = "step",
    buckets: int = CURVE_BUCKETS,
    window: int = 1,
) -> dict[str, pd.DataFrame]:
    """Return metrics in CURVES for some runs, each as `run, x, y`, downsampled to the extremes of each bucket.

    Keeping the extremes preserves one-step spikes. With a window above 1, y is the moving average over that many steps.

    Steps without a value are gaps. In each bucket, y is NaN at the first and last gap and, if there are more, also
    between the extremes. A run without any values has no points.
    """
    assert set(metrics) <= CURVES.keys()
    assert x in AXES
    tables = {CURVES[metric].event for metric in metrics}
    result: dict[str, pd.DataFrame] = {}
    for table in tables:
        recorded = [metric for metric in metrics if CURVES[metric].event == table]
        wide = _extremes(db, str(table), runs, recorded, x, buckets, window)
        result |= {metric: _points(wide, metric, runs) for metric in recorded}
    return result


def _extremes(
    db: duckdb.DuckDBPyConnection,
    table: str,
    runs: Sequence[str],
    metrics: Sequence[str],
    x: str,
    buckets: int,
    window: int,
) -> dict[str, Any]:
    """Return the extremes and gaps in each bucket for metrics recorded in one table."""
    # A frame of rows is faster, but only `step` has a row for every step.
    frame = f"{'rows' if table == 'step' else 'range'} {window - 1} preceding"
    averaged = ", ".join(
        f"case when {m} is not null then avg({m}) over (partition by run order by step {frame}) end as {m}"
        for m in metrics
    )
    extremes = ", ".join(
        f"arg_min(x, {m}) as {m}_x0, min({m}) as {m}_y0, arg_max(x, {m}) as {m}_x1, max({m}) as {m}_y1, "
        f"min(x) filter ({m} is null) as {m}_gap0, max(x) filter ({m} is null) as {m}_gap1, "
        f"count(*) filter ({m} is null) as {m}_gaps"
        for m in metrics
    )
    return db.execute(
        f"""
        with chosen as (
            select run, step, {x} as x, {averaged if window > 1 else ", ".join(metrics)}
            from "{table}" where run in $runs),
        ends as (select run, max(step) + 1 as length from chosen group by run)
        select list_position($runs, run) - 1 as run_index, step * $buckets // length as bucket, {extremes}
        from chosen join ends using (run) group by run_index, bucket order by run_index, bucket
        """,
        {"buckets": buckets, "runs": list(runs)},
    ).fetchnumpy()


def _points(wide: dict[str, Any], metric: str, runs: Sequence[str]) -> pd.DataFrame:
    """Return the extremes and gaps of each bucket, sorted by x and without duplicates."""
    x, y, gaps = (_pair(wide[f"{metric}_{c}0"], wide[f"{metric}_{c}1"]) for c in ("x", "y", "gap"))
    has_more_gaps = (wide[f"{metric}_gaps"] > 2) & (x[:, 0] != x[:, 1])
    between = np.where(has_more_gaps, x.mean(axis=1), np.nan)[:, None]
    gaps = np.hstack([gaps, between])  # (buckets, 3)
    x, y = np.hstack([x, gaps]), np.hstack([y, np.full_like(gaps, np.nan)])  # (buckets, 5)
    order = x.argsort(axis=1)  # NaN sorts last
    x, y = np.take_along_axis(x, order, 1), np.take_along_axis(y, order, 1)
    with_values = np.isin(wide["run_index"], wide["run_index"][~np.isnan(y).all(axis=1)])
    keep_mask = ~np.isnan(x) & with_values[:, None]
    keep_mask[:, 1:] &= x[:, :-1] != x[:, 1:]
    run_codes: Any = np.repeat(wide["run_index"], 5).reshape(-1, 5)[keep_mask]
    run = pd.Categorical.from_codes(run_codes, pd.Index(list(runs)))
    return pd.DataFrame({"run": run, "x": x[keep_mask], "y": y[keep_mask]})


def _pair(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Stack two columns into an array of shape (buckets, 2), with NaN for null."""
    return np.ma.filled(np.ma.stack([first, second], 1).astype(float), np.nan)


def evaluations(
    db: duckdb.DuckDBPyConnection, runs: Sequence[str], x: str = "step"
) -> pd.DataFrame:
    """Return the metrics of each evaluation: run, x, EVALUATIONS, train_perplexity, val_perplexity, final.

    `val_loss` covers the whole validation set in the final evaluation. `subset_loss` covers the same examples in all
    evaluations; it is missing from the final evaluation of runs from older versions. `train_loss` is missing where the
    probe was not measured.
    """
    assert x in AXES
    return db.execute(
        f"""
        select run, {x} as x, {", ".join(EVALUATIONS)}, exp(train_loss) as train_perplexity,
               exp(val_loss) as val_perplexity, final
        from eval where run in (select unnest(?)) order by run, seq
        """,
        [list(runs)],
    ).df()


def base_losses(db: duckdb.DuckDBPyConnection) -> pd.DataFrame:
    """Return the validation loss of each run before its first step: run, base_loss."""
    return db.execute(
        "select run, arg_max(coalesce(subset_loss, val_loss), seq) as base_loss from eval where step = 0 group by run"
    ).df()


def exact_answers(db: duckdb.DuckDBPyConnection) -> pd.DataFrame:
    """Return whether runs answered their test examples exactly: run, example (its hash), score (1 or 0)."""
    return db.execute(
        "select run, example, avg(exact::double) as score from generation where exact is not null group by run, example"
    ).df()


def step(db: duckdb.DuckDBPyConnection, run: str, step: int) -> dict[str, Any] | None:
    """Return the metrics of one step and its batch, or None if the run has not recorded that step.

    `batch` holds the data set indices of the examples, and `batch_tokens` is their token count in training. Older runs
    may lack both.
    """
    result = db.execute(
        """
        select step, epoch, loss, lr, grad_norm, tokens_per_s, padding, memory_mb, batch,
               tokens - coalesce(
                   (select arg_max(tokens, seq) from step as previous
                    where previous.run = step.run and previous.step = step.step - 1),
                   case when step.step = 1 then 0 end) as batch_tokens
        from step where run = ? and step = ? order by seq desc limit 1
        """,
        [run, step],
    )
    columns = [column[0] for column in result.description]
    row = result.fetchone()
    return dict(zip(columns, row, strict=True)) if row else None


def updates(db: duckdb.DuckDBPyConnection, runs: Sequence[str]) -> pd.DataFrame:
    """Return the measured relative updates: run, step, module, relative_update.

    A module is an adapted layer or, with full fine-tuning, a transformer block. Each row is ||ΔW|| / ||W|| of one
    optimizer step; see `core.training.relative_update`.
    """
    return db.execute(
        """
        select run, step, unnest(modules) as module, unnest(relative_updates) as relative_update
        from "update" where run in (select unnest(?)) order by run, step, seq
        """,
        [list(runs)],
    ).df()


def example_losses(
    db: duckdb.DuckDBPyConnection, runs: Sequence[str], step: int | None = None
) -> pd.DataFrame:
    """Return the loss of each example at each evaluation: run, step, part, dataset_index, loss, tokens.

    `part` is `validation` or `train`. `loss` is the mean per target token in nats, and `tokens` the number of target
    tokens. The final evaluation covers the whole validation set. Runs from older versions have no per-example losses.

    Args:
        step: return only the evaluation after this step.
    """
    parts = ("validation", "val"), ("train", "train")
    unnested = " union all ".join(
        f"""select run, step, '{part}' as part, unnest({prefix}_indices) as dataset_index,
                   unnest({prefix}_losses) as loss, unnest({prefix}_tokens) as tokens
            from chosen"""
        for part, prefix in parts
    )
    return db.execute(
        f"""
        with chosen as (select * from eval where run in (select unnest($runs)) and ($step is null or step = $step))
        select * from ({unnested}) order by run, step, part desc, dataset_index
        """,
        {"runs": list(runs), "step": step},
    ).df()


def samples(db: duckdb.DuckDBPyConnection, runs: Sequence[str]) -> pd.DataFrame:
    """Return the texts generated during training, newest first: run, step, prompt, text. Skips incomplete events."""
    return db.execute(
        """
        select run, step, prompt, text from sample
        where run in (select unnest(?)) and step is not null and prompt is not null and text is not null
        order by seq desc
        """,
        [list(runs)],
    ).df()


def warnings(db: duckdb.DuckDBPyConnection, runs: Sequence[str]) -> pd.DataFrame:
    """Return the trainers' warnings: run, step, about, message."""
    query = (
        "select run, step, about, message from warning where run in (select unnest(?)) order by seq"
    )
    return db.execute(query, [list(runs)]).df()


def answers(db: duckdb.DuckDBPyConnection, runs: Sequence[str]) -> pd.DataFrame:
    """Return answers to test examples: run, item, instruction, input, reference, answer, tokens, cut, prompt_cut, exact.

    Skips incomplete events.
    """
    return db.execute(
        f"""
        select run, item, instruction, input, reference, answer, tokens, cut, prompt_cut, exact
        from generation where run in (select unnest(?)) and {COMPLETE_ANSWER} order by item, run
        """,
        [list(runs)],
    ).df()


def _setting(name: str) -> str:
    """Return the SQL expression for a setting in config.json. A missing setting has its default value."""
    field = RunConfig.model_fields[name]
    if base_type(field) is tuple:  # comma-separated, as in the form
        return f"array_to_string(try_cast(settings->'$.{name}' as VARCHAR[]), ', ')"
    text = f"settings->>'$.{name}'"
    if not is_optional(field):
        default = str(field.default).replace("'", "''")
        text = f"coalesce({text}, case when settings <> '{{}}' then '{default}' end)"
    return f"try_cast({text} as {SQL_TYPES[base_type(field)]})"


# Judges and their verdicts

MIN_JUDGED_SHARE = 0.99
"""Fraction of a run's test examples for which a judge must have verdicts before the run's score is shown. The remainder
allows for examples that a service refuses to judge. For a partly judged run, the only verdicts may be those on answers
that it shares with another run. Such answers are correct more often, so they are not a fair sample."""


def judged_answers(db: duckdb.DuckDBPyConnection, runs: Sequence[str]) -> pd.DataFrame:
    """Return answers and their hashes: run, item, instruction, input, reference, turns, answer, example, subject.

    Skips incomplete events.
    """
    return db.execute(
        f"""
        select run, item, instruction, input, reference, turns, answer, example, subject
        from generation where run in (select unnest(?)) and {COMPLETE_ANSWER} order by item, run
        """,
        [list(runs)],
    ).df()


def base_hashes(db: duckdb.DuckDBPyConnection, runs: Sequence[str]) -> dict[str, str]:
    """Return the hash of each run's base weights, if recorded."""
    query = (
        "select run, arg_max(base_hash, seq) from plan where run in (select unnest(?)) group by run"
    )
    return {run: base for run, base in db.execute(query, [list(runs)]).fetchall() if base}


def verdicts(db: duckdb.DuckDBPyConnection, runs: Sequence[str]) -> pd.DataFrame:
    """Return the newest verdicts on the answers from the given runs, one row per answer, judge and repeat.

    Columns: subject (hash of the answer), id (identifies the judge and its settings), judge, model, repeat, score,
    reason, missing.
    """
    return db.execute(
        """
        with subjects as (select distinct subject from generation where run in (select unnest(?))),
        judges as (select id, any_value(judge) as judge, any_value(model) as model
                   from judge where kind = 'score' group by id),
        newest as (select * from verdict qualify row_number() over (partition by id, key order by seq desc) = 1)
        select subject, id, judge, model, "repeat", score, reason, missing
        from subjects join newest using (subject) join judges using (id)
        """,
        [list(runs)],
    ).df()


def pair_verdicts(db: duckdb.DuckDBPyConnection, pairs: pd.DataFrame) -> pd.DataFrame:
    """Return the newest verdicts on pairs of answers: run, other, instruction, input, reference, id, model, score.

    Identical answers are not judged and count as ties. A pair of runs is omitted until a judge has compared all of
    their differing answers. Otherwise, the ties alone would suggest that neither run is better.

    Args:
        pairs: result of `core.judging.pairs.answer_pairs`.
    """
    return db.execute(
        """
        with asked as (
            select run::varchar as run, other::varchar as other, instruction::varchar as instruction,
                   input::varchar as input, reference::varchar as reference, is_tie, subject::varchar as subject
            from pairs),
        judges as (select id, any_value(model) as model from judge where kind = 'pair' group by id),
        newest as (select * from verdict qualify row_number() over (partition by id, key order by seq desc) = 1),
        judged as (
            select asked.*, judges.id, judges.model, is_tie or key is not null as is_judged,
                   case when is_tie then 50.0 else score end as score
            from asked cross join judges
            left join newest on newest.subject = asked.subject and newest.id = judges.id)
        select run, other, instruction, input, reference, id, model, score from judged
        qualify bool_and(is_judged) over (partition by least(run, other), greatest(run, other), id)
        """
    ).df()


def judges(db: duckdb.DuckDBPyConnection) -> pd.DataFrame:
    """Return all judges with their settings: id, judge, kind, model, temperature, prompt."""
    return db.execute("""
        select id, any_value(judge) as judge, any_value(kind) as kind, any_value(model) as model,
               any_value(temperature) as temperature, any_value(prompt) as prompt
        from judge group by id order by id
        """).df()


def reply_tokens(db: duckdb.DuckDBPyConnection, judge: str) -> float | None:
    """Return the mean number of tokens in a judge's replies, including reasoning; None if there are no replies."""
    query = "select avg(tokens_out) from verdict where id = ?"
    [[mean]] = db.execute(query, [judge]).fetchall()
    return None if mean is None else float(mean)


def scores(db: duckdb.DuckDBPyConnection) -> pd.DataFrame:
    """Return mean scores by run, test example and judge: run, example, id, judge, model, score, examples.

    The score is NaN if all verdicts are missing; `examples` is the run's number of examples. A run is omitted if the
    judge has verdicts on less than MIN_JUDGED_SHARE of them.
    """
    return db.execute(
        f"""
        with judges as (select id, any_value(judge) as judge, any_value(model) as model
                        from judge where kind = 'score' group by id),
        newest as (select id, subject, arg_max_null(score, seq) as score from verdict group by id, subject, key),
        means as (select id, subject, avg(score) as score from newest group by id, subject),
        asked as (select run, example, subject from generation where exists (from means)),
        sizes as (select run, count(distinct example) as examples from asked group by run)
        select run, example, id, judge, model, avg(score) as score, examples
        from means join judges using (id) join asked using (subject) join sizes using (run)
        group by run, example, id, judge, model, examples
        qualify count(*) over (partition by run, id) >= {MIN_JUDGED_SHARE} * examples
        order by run, id, example
        """
    ).df()
