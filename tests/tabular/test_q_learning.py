"""Learning from steps: q_learning and what it shares with the methods built on it, against sample means, backups and exact values."""
import itertools
from dataclasses import replace

import pytest
import torch

from labkit import worlds
from labkit.errors import LabError
from labkit.lanes import Lanes
from labkit.tabular.family import Shape, exact_pg
from labkit.tabular.q_learning import learn, q_learning
from labkit.tabular.sampling import BLOCK, Step, after, walk
from labkit.worlds.finite import from_table, lookahead, sampled, stationary
from labkit.worlds.moving import reversing

single = replace(q_learning, shape=Shape(stride=1))


def run(world, steps, lanes, method=single):
    return list(itertools.islice(method.run(world, lanes), steps))


def garnet(seeds=3, **options):
    return worlds.make("finite.garnet", states=4, actions=2, branching=2, seed=range(seeds), **options)


def test_without_a_future_and_with_equal_weights_values_are_sample_means():
    """gamma = 0, alpha = omega = 1: Q(s, a) is r(s, a) where it was tried, 0 elsewhere."""
    world = garnet(gamma=0.0)
    last = after(q_learning, world, Lanes(range(3), {"alpha": (1.0,), "omega": (1.0,), "eps": (1.0,)}), 300)
    tried = last.memory["n"] > 0
    torch.testing.assert_close(last.memory["q"], torch.where(tried, world.mdp.r, 0.0), rtol=0, atol=1e-12)
    assert tried.all() and last.memory["n"].sum().item() == 3 * 300


def test_equal_weights_average_all_targets():
    """alpha = omega = 1 on one pair whose targets differ: by hand."""
    world = from_table(next=[[0]], reward=[[1.0]], done=[[False]], mu=[1.0], gamma=0.5)
    q, mean = 0.0, 0.0
    for n, s in enumerate(run(world, 5, Lanes((0,), {"alpha": (1.0,), "omega": (1.0,)})), start=1):
        target = 1 + 0.5 * q
        mean += (target - mean) / n
        q = mean
        assert s.learner.memory["q"].item() == pytest.approx(q, abs=1e-12)


def test_without_a_step_nothing_is_learnt():
    first, *_, last = run(garnet(), 50, Lanes(range(3), {"alpha": (0.0,)}))
    assert not last.learner.memory["q"].any() and torch.equal(first.learner.memory["log_pi"], last.learner.memory["log_pi"])


def test_a_sweep_of_whole_steps_in_a_sure_world_is_a_backup():
    """alpha = 1, each pair once, from the same Q: the optimality equation applied once."""
    mdp = worlds.make("finite.garnet", states=4, actions=2, branching=1, gamma=0.9).mdp
    lanes = Lanes((0,), {"alpha": (1.0,)})
    learner, k = run(sampled(mdp), 1, lanes)[0].learner, lanes.knobs(q_learning.knobs)
    q = learner.memory["q"] = Lanes((0,)).rand(1, 4, 2).double()
    swept = torch.zeros_like(q)
    for pair in range(8):
        follows = mdp.P.view(8, 4)[pair].argmax(-1, keepdim=True)
        step = Step(mdp, torch.tensor([pair]), mdp.r.view(-1)[[pair]], follows, torch.tensor([False]))
        swept.view(-1)[pair] = learn(q_learning, step, learner, k).view(-1)[pair]
    torch.testing.assert_close(swept, lookahead(mdp, q.amax(-1)), rtol=0, atol=1e-12)


def test_shrinking_steps_reach_the_optimum():
    """Of a small world, every action tried alike."""
    world = garnet(gamma=0.5)
    last = after(q_learning, world, Lanes(range(3), {"alpha": (1.0,), "omega": (0.7,), "eps": (1.0,)}), 2000)
    assert ((last.memory["q"] - world.mdp.best.q).abs().mean((1, 2)) < 0.05 * world.mdp.best.q.abs().mean((1, 2))).all()


def test_the_end_of_an_episode_is_worth_nothing_and_begins_another():
    """Right leaves the corridor of two places and pays 1: Q(1, right) is 1 however the discount, and lanes start at 0 again."""
    world = worlds.make("finite.chain", n=2, gamma=0.9)
    lanes = Lanes((0, 1), {"alpha": (1.0,), "eps": (1.0,)})
    last = after(q_learning, world, lanes, 500).memory
    torch.testing.assert_close(last["q"], world.mdp.best.q.expand(2, -1, -1), rtol=0, atol=1e-12)
    assert (last["n"][:, 0].sum(-1) > last["n"][:, 1].sum(-1)).all()


