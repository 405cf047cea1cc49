"""Every method of every family, found by discovery, at a size that a test can afford. Each family says here where it can be tried."""
import itertools
from copy import copy
from dataclasses import dataclass, field, replace
from functools import cache

import pytest
import torch

from labkit import worlds
from labkit.paper import discover

METHODS = discover()


@dataclass(frozen=True)
class Family:
    """worlds: discrete and, where supported, continuous. judge: the slot whose NaN makes a lane sick. misfit: a world it cannot take.

    elsewhere: the worlds of those methods, by key, that cannot be tried in `worlds`.
    """

    worlds: tuple[str, ...]
    judge: str
    misfit: str | None = None
    elsewhere: dict[str, tuple[str, ...]] = field(default_factory=dict)


FAMILIES = {
    "bandits": Family(
        ("bandit.arms",), judge="estimate", misfit="control.cartpole",
        elsewhere={
            "eps_oracle": ("bandit.payments", "bandit.rewriting"), "adyen": ("bandit.payments",), "querybandits": ("bandit.rewriting",),
            "purely_periodic": ("bandit.recovering",), "wtb": ("bandit.tallying", "bandit.arms"),
        },
    ),
    "grpo": Family(("tokens.chain",), judge="advantage", misfit="control.cartpole"),
    "on_policy": Family(("control.cartpole", "control.pendulum"), judge="advantage"),
    "tabular": Family(
        ("finite.garnet",), judge="evaluate", misfit="control.cartpole",
        elsewhere={"performative_rl": ("finite.performative",), "crl_survey": ("finite.rooms",)},
    ),
}  # fmt: skip
SMALL = {  # of shapes that have such a size
    "envs": 4, "steps": 32, "width": 8, "minibatches": 2, "plays": 4, "rounds": 8, "stride": 25, "prompts": 4, "group": 4, "warm": 0.2,
}  # fmt: skip


def family(method):
    return type(method).__module__.split(".")[1]


def homes(key):
    """The worlds in which a method is tried."""
    home = FAMILIES[family(METHODS[key])]
    return home.elsewhere.get(key, home.worlds)


def small(method, **sizes):
    """The method at a size that a test can afford: SMALL, or as told."""
    shape, sizes = getattr(method, "shape", None), SMALL | sizes
    return replace(method, shape=replace(shape, **{name: sizes[name] for name in vars(shape) if name in sizes})) if shape else method


made = cache(worlds.make)  # worlds never change, and some take long to make


def short(key, **options):
    world = copy(made(key, **options))
    world.horizon = min(world.horizon, 20)
    return world


CASES = [(key, world) for key in METHODS for world in homes(key)]
every_method = pytest.mark.parametrize("key", METHODS)
everywhere = pytest.mark.parametrize(("key", "world"), CASES)


def after(key, world, lanes, updates, start=None):
    """The first snapshots of a small run."""
    return list(itertools.islice(small(METHODS[key]).run(short(world), lanes, start), updates))


def lane(snapshot, i):
    """All numbers of one lane."""
    tensors, _ = snapshot.learner.pack()
    own = {name: t[:, i] if name.endswith("/moments") else t[i] for name, t in tensors.items()}
    return own | {f"metric {name}": t[i] for name, t in snapshot.metrics.items()}


def assert_same(one, other):
    """Bit for bit, NaN beside NaN."""
    assert one.keys() == other.keys()
    odd = [name for name in one if not torch.equal(one[name].nan_to_num(7), other[name].nan_to_num(7))]
    assert not odd, f"these differ: {odd}"
