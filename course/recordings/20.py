"""Recordings of chapter 20: GRPO with five pulls to the start; DAPO with one edit more each time, and with four upper clips."""
from dataclasses import replace
from itertools import count

from labkit import worlds
from labkit.course.recordings import Recording
from labkit.grpo.family import grpo
from labkit.grpo.outcome import outcome
from labkit.lanes import Lanes
from labkit.record import Recorder
from labkit.snapshot import Snapshot
from labkit.studio.figures.answers import watch_passes, watch_tree

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
