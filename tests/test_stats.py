"""Intervals against SciPy, rliable's metrics, published formulas and plain loops; what they cover is in test_coverage.py."""
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


def level(n, df):
    """Hesterberg's: the two-sided level at which a percentile interval is Student's for the mean of normal data."""
    return 1 - 2 * scipy.stats.norm.cdf(scipy.stats.t.ppf(0.025, df) * (n / (n - 1)) ** 0.5)


@pytest.mark.parametrize("n", [5, 10, 20])
def test_iqms_interval_is_scipys_percentile_bootstrap_at_hesterbergs_level(n):
    x, many = draw(n, seed=n), {"n_resamples": 40_000, "confidence_level": level(n, n - 1), "method": "percentile"}
    want = scipy.stats.bootstrap((x.numpy(),), trim_mean, rng=np.random.default_rng(1), **many)
    got, tolerance = stats.iqm(x), 0.2 * want.standard_error  # further out than 2.5% a bootstrap is less exact
    assert abs(got.low.item() - want.confidence_interval.low) < tolerance
    assert abs(got.high.item() - want.confidence_interval.high) < tolerance


def test_levels_are_hesterbergs_table():
    tails = {5: 0.0010, 10: 0.0086, 15: 0.0132, 20: 0.0159, 40: 0.0203}  # arXiv 1411.5279
    assert {n: round(float(stats._levels(1, n)[0]), 4) for n in tails} == tails
    assert stats._levels(1, 20)[0] < stats._levels(4, 20)[0] < 0.025  # more tasks, more degrees of freedom


def test_means_interval_is_the_wider_of_two_plain_bootstraps():
    x, rng = draw(12, seed=3).numpy(), np.random.default_rng(1)
    again = x[rng.integers(12, size=(20_000, 12))]
    scores = (again.mean(1) - x.mean()) / again.std(1)
    student = x.mean() - np.quantile(scores, (0.975, 0.025)) * x.std()
    expanded = np.quantile(again.mean(1), ((1 - level(12, 11)) / 2, (1 + level(12, 11)) / 2))
    assert student[0] > expanded[0] and student[1] > expanded[1]  # a long right tail says that the mean may lie far up
    got = stats.mean(torch.from_numpy(x))
    np.testing.assert_allclose([got.low, got.high], [expanded[0], student[1]], atol=0.05 * x.std())
    mirrored = stats.mean(torch.from_numpy(-x))
    np.testing.assert_allclose([mirrored.low, mirrored.high], [-got.high, -got.low], atol=0.05 * x.std())


def test_means_interval_is_students_where_data_are_normal():
    x = torch.from_numpy(scipy.stats.norm.ppf((np.arange(40) + 0.5) / 40))
    want = scipy.stats.ttest_1samp(x, 0.0).confidence_interval()
    got = stats.mean(x)
    np.testing.assert_allclose([got.low, got.high], [want.low, want.high], rtol=0.06)


def test_a_few_odd_seeds_do_not_make_the_mean_boundless():
    got = stats.mean(torch.tensor([1.0] * 9 + [0.0]))  # a third of all resamples have no spread
    assert -0.2 < got.low < 0.6 and 1 < got.high < 1.1


def test_a_resample_is_trimmed_as_scipy_trims_it():
    rng, x = np.random.default_rng(3), np.sort(draw(11).numpy())
    for _ in range(50):
        index = rng.integers(11, size=11)
        weights = stats._kept(np.bincount(index, minlength=11).astype(float))
        assert weights @ x == pytest.approx(trim_mean(x[index], 0), rel=1e-12)


def tasks():
    return draw(4, 6) * torch.tensor([1.0, 5.0, 2.0, 0.3])[:, None] + torch.arange(4)[:, None]


@pytest.mark.parametrize(("ours", "theirs"), [(stats.mean, metrics.aggregate_mean), (stats.iqm, metrics.aggregate_iqm)])
def test_stratified_values_are_rliables(ours, theirs):
    assert ours(tasks(), stratified=True).value.item() == pytest.approx(theirs(tasks().T.numpy()))


def test_stratified_iqm_resamples_as_rliable_does():
    x, rng, places = tasks().T.numpy(), np.random.default_rng(2), np.arange(4)
    resampled = [metrics.aggregate_iqm(x[rng.integers(6, size=(6, 4)), places]) for _ in range(6000)]  # rliable's StratifiedBootstrap
    low, high = np.quantile(resampled, ((1 - level(6, 20)) / 2, (1 + level(6, 20)) / 2))
    got = stats.iqm(tasks(), stratified=True)
    assert abs(got.low.item() - low) < 0.2 * np.std(resampled) and abs(got.high.item() - high) < 0.2 * np.std(resampled)


def test_stratified_mean_resamples_within_tasks():
    x, rng, places = tasks().numpy(), np.random.default_rng(2), np.arange(4)[:, None]
    again = x[places, rng.integers(6, size=(6000, 4, 6))]
    shift = again.mean((1, 2)) - x.mean()
    student = -np.quantile(shift / np.sqrt(again.var(2).sum(1)), (0.975, 0.025)) * np.sqrt(x.var(1).sum())
    expanded = np.quantile(shift, ((1 - level(6, 20)) / 2, (1 + level(6, 20)) / 2))
    low, high = x.mean() + min(student[0], expanded[0]), x.mean() + max(student[1], expanded[1])
    got = stats.mean(tasks(), stratified=True)
    np.testing.assert_allclose([got.low, got.high], [low, high], atol=0.1 * (high - low))


