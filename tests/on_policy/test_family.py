"""The family's loop: what a batch holds, how it is judged and what is remembered of it, against plain loops."""
import itertools
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from labkit import worlds
from labkit.errors import LabError
from labkit.lanes import Lanes
from labkit.on_policy.family import (
    Shape,
    a2c,
    epochs,
    fit_critic,
    gae,
    minibatches,
    normalised_gae,
    one_step,
    ppo,
    reinforce,
    squared_error,
    unfitted,
)

both = pytest.mark.parametrize("world", ["control.cartpole", "control.pendulum"])
SMALL = Shape(envs=4, steps=30, width=8, minibatches=3)


def short(key, horizon=12):
    world = worlds.make(key)
    world.horizon = horizon
    return world


def collect(key="control.cartpole", seeds=(0, 1), method=ppo, learner=None, **grid):
    """A judged batch of 30 steps with episodes of at most 12, and all that made it."""
    world, lanes, algo = short(key), Lanes(seeds, grid), replace(method, shape=SMALL)
    learner, k = learner or algo.begin(world, lanes), lanes.knobs(algo.knobs)
    batch = algo.collect(algo, world, learner, k)
    algo.judge(learner, batch, k)
    return SimpleNamespace(algo=algo, world=world, learner=learner, batch=batch, k=k)


# begin


def test_a_fresh_learner_is_nearly_uniform_has_two_hidden_layers_and_has_seen_nothing():
    world = short("control.cartpole")
    learner = replace(ppo, shape=SMALL).begin(world, Lanes((0, 1, 2)))
    assert learner.nets["pi"].sizes == (4, 8, 8, 2) and learner.nets["v"].sizes == (4, 8, 8, 1)
    assert learner.head == "categorical" and learner.nets["pi"].free == 0
    obs = world.observe(learner.memory["world"])
    assert obs.shape == (3, 4, 4) and len(obs.flatten(0, 1).unique(dim=0)) == 12
    assert (learner.policy(obs).probs - 0.5).abs().max() < 0.01 and learner.policy(obs).probs.std() > 0
    assert learner.value(obs).abs().max() > 0.01  # only the policy's head is small
    assert learner.memory["return"].isnan().all() and (learner.memory["episode"] == 0).all() and learner.memory["episode"].shape == (3, 4)


def test_a_continuous_policy_has_a_spread_of_its_own_for_each_dimension():
    learner = replace(ppo, shape=SMALL).begin(short("control.pendulum"), Lanes((0,)))
    assert learner.head == "gaussian" and learner.nets["pi"].free == 1 and learner.nets["pi"].sizes[-1] == 1


# collect


@both
def test_rows_follow_one_another_and_episodes_start_afresh(world):
    c = collect(world)
    b = c.batch
    assert b.reward.shape == (2, 30, 4) and c.learner.step == 120
    on = ~b.done[:, :-1]
    assert b.done.any() and torch.equal(b.obs[:, 1:][on], b.next_obs[:, :-1][on])
    assert not (b.obs[:, 1:][~on] == b.next_obs[:, :-1][~on]).all(-1).any()
    assert torch.equal(c.world.observe(c.learner.memory["world"])[~b.done[:, -1]], b.next_obs[:, -1][~b.done[:, -1]])
    again = c.algo.collect(c.algo, c.world, c.learner, c.k)
    on = ~b.done[:, -1]
    assert torch.equal(again.obs[:, 0][on], b.next_obs[:, -1][on]) and c.learner.step == 240


@both
def test_a_batch_keeps_the_policy_that_acted(world):
    c = collect(world)
    flat = c.batch.flat()
    policy = c.learner.policy(flat.obs)
    torch.testing.assert_close(policy.log_prob(flat.action), flat.log_prob)
    for mine, theirs in zip(vars(policy).values(), vars(flat.policy).values(), strict=True):
        torch.testing.assert_close(mine, theirs)


def test_actions_are_drawn_from_the_policy():
    """4,096 first steps from a policy that prefers one action: the share within 4 standard errors."""
    world, algo = short("control.cartpole"), replace(ppo, shape=replace(SMALL, envs=4096, steps=1))
    learner = algo.begin(world, Lanes((0,)))
    with torch.no_grad():
        learner.nets["pi"].theta[:, -2:] = torch.tensor([0.0, 1.5])  # the last layer's bias
    b = algo.collect(algo, world, learner, Lanes((0,)).knobs(ppo.knobs))
    p = b.policy.probs[..., 1].mean()
    assert p > 0.8 and (b.action.float().mean() - p).abs() < 4 * (p * (1 - p) / 4096).sqrt()


