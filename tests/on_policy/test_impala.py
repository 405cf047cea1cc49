"""impala: V-trace against its definition and on an exact MDP, where it is a2c, and whose policy acts."""
import itertools
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from labkit import worlds
from labkit.lanes import Lanes
from labkit.on_policy.family import Batch, a2c, gae
from labkit.on_policy.impala import OLDEST, impala, vtrace
from labkit.paper import changed
from labkit.worlds.finite import advantage, garnet, values

both = pytest.mark.parametrize("world", ["control.cartpole", "control.pendulum"])


def knobs(**settings):
    return SimpleNamespace(**{name: torch.tensor([[float(value)]], dtype=torch.float64) for name, value in settings.items()})


def test_it_changes_who_acts_and_how_that_is_judged():
    assert changed(impala, a2c) == ["collect", "advantage"]


# V-trace


def random_batch(T=9, E=3, on_policy=False):
    g = torch.Generator().manual_seed(0)
    reward, value, log_prob, acted = torch.randn(4, 1, T, E, generator=g, dtype=torch.float64)
    terminated, truncated = torch.rand(2, 1, T, E, generator=g) < 0.15
    batch = Batch(None, None, log_prob, None, reward, terminated, truncated & ~terminated, None)
    batch.value, batch.acted = value, log_prob if on_policy else acted
    batch.next_value = torch.cat([value[:, 1:], torch.randn(1, 1, E, generator=g, dtype=torch.float64)], 1)
    return batch


def test_targets_are_the_sum_of_the_papers_definition():
    """v_s = V_s + sum over t >= s of gamma^(t-s) (product of c from s to t-1) rho_t delta_t, until the episode ends."""
    batch, gamma, lam, rho_bar, c_bar = random_batch(), 0.9, 0.8, 1.3, 0.7
    rho, _, target = vtrace(batch, knobs(gamma=gamma, lam=lam, rho_bar=rho_bar, c_bar=c_bar))
    for e, s in itertools.product(range(3), range(9)):
        total, factor = float(batch.value[0, s, e]), 1.0
        for t in range(s, 9):
            w = float((batch.log_prob - batch.acted)[0, t, e].exp())
            following = 0.0 if batch.terminated[0, t, e] else float(batch.next_value[0, t, e])
            delta = float(batch.reward[0, t, e]) + gamma * following - float(batch.value[0, t, e])
            total += factor * min(rho_bar, w) * delta
            factor *= gamma * lam * min(c_bar, w)
            if batch.done[0, t, e]:
                break
        assert float(target[0, s, e]) == pytest.approx(total, abs=1e-12)
        w = float((batch.log_prob - batch.acted)[0, s, e].exp())
        assert float(rho[0, s, e]) == pytest.approx(min(rho_bar, w))


def test_advantages_bootstrap_from_the_next_target():
    """r_t + gamma (lam v_t+1 + (1 - lam) V_t+1) - V_t; where an episode is over or cut, what the critic says of its end."""
    batch, gamma, lam = random_batch(), 0.9, 0.6
    _, adv, target = vtrace(batch, knobs(gamma=gamma, lam=lam, rho_bar=1, c_bar=1))
    inside = torch.where(batch.done[:, :-1], batch.next_value[:, :-1], lam * target[:, 1:] + (1 - lam) * batch.next_value[:, :-1])
    following = torch.cat([inside, batch.next_value[:, -1:]], 1) * ~batch.terminated
    torch.testing.assert_close(adv, batch.reward + gamma * following - batch.value)


@pytest.mark.parametrize("lam", [0.0, 0.7, 1.0])
def test_where_the_policy_acts_itself_it_is_gae_bit_for_bit(lam):
    batch = random_batch(on_policy=True)
    rho, adv, target = vtrace(batch, knobs(gamma=0.9, lam=lam, rho_bar=1, c_bar=1))
    expected = gae(batch, knobs(gamma=0.9, lam=lam))
    assert torch.equal(adv, expected[0]) and torch.equal(target, expected[1]) and (rho == 1).all()


def test_without_traces_it_is_the_weighted_one_step_target():
    batch = random_batch()
    rho, _, target = vtrace(batch, knobs(gamma=0.9, lam=1, rho_bar=2, c_bar=0))
    delta = batch.reward + 0.9 * batch.next_value * ~batch.terminated - batch.value
    torch.testing.assert_close(target, batch.value + rho * delta)


# on an exact MDP

WORLD, GAMMA, STEPS = garnet(states=3, actions=2, branching=2, seed=5, gamma=0.8), 0.8, 4
MU, PI = (Lanes((seed,)).rand(0, 3, 2).double().mul(3).softmax(-1) for seed in (1, 2))