def test_a_walk_goes_where_the_policy_and_the_world_lead():
    """Visits, rewards and next states over 1500 steps of 10 lanes, against the exact stationary distribution."""
    world, lanes = garnet(10), Lanes(range(10), {"alpha": (0.0,), "eps": (0.4,)})
    learner = after(q_learning, world, lanes, 1500)
    pi = torch.tensor([0.8, 0.2]).double().expand(10, 4, 2)  # the first action is greedy for ever
    share = stationary(world.mdp, pi)[..., None] * pi
    torch.testing.assert_close(learner.memory["n"] / 1500, share, rtol=0, atol=0.06)
    totals = learner.memory["totals"]
    torch.testing.assert_close(totals["reward"], (learner.memory["n"] * world.mdp.r).sum((1, 2)), rtol=0, atol=1e-8)
    torch.testing.assert_close(totals["regret"] + totals["reward"], 1500 * world.mdp.best_gain, rtol=1e-12, atol=0)


def test_one_world_for_all_lanes_is_as_good_as_a_copy_for_each():
    one = worlds.make("finite.riverswim")
    copies = sampled(replace(one.mdp, P=one.mdp.P.expand(3, -1, -1, -1)))
    a, b = (run(world, 40, Lanes((4, 5, 6), {"eps": (0.5,)}))[-1].learner.memory for world in (one, copies))
    assert torch.equal(a["q"], b["q"]) and torch.equal(a["s"], b["s"]) and torch.equal(a["n"], b["n"])


def test_a_run_in_a_moving_world_meets_every_mode_and_is_judged_by_it():
    """Regret is to the gain of the mode that holds, and the gap to that mode's best return."""
    world = reversing(seed=(1, 2), shift=(1.0, 0.5), life=120)
    snapshots = run(world, 120, Lanes((1, 2)))
    regret = torch.stack([s.metrics["regret"] for s in snapshots])
    reward = torch.stack([s.metrics["reward"] for s in snapshots])
    clock = torch.arange(120)
    gains = torch.stack([world.at(torch.full((2,), t)).best_gain for t in clock])
    torch.testing.assert_close(regret + reward, gains.cumsum(0), rtol=1e-12, atol=1e-12)
    now = world.at(torch.full((2,), 119))
    torch.testing.assert_close(snapshots[-1].metrics["gap"] + snapshots[-1].metrics["return"], (now.mu * now.best.v).sum(-1))
    assert snapshots[-1].learner.memory["clock"].tolist() == [120, 120]


def test_a_run_is_the_same_however_often_it_is_looked_at():
    world, lanes = garnet(), Lanes(range(3))
    often, seldom = run(world, 2 * BLOCK, lanes)[-1], run(world, 2, lanes, q_learning)[-1]
    assert often.step == seldom.step == 2 * BLOCK
    for name in ("q", "log_pi", "n", "s", "clock"):
        assert torch.equal(often.learner.memory[name], seldom.learner.memory[name]), name


def test_a_run_goes_on_from_the_middle_of_a_block():
    world, lanes = garnet(), Lanes(range(3))
    whole = run(world, 30, lanes)
    rest = list(itertools.islice(single.run(world, lanes, whole[12].learner), 17))
    assert torch.equal(whole[-1].learner.memory["q"], rest[-1].learner.memory["q"])


def test_an_exact_learner_can_go_on_by_steps():
    world, lanes = garnet(), Lanes(range(3), {"eta": (1.0,)})
    start = next(exact_pg.run(world, lanes)).learner
    last = after(q_learning, world, Lanes(range(3)), 100, start)
    assert last.step == 101 and last.memory["n"].sum() == 300


def test_a_sparse_model_is_not_walked():
    mdp = worlds.make("finite.garnet", states=5).mdp.to_sparse()
    learner = run(garnet(1), 1, Lanes((0,)))[0].learner
    with pytest.raises(LabError, match="sparse"):
        walk(mdp, learner, torch.exp)
