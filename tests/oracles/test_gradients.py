"""What every on-policy method raises, differentiated: in expectation it is the exact policy gradient."""
import math
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from labkit.lanes import Lanes
from labkit.on_policy.checks import chances
from labkit.on_policy.family import Batch, OnPolicy, gae, policy_loss, ppo
from labkit.policy import Categorical
from labkit.worlds.finite import advantage, expected_return, garnet, occupancy
from tests.methods import METHODS

GAMMA, STATES, ACTIONS = 0.9, 5, 3
WORLD = garnet(states=STATES, actions=ACTIONS, branching=3, seed=4, gamma=GAMMA)
EYE = torch.eye(STATES, dtype=torch.float64)
SURROGATES = pytest.mark.parametrize("key", [key for key, method in METHODS.items() if isinstance(method, OnPolicy)])


def learner_of(method, dtype=torch.float64):
    """The method with a small network, and a learner with parameters drawn at random."""
    lanes = Lanes((0,), {"ent": (0.0,)} | ({"gamma": (GAMMA,)} if "gamma" in method.knobs else {}))
    method = replace(method, shape=replace(method.shape, width=6, envs=STATES, steps=ACTIONS, minibatches=1))
    learner = method.begin(WORLD, lanes)
    for net in learner.nets.values():
        theta = net.theta + (torch.randn(net.theta.shape, generator=torch.Generator().manual_seed(1)) * 0.5).to(dtype)
        net.theta, net.moments, net.clock = theta.detach().to(dtype).requires_grad_(), net.moments.to(dtype), net.clock.to(dtype)
    return method, learner, lanes.knobs(method.knobs)


def expected_batch(learner):
    """Every state with every action once, (1, A, S), whose advantage is the exact one times the chance of being there and doing so.

    The mean over such a batch is the expectation under the policy's discounted occupancy, over 1 - gamma.
    """
    dtype = learner.nets["pi"].theta.dtype
    obs, action = EYE.expand(1, ACTIONS, -1, -1).to(dtype), torch.arange(ACTIONS)[None, :, None].expand(1, -1, STATES)
    policy = learner.policy(obs.flatten(1, 2)).detach().map(lambda x: x.view(1, ACTIONS, STATES, ACTIONS))
    pi = policy.probs[:, 0].double()
    weight = occupancy(WORLD.mdp, pi)[..., None] * pi * STATES * ACTIONS / (1 - GAMMA)
    zero = torch.zeros(1, ACTIONS, STATES, dtype=dtype)
    batch = Batch(obs, action, policy.log_prob(action), policy, zero, zero.bool(), zero.bool(), obs)
    batch.adv = (weight * advantage(WORLD.mdp, pi)).mT.to(dtype)
    batch.value = batch.next_value = batch.target = zero
    return batch


def value_of(learner, theta):
    """J (1,) of the policy with these parameters."""
    out, _ = learner.nets["pi"](EYE[None], theta)
    return expected_return(WORLD.mdp, Categorical(out).probs)


@SURROGATES
def test_the_surrogate_has_the_exact_gradient(key):
    method, learner, k = learner_of(METHODS[key])
    ours = -learner.gradient("pi", policy_loss(method, learner, expected_batch(learner).flat(), k))[0]
    theta = learner.nets["pi"].theta
    exact = torch.autograd.grad(value_of(learner, theta).sum(), theta)[0][0]
    assert exact.norm() > 0.1
    torch.testing.assert_close(ours, exact, rtol=1e-9, atol=1e-11)
    steps = 1e-5 * torch.eye(theta.shape[1], dtype=torch.float64)
    differences = torch.stack([(value_of(learner, theta + h) - value_of(learner, theta - h))[0] for h in steps[::7]]) / 2e-5
    torch.testing.assert_close(ours[::7], differences.detach(), rtol=1e-6, atol=1e-8)


@SURROGATES
def test_a_small_improvement_raises_the_exact_return(key):
    """Whatever `improve` does: by its smallest step size or trust region, on the expected batch."""
    method, learner, k = learner_of(METHODS[key], torch.float32)
    for name in ("lr", "delta"):
        if hasattr(k, name):
            setattr(k, name, torch.full_like(getattr(k, name), method.knobs[name].low))
    before = expected_return(WORLD.mdp, chances(learner, EYE.float()))
    method.improve(method, learner, expected_batch(learner), k)
    assert expected_return(WORLD.mdp, chances(learner, EYE.float())) > before + 1e-4


# ---- losses in plain Python -------------------------------------------------------------------------------------


def test_the_loss_of_ppo_is_that_of_a_plain_loop():
    """A stale batch, so that ratios lie on both sides of the clip; the entropy bonus is part of it."""
    method, learner, k = learner_of(ppo)
    batch = expected_batch(learner)
    batch.adv = batch.adv - batch.adv.mean()
    learner.nets["pi"].theta = (learner.nets["pi"].theta + 0.3 * torch.sin(torch.arange(learner.nets["pi"].theta.shape[1]))).detach()
    k.ent, k.eps = (torch.tensor([[x]], dtype=torch.float64) for x in (0.03, 0.2))
    flat = batch.flat()
    logp, total, cut = learner.policy(flat.obs).logits[0].tolist(), 0.0, 0
    for i, (a, old, adv) in enumerate(zip(flat.action[0].tolist(), flat.log_prob[0].tolist(), flat.adv[0].tolist(), strict=True)):
        ratio = math.exp(logp[i][a] - old)
        inside = min(max(ratio, 0.8), 1.2)
        total += min(ratio * adv, inside * adv) - 0.03 * sum(math.exp(x) * x for x in logp[i])
        cut += inside * adv < ratio * adv
    assert 2 <= cut < len(logp)
    assert policy_loss(method, learner, flat, k).item() == pytest.approx(-total / len(logp), rel=1e-9)


def test_gae_is_that_of_a_plain_loop():
    """Rewards, values and ends of both kinds at random; where both fall on one step, it is the end and nothing follows."""
    g = torch.Generator().manual_seed(2)
    reward, value, following = torch.randn(3, 1, 10, 3, generator=g, dtype=torch.float64)
    terminated, truncated = torch.rand(2, 1, 10, 3, generator=g) < 0.3
    assert (terminated & truncated).any()
    batch = Batch(None, None, None, None, reward, terminated, truncated, None)
    batch.value, batch.next_value = value, following
    gamma, lam = (torch.tensor([[x]], dtype=torch.float64) for x in (0.9, 0.7))
    adv, target = gae(batch, SimpleNamespace(gamma=gamma, lam=lam))
    for e in range(3):
        later = 0.0
        for t in reversed(range(10)):
            over, cut = bool(terminated[0, t, e]), bool(truncated[0, t, e])
            delta = float(reward[0, t, e]) + (0.0 if over else 0.9 * float(following[0, t, e])) - float(value[0, t, e])
            later = delta + (0.0 if over or cut else 0.9 * 0.7 * later)
            assert float(adv[0, t, e]) == pytest.approx(later, abs=1e-12)
            assert float(target[0, t, e]) == pytest.approx(later + float(value[0, t, e]), abs=1e-12)
