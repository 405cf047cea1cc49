"""Bayesian regressions by rank-one updates, the belief that is shown, and its limits."""
from dataclasses import replace
from itertools import islice

import pytest
import torch

from labkit.bandits.eps_oracle import chances
from labkit.bandits.family import Shape
from labkit.bandits.querybandits import check, querybandits, regret
from labkit.lanes import Lanes
from labkit.policy import SHUT
from labkit.worlds.payments import payments
from labkit.worlds.rewriting import rewriting

WORLD = rewriting(seed=4)
SMALL = replace(querybandits, shape=Shape(plays=2, rounds=15))


def watched(lanes, snapshots=4, world=WORLD):
    """The last learner and all plays: features with a constant (L, B, 9), actions and rewards (L, B)."""
    logs = []

    def watching(algo, learner, log, k):
        logs.append((torch.nn.functional.pad(log.obs[..., :8], (0, 1), value=1.0).double(), log.action, log.paid.sum(-1).double()))
        return querybandits.estimate(algo, learner, log, k)

    last = list(islice(replace(SMALL, estimate=watching).run(world, lanes), snapshots))[-1]
    return last.learner, *(torch.cat(parts, 1) for parts in zip(*logs, strict=True))


def test_rank_one_updates_are_a_direct_inverse():
    learner, x, action, reward = watched(Lanes((0, 1)))
    for lane in range(2):
        for arm in range(6):
            own = x[lane, action[lane] == arm]
            A, b = torch.eye(9).double() + own.mT @ own, reward[lane, action[lane] == arm] @ own
            assert (learner.memory["inverse"][lane, arm] - torch.linalg.inv(A)).abs().max() < 1e-6
            assert (learner.memory["belief"][lane, arm] - torch.linalg.solve(A, b)).abs().max() < 1e-6


def test_one_constant_feature_is_gaussian_thompson_sampling():
    """Mean sum r / (1 + n) and deviation v / sqrt(1 + n) of each arm, whatever the question."""
    learner, _, action, reward = watched(Lanes((0, 1), {"features": (0,), "v": (0.7,)}))
    shown = learner.nets["pi"](WORLD.contexts.expand(2, -1, -1))[0].detach().double()
    for lane in range(2):
        for arm in range(6):
            own = action[lane] == arm
            n, total = own.sum(), reward[lane, own].sum()
            torch.testing.assert_close(shown[lane, :, arm], (total / (1 + n)).expand(300), rtol=1e-5, atol=1e-6)
            torch.testing.assert_close(shown[lane, :, 6 + arm], (0.7 / (1 + n.double()).sqrt()).expand(300), rtol=1e-5, atol=1e-6)


def test_what_is_shown_is_the_belief_at_each_question():
    learner, *_ = watched(Lanes((0, 1), {"v": (0.5,)}))
    shown = learner.nets["pi"](WORLD.contexts.expand(2, -1, -1))[0].detach().double()
    x = torch.nn.functional.pad(WORLD.contexts[0, :, :8], (0, 1), value=1.0).double()
    inverse, mean = learner.memory["inverse"], learner.memory["belief"]
    torch.testing.assert_close(shown[..., :6], torch.einsum("cd,lad->lca", x, mean), rtol=1e-5, atol=1e-5)
    spread = 0.5 * torch.einsum("cd,lade,ce->lca", x, inverse, x).sqrt()
    torch.testing.assert_close(shown[..., 6:], spread, rtol=1e-5, atol=1e-5)


def test_features_that_are_not_seen_change_nothing():
    """With 3 of 8 in sight, the weights of the others stay at their prior, and questions that differ in them alone are the same."""
    learner, *_ = watched(Lanes((0,), {"features": (3,)}))
    assert not learner.memory["belief"][..., 3:8].any() and learner.memory["belief"][..., :3].any()
    hidden = learner.memory["inverse"][0, :, 3:8, 3:8]
    assert torch.equal(hidden, torch.eye(5).double().expand(6, -1, -1))


def test_without_width_it_is_greedy_from_a_fair_start():
    learner = SMALL.fresh(WORLD, Lanes((0,)))
    querybandits.show(querybandits, learner, torch.zeros(1), Lanes((0,), {"v": (0.0,)}).knobs(querybandits.knobs))
    torch.testing.assert_close(chances(learner, WORLD), torch.full((1, 300, 6), 1 / 6, dtype=torch.float64))
    learner, *_ = watched(Lanes((0,), {"v": (0.0,)}))
    p = chances(learner, WORLD)[0]
    mean = learner.nets["pi"](WORLD.contexts)[0][0, :, :6]
    assert torch.equal(p.argmax(-1)[p.amax(-1) > 0.99], mean.argmax(-1)[p.amax(-1) > 0.99]) and (p.amax(-1) > 0.99).float().mean() > 0.5


def test_shut_arms_are_never_drawn():
    world = payments(seed=4, closed=0.5)
    learner, *_ = watched(Lanes((0,)), world=world)
    p, shut = chances(learner, world)[0], world.contexts[0, :, 8:] == 1
    shown = learner.nets["pi"](world.contexts)[0][0].detach().double()
    assert p[shut].max() < 1e-20 and shown[:, :6][shut].max() < SHUT / 2
    x = torch.nn.functional.pad(world.contexts[0, :, :8], (0, 1), value=1.0).double()
    spread = 0.3 * torch.einsum("cd,ade,ce->ca", x, learner.memory["inverse"][0], x).sqrt()
    torch.testing.assert_close(shown[:, 6:], spread, rtol=1e-4, atol=1e-5)  # that it is shut is certain


def test_the_policy_that_is_read_is_the_one_that_acts():
    """Actions against the chances of the snapshot before, over 6000 plays of one round: within 4 standard errors."""
    start, *_ = watched(Lanes((0,)))
    many = replace(querybandits, shape=Shape(plays=6000, rounds=1))
    world = many.fresh(WORLD, Lanes((0,))).memory["world"]
    learner = start.copy()
    learner.memory["world"] = world
    obs = WORLD.observe(world)
    k = Lanes((0,)).knobs(querybandits.knobs)
    action, chance = querybandits.choose(querybandits, WORLD, learner, obs, k)
    p = start.policy(obs).probs[0]
    torch.testing.assert_close(p.gather(1, action[0, :, None])[:, 0], chance[0])
    for arm in range(6):
        spread = (p[:, arm] * (1 - p[:, arm])).sum().sqrt()
        assert abs((action[0] == arm).sum() - p[:, arm].sum()) < 4 * spread


def test_it_learns_which_rewrite_a_question_needs():
    """Over 600 queries it loses less by features than blindly, with each of 6 answerers."""
    informed, blind = regret(Lanes(range(6), {"features": (8, 0)}), 1.0, 600)
    assert bool((informed < blind).all()) and (blind - informed).mean() > 0.05


def test_the_claim_is_judged_in_four_parts():
    verdict = check(seeds=range(2), queries=40)
    assert [part.side for part in verdict.parts] == ["above", "above", "below", "below"]
    assert verdict.parts[2].value <= 0 and pytest.approx(verdict.parts[3].bound) == 0.01
