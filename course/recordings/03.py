"""Recordings of chapter 03: the methods that it sets side by side, ten seeds each on a small FourRooms; and drift functions that grow."""
from dataclasses import replace
from itertools import islice

import torch

from labkit import worlds
from labkit.course.recordings import Recording
from labkit.divergence import kl
from labkit.lanes import Lanes
from labkit.meter import DriftMeter
from labkit.occupancy import exact_states
from labkit.on_policy.discovered_po import discovered_po
from labkit.on_policy.evolution import evolve
from labkit.on_policy.family import Shape, importance, log_ratio, ppo
from labkit.on_policy.fixpo import fixpo
from labkit.on_policy.props import props
from labkit.on_policy.ta_lpo import GENERATIONS, ta_lpo
from labkit.on_policy.trpo import trpo
from labkit.record import Record, Recorder
from labkit.studio.figures.grid import watch
from labkit.worlds.grid import enumerate_states, exact_return

OPTIONS = {"size": 9, "layout_seed": 1, "view": "state"}
SMALL = Shape(envs=8, steps=64, width=32, minibatches=2)  # 512 samples a batch
SEEDS, UPDATES = tuple(range(10)), 24
rooms = worlds.make("grid.fourrooms", **OPTIONS)
states = enumerate_states(rooms)


def watched(method):
    """The same method, which also says how far each update moved its batch: ratios (L, B) and KLs per state (L, B)."""

    def improve(algo, learner, batch, k):
        method.improve(algo, learner, batch, k)
        flat, eps = batch.flat(), getattr(k, "eps", 0.2)
        with torch.no_grad():
            ratio, gap = log_ratio(learner, flat).exp(), kl(flat.policy, learner.policy(flat.obs))
        learner.memory |= {"ratio": ratio, "gap": gap}
        batch.info |= {"outside": ((ratio - 1).abs() > eps).float().mean(1), "largest kl": gap.amax(1)}

    knobs = method.knobs | {"lr": replace(method.knobs["lr"], default=0.01)}
    return replace(method, improve=improve, knobs=knobs, shape=replace(SMALL, kept=method.shape.kept))


def trained(method, knobs, keep=()):
    """Train UPDATES updates in lanes of SEEDS x knobs: a record with the exact return, and the learners after the updates in `keep`."""
    method, lanes = watched(method), Lanes(SEEDS, knobs)
    meters = {"kl from start": DriftMeter(exact_states(states), "kl", "start")}
    recorder, kept = Recorder(method, rooms, lanes, meters, watch(rooms)), {}
    for update, snapshot in enumerate(islice(method.run(rooms, lanes), UPDATES), 1):
        recorder.add(snapshot)
        if update in keep:
            kept[update] = snapshot.learner
    record = recorder.record()
    exact = torch.stack([exact_return(states, pi) for pi in record.fields["policy"]])  # (T, L)
    return replace(record, curves=record.curves | {"return": exact}), kept


def arm(method, knobs):
    """A method's curves; its policies and occupancies, which no picture shows, are left out."""
    record, _ = trained(method, knobs)
    return Recording(replace(record, fields={}), watched(method), OPTIONS)


def no_clip_arm() -> Recording:
    """PPO's passes on the bare ratio."""
    return arm(replace(ppo, surrogate=importance), {})


def trpo_arm() -> Recording:
    """Natural steps of mean KL 0.05."""
    return arm(trpo, {"delta": (0.05,), "cg": (6,)})


def fixpo_arm() -> Recording:
    """Repaired until no state has moved by more than 0.2 nats."""
    return arm(fixpo, {"eps_kl": (0.2,)})


def discovered_po_arm() -> Recording:
    """The discovered brake."""
    return arm(discovered_po, {})


def props_arm() -> Recording:
    """A behaviour policy that leans against sampling error; this batch and the last."""
    return arm(props, {})


def grown() -> Recording:
    """Drift functions of ten meta-seeds, without the clock and with it: fitness, and the weights after every sixth generation."""
    lanes, every = Lanes(SEEDS, {"clock": (0.0, 1.0)}), 6
    rows = list(islice(evolve(lanes), GENERATIONS))[every - 1 :: every]
    weights, fitness = (torch.stack(x) for x in zip(*rows, strict=True))
    steps = every * torch.arange(1, len(rows) + 1)
    record = Record("ta_lpo", "finite.garnet", lanes, steps, {"fitness": fitness.mean(-1)}, {"weights": weights})
    return Recording(record, ta_lpo, {"gamma": 0.9})
