"""The equations of chapter 03 beside the code, on numbers that the chapter does not use."""
import math
from dataclasses import replace
from itertools import islice
from types import SimpleNamespace

import pytest
import torch

from labkit import worlds
from labkit.divergence import kl
from labkit.lanes import Lanes
from labkit.learner import Learner
from labkit.nn import Table
from labkit.on_policy.checks import tabular
from labkit.on_policy.discovered_po import braked, drift
from labkit.on_policy.evolution import learnt_drift
from labkit.on_policy.family import Shape, clipped, fit_critic, minibatches, policy_loss
from labkit.on_policy.fixpo import adapt, fixpo, give_up, pull, repair
from labkit.on_policy.props import frequencies, props, repetition
from labkit.on_policy.ta_lpo import FOUND
from labkit.on_policy.trpo import step_within, trpo
from labkit.on_policy.vmpo import temperature_loss
from labkit.policy import Categorical
from labkit.worlds.finite import advantage, expected_return, from_table, occupancy


def garnet(gamma=0.8, seeds=6):
    return worlds.make("finite.garnet", states=7, actions=3, branching=3, seed=range(seeds), gamma=gamma).mdp


def policies(lanes, *shape, tick=0):
    return (4 * Lanes(range(lanes)).rand(tick, *shape).double()).softmax(-1)


def surrogate(mdp, old, new):
    """L(pi) = J(old) + sum_s d_old(s) sum_a pi(a|s) A_old(s, a) / (1 - gamma), term by term."""
    d, adv, j = occupancy(mdp, old), advantage(mdp, old), expected_return(mdp, old)
    return torch.stack([j[k] + sum(d[k, s] * (new[k, s] * adv[k, s]).sum() for s in range(d.shape[1])) / (1 - 0.8) for k in range(len(j))])


def test_the_return_of_daring():
    """J(p) = 4 p (1 - p) / (2 + p), at every chance."""
    mdp = from_table(next=[[0, 1], [0, 0]], reward=[[0, 1], [0, -2]], done=[[0, 0], [0, 0]], mu=[1, 0], gamma=0.5).mdp
    p = torch.linspace(0, 1, 37, dtype=torch.float64)
    pi = torch.stack([1 - p, p], -1)[:, None].expand(-1, 2, -1)
    torch.testing.assert_close(expected_return(mdp, pi), 4 * p * (1 - p) / (2 + p))


def test_the_surrogate_is_the_tangent_of_the_return():
    """Same value and same directional derivatives at the old policy; away from it they part."""
    mdp, old, new = garnet(), policies(6, 7, 3), policies(6, 7, 3, tick=1)
    torch.testing.assert_close(surrogate(mdp, old, old), expected_return(mdp, old))
    gaps = [(expected_return(mdp, old + t * (new - old)) - surrogate(mdp, old, old + t * (new - old))).abs() for t in (1.0, 1e-2, 1e-3)]
    assert bool((gaps[0] > 1e-3).any())
    assert bool((gaps[2] < 0.011 * gaps[1] + 1e-12).all())  # the error shrinks with the square


def test_the_floor_under_the_return():
    """J >= L - 4 eps gamma / (1 - gamma)^2 max KL, and it is a floor of the step, not of L."""
    mdp, old = garnet(), policies(6, 7, 3)
    c = 4 * advantage(mdp, old).abs().amax((1, 2)) * 0.8 / 0.2**2
    for tick in range(1, 30):
        new = torch.lerp(old, policies(6, 7, 3, tick=tick), 0.5 ** (tick % 8))
        far = kl(Categorical(old.log()), Categorical(new.log())).amax(1)
        assert bool((expected_return(mdp, new) >= surrogate(mdp, old, new) - c * far - 1e-12).all())


def natural_step_of(scale, delta):
    """A step within delta on tabular logits theta / scale, every state once: Fisher matrix (L, P, P), gain (L, P), step (L, P)."""
    learner = Learner(Lanes((0, 1)))
    learner.nets["pi"] = net = Table(2, (4, 3))
    net.theta = ((4 * learner.rand(12) - 2).double() / scale).requires_grad_()
    obs = torch.eye(4, dtype=torch.float64).expand(2, -1, -1)[:, :, None] * scale  # (L, T=4, E=1, n)
    policy = learner.policy(obs.flatten(1, 2)).detach()
    action = torch.tensor([[0, 1, 2, 1], [2, 2, 0, 1]])
    log_prob = policy.log_prob(action)
    adv = torch.tensor([[1.0, -0.5, 2.0, 0.3], [-1.0, 0.2, 0.7, 1.5]]).double()
    flat = SimpleNamespace(obs=obs.flatten(1, 2), action=action, log_prob=log_prob, policy=policy, adv=adv)
    batch = SimpleNamespace(flat=lambda: flat, info={})
    knobs = {"delta": delta, "ent": 0.0, "backtracks": 10.0, "lr": 0.0}
    k = SimpleNamespace(**{name: torch.full((2, 1), value, dtype=torch.float64) for name, value in knobs.items()})
    pi = policy.probs
    fisher = torch.stack([torch.block_diag(*(torch.diag(row) - torch.outer(row, row) for row in lane)) for lane in pi]) * scale**2 / 4
    score = (torch.nn.functional.one_hot(action, 3) - pi) * scale
    gain = (score * adv[..., None] / 4).flatten(1)
    start = net.theta.detach().clone()
    step_within(trpo, learner, batch, k, lambda product, g, k: (torch.linalg.pinv(fisher) @ g[..., None])[..., 0])
    return fisher, gain, net.theta.detach() - start, batch.info


