"""exit_time_pg: over all paths its mean is the exact gradient; after the exit nothing counts; the frozen exit is another gradient."""
import itertools
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from labkit.lanes import Lanes
from labkit.on_policy.exit_time_pg import exit_time_pg, paid_at_exit, relaxed
from labkit.on_policy.family import Shape, batch_of, policy_loss, reinforce
from labkit.paper import changed
from labkit.worlds.repurchase import Repurchase

WORLD = Repurchase(dates=3, shares=2)
EVERY = list(itertools.product(itertools.product((0, 1), repeat=3), repeat=2))  # buys and rises


def test_it_changes_value_and_advantage():
    assert changed(exit_time_pg, reinforce) == ["value", "advantage"]


def small():
    """The method with a small network in double precision, whose last layer is large enough to matter."""
    algo = replace(exit_time_pg, shape=Shape(envs=4, width=5, minibatches=1))
    learner = algo.begin(WORLD, Lanes((0,)))
    for net in learner.nets.values():
        noise = torch.randn(net.theta.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
        net.theta = (net.theta.detach() + 0.5 * noise).requires_grad_()
    return algo, learner


@torch.no_grad()
def whole_tree(algo, learner, critic):
    """All 64 paths side by side, judged, (1, 3, 64), and the chance of each."""
    buys, rises = (torch.tensor(x).T for x in zip(*EVERY, strict=True))
    state, rows = WORLD.reset(torch.zeros(1, 64, 0)), []
    for buy, rise in zip(buys, rises, strict=True):
        obs = WORLD.observe(state).double()
        state, reward, terminated, truncated = WORLD.step(state, buy[None], 0.9 * (1 - rise[None, :, None].float()))
        rows.append((obs, buy[None], reward.double(), terminated, truncated, WORLD.observe(state).double()))
        state = WORLD.restart(state, terminated | truncated, torch.zeros(1, 64, 0))
    names = ("obs", "action", "reward", "terminated", "truncated", "next_obs")
    batch = batch_of(learner, **{name: torch.stack(x, 1) for name, x in zip(names, zip(*rows, strict=True), strict=True)})
    k = SimpleNamespace(critic=torch.tensor([[critic]]).double(), ent=torch.zeros(1, 1).double())
    algo.judge(learner, batch, k)
    return batch, k, batch.log_prob.sum(1)[0].exp() / 8


def exact_value(learner, theta):
    """The exact value (1,) with parameters theta."""
    out, _ = learner.nets["pi"](WORLD.nodes().double()[None], theta)
    return WORLD.value(out.softmax(-1)[..., 1])


def test_over_the_whole_tree_the_score_gives_the_exact_gradient():
    algo, learner = small()
    batch, k, chance = whole_tree(algo, learner, 0.0)
    batch.adv = batch.adv * 64 * chance  # the loss is a mean over paths, the expectation weighs each by its chance
    ours = -learner.gradient("pi", policy_loss(algo, learner, batch.flat(), k))[0]
    theta = learner.nets["pi"].theta
    exact = torch.autograd.grad(exact_value(learner, theta).sum(), theta)[0][0]
    steps = 1e-5 * torch.eye(theta.shape[1], dtype=torch.float64)
    differences = torch.cat([exact_value(learner, theta + h) - exact_value(learner, theta - h) for h in steps]).detach() / 2e-5
    torch.testing.assert_close(exact, differences, rtol=0, atol=1e-8)
    torch.testing.assert_close(ours, exact, rtol=0, atol=1e-7)  # rewards and observations have single precision
    assert exact.norm() > 0.01


def test_with_the_right_critic_the_rise_gives_the_same_mean():
    """E[V(X_i+1) | X_i, a] is all that the score needs of g: checked with the exact V in the critic's place."""
    algo, learner = small()
    batch, k, chance = whole_tree(algo, learner, 1.0)
    tree = {}  # what was seen -> V, by the mean of g over all paths that come by, weighted by their chances
    running = batch.target != batch.value
    for t, path in running[0].nonzero().tolist():
        seen = tuple(batch.obs[0, t, path].tolist())
        spent = (batch.action[0, :t, path] * batch.obs[0, :t, path, 1]).sum()
        tree.setdefault(seen, []).append((chance[path], batch.target[0, t, path] + spent, spent))
    for t, path in running[0].nonzero().tolist():
        weight, g, _ = (torch.stack(x) for x in zip(*tree[tuple(batch.obs[0, t, path].tolist())], strict=True))
        spent = (batch.action[0, :t, path] * batch.obs[0, :t, path, 1]).sum()
        batch.value[0, t, path] = (weight * g).sum() / weight.sum() - spent
    batch.next_value = torch.cat([batch.value[:, 1:], batch.value[:, -1:]], 1)
    found = []
    for critic in (0.0, 1.0):
        k.critic = torch.tensor([[critic]]).double()
        batch.adv, _ = paid_at_exit(batch, k)
        batch.adv = batch.adv * 64 * chance
        found.append(learner.gradient("pi", policy_loss(algo, learner, batch.flat(), k)))
    torch.testing.assert_close(*found, rtol=0, atol=1e-6)


def test_steps_after_the_exit_count_for_nothing_and_the_critic_leaves_them_alone():
    algo, learner = small()
    batch, *_ = whole_tree(algo, learner, 0.5)
    after = torch.cat([torch.zeros(1, 1, 64, dtype=torch.bool), batch.done.cumsum(1)[:, :-1] > 0], 1)
    assert after.any() and not batch.adv[after].any() and torch.equal(batch.target[after], batch.value[after])
    paid = batch.reward[0].T[(batch.done.cumsum(1).cumsum(1) == 1)[0].T]  # of each path's exit
    assert torch.equal(batch.target[~after], paid.expand(1, 3, -1)[~after])


def test_where_the_episode_stops_the_rise_ends_at_what_is_paid():
    algo, learner = small()
    batch, *_ = whole_tree(algo, learner, 1.0)
    exits = batch.done & (batch.done.cumsum(1) == 1)
    torch.testing.assert_close(batch.adv[exits] / 3, batch.reward[exits] - batch.value[exits])


def constant(chance):
    """A learner that buys with the same chance everywhere."""
    _, learner = small()
    net = learner.nets["pi"]
    theta = torch.zeros_like(net.theta)
    theta[:, -1] = torch.tensor(chance / (1 - chance), dtype=torch.float64).log()
    net.theta = theta.float().requires_grad_()
    return learner


def test_a_share_is_bought_in_parts():
    paid = relaxed(WORLD, learner := constant(0.6), torch.arange(8)[None])
    price, average = WORLD.paths
    expected = 2 * average[:, 3] - 0.6 * price[:, :3].sum(1) - 2.0 * (2 - 1.8)
    torch.testing.assert_close(paid[0].double(), expected, rtol=0, atol=1e-5)
    slope = torch.autograd.grad(paid.mean(), learner.nets["pi"].theta)[0][0, -1]
    assert slope.item() == pytest.approx((3 * 2.0 - 3) * 0.6 * 0.4, abs=1e-4)  # three parts save the penalty and cost their prices


def test_the_slope_of_a_path_misses_the_jump_where_the_exit_moves():
    """Across the chance at which the second date becomes the last, prices rising: a jump of 2 (A_3 - A_2); the slope sees none of it."""
    early, late = (relaxed(WORLD, constant(chance), torch.tensor([[0]])) for chance in (0.9997, 0.9993))
    average = WORLD.paths[1][0]
    assert (late - early).item() == pytest.approx(2 * (average[3] - average[2]).item(), abs=2e-3)
    assert 2 * (average[3] - average[2]) > 0.05
    paid = relaxed(WORLD, learner := constant(0.9993), torch.tensor([[0]]))
    slope = torch.autograd.grad(paid.sum(), learner.nets["pi"].theta)[0][0, -1]
    assert abs(slope) < 1e-3
