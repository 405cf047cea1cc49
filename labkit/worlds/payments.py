"""Payments, each sent along one of several routes: which of them succeeds depends on the payment."""
from collections.abc import Sequence

import numpy as np
from torch import Tensor

from labkit.errors import LabError
from labkit.worlds.contextual import Contextual, every, stacked
from labkit.worlds.registry import register

FEATURES, ROUTES = 8, 6
SLOPE, TWIST = 0.5, 0.25  # spread of the weights of one feature, and of two together


class Payments(Contextual):
    """A payment has 8 features, yes or no; a route pays 1 if the payment goes through. The key is bandit.payments.

    There are 256 kinds of payment and no more, so a policy's value is exact over all of them and needs no test set.
    """

    def pay(self, mean: Tensor, u: Tensor) -> Tensor:
        return (u < mean).float()


@register("bandit.payments")
def payments(low: float = 0.7, high: float = 0.97, closed: float = 0.0, seed: int | Sequence[int] = 0) -> Payments:
    """Success is low + (high - low) sigmoid(z), z a random score of each route: linear in the features and in neighbouring pairs.

    So a model that is linear in the features comes near, but not all the way. closed: chance that a route does not take a kind of
    payment. A sequence of seeds gives each lane its own world. LabError unless 0 <= low < high <= 1 and 0 <= closed <= 1.
    """
    if not 0 <= low < high <= 1:
        raise LabError(f"Success goes from low={low} to high={high}; give two chances, the lower one first.")
    if not 0 <= closed <= 1:
        raise LabError(f"closed is {closed}; it is a chance, from 0 to 1.")
    x = every(FEATURES)
    chance, success, shut = stacked(lambda one: _drawn(one, x, low, high, closed), seed)
    return Payments("bandit.payments", np.repeat(x[None], len(chance), 0), chance, success, shut)


def _drawn(seed: int, x: np.ndarray, low: float, high: float, closed: float) -> tuple[np.ndarray, ...]:
    """How often each kind of payment x (C, n) comes, (C,), the success of each route with it and whether it is shut, (C, N)."""
    rng = np.random.Generator(np.random.Philox(seed))
    often = rng.uniform(0.2, 0.8, FEATURES)
    chance = np.where(x == 1, often, 1 - often).prod(-1)
    sign = 2.0 * x - 1
    z = rng.standard_normal(ROUTES) + SLOPE * sign @ rng.standard_normal((FEATURES, ROUTES))
    z = z + TWIST * (sign * np.roll(sign, 1, -1)) @ rng.standard_normal((FEATURES, ROUTES))
    shut = rng.random(z.shape) < closed
    shut[np.arange(len(x)), rng.integers(ROUTES, size=len(x))] = False  # some route takes every payment
    return chance / chance.sum(), low + (high - low) / (1 + np.exp(-z)), shut
