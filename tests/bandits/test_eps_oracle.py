"""The model's fit, what is remembered of the logs, and the policy made of it."""
from dataclasses import replace
from itertools import islice
from types import SimpleNamespace

import numpy as np
import pytest
import scipy.optimize
import torch

from labkit import worlds
from labkit.bandits import eps_oracle as module
from labkit.bandits.eps_oracle import RIDGE, chances, check, contextual, eps_oracle, fit, gradient, read, remember
from labkit.bandits.family import Log, Shape
from labkit.errors import LabError
from labkit.lanes import Lanes
from labkit.meter import DriftMeter, States
from labkit.policy import NEVER
from labkit.worlds.contextual import every
from labkit.worlds.payments import payments

SMALL = replace(eps_oracle, shape=Shape(plays=200, rounds=1))
WORLD = payments(seed=4)


def counts(lanes=2, arms=3, bits=4):
    """Plays and payments by arm and context, (L, N, 2^bits) each."""
    u = Lanes(range(lanes)).rand(1, 2, arms, 2**bits)
    tried = (40 * u[:, 0]).floor()
    return tried, (tried * (0.3 + 0.7 * u[:, 1])).floor()


def logged(algo, lanes, generations, world=WORLD):
    """Learners after each generation, and the log of each."""
    logs = []

    def watching(algo_, learner, log, k):
        logs.append(log)
        return eps_oracle.estimate(algo_, learner, log, k)

    run = replace(algo, estimate=watching).run(world, lanes)
    return [snapshot.learner for snapshot in islice(run, generations)], logs


def tallied(logs, lane):
    """Plays and payments of some logs by arm and context, (1, N, C) each, play by play."""
    tried, won = torch.zeros(1, 6, 256), torch.zeros(1, 6, 256)
    for log in logs:
        for obs, action, paid in zip(log.obs[lane], log.action[lane], log.paid[lane].sum(-1), strict=True):
            context = int(sum(bit * 2**i for i, bit in enumerate(obs[:8].tolist())))
            tried[0, action, context] += 1
            won[0, action, context] += paid
    return tried, won


def test_the_slope_is_zero_at_the_fit():
    for scale in (1, 100):
        tried, won = (scale * x for x in counts())
        assert gradient(fit(tried, won), tried.double(), won.double())[0].abs().max() < 1e-6


def test_the_slope_is_that_of_the_likelihood_with_a_ridge():
    """Autograd of sum won log p + (tried - won) log(1 - p) - RIDGE / 2 |w|^2, written anew."""
    tried, won = (x.double() for x in counts())
    w = (Lanes((0, 1)).rand(5, 3, 5).double() - 0.5).requires_grad_()
    x = torch.cat([torch.as_tensor(every(4)).double(), torch.ones(16, 1)], 1)
    z = w @ x.T
    gain = won * torch.nn.functional.logsigmoid(z) + (tried - won) * torch.nn.functional.logsigmoid(-z)
    whole = gain.sum() - RIDGE / 2 * w.square().sum()
    torch.testing.assert_close(gradient(w.detach(), tried, won)[0], torch.autograd.grad(whole, w)[0])


def test_the_fit_is_scipys():
    tried, won = (x[0, 0].double().numpy() for x in counts())
    x = np.concatenate([every(4), np.ones((16, 1))], 1)

    def loss(w):
        z = x @ w
        return (won * np.logaddexp(0, -z) + (tried - won) * np.logaddexp(0, z)).sum() + RIDGE / 2 * w @ w

    theirs = scipy.optimize.minimize(loss, np.zeros(5), tol=1e-12).x
    np.testing.assert_allclose(fit(*counts())[0, 0].numpy(), theirs, atol=1e-4)


def test_an_arm_without_plays_is_taken_for_even_odds():
    tried, won = counts()
    tried[:, 1] = won[:, 1] = 0
    assert not fit(tried, won)[:, 1].any()


def test_logs_are_counted_newest_first_and_the_oldest_falls_out():
    lanes = Lanes((0, 1))
    learner = SMALL.fresh(WORLD, lanes)
    learners, logs = logged(SMALL, lanes, 3)
    for age, log in enumerate(reversed(logs)):
        for lane in range(2):
            tried, won = tallied([log], lane)
            assert torch.equal(learners[-1].memory["tried"][lane, age].mT, tried[0]), age
            assert torch.equal(learners[-1].memory["won"][lane, age].mT, won[0]), age
    for _ in range(module.REMEMBER + module.LATE + 1):
        remember(learner, logs[0])
    assert learner.memory["tried"].sum() == 2 * 200 * (module.REMEMBER + module.LATE)


@pytest.mark.parametrize("memory,delay,used", [(1, 0, [4]), (3, 0, [2, 3, 4]), (2, 2, [1, 2]), (10, 1, [0, 1, 2, 3])])
def test_the_model_is_fitted_to_what_has_arrived_and_is_not_forgotten(memory, delay, used):
    lanes = Lanes((7,), {"W": (memory,), "delay": (delay,), "eps": (0.5,)})
    learners, logs = logged(SMALL, lanes, 5)
    torch.testing.assert_close(learners[-1].memory["belief"], fit(*tallied([logs[i] for i in used], 0)))


