"""a2c and ppo: what their equations promise, exactly."""
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from labkit import worlds
from labkit.lanes import Lanes
from labkit.on_policy.family import (
    Batch,
    a2c,
    clipped,
    epochs,
    gae,
    importance,
    minibatches,
    one_step,
    policy_loss,
    ppo,
    reinforce,
    reward_to_go,
)
from labkit.paper import changed
from labkit.worlds.finite import advantage, values

both = pytest.mark.parametrize("world", ["control.cartpole", "control.pendulum"])


def test_slots():
    assert changed(ppo, a2c) == ["surrogate", "improve"]
    assert changed(a2c, reinforce) == ["collect", "value", "advantage"]


# advantage


def random_batch(T=12, E=4):
    g = torch.Generator().manual_seed(0)
    reward, value = torch.randn(2, 1, T, E, generator=g)
    ended = torch.rand(1, T, E, generator=g) < 0.2
    batch = Batch(None, None, None, None, reward, ended, torch.zeros_like(ended), None)
    batch.value, batch.next_value = value, torch.cat([value[:, 1:], torch.randn(1, 1, E, generator=g)], 1)
    return batch


def knobs(**settings):
    return SimpleNamespace(**{name: torch.tensor([[float(value)]]) for name, value in settings.items()})


def test_lambda_1_without_a_critic_gives_the_returns_of_reinforce():
    batch = random_batch()
    batch.value, batch.next_value = (torch.zeros_like(batch.reward) for _ in range(2))
    batch.terminated[:, -1] = True  # whole episodes
    returns = reward_to_go(batch, knobs(gamma=0.9, baseline=0))[1]
    first = torch.cat([torch.ones_like(batch.done[:, :1]), (~batch.done).cumprod(1)[:, :-1].bool()], 1)
    torch.testing.assert_close(gae(batch, knobs(gamma=0.9, lam=1))[0][first], returns[first])


def test_lambda_0_gives_the_one_step_error():
    batch = random_batch()
    adv, target = gae(batch, knobs(gamma=0.9, lam=0))
    error = batch.reward + 0.9 * torch.where(batch.terminated, 0.0, batch.next_value) - batch.value
    torch.testing.assert_close(adv, error)
    torch.testing.assert_close(target, error + batch.value)


@pytest.mark.parametrize("lam", [0.0, 0.7, 1.0])
def test_with_the_exact_critic_the_mean_advantage_is_exact_for_every_lambda(lam):
    """20,000 sampled steps of a random MDP: within 4 standard errors in every state and action."""
    world, gamma = worlds.make("finite.garnet", states=4, gamma=0.8, horizon=10**6), 0.8
    pi = torch.tensor([[0.2, 0.5, 0.3]]).repeat(4, 1)[None].double()
    v, exact = values(world.mdp, pi)[1][0].float(), advantage(world.mdp, pi)[0]
    rand, steps, envs = Lanes((3,)).rand, 40, 4000
    state, rows = world.reset(rand(0, envs, 1)), []
    for t in range(steps):
        s = state["s"]
        a = (pi[0][s].cumsum(-1)[..., :-1] <= rand(3 * t + 1, envs, 1)).sum(-1)
        state, reward, ended, cut = world.step(state, a, rand(3 * t + 2, envs, 1))
        rows.append((s, a, reward, ended, cut, v[s], v[state["s"]]))
    s, a, reward, ended, cut, value, next_value = (torch.stack(column, 1) for column in zip(*rows, strict=True))
    batch = Batch(None, a, None, None, reward, ended, cut, None)
    batch.value, batch.next_value = value, next_value
    adv = gae(batch, knobs(gamma=gamma, lam=lam))[0]
    for state_, action in torch.cartesian_prod(torch.arange(4), torch.arange(3)).tolist():
        sample = adv[:, 0][(s[:, 0] == state_) & (a[:, 0] == action)].double()  # one moment per environment: independent
        assert abs(sample.mean() - exact[state_, action]) < 4 * sample.std() / len(sample) ** 0.5


# surrogate


def test_no_clip_is_the_unclipped_surrogate_bit_for_bit():
    g = torch.Generator().manual_seed(0)
    ratio, adv = torch.rand(1, 1000, generator=g) * 5, torch.randn(1, 1000, generator=g)
    assert torch.equal(clipped(ratio, adv, knobs(eps=torch.inf)), importance(ratio, adv, knobs()))


def test_beyond_the_clip_there_is_exactly_no_slope_and_elsewhere_it_is_the_advantage():
    ratio = torch.linspace(0.05, 3, 600)[None].requires_grad_()
    for sign in (-1.5, 1.5):
        adv = torch.full_like(ratio, sign)
        slope = torch.autograd.grad(clipped(ratio, adv, knobs(eps=0.2)).sum(), ratio)[0]
        beyond = (ratio > 1.2) if sign > 0 else (ratio < 0.8)
        assert torch.equal(slope, torch.where(beyond, 0.0, adv))


# improve


@both
def test_the_first_gradient_of_ppo_is_that_of_a2c(collected, world):
    c = collected(ppo, world)
    flat = c.batch.flat()
    one, other = (c.learner.gradient("pi", policy_loss(replace(c.algo, surrogate=s), c.learner, flat, c.k)) for s in (clipped, importance))
    assert torch.equal(one, other) and one.abs().sum() > 0


@both
def test_the_first_gradient_is_the_score_times_the_advantage(collected, world):
    c = collected(a2c, world)
    flat = c.batch.flat()
    ours = c.learner.gradient("pi", policy_loss(c.algo, c.learner, flat, c.k))
    score = torch.autograd.grad((c.learner.policy(flat.obs).log_prob(flat.action) * flat.adv).mean(1).sum(), c.learner.nets["pi"].theta)[0]
    torch.testing.assert_close(ours, -score, rtol=1e-4, atol=1e-6)


@both
def test_one_pass_over_one_minibatch_is_a2c(collected, world):
    """Up to the order of summation: ppo shuffles the batch."""
    c = collected(ppo, world, lanes=Lanes((0, 1), {"epochs": (1,)}), minibatches=1)
    twin = c.learner.copy()
    epochs(c.algo, c.learner, c.batch, c.k)
    one_step(replace(c.algo, surrogate=importance), twin, c.batch, c.k)
    for name in ("pi", "v"):
        torch.testing.assert_close(c.learner.nets[name].theta, twin.nets[name].theta, rtol=1e-4, atol=1e-5)


@both
def test_a_pass_shows_every_sample_once(collected, world):
    c = collected(ppo, world, lanes=Lanes((0,), {"epochs": (3,)}))
    adv = torch.cat([part.adv for part, _ in minibatches(c.algo, c.learner, c.batch, c.k)], 1)
    for third in adv.chunk(3, 1):
        assert torch.equal(third.sort(1)[0], c.batch.adv.flatten(1).sort(1)[0])


def test_the_policy_of_a_batch_does_not_move_with_the_parameters(collected):
    c = collected(ppo, "control.pendulum")
    before = c.batch.policy.log_std.clone()
    epochs(c.algo, c.learner, c.batch, c.k)
    assert torch.equal(before, c.batch.policy.log_std)
    assert (c.learner.policy(c.batch.flat().obs).log_std != before.flatten(1, 2)).any()
