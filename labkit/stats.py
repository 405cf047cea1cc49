"""How sure a few seeds make us: means and interquartile means with bootstrap intervals, areas, paired comparisons.

Definitions are those of rliable (Agarwal et al. 2021): 95% percentile intervals from 10,000 resamples of the seeds.
They are somewhat too narrow for few seeds: at 10 seeds they cover about 93% with the interquartile mean and 85 to 91%
with the mean. Resampling draws from a stream of its own, so the same numbers always give the same interval.
"""
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from labkit.errors import LabError
from labkit.lanes import Lanes

RESAMPLES = 10_000
FEW = 10  # below this many seeds an interval says little: draw the seeds


@dataclass(frozen=True)
class Interval:
    """value and its 95% interval from low to high, all (...) float64, from n seeds."""

    value: Tensor
    low: Tensor
    high: Tensor
    n: int

    @property
    def few(self) -> bool:
        """Too few seeds for a band; show the seeds themselves."""
        return self.n < FEW


def by_setting(runs: Tensor, lanes: Lanes) -> Tensor:
    """Runs (..., L) as (..., settings, seeds). LabError names a lane that has no number somewhere."""
    if runs.shape[-1] != len(lanes):
        raise LabError(f"These lanes are {len(lanes)}, the runs' last axis has {runs.shape[-1]}.")
    missing = (~torch.isfinite(runs)).flatten(0, -2).any(0) if runs.dim() > 1 else ~torch.isfinite(runs)
    if missing.any():
        raise LabError(f"No number somewhere in {lanes.name(int(missing.nonzero()[0]))}; leave that seed out or look at an earlier step.")
    return runs.unflatten(-1, (len(lanes.points), len(lanes.seeds)))


def mean(x: Tensor, stratified: bool = False, seed: int = 0) -> Interval:
    """The mean over seeds of x (..., S), (...). `stratified`: of x (..., tasks, S) over tasks and seeds, resampled within tasks."""
    return _trimmed(x, 0.0, stratified, seed)


def iqm(x: Tensor, stratified: bool = False, seed: int = 0) -> Interval:
    """The interquartile mean, arguments as `mean`: the mean without the lowest and the highest quarter (floor(n / 4) values each)."""
    return _trimmed(x, 0.25, stratified, seed)


def interval(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """`iqm` of x (..., S) as three tensors: value, low, high, (...)."""
    found = iqm(x)
    return found.value, found.low, found.high


def paired_difference(x: Tensor, y: Tensor, seed: int = 0) -> Interval:
    """Mean of x - y over seeds, (..., S) both, seed by seed: what the seeds share cancels."""
    if x.shape != y.shape:
        raise LabError(f"paired_difference compares the same seeds; x is {tuple(x.shape)}, y is {tuple(y.shape)}.")
    return mean(x - y, seed=seed)


def probability_of_improvement(x: Tensor, y: Tensor, seed: int = 0) -> Interval:
    """P(a run of x beats a run of y), ties counted half, of (S,) and (S2,), or averaged over tasks, (tasks, S) and (tasks, S2).

    The Mann-Whitney statistic over S * S2; its interval resamples both within each task. value, low, high are ().
    """
    a, b = (_numbers(z).reshape(-1, z.shape[-1]) for z in (x, y))
    if len(a) != len(b):
        raise LabError(f"x has {len(a)} tasks and y {len(b)}; probability_of_improvement compares task by task.")
    wins = (a[:, :, None] > b[:, None]) + 0.5 * (a[:, :, None] == b[:, None])
    rng = np.random.Generator(np.random.Philox(seed))
    drawn = [_counts(rng, len(z), z.shape[1]) for z in (a, b)]
    resampled = np.einsum("rms,mst,rmt->r", drawn[0], wins, drawn[1], optimize=True) / wins.size
    return _interval(np.asarray(wins.mean()), resampled, min(x.shape[-1], y.shape[-1]))


def area_under_curve(steps: Tensor, y: Tensor) -> Tensor:
    """The area under y (T, ...) over steps (T,), (...), by trapezoids: units of y times steps."""
    if steps.dim() != 1 or len(steps) != len(y) or not bool((steps.diff() > 0).all()):
        raise LabError(f"area_under_curve takes increasing steps (T,) and y (T, ...); got {tuple(steps.shape)} and {tuple(y.shape)}.")
    return torch.trapezoid(y.double(), steps.double(), dim=0)


def _numbers(x: Tensor) -> np.ndarray:
    """x as float64; LabError names the seed, on the last axis, of a number that is not finite."""
    values = torch.as_tensor(x).detach().double().numpy()
    if values.ndim == 0 or values.shape[-1] == 0:
        raise LabError(f"Intervals take values with seeds on the last axis; got shape {values.shape}.")
    if not np.isfinite(values).all():
        *where, at = np.argwhere(~np.isfinite(values))[0].tolist()
        raise LabError(f"Seed number {at} is {values[(*where, at)]} (place {tuple(where)}); leave it out or look at finite values only.")
    return values


def _counts(rng: np.random.Generator, tasks: int, seeds: int) -> np.ndarray:
    """How often each seed is drawn, (RESAMPLES, tasks, seeds)."""
    return rng.multinomial(seeds, np.full(seeds, 1 / seeds), size=(RESAMPLES, tasks)).astype(float)


def _kept(counts: np.ndarray, share: float) -> np.ndarray:
    """Of values in ascending order drawn counts (..., n) times: the weight of each once `share` is cut off at both ends."""
    n = counts.shape[-1]
    cut = int(share * n)
    upto = counts.cumsum(-1).clip(cut, n - cut)
    return np.diff(upto, prepend=cut) / (n - 2 * cut)


def _trimmed(x: Tensor, share: float, stratified: bool, seed: int) -> Interval:
    values, rng = _numbers(x), np.random.Generator(np.random.Philox(seed))
    if not stratified:  # one task: to draw seeds is to draw ranks, so that one draw serves all places
        ordered = np.sort(values, -1)
        resampled = _kept(_counts(rng, 1, x.shape[-1])[:, 0], share) @ ordered.reshape(-1, x.shape[-1]).T
        resampled = resampled.reshape(RESAMPLES, *ordered.shape[:-1])
    else:
        if x.dim() < 2:
            raise LabError(f"stratified takes x (..., tasks, seeds); got shape {tuple(x.shape)}.")
        pooled = values.reshape(*values.shape[:-2], -1)
        order, ordered = pooled.argsort(-1), np.sort(pooled, -1)
        counts = _counts(rng, *values.shape[-2:]).reshape(RESAMPLES, -1)
        resampled = np.empty((RESAMPLES, *ordered.shape[:-1]))
        for place in np.ndindex(ordered.shape[:-1]):
            resampled[:, *place] = _kept(counts[:, order[place]], share) @ ordered[place]
    cut = int(share * ordered.shape[-1])
    return _interval(ordered[..., cut : ordered.shape[-1] - cut].mean(-1), resampled, x.shape[-1])


def _interval(value: np.ndarray, resampled: np.ndarray, n: int) -> Interval:
    low, high = np.quantile(resampled, (0.025, 0.975), axis=0)
    return Interval(torch.as_tensor(value), torch.as_tensor(low), torch.as_tensor(high), n)
