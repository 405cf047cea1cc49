"""value_iteration: contraction, the identities of exact planning, and what its check accepts and rejects."""
import itertools
from dataclasses import replace

import pytest
import torch

from labkit import worlds
from labkit.lanes import Lanes
from labkit.tabular.family import best_action, policy_iteration
from labkit.tabular.value_iteration import check, value_iteration
from labkit.worlds.finite import expected_return, occupancy, optimal, values


def run(method, world, steps, **grid):
    return list(itertools.islice(method.run(world, Lanes(tuple(range(world.mdp.lanes)), grid)), steps))


def garnets(n=20, gamma=0.9):
    return worlds.make("finite.garnet", seed=range(n), gamma=gamma)


def error(q, best):
    return (q - best).abs().amax((1, 2))


@pytest.mark.parametrize("gamma", [0.0, 0.5, 0.9, 0.99])
def test_each_sweep_shrinks_the_largest_error_by_gamma(gamma):
    world = garnets(gamma=gamma)
    best = optimal(world.mdp)[0]
    sweeps = [torch.zeros_like(best), *(s.learner.memory["q"] for s in run(value_iteration, world, 60))]
    errors = torch.stack([error(q, best) for q in sweeps])
    assert (errors[1:] <= (gamma + 1e-9) * errors[:-1] + 1e-12).all()
    assert (errors[10] >= 0.01 * gamma**10 * errors[0]).all()  # and not by far more: it is one sweep a step


def test_sweeps_are_returns_of_the_best_clock_watching_policy():
    """After h sweeps max Q is the best return of an episode of h steps."""
    world = worlds.make("finite.frozenlake", gamma=0.9)
    snapshots = run(value_iteration, world, 9)
    for h in (1, 4, 9):
        torch.testing.assert_close(snapshots[h - 1].learner.memory["q"], optimal(world.mdp, horizon=h)[0][:, 0], rtol=0, atol=1e-14)


def test_greedy_policies_lose_no_more_than_their_error_allows():
    """Singh and Yee (1994): a policy greedy for values off by e loses at most 2 gamma e / (1 - gamma)."""
    world = garnets()
    _, v, _ = optimal(world.mdp)
    off = v.abs().amax(-1)  # the first sweep starts from 0
    for s in run(value_iteration, world, 40):
        lost = (v - values(world.mdp, s.learner.memory["log_pi"].exp())[1]).amax(-1)
        assert (lost <= 2 * 0.9 * off / 0.1 + 1e-9).all()
        off = (s.learner.memory["q"].amax(-1) - v).abs().amax(-1)


def test_policy_iteration_needs_far_fewer_improvements():
    world = garnets()
    best = optimal(world.mdp)[0]
    sweeps = sum((error(s.learner.memory["q"], best) > 1e-6).int() for s in run(value_iteration, world, 250)) + 1
    leaps = sum((s.metrics["gap"] > 1e-9).int() for s in run(policy_iteration, world, 10)) + 1
    assert (leaps < 10).all() and (sweeps < 250).all()
    assert (10 * leaps < sweeps).all()


def test_no_softness_is_greed_and_little_softness_nearly():
    world = garnets()
    hard, soft = (run(value_iteration, world, 30, tau=(tau,))[-1] for tau in (0.0, 1e-6))
    assert torch.equal(hard.learner.memory["q"], soft.learner.memory["q"])  # softness is in the policy, not in the sweep
    torch.testing.assert_close(hard.learner.memory["log_pi"].exp(), soft.learner.memory["log_pi"].exp(), rtol=0, atol=1e-9)
    q = hard.learner.memory["q"]
    assert torch.equal(hard.learner.memory["log_pi"].argmax(-1), q.argmax(-1))
    mild = run(value_iteration, world, 30, tau=(0.5,))[-1].learner
    torch.testing.assert_close(mild.memory["log_pi"], (mild.memory["q"] / 0.5).log_softmax(-1))


def test_occupancy_sums_to_one_and_pays_the_return():
    world = garnets()
    for s in run(value_iteration, world, 5, tau=(0.3,)):
        pi = s.learner.memory["log_pi"].exp()
        d = occupancy(world.mdp, pi)
        torch.testing.assert_close(d.sum(-1), torch.ones(20, dtype=torch.float64), rtol=0, atol=1e-12)
        paid = (d[..., None] * pi * world.mdp.r).sum((1, 2)) / (1 - 0.9)
        torch.testing.assert_close(paid, expected_return(world.mdp, pi), rtol=0, atol=1e-9)
        torch.testing.assert_close(paid, s.metrics["return"], rtol=0, atol=1e-9)


def test_the_claim_holds():
    verdict = check()
    assert verdict.held == "held"
    assert 50 < verdict.low < verdict.value < verdict.high < 150


def lazy(algo, known, learner, k):
    """A sweep that goes half the way."""
    q = learner.memory["q"]
    return q + 0.5 * (value_iteration.evaluate(algo, known, learner, k) - q)


def worst_action(algo, known, q, learner, k):
    return best_action(-q)


@pytest.mark.parametrize(("name", "broken"), [
    ("value_iteration", replace(value_iteration, evaluate=lazy)),
    ("value_iteration", replace(value_iteration, improve=worst_action)),
    ("policy_iteration", replace(policy_iteration, improve=worst_action)),
    ("value_iteration", policy_iteration),
])  # fmt: skip
def test_the_claim_is_rejected_of_methods_that_break_it(name, broken, monkeypatch):
    monkeypatch.setitem(check.__globals__, name, broken)
    assert check().held == "not held"
