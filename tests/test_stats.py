"""Intervals against SciPy, rliable's metrics, a plain loop, and the coverage that they should have."""
import time

import numpy as np
import pytest
import scipy.stats
import torch
from rliable import metrics

from labkit import stats
from labkit.errors import LabError
from labkit.lanes import Lanes


def draw(*shape, seed=0):
    return torch.from_numpy(np.random.default_rng(seed).gamma(2.0, size=shape))


@pytest.mark.parametrize("n", [1, 3, 4, 7, 10, 23])
def test_values_are_scipys(n):
    x = draw(5, n)
    np.testing.assert_allclose(stats.iqm(x).value, scipy.stats.trim_mean(x, 0.25, axis=1), rtol=1e-13)
    np.testing.assert_allclose(stats.mean(x).value, x.mean(1), rtol=1e-13)
    assert stats.iqm(x).n == n and stats.iqm(x).few == (n < 10)


def trim_mean(x, axis):
    return scipy.stats.trim_mean(x, 0.25, axis=axis)


@pytest.mark.parametrize(("ours", "theirs"), [(stats.mean, np.mean), (stats.iqm, trim_mean)])
@pytest.mark.parametrize("n", [5, 10, 20])
def test_intervals_are_scipys_percentile_bootstrap(ours, theirs, n):
    x = draw(n, seed=n)
    want = scipy.stats.bootstrap((x.numpy(),), theirs, n_resamples=40_000, method="percentile", rng=np.random.default_rng(1))
    got, tolerance = ours(x), 0.12 * want.standard_error  # 4 standard errors of two bootstraps
    assert abs(got.low.item() - want.confidence_interval.low) < tolerance
    assert abs(got.high.item() - want.confidence_interval.high) < tolerance


def test_a_resample_is_trimmed_as_scipy_trims_it():
    rng, x = np.random.default_rng(3), np.sort(draw(11).numpy())
    for _ in range(50):
        index = rng.integers(11, size=11)
        weights = stats._kept(np.bincount(index, minlength=11).astype(float), 0.25)
        assert weights @ x == pytest.approx(scipy.stats.trim_mean(x[index], 0.25), rel=1e-12)


@pytest.mark.parametrize(("ours", "theirs"), [(stats.mean, metrics.aggregate_mean), (stats.iqm, metrics.aggregate_iqm)])
def test_stratified_intervals_are_rliables(ours, theirs):
    x = draw(4, 6) * torch.tensor([1.0, 5.0, 2.0, 0.3])[:, None] + torch.arange(4)[:, None]
    got, rng, tasks = ours(x, stratified=True), np.random.default_rng(2), np.arange(4)
    assert got.value.item() == pytest.approx(theirs(x.T.numpy()))
    resampled = [theirs(x.T.numpy()[rng.integers(6, size=(6, 4)), tasks]) for _ in range(6000)]  # rliable's StratifiedBootstrap
    low, high = np.percentile(resampled, (2.5, 97.5))
    assert abs(got.low.item() - low) < 0.1 * np.std(resampled) and abs(got.high.item() - high) < 0.1 * np.std(resampled)


def test_stratified_places_are_independent_of_each_other():
    x = draw(3, 4, 6)
    together = stats.iqm(x, stratified=True)
    for k in range(3):
        alone = stats.iqm(x[k], stratified=True)
        torch.testing.assert_close(torch.stack([alone.low, alone.high]), torch.stack([together.low[k], together.high[k]]))


@pytest.mark.parametrize(("statistic", "least"), [(stats.iqm, 0.915), (stats.mean, 0.875)])
def test_coverage_at_ten_seeds(statistic, least):
    x = torch.from_numpy(np.random.default_rng(0).standard_normal((4000, 10)))
    got = statistic(x)
    assert least < ((got.low < 0) & (got.high > 0)).double().mean() < 0.955


def test_the_same_numbers_give_the_same_interval_and_no_global_state_is_touched():
    x = draw(8)
    np.random.seed(1)
    before = np.random.get_state()[1].copy()
    one, two, other = stats.mean(x), stats.mean(x), stats.mean(x, seed=5)
    assert (np.random.get_state()[1] == before).all()
    assert one.low == two.low and one.high == two.high and one.low != other.low
    middle = stats.iqm(x)
    assert stats.interval(x) == (middle.value, middle.low, middle.high)