@pytest.mark.parametrize("scale", [1.0, 10.0])
def test_the_step_is_the_natural_gradient_to_the_edge_of_the_ball(scale):
    """x sqrt(2 delta / x'Fx) with F x = g, shortened by 0.8^j for as long as the true KL is above delta."""
    fisher, gain, step, info = natural_step_of(scale, 1e-4)
    x = (torch.linalg.pinv(fisher) @ gain[..., None])[..., 0]
    full = x * (2 * 1e-4 / torch.einsum("lp,lpq,lq->l", x, fisher, x)[:, None]).sqrt()
    share = step.norm(dim=1) / full.norm(dim=1)
    tries = (share.log() / math.log(0.8)).round()
    torch.testing.assert_close(step, 0.8 ** tries[:, None] * full, rtol=1e-6, atol=1e-9)
    assert bool((tries <= 1).all()) and bool((info["kl"] <= 1e-4).all()) and bool((info["accepted"] == 1).all())


def test_the_clip_in_its_four_corners():
    """min(r A, clip(r) A): flat for good actions above 1 + eps and bad ones below 1 - eps, slope A everywhere else."""
    for eps in (0.1, 0.3):
        ratio = torch.tensor([0.2, 0.95, 1.05, 1.9], requires_grad=True)
        for adv, flat in ((2.0, [False, False, False, True]), (-3.0, [True, False, False, False])):
            gain = clipped(ratio, torch.full((4,), adv), SimpleNamespace(eps=eps))
            by_hand = [min(r * adv, min(max(r, 1 - eps), 1 + eps) * adv) for r in ratio.tolist()]
            torch.testing.assert_close(gain.detach(), torch.tensor(by_hand))
            slope = torch.autograd.grad(gain.sum(), ratio)[0]
            assert slope.tolist() == [0.0 if f else adv for f in flat]


def test_the_weight_of_the_penalty():
    """beta <- max(0, beta + lr_beta (C max KL - eps_kl))"""
    learner, gap = Learner(Lanes((0, 1, 2))), torch.tensor([[0.01, 0.3], [0.0, 0.01], [0.0, 0.02]])
    learner.memory["beta"] = torch.tensor([[1.0], [1.0], [0.001]])
    k = SimpleNamespace(lr_beta=torch.full((3, 1), 0.5), aim=torch.full((3, 1), 2.0), eps_kl=torch.full((3, 1), 0.1))
    adapt(learner, gap, k, torch.ones(3, dtype=torch.bool))
    expected = [max(0.0, b + 0.5 * (2 * worst - 0.1)) for b, worst in ((1.0, 0.3), (1.0, 0.01), (0.001, 0.02))]
    torch.testing.assert_close(learner.memory["beta"][:, 0], torch.tensor(expected))


def test_the_two_phases_of_the_chapter_are_those_of_fixpo():
    def both_phases(algo, learner, batch, k):
        learner.memory.setdefault("beta", torch.ones_like(k.lr))
        start = learner.nets["pi"].theta.detach().clone()
        for part, where in minibatches(algo, learner, batch, k):
            gap = kl(part.policy, learner.policy(part.obs))
            pull(learner, part, gap, policy_loss(algo, learner, part, k), k, where)
            fit_critic(algo, learner, part, k, where)
        steps, failed = repair(learner, batch.flat(), k)
        give_up(learner, start, failed)
        batch.info["steps"] = steps

    world, lanes = worlds.make("control.cartpole"), Lanes((0, 1), {"eps_kl": (0.02,)})
    small = replace(fixpo, shape=Shape(envs=4, steps=16, width=8, minibatches=2))
    ours, theirs = (list(islice(a.run(world, lanes), 3))[-1] for a in (replace(small, improve=both_phases), small))
    assert torch.equal(ours.learner.nets["pi"].theta, theirs.learner.nets["pi"].theta)
    share = ours.metrics["steps"] / (ours.metrics["steps"] + 4 * 2)
    torch.testing.assert_close(theirs.metrics["repair share"], share)


def test_the_discovered_drift_by_hand():
    for r, a in ((0.3, 1.2), (1.7, 1.2), (0.3, -0.8), (1.7, -0.8), (1.0, -2.0)):
        seen, cap = ((r - 1) * a, 1.5) if a >= 0 else (math.log(r) * a, 0.4)
        by_hand = max(0.0, seen - cap * math.tanh(seen / cap))
        k = SimpleNamespace(alpha=1.5, beta=0.4)
        ratio, adv = torch.tensor([r], dtype=torch.float64), torch.tensor([a], dtype=torch.float64)
        assert drift(ratio, adv, k).item() == pytest.approx(by_hand, abs=1e-12)
        assert braked(ratio, adv, k).item() == pytest.approx(r * a - by_hand, abs=1e-12)


