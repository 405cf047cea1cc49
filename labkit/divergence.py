"""How far apart two policies are, state by state: exact divergences, and estimates from samples.

Every exact one takes two policies of one kind and shape (see labkit.policy) and gives one number per state, (...), in
nats where it has a unit; gradients flow through both. p is the reference, q the policy compared with it. A
tanh-Gaussian is a Gaussian seen through a bijection, which no density ratio notices: all but Wasserstein's are those of
the two Gaussians before the tanh.
"""
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from labkit.errors import LabError
from labkit.policy import Categorical, Gaussian, Policy, TanhGaussian

_NODES = torch.linspace(-9.0, 9.0, 721, dtype=torch.float64)  # of a trapezoid rule in standard deviations
_MASS = (-0.5 * _NODES.square()).exp() / (-0.5 * _NODES.square()).exp().sum()


def _pair(p: Policy, q: Policy) -> tuple[Any, Any]:
    """p and q, comparable; tanh-Gaussians as the Gaussians below them. LabError where kinds or shapes differ."""
    if type(p) is not type(q):
        raise LabError(f"A divergence compares policies of one kind; got {type(p).__name__} and {type(q).__name__}.")
    if not isinstance(p, Categorical | Gaussian | TanhGaussian):
        raise LabError(f"Divergences know Categorical, Gaussian and TanhGaussian policies; got {type(p).__name__}.")
    shapes = [tuple(tuple(x.shape) for x in vars(one).values()) for one in (p, q)]
    if shapes[0] != shapes[1]:
        raise LabError(f"A divergence compares policies of one shape; {', '.join(vars(p))} have {shapes[0]} and {shapes[1]}.")
    if isinstance(p, TanhGaussian) and isinstance(q, TanhGaussian):
        return Gaussian(p.mean, p.log_std), Gaussian(q.mean, q.log_std)
    return p, q


def _scaled(p: Gaussian, q: Gaussian) -> tuple[Tensor, Tensor]:
    """log(sigma_p / sigma_q) and (mean_p - mean_q) / sigma_q, (..., d)."""
    return p.log_std - q.log_std, (p.mean - q.mean) * (-q.log_std).exp()


def kl(p: Policy, q: Policy) -> Tensor:
    """KL(p || q) = E_p[log p - log q], (...); infinite where p does what q never does. Kullback and Leibler (1951)."""
    a, b = _pair(p, q)
    if isinstance(a, Categorical):
        return (a.probs * torch.where(a.probs > 0, a.logits - b.logits, 0.0)).sum(-1)
    r, gap = _scaled(a, b)
    return 0.5 * (torch.expm1(2 * r) - 2 * r + gap * gap).sum(-1)


def reverse_kl(p: Policy, q: Policy) -> Tensor:
    """KL(q || p), (...)."""
    return kl(q, p)


def total_variation(p: Policy, q: Policy) -> Tensor:
    """sup_A |p(A) - q(A)| = 1/2 sum |p - q|, (...), in [0, 1]. Gaussians: in closed form for one action dimension, else LabError."""
    a, b = _pair(p, q)
    if isinstance(a, Categorical):
        return 0.5 * (a.probs - b.probs).abs().sum(-1)
    _one_dimension(a, "total variation")
    return _normal_tv(a, b)


def jensen_shannon(p: Policy, q: Policy) -> Tensor:
    """1/2 KL(p || m) + 1/2 KL(q || m), m = (p + q) / 2, (...), in [0, log 2]. Lin (1991). Gaussians: in one action dimension,
    by quadrature over each one's own +-9 standard deviations, else LabError."""
    a, b = _pair(p, q)
    if isinstance(a, Categorical):
        m = 0.5 * (a.probs + b.probs)
        log_m = torch.where(m > 0, m, 1.0).log()
        left, right = ((one.probs * torch.where(one.probs > 0, one.logits - log_m, 0.0)).sum(-1) for one in (a, b))
        return 0.5 * (left + right)
    _one_dimension(a, "Jensen-Shannon divergence")
    return math.log(2) - 0.5 * (_mean_softplus(a, b) + _mean_softplus(b, a))


def chi2(p: Policy, q: Policy) -> Tensor:
    """Pearson's: E_q[(p / q - 1)^2] = sum p^2 / q - 1, (...). Infinite where p does what q never does, and for a
    Gaussian p with twice q's variance or more."""
    a, b = _pair(p, q)
    if isinstance(a, Categorical):
        known = b.probs > 0
        term = b.probs * torch.expm1(torch.where(known, a.logits - b.logits, 0.0)).square()
        return torch.where(known | (a.probs == 0), term, torch.inf).sum(-1)
    return torch.expm1(renyi(a, b, 2.0))


