"""Runs to read, copy and damage."""
import shutil
from dataclasses import replace

import pytest

from labkit import store
from labkit.lanes import Lanes
from labkit.on_policy.family import Shape, ppo

TINY = replace(ppo, shape=Shape(envs=4, steps=8, width=8, minibatches=2))
LANES = Lanes((0, 1), {"eps": (0.1, 0.3)})
UPDATE = 32  # environment steps per lane


@pytest.fixture(scope="session")
def original(tmp_path_factory):
    """A run of 12 updates with four learners, and where it lies."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DRIFTLAB_HOME", str(tmp_path_factory.mktemp("original")))
        with store.begin(TINY, "control.cartpole", LANES, steps=12 * UPDATE, every=3, name="first") as run:
            for _ in store.train(run):
                pass
        return run.folder


@pytest.fixture
def folder(original):
    """A copy of it among the user's runs, called "first"."""
    return shutil.copytree(original, store.root() / "first")