def test_whole_episodes_start_afresh_and_reach_their_end():
    c = collect(method=reinforce)
    c.learner.memory["episode"] += 5
    again = c.algo.collect(c.algo, c.world, c.learner, c.k)
    assert again.reward.shape[1] == 12 and again.done.any(1).all()
    assert (again.obs[:, 0].abs() <= 0.05).all()  # where CartPole starts
    assert (c.learner.memory["episode"] <= 12).all()


@pytest.mark.parametrize("method", [reinforce, ppo])
def test_the_return_is_the_mean_over_the_episodes_that_ended(method):
    c = collect(method=method, seeds=(0, 1, 2))
    learner = c.algo.begin(c.world, c.learner.lanes)
    sums, known = torch.zeros(3, 4, dtype=torch.float64), [float("nan")] * 3
    for _ in range(3):
        b = c.algo.collect(c.algo, c.world, learner, c.k)
        sums = torch.zeros_like(sums) if method is reinforce else sums
        for i in range(3):
            over = []
            for t, e in itertools.product(range(b.reward.shape[1]), range(4)):
                sums[i, e] += b.reward[i, t, e]
                if b.done[i, t, e]:
                    over.append(sums[i, e].item())
                    sums[i, e] = 0
            known[i] = sum(over) / len(over) if over else known[i]
        assert learner.memory["return"].tolist() == pytest.approx(known)
        assert torch.equal(learner.memory["episode"].double(), sums)


def test_where_no_episode_ends_the_last_return_stays():
    c = collect()
    c.learner.memory["return"] = torch.tensor([7.0, 8.0])
    c.world.horizon = 10**6
    algo = replace(c.algo, shape=replace(SMALL, steps=1))
    algo.collect(algo, c.world, c.learner, c.k)
    assert c.learner.memory["return"].tolist() == [7, 8]


def test_a_reward_that_is_no_number_is_told_with_its_lane_unless_the_lane_is_stopped():
    c = collect()
    plain = c.world.step

    def step(state, action, u):
        after, reward, terminated, truncated = plain(state, action, u)
        reward[1, 2] = torch.nan
        return after, reward, terminated, truncated

    c.world.step = step
    with pytest.raises(LabError, match=r"control.cartpole gave a reward that is not finite to lane 1 \(seed 1\) before step 120;"):
        c.algo.collect(c.algo, c.world, c.learner, c.k)
    c.learner.on[1] = False
    c.algo.collect(c.algo, c.world, c.learner, c.k)


# judge


@both
def test_values_are_the_critics_and_those_that_follow_are_of_the_same_episode(world):
    c = collect(world)
    b, shape = c.batch, c.batch.reward.shape
    torch.testing.assert_close(b.value, c.learner.value(b.obs.flatten(1, 2)).view(shape))
    follow = c.learner.value(b.next_obs.flatten(1, 2)).view(shape)
    assert b.truncated.any()
    torch.testing.assert_close(b.next_value[~b.terminated], follow[~b.terminated])
    adv, target = c.algo.advantage(b, c.k)
    assert torch.equal(b.adv, adv) and torch.equal(b.target, target)
    assert not b.value.requires_grad


def test_normalising_leaves_the_critics_target_alone():
    c = collect(seeds=(0, 1, 2))
    raw, target = gae(c.batch, c.k)
    adv, same = normalised_gae(c.batch, c.k)
    flat = raw.flatten(1)
    expected = (flat - flat.mean(1, keepdim=True)) / flat.std(1, unbiased=False, keepdim=True)
    torch.testing.assert_close(adv.flatten(1), expected, rtol=1e-4, atol=1e-5)
    assert torch.equal(target, same)


# batches


def test_samples_are_joined_in_order_and_taken_by_lane():
    b = collect().batch
    flat = b.flat()
    assert torch.equal(flat.obs[1, 4 * 7 + 2], b.obs[1, 7, 2]) and torch.equal(flat.policy.logits[0, 4 * 3 + 1], b.policy.logits[0, 3, 1])
    rows = torch.tensor([[5, 0, 119], [119, 3, 3]])
    part = flat.take(rows)
    for i, j in itertools.product(range(2), range(3)):
        assert torch.equal(part.obs[i, j], flat.obs[i, rows[i, j]]) and part.adv[i, j] == flat.adv[i, rows[i, j]]
        assert torch.equal(part.policy.logits[i, j], flat.policy.logits[i, rows[i, j]])
    assert torch.equal(b.done, b.terminated | b.truncated)
    assert flat.info is b.info


