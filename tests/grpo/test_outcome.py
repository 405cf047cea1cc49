"""The metrics of a language model: the exact ones against its own samples and against the drift meter."""
from dataclasses import replace
from itertools import islice

import pytest
import torch

from labkit import worlds
from labkit.grpo.family import grpo, noise, write
from labkit.grpo.outcome import exact, outcome
from labkit.lanes import Lanes
from labkit.meter import DriftMeter
from labkit.occupancy import exact_states
from labkit.worlds.tokens.chain import Chain

WORLD = Chain((1, 3), problems=8, held=4, stop=True, room=6)
MANY = replace(grpo, shape=replace(grpo.shape, prompts=len(WORLD.pool), group=400))


@pytest.fixture(scope="module")
def moved():
    """Two snapshots of a short run."""
    return list(islice(replace(grpo, shape=replace(grpo.shape, updates=4)).run(WORLD, Lanes((0, 1), {"lr": (0.03,)})), 2))


def test_exact_metrics_are_the_means_of_samples(moved):
    learner = moved[-1].learner.copy()
    told = {name: x[:, WORLD.pool] for name, x in exact(WORLD, learner).items()}
    problem = WORLD.pool.expand(2, -1)
    batch = write(WORLD, learner, problem, noise(MANY, WORLD, learner)(0), learner.nets["pi"].theta.detach())
    reference = learner.copy()
    reference.nets["pi"].move(learner.memory["reference"], learner.on)
    logs = {}
    for name, one in (("now", learner), ("then", reference)):
        logs[name] = batch.pick(one.policy(WORLD.graph.obs)).double()
    ratio = ((logs["now"] - logs["then"]) * batch.mask).sum(-1)
    samples = {"success": WORLD.graph.reward[batch.node].double(), "length": batch.length.double(), "kl": ratio}
    samples["entropy"] = batch.at(learner.policy(WORLD.graph.obs).entropy()).double().mul(batch.mask).sum(-1)
    for name, x in samples.items():
        error = (x.mean((1, 2)) - told[name].mean(1)) / (x.var(-1).mean(1) / x[0].numel()).sqrt()
        assert (error.abs() < 4).all(), (name, error)


def test_drift_of_a_response_is_the_meters_drift_of_a_token_times_its_length(moved):
    meter = DriftMeter(exact_states(WORLD), "reverse_kl", "start")
    first, last = moved
    last.learner.memory["reference"] = first.learner.nets["pi"].theta.detach().clone()
    meter(first)
    told = outcome(WORLD, last.learner, replace(grpo).gather(WORLD, last.learner.copy(), last.learner.lanes.knobs(grpo.knobs)))
    assert torch.allclose(meter(last).value.double() * told["length"], told["kl"], rtol=1e-5) and (told["kl"] > 0.01).all()


def test_a_run_tells_what_it_has_paid_for_and_how_many_groups_agree(moved):
    shape = grpo.shape
    for i, snapshot in enumerate(moved, 1):
        assert snapshot.step == 4 * i * shape.prompts * shape.group and snapshot.metrics["rollouts"].tolist() == [snapshot.step] * 2
        assert ((snapshot.metrics["tokens"] > snapshot.step) & (snapshot.metrics["tokens"] < 6 * snapshot.step)).all()
        assert ((snapshot.metrics["dead"] * shape.prompts) % 1 == 0).all()


def test_return_is_of_problems_to_train_on_and_held_out_of_the_others(moved):
    told = exact(WORLD, moved[-1].learner)["success"]
    assert torch.equal(moved[-1].metrics["return"], told[:, ~WORLD.held_out].mean(1))
    assert torch.equal(moved[-1].metrics["held out"], told[:, WORLD.held_out].mean(1))


def test_text_is_measured_by_its_batch():
    world = worlds.make("tokens.chain", levels=(1,), problems=6, held=0, text=True)
    (snapshot,) = islice(replace(grpo, shape=replace(grpo.shape, warm=0.2)).run(world, Lanes((0,))), 1)
    assert "held out" not in snapshot.metrics and 0 <= snapshot.metrics["return"] <= 1 and snapshot.metrics["length"] == 1
