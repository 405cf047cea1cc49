"""Real learning, on seeds 1000 and up: no setting was chosen on these."""
from dataclasses import replace

import pytest
import torch

from labkit import worlds
from labkit.errors import LabError
from labkit.lanes import Lanes
from labkit.meter import evaluate
from labkit.on_policy.family import ppo
from labkit.on_policy.recipes import tuned
from labkit.on_policy.trpo import trpo
from labkit.worlds.grid import enumerate_states, exact_return, optimal_return


def trained(key, seeds, steps, first=1000, **options):
    """The last snapshot of ppo with the world's recipe, within `steps` steps per lane."""
    world, algo = worlds.make(key, **options), tuned(ppo, key)
    last = None
    for snapshot in algo.run(world, Lanes(tuple(range(first, first + seeds)))):
        if snapshot.step > steps:
            return world, last
        last = snapshot
        assert not snapshot.learner.notes


def test_cartpole_475_within_100000_steps_on_9_of_10_seeds():
    world, last = trained("control.cartpole", 10, 100_000)
    scores = evaluate(world, last.learner, 100).mean(1)
    assert (scores >= 475).sum() >= 9, scores


def test_pendulum_above_minus_250():
    world, last = trained("control.pendulum", 4, 103_000)
    scores = evaluate(world, last.learner, 50).mean(1)
    assert scores.mean() > -250, scores


@pytest.mark.parametrize(
    ("key", "view", "size", "steps", "first", "seeds", "enough"),
    [("grid.doorkey", "full", 5, 100_000, 2000, 10, 8), ("grid.fourrooms", "state", 9, 64_000, 1000, 3, 3)],
)
def test_a_grid_of_fixed_layout_to_95_percent_of_the_optimum(key, view, size, steps, first, seeds, enough):
    """Exactly: over all states, under the step limit. The optimum is that of a policy which may look at the clock.

    Some never find the key: "8 of 10" was settled on seeds 1000 to 1009, and is held to on others.
    """
    world, last = trained(key, seeds, steps, first, size=size, layout_seed=0, view=view)
    table = enumerate_states(world)
    pi = last.learner.policy(table.obs).probs.detach()
    share = exact_return(table, pi) / optimal_return(table)
    assert (share >= 0.95).sum() >= enough, share
    uniform = exact_return(table, torch.full_like(pi, 1 / pi.shape[-1])) / optimal_return(table)
    assert (uniform < 0.5).all()


def test_a_recipe_sets_what_the_method_has_and_nothing_else():
    pendulum = tuned(trpo, "control.pendulum")
    assert pendulum.shape == replace(trpo.shape, steps=256, minibatches=32) and pendulum.knobs.keys() == trpo.knobs.keys()
    assert pendulum.knobs["gamma"].default == 0.9 and pendulum.knobs["delta"] == trpo.knobs["delta"]
    assert tuned(ppo, "control.cartpole") == ppo
    with pytest.raises(LabError, match="no recipe"):
        tuned(ppo, "grid.moon")