def test_before_any_log_all_arms_are_alike():
    lanes = Lanes((0,), {"delay": (2,)})
    learners, logs = logged(SMALL, lanes, 3)
    for i in (0, 1):
        torch.testing.assert_close(logs[i].chance, torch.full((1, 200), 1 / 6))
        torch.testing.assert_close(chances(learners[i], WORLD), torch.full((1, 256, 6), 1 / 6, dtype=torch.float64))
    assert (chances(learners[2], WORLD) - 1 / 6).abs().max() > 0.5


def test_eps_1_is_the_uniform_policy_whatever_the_model():
    run = SMALL.run(WORLD, Lanes((0, 1), {"eps": (1.0,)}))
    uniform = torch.full((2, 256, 6), 1 / 6, dtype=torch.float64)
    for snapshot in islice(run, 3):
        assert snapshot.learner.memory["belief"].any()
        torch.testing.assert_close(chances(snapshot.learner, WORLD), uniform)


def test_the_chance_that_is_logged_is_the_policys_and_sums_to_1():
    """A generation acts by the policy that the snapshot before it shows."""
    learners, logs = logged(SMALL, Lanes((0, 1), {"eps": (0.2,)}), 4)
    for learner, log in zip(learners, logs[1:], strict=False):
        policy = learner.policy(log.obs)
        torch.testing.assert_close(policy.probs.sum(-1), torch.ones(2, 200))
        torch.testing.assert_close(policy.log_prob(log.action).exp(), log.chance)


def test_actions_have_the_chances_that_are_logged():
    run = replace(eps_oracle, shape=Shape(plays=20_000, rounds=1))
    _, logs = logged(run, Lanes((3,), {"eps": (0.3,)}), 2)
    spread = (logs[1].chance < 0.5).double().mean().item()
    assert spread == pytest.approx(0.3 * 5 / 6, abs=0.012)


def test_shut_routes_are_left_alone():
    world = payments(seed=4, closed=0.5)
    learners, _ = logged(SMALL, Lanes((0, 1), {"eps": (0.5,)}), 3, world)
    p, shut = chances(learners[-1], world), world.contexts[0, :, 8:] == 1
    assert p[:, shut].max() < np.exp(NEVER / 2) and bool((p[:, ~shut] > 0.5 / 6 - 1e-6).all())


def test_more_memory_is_worth_more_and_the_best_is_out_of_reach():
    world = payments(seed=tuple(range(6)) * 2)
    value = read(SMALL, world, Lanes(range(6), {"W": (1, 10)}), 12, world.value)[9:].mean(0)
    assert (value[1] - value[0]).mean() > 0.01 and bool((value < world.best_value()[:6]).all())


def test_drift_between_generations_is_what_the_meter_reads():
    """Mean KL over kinds of payment, weighted by how often they come: by hand from the probabilities of two generations."""
    one, other = (s.learner for s in islice(SMALL.run(WORLD, Lanes((0, 1))), 2))
    meter = DriftMeter(States(WORLD.contexts[0], WORLD.chance[0]), "kl", "previous")
    run = SMALL.run(WORLD, Lanes((0, 1)))
    assert not meter(next(run)).value.any()
    p, q = chances(one, WORLD), chances(other, WORLD)
    by_hand = (WORLD.chance * (p * (p / q).log()).sum(-1)).sum(-1)
    torch.testing.assert_close(meter(next(run)).value, by_hand, rtol=1e-4, atol=1e-5)


def test_a_world_without_contexts_gets_one_sentence():
    with pytest.raises(LabError, match=r"bandit\.arms shows no context"):
        next(eps_oracle.run(worlds.make("bandit.arms"), Lanes((0,))))
    assert contextual(WORLD) is WORLD


def test_the_claim_is_judged_in_two_parts():
    verdict = check(seeds=range(3), generations=21)
    assert len(verdict.parts) == 2 and all(part.bound == 0 for part in verdict.parts)


def test_a_weight_of_the_window_is_a_choice_of_the_lane():
    """Lanes that remember differently share their first generation and no other."""
    value = read(SMALL, WORLD, Lanes((1,), {"W": (1, 2)}), 3, WORLD.value)
    assert value[0, 0] == value[0, 1] and value[2, 0] != value[2, 1]


def test_deploy_puts_the_models_scores_on_arms_that_are_open():
    learner = SMALL.fresh(WORLD, Lanes((0,)))
    learner.memory["belief"] = Lanes((0,)).rand(3, 6, 9).double()
    eps_oracle.show(eps_oracle, learner, torch.zeros(1), SimpleNamespace(eps=torch.tensor([[0.25]])))
    scores, free = learner.nets["pi"](WORLD.contexts)
    x = torch.cat([WORLD.contexts[0, :, :8], torch.ones(256, 1)], 1)
    torch.testing.assert_close(scores[0], x @ learner.memory["belief"][0].float().mT)
    assert free.item() == 0.25


def test_logs_have_their_fields():
    _, logs = logged(SMALL, Lanes((0,)), 1)
    assert isinstance(logs[0], Log) and torch.equal(logs[0].pulled.argmax(-1), logs[0].action)
