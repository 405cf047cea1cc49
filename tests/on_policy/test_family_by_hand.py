"""Pieces of the family, worked out by hand: baseline, entropy bonus, the critic's step, returns, values after a cut."""
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from labkit import worlds
from labkit.errors import LabError
from labkit.lanes import Lanes
from labkit.on_policy.family import Shape, _tally, a2c, fit_critic, policy_loss, reinforce, reward_to_go, unfitted


def test_the_baseline_is_the_mean_return_of_the_others_still_running():
    """Three episodes of 1, 2 and 4 steps: gamma^t (G_t - b_t) T, plain loops."""
    reward = torch.tensor([[3.0, 1.0, -2.0], [5.0, 4.0, 1.0], [5.0, 5.0, 6.0], [5.0, 5.0, -1.0]], dtype=torch.float64)
    done = torch.tensor([[1, 0, 0], [0, 1, 0], [1, 1, 0], [1, 1, 1]], dtype=torch.bool)
    k = SimpleNamespace(gamma=torch.tensor([[0.9], [0.5]]).double(), baseline=torch.tensor([[1.0], [0.25]]).double())
    adv, target = reward_to_go(SimpleNamespace(reward=reward.expand(2, -1, -1), done=done.expand(2, -1, -1)), k)
    lengths = (1, 2, 4)
    for lane, (gamma, weight) in enumerate(zip(k.gamma[:, 0].tolist(), k.baseline[:, 0].tolist(), strict=True)):
        go = torch.zeros(4, 3, dtype=torch.float64)
        for e, n in enumerate(lengths):
            for t in range(n):
                go[t, e] = sum(gamma ** (u - t) * reward[u, e] for u in range(t, n))
        torch.testing.assert_close(target[lane], go, rtol=0, atol=1e-14)
        for e, n in enumerate(lengths):
            for t in range(4):
                others = [go[t, i] for i, m in enumerate(lengths) if i != e and t < m]
                baseline = weight * sum(others) / len(others) if others else 0.0
                assert adv[lane, t, e].item() == pytest.approx(4 * gamma**t * float(go[t, e] - baseline) if t < n else 0.0)


def test_the_loss_is_minus_the_mean_surrogate_and_the_entropy_bonus(tiny):
    c = tiny(a2c, Lanes((0, 1), {"ent": (0.0, 0.1)}))
    flat, pi = c.batch.flat(), c.learner.nets["pi"]
    pi.move(pi.theta + torch.linspace(-1, 1, 12), c.learner.on)  # ratios are no longer 1
    probs = c.learner.policy(flat.obs).probs.detach()
    ratio = probs.gather(-1, flat.action[..., None])[..., 0] / flat.log_prob.exp()
    entropy = -(probs * probs.log()).sum(-1).mean(1)
    expected = -(ratio * flat.adv).mean(1) - torch.tensor([0.0, 0.0, 0.1, 0.1]) * entropy
    torch.testing.assert_close(policy_loss(c.algo, c.learner, flat, c.k).detach(), expected, rtol=1e-6, atol=1e-8)


def test_the_critics_gradient_is_the_mean_of_its_errors(tiny):
    """After one step of Adam its first moment is a tenth of the gradient, here too small to be clipped."""
    c = tiny(a2c, Lanes((0, 1)), torch.float32)
    flat, net = c.batch.flat(), c.learner.nets["v"]
    state, value = flat.obs.argmax(-1), net.theta.detach().clone()
    flat.target = value.gather(1, state) + torch.linspace(-0.1, 0.2, 8)
    expected = torch.zeros(2, 4).scatter_add_(1, state, 2 * (value.gather(1, state) - flat.target) / 8)
    assert expected.norm(dim=1).min() > 0.01 and expected.norm(dim=1).max() < 0.5
    fit_critic(c.algo, c.learner, flat, c.k, c.learner.on[:, 0])
    torch.testing.assert_close(net.moments[0], 0.1 * expected, rtol=1e-4, atol=1e-7)


def test_one_episode_that_ends_is_the_return(tiny):
    learner = tiny(a2c, Lanes((0, 1))).learner
    learner.memory |= {"episode": torch.tensor([[1.0, 10.0], [2.0, 20.0]]), "return": torch.tensor([7.0, 8.0])}
    reward = torch.tensor([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]).expand(2, -1, -1)
    done = torch.zeros(2, 3, 2, dtype=torch.bool)
    done[0, 1, 1] = True
    _tally(learner, reward, done)
    assert learner.memory["return"].tolist() == [10 + 2 + 4, 8]
    assert learner.memory["episode"].tolist() == [[1 + 1 + 3 + 5, 6], [2 + 9, 20 + 12]]


def test_values_after_a_cut_are_of_the_state_where_it_was_cut(tiny):
    """The last cut but one is enough to look at next_obs; elsewhere the next row's value stands in."""
    c = tiny(a2c, Lanes((0, 1)))
    b, value = c.batch, c.learner.nets["v"].theta.detach()
    b.terminated, b.truncated = (torch.zeros(2, 4, 2, dtype=torch.bool) for _ in range(2))
    b.truncated[0, 2, 1] = True
    b.next_obs = torch.cat([b.obs[:, 1:], b.obs[:, :1]], 1)
    b.next_obs[0, 2, 1] = torch.eye(4)[(b.obs[0, 3, 1].argmax() + 1) % 4]
    a2c.judge(c.learner, b, c.k)
    state, after = b.obs.argmax(-1), b.next_obs.argmax(-1)
    for lane, t, e in torch.cartesian_prod(torch.arange(2), torch.arange(4), torch.arange(2)).tolist():
        assert b.value[lane, t, e] == value[lane, state[lane, t, e]] and b.next_value[lane, t, e] == value[lane, after[lane, t, e]]
    assert b.next_value[0, 2, 1] != b.value[0, 3, 1]


def test_no_critic_loses_nothing_even_at_zero():
    prediction = torch.tensor([0.0, 2.0], requires_grad=True)
    loss = unfitted(prediction, torch.ones(2), SimpleNamespace())
    assert loss.tolist() == [0, 0] and torch.autograd.grad(loss.sum(), prediction)[0].tolist() == [0, 0]


def test_part_of_a_batch_gathers_a_field_once(tiny):
    part = tiny(a2c, Lanes((0, 1))).batch.flat().take(torch.tensor([[0, 3], [2, 1]]))
    assert part.adv is part.adv


def test_whole_episodes_begin_with_as_many_environments_as_asked():
    """Three, where CartPole takes four numbers to begin."""
    algo, world, lanes = replace(reinforce, shape=Shape(envs=3, width=4)), worlds.make("control.cartpole"), Lanes((0,))
    world.horizon = 2
    assert algo.collect(algo, world, algo.begin(world, lanes), lanes.knobs(algo.knobs)).reward.shape == (1, 2, 3)


@pytest.mark.parametrize("wrong", [{"envs": 2.5}, {"steps": 0}, {"width": -1}, {"kept": 0}, {"envs": 2, "steps": 3, "minibatches": 7}])
def test_shapes_are_whole_and_large_enough(wrong):
    with pytest.raises(LabError):
        Shape(**wrong)
    assert Shape(envs=2, steps=3, minibatches=6).minibatches == 6


def test_a_worlds_name_is_not_a_world():
    with pytest.raises(LabError, match="a2c needs a World"):
        next(a2c.run("control.cartpole", Lanes((0,))))