def hellinger(p: Policy, q: Policy) -> Tensor:
    """Squared Hellinger distance with the factor 1/2: 1/2 sum (sqrt p - sqrt q)^2 = 1 - sum sqrt(p q), (...), in [0, 1]."""
    a, b = _pair(p, q)
    if isinstance(a, Categorical):
        return 0.5 * ((0.5 * a.logits).exp() - (0.5 * b.logits).exp()).square().sum(-1)
    return -torch.expm1(-0.5 * renyi(a, b, 0.5))


def renyi(p: Policy, q: Policy, alpha: float = 0.5) -> Tensor:
    """log(sum p^alpha q^(1 - alpha)) / (alpha - 1), (...); KL at alpha = 1. Renyi (1961).

    Gaussians: Gil, Alajaji and Linder (2013), infinite where alpha sigma_q^2 + (1 - alpha) sigma_p^2 <= 0.
    LabError unless alpha > 0.
    """
    if not alpha > 0:
        raise LabError(f"alpha is {alpha}; Renyi's divergence takes alpha > 0.")
    if alpha == 1:
        return kl(p, q)
    a, b = _pair(p, q)
    if isinstance(a, Categorical):
        mixed = torch.where(a.probs > 0, alpha * a.logits + (1 - alpha) * b.logits, -torch.inf)
        return mixed.logsumexp(-1) / (alpha - 1)
    r, gap = _scaled(a, b)
    more = (1 - alpha) * torch.expm1(2 * r)  # the mixed variance over sigma_q^2, less 1
    fine = more > -1
    log_var = torch.log1p(torch.where(fine, more, 0.0))
    each = 0.5 * alpha * gap * gap * (-log_var).exp() - r - 0.5 * log_var / (alpha - 1)
    return torch.where(fine, each, torch.inf).sum(-1)


def wasserstein2(p: Policy, q: Policy, support: Tensor | None = None) -> Tensor:
    """Squared 2-Wasserstein distance, (...), in squared units of the action.

    Gaussians: |mean difference|^2 + |difference of standard deviations|^2 (Dowson and Landau 1982). Categorical: actions
    stand in order at `support` (A,), increasing, by default at 0 .. A-1; exact by matching quantiles. LabError for
    tanh-Gaussians, whose distance the bijection changes.
    """
    if isinstance(p, TanhGaussian):
        raise LabError("wasserstein2 of tanh-Gaussians has no closed form; sample both policies and use wasserstein2_samples.")
    a, b = _pair(p, q)
    if isinstance(a, Gaussian):
        return ((a.mean - b.mean).square() + (a.log_std.exp() - b.log_std.exp()).square()).sum(-1)
    place = torch.arange(a.logits.shape[-1]).to(a.logits) if support is None else support.to(a.logits)
    if place.shape != a.logits.shape[-1:] or not bool((place.diff() > 0).all()):
        raise LabError(f"support takes {a.logits.shape[-1]} increasing numbers, one per action; got {place.tolist()}.")
    places = place.expand_as(a.logits)
    return _matched(places, a.probs, places, b.probs)


DIVERGENCES: dict[str, Callable[[Policy, Policy], Tensor]] = {
    f.__name__: f for f in (kl, reverse_kl, total_variation, jensen_shannon, chi2, hellinger, renyi, wasserstein2)
}


def effective_share(p: Policy, q: Policy) -> Tensor:
    """1 / (1 + chi2(q, p)), (...), in [0, 1]: the share of p's samples that is left when they are reweighted to q.

    1 where the policies are equal, so it is a likeness; what `effective_sample_size` / N tends to.
    """
    return 1 / (1 + chi2(q, p))


def occupancy_policy(d: Tensor) -> Categorical:
    """An occupancy d (L, S), or of state-actions (L, S, A), as a distribution (L, S + 1) or (L, S * A + 1) to compare.

    The last place is the mass that d misses to 1, the discounted time after episodes have ended.
    """
    flat = d.flatten(1)
    ended = 1 - flat.sum(-1, keepdim=True)
    if bool((flat < 0).any()) or bool((ended < -1e-6).any()):
        raise LabError(f"An occupancy is not negative and sums to at most 1; sums here are {flat.sum(-1).tolist()[:5]}.")
    return Categorical(torch.cat([flat, torch.where(ended > 1e-12, ended, 0.0)], -1).log())


# ---- from samples -----------------------------------------------------------------------------------------------


def k1(log_ratio: Tensor) -> Tensor:
    """-log r per sample of p, log_ratio = log q - log p (...): unbiased for KL(p || q), of either sign. Schulman (2020)."""
    return -log_ratio


def k2(log_ratio: Tensor) -> Tensor:
    """(log r)^2 / 2 per sample of p: never negative, biased, with the right gradient near p = q. Schulman (2020)."""
    return 0.5 * log_ratio.square()


def k3(log_ratio: Tensor) -> Tensor:
    """(r - 1) - log r per sample of p: unbiased for KL(p || q) and never negative. Schulman (2020)."""
    return torch.expm1(log_ratio) - log_ratio


