"""What a run yields: a moment of learning that can be read, stored and forked."""
from dataclasses import dataclass

from torch import Tensor

from labkit.learner import Learner


@dataclass(frozen=True)
class Snapshot:
    """The state after an update. `learner` is a copy, never an alias: run(start=snapshot.learner) forks from it."""

    step: int  # environment steps per lane so far
    learner: Learner
    metrics: dict[str, Tensor]  # each (L,)
