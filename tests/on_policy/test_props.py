"""props: with no room to lean it is on-policy bit for bit; with room, its data match the policy better."""
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from labkit import worlds
from labkit.divergence import kl
from labkit.lanes import Lanes
from labkit.on_policy.family import ppo
from labkit.on_policy.props import EVERY, correct, leaning, props, repetition
from labkit.paper import changed

both = pytest.mark.parametrize("world", ["control.cartpole", "control.pendulum"])


def test_it_changes_the_collection_alone():
    assert changed(props, ppo) == ["collect"]


@both
def test_without_room_and_buffer_it_is_ppo_bit_for_bit(world):
    shape, world = replace(ppo.shape, envs=4, steps=2 * EVERY, width=8), worlds.make(world)
    runs = (replace(a, shape=shape).run(world, Lanes((0, 1), grid)) for a, grid in ((ppo, {}), (props, {"d": (0.0,)})))
    for _, one, other in zip(range(4), *runs, strict=False):
        assert torch.equal(one.learner.nets["pi"].theta, other.learner.nets["pi"].theta)
        assert torch.equal(one.learner.nets["v"].theta, other.learner.nets["v"].theta) and one.step == other.step
        assert torch.equal(one.learner.memory["episode"], other.learner.memory["episode"])


def test_the_buffer_holds_the_last_batches_and_judges_them_by_the_policy_of_now(collected):
    c = collected(props, lanes=Lanes((0, 1), {"d": (0.0,)}), updates=0, kept=3, envs=2)
    batches = [c.batch]
    for _ in range(3):
        batches.append(c.algo.collect(c.algo, c.world, c.learner, c.k))
        with torch.no_grad():
            c.learner.nets["pi"].theta += 0.1
    assert [b.reward.shape[2] for b in batches] == [2, 4, 6, 6]
    last = c.algo.collect(c.algo, c.world, c.learner, c.k)
    assert torch.equal(last.obs[:, :, :4], batches[-1].obs[:, :, 2:]) and torch.equal(last.action[:, :, :4], batches[-1].action[:, :, 2:])
    now = c.learner.policy(last.obs.flatten(1, 2)).log_prob(last.action.flatten(1, 2))
    assert torch.equal(now, last.log_prob.flatten(1, 2)) and not torch.equal(last.log_prob[:, :, :4], batches[-1].log_prob[:, :, 2:])


def test_behaviour_is_corrected_every_few_steps_by_all_that_is_at_hand(collected, monkeypatch):
    c, seen = collected(props, updates=0, envs=2, steps=3 * EVERY), []
    monkeypatch.setattr("labkit.on_policy.props.correct", lambda learner, obs, action, k: seen.append((obs.shape[1], action.shape[1])))
    learner = c.algo.begin(c.world, c.learner.lanes)
    for _ in range(2):
        c.algo.collect(c.algo, c.world, learner, c.k)
    assert seen == [(2 * EVERY * i, 2 * EVERY * i) for i in (1, 2, 3, 4, 5)]


@both
def test_the_first_gradient_is_that_of_the_mean_log_probability(collected, world):
    c = collected(props, world)
    flat, net = c.batch.flat(), c.learner.nets["behaviour"]
    net.move(c.learner.nets["pi"].theta, c.learner.on)
    now = leaning(c.learner, flat.obs)
    loss = repetition((now.log_prob(flat.action) - flat.log_prob).exp(), kl(flat.policy, now).mean(1), c.k)
    score = torch.autograd.grad(leaning(c.learner, flat.obs).log_prob(flat.action).mean(1).sum(), net.theta)[0]
    torch.testing.assert_close(c.learner.gradient("behaviour", loss), score, rtol=1e-4, atol=1e-6)


def test_repetition_pushes_down_until_the_clip_and_pulls_back_what_rose():
    ratio = torch.tensor([[0.5, 0.9, 1.1, 2.0]], requires_grad=True)
    k = SimpleNamespace(e=torch.tensor([[0.3]]), tie=torch.tensor([[0.0]]))
    slope = torch.autograd.grad(repetition(ratio, torch.zeros(1), k).sum(), ratio)[0]
    torch.testing.assert_close(slope, torch.tensor([[0.0, 0.25, 0.25, 0.25]]))


@both
def test_behaviour_leans_no_further_than_one_step_beyond_d_and_against_the_data(collected, world):
    lanes = Lanes((0, 1), {"d": (0.0, 0.001, 0.5), "pushes": (16,)})
    c = collected(props, world, lanes=lanes)
    flat = c.batch.flat()
    c.learner.nets["behaviour"].move(c.learner.nets["pi"].theta, c.learner.on)
    correct(c.learner, flat.obs, flat.action, c.k)
    now = leaning(c.learner, flat.obs)
    gap = kl(c.learner.policy(flat.obs), now).mean(1)
    assert (gap[:2] == 0).all() and (gap[2:4] < 0.01).all() and (gap[4:] > 0).all()
    assert ((now.log_prob(flat.action) - flat.log_prob).mean(1)[2:] < 0).all()
