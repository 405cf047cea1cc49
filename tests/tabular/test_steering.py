"""A world changed by hand while methods learn in it: who can, which policy it answers, and that the past is not touched."""
from dataclasses import replace
from itertools import islice, pairwise

import pytest
import torch

from labkit.lanes import Lanes
from labkit.paper import discover
from labkit.tabular.sampling import BLOCK
from labkit.tabular.steering import steer, steerable
from labkit.worlds.steered import steered

METHODS = [key for key, method in discover().items() if steerable(method)]
LANES = Lanes((0, 1))


def method(key):
    return replace(discover()[key], respond=steer)


def snapshots(key, events, count, start=None):
    return list(islice(method(key).run(steered(events, seed=[0, 1], life=2000), LANES, start), count))


def test_methods_that_follow_a_world_can_be_steered():
    assert {"q_learning", "ucrl2", "rbocpd_ucrl2"} <= set(METHODS)
    assert not {"exact_pg", "policy_iteration", "performative_rl", "ppo", "continual_def"} & set(METHODS), "they respond in another way"


@pytest.mark.parametrize("key", METHODS)
def test_pressed_while_it_learns_is_the_same_as_told_beforehand(key):
    """Bit for bit: the learner of step 300 goes on in a world that has just been told of one event more."""
    whole = snapshots(key, "jump@100,respond@300,drift@500", 6)
    pressed, events = snapshots(key, "", 1), ""
    for event, count in (("jump@100", 2), ("respond@300", 2), ("drift@500", 1)):
        events = f"{events},{event}".strip(",")
        pressed += snapshots(key, events, count, pressed[-1].learner)
    for one, other in zip(whole, pressed, strict=True):
        (mine, plain), (theirs, also) = one.learner.pack(), other.learner.pack()
        assert plain == also and mine.keys() == theirs.keys() and all(mine[name].equal(theirs[name]) for name in mine)
        assert all(one.metrics[name].equal(other.metrics[name]) for name in one.metrics)


def test_a_world_answers_the_policy_deployed_for_a_block():
    learned = snapshots("q_learning", "respond@150", 3)
    for before, after in pairwise(learned):
        assert after.learner.memory["deployed"].equal(before.learner.memory["log_pi"].exp()), f"a new one every {BLOCK} steps"
    world, last = steered("respond@150", seed=[0, 1], life=2000), learned[-1].learner
    faced = world.facing(last.memory["clock"] - 1, last.memory["deployed"])
    gained = (faced.mu * faced.best.v).sum(-1) - learned[-1].metrics["return"]
    assert torch.allclose(gained, learned[-1].metrics["gap"]), "the gap is to the best policy of the world as it has answered"
