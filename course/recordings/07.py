"""Recordings of chapter 07: a river that turns round, and what each store is worth in four rooms where the goal moves or the doors do."""
from dataclasses import replace

import torch

from labkit.course.recordings import Recording
from labkit.lanes import Lanes
from labkit.record import Record, record
from labkit.studio.figures.changes import watch_changes
from labkit.tabular.crl_survey import STORES, crl_survey, readouts
from labkit.tabular.family import Shape
from labkit.tabular.rbocpd_ucrl2 import rbocpd_ucrl2
from labkit.worlds.moving import reversing

SEEDS, PERIOD = tuple(range(10)), 2500


def stores(change):
    """The readouts of every store after four tasks, as curves of one moment."""
    found = readouts(change, SEEDS, PERIOD)
    lanes = Lanes(SEEDS, {"store": tuple(range(len(STORES)))})
    curves = {name: x.reshape(1, -1) for name, x in found.items()}
    return Recording(Record("crl_survey", "finite.rooms", lanes, torch.tensor([4 * PERIOD]), curves), crl_survey, {"change": change})


def goal_moves() -> Recording:
    """The reward changes from task to task."""
    return stores("reward")


def doors_move() -> Recording:
    """The dynamics change from task to task."""
    return stores("dynamics")


def turning_river(life=20_000):
    """The river that turns round three times, a world for each seed and setting."""
    return reversing(seed=SEEDS * 2, life=life)


def turning() -> Recording:
    """ucrl2, which is rbocpd_ucrl2 without hazard, and rbocpd_ucrl2 in a river that turns round three times, ten seeds each."""
    method, world = replace(rbocpd_ucrl2, shape=Shape(stride=200)), turning_river()
    found = record(method, world, Lanes(SEEDS, {"h": (0.0, 0.001)}), world.horizon, fields=watch_changes(world))
    return Recording(found, method, {"life": world.horizon})
