"""The drift meter against sums by hand, its estimates against exact values, and the reading of returns."""
from dataclasses import replace

import pytest
import torch

from labkit import worlds
from labkit.errors import LabError
from labkit.lanes import Lanes
from labkit.learner import Learner
from labkit.meter import DriftMeter, States, evaluate, probe
from labkit.nn import Table
from labkit.on_policy.family import Shape, ppo
from labkit.snapshot import Snapshot

LANES = Lanes((0, 1))


def tabular(logits):
    learner = Learner(LANES)
    learner.nets["pi"] = Table(2, logits.shape[1:])
    learner.nets["pi"].move(logits.flatten(1), learner.on)
    return Snapshot(0, learner, {})


START, NEXT, LAST = (tabular(LANES.rand(t, 6, 3) * 4) for t in (1, 2, 3))
EYE = torch.eye(6)


def by_hand(a, b):
    p, q = (s.learner.nets["pi"].theta.detach().view(2, 6, 3).softmax(-1) for s in (a, b))
    return (p * (p / q).log()).sum(-1)


def test_exact_drift_from_start_and_from_previous():
    weights = torch.tensor([0.5, 0.2, 0.1, 0.1, 0.1, 0.0])
    for reference, past in (("start", START), ("previous", NEXT), (START.learner, START)):
        meter = DriftMeter(States(EYE, weights), "kl", reference)
        first = meter(START)
        meter(NEXT)
        reading = meter(LAST)
        assert torch.allclose(reading.per_state, by_hand(past, LAST), atol=1e-5)
        assert torch.allclose(reading.value, (by_hand(past, LAST) * weights).sum(1), atol=1e-5)
        assert torch.equal(reading.low, reading.high) and torch.allclose(first.value, torch.zeros(2), atol=1e-6)


def test_moving_states_are_asked_for_at_every_snapshot():
    asked = []

    def states(snapshot):
        asked.append(snapshot)
        return States(EYE, torch.full((6,), 1 / 6))

    meter = DriftMeter(states)
    meter(START), meter(NEXT)
    assert asked == [START, NEXT]


def test_the_estimates_interval_covers_the_exact_drift():
    """200 samples of 100 states: the exact value lies inside about 95% of the intervals."""
    weights = torch.tensor([0.3, 0.25, 0.2, 0.15, 0.05, 0.05])
    exact = (by_hand(START, LAST) * weights).sum(1)
    edges = weights.cumsum(0)
    hits = []
    for t in range(200):
        rows = torch.bucketize(LANES.rand(1000 + t, 100), edges).clamp_max(5)
        meter = DriftMeter(States(EYE[rows]))
        meter(START)
        reading = meter(LAST)
        hits.append((reading.low <= exact) & (exact <= reading.high))
    assert 0.9 <= torch.stack(hits).float().mean() <= 0.99


def test_a_probe_visits_what_the_behaviour_visits():
    """On a chain walked ever to the right, a state is seen as often as the clock allows."""
    world = worlds.make("finite.chain", n=5, horizon=4)
    always = tabular(torch.zeros(2, 5, 2)).learner
    always.nets["pi"].move(torch.tensor([-50.0, 50.0]).repeat(5).expand(2, -1), always.on)
    share = probe(world, always.rand, always.policy, 2000).obs.mean(1)
    assert torch.allclose(share[:, :4], torch.full((2, 4), 0.25), atol=0.05)


def test_a_probe_counts_a_state_by_the_time_spent_there():
    """A random walk whose episodes end early or late: the exact share of steps, swept forward over the clock."""
    world = worlds.make("finite.chain", n=4, horizon=12)
    chain, here, share = world.mdp.P[0].mean(1), world.mdp.mu[0], torch.zeros(4, dtype=torch.float64)
    for _ in range(12):
        share, here = share + here, here @ chain
    n = 20_000
    learner = Learner(Lanes((0, 1)))
    found = probe(world, learner.rand, tabular(torch.zeros(2, 4, 2)).learner.policy, n).obs.double().mean(1)
    share = share / share.sum()
    assert ((found - share).abs() < 4 * (share * (1 - share) / n).sqrt()).all()


def test_evaluation_counts_first_episodes_only_and_leaves_the_learner():
    world = worlds.make("control.cartpole")
    small = replace(ppo, shape=Shape(envs=4, steps=8, width=8))
    learner = next(small.run(world, LANES)).learner
    before = learner.tick
    returns = evaluate(world, learner, 30)
    assert returns.shape == (2, 30) and learner.tick == before
    assert ((returns >= 8) & (returns <= 500) & (returns == returns.round())).all() and returns.unique().numel() > 5


@pytest.mark.parametrize(
    "arguments,words", [({"divergence": "kk"}, "no divergence 'kk'; choose one of"), ({"reference": "begin"}, "no reference 'begin'")]
)
def test_unknown_names_get_one_sentence(arguments, words):
    with pytest.raises(LabError, match=words):
        DriftMeter(States(EYE), **arguments)
