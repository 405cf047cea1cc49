"""Bandits with contexts: a pool of contexts, each with the exact mean reward of every arm."""
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from labkit.errors import LabError
from labkit.worlds.bandit import Bandit
from labkit.worlds.world import Discrete, State

SLACK = 1e-9  # by which chances may miss 1


class Contextual(Bandit):
    """Each round shows one of C contexts, drawn anew; what is pulled changes nothing.

    contexts (K, C, n + N): what the policy sees of each, n features of 0 or 1 and then, for each of the N arms, 1 where it is
    shut. chance (K, C) float64: how often each comes. mean (K, C, N) float64: what each arm pays on average, 0 where it is shut.
    K is 1, or the number of lanes, where each has a world of its own. The state holds `c` (L, E), the number of the context.
    """

    obs_low, obs_high = 0.0, 1.0
    reset_noise, step_noise = 1, 2

    def __init__(self, key: str, features: np.ndarray, chance: np.ndarray, mean: np.ndarray, shut: np.ndarray) -> None:
        """features (K, C, n); chance (K, C); mean, shut (K, C, N). LabError where chances are none or a context has no open arm."""
        if (chance < 0).any() or (np.abs(chance.sum(-1) - 1) > SLACK).any():
            raise LabError(f"Chances of contexts are not negative and sum to 1; here they sum to {chance.sum(-1).tolist()[:5]}.")
        if shut.all(-1).any():
            raise LabError("Every arm is shut in some context; leave at least one open.")
        self.key, self.features, self.arms = key, features.shape[-1], mean.shape[-1]
        self.contexts = torch.from_numpy(np.concatenate([features, shut], -1)).float()
        self.chance, self.mean = torch.from_numpy(chance), torch.from_numpy(np.where(shut, 0.0, mean))
        self.obs_size, self.actions = self.features + self.arms, Discrete(self.arms)
        self._below = self.chance.cumsum(-1)

    def reset(self, u: Tensor) -> State:
        return self.fresh(u, c=self._draw(u[..., 0]))

    def step(self, state: State, action: Tensor, u: Tensor) -> tuple[State, Tensor, Tensor, Tensor]:
        pulled, never = self.pulled(action), torch.zeros_like(u[..., 0], dtype=torch.bool)
        paid = (pulled * self.pay(self.expected(state), u[..., 1:])).float()
        after = {"c": self._draw(u[..., 0]), "t": state["t"] + 1, "paid": paid}
        return after, paid.sum(-1), never, after["t"] >= self.horizon

    def pay(self, mean: Tensor, u: Tensor) -> Tensor:
        """What arms of this mean (L, E, N) pay with noise u (L, E, 1) in [0, 1)."""
        raise NotImplementedError

    def observe(self, state: State) -> Tensor:
        return self.contexts[self._lane(state["c"]), state["c"]]

    def expected(self, state: State) -> Tensor:
        return self.mean[self._lane(state["c"]), state["c"]]

    def best(self, state: State) -> Tensor:
        return self.expected(state).amax(-1)

    def value(self, probs: Tensor) -> Tensor:
        """The exact mean reward of a policy, (L,) float64, from its probabilities in every context, (L, C, N)."""
        return (self.chance * (probs * self.mean).sum(-1)).sum(-1)

    def best_value(self) -> Tensor:
        """The exact mean reward of the best policy, (K,) float64."""
        return (self.chance * self.mean.amax(-1)).sum(-1)

    def _lane(self, c: Tensor) -> Tensor:
        """The row of each lane, (L, 1). LabError where there are as many worlds as other lanes."""
        if len(self.mean) not in (1, len(c)):
            raise LabError(f"{self.key} has {len(self.mean)} worlds, one per lane; run that many lanes, not {len(c)}.")
        return torch.arange(len(c), device=c.device)[:, None] % len(self.mean)

    def _draw(self, u: Tensor) -> Tensor:
        """u (L, E) in [0, 1) -> contexts (L, E), by their chances."""
        found = torch.searchsorted(self._below[self._lane(u)[:, 0]], u.double().contiguous(), right=True)
        return found.clamp_max(self.mean.shape[1] - 1)  # their sum may miss 1


def stacked(make: Callable[[int], tuple[np.ndarray, ...]], seed: int | Sequence[int]) -> tuple[np.ndarray, ...]:
    """What make(seed) draws, each with a leading axis: of one for a whole number, one per lane for a sequence of them."""
    return tuple(np.stack(parts) for parts in zip(*map(make, [seed] if isinstance(seed, int) else seed), strict=True))


def every(n: int) -> np.ndarray:
    """All contexts of n features of 0 or 1, (2^n, n): feature i of context c is bit i of c."""
    return (np.arange(2**n)[:, None] >> np.arange(n)) & 1
