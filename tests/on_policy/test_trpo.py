"""trpo: Fisher products, conjugate gradients and the natural direction against their definitions; the trust region kept."""
from types import SimpleNamespace

import pytest
import torch

from labkit.divergence import kl
from labkit.lanes import Lanes
from labkit.learner import Learner
from labkit.nn import Table
from labkit.on_policy.family import a2c
from labkit.on_policy.trpo import conjugate_gradients, fisher, natural_step, step_within, trpo
from labkit.paper import changed

both = pytest.mark.parametrize("world", ["control.cartpole", "control.pendulum"])


def test_it_changes_the_improvement_alone():
    assert changed(trpo, a2c) == ["improve"]


@both
def test_fisher_product_is_the_fisher_matrix_times_the_vector(collected, world):
    """F = mean over states of the policy's mean outer product of scores, in float64; for a Gaussian, of its means and log-stds."""
    c = collected(trpo, world, lanes=Lanes((0, 1)), envs=2, steps=6, width=4)
    net, obs = c.learner.nets["pi"], c.batch.flat().obs.double()
    net.theta = net.theta.detach().double().requires_grad_()
    policy = c.learner.policy(obs)
    flat = SimpleNamespace(obs=obs, policy=policy.detach())
    v = torch.randn(net.theta.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    ours = fisher(c.learner, flat)(v)

    def rows(values):  # d values (L, B) / d theta, one state at a time: (L, B, P)
        return torch.stack([torch.autograd.grad(values[:, b].sum(), net.theta, retain_graph=True)[0] for b in range(values.shape[1])], 1)

    if world == "control.cartpole":
        scores = [(policy.probs[..., a].detach(), rows(policy.logits[..., a])) for a in range(2)]
    else:  # the Fisher matrix of a normal is 1 / sigma^2 for its mean and 2 for its log-sigma
        mean, log_std = policy.mean[..., 0], policy.log_std[..., 0]
        scores = [((-2 * log_std).exp().detach(), rows(mean)), (torch.tensor(2.0), rows(log_std))]
    explicit = sum(torch.einsum("lbp,lbq->lpq", w[..., None] * s, s) / s.shape[1] for w, s in scores)
    torch.testing.assert_close(ours, torch.einsum("lpq,lq->lp", explicit, v), rtol=1e-6, atol=1e-8)


def test_conjugate_gradients_solve_the_system_after_as_many_steps_as_dimensions():
    g = torch.Generator().manual_seed(0)
    root = torch.randn(3, 6, 6, generator=g, dtype=torch.float64)
    matrix, b = root @ root.mT + torch.eye(6), torch.randn(3, 6, generator=g, dtype=torch.float64)
    x = conjugate_gradients(lambda v: (matrix @ v[..., None])[..., 0], b, torch.tensor([[6], [6], [2]]))
    exact = torch.linalg.solve(matrix, b)
    torch.testing.assert_close(x[:2], exact[:2], rtol=1e-6, atol=1e-8)
    krylov = torch.stack([b[2], matrix[2] @ b[2]], 1)  # the third lane stopped after two: it is best among these directions
    best = krylov @ torch.linalg.solve(krylov.mT @ matrix[2] @ krylov, krylov.mT @ b[2])
    torch.testing.assert_close(x[2], best, rtol=1e-6, atol=1e-8)
    assert (x[2] - exact[2]).norm() > 1e-3


def test_for_a_table_the_natural_direction_is_the_advantage():
    """Up to a constant in each state, however seldom the state is visited: F^-1 undoes the visits and the probabilities."""
    states, actions = 3, 4
    g = torch.Generator().manual_seed(0)
    logits, adv = torch.randn(2, 1, states, actions, generator=g, dtype=torch.float64)
    adv = adv - (logits.softmax(-1) * adv).sum(-1, keepdim=True)
    learner = Learner(Lanes((0,)))
    learner.nets["pi"] = net = Table(1, (states, actions))
    net.theta = logits.flatten(1).requires_grad_()
    obs = torch.eye(states, dtype=torch.float64)[torch.tensor([0] * 20 + [1] * 5 + [2])][None]
    policy = learner.policy(obs)
    gain = (policy.probs * (obs @ adv)).sum(-1).mean(1)  # the surrogate, enumerated over actions
    slope = torch.autograd.grad(gain.sum(), net.theta)[0]
    product = fisher(learner, SimpleNamespace(obs=obs, policy=policy.detach()))
    way = conjugate_gradients(product, slope, torch.tensor([[60]])).view(1, states, actions)
    difference = way - adv
    assert (difference - difference.mean(-1, keepdim=True)).abs().max() < 1e-5


@both
def test_every_step_stays_within_delta_and_gains(collected, world):
    lanes = Lanes((0, 1), {"delta": (0.0005, 0.01, 0.2)})
    c = collected(trpo, world, lanes=lanes, updates=3)
    natural_step(c.algo, c.learner, c.batch, c.k)
    flat = c.batch.flat()
    moved = kl(flat.policy, c.learner.policy(flat.obs)).mean(1)
    accepted = c.batch.info["accepted"].bool()
    assert accepted.all()
    assert torch.equal(moved, c.batch.info["kl"]) and (moved <= c.k.delta[:, 0]).all()
    assert (moved > 0.2 * c.k.delta[:, 0]).all()  # and it uses the room it has


@both
def test_a_rejected_lane_keeps_its_parameters_bit_for_bit(collected, world):
    """Lane 1 is told that everything it did was equally good, which no step can improve on."""
    c = collected(trpo, world)
    c.batch.adv[1] = 0
    before = c.learner.nets["pi"].theta.clone()
    natural_step(c.algo, c.learner, c.batch, c.k)
    same = (before == c.learner.nets["pi"].theta).all(1)
    assert same.tolist() == [False, True, False]
    assert c.batch.info["accepted"].tolist() == [1, 0, 1] and c.batch.info["kl"][1] == 0


@both
def test_steps_the_wrong_way_are_all_rejected_and_taken_back(collected, world):
    c = collected(trpo, world)
    before = c.learner.nets["pi"].theta.clone()
    step_within(c.algo, c.learner, c.batch, c.k, lambda product, gain, k: -gain)
    assert torch.equal(before, c.learner.nets["pi"].theta) and not c.batch.info["accepted"].any()


def test_a_step_too_long_is_shortened(collected):
    """With one iteration of conjugate gradients and no damping the model of the KL is poor: some lanes must backtrack."""
    lanes = Lanes(tuple(range(6)), {"damp": (0.0,), "cg": (1,), "delta": (0.2,)})
    c = collected(trpo, lanes=lanes, updates=4)
    c.k.backtracks = torch.ones_like(c.k.backtracks)
    natural_step(c.algo, c.learner, c.batch, c.k)
    allowed = c.batch.info["accepted"].bool()
    flat = c.batch.flat()
    assert (kl(flat.policy, c.learner.policy(flat.obs)).mean(1)[allowed] <= 0.2).all()
