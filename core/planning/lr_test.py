"""Run the learning rate test of `core.training.lr_finder` in a separate process."""

from concurrent.futures import Future
from typing import TYPE_CHECKING

from core.config import RunConfig, metadata
from core.planning import child

if TYPE_CHECKING:  # imports PyTorch, which takes seconds
    from core.training.lr_finder import LRCurve

SCHEDULE_FIELDS = (
    "lr", "min_lr", "schedule", "decay_fraction", "warmup_fraction", "warmup_start", "epochs"
)  # fmt: skip


def key(config: RunConfig) -> str:
    """Return a cache key. Settings with equal keys share a learning rate test."""
    fields = RunConfig.model_fields.items()
    irrelevant = {
        name
        for name, field in fields
        if name != "seed" and metadata(field)["group"] in ("identity", "cadence")
    }
    return config.model_dump_json(exclude={*irrelevant, *SCHEDULE_FIELDS})


def start(config: RunConfig, steps: int) -> "Future[LRCurve]":
    """Run `find_lr` in the background. Measurements and tests run one at a time and end with this process."""
    return child.start(lambda: find_lr(config, steps))


def find_lr(config: RunConfig, steps: int) -> "LRCurve":
    """Test increasing learning rates in a separate process; see `core.training.lr_finder.find_lr`.

    Raises:
        UserError: the test failed, for example because memory ran out.
    """
    from core.training.lr_finder import LRCurve

    return LRCurve(**child.call("learning rate test", config, steps=steps))
