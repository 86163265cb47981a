"""Sweeps: parsing of axes, combinations, and error messages."""

import pytest

from core.config import RunConfig
from core.errors import UserError
from core.studies.sweep import Axis, Sweep, parse_axis

BASE = RunConfig(name="base", seed=5)


def sweep(*axes, seeds=(1,), **options):
    return Sweep(
        options.pop("base", BASE), tuple(parse_axis(text) for text in axes), seeds, **options
    )


@pytest.mark.parametrize(
    ("text", "fields", "values"),
    [
        ("lr=1e-4, 3e-4", ("lr",), (1e-4, 3e-4)),
        ("lora_rank=lora_alpha=4,16", ("lora_rank", "lora_alpha"), (4, 16)),
        ("lr=log 1e-5..1e-2 x 4", ("lr",), (1e-5, 1e-4, 1e-3, 1e-2)),
        ("weight_decay=0..0.2 x 3", ("weight_decay",), (0.0, 0.1, 0.2)),
        ("batch_size=log 2..16 x 4", ("batch_size",), (2, 4, 8, 16)),
        ("batch_size=log 1..4 x 9", ("batch_size",), (1, 2, 3, 4)),
        ("min_lr=none,1e-5", ("min_lr",), (None, 1e-5)),
        ("lora_scaling=alpha,alpha/rank", ("lora_scaling",), ("alpha", "alpha/rank")),
        ("mask_prompt=true,false", ("mask_prompt",), (True, False)),
    ],
)  # fmt: skip
def test_axes_are_parsed(text, fields, values):
    assert parse_axis(text) == Axis(fields, values)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("lr", "must be field=value"),
        ("lr=", "must be field=value"),
        ("rank=4", "unknown setting 'rank'"),
        ("seed=1,2", "use --seeds"),
        ("name=a,b", "name cannot be varied"),
        ("lr=fast", "must be a number"),
        ("lr=0", "must be greater than 0"),
        ("lr=log 0..1 x 3", "must go from a smaller to a larger value"),
        ("lr=a..b x 3", "is not a range"),
        ("lr=1..2 x 1000000000000", "can have at most 5,000 values"),
        (f"lr={','.join(['1'] * 5001)}", "5,001 values: can have at most 5,000"),
    ],
)
def test_invalid_axis_raises_user_error(text, message):
    with pytest.raises(UserError, match=message):
        parse_axis(text)


def test_every_combination_is_planned_for_each_seed():
    planned = list(sweep("lr=1e-4,3e-4", "lora_rank=lora_alpha=4,16", seeds=(1, 2)).members("s"))
    assert [member.name for member in planned] == [f"s-{i}" for i in range(1, 9)]
    assert [member.seed for member in planned] == [1] * 4 + [2] * 4
    assert planned[0].values == {"lr": 1e-4, "lora_rank": 4, "lora_alpha": 4}
    assert [m.values for m in planned[:4]] == [m.values for m in planned[4:]]


def test_combinations_that_differ_only_in_ineffective_settings_run_once():
    planned = sweep("method=full,lora", "lora_rank=4,16").combinations()
    assert [(c["method"], c["lora_rank"]) for c in planned] == [
        ("full", 4),
        ("lora", 4),
        ("lora", 16),
    ]


def test_random_sweep_is_a_reproducible_subset():
    axes = "lr=log 1e-5..1e-2 x 10", "batch_size=1,2,4"
    first = sweep(*axes, mode="random", max_runs=8, seeds=(1, 2)).combinations()
    assert len(first) == 4
    assert first == sweep(*axes, mode="random", max_runs=8, seeds=(1, 2)).combinations()
    everything = sweep(*axes, mode="random", max_runs=999).combinations()
    assert everything == sweep(*axes).combinations()


@pytest.mark.parametrize(
    ("axes", "options", "message"),
    [
        ((), {}, "at least one axis"),
        (("lr=1e-4,1e-4",), {}, "listed twice"),
        (("lr=1e-4", "lr=1e-3"), {}, "can only be on one axis"),
        (("lora_rank=4,16",), {"base": BASE.changed(method="full")}, "no effect"),
        (("lr=1e-4,1e-3",), {"seeds": ()}, "at least 1"),
        (("lr=1e-6,1e-4",), {"base": BASE.changed(min_lr=1e-5)}, "invalid combination lr=1e-06"),
        (("lr=log 1e-5..1e-2 x 2001",), {}, "can have at most 2,000"),
        (("lr=,",), {}, "axis lr: needs at least one value"),
        (("lr=1e-4,1e-3",), {"seeds": (1, 2, 1)}, "seeds: 1 is listed twice"),
        (("lr=log 1e-5..1e-2 x 90", "weight_decay=0..1 x 90"), {"mode": "random", "max_runs": 9},
         "8,100 combinations: a random sweep can choose from at most 5,000"),
        (("min_lr=none,none",), {}, "none is listed twice"),
        (("lr=1e-4,1e-3",), {"mode": "random"}, "required for a random sweep"),
        (("lr=1e-4,1e-3",), {"mode": "random", "max_runs": 1, "seeds": (1, 2)}, "at least the number of seeds"),
    ],
)  # fmt: skip
def test_invalid_sweep_raises_user_error(axes, options, message):
    with pytest.raises(UserError, match=message):
        sweep(*axes, **options).combinations()
