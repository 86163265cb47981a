"""Metrics: the values that runs record and those computed from them, one per line.

Index tables, queries, charts, the results table and the filter are derived from METRICS. This module contains SQL
types and expressions but does not run queries. It does not depend on any chart library or page.
"""

from dataclasses import dataclass

MIB = 2**20
"""Bytes per MB, the unit in which memory and disk space are recorded and shown."""


@dataclass(frozen=True)
class Metric:
    """A metric. It has the same name everywhere.

    Args:
        name: Field of the event that records it, and its column in `Lab.runs`.
        title: Title in charts, column headings and the filter.
        description: One sentence, shown as the column's tooltip.
        event: Kind of event that records it; None if it is only computed. Axes are also recorded by `eval` and `update`.
        type: SQL type of the recorded field or the result.
        unit: Shown in parentheses after the title.
        format: Format of the table column: printf-style, a Streamlit format name, or empty for the default.
        result: Value for a whole run, as SQL over the aggregates `last`, `min`, `max`, `mean` and `step_of_min` of
            `event.field`; None if the results table has no such column.
        axis: Whether curves can use it as the x-axis.
        chart: Whether the Live page plots it.
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
    Metric("steps", "Steps", "Total number of optimizer steps in the run.", "plan", "BIGINT", result="last(plan.steps)"),
    Metric("step", "Step", "Optimizer steps so far.", "step", "BIGINT", axis=True),
    Metric("epoch", "Epoch", "Passes over the training examples so far.", "step", axis=True),
    Metric("tokens", "Tokens", "Tokens trained on, excluding padding.", "step", "BIGINT", result="max(step.tokens)", axis=True),
    Metric("loss", "Training loss per step", "Mean loss per token in the step's examples.", "step", chart=True),
    Metric("lr", "Learning rate", "Learning rate at this step.", "step", chart=True),
    Metric("grad_norm", "Gradient norm", "Norm of the gradient before clipping.", "step", chart=True),
    Metric("relative_update", "Relative update", "Norm of the weight change in one optimizer step, divided by the norm of the weights. Measured at every tenth step on all adapted layers or, with full fine-tuning, on one transformer block at a time.", "update", format="%.2e", result="mean(update.relative_update)", chart=True),
    Metric("tokens_per_s", "Tokens per second", "Training speed, excluding padding.", "step", chart=True),
    Metric("padding", "Padding fraction", "Fraction of computed positions that are padding.", "step"),
    Metric("memory_mb", "Peak memory so far", "Peak memory up to this step.", "step", unit="MB"),
    Metric("train_loss", "Training loss", "Latest mean loss per token on the probe, a fixed set of training examples.", "eval", format="%.4f", result="last(eval.train_loss)"),
    Metric("val_loss", "Validation loss", "Mean loss per token at the latest evaluation: on the whole validation set if training finished, otherwise on the subset. See Validated on.", "eval", format="%.4f", result="last(eval.val_loss)"),
    Metric("val_set", "Validated on", "Examples used for the validation loss: the whole validation set, or the subset used in every evaluation.", type="VARCHAR", result="case when last(eval.val_loss) is null then null when last(eval.final) then 'whole set' else 'subset' end"),
    Metric("subset_loss", "Subset loss", "Mean loss per token on the validation subset at the latest evaluation. Comparable between runs with the same data and the same Evaluation examples.", "eval", format="%.4f", result="last(eval.subset_loss)"),
    Metric("subset_se", "Subset loss SE", "Standard error of the subset loss, estimated from the losses of its examples.", "eval", format="%.4f", result="last(eval.subset_se)"),
    Metric("best_val_loss", "Best validation loss", "Lowest subset loss of all evaluations. Not comparable with a validation loss on the whole set.", format="%.4f", result="min(eval.subset_loss)"),
    Metric("best_step", "Best step", "Step of the best validation loss.", type="BIGINT", result="step_of_min(eval.subset_loss)"),
    Metric("perplexity", "Perplexity", "Exponential of the validation loss.", format="%.3f", result="exp(last(eval.val_loss))"),
    Metric("seconds", "Time", "Training time, excluding evaluations and downloads.", "step", unit="s", format="%.1f", result="max(step.seconds)", axis=True),
    Metric("peak_memory_mb", "Peak memory", "Peak memory during training and while answering the test examples.", unit="MB", format="%.0f", result="greatest(max(step.memory_mb), max(generation.memory_mb))"),
    Metric("disk_mb", "Disk", "Disk space used by the run.", unit="MB", format="%.1f", result="max(disk.bytes) / 1048576"),
    Metric("exact", "Exact answers", "Share of test answers that match the reference, ignoring case and punctuation.", format="percent", result="mean(generation.exact)"),
    Metric("parameters", "Parameters", "Number of model parameters.", "plan", "BIGINT", result="last(plan.parameters)"),
    Metric("trainable", "Trainable", "Number of trainable parameters.", "plan", "BIGINT", result="last(plan.trainable)"),
)
# fmt: on
AXES = {metric.name: metric for metric in METRICS if metric.axis}
CURVES = {m.name: m for m in METRICS if m.event in ("step", "update") and not m.axis}
"""Metrics returned by `Lab.curves`, recorded at every step or every tenth step."""
EVALUATIONS = {metric.name: metric for metric in METRICS if metric.event == "eval"}
"""Per-evaluation metrics returned by `Lab.evaluations`."""
RESULTS = {metric.name: metric for metric in METRICS if metric.result}
"""Per-run metrics: columns of `Lab.runs`."""


def recorded_fields(event: str) -> dict[str, str]:
    """Return the SQL types of the metrics that a kind of event records."""
    has_axes = event in ("eval", "update")
    axes = {metric.name: metric.type for metric in AXES.values()} if has_axes else {}
    return axes | {metric.name: metric.type for metric in METRICS if metric.event == event}
