"""The change detector against evidences in closed form, and its errors and delays measured on streams of known laws."""
import math

import pytest
import torch

from labkit.lanes import Lanes
from labkit.tabular.changepoint import NOBODY, belief, fresh, observe, predictions

H = 0.001


def streams(chances, steps, tick=0):
    """Outcomes (T, n) of n independent streams with laws chances (n, O)."""
    u = Lanes((11,)).rand(tick, steps, len(chances), 1)[0].double()
    return (u >= chances.cumsum(-1)[:, :-1]).sum(-1)


def log_evidence(x, outcomes):
    """Of outcomes x (n,) under a Dirichlet(1) prior: Gamma(O) prod n_x! / Gamma(n + O)."""
    counts = torch.bincount(x, minlength=outcomes).double()
    return math.lgamma(outcomes) - math.lgamma(len(x) + outcomes) + torch.lgamma(counts + 1).sum().item()


def watched(x, outcomes, h=H, runs=64):
    """A detector of one stream that has seen x (n,), and where it restarted."""
    watch = fresh((1,), outcomes, runs)
    only, chance = torch.zeros(1, dtype=torch.int64), torch.full((1,), h, dtype=torch.float64)
    return watch, [t for t, one in enumerate(x) if observe(watch, one[None], chance, only).item()]


def test_the_weights_are_evidences():
    """Of no change, and of a change before each outcome; the posterior is that of Bayes' rule over all of them."""
    x = streams(torch.tensor([[0.2, 0.5, 0.3]]), 40)[:, 0]
    watch, restarts = watched(x, 3)
    assert not restarts
    truth = {40: log_evidence(x, 3)}
    truth |= {40 - s: math.log(H) + log_evidence(x[:s], 3) + log_evidence(x[s:], 3) for s in range(40)}
    truth[40], newest = log_evidence(x, 3), math.log(H) + log_evidence(x, 3)  # two forecasters have seen all: r, and one born with it
    chance, length = (part[0] for part in belief(watch))
    alive = watch["log_v"][0] > NOBODY / 2
    assert alive.sum() == 41 and length[0] == 40
    for weight, n in zip(watch["log_v"][0, 1:][alive[1:]].tolist(), length[1:][alive[1:]].tolist(), strict=True):
        assert weight == pytest.approx(newest if n == 40 else truth[int(n)], abs=1e-9)
    assert watch["log_v"][0, 0].item() == pytest.approx(truth[40], abs=1e-9)
    total = math.log(sum(math.exp(w) for w in [*truth.values(), newest]))
    assert chance[0].item() == pytest.approx(math.exp(truth[40] - total), rel=1e-9) and chance.sum().item() == pytest.approx(1)


def test_it_restarts_at_the_first_outcome_at_which_some_change_is_likelier_than_none():
    laws = torch.tensor([[0.8, 0.1, 0.1], [0.1, 0.1, 0.8]])
    x = torch.cat([streams(laws[:1], 60)[:, 0], streams(laws[1:], 60, tick=1)[:, 0]])
    first = next(
        t for t in range(1, 120)
        if max(math.log(H) + log_evidence(x[:s], 3) + log_evidence(x[s : t + 1], 3) for s in range(1, t + 1)) > log_evidence(x[: t + 1], 3)
    )  # fmt: skip
    watch, restarts = watched(x[: first + 1], 3, runs=128)
    assert restarts == [first] and 60 < first < 80
    assert watch["log_v"][0].tolist() == fresh((1,), 3, 128)["log_v"][0].tolist() and not watch["seen"].any()


def test_predictions_sum_to_one():
    seen = Lanes((0,)).rand(1, 50, 6)[0].mul(20).floor().double()
    torch.testing.assert_close(predictions(seen).sum(-1), torch.ones(50).double())
    assert predictions(torch.zeros(4)).tolist() == [0.25] * 4


def test_without_hazard_nothing_is_ever_noticed():
    x = torch.cat([torch.zeros(200), torch.ones(200)]).long()
    assert watched(x, 2, h=0.0)[1] == [] and len(watched(x, 2)[1]) == 1


def test_few_places_notice_what_many_do():
    """32 forecasters, of 400 that could be: the same restarts but for a step or two."""
    laws = torch.tensor([[0.3, 0.4, 0.3], [0.3, 0.1, 0.6]])
    x = torch.cat([streams(laws[:1], 200)[:, 0], streams(laws[1:], 200, tick=1)[:, 0]])
    few, many = (watched(x, 3, runs=runs)[1] for runs in (32, 400))
    assert len(few) == len(many) == 1 and abs(few[0] - many[0]) <= 2


def test_detectors_of_other_streams_are_left_alone():
    watch = fresh((2, 3), 2, 8)
    before = {name: x.clone() for name, x in watch.items()}
    observe(watch, torch.tensor([1, 0]), torch.full((2,), H).double(), torch.tensor([1, 5]))
    moved = (watch["seen"] != before["seen"]).flatten(2).any(-1)
    assert moved.tolist() == [[False, True, False], [False, False, True]]


LAWS = torch.tensor([[0.05, 0.6, 0.35], [0.25, 0.5, 0.25], [0.9, 0.05, 0.05]])


@pytest.fixture(scope="module")
def alarms():
    """100 streams of each law, watched with h and h / 10: which of them gave a false alarm in 600 outcomes, (2, 3, 100), and after
    how many outcomes of the next law the change was noticed, 200 where it was not."""
    laws = LAWS.repeat_interleave(100, 0).repeat(2, 1)
    h = torch.tensor([H, H / 10]).double().repeat_interleave(300)
    watch, every = fresh((600,), 3), torch.arange(600)
    false = torch.stack([observe(watch, x, h, every) for x in streams(laws, 600)]).any(0)
    caught = torch.stack([observe(watch, x, h, every) for x in streams(laws.roll(-100, 0), 200, tick=1)])
    delay = torch.where(caught.any(0), caught.byte().argmax(0) + 1, 200)
    return false.view(2, 3, 100), delay.view(2, 3, 100).double()


def test_false_alarms_grow_rarer_with_the_belief_in_changes(alarms):
    """Each newcomer's weight exceeds the oldest one's, ever, with chance h at most (Ville), so an alarm in n outcomes comes with chance
    n h at most, 0.06 for the smaller h; in fact far less often, as newcomers see nearly the same."""
    rate = alarms[0].double().mean(-1)
    assert (rate[0] > 0.03).all() and (rate[0] < 0.25).all()
    assert (rate[1] < 0.05).all() and rate[1].sum() < 0.3 * rate[0].sum()


def test_changes_are_noticed_and_large_ones_sooner(alarms):
    """The mean delay is near log(1 / h) / KL and a little for learning the new law, and falls as KL grows."""
    new = LAWS.roll(-1, 0)
    kl, delay = (new * (new / LAWS).log()).sum(-1), alarms[1]
    price = torch.tensor([H, H / 10]).log().neg()[:, None]
    mean = delay.mean(-1)
    assert (delay < 200).double().mean() > 0.98
    assert (mean > 0.7 * price / kl).all() and (mean < (price + 8) / kl).all() and (mean[1] > mean[0]).all()
    assert mean[0].argsort().tolist() == kl.argsort(descending=True).tolist()
