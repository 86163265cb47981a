"""The study that decides whether two runs really differ: their settings, repeated with several seeds."""

from core.config import LEARNING_FIELDS, RunConfig, is_relevant
from core.errors import UserError
from core.studies.effects import DEFAULT_TIES
from core.studies.sweep import Axis, Sweep

DEFAULT_SEEDS = 3
"""Number of seeds if nothing is known about the noise."""
MAX_CHANGES = 3
"""With more changes between two runs, a full grid has too many runs to be useful."""


def pair_sweep(before: RunConfig, after: RunConfig, seeds: int) -> Sweep:
    """Return a sweep over the settings that differ between two runs, with all combinations of their values.

    All other settings, and the first seed, are those of `before`, except that settings with an effect only in `after`,
    such as the rank if `before` trains all weights, come from `after`. The base's `parent` is the run they come from.

    Raises UserError if no learning setting differs, or more than MAX_CHANGES do.
    """
    old, new = before.model_dump(), after.model_dump()
    differing = [name for name in LEARNING_FIELDS if old[name] != new[name]]
    varied = [n for n in differing if is_relevant(n, old) and is_relevant(n, new)]
    source = after if any(not is_relevant(name, old) for name in differing) else before
    axes: list[Axis] = []
    for name in varied:
        if any(name in axis.fields for axis in axes):
            continue
        tie = next((tie for tie in DEFAULT_TIES if name in tie and {*tie} <= {*varied}), (name,))
        if any(len({values[field] for field in tie}) > 1 for values in (old, new)):
            tie = (name,)
        axes.append(Axis(tie, (old[name], new[name])))
    if not axes:
        raise UserError("these runs have the same settings, so any difference is noise")
    if len(axes) > MAX_CHANGES:
        raise UserError(
            f"these runs differ in {len(axes)} settings; choose runs that differ in at most {MAX_CHANGES}"
        )
    identity = {"name": "", "parent": source.name or None, "notes": "", "tags": ()}
    base = source.changed(**identity, study=None, color="", archived=False)
    return Sweep(base, tuple(axes), tuple(range(source.seed, source.seed + seeds)))
