"""The equations of chapter 07's first four sections beside the code, on numbers that the chapter does not use."""
import itertools
import math
from dataclasses import replace

import pytest
import torch

from labkit import worlds
from labkit.lanes import Lanes
from labkit.tabular.changepoint import NOBODY, fresh, observe
from labkit.tabular.family import Shape
from labkit.tabular.q_learning import q_learning
from labkit.tabular.ucrl2 import believed, best_mean, optimistic_values, ucrl2
from labkit.worlds.finite import gain, lookahead, optimal_gain


def test_the_update_of_q_learning():
    """Q + alpha n^-omega (r + gamma max Q' - Q), visit by visit, along a run that is retraced from its snapshots."""
    world = worlds.make("finite.garnet", states=3, actions=2, branching=2, gamma=0.8)
    lanes = Lanes((3,), {"alpha": (0.7,), "omega": (0.6,), "eps": (0.5,)})
    run = [s.learner.memory for s in itertools.islice(replace(q_learning, shape=Shape(stride=1)).run(world, lanes), 60)]
    q, n = torch.zeros(3, 2).double(), torch.zeros(3, 2)
    for before, after in itertools.pairwise([{"n": torch.zeros(1, 3, 2)}, *run]):
        s, a = (after["n"] - before["n"])[0].nonzero()[0].tolist()
        n[s, a] += 1
        target = world.mdp.r[0, s, a] + 0.8 * q[after["s"].item()].max()
        q[s, a] += 0.7 * n[s, a].item() ** -0.6 * (target - q[s, a])
        torch.testing.assert_close(after["q"][0], q, rtol=0, atol=1e-6)


def test_the_weight_of_a_target_k_visits_old():
    """alpha (1 - alpha)^k, told by the answer to one reward among zeros."""
    alpha, q = 0.3, 1.0
    for _ in range(7):
        q += alpha * (0.0 - q)
    assert alpha * q == pytest.approx(alpha * (1 - alpha) ** 7)
    assert sum(alpha * (1 - alpha) ** k * k for k in range(500)) == pytest.approx((1 - alpha) / alpha)  # the mean age


def test_the_gain_is_the_limit_of_mean_rewards():
    """P* r against the mean of P^t r over many t."""
    mdp = worlds.make("finite.garnet", states=6, actions=2, branching=3, seed=range(4)).mdp
    pi = Lanes(range(4)).rand(2, 6, 2).double().softmax(-1)
    P, paid = (pi[..., None] * mdp.P).sum(2), (pi * mdp.r).sum(-1, keepdim=True)
    total = torch.zeros_like(paid)
    for _ in range(4000):
        total, paid = total + paid, P @ paid
    torch.testing.assert_close(gain(mdp, pi), total[..., 0] / 4000, rtol=0, atol=5e-3)


def test_the_widths_of_doubt():
    """c sqrt(14 S log(2 A t / delta) / n) and c sqrt(3.5 log(2 S A t / delta) / n), pair by pair."""
    world, lanes = worlds.make("finite.riverswim"), Lanes((1,), {"c": (0.3,), "delta": (0.1,)})
    learner = next(itertools.islice(ucrl2.run(world, lanes), 1, None)).learner
    k, rows = lanes.knobs(ucrl2.knobs), torch.tensor([0])
    known = type("Known", (), {"mdp": world.mdp})
    paid, chances, off = believed(known, learner, k, rows)
    t, n = learner.step + 1, learner.memory["n"][0]
    for s, a in itertools.product(range(6), range(2)):
        seen = max(1.0, n[s, a].item())
        assert off[0, s, a].item() == pytest.approx(0.3 * math.sqrt(14 * 6 * math.log(2 * 2 * t / 0.1) / seen), rel=1e-6)
        wide = 0.3 * math.sqrt(3.5 * math.log(2 * 6 * 2 * t / 0.1) / seen)
        mean = world.mdp.r[0, s, a].item() if n[s, a] else 0.0
        assert paid[0, s, a].item() == pytest.approx(mean + wide, rel=1e-6)
        share = learner.memory["led"][0, s, a] / seen if n[s, a] else torch.full((6,), 1 / 6).double()
        torch.testing.assert_close(chances[0, s, a], share)


def test_a_sweep_of_extended_value_iteration():
    """After one sweep from 0 q is r+; in the end u gains alike in all states: that is the equation of the gain."""
    mdp = worlds.make("finite.garnet", states=4, actions=2, branching=3, seed=range(3)).mdp
    off = torch.full_like(mdp.r, 0.2)
    assert torch.equal(optimistic_values(mdp.r, mdp.P, off, 0.01), mdp.r)  # a clock at which any span will do
    q = optimistic_values(mdp.r, mdp.P, off, 10**12)
    u = q.amax(-1)
    gained = (mdp.r + best_mean(mdp.P, off, u)).amax(-1) - u
    torch.testing.assert_close(gained, gained[:, :1].expand_as(gained), rtol=0, atol=1e-4)
    g, h, _ = optimal_gain(mdp)
    assert (gained.amin(-1) >= g.amax(-1) - 1e-4).all()
    none = torch.zeros_like(off)
    torch.testing.assert_close(mdp.r + best_mean(mdp.P, none, h), lookahead(replace(mdp, gamma=1.0), h), rtol=0, atol=1e-12)


def test_the_weights_of_forecasters_and_the_moment_of_a_restart():
    """v_s = h ev(before) ev(since), with ev by gamma functions; a restart as soon as one exceeds ev(all)."""

    def ev(x):
        counts = torch.bincount(torch.tensor(x, dtype=torch.int64), minlength=4).double()
        return math.lgamma(4) - math.lgamma(len(x) + 4) + torch.lgamma(counts + 1).sum().item()

    x, h = [0, 1, 0, 2, 0, 0, 1, 0, 0, 0, 3, 3, 3, 3, 3, 3, 3, 3, 3, 3], 0.02
    watch, only = fresh((1,), 4, 64), torch.zeros(1, dtype=torch.int64)
    for t in range(len(x)):
        caught = observe(watch, torch.tensor([x[t]]), torch.tensor([h], dtype=torch.float64), only).item()
        best = max(math.log(h) + ev(x[:s]) + ev(x[s : t + 1]) for s in range(t + 1))
        assert caught == (best > ev(x[: t + 1]))
        if caught:
            break
        alive = watch["log_v"][0][watch["log_v"][0] > NOBODY / 2]
        assert alive[1:].max().item() == pytest.approx(best, abs=1e-9)
    assert 11 < t < 19
