"""Bandits: worlds whose only question is which arm to pull, and whose arms may answer to how they were pulled."""
import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from labkit.errors import LabError
from labkit.worlds.registry import register
from labkit.worlds.world import Discrete, State, World


class Bandit(World):
    """N arms, one of them pulled in each round. What each would pay now, and what the best policy earns, is known exactly.

    A subclass says what is drawn (`reset`), what arms pay (`expected`, `best`) and how pulls change that (`answer`). The state
    holds `t` (L, E), the rounds played, and what the problem is: every environment has arms of its own, drawn at its reset.
    An observation without context is the number 1.
    """

    arms: int
    sigma: float = 0.0  # standard deviation of a payment
    horizon = 5000
    obs_size, obs_low, obs_high = 1, 1.0, 1.0

    def expected(self, state: State) -> Tensor:
        """The exact mean of what each arm would pay in this round, (L, E, N)."""
        raise NotImplementedError

    def best(self, state: State) -> Tensor:
        """What the best policy earns in this round on average, or a bound above it, (L, E)."""
        raise NotImplementedError

    def answer(self, state: State, pulled: Tensor) -> State:
        """The state after pulls (L, E, N): arms that do not mind stay as they are."""
        return state

    def pulled(self, action: Tensor) -> Tensor:
        """Which arms an action pulls: 1 or 0, (L, E, N)."""
        return one_hot(action, self.arms).float()

    def step(self, state: State, action: Tensor, u: Tensor) -> tuple[State, Tensor, Tensor, Tensor]:
        pulled, never = self.pulled(action), torch.zeros_like(u[..., 0], dtype=torch.bool)
        paid = pulled * (self.expected(state) + self.sigma * normal(u))
        after = self.answer(state, pulled) | {"t": state["t"] + 1, "paid": paid}
        return after, paid.sum(-1), never, after["t"] >= self.horizon

    def observe(self, state: State) -> Tensor:
        return torch.ones_like(state["t"], dtype=torch.float32)[..., None]

    def fresh(self, u: Tensor, **problem: Tensor) -> State:
        """The state before the first round of a problem; u (L, E, reset_noise) says where it lies."""
        t = torch.zeros(u.shape[:2], dtype=torch.int64, device=u.device)
        return problem | {"t": t, "paid": torch.zeros(*u.shape[:2], self.arms, device=u.device)}


def normal(u: Tensor) -> Tensor:
    """Standard normal numbers from uniform ones in [0, 1), by the inverse of the distribution function."""
    return torch.erfinv((2 * u - 1).clamp(-1 + 2**-23, 1 - 2**-23)) * math.sqrt(2)


def per_lane(name: str, value: float | Sequence[float], low: float = 0.0, high: float = math.inf) -> Tensor:
    """A setting of a world, one for all lanes or one per lane, as (K, 1, 1). LabError outside its range."""
    given = torch.as_tensor(value, dtype=torch.float32).reshape(-1, 1, 1)
    if not bool(((given >= low) & (given <= high)).all()) or not len(given):
        raise LabError(f"{name} is {value}; it is a number from {low:g} to {high:g}, or one for each lane.")
    return given


@register("bandit.arms")
class Arms(Bandit):
    """Arms that always pay the same on average, with normal noise: one pays 1, the others 1 - gap.

    gap: a number, or one for each lane. sigma: standard deviation of a payment. Which arm is the better one is drawn at reset.
    """

    key = "bandit.arms"
    reset_noise = step_noise = 1

    def __init__(self, arms: int = 10, gap: float | Sequence[float] = 0.3, sigma: float = 0.5) -> None:
        if arms < 2 or sigma < 0:
            raise LabError(f"Bandits take at least 2 arms and a sigma of at least 0; got {arms} and {sigma}.")
        self.arms, self.actions, self.sigma, self.gap = arms, Discrete(arms), sigma, per_lane("gap", gap)

    def reset(self, u: Tensor) -> State:
        good = one_hot((u[..., 0] * self.arms).long(), self.arms)
        return self.fresh(u, mean=1 - self.gap * (1 - good))

    def expected(self, state: State) -> Tensor:
        return state["mean"]

    def best(self, state: State) -> Tensor:
        return state["mean"].amax(-1)
