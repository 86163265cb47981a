"""The automatic evaluation interval: bounds, budget, and agreement of trainer, plan and estimate."""

import time
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import pytest

from core.config import RunConfig
from core.nn.architecture import FAMILY
from core.planning import estimate, preflight
from core.training import evaluation_plan
from core.training.evaluation_plan import EvaluationPlan, TokenCounts
from core.training.trainer import Trainer

NewConfig = Callable[..., RunConfig]
NewRun = Callable[..., Any]


def counted_tokens(plan: EvaluationPlan, counts: TokenCounts) -> int:
    """Count the tokens of all evaluations step by step."""
    total = counts.subset + counts.probe  # step 0
    evaluations = [step for step in range(1, plan.steps + 1) if plan.is_due(step)]
    assert len(evaluations) == plan.count
    for step in evaluations:
        total += counts.validation if step == plan.steps else counts.subset
        total += counts.probe if plan.includes_probe(step) else 0
    return total


@pytest.mark.parametrize("steps", [1, 2, 7, 8, 9, 17, 40, 63, 100, 1000, 12345])
@pytest.mark.parametrize("interval", [1, 2, 3, 10, 99999])
def test_tokens_match_the_sum_over_all_evaluations(steps: int, interval: int) -> None:
    plan, counts = EvaluationPlan(interval, steps), TokenCounts(10**6, 100, 1000, 10**4)
    assert plan.tokens(counts) == counted_tokens(plan, counts)


def test_probe_is_measured_at_the_start_every_third_evaluation_and_the_end() -> None:
    plan = EvaluationPlan(interval=5, steps=37)
    assert [step for step in range(38) if plan.includes_probe(step)] == [0, 15, 30, 37]


@pytest.mark.parametrize("method", ["full", "lora"])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_automatic_evaluations_are_as_frequent_as_the_budget_allows(
    method: str, checkpointing: bool
) -> None:
    config = RunConfig(method=method, grad_checkpointing=checkpointing)
    passes = {"full": 2.25, "lora": 1.75}[method] + checkpointing
    seen = set()
    for steps in (1, 5, 8, 9, 20, 41, 300, 5993):
        for training in (10**4, 10**5, 3 * 10**5, 10**6, 10**8):
            counts = TokenCounts(training, 2000, 6000, 1000)
            plan = evaluation_plan.evaluation_plan(config, steps, counts)
            assert min(steps, 8) <= plan.count <= 40
            cost = plan.tokens(counts) / (passes * training)
            longest = max(1, steps // 8)
            assert cost <= 0.08 or plan.interval == longest
            if plan.interval > 1 and plan.interval > -(-steps // 40):
                # Any plan with more evaluations exceeds the budget.
                more = next(
                    EvaluationPlan(interval, steps)
                    for interval in range(plan.interval, 0, -1)
                    if -(-steps // interval) > plan.count
                )
                assert more.tokens(counts) / (passes * training) > 0.08
            seen.add(plan.count)
    assert {8, 40} <= seen
    assert len(seen) > 5


@pytest.mark.parametrize("part", ["head", "last_layers"])
def test_partial_training_has_fewer_evaluations(part: str) -> None:
    """Without most of the backward pass, the budget pays for fewer evaluations. Costs are operations on gpt2."""
    arch = FAMILY["gpt2"]
    counts = TokenCounts(10**6, 3000, 10**4, 1000)
    config = RunConfig(method="full", trained_weights=part)
    plan = evaluation_plan.evaluation_plan(config, 5993, counts)
    complete = evaluation_plan.evaluation_plan(RunConfig(method="full"), 5993, counts)
    assert 8 < plan.count < complete.count
    forward = 2.0 * sum(rows * columns for rows, columns in arch.linear_shapes().values())
    training = estimate.flops(config, arch, counts.training)
    assert plan.tokens(counts) * forward / training < 0.1


def test_trainer_and_plan_agree(new_config: NewConfig, new_run: NewRun) -> None:
    config = new_config(eval_every=None, epochs=6, max_length=60, mask_prompt=True)
    run = new_run()
    trainer = Trainer(config, run)
    plan = preflight.check(config)
    assert not plan.problems
    assert (
        (plan.eval_every, plan.evaluations)
        == (3, 10)
        == (
            trainer.evaluations.interval,
            trainer.evaluations.count,
        )
    )
    corpus = preflight.read_corpus(config, 96)
    assert asdict(corpus.tokens) == asdict(trainer.token_counts())
    trainer.fit()
    assert run.events_of("plan")[0]["eval_every"] == 3
    steps = [event["step"] for event in run.events_of("eval")]
    assert steps == [*range(0, 30, 3), 30]
    probed = [e["step"] for e in run.events_of("eval") if e["train_loss"] is not None]
    assert probed == [0, 9, 18, 27, 30]
    assert plan.evaluation_seconds is not None
    assert plan.seconds is not None
    share = trainer.evaluations.tokens(corpus.tokens) / (2.25 * corpus.tokens.training)
    assert plan.evaluation_seconds == pytest.approx(share * plan.seconds, abs=0.11)


@pytest.mark.long
@pytest.mark.parametrize("method", ["full", "lora"])
def test_automatic_evaluations_take_at_most_8_percent_of_training_time(
    new_run: NewRun, method: str
) -> None:
    """Uses the embedded model and data. The margin allows for load on the machine."""
    values = {"method": method, "epochs": 6, "batch_size": 16, "max_examples": 600}
    values |= {"probe_examples": 16, "sample_prompt": "", "device": "cpu", "precision": "fp32"}
    trainer = Trainer(RunConfig.parse(values), new_run())
    assert 8 < trainer.evaluations.count < 40
    seconds, losses_of = 0.0, trainer.losses_of

    def timed(examples: Any) -> Any:
        nonlocal seconds
        start = time.perf_counter()
        result = losses_of(examples)
        seconds += time.perf_counter() - start
        return result

    trainer.losses_of = timed  # type: ignore[method-assign]
    trainer.fit()
    share = seconds / trainer.progress.seconds
    print(f"{method}: {trainer.evaluations.count} evaluations took {share:.1%} of training time")
    assert share < 0.10
