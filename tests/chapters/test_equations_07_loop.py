"""The equations of chapter 07 on the performative loop and on what is remembered, on numbers that the chapter does not use."""
from dataclasses import replace
from itertools import islice
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy.optimize import minimize

from labkit.lanes import Lanes
from labkit.tabular import crl_survey
from labkit.tabular.checks import beginning
from labkit.tabular.crl_survey import planned
from labkit.tabular.performative_rl import performative_rl, prices
from labkit.worlds.finite import from_table, garnet
from labkit.worlds.performative import performative


def deviations(c, lam, step, rounds, first):
    """p - 1/2 of the first of two roads that pay 1 - c times their share, (rounds + 1,)."""
    world = from_table(next=[[0, 0]], reward=[[1, 1]], done=[[True, True]], mu=[1], gamma=0.9)
    lanes = Lanes((0,), {"beta": (c,), "lam": (lam,), "step": (step,)})

    def crowded(algo, world, learner, k):
        return replace(world.mdp, r=1 - k.beta[..., None] * learner.memory["log_pi"].exp())

    start = beginning(world, lanes, torch.tensor([[[0.5 + first, 0.5 - first]]], dtype=torch.float64).log())
    run = islice(replace(performative_rl, respond=crowded).run(world, lanes, start), rounds)
    return [s.learner.memory["log_pi"].exp()[0, 0, 0].item() - 0.5 for s in run]


@pytest.mark.parametrize(("c", "lam", "step"), [(1.5, 2.5, 1.0), (2.0, 1.0, 0.25), (0.5, 0.125, 0.5)])
def test_each_round_multiplies_the_deviation_of_two_roads(c, lam, step):
    """By -c / lam, and with a step by 1 - step (1 + c / lam). The first round already begins from the shares at the start."""
    factor = 1 - step * (1 + c / lam)
    assert deviations(c, lam, step, 6, 0.01) == pytest.approx([0.01 * factor ** (n + 1) for n in range(6)], abs=1e-8)


def test_the_quadratic_programme_of_a_round():
    """max <d, r> - lam / 2 |d|^2 over balanced flows, by a general solver."""
    mdp, lam = garnet(states=4, actions=2, branching=2, seed=5, gamma=0.7).mdp, 0.6
    P, r = mdp.P[0].numpy(), mdp.r[0].numpy()

    def missed(d):
        return d.reshape(4, 2).sum(1) - 0.25 - 0.7 * np.einsum("sa,sat->t", d.reshape(4, 2), P)

    best = minimize(lambda d: 0.5 * lam * (d**2).sum() - (d * r.ravel()).sum(), np.full(8, 0.4), bounds=[(0, None)] * 8,
                    constraints={"type": "eq", "fun": missed}, method="SLSQP", options={"ftol": 1e-14, "maxiter": 500})  # fmt: skip
    wish = mdp.r / lam
    h, _ = prices(mdp, wish, torch.zeros(1, 4, dtype=torch.float64))
    ours = (wish + 0.7 * (mdp.P @ h[0]) - h[..., None]).relu()
    np.testing.assert_allclose(ours.flatten().numpy(), best.x, atol=1e-5)


def test_the_answered_model_state_by_state():
    world, beta = performative(seed=9, views=2), 7.0
    pi = (3 * Lanes((1,)).rand(0, 25, 4).double()).softmax(-1)
    q = world.follower_values(pi)[0]
    answered = world.answer(pi, torch.tensor([[beta]], dtype=torch.float64))
    for s in (0, 6, 13, 23):
        w = np.exp(beta * q[s].numpy()) / np.exp(beta * q[s].numpy()).sum()
        for a in range(4):
            row = w[4] * world.mdp.P[0, s, a].numpy() + sum(w[b] * world.mdp.P[0, s, b].numpy() for b in range(4))
            np.testing.assert_allclose(answered.P[0, s, a].numpy(), row, atol=1e-12)
            assert answered.r[0, s, a].item() == pytest.approx(w[4] * world.mdp.r[0, s, a] + (w[:4] * world.mdp.r[0, s].numpy()).sum())


def test_a_plan_is_the_mean_reward_of_this_task_and_the_counts_of_all(monkeypatch):
    """Q <- r + gamma P max Q, once, with counts that disagree."""
    monkeypatch.setattr(crl_survey, "SWEEPS", 1)
    led = torch.tensor([[[[3.0, 1.0], [0.0, 2.0]], [[1.0, 1.0], [0.0, 0.0]]]])
    q = torch.tensor([[[1.0, 2.0], [0.5, -1.0]]])
    memory = {"led": led, "q": q, "paid": torch.tensor([[[4.0, 0.0], [3.0, 0.0]]]), "tried": torch.tensor([[[2.0, 1.0], [4.0, 0.0]]])}
    learner = SimpleNamespace(memory=memory, on=torch.ones(1, 1))
    found = planned(learner, torch.tensor([0]), torch.tensor([0.5]))
    want = [[2 + 0.5 * (0.75 * 2 + 0.25 * 0.5), 0 + 0.5 * 0.5], [0.75 + 0.5 * (0.5 * 2 + 0.5 * 0.5), -1.0]]
    torch.testing.assert_close(found, torch.tensor([want]))


def test_along_a_path_the_added_terms_cancel_but_for_the_first():
    """sum gamma^t (gamma V(s') - V(s)) = gamma^T V(s_T) - V(s_0)"""
    v, gamma = Lanes((2,)).rand(0, 9)[0].double(), 0.8
    added = sum(gamma**t * (gamma * v[t + 1] - v[t]) for t in range(8))
    assert added.item() == pytest.approx((gamma**8 * v[8] - v[0]).item())
