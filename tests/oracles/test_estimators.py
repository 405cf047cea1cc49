"""What is estimated from samples, against what it estimates: exact values on finite worlds, within 4 standard errors."""
import math
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from labkit.divergence import effective_sample_size, effective_share
from labkit.lanes import Lanes
from labkit.learner import Learner
from labkit.meter import DriftMeter, evaluate, probe
from labkit.nn import Table
from labkit.occupancy import exact_states
from labkit.on_policy.checks import chances, tabular
from labkit.on_policy.family import a2c, gae, reinforce, reward_to_go
from labkit.on_policy.impala import impala, vtrace
from labkit.policy import Categorical
from labkit.snapshot import Snapshot
from labkit.worlds import make
from labkit.worlds.finite import advantage, chain, expected_return, garnet, occupancy, values
from labkit.worlds.grid.table import enumerate_states

GAMMA = 0.9
CHAIN = chain(n=4, slip=0.2, gamma=GAMMA, horizon=8)  # episodes end by themselves or by the clock
GARNET = garnet(states=4, actions=2, branching=2, seed=3, gamma=GAMMA, horizon=3)  # by the clock alone
WORLDS = pytest.mark.parametrize("world", [CHAIN, GARNET], ids=["chain", "garnet"])


def learner_in(world, lanes, algo=a2c, envs=4000):
    """The method with many environments, and a learner whose tables hold random logits, the same in every lane, and wrong values."""
    algo = replace(algo, shape=replace(algo.shape, envs=envs, steps=6))
    learner = tabular(algo, world, lanes)
    logits, wrong = (Lanes((seed,), device=lanes.device).rand(0, world.obs_size, n) * 4 for seed, n in ((1, world.actions.n), (2, 1)))
    learner.nets["pi"].move(logits.flatten(1).expand(len(lanes), -1), learner.on)
    learner.nets["v"].move(wrong.flatten(1).expand(len(lanes), -1), learner.on)
    return algo, learner


def collected(world, grid=None, algo=a2c, envs=4000):
    lanes = Lanes((0,), {"gamma": (GAMMA,)} | (grid or {}))
    algo, learner = learner_in(world, lanes, algo, envs)
    k = lanes.knobs(algo.knobs)
    batch = algo.collect(algo, world, learner, k)
    algo.judge(learner, batch, k)
    return SimpleNamespace(algo=algo, learner=learner, batch=batch, k=k, pi=chances(learner, torch.eye(world.obs_size))[:1])


def assert_unbiased(sample, exact):
    """Independent draws (N,) have `exact` as their mean, within 4 standard errors."""
    sample = sample.double()
    assert len(sample) > 50
    assert abs(sample.mean().item() - float(exact)) <= 4 * sample.std().item() / math.sqrt(len(sample)) + 1e-6


# ---- returns and visits -----------------------------------------------------------------------------------------


@WORLDS
def test_monte_carlo_return(world):
    _, learner = learner_in(world, Lanes((0,)))
    exact = expected_return(replace(world.mdp, gamma=1.0), chances(learner, torch.eye(world.obs_size)), world.horizon)
    assert_unbiased(evaluate(world, learner, 20_000)[0], exact)


@WORLDS
def test_reward_to_go_is_the_value_of_what_is_left(world):
    c = collected(world, algo=reinforce, envs=20_000)
    go = reward_to_go(c.batch, c.k)[1][0]
    exact, state = values(world.mdp, c.pi, world.horizon)[1][0], c.batch.obs[0].argmax(-1)
    running = torch.cat([torch.ones_like(c.batch.done[0, :1]), (~c.batch.done[0]).cumprod(0)[:-1].bool()])
    tried = 0
    for t in range(world.horizon):
        for s in range(world.obs_size):
            here = running[t] & (state[t] == s)
            if here.sum() > 100:
                assert_unbiased(go[t, here], exact[t, s])
                tried += 1
    assert tried > 10


