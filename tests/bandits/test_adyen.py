"""Exploration by the gap: its ends, its logs without feedback, and the instruments of its check."""
from dataclasses import replace
from itertools import islice

import pytest
import torch

from labkit.bandits.adyen import adyen, by_chance, check, echo, off_best
from labkit.bandits.eps_oracle import chances, eps_oracle, read
from labkit.bandits.family import Shape
from labkit.lanes import Lanes
from labkit.worlds.payments import payments

WORLD = payments(seed=4)
SMALL = replace(adyen, shape=Shape(plays=200, rounds=1))


def last(algo, lanes, generations=4):
    return list(islice(algo.run(WORLD, lanes), generations))[-1]


def test_gamma_0_is_the_uniform_policy():
    learner = last(SMALL, Lanes((0, 1), {"gamma": (0.0,)})).learner
    assert learner.memory["belief"].any()
    torch.testing.assert_close(chances(learner, WORLD), torch.full((2, 256, 6), 1 / 6, dtype=torch.float64))


def test_a_large_gamma_is_greedy():
    sharp = replace(SMALL, knobs=adyen.knobs | {"gamma": replace(adyen.knobs["gamma"], high=1e9)})
    learner = last(sharp, Lanes((0, 1), {"gamma": (1e9,)})).learner
    assert chances(learner, WORLD).amax(-1).quantile(0.02) > 0.999  # but for contexts in which two arms look alike


def test_the_policy_weighs_the_models_gaps():
    """1 / (A + gamma gap) for every arm but the best, from the model's own chances of success, context by context."""
    learner = last(SMALL, Lanes((0,), {"gamma": (50.0,)})).learner
    x = torch.cat([WORLD.contexts[0, :, :8], torch.ones(256, 1)], 1).double()
    f = torch.sigmoid(x @ learner.memory["belief"][0].mT)
    p = chances(learner, WORLD)[0]
    for c in range(256):
        best = int(f[c].argmax())
        by_hand = [1 / (6 + 50 * (f[c, best] - f[c, a]).item()) for a in range(6)]
        by_hand[best] = 1 - sum(v for a, v in enumerate(by_hand) if a != best)
        torch.testing.assert_close(p[c], torch.tensor(by_hand, dtype=torch.float64), rtol=1e-4, atol=1e-6)
    assert bool((p > 0).all())


def test_logs_come_late_by_default():
    """The first log teaches the second generation after it, so two generations are uniform."""
    run = SMALL.run(WORLD, Lanes((0,)))
    spread = [chances(s.learner, WORLD).amax(-1).mean().item() for s in islice(run, 2)]
    assert spread[0] == pytest.approx(1 / 6) and spread[1] > 0.5


def test_without_feedback_the_log_is_uniform_and_the_policy_is_not():
    run = replace(adyen, choose=by_chance, shape=Shape(plays=6000, rounds=1)).run(WORLD, Lanes((0,)))
    learner = list(islice(run, 3))[-1].learner
    share = learner.memory["tried"][0, 0].sum(0) / 6000
    assert bool(((share - 1 / 6).abs() < 4 * (5 / 36 / 6000) ** 0.5).all())
    assert chances(learner, WORLD).amax(-1).mean() > 0.5


def test_without_feedback_the_policy_does_not_touch_the_log():
    logs = [last(replace(SMALL, choose=by_chance), Lanes((0,), {"gamma": (g,)})).learner.memory["tried"] for g in (1.0, 900.0)]
    assert torch.equal(*logs)
    assert not torch.equal(*(last(SMALL, Lanes((0,), {"gamma": (g,)})).learner.memory["tried"] for g in (1.0, 900.0)))


def test_echo_by_hand():
    levels = torch.tensor([[1.0, 0.0], [-1.0, 1.0], [1.0, 2.0], [-1.0, 3.0]])
    torch.testing.assert_close(echo(levels), torch.tensor([-0.75, (0.75 - 0.25 + 0.75) / 5]))


def test_traffic_off_the_best_arm_by_hand():
    p = torch.full((1, 256, 6), 0.1, dtype=torch.float64)
    p[..., 2] = 0.5
    torch.testing.assert_close(off_best(WORLD, p), torch.tensor([0.5], dtype=torch.float64))
    p[:, 0] = torch.tensor([0.0, 0, 0, 0, 0, 1])
    torch.testing.assert_close(off_best(WORLD, p), 0.5 * (1 - WORLD.chance[:, 0]))


def test_gaps_explore_where_little_is_lost():
    """At the same traffic off the best arm, by gaps loses less of what the best arm earns: of one and the same model."""
    greedy = last(replace(eps_oracle, shape=Shape(plays=2000, rounds=1)), Lanes((0,), {"eps": (0.0,)})).learner
    gaps = greedy.copy()
    gaps.head = "inverse_gap"
    theta = gaps.nets["pi"].theta.detach().clone()
    theta[:, -1] = 200.0
    gaps.nets["pi"].move(theta, gaps.on)
    p, sure = chances(gaps, WORLD), chances(greedy, WORLD)
    mass = off_best(WORLD, p)[:, None, None] * 6 / 5
    evenly = (1 - mass) * sure + mass / 6
    torch.testing.assert_close(off_best(WORLD, evenly), off_best(WORLD, p))
    assert (WORLD.value(p) - WORLD.value(evenly)).item() > 0.003


def test_the_claim_is_judged_in_three_parts():
    verdict = check(seeds=range(2), generations=13)
    assert [part.side for part in verdict.parts] == ["above", "above", "below"]


def test_read_gives_generations_settings_seeds():
    assert read(SMALL, WORLD, Lanes((0, 1), {"W": (1, 2, 3)}), 2, WORLD.value).shape == (2, 3, 2)
