"""Recordings of chapter 20: GRPO with five pulls to the start; DAPO with and without each of its edits, and with four upper clips; the
same loop on a transformer."""
from dataclasses import replace
from itertools import count

from labkit import worlds
from labkit.course.recordings import Recording
from labkit.grpo.family import dapo, grpo, response_mean
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