def exact_mean(estimator: Callable[[Tensor], Tensor], p: Categorical, q: Categorical) -> Tensor:
    """E_p of an estimator of log-ratios (k1, k2, k3) by enumeration, (...): for k1 and k3 it is kl(p, q)."""
    _pair(p, q)
    if not isinstance(p, Categorical):
        raise LabError(f"exact_mean enumerates actions; {type(p).__name__} has too many, so average samples.")
    return (p.probs * estimator(torch.where(p.probs > 0, q.logits - p.logits, 0.0))).sum(-1)


def effective_sample_size(log_ratio: Tensor) -> Tensor:
    """(sum w)^2 / sum w^2 of weights w = exp(log_ratio), (..., N) -> (...), between 1 and N. Kong (1992)."""
    return (2 * log_ratio.logsumexp(-1) - (2 * log_ratio).logsumexp(-1)).exp()


def wasserstein2_samples(x: Tensor, y: Tensor) -> Tensor:
    """Squared 2-Wasserstein distance of one-dimensional samples (..., N) and (..., M): exact, by matching quantiles."""
    if x.shape[:-1] != y.shape[:-1]:
        raise LabError(f"wasserstein2_samples takes (..., N) and (..., M); got {tuple(x.shape)} and {tuple(y.shape)}.")
    each = [torch.full_like(z, 1 / z.shape[-1]) for z in (x, y)]
    return _matched(x.sort(-1).values, each[0], y.sort(-1).values, each[1])


def energy_distance(x: Tensor, y: Tensor) -> Tensor:
    """2 E|x - y| - E|x - x'| - E|y - y'| over all pairs of samples (..., N, d) and (..., M, d), (...). Szekely (2002).

    Zero where the samples are the same, never negative; samples of one distribution give about 2 E|x - x'| / N.
    """
    if x.dim() < 2 or x.shape[:-2] != y.shape[:-2] or x.shape[-1] != y.shape[-1]:
        raise LabError(f"energy_distance takes (..., N, d) and (..., M, d); got {tuple(x.shape)} and {tuple(y.shape)}.")

    def apart(a: Tensor, b: Tensor) -> Tensor:
        return torch.cdist(a, b, compute_mode="donot_use_mm_for_euclid_dist").mean((-2, -1))

    return 2 * apart(x, y) - apart(x, x) - apart(y, y)


# ---- the insides ------------------------------------------------------------------------------------------------


def _matched(x: Tensor, p: Tensor, y: Tensor, q: Tensor) -> Tensor:
    """integral of (F^-1(u) - G^-1(u))^2 du, (...), for masses p (..., N) at sorted x and q (..., M) at sorted y."""
    ends = [m.cumsum(-1)[..., :-1] for m in (p, q)]
    zero = torch.zeros_like(p[..., :1])
    cuts = torch.cat([zero, torch.cat(ends, -1).sort(-1).values, zero + 1], -1)
    middle = 0.5 * (cuts[..., 1:] + cuts[..., :-1]).detach()
    a, b = (z.gather(-1, torch.searchsorted(e.detach().contiguous(), middle)) for z, e in zip((x, y), ends, strict=True))
    return ((a - b).square() * cuts.diff()).sum(-1)


def _one_dimension(p: Gaussian, name: str) -> None:
    if p.mean.shape[-1] != 1:
        raise LabError(
            f"The {name} of Gaussians is known in one action dimension; here are {p.mean.shape[-1]}: use kl, hellinger or chi2, "
            "or energy_distance on samples."
        )


def _normal_tv(p: Gaussian, q: Gaussian) -> Tensor:
    """P(z in [near, far]) under the narrower less that under the wider, where their densities cross; (..., 1) -> (...)."""
    log_s = -(p.log_std - q.log_std).abs()  # of the narrower against the wider
    gap = (p.mean - q.mean).abs() * (-torch.maximum(p.log_std, q.log_std)).exp()
    equal = (log_s == 0) & (gap == 0)
    gap = torch.where(equal, 1.0, gap)
    s, w = log_s.exp(), -torch.expm1(2 * log_s)
    reach = s * gap + (gap * gap - 2 * w * log_s).sqrt()
    near = -(gap * gap - 2 * log_s) / reach  # roots of w z^2 - 2 s gap z = gap^2 - 2 log s, without cancellation
    far = torch.where(w > 0, reach / torch.where(w > 0, w, 1.0), 1e9)
    narrow, wide = (torch.special.ndtr(b) - torch.special.ndtr(a) for a, b in ((near, far), (s * near + gap, s * far + gap)))
    return torch.where(equal, 0.0, narrow - wide)[..., 0]


def _mean_softplus(p: Gaussian, q: Gaussian) -> Tensor:
    """E_p[log(1 + q / p)] by the trapezoid rule, (..., 1) -> (...)."""
    r, gap = _scaled(p, q)
    z = _NODES.to(r)
    t = 0.5 * z.square() - 0.5 * (r.exp() * z + gap).square() + r
    return ((t.clamp(min=0) + torch.log1p((-t.abs()).exp())) * _MASS.to(r)).sum(-1)