@WORLDS
def test_sampled_states_have_the_exact_occupancy(world):
    c = collected(world, algo=reinforce)
    running = torch.cat([torch.ones_like(c.batch.done[0, :1]), (~c.batch.done[0]).cumprod(0)[:-1].bool()])
    share = (c.batch.obs[0].double() * running[..., None]).mean(1)  # (T, S)
    exact = occupancy(world.mdp, c.pi, world.horizon)[0]
    assert ((share - exact).abs() <= 4 * (exact * (1 - exact) / 4000).sqrt() + 1e-9).all()


# ---- advantages and targets -------------------------------------------------------------------------------------


def expected_gae(world, pi, v, lam, steps):
    """Mean GAE (S, A) of the first of `steps` steps under any critic v (S,): the sum of (gamma lam)^i times the mean of delta_i.

    An episode that is cut by the clock is bootstrapped, so the world's horizon only shortens the sum.
    """
    P, r = world.mdp.P[0], world.mdp.r[0]
    error = r + GAMMA * (P @ v) - v[:, None]  # mean delta of each state and action
    step, later = (pi[0][..., None] * P).sum(1), torch.zeros(world.obs_size, dtype=torch.float64)
    for _ in range(min(steps, world.horizon) - 1):
        later = (pi[0] * error).sum(-1) + GAMMA * lam * (step @ later)
    return error + GAMMA * lam * (P @ later)


LAMBDAS = (0.0, 0.5, 0.9, 1.0)


@WORLDS
@pytest.mark.parametrize("critic", ["wrong", "exact"])
def test_gae_has_its_closed_form_as_its_mean(world, critic):
    c = collected(world, {"lam": LAMBDAS})
    v = c.learner.nets["v"].theta[0].detach().double()
    if critic == "exact":
        v = values(world.mdp, c.pi)[1][0]
        c.learner.nets["v"].move(v.float().expand(len(LAMBDAS), -1), c.learner.on)
        c.algo.judge(c.learner, c.batch, c.k)
    adv, target = gae(c.batch, c.k)
    for i, lam in enumerate(LAMBDAS):
        exact = expected_gae(world, c.pi, v, lam, 6)
        for s, a in torch.cartesian_prod(torch.arange(world.obs_size), torch.arange(world.actions.n)).tolist():
            here = (c.batch.obs[i, 0].argmax(-1) == s) & (c.batch.action[i, 0] == a)
            if here.sum() > 100:
                assert_unbiased(adv[i, 0, here], exact[s, a])
                assert_unbiased(target[i, 0, here], exact[s, a] + v[s])
        if critic == "exact":
            torch.testing.assert_close(exact, advantage(world.mdp, c.pi)[0], rtol=0, atol=1e-5)  # whatever lambda


def test_the_mean_gradient_of_a2c_is_the_exact_one_of_its_states():
    """With the exact critic: the sum over steps of visits times pi times advantage, whatever lambda; 60 batches of 40 environments."""
    lanes = Lanes(range(60), {"gamma": (GAMMA,), "lam": LAMBDAS})
    algo, learner = learner_in(GARNET, lanes, replace(a2c, advantage=gae), envs=40)
    pi, k = chances(learner, torch.eye(4))[:1], lanes.knobs(algo.knobs)
    q, v = values(GARNET.mdp, pi)
    learner.nets["v"].move(v.float().expand(len(lanes), -1), learner.on)
    algo.judge(learner, batch := algo.collect(algo, GARNET, learner, k), k)
    loss = -(learner.policy(batch.obs.flatten(1, 2)).log_prob(batch.action.flatten(1)) * batch.adv.flatten(1)).mean(1)
    sample = -learner.gradient("pi", loss).view(len(LAMBDAS), 60, 8)
    visits = occupancy(GARNET.mdp, pi, 3)[0].mean(0)  # two whole episodes of three steps
    exact = (visits[:, None] * pi[0] * (q - v[..., None])[0]).flatten()
    for i in range(len(LAMBDAS)):
        for j in range(8):
            assert_unbiased(sample[i, :, j], exact[j])


# ---- under another policy's data --------------------------------------------------------------------------------


