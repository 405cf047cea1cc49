"""continual_def: one schedule for all agents of a seed, and a count of moves that is what it says."""
import itertools
from dataclasses import replace

import torch

from labkit.lanes import Lanes
from labkit.paper import changed
from labkit.tabular.continual_def import continual_def
from labkit.tabular.family import Shape
from labkit.tabular.q_learning import q_learning
from labkit.worlds import make
from labkit.worlds.moving import switching

step_by_step = replace(continual_def, shape=Shape(stride=1))


def run(world, lanes, steps=150):
    return list(itertools.islice(step_by_step.run(world, lanes), steps))


def test_it_changes_the_world_and_counts_moves():
    assert changed(continual_def, q_learning) == ["respond", "improve"]


def test_agents_of_a_seed_meet_the_same_worlds_and_seeds_do_not():
    lanes = Lanes((1, 2), {"alpha": (0.0, 0.2), "omega": (0.0, 0.7), "p": (0.01,)})
    modes = torch.stack([s.learner.memory["mode"] for s in run(switching(rate=0.0), lanes, 400)]).view(400, 4, 2)
    assert (modes == modes[:, :1]).all() and (modes[..., 0] != modes[..., 1]).any()


def test_worlds_change_at_their_rate_to_any_other():
    lanes = Lanes(range(60), {"p": (0.0, 0.01)})
    modes = torch.stack([s.learner.memory["mode"] for s in run(switching(modes=4, rate=0.0), lanes, 400)]).view(400, 2, 60)
    assert not modes[:, 0].any()
    jumps = (modes[:, 1].diff(dim=0) % 4).flatten().bincount(minlength=4)
    assert 0.007 < jumps[1:].sum() / (399 * 60) < 0.013 and jumps[1:].min() > 50


def test_rewards_are_those_of_the_mode_that_holds():
    world = switching(modes=3, rate=0.0, seed=(4,))
    learners = [s.learner.memory for s in run(world, Lanes((4,), {"p": (0.01,)}))]
    for before, now in itertools.pairwise(learners):
        paid = now["totals"]["reward"] - before["totals"]["reward"]
        torch.testing.assert_close(paid, world.in_mode(now["mode"]).r[now["n"] > before["n"]], rtol=0, atol=1e-9)
    assert len({m["mode"].item() for m in learners}) > 1


def test_moves_are_counted_and_a_step_of_nothing_makes_none():
    lanes = Lanes((1,), {"alpha": (0.0, 0.5)})
    snapshots = run(make("finite.garnet"), lanes)
    choices = torch.stack([s.learner.memory["log_pi"].argmax(-1) for s in snapshots])
    moved = (choices.diff(dim=0) != 0).any(-1).double().cumsum(0)
    counted = torch.stack([s.metrics["moves"] for s in snapshots])
    assert torch.equal(counted[1:] - counted[:1], moved)
    assert moved[-1, 0] == 0 and moved[-1, 1] > 2
