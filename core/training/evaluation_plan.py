"""Schedule and cost of a run's evaluations, computed from token counts. Independent of models, events and clocks."""

from dataclasses import dataclass

from core.config import RunConfig

BUDGET = 0.08
"""Maximum fraction of the training time spent on evaluations, if their interval is automatic."""
MIN_EVALUATIONS, MAX_EVALUATIONS = 8, 40
"""Limits on the number of automatic evaluations after step 0. The minimum takes precedence over BUDGET."""
PROBE_INTERVAL = 3
"""The training probe is measured at every third evaluation, at step 0 and at the end."""
TRAINING_COST = {"full": 2.25, "lora": 1.75}
"""Cost of training on a token relative to evaluating it. Measured with gpt2-nano on one CPU core: 2.2 to 2.4 and 1.7 to
2.0. Larger models approach 3 and 2, the ratios for matrix products, so their evaluations cost less than the budget."""
PARTIAL_TRAINING_COST = 1.5
"""The same ratio if full fine-tuning trains only the head or the last blocks, which needs little backward computation. Measured:
1.7. The ratio for gpt2's matrix products is 1.3 for the head and 1.5 for two blocks, and higher for more blocks."""
CHECKPOINTING_COST = 1.0
"""Additional forward passes with gradient checkpointing."""


@dataclass(frozen=True)
class TokenCounts:
    """Number of input tokens in each part of a data set, after truncation."""

    training: int
    """Over all epochs."""
    subset: int
    """In the validation examples of a periodic evaluation."""
    validation: int
    probe: int


@dataclass(frozen=True)
class EvaluationPlan:
    """The evaluations of a run: at step 0, every `interval` steps and after the last step."""

    interval: int
    steps: int

    @property
    def count(self) -> int:
        """Number of evaluations after step 0."""
        return -(-self.steps // self.interval)

    def is_due(self, step: int) -> bool:
        """Whether an evaluation is due after a step."""
        return step % self.interval == 0 or step == self.steps

    def includes_probe(self, step: int) -> bool:
        """Whether the evaluation after a step includes the training probe."""
        return step % (PROBE_INTERVAL * self.interval) == 0 or step == self.steps

    def tokens(self, counts: TokenCounts) -> int:
        """Return the number of tokens in all evaluations. The last one covers the whole validation set."""
        probes = 2 + (self.steps - 1) // (PROBE_INTERVAL * self.interval)
        return self.count * counts.subset + counts.validation + probes * counts.probe


def training_passes(config: RunConfig) -> float:
    """Return the cost of training on a token, relative to evaluating it."""
    cost = TRAINING_COST[config.method]
    if config.method == "full" and config.trained_weights in ("head", "last_layers"):
        cost = PARTIAL_TRAINING_COST
    return cost + (CHECKPOINTING_COST if config.grad_checkpointing else 0)


def evaluation_plan(config: RunConfig, steps: int, counts: TokenCounts) -> EvaluationPlan:
    """Return the evaluations of a run.

    If `eval_every` is empty, there are as many as BUDGET allows, between MIN_EVALUATIONS and MAX_EVALUATIONS. Very
    short runs are evaluated after every step.
    """
    if config.eval_every is not None:
        return EvaluationPlan(config.eval_every, steps)
    budget = BUDGET * training_passes(config) * counts.training
    longest_interval = max(1, steps // MIN_EVALUATIONS)
    for count in range(MAX_EVALUATIONS, MIN_EVALUATIONS, -1):
        plan = EvaluationPlan(min(-(-steps // count), longest_interval), steps)
        if plan.tokens(counts) <= budget:
            return plan
    return EvaluationPlan(longest_interval, steps)
