"""Evolution: a drift function flat at ratio 1 whatever its weights, an unbiased estimate, learners that stop when their time is up."""
from itertools import islice

import pytest
import torch

from labkit.lanes import Lanes
from labkit.on_policy import evolution
from labkit.on_policy.evolution import HIDDEN, WEIGHTS, climb, estimate, evolve, learnt_drift, randoms, train

G = torch.Generator().manual_seed(0)
MANY = torch.randn(5, WEIGHTS, generator=G, dtype=torch.float64)  # five drift functions
ADV = torch.linspace(-3, 3, 16, dtype=torch.float64).expand(5, -1)


@pytest.mark.parametrize("spent", [0.0, 0.3, 1.0])
def test_a_drift_is_never_negative_and_zero_and_flat_at_one(spent):
    here = torch.full((5, 1), spent, dtype=torch.float64)
    one = torch.ones(5, 16, dtype=torch.float64, requires_grad=True)
    at_one = learnt_drift(MANY, here, one, ADV)
    assert not at_one.any() and not torch.autograd.grad(at_one.sum(), one)[0].any()
    far = learnt_drift(MANY, here, torch.linspace(0.01, 4, 16, dtype=torch.float64).expand(5, -1), ADV)
    assert (far >= 0).all() and (far > 0.1).any()


def test_without_weights_for_the_time_it_is_the_timeless_one_bit_for_bit():
    ratio, blind = torch.linspace(0.1, 3, 16).expand(5, -1), MANY.float()
    blind[:, 8 * HIDDEN : 16 * HIDDEN] = 0
    timeless = learnt_drift(MANY.float(), torch.zeros(5, 1), ratio, ADV.float())
    assert torch.equal(learnt_drift(blind, torch.full((5, 1), 0.7), ratio, ADV.float()), timeless)
    assert not torch.equal(learnt_drift(MANY.float(), torch.full((5, 1), 0.7), ratio, ADV.float()), timeless)


def test_antithetic_pairs_are_unbiased_on_a_quadratic():
    """Over an orthogonal set of directions the mean is the gradient itself, whatever the curvature and sigma."""
    size = 6
    curve, slope, at = (torch.randn(*shape, generator=G, dtype=torch.float64) for shape in ((size, size), (size,), (1, size)))
    noise = torch.linalg.qr(torch.randn(size, size, generator=G, dtype=torch.float64)).Q[None] * size**0.5
    sigma = torch.tensor([[0.3]], dtype=torch.float64)
    tried = at[:, None] + sigma[..., None] * torch.cat([noise, -noise], 1)
    fitness = (tried @ slope) + torch.einsum("lnp,pq,lnq->ln", tried, curve, tried)
    torch.testing.assert_close(estimate(fitness, noise, sigma), slope + at @ (curve + curve.T))


def test_a_step_without_a_brake_is_the_policy_gradient(monkeypatch):
    monkeypatch.setattr(evolution, "PASSES", 1)
    logits, adv = torch.randn(2, 4, 3, generator=G), torch.randn(2, 12, generator=G)
    gain = logits.softmax(-1) * adv.view(2, 4, 3)
    gradient = gain - logits.softmax(-1) * gain.sum(-1, keepdim=True)
    torch.testing.assert_close(climb(logits, adv, lambda r, a: 0 * r) - logits, gradient, rtol=1e-4, atol=1e-6)


def test_a_brake_that_costs_as_much_as_is_gained_holds_still(monkeypatch):
    logits, adv = torch.randn(2, 4, 3, generator=G), torch.randn(2, 12, generator=G)
    held = climb(logits, adv, lambda r, a: (r - 1) * a)
    torch.testing.assert_close(held, logits, rtol=0, atol=1e-6)


def trained(seeds, horizon, brake=lambda spent, r, a: 0 * r):
    return train(randoms(seeds, 1), brake, torch.tensor(horizon), lambda n: torch.zeros(len(seeds), 30))


def test_learners_without_noise_near_the_optimum_and_stop_when_their_time_is_up():
    short, long = trained((3, 3), (2, 60))
    assert 0 < short < long < 1 and long > 0.98
    assert trained((3,), (2,))[0] == pytest.approx(short.item(), abs=1e-5)


def test_the_drift_is_told_how_much_of_the_time_is_spent():
    told = []
    trained((3, 4), (2, 4), lambda spent, r, a: told.append(spent.flatten().tolist()) or 0 * r)
    assert told[:: evolution.PASSES] == [[0, 0], [0.5, 0.25], [1, 0.5], [1.5, 0.75]]  # the first has stopped after two


def test_the_noise_is_scaled_and_members_share_it():
    seen = {}
    for noise in (0.0, 2.0):
        _, fitness = next(evolve(Lanes((1, 2), {"noise": (noise,), "sigma": (0.01,)}), members=4))
        assert fitness.shape == (2, 4) and (fitness.std(1) < 0.05).all()  # near twins in one world with one noise
        seen[noise] = fitness.mean(1)
    assert (seen[0.0] > seen[2.0]).all()


def test_a_lane_evolves_alike_alone_and_beside_others():
    def grown(lanes):
        return [(w[lanes.seeds.index(7)], f[lanes.seeds.index(7)]) for w, f in islice(evolve(lanes, members=4), 2)]

    alone, beside = grown(Lanes((7,))), grown(Lanes((1, 7, 4)))
    assert all(torch.equal(a, b) for one, other in zip(alone, beside, strict=True) for a, b in zip(one, other, strict=True))


def test_evolution_goes_uphill(monkeypatch):
    """Where the fitness is nearness to given weights, they are approached from wherever a lane began."""
    goal = torch.randn(WEIGHTS, generator=G) * 0.3
    monkeypatch.setattr(evolution, "trial", lambda learner, tried, *rest: -(tried - goal).square().sum(-1))
    (first, fitness), *_, (last, _) = islice(evolve(Lanes((1, 2), {"clock": (0.0, 1.0)}), members=8), 60)
    assert fitness.shape == (4, 8) and torch.equal(first[:2], first[2:])  # settings share their beginnings and their noise
    assert ((last - goal).norm(dim=1) < 0.8 * (first - goal).norm(dim=1)).all()
