"""A batch to look at: what most tests of the family begin with."""
from dataclasses import replace
from types import SimpleNamespace

import pytest

from labkit import worlds
from labkit.lanes import Lanes


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
