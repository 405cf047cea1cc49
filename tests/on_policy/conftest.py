"""A batch to look at: what most tests of the family begin with; and a tiny one that can be worked out by hand."""
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from torch.nn.functional import one_hot

from labkit import worlds
from labkit.lanes import Lanes
from labkit.learner import Learner
from labkit.nn import Table
from labkit.on_policy.family import Shape, batch_of


@pytest.fixture
def collected():
    """collected(method, world, lanes, updates) -> algo, world, learner, batch, k: a judged batch after some updates."""

    def collect(method, key="control.cartpole", lanes=None, updates=2, **shape):
        world, lanes = worlds.make(key), lanes or Lanes((0, 1, 2))
        world.horizon = min(world.horizon, 50)
        algo = replace(method, shape=replace(method.shape, **{"envs": 8, "steps": 32, "width": 16} | shape))
        run, k = algo.run(world, lanes), lanes.knobs(algo.knobs)
        learner = [next(run) for _ in range(updates)][-1].learner if updates else algo.begin(world, lanes)
        batch = algo.collect(algo, world, learner, k)
        algo.judge(learner, batch, k)
        return SimpleNamespace(algo=algo, world=world, learner=learner, batch=batch, k=k)

    return collect


@pytest.fixture
def tiny():
    """tiny(method, lanes, dtype) -> algo, learner, batch, k: tables (4 states, 3 actions) and a made-up judged batch of 4 x 2 steps."""

    def make(method, lanes, dtype=torch.float64):
        g, learner = torch.Generator().manual_seed(0), Learner(lanes)

        def numbers(*shape):
            return torch.randn(len(lanes), *shape, generator=g, dtype=dtype)

        for name, out in (("pi", 3), ("v", 1)):
            net = learner.nets[name] = Table(len(lanes), (4, out))
            net.theta = numbers(4 * out).requires_grad_()
        state, action = (torch.randint(n, (len(lanes), 4, 2), generator=g) for n in (4, 3))
        rest = {name: torch.zeros(len(lanes), 4, 2) for name in ("reward", "terminated", "truncated", "next_obs")}
        with torch.no_grad():
            batch = batch_of(learner, one_hot(state, 4).to(dtype), action, **rest)
        batch.adv, batch.target = numbers(4, 2), numbers(4, 2)
        algo = replace(method, shape=Shape(envs=2, steps=4, minibatches=2))
        k = SimpleNamespace(**{name: x.to(dtype) for name, x in vars(lanes.knobs(algo.knobs)).items()})
        return SimpleNamespace(algo=algo, learner=learner, batch=batch, k=k)

    return make