def test_order_of_seeds_does_not_matter_and_constants_have_no_width():
    x = draw(6, 9)
    assert torch.equal(stats.iqm(x).low, stats.iqm(x.flip(-1)).low)
    flat = stats.iqm(torch.full((9,), 2.5))
    assert flat.low == flat.value == flat.high == 2.5


def test_probability_of_improvement_is_rliables():
    x, y = draw(3, 8, seed=1).round(decimals=0), draw(3, 6, seed=2).round(decimals=0)  # with ties
    got = stats.probability_of_improvement(x, y)
    assert got.value.item() == pytest.approx(metrics.probability_of_improvement(x.T.numpy(), y.T.numpy()))
    assert got.low < got.value < got.high and got.n == 6
    assert stats.probability_of_improvement(x + 100, y).low == 1 and stats.probability_of_improvement(x, x).value == 0.5


def test_probability_of_improvement_resamples_both():
    x, y, rng = draw(12, seed=1).numpy(), 1.3 * draw(9, seed=2).numpy(), np.random.default_rng(0)
    pairs = ((rng.choice(x, 12), rng.choice(y, 9)) for _ in range(6000))
    resampled = [(a[:, None] > b).mean() + 0.5 * (a[:, None] == b).mean() for a, b in pairs]
    got = stats.probability_of_improvement(torch.from_numpy(x), torch.from_numpy(y))
    np.testing.assert_allclose([got.low, got.high], np.percentile(resampled, (2.5, 97.5)), atol=0.02)


def test_pairing_removes_what_seeds_share():
    luck = 10 * draw(20)
    x, y = luck + 1 + 0.1 * draw(20, seed=1), luck + 0.1 * draw(20, seed=2)
    paired = stats.paired_difference(x, y)
    assert paired.low > 0.8 and paired.value.item() == pytest.approx((x - y).mean().item())
    assert (paired.high - paired.low) < 0.05 * (stats.mean(x).high - stats.mean(x).low)


def test_area_under_curve():
    steps = torch.tensor([0.0, 1.0, 3.0, 4.0])
    y = torch.tensor([[0.0, 1.0], [2.0, 1.0], [4.0, 1.0], [0.0, 1.0]])
    assert stats.area_under_curve(steps, y).tolist() == [9.0, 4.0]


def test_runs_split_by_setting():
    lanes = Lanes(seeds=(4, 7, 9), grid={"clip": (0.1, 0.2)})
    runs = torch.arange(12.0).view(2, 6)
    split = stats.by_setting(runs, lanes)
    assert split.tolist() == [[[0, 1, 2], [3, 4, 5]], [[6, 7, 8], [9, 10, 11]]]
    assert stats.mean(split).value.tolist() == [[1, 4], [7, 10]]
    runs[1, 4] = torch.nan
    with pytest.raises(LabError, match=r"lane 4 \(clip=0.2, seed 7\)"):
        stats.by_setting(runs, lanes)
    with pytest.raises(LabError, match="has 5"):
        stats.by_setting(runs[:, :5], lanes)


def test_a_curve_takes_less_than_half_a_second():
    x = draw(100, 10)
    start = time.process_time()
    stats.iqm(x)
    assert time.process_time() - start < 0.5


@pytest.mark.parametrize(
    ("bad", "says"),
    [
        (lambda: stats.mean(torch.tensor([[1.0, 2.0], [3.0, torch.nan]])), r"Seed number 1 is nan \(place \(1,\)\)"),
        (lambda: stats.iqm(torch.tensor([1.0, torch.inf])), "Seed number 1 is inf"),
        (lambda: stats.iqm(torch.tensor(1.0)), "last axis"),
        (lambda: stats.iqm(torch.ones(3, 0)), "last axis"),
        (lambda: stats.iqm(torch.ones(3), stratified=True), "tasks, seeds"),
        (lambda: stats.paired_difference(torch.ones(3), torch.ones(4)), "same seeds"),
        (lambda: stats.probability_of_improvement(torch.ones(2, 3), torch.ones(3, 3)), "2 tasks and y 3"),
        (lambda: stats.area_under_curve(torch.tensor([0.0, 0.0]), torch.ones(2)), "increasing"),
    ],
)
def test_bad_input_is_named(bad, says):
    with pytest.raises(LabError, match=says):
        bad()
