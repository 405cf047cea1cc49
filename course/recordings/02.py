"""Recordings of chapter 02: REINFORCE and A2C on CartPole, four step sizes of ten seeds each."""
import itertools
from dataclasses import replace
from types import SimpleNamespace

import torch

from labkit import worlds
from labkit.course.recordings import Recording
from labkit.lanes import Lanes
from labkit.meter import DriftMeter, States, evaluate, probe
from labkit.on_policy.family import a2c, reinforce
from labkit.policy import Categorical
from labkit.record import record

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
