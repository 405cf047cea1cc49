"""Recordings of chapter 20: GRPO with five pulls to the start; DAPO with and without each of its edits, and with four upper clips; the
same loop on a transformer; and one sweep each of d3s, adora and v0."""
from dataclasses import replace
from itertools import count

import torch

from labkit import worlds
from labkit.course.recordings import Recording
from labkit.grpo.adora import adora
from labkit.grpo.d3s import d3s
from labkit.grpo.family import dapo, grpo, response_mean
from labkit.grpo.foresight import foretold
from labkit.grpo.outcome import exact, outcome, policy_at
from labkit.grpo.v0 import context, v0
from labkit.lanes import Lanes
from labkit.record import Recorder
from labkit.snapshot import Snapshot
from labkit.studio.figures.answers import watch_passes, watch_tree
from labkit.worlds.tokens.modes import STEPS

SEEDS = tuple(range(10))
chains = worlds.make("tokens.chain")
TREE = 84  # the problem whose answers are drawn: three operations


def trained(method, world, lanes, updates, every, fields=None):
    """A record of `updates` updates, every so many, from before the first one on."""
    learner, k = method.begin(world, lanes, method.shape.warm), lanes.knobs(method.knobs)
    recorder = Recorder(method, world, lanes, fields=fields)
    for update in count():
        batch = method.gather(world, learner, k)
        if update % every == 0:
            recorder.add(Snapshot(learner.step, learner, outcome(world, learner, batch) | batch.info))
        if update == updates:
            return recorder.record()
        method.learn(world, learner, batch, k)


def pulls() -> Recording:
    """GRPO with five pulls to the start, 300 updates of 16 prompts with 8 responses each."""
    lanes = Lanes(SEEDS, {"beta": (0.0, 0.02, 0.05, 0.1, 0.5)})
    return Recording(trained(grpo, chains, lanes, 300, 20, watch_passes(chains) | watch_tree(chains, TREE)), grpo, {})


STOP = {"stop": True}


def edits() -> Recording:
    """DAPO with and without three of its edits, 100 updates: a higher upper clip, dynamic sampling, a price of length."""
    lanes = Lanes(SEEDS, {"eps_high": (0.2, 0.28), "filter": (0, 1), "band": (0, 3)})
    return Recording(trained(dapo, worlds.make("tokens.chain", **STOP), lanes, 100, 10), dapo, STOP)


def by_response() -> Recording:
    """DAPO without the fourth edit: means over the tokens of each response, then over responses."""
    method = replace(dapo, reduce=response_mean)
    return Recording(trained(method, worlds.make("tokens.chain", **STOP), Lanes(SEEDS), 100, 10), method, STOP)


def uppers() -> Recording:
    """DAPO with four upper clips, 150 updates."""
    lanes = Lanes(SEEDS, {"eps_high": (0.2, 0.28, 0.6, 1.0)})
    return Recording(trained(dapo, worlds.make("tokens.chain", **STOP), lanes, 150, 10), dapo, STOP)


READ = {"levels": (1, 2, 3), "text": True}


def read_as_text() -> Recording:
    """GRPO on the transformer, three step sizes, 100 updates; what is not exact is told by each batch."""
    lanes = Lanes(SEEDS, {"lr": (0.001, 0.003, 0.01)})
    return Recording(trained(grpo, worlds.make("tokens.chain", **READ), lanes, 100, 5), grpo, READ)


def telling() -> Recording:
    """d3s with four shares of responses at first, and with a quarter or all of their tokens, 200 updates; both 1 is grpo."""
    lanes = Lanes(SEEDS, {"samples": (0.1, 0.25, 0.5, 1.0), "tokens": (0.25, 1.0)})
    learner, k = d3s.begin(chains, lanes, d3s.shape.warm), lanes.knobs(d3s.knobs)
    recorder, spent = Recorder(d3s, chains, lanes), torch.zeros(len(lanes))
    for update in range(201):
        batch = d3s.gather(chains, learner, k)
        if update % 20 == 0:
            row = outcome(chains, learner, batch) | {"learnt from": spent / 1000}
            recorder.add(Snapshot(learner.step, learner, row))
        spent = spent + batch.info["learnt from"]
        d3s.learn(chains, learner, batch, k)
    return Recording(recorder.record(), d3s, {})


HARD = {"problems": [12] * 3 + [48] * 3, "held": 4}


def damping() -> Recording:
    """adora with four weights of groups in which length does not pay, 80% of the problems hard, 300 updates."""
    world = worlds.make("tokens.modes", **HARD)
    start = [int(world.graph.row[world.start[(world.level == level) & ~world.held_out][0]]) for level in range(1, 7)]

    def by_level(snapshot):
        success = exact(world, snapshot.learner)["success"]
        return torch.stack([success[:, (world.level == level) & ~world.held_out].mean(1) for level in range(1, 7)], 1).float()

    fields = {"steps": lambda s: policy_at(world, s.learner).probs[:, start, STEPS].float(), "success": by_level}
    return Recording(trained(adora, world, Lanes(SEEDS, {"lam": (0.0, 0.1, 0.3, 1.0)}), 300, 20, fields), adora, HARD)


def foretelling() -> Recording:
    """v0 with four lengths of context, 120 updates; of every fourth problem, what is foretold and what is so."""
    lanes, some = Lanes(SEEDS, {"context": (4, 16, 64, 256)}), chains.pool[::4]
    k = lanes.knobs(v0.knobs)

    def told(snapshot):
        seen = context(v0, snapshot.learner, k)
        return foretold(snapshot.learner.memory["value"], some.expand(len(lanes), -1), seen)

    fields = {"foretold": told, "success": lambda s: exact(chains, s.learner)["success"][:, some].float()}
    return Recording(trained(v0, chains, lanes, 120, 20, fields), v0, {})