def test_the_clip_is_a_drift_function():
    """min(r A, clip(r) A) = r A - relu((r - clip(r)) A)"""
    r, a = torch.meshgrid(torch.linspace(0, 3, 61), torch.linspace(-2, 2, 41), indexing="ij")
    f = ((r - r.clamp(0.7, 1.3)) * a).relu()
    torch.testing.assert_close(r * a - f, clipped(r, a, SimpleNamespace(eps=0.3)))


def test_what_props_minimises():
    """mean max(g, clip(g, 1 - e, 1 + e)) + tie * mean KL"""
    g, gap = torch.tensor([[0.4, 0.9, 1.2, 2.0]]), torch.tensor([0.15])
    k = SimpleNamespace(e=torch.tensor([[0.3]]), tie=torch.tensor([[0.5]]))
    by_hand = sum(max(x, min(max(x, 0.7), 1.3)) for x in g[0].tolist()) / 4 + 0.5 * 0.15
    assert repetition(g, gap, k).item() == pytest.approx(by_hand, abs=1e-6)


def test_sampling_error_of_independent_draws():
    """E[KL(frequencies || policy)] is about (A - 1) / 2n, exactly by enumerating all outcomes of n draws from two actions."""
    for p, n in ((0.5, 60), (0.3, 200)):
        count = torch.arange(n + 1, dtype=torch.float64)
        ways = math.lgamma(n + 1) - torch.lgamma(count + 1) - torch.lgamma(n - count + 1)
        chance = (ways + count * math.log(p) + (n - count) * math.log(1 - p)).exp()
        share = torch.stack([count, n - count], -1) / n
        error = torch.special.xlogy(share, share / torch.tensor([p, 1 - p])).sum(-1)
        assert (chance * error).sum().item() == pytest.approx(1 / (2 * n), rel=0.04)


def test_no_lean_is_on_policy_and_a_lean_errs_less():
    """With d = 0 the behaviour is the policy; with d = 0.1 the same number of steps stray less, in 20 random MDPs."""
    lanes = Lanes(range(20), {"d": (0.0, 0.1), "pushes": (8,), "lr": (0.03,)})
    world = worlds.make("finite.garnet", states=5, seed=tuple(range(20)) * 2, gamma=0.9)
    algo = replace(props, shape=Shape(envs=4, steps=64, kept=2))
    learner, k = tabular(algo, world, lanes, spread=1.0), lanes.knobs(algo.knobs)
    for _ in range(2):
        data = algo.collect(algo, world, learner, k)
    visited, taken = frequencies(data, 3)
    pi = learner.policy(torch.eye(5)).probs.detach().double()
    error = (visited * torch.special.xlogy(taken, taken / pi).sum(-1)).sum(-1).view(2, 20).mean(1)
    assert torch.equal(learner.nets["behaviour"].theta[:20], learner.nets["pi"].theta[:20])
    assert error[0].item() == pytest.approx(5 * 2 / (2 * 512), rel=0.3) and error[1] < 0.6 * error[0]


def test_the_temperature_rests_at_its_radius():
    """d/d eta of eta eps + eta log mean exp(A / eta) is eps - KL(psi || uniform), and it is where vmpo's temperature stops."""
    adv, eta = torch.tensor([[2.0, 1.0, 0.5, 0.1]], dtype=torch.float64), torch.tensor([[0.7]], dtype=torch.float64, requires_grad=True)
    loss = temperature_loss(adv, torch.ones(1, 4, dtype=torch.bool), eta, torch.tensor([[0.02]], dtype=torch.float64))
    by_hand = eta * 0.02 + eta * (adv / eta).exp().mean(1, keepdim=True).log()
    torch.testing.assert_close(loss, by_hand[:, 0])
    psi = (adv / 0.7).softmax(1)
    slope = torch.autograd.grad(loss.sum(), eta)[0].item()
    assert slope == pytest.approx(0.02 - (psi * (psi * 4).log()).sum().item(), abs=1e-12)


def test_the_grown_brake_is_the_network_of_the_equation():
    weights = torch.tensor(FOUND, dtype=torch.float64)
    r, a, spent = 1.4, -0.8, 0.6
    x = [1 - r, (1 - r) ** 2, math.log(r), math.log(r) ** 2]
    x = torch.tensor([*x, *(v * a for v in x)], dtype=torch.float64)
    net = weights[16 * 8 :] @ (weights[: 16 * 8].view(16, 8).T @ torch.cat([x, spent * x])).tanh()
    ours = learnt_drift(weights[None], torch.tensor([[spent]]).double(), torch.tensor([[r]]).double(), torch.tensor([[a]]).double())
    assert ours.item() == pytest.approx(max(net.item() - 1e-4, 0), abs=1e-7)