def lagged(lanes, envs):
    """A learner, its policy and the one that acts, eight updates ago, far enough apart to matter."""
    algo, learner = learner_in(GARNET, lanes, impala, envs)
    old = learner.nets["pi"].theta.detach() * -0.2
    learner.memory["past"] = old[:, None].expand(-1, 8, -1).clone()
    mu = Categorical(old[:1].view(1, 4, 2)).probs.double()
    return algo, learner, chances(learner, torch.eye(4))[:1], mu


def test_importance_weighted_value():
    """Products of uncut weights along whole episodes: V-trace without a critic gives the other policy's value of what is left."""
    lanes = Lanes((0,), {"gamma": (GAMMA,), "lag": (8,)})
    algo, learner, pi, mu = lagged(lanes, 6000)
    batch = algo.collect(algo, GARNET, learner, lanes.knobs(algo.knobs))
    batch.value = batch.next_value = torch.zeros_like(batch.reward)
    uncut = SimpleNamespace(gamma=torch.tensor([[GAMMA]]), lam=torch.ones(1, 1), rho_bar=torch.tensor([[1e9]]), c_bar=torch.tensor([[1e9]]))
    value, ignored = vtrace(batch, uncut)[2][0, 0], gae(batch, uncut)[1][0, 0]
    exact, other, state = values(GARNET.mdp, pi, 3)[1][0, 0], values(GARNET.mdp, mu, 3)[1][0, 0], batch.obs[0, 0].argmax(-1)
    assert (exact - other).abs().max() > 0.2
    for s in range(4):
        assert_unbiased(value[state == s], exact[s])
        assert_unbiased(ignored[state == s], other[s])  # without weights it is the value of who acted


def test_effective_sample_size_of_a_batch():
    """Its share of the samples tends to (sum over visits of 1 + chi2)^-1, chi2 of pi against mu."""
    lanes = Lanes(range(40), {"lag": (8,)})
    algo, learner, pi, mu = lagged(lanes, 400)
    batch = algo.collect(algo, GARNET, learner, lanes.knobs(algo.knobs))
    share = effective_sample_size((batch.log_prob - batch.acted).flatten(1)) / (6 * 400)
    visits = occupancy(GARNET.mdp, mu, 3)[0].mean(0)
    exact = 1 / (visits / effective_share(Categorical(mu.log()), Categorical(pi.log()))[0]).sum()
    assert exact < 0.9
    assert abs(share.mean() - exact) < 4 * share.std() / 40**0.5 + 3 / 2400  # and the bias of a ratio, of order 1 / N


# ---- the meter --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def rooms():
    """A small grid, its exact list of states, and two learners with tables over them."""
    world = make("grid.fourrooms", size=7, layout_seed=0, view="state", random_start=False, max_steps=30)
    lanes, snapshots = Lanes((0, 1)), []
    for seed in (1, 2):
        learner = Learner(lanes)
        learner.nets["pi"] = Table(2, (world.obs_size, 7))
        learner.nets["pi"].move(Lanes((seed,)).rand(0, world.obs_size * 7).mul(3).expand(2, -1), learner.on)
        snapshots.append(Snapshot(0, learner, {}))
    return world, enumerate_states(world), snapshots


@pytest.mark.parametrize("divergence", ["kl", "reverse_kl", "total_variation", "jensen_shannon", "chi2", "hellinger"])
def test_a_probe_estimates_the_exact_drift(rooms, divergence):
    world, table, (first, second) = rooms
    n = 600
    readings = []
    for states in (exact_states(table), probe(world, second.learner.copy().rand, second.learner.policy, n)):
        meter = DriftMeter(states, divergence)
        meter(first)
        readings.append(meter(second))
    exact, estimate = readings
    assert exact.value[0] > 0.02
    for i in range(2):
        assert_unbiased(estimate.per_state[i], exact.value[i])
        assert (estimate.high - estimate.low)[i].item() == pytest.approx(2 * 1.96 * estimate.per_state[i].std().item() / n**0.5, rel=1e-4)
