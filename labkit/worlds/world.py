"""What every world is: pure functions on a dictionary of tensors, lanes first."""
from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass, is_dataclass
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from labkit.errors import LabError

State = dict[str, Tensor]  # every tensor (L, E, ...): L lanes, E environments side by side in a lane


@dataclass(frozen=True)
class Discrete:
    """Actions 0 .. n-1; an action tensor is (L, E) int64."""

    n: int
    noise: ClassVar[int] = 1  # uniform numbers that a sample takes


@dataclass(frozen=True)
class Continuous:
    """Actions in a box; an action tensor is (L, E, dim) float32. `low`, `high`: one bound for every dimension."""

    dim: int
    low: float
    high: float

    @property
    def noise(self) -> int:
        """Uniform numbers that a sample takes."""
        return self.dim


class World:
    """A Markov decision process, batched over lanes and environments, with no state of its own.

    A subclass sets the attributes and writes `reset`, `step`, `observe`. Randomness comes in as uniform
    numbers in [0, 1): `reset_noise` and `step_noise` say how many one environment needs.
    """

    key: str  # name in the one namespace of worlds, such as "control.cartpole"
    obs_size: int
    actions: Discrete | Continuous
    horizon: int  # steps after which an episode is truncated
    reset_noise: int = 0
    step_noise: int = 0
    obs_low: float | Sequence[float]  # bounds of an observation: one number, or obs_size of them
    obs_high: float | Sequence[float]
    forkable: bool = True  # False where the state is not all in the tensors: a fork starts fresh episodes

    def to(self, device: str | torch.device) -> Self:
        """The same world with its tables on `device`, where the tensors that it is given must lie, too."""
        return _moved(self, device)

    def reset(self, u: Tensor) -> State:
        """First states of episodes. u (L, E, reset_noise) in [0, 1) -> tensors (L, E, ...)."""
        raise NotImplementedError

    def step(self, state: State, action: Tensor, u: Tensor) -> tuple[State, Tensor, Tensor, Tensor]:
        """One step without reset: state, action (L, E[, dim]), u (L, E, step_noise) ->
        next state, reward (L, E) float32, terminated (L, E) bool, truncated (L, E) bool.

        Never writes into its arguments.
        """
        raise NotImplementedError

    def observe(self, state: State) -> Tensor:
        """What the policy sees: (L, E, obs_size) float32."""
        raise NotImplementedError

    def restart(self, state: State, done: Tensor, u: Tensor) -> State:
        """Replace the environments where `done` (L, E) by fresh episodes; u (L, E, reset_noise)."""
        if not done.any():
            return state
        fresh = self.reset(u)
        return {k: torch.where(done.view(done.shape + (1,) * (v.dim() - 2)), fresh[k], v) for k, v in state.items()}

    def check(self, action: Tensor) -> None:
        """Raise LabError where an action lies outside the action space."""
        if isinstance(self.actions, Discrete):
            if action.dtype.is_floating_point or bool(((action < 0) | (action >= self.actions.n)).any()):
                raise LabError(f"{self.key} takes whole actions 0 to {self.actions.n - 1}; got {action.unique().tolist()[:5]}.")
        elif action.shape[-1] != self.actions.dim:
            raise LabError(f"{self.key} takes actions with {self.actions.dim} numbers; got shape {tuple(action.shape)}.")


def _moved(thing: Any, device: str | torch.device) -> Any:
    """A tensor on `device`; a copy of a world or of a table with its tensors there; anything else as it is."""
    if isinstance(thing, Tensor):
        return thing.to(device)
    if isinstance(thing, World) or is_dataclass(thing):
        twin = copy(thing)
        vars(twin).update({name: _moved(value, device) for name, value in vars(thing).items()})
        return twin
    return thing
