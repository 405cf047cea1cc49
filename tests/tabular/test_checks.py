"""The checks of the bases' claims: they hold, and they are rejected of methods that break them."""
from dataclasses import replace

import pytest
import torch

from labkit.tabular import checks
from labkit.tabular.family import ascend, best_action, greedy, natural, solve
from labkit.worlds.finite import expected_return, garnet, values

SEEDS = range(10)
BASES = ("exact_pg", "npg", "policy_iteration", "mirror_descent", "soft_policy_iteration")


@pytest.mark.parametrize("key", BASES)
def test_the_claim_holds(key):
    verdict = getattr(checks, f"check_{key}")(SEEDS)
    assert verdict.held == "held" and verdict.low <= verdict.value <= verdict.high


def down(algo, known, q, learner, k):
    """Down the gradient."""
    return ascend(algo, known, -q, learner, k)


def stay(algo, known, q, learner, k):
    return learner.memory["log_pi"]


def worst_action(algo, known, q, learner, k):
    return best_action(-q)


def gentle(algo, known, q, learner, k):
    """Towards the better actions, but never all the way."""
    return (learner.memory["log_pi"] + 0.01 * q).log_softmax(-1)


def forgetful(algo, known, q, learner, k):
    """Mirror descent from uniform each time."""
    return (k.eta[..., None] * q / (1 + k.eta * k.tau)[..., None]).log_softmax(-1)


def unfading(algo, known, q, learner, k):
    """Mirror descent whose entropy fades nothing."""
    return (learner.memory["log_pi"] + k.eta[..., None] * q).log_softmax(-1)


@pytest.mark.parametrize(("key", "broken"), [
    ("exact_pg", {"improve": down}),
    ("exact_pg", {"improve": natural}),
    ("npg", {"improve": stay}),
    ("npg", {"improve": down}),
    ("policy_iteration", {"improve": worst_action}),
    ("policy_iteration", {"improve": gentle}),
    ("mirror_descent", {"improve": forgetful}),
    ("mirror_descent", {"improve": unfading}),
    ("mirror_descent", {"evaluate": solve}),
    ("soft_policy_iteration", {"improve": greedy}),
    ("soft_policy_iteration", {"evaluate": solve}),
])  # fmt: skip
def test_the_claim_is_rejected_of_methods_that_break_it(key, broken, monkeypatch):
    monkeypatch.setattr(checks, key, replace(getattr(checks, key), **broken))
    assert getattr(checks, f"check_{key}")(SEEDS).held == "not held"


def test_the_natural_gradient_is_the_advantage():
    """F^+ grad J = A / (1 - gamma), Agarwal et al. 2021, lemma 15."""
    mdp = garnet(seed=range(3), gamma=0.9).mdp
    log_pi = torch.randn(3, 10, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).log_softmax(-1)
    q = values(mdp, log_pi.exp())[0]
    torch.testing.assert_close(checks.natural_gradient(mdp, log_pi, 0.0), checks.centred(q) / (1 - 0.9), rtol=0, atol=1e-9)


def test_stretched_rewards_fill_the_unit_interval():
    before = garnet(seed=range(3), gamma=0.9)
    after = checks.paying(before).mdp
    assert after.r.amin((1, 2)).tolist() == [0, 0, 0] and after.r.amax((1, 2)).tolist() == [1, 1, 1]
    pi = torch.full((3, 10, 3), 1 / 3, dtype=torch.float64)
    low, high = before.mdp.r.amin((1, 2)), before.mdp.r.amax((1, 2))
    stretched = (expected_return(before.mdp, pi) - low / (1 - 0.9)) / (high - low)
    torch.testing.assert_close(expected_return(after, pi), stretched, rtol=0, atol=1e-9)


def test_until_counts_the_first_small_one():
    x = torch.tensor([[3.0, 0.0, 5.0], [1.0, 0.0, 5.0], [0.0, 0.0, 5.0]])
    assert checks.until(x, 0.5).tolist() == [3, 1, 4]
