"""Recordings of chapter 02: REINFORCE and A2C on CartPole, four step sizes of ten seeds each; five recipes on a random MDP;
a share repurchase learnt by the score."""
import itertools
from dataclasses import replace
from types import SimpleNamespace

import torch

from labkit import worlds
from labkit.course.recordings import Recording
from labkit.lanes import Lanes
from labkit.meter import DriftMeter, States, evaluate, probe
from labkit.occupancy import exact_states
from labkit.on_policy.checks import chances
from labkit.on_policy.exit_time_pg import exit_time_pg
from labkit.on_policy.family import Shape, a2c, reinforce
from labkit.on_policy.pg_guide import pg_guide
from labkit.policy import Categorical
from labkit.record import record
from labkit.worlds.finite import expected_return

HORIZON = 100
cartpole = worlds.make("control.cartpole")
cartpole.horizon = HORIZON
lanes = Lanes(range(10), {"lr": (0.001, 0.003, 0.01, 0.03)})
ticks = itertools.count(1)
noise = Lanes((99,))


def toss(obs):
    """Heads left, tails right."""
    return Categorical(torch.zeros(*obs.shape[:2], 2))


where = States(probe(cartpole, lambda *shape: noise.rand(next(ticks), *shape), toss, 256).obs[0])


def fresh(snapshot):
    """The return of 16 fresh episodes per lane."""
    return SimpleNamespace(value=evaluate(cartpole, snapshot.learner, 16).mean(1))


def watched(method, every):
    """40,000 steps: the return of fresh episodes, and the drift from the start."""
    meters = {"fresh return": fresh, "kl from start": DriftMeter(where)}
    return Recording(record(method, cartpole, lanes, steps=40_000, every=every, meters=meters), method, {"horizon": HORIZON})


def reinforce_run() -> Recording:
    """Sixteen whole episodes an update."""
    return watched(replace(reinforce, shape=replace(reinforce.shape, envs=16, width=32)), every=1)


def a2c_run() -> Recording:
    """Thirty-two steps of sixteen environments an update."""
    return watched(replace(a2c, shape=replace(a2c.shape, envs=16, steps=32, width=32)), every=3)


def guide_run() -> Recording:
    """Five recipes with 1, 4 and 16 passes on one random MDP: the exact return, and the exact KL of each update."""
    options = {"gamma": 0.9, "horizon": 30}
    world, method = worlds.make("finite.garnet", **options), replace(pg_guide, shape=Shape(envs=8, width=32))
    everywhere = torch.eye(world.obs_size)
    meters = {
        "exact return": lambda snapshot: SimpleNamespace(value=expected_return(world.mdp, chances(snapshot.learner, everywhere))),
        "step": DriftMeter(exact_states(world.mdp), reference="previous"),
    }
    grid = {"gamma": (0.9,), "lr": (0.01,), "epochs": (1, 4, 16), "recipe": (0, 1, 2, 3, 4)}
    return Recording(record(method, world, Lanes(range(10), grid), steps=4_800, meters=meters), method, options)


def exit_time_run() -> Recording:
    """The share repurchase of twelve days: the exact value of the policy, from the payoff at the exit and from the critic's rise."""
    contract, method = worlds.make("control.repurchase"), replace(exit_time_pg, shape=Shape(envs=64, width=32))
    nodes = contract.nodes()
    meters = {"value": lambda snapshot: SimpleNamespace(value=contract.value(chances(snapshot.learner, nodes)[..., 1]))}
    return Recording(record(method, contract, Lanes(range(10), {"critic": (0.0, 1.0)}), 614_400, every=40, meters=meters), method, {})