@pytest.mark.parametrize("statistic", [stats.iqm, stats.mean])
def test_stratified_places_are_independent_of_each_other(statistic):
    x = draw(3, 4, 6)
    together = statistic(x, stratified=True)
    for k in range(3):
        alone = statistic(x[k], stratified=True)
        torch.testing.assert_close(torch.stack([alone.low, alone.high]), torch.stack([together.low[k], together.high[k]]))


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
    for statistic in (stats.iqm, stats.mean):
        flat = statistic(torch.full((9,), 2.5))
        assert flat.low == flat.value == flat.high == 2.5


@pytest.mark.parametrize("statistic", [stats.iqm, stats.mean])
def test_one_seed_excludes_nothing(statistic):
    got = statistic(draw(3, 1))
    assert torch.equal(got.value, draw(3, 1)[:, 0]) and got.low.tolist() == [-torch.inf] * 3 and got.high.tolist() == [torch.inf] * 3


def test_probability_of_improvement_is_rliables():
    x, y = draw(3, 8, seed=1).round(decimals=0), draw(3, 6, seed=2).round(decimals=0)  # with ties
    got = stats.probability_of_improvement(x, y)
    assert got.value.item() == pytest.approx(metrics.probability_of_improvement(x.T.numpy(), y.T.numpy()))
    assert got.low < got.value < got.high and got.n == 6
    assert stats.probability_of_improvement(x, x).value == 0.5


def test_probability_of_improvement_is_newcombes():
    """Each limit lies 1.96 of its own standard errors away, with Hanley and McNeil's Q1 and Q2."""
    x, y = draw(12, seed=1), 1.3 * draw(9, seed=2)
    got = stats.probability_of_improvement(x, y)
    for p in (got.low.item(), got.high.item()):
        q1, q2, runs = p / (2 - p), 2 * p * p / (1 + p), (12 + 9) / 2
        variance = (p * (1 - p) + (runs - 1) * (q1 - p * p) + (runs - 1) * (q2 - p * p)) / (12 * 9)
        assert abs(got.value.item() - p) == pytest.approx(1.959964 * variance**0.5, rel=1e-6)


def test_winning_every_time_is_not_certainty():
    assert 0.75 < stats.probability_of_improvement(draw(10) + 100, draw(10, seed=1)).low < 0.85
    assert stats.probability_of_improvement(draw(10), draw(10, seed=1) + 100).low == 0


def test_tasks_add_their_distances_in_quadrature():
    x, y = draw(2, 8, seed=1), draw(2, 8, seed=2)
    one, two = (stats.probability_of_improvement(x[k], y[k]) for k in range(2))
    both = stats.probability_of_improvement(x, y)
    want = torch.hypot(one.value - one.low, two.value - two.low) / 2
    torch.testing.assert_close(both.value - both.low, want)
    assert both.value == (one.value + two.value) / 2


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


def test_runs_of_any_number_of_axes_split_by_setting():
    lanes, plain = Lanes(seeds=(4, 7, 9), grid={"clip": (0.1, 0.2)}), torch.arange(6.0)
    assert stats.by_setting(plain, lanes).tolist() == [[0, 1, 2], [3, 4, 5]]
    assert torch.equal(stats.by_setting(plain.expand(5, 4, 6), lanes), plain.view(2, 3).expand(5, 4, 2, 3))
    for runs in (plain.clone(), plain.repeat(5, 4, 1)):
        runs[..., 5] = torch.inf
        with pytest.raises(LabError, match=r"lane 5 \(clip=0.2, seed 9\)"):
            stats.by_setting(runs, lanes)


@pytest.mark.parametrize("steps", [[0.0, 2.0, 1.0, 3.0], [0.0, 1.0, 2.0], [[0.0], [1.0], [2.0], [3.0]]])
def test_steps_that_do_not_fit_a_curve_are_named(steps):
    with pytest.raises(LabError, match="area_under_curve takes"):
        stats.area_under_curve(torch.tensor(steps), torch.ones(4))


def test_values_may_carry_a_gradient():
    x = draw(8)
    assert stats.mean(x.clone().requires_grad_()).low == stats.mean(x).low


def test_resamples_are_weighted_within_each_task():
    """Interquartile means of resamples, from the drawn counts by plain repetition."""
    x, counts = draw(2, 3, 5), stats._counts(0, 3, 5)
    got = stats._resampled_iqm(x.numpy(), 0)
    for i in range(20):
        for place in range(2):
            again = np.concatenate([np.repeat(x[place, task].numpy(), counts[i, task].astype(int)) for task in range(3)])
            assert got[i, place] == pytest.approx(trim_mean(again, 0))


def test_drawn_counts_cannot_be_written_to():
    with pytest.raises(ValueError, match="read-only"):
        stats._counts(0, 1, 5)[0, 0, 0] = 9