# improve


def test_each_lane_has_its_own_number_of_passes_and_each_pass_its_own_order():
    c = collect(seeds=(0, 1), epochs=(1.0, 3.0))
    parts = list(minibatches(c.algo, c.learner, c.batch, c.k))
    assert [where.tolist() for _, where in parts] == 3 * [[True] * 4] + 6 * [[False, False, True, True]]
    assert all(part.reward.shape == (4, 40) for part, _ in parts)
    first, second = (torch.cat([part.adv for part, _ in parts[i : i + 3]], 1) for i in (0, 3))
    assert torch.equal(first.sort(1).values, second.sort(1).values) and not torch.equal(first, second)
    assert not torch.equal(first[0].argsort(), first[1].argsort())  # seeds shuffle differently
    more = next(minibatches(c.algo, c.learner, c.batch, c.k))[0].adv
    assert not torch.equal(more, parts[0][0].adv)  # and so do updates


@pytest.mark.parametrize("improve", [one_step, epochs])
def test_gradients_are_clipped_to_a_norm_of_a_half(improve):
    """After one step of Adam its first moment is a tenth of the gradient."""
    c = collect(epochs=(1.0,))
    algo = replace(c.algo, shape=replace(SMALL, minibatches=1))
    c.batch.adv, c.batch.target = 1e4 * c.batch.adv, c.batch.target + 1e4
    before = {name: c.learner.nets[name].theta.detach().clone() for name in ("pi", "v")}
    improve(algo, c.learner, c.batch, c.k)
    for name, theta in before.items():
        net = c.learner.nets[name]
        torch.testing.assert_close(net.moments[0].norm(dim=1), torch.full((2,), 0.05), rtol=1e-4, atol=0)
        moved = (net.theta - theta).abs().amax(1)
        torch.testing.assert_close(moved, c.k.lr[:, 0], rtol=1e-2, atol=0)  # Adam's first step is lr


def test_the_critic_takes_no_step_where_it_is_told_not_to_and_none_without_an_error():
    c = collect()
    before = c.learner.nets["v"].theta.clone()
    fit_critic(c.algo, c.learner, c.batch.flat(), c.k, torch.tensor([True, False]))
    assert (before != c.learner.nets["v"].theta).any(1).tolist() == [True, False]
    other = c.algo.begin(c.world, c.learner.lanes)
    start = other.nets["v"].theta.clone()
    fit_critic(replace(c.algo, value=unfitted), other, c.batch.flat(), c.k, torch.tensor([True, True]))
    assert torch.equal(start, other.nets["v"].theta)


# run


@pytest.mark.parametrize("method", [reinforce, a2c, ppo])
def test_a_run_goes_on_from_a_snapshot_and_tells_what_its_batch_told(method):
    def noted(algo, learner, batch, k):
        method.improve(algo, learner, batch, k)
        batch.info["mark"] = torch.full((2,), 3.0)

    world, lanes, algo = short("control.cartpole"), Lanes((0, 1)), replace(method, shape=SMALL, improve=noted)
    first, second, third = itertools.islice(algo.run(world, lanes), 3)
    again = next(algo.run(world, lanes, second.learner))
    assert torch.equal(again.learner.nets["pi"].theta, third.learner.nets["pi"].theta) and again.step == third.step
    assert not torch.equal(first.learner.nets["pi"].theta, second.learner.nets["pi"].theta)
    steps = 12 if method is reinforce else 30
    assert (first.step, second.step) == (4 * steps, 8 * steps)
    assert first.metrics.keys() == {"return", "mark"} and torch.equal(first.metrics["return"], first.learner.memory["return"])


def test_the_critics_loss_is_the_square_of_its_error():
    prediction, target = torch.tensor([[1.0, -2.0]], requires_grad=True), torch.tensor([[3.0, -1.0]])
    loss = squared_error(prediction, target, SimpleNamespace())
    assert loss.tolist() == [[4.0, 1.0]]
    assert torch.autograd.grad(loss.sum(), prediction)[0].tolist() == [[-4.0, -2.0]]
