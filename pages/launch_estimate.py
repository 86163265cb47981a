"""The estimate of a planned run: steps, parameters, time, memory, disk space, data and learning rate."""

from typing import TYPE_CHECKING

import streamlit as st

from core.views import charts
from core.views.formats import DASH, count, duration, memory
from pages.ui.figures import show_figure
from pages.ui.text import capitalize, escape_markdown, show_skipped

if TYPE_CHECKING:  # these import PyTorch, which takes seconds
    from core.planning.measurement import Cost
    from core.planning.preflight import Plan


def show_estimate(plan: "Plan", cost: "Cost | None") -> None:
    """Show the cost of a run as tiles, and its learning rate."""
    st.markdown("**Estimate**")
    first, second = st.columns(2)
    basis = "Measured" if cost else "Estimated"
    estimated = cost or plan
    seconds, memory_mb = estimated.seconds, estimated.memory_mb
    evaluating = estimated.evaluation_seconds or 0.0
    basis_help = (
        "Measured over a few training steps."
        if cost
        else "Calculated from the current speed of this machine. Measure for a better estimate."
    )
    total = None if seconds is None else seconds + evaluating
    time_help = (
        f"Includes {duration(evaluating)} of evaluations, but not the test answers. {basis_help}"
    )
    first.metric(f"{basis} time", duration(total), help=time_help)
    second.metric(
        f"{basis} memory",
        memory(memory_mb),
        help=f"Peak memory of the training process. {basis_help}",
    )
    first.metric("Steps", DASH if plan.steps is None else f"{plan.steps:,}")
    second.metric("Training tokens", count(plan.tokens))
    parameters_help = None
    if plan.base_parameters:
        parameters_help = (
            f"The base model has {plan.base_parameters:,} parameters ({memory(plan.base_mb)} in fp32), "
            "including a separate output head unless weights are tied."
        )
    first.metric("Parameters", count(plan.parameters), help=parameters_help)
    second.metric("Trainable", count(plan.trainable))
    if plan.learning_rates:
        show_figure(charts.rate_schedule(plan.learning_rates), key="rates")


def show_details(plan: "Plan") -> None:
    """Show details of the plan: disk space, evaluations, examples, adapters and skipped records."""
    lines = []
    if plan.disk_mb is not None and plan.disk_peak_mb is not None:
        peak, kept = memory(plan.disk_peak_mb), memory(plan.disk_mb)
        lines.append(f"Disk space: up to {peak} during the run, {kept} afterward.")
    if plan.evaluations:
        noun = "evaluation" if plan.evaluations == 1 else "evaluations"
        lines.append(f"{plan.evaluations:,} {noun}, one every {plan.eval_every:,} steps.")
    if plan.train_examples:
        lines.append(
            f"{plan.train_examples:,} training, {plan.validation_examples:,} validation and "
            f"{plan.test_examples:,} test examples. The longest training example has {plan.longest} tokens"
            + (f"; max_length truncates {plan.cut_examples:,}." if plan.cut_examples else ".")
        )
    if plan.adapter_scale:
        lines.append(plan.adapter_scale)
    if plan.columns:
        lines.append(f"Columns: {plan.columns}")
    for line in lines:
        st.caption(escape_markdown(line))
    if plan.note:
        st.info(escape_markdown(capitalize(plan.note)))
    show_skipped(plan.skipped_records)
