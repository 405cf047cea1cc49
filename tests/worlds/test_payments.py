"""Payments: exact values against enumeration and against plays."""
import numpy as np
import pytest
import torch

from labkit import worlds
from labkit.errors import LabError
from labkit.lanes import Lanes
from labkit.worlds.contextual import every
from labkit.worlds.payments import Payments, payments

LANES = Lanes(range(4))


def test_success_lies_in_its_range_and_uses_it():
    mean = payments(seed=range(20)).mean
    assert bool((mean > 0.7).all()) and bool((mean < 0.97).all())
    assert mean.min() < 0.71 and mean.max() > 0.96 and abs(mean.mean() - 0.835) < 0.02


def test_features_come_independently():
    """The chance of a kind of payment is the product of its features' chances."""
    world = payments(seed=3)
    x, chance = world.contexts[0, :, :8].double(), world.chance[0]
    often = chance @ x
    torch.testing.assert_close(chance, torch.where(x == 1, often, 1 - often).prod(-1))
    assert chance.sum().item() == pytest.approx(1) and len(chance) == 256


def test_every_context_once():
    x = every(4)
    assert x.shape == (16, 4) and sorted((x * [1, 2, 4, 8]).sum(1).tolist()) == list(range(16)) and x[5].tolist() == [1, 0, 1, 0]


def test_the_value_of_a_policy_is_the_sum_over_contexts_and_routes():
    world = payments(seed=(1, 2), closed=0.3)
    probs = (3 * LANES.rand(0, 256, 6)[:2].double()).softmax(-1)
    by_hand = [sum(world.chance[k, c] * probs[k, c] @ world.mean[k, c] for c in range(256)) for k in range(2)]
    torch.testing.assert_close(world.value(probs), torch.stack(by_hand))
    best = torch.nn.functional.one_hot(world.mean.argmax(-1), 6).double()
    torch.testing.assert_close(world.best_value(), world.value(best))
    assert bool((world.value(probs) < world.best_value()).all())


@pytest.mark.parametrize("closed", [0.0, 0.4])
def test_plays_pay_what_they_should(closed):
    """Contexts as often as told, and payments at the rate told: 40,000 plays of random routes within 4 standard errors."""
    world, n = payments(seed=range(4), closed=closed), 40_000
    state = world.reset(LANES.rand(1, n, 1))
    action = (LANES.rand(2, n) * 6).long()
    after, reward, *_ = world.step(state, action, LANES.rand(3, n, 2))
    value = world.value(torch.full((4, 256, 6), 1 / 6, dtype=torch.float64))
    assert bool(((reward.double().mean(1) - value).abs() < 4 * (value * (1 - value) / n).sqrt()).all())
    assert set(reward.unique().tolist()) == {0.0, 1.0}
    for c in (state["c"], after["c"]):
        share = torch.stack([torch.bincount(row, minlength=256) for row in c]) / n
        assert bool(((share - world.chance).abs() < 5 * (world.chance / n).sqrt()).all())


def test_a_shut_route_is_told_and_pays_nothing():
    world = payments(closed=0.5, seed=range(4))
    shut = world.contexts[..., 8:] == 1
    assert not shut.all(-1).any() and abs(shut.double().mean() - 0.5 * 5 / 6) < 0.03 and bool((world.mean[shut] == 0).all())
    state = world.reset(LANES.rand(1, 3000, 1))
    obs, action = world.observe(state), (LANES.rand(2, 3000) * 6).long()
    reward = world.step(state, action, LANES.rand(3, 3000, 2))[1]
    lost = obs[..., 8:].gather(-1, action[..., None])[..., 0] == 1
    assert lost.any() and not reward[lost].any() and reward[~lost].mean() > 0.7
    torch.testing.assert_close(world.best(state), world.expected(state).amax(-1))


def test_each_lane_may_have_a_world_of_its_own():
    both, one = payments(seed=(5, 6)), payments(seed=6)
    assert torch.equal(both.mean[1], one.mean[0]) and not torch.equal(both.mean[0], both.mean[1])
    with pytest.raises(LabError, match="2 worlds, one per lane; run that many lanes, not 4"):
        both.reset(LANES.rand(0, 3, 1))


@pytest.mark.parametrize("options,part", [({"low": 0.9, "high": 0.8}, "low=0.9"), ({"high": 1.2}, "high=1.2"), ({"closed": -0.1}, "-0.1"),
                                          ({"closed": 1.5}, "closed is 1.5")])  # fmt: skip
def test_what_is_no_chance_gets_one_sentence(options, part):
    with pytest.raises(LabError, match=part) as error:
        worlds.make("bandit.payments", **options)
    assert str(error.value).endswith(".") and str(error.value).count(". ") == 0


def test_a_pool_must_be_one():
    x, chance, mean, shut = every(1)[None], np.full((1, 2), 0.5), np.full((1, 2, 3), 0.8), np.zeros((1, 2, 3), bool)
    with pytest.raises(LabError, match="sum to 1"):
        Payments("bandit.made_up", x, 1.1 * chance, mean, shut)
    with pytest.raises(LabError, match="shut in some context"):
        Payments("bandit.made_up", x, chance, mean, ~shut)