def every_path(value):
    """All paths of STEPS steps from all states as environments of one lane, the chance of each under MU, and its first state and action."""
    P, r = WORLD.mdp.P[0], WORLD.mdp.r[0]
    paths = torch.tensor([p for p in itertools.product(range(3), *[range(6)] * STEPS)])
    s, (a, after) = [paths[:, 0]], (paths[:, 1:] % 2, paths[:, 1:] // 2)
    for t in range(STEPS):
        s.append(after[:, t])
    s = torch.stack(s)  # (T + 1, N)
    a = a.T
    chance = (MU[0, s[:-1], a] * P[s[:-1], a, s[1:]]).prod(0)
    kept = chance > 0
    s, a, chance = s[:, kept], a[:, kept], chance[kept]
    never = torch.zeros(1, *a.shape, dtype=torch.bool)
    batch = Batch(None, a[None], PI.log()[0, s[:-1], a][None], None, r[s[:-1], a][None], never, never, None)
    batch.acted, batch.value, batch.next_value = MU.log()[0, s[:-1], a][None], value[s[:-1]][None], value[s[1:]][None]
    return batch, chance, s[0], a[0]


def truncated_policy(rho_bar):
    """pi_rho_bar of the paper's eq. 3: min(rho_bar mu, pi), made to sum to 1."""
    low = torch.minimum(rho_bar * MU, PI)
    return low / low.sum(-1, keepdim=True)


@pytest.mark.parametrize("rho_bar", [0.5, 1.0, 1.2, 1e9])
@pytest.mark.parametrize("c_bar", [0.0, 1.0])
def test_the_fixed_point_is_the_value_of_the_truncated_policy(rho_bar, c_bar):
    """Enumerated over all paths: at V of pi_rho_bar the mean target is V itself, exactly; at V of pi it is not, unless nothing is cut."""
    moved = []
    for policy in (truncated_policy(rho_bar), PI):
        v = values(WORLD.mdp, policy)[1][0]
        batch, chance, first, _ = every_path(v)
        target = vtrace(batch, knobs(gamma=GAMMA, lam=0.9, rho_bar=rho_bar, c_bar=c_bar))[2]
        mean = torch.zeros(3, dtype=torch.float64).index_add(0, first, chance * target[0, 0])
        moved.append((mean - v).abs().max().item())
    assert moved[0] < 1e-12
    assert moved[1] < 1e-12 if rho_bar > 1e6 else moved[1] > 1e-3


@pytest.mark.parametrize("lam", [0.0, 0.5, 1.0])
def test_with_the_exact_critic_and_uncut_weights_the_mean_advantage_is_exact(lam):
    batch, chance, first, action = every_path(values(WORLD.mdp, PI)[1][0])
    _, adv, _ = vtrace(batch, knobs(gamma=GAMMA, lam=lam, rho_bar=1e9, c_bar=1e9))
    each = first * 2 + action
    total, mean = (torch.zeros(6, dtype=torch.float64).index_add(0, each, x) for x in (chance, chance * adv[0, 0]))
    torch.testing.assert_close((mean / total).view(3, 2), advantage(WORLD.mdp, PI)[0], rtol=0, atol=1e-12)


# the method


@both
def test_without_lag_it_is_a2c_bit_for_bit(world):
    shape, world = replace(a2c.shape, envs=4, steps=32, width=8), worlds.make(world)
    grids = ((a2c, {}), (impala, {"lag": (0,), "lam": (a2c.knobs["lam"].default,)}))
    for _, one, other in zip(range(4), *(replace(m, shape=shape).run(world, Lanes((0, 1), grid)) for m, grid in grids), strict=False):
        assert all(torch.equal(one.learner.nets[name].theta, other.learner.nets[name].theta) for name in ("pi", "v"))
        assert (other.metrics["weight"] == 1).all()


@both
def test_the_acting_policy_is_as_old_as_the_lag_says(collected, world):
    c = collected(impala, world, lanes=Lanes((0, 1), {"lag": (0, 1, 3, OLDEST), "lr": (0.01,)}), updates=0)
    ages = [c.learner.copy()]
    for _ in range(5):
        c.algo.improve(c.algo, c.learner, c.batch, c.k)
        ages.append(c.learner.copy())
        c.batch = c.algo.collect(c.algo, c.world, c.learner, c.k)
        c.algo.judge(c.learner, c.batch, c.k)
    flat = c.batch.flat()
    for lane, age in enumerate((0, 0, 1, 1, 3, 3, 5, 5)):
        off = [(old.policy(flat.obs).log_prob(flat.action)[lane] - flat.acted[lane]).abs().max().item() for old in reversed(ages)]
        assert off[age] < 1e-5 and all(x > 1e-3 for i, x in enumerate(off) if i != age)


@both
def test_what_the_surrogate_raises_is_the_weighted_advantage(collected, world):
    c = collected(impala, world, lanes=Lanes((0, 1), {"lr": (0.03,)}), updates=6)
    rho, adv, target = vtrace(c.batch, c.k)
    assert rho.min() > 0 and (rho < 1).any() and rho.max() <= 1
    weighted = c.batch.adv / rho
    assert weighted.mean((1, 2)).abs().max() < 1e-4 and (weighted.square().mean((1, 2)) - 1).abs().max() < 1e-3
    assert torch.equal(c.batch.target, target) and torch.equal(c.batch.info["weight"], rho.mean((1, 2)))
    correlation = torch.corrcoef(torch.stack([weighted[0].flatten(), adv[0].flatten()]))[0, 1]
    assert correlation > 0.9999
