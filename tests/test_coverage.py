"""What 95% intervals cover and how often verdicts err, by simulation: normal, skewed, heavy-tailed, bimodal, tied data."""
from functools import cache

import numpy as np
import pytest
import scipy.stats as st
import torch

from labkit import stats
from labkit.verdict import above, below

SEEDS, RUNS = 20, 2000


def blend(shares, parts):
    """The quantile function of a mixture."""
    grid = np.unique(np.concatenate([part.ppf(np.linspace(1e-7, 1 - 1e-7, 100_001)) for part in parts]))
    cdf = sum(share * part.cdf(grid) for share, part in zip(shares, parts, strict=True))
    return lambda u: np.interp(u, cdf, grid)


def solved(rate):
    """Returns of seeds of which a share `rate` reaches the greatest return, 1, and the others anything below it."""
    return lambda u: np.minimum(u / (1 - rate), 1.0)


QUANTILES = {
    "normal": st.norm.ppf,
    "gamma, shape 2": st.gamma(2).ppf,
    "gamma, shape 1/2": st.gamma(0.5).ppf,
    "lognormal": st.lognorm(1).ppf,
    "t, 3 df": st.t(3).ppf,
    "t, 2 df": st.t(2).ppf,
    "10% of ten times the spread": blend((0.9, 0.1), (st.norm(0, 1), st.norm(0, 10))),
    "two modes, even": blend((0.5, 0.5), (st.norm(-3, 1), st.norm(3, 1))),
    "two modes, 3 to 7": blend((0.3, 0.7), (st.norm(-3, 1), st.norm(3, 1))),
    "tenths, most near 1": lambda u: st.beta(5, 1).ppf(u).round(1),
    "counts": st.poisson(2).ppf,
    "60% solve it": solved(0.6),
}
MEANS_LEAST = {"lognormal": 0.91}  # known to fall short, as `stats.mean` says


@cache
def sample(name, seeds=SEEDS, runs=RUNS):
    """(runs, seeds) draws of a population, in quarters to spare memory."""
    rng = np.random.default_rng(len(name) + seeds)
    return torch.from_numpy(QUANTILES[name](rng.random((runs, seeds)))).chunk(4)


def truth(name, cut):
    """The population's trimmed mean: the mean of its quantiles between cut and 1 - cut."""
    return QUANTILES[name](cut + (1 - 2 * cut) * (np.arange(400_000) + 0.5) / 400_000).mean()


@cache
def intervals(statistic, name):
    """Low and high of every run, (runs,) both."""
    found = [statistic(part) for part in sample(name)]
    return torch.cat([f.low for f in found]), torch.cat([f.high for f in found])


def coverage(statistic, name, cut):
    low, high = intervals(statistic, name)
    want = truth(name, cut)
    return ((low <= want + 1e-9) & (high >= want - 1e-9)).double().mean().item()


@pytest.mark.parametrize("name", QUANTILES)
def test_iqms_interval_covers_at_20_seeds(name):
    assert 0.93 <= coverage(stats.iqm, name, 0.25) <= 0.98


@pytest.mark.parametrize("name", QUANTILES)
def test_means_interval_covers_at_20_seeds(name):
    assert MEANS_LEAST.get(name, 0.92) <= coverage(stats.mean, name, 0.0) <= 0.99


def test_seeds_that_are_nearly_all_alike():
    """Just over a quarter fail: the hardest case. Winsorised standard errors are zero in half the runs and cover half."""
    QUANTILES["74% solve it"] = solved(0.74)
    assert 0.89 <= coverage(stats.iqm, "74% solve it", 0.25) <= 0.95


def test_paired_differences_cover_as_their_mean_does():
    x, y = (torch.from_numpy(st.gamma(2).rvs((500, SEEDS), random_state=i)) for i in range(2))
    found = stats.paired_difference(x + 0.5, y)
    assert 0.93 <= ((found.low < 0.5) & (found.high > 0.5)).double().mean() <= 0.98


@pytest.mark.parametrize("statistic", [stats.iqm, stats.mean])
def test_stratified_intervals_cover(statistic):
    """Four tasks of five seeds."""
    rng, scale = np.random.default_rng(0), np.array([1.0, 5.0, 2.0, 0.3])[:, None]
    runs = torch.from_numpy(scale * (1 + rng.gamma(2.0, size=(400, 4, 5))))
    want = st.trim_mean(scale * (1 + rng.gamma(2.0, size=(4, 100_000))), 0.25 if statistic is stats.iqm else 0, axis=None)
    found = statistic(runs, stratified=True)
    assert 0.92 <= ((found.low < want) & (found.high > want)).double().mean() <= 0.985


@pytest.mark.parametrize(("x", "y"), [(st.norm(1), st.norm()), (st.norm(2.5), st.norm()), (st.lognorm(1), st.lognorm(1, scale=0.4))])
def test_probability_of_improvement_covers_at_20_seeds(x, y):
    want = np.mean(x.rvs(400_000, random_state=0) > y.rvs(400_000, random_state=1))
    pairs = zip(*(torch.from_numpy(z.rvs((500, SEEDS), random_state=i)) for i, z in enumerate((x, y), 2)), strict=True)
    found = [stats.probability_of_improvement(a, b) for a, b in pairs]
    assert 0.93 <= np.mean([f.low.item() <= want <= f.high.item() for f in found]) <= 0.985


@pytest.mark.parametrize("name", QUANTILES)
def test_a_verdict_errs_at_most_35_times_in_1000_on_either_side(name):
    """With the truth on the bound, which for two equal arms is a difference of 0: how often is a claim held or not held."""
    low, high = intervals(stats.iqm, name)
    bound = truth(name, 0.25)
    assert (low > bound + 1e-9).double().mean() <= 0.035 and (high < bound - 1e-9).double().mean() <= 0.035
    for runs, one, other in zip(sample(name)[0][:5], low, high, strict=False):
        for decide, sure, excluded in ((above, one > bound, other <= bound), (below, other < bound, one >= bound)):
            assert decide(runs, bound, "x").held == ("held" if sure else "not held" if excluded else "inconclusive")


def test_a_verdict_finds_what_is_there():
    low, _ = intervals(stats.iqm, "normal")
    assert (low + 1 > 0).double().mean() > 0.9  # an effect of one standard deviation
    assert (low + 0.3 > 0).double().mean() < 0.3  # 20 seeds do not show a third of one
