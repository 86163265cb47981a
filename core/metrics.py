"""Metrics: the numbers that runs record and those computed from them, one per line.

The tables of the index, the queries of curves and evaluations, charts, results table and filter derive from METRICS.
Holds SQL types and expressions, but runs no query. Knows no chart library and no page.
"""

from dataclasses import dataclass

MIB = 2**20
"""Bytes per MB, in which memory and disk space are recorded and shown."""


@dataclass(frozen=True)
class Metric:
    """One number, by the same name everywhere.

    Args:
        name: field of the event that records it, and its column in `Lab.runs`.
        title: on charts, in column headings and in the filter.
        description: one sentence; the tooltip of the column.
        event: kind of event that records it; None if it is only computed. Axes are recorded by `step` and `eval`.
        type: SQL type of the recorded field or of the result.
        unit: shown in parentheses after the title.
        format: of the table column, printf-style or a name that Streamlit knows; empty for its default.
        result: value for a whole run, as SQL over `last(event.field)`, `max(event.field)` and `mean(event.field)`;
            None if it is not a column of the results table.
        axis: whether it is an x-axis of curves.
        chart: whether Live draws it.
    """

    name: str
    title: str
    description: str
    event: str | None = None
    type: str = "DOUBLE"
    unit: str = ""
    format: str = ""
    result: str | None = None
    axis: bool = False
    chart: bool = False

    @property
    def label(self) -> str:
        """The title with the unit."""
        return f"{self.title} ({self.unit})" if self.unit else self.title


# fmt: off
METRICS = (
    Metric("steps", "Steps", "Optimizer steps of the whole run.", "plan", "BIGINT", result="last(plan.steps)"),
    Metric("step", "Step", "Optimizer steps so far.", "step", "BIGINT", axis=True),
    Metric("epoch", "Epoch", "Passes over the training examples so far.", "step", axis=True),
    Metric("tokens", "Tokens", "Tokens trained on, without padding.", "step", "BIGINT", result="max(step.tokens)", axis=True),
    Metric("loss", "Training loss of each step", "Mean loss per token of the step's examples.", "step", chart=True),
    Metric("lr", "Learning rate", "Learning rate of the step.", "step", chart=True),
    Metric("grad_norm", "Gradient norm", "Norm of the gradient before clipping.", "step", chart=True),
    Metric("tokens_per_s", "Tokens per second", "Training speed, without padding.", "step", chart=True),
    Metric("padding", "Padding share", "Share of the computed positions that are padding.", "step"),
    Metric("memory_mb", "Peak memory so far", "Peak memory up to the step.", "step", unit="MB"),
    Metric("train_loss", "Training loss", "Mean loss per token on training examples at the newest evaluation.", "eval", format="%.4f", result="last(eval.train_loss)"),
    Metric("val_loss", "Validation loss", "Mean loss per token on validation examples at the newest evaluation.", "eval", format="%.4f", result="last(eval.val_loss)"),
    Metric("perplexity", "Perplexity", "Exponential of the validation loss.", format="%.3f", result="exp(last(eval.val_loss))"),
    Metric("seconds", "Time", "Training time, without evaluations and downloads.", "step", unit="s", format="%.1f", result="max(step.seconds)", axis=True),
    Metric("peak_memory_mb", "Peak memory", "Peak memory of training and of answering the test set.", unit="MB", format="%.0f", result="greatest(max(step.memory_mb), max(generation.memory_mb))"),
    Metric("disk_mb", "Disk", "Space that the run takes on disk.", unit="MB", format="%.1f", result="max(disk.bytes) / 1048576"),
    Metric("exact", "Exact answers", "Share of the test answers that equal the reference, ignoring case and punctuation.", format="percent", result="mean(generation.exact)"),
    Metric("parameters", "Parameters", "Parameters of the model.", "plan", "BIGINT", result="last(plan.parameters)"),
    Metric("trainable", "Trainable", "Parameters that are trained.", "plan", "BIGINT", result="last(plan.trainable)"),
)
# fmt: on
AXES = {metric.name: metric for metric in METRICS if metric.axis}
CURVES = {m.name: m for m in METRICS if m.event == "step" and not m.axis}
"""Metrics of each step that `Lab.curves` returns."""
EVALUATIONS = {metric.name: metric for metric in METRICS if metric.event == "eval"}
"""Metrics of each evaluation that `Lab.evaluations` returns."""
RESULTS = {metric.name: metric for metric in METRICS if metric.result}
"""Metrics of a whole run: columns of `Lab.runs`."""


def recorded_fields(event: str) -> dict[str, str]:
    """Return the SQL type of each metric that a kind of event records."""
    axes = {metric.name: metric.type for metric in AXES.values()} if event == "eval" else {}
    return axes | {metric.name: metric.type for metric in METRICS if metric.event == event}
