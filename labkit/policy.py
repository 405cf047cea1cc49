"""Policies as distributions over actions, lanes first: what a network's outputs mean."""
import math
from collections.abc import Callable
from copy import copy
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

_HALF_LOG_2PI = 0.5 * math.log(2 * math.pi)
NEVER = -80.0  # log-probability of what a policy does not do: lost in the rounding of any mean, yet divergences stay finite
SHUT = -1e4  # the score of an action that is not on offer; scores above half of it are
_NODES = torch.linspace(-6.0, 6.0, 81)  # of a trapezoid rule in standard deviations
_MASS = (-0.5 * _NODES.square()).exp() / (-0.5 * _NODES.square()).exp().sum()


def gaussian_noise(u: Tensor) -> Tensor:
    """Uniform in [0, 1) -> standard normal, by the inverse distribution function."""
    return torch.erfinv((2 * u - 1).clamp(-1 + 2**-23, 1 - 2**-23)) * math.sqrt(2)


@dataclass(frozen=True)
class Policy:
    """A distribution at each of many states. Its fields are tensors with the same leading axes."""

    def map(self, change) -> Self:
        """The same kind of policy with `change` applied to each field: slices, reshapes, detaches."""
        twin = copy(self)  # past the constructor: what it did to the fields has been done
        vars(twin).update({name: change(v) for name, v in vars(self).items()})
        return twin

    def log_prob(self, action: Tensor) -> Tensor:
        """In nats, (...): the density or mass of each action."""
        raise NotImplementedError

    def entropy(self) -> Tensor:
        """In nats, (...)."""
        raise NotImplementedError

    def sample(self, u: Tensor) -> Tensor:
        """Actions from uniform numbers u (..., noise) in [0, 1): the same u, the same action."""
        raise NotImplementedError

    def detach(self) -> Self:
        """A copy that carries no gradient."""
        return self.map(Tensor.detach)


@dataclass(frozen=True)
class Categorical(Policy):
    """A softmax over A actions. logits (..., A), of any scale: they are normalised on entry."""

    logits: Tensor

    def __post_init__(self) -> None:
        object.__setattr__(self, "logits", self.logits.log_softmax(-1))

    @property
    def probs(self) -> Tensor:
        """(..., A)"""
        return self.logits.exp()

    def log_prob(self, action: Tensor) -> Tensor:
        """action (...) int64 -> (...)"""
        return self.logits.gather(-1, action[..., None])[..., 0]

    def entropy(self) -> Tensor:
        """In nats, (...)."""
        return -(self.probs * self.logits).sum(-1)

    def sample(self, u: Tensor) -> Tensor:
        """u (..., 1) in [0, 1) -> action (...), by inverting the distribution function."""
        return (self.probs.cumsum(-1)[..., :-1] <= u).sum(-1)


@dataclass(frozen=True)
class Gaussian(Policy):
    """Independent normals. mean, log_std (..., d)."""

    mean: Tensor
    log_std: Tensor

    def log_prob(self, action: Tensor) -> Tensor:
        """action (..., d) -> (...), in nats."""
        z = (action - self.mean) * (-self.log_std).exp()
        return (-0.5 * z * z - self.log_std - _HALF_LOG_2PI).sum(-1)

    def entropy(self) -> Tensor:
        """In nats, (...)."""
        return (self.log_std + 0.5 + _HALF_LOG_2PI).expand_as(self.mean).sum(-1)

    def sample(self, u: Tensor) -> Tensor:
        """u (..., d) in [0, 1) -> action (..., d)."""
        return self.mean + self.log_std.exp() * gaussian_noise(u)


@dataclass(frozen=True)
class TanhGaussian(Policy):
    """tanh of a Gaussian: actions in (-1, 1). mean, log_std (..., d) are those before the tanh."""

    mean: Tensor
    log_std: Tensor

    def log_prob(self, action: Tensor) -> Tensor:
        """action (..., d) in (-1, 1) -> (...), in nats; an action at the edge counts as 1e-6 inside."""
        raw = torch.atanh(action.clamp(-1 + 1e-6, 1 - 1e-6))
        slope = 2 * (math.log(2) - raw + torch.nn.functional.logsigmoid(2 * raw))  # log of tanh's derivative
        return Gaussian(self.mean, self.log_std).log_prob(raw) - slope.sum(-1)

    def sample(self, u: Tensor) -> Tensor:
        """u (..., d) in [0, 1) -> action (..., d) in (-1, 1)."""
        return Gaussian(self.mean, self.log_std).sample(u).tanh()


# ---- bandits: from scores of actions to chances -----------------------------------------------------------------


def sharing(probs: Tensor) -> Categorical:
    """The distribution with these probabilities (..., A)."""
    return Categorical(probs.log().clamp_min(NEVER))


def eps_greedy(scores: Tensor, eps: Tensor) -> Categorical:
    """The best action, equals sharing, and with chance eps (L, 1, 1) any of those on offer. scores (L, B, A)."""
    best, offered = ((x / x.sum(-1, keepdim=True)) for x in (scores == scores.amax(-1, keepdim=True), scores > SHUT / 2))
    return sharing((1 - eps) * best + eps * offered)


def inverse_gap(log_odds: Tensor, gamma: Tensor) -> Categorical:
    """p(a) = 1 / (A + gamma (f(best) - f(a))) for each of the A actions on offer but the best, which has the rest.

    f is the predicted chance of success, given as log_odds (L, B, A); gamma (L, 1, 1). Abe and Long (1999); Foster and
    Rakhlin (2020), SquareCB.
    """
    offered, f = log_odds > SHUT / 2, torch.nn.functional.logsigmoid(log_odds).exp()
    gap = f.amax(-1, keepdim=True) - f
    others = offered * (1 - torch.nn.functional.one_hot(log_odds.argmax(-1), f.shape[-1]))
    p = others / (offered.sum(-1, keepdim=True) + gamma * gap)
    return sharing(torch.where(others > 0, p, offered * (1 - p.sum(-1, keepdim=True))))


def thompson(beliefs: Tensor, free: Tensor) -> Categorical:
    """P(each action's draw is the largest) where action a's is normal. beliefs (L, B, 2A): the A means, then the A deviations.

    By quadrature over a's own draw: E[prod over b of P(b's draw is below it)], right to 1e-6 where deviations lie within a factor
    of 10, and to about 0.01 within a factor of 1000. Without deviation it is the largest mean, and equals share.
    """
    mean, deviation = beliefs.chunk(2, -1)
    deviation = deviation.clamp_min(1e-6)
    draw = mean[..., None] + deviation[..., None] * _NODES.to(mean)  # (L, B, A, nodes)
    below = torch.special.ndtr((draw[..., None] - mean[..., None, None, :]) / deviation[..., None, None, :])
    own = torch.eye(mean.shape[-1], dtype=torch.bool, device=mean.device)[:, None]
    return sharing((torch.where(own, 1.0, below).prod(-1) * _MASS.to(mean)).sum(-1))


HEADS: dict[str, Callable[[Tensor, Tensor], Policy]] = {  # from a network's outputs and its free parameters
    "categorical": lambda out, free: Categorical(out),
    "gaussian": lambda out, free: Gaussian(out, free.expand_as(out)),
    "tanh_gaussian": lambda out, free: TanhGaussian(out, free.expand_as(out)),
    "eps_greedy": eps_greedy,
    "inverse_gap": inverse_gap,
    "thompson": thompson,
}
