"""Policies against torch.distributions, and their samples against their densities."""
import math

import pytest
import torch
from torch import distributions as D

from labkit.divergence import kl
from labkit.lanes import Lanes
from labkit.policy import HEADS, NEVER, SHUT, Categorical, Gaussian, TanhGaussian

U = Lanes((0, 1))
MEAN, LOG_STD = U.rand(1, 6, 2) * 2 - 1, U.rand(2, 6, 2) - 1
PAIRS = [
    (Categorical(U.rand(3, 6, 4) * 5), D.Categorical(logits=U.rand(3, 6, 4) * 5)),
    (Gaussian(MEAN, LOG_STD), D.Independent(D.Normal(MEAN, LOG_STD.exp()), 1)),
    (TanhGaussian(MEAN, LOG_STD), D.Independent(D.TransformedDistribution(D.Normal(MEAN, LOG_STD.exp()), D.TanhTransform()), 1)),
]


def widths(policy):
    return 1 if isinstance(policy, Categorical) else 2


@pytest.mark.parametrize("ours,theirs", PAIRS, ids=["categorical", "gaussian", "tanh"])
def test_log_prob_is_torchs(ours, theirs):
    action = ours.sample(U.rand(9, 6, widths(ours)))
    assert torch.allclose(ours.log_prob(action), theirs.log_prob(action), atol=1e-4)


@pytest.mark.parametrize("ours,theirs", PAIRS[:2], ids=["categorical", "gaussian"])
def test_entropy_is_torchs(ours, theirs):
    assert torch.allclose(ours.entropy(), theirs.entropy(), atol=1e-5)


def test_categorical_samples_have_the_stated_frequencies():
    p = torch.tensor([0.5, 0.0, 0.2, 0.3])
    n = 40_000
    action = Categorical(p.log().clamp_min(-1e9).expand(1, n, 4)).sample(Lanes((4,)).rand(1, n, 1))
    share = torch.bincount(action.flatten(), minlength=4) / n
    assert share[1] == 0 and ((share - p).abs() <= 4 * (p * (1 - p) / n).sqrt()).all()


def test_gaussian_samples_are_normal():
    from scipy.stats import kstest

    z = Gaussian(torch.zeros(1, 20_000, 1), torch.zeros(1, 20_000, 1)).sample(Lanes((4,)).rand(1, 20_000, 1))
    assert kstest(z.flatten().numpy(), "norm").pvalue > 1e-3


@pytest.mark.parametrize("u", [0.0, 1 - 2**-24])
def test_extreme_noise_stays_finite(u):
    for ours, _ in PAIRS:
        action = ours.sample(torch.full((2, 6, widths(ours)), u))
        assert ours.log_prob(action).isfinite().all()


def test_map_and_detach_keep_the_kind():
    p = Categorical(torch.zeros(2, 3, 4, requires_grad=True))
    assert p.logits.requires_grad and not p.detach().logits.requires_grad
    assert p.map(lambda x: x[:, :1]).logits.shape == (2, 1, 4)


# heads of bandits


def chances(head, scores, free):
    return HEADS[head](torch.tensor([[scores]]), torch.tensor([[[free]]])).probs[0, 0]


def test_eps_greedy_by_hand():
    torch.testing.assert_close(chances("eps_greedy", [0.1, 0.7, -2.0, SHUT], 0.3), torch.tensor([0.1, 0.8, 0.1, 0.0]))
    torch.testing.assert_close(chances("eps_greedy", [0.7, 0.7, -2.0, SHUT], 0.3), torch.tensor([0.45, 0.45, 0.1, 0.0]))


def test_inverse_gap_by_hand():
    """Chances of success 0.8, 0.9 and 0.5 at gamma 20: 1 / (3 + 20 * 0.1), the rest, 1 / (3 + 20 * 0.4); a shut arm counts for none."""
    log_odds = [math.log(p / (1 - p)) for p in (0.8, 0.9, 0.5)]
    by_hand = torch.tensor([1 / 5, 1 - 1 / 5 - 1 / 11, 1 / 11])
    torch.testing.assert_close(chances("inverse_gap", log_odds, 20.0), by_hand)
    torch.testing.assert_close(chances("inverse_gap", [SHUT, *log_odds], 20.0), torch.cat([torch.zeros(1), by_hand]))


@pytest.mark.parametrize("head,even,greedy", [("eps_greedy", 1.0, 0.0), ("inverse_gap", 0.0, 1e9)])
def test_exploration_goes_from_even_to_none(head, even, greedy):
    scores = 4 * U.rand(1, 50, 6) - 2
    uniform, sure = (HEADS[head](scores, torch.full((2, 1, 1), free)).probs for free in (even, greedy))
    torch.testing.assert_close(uniform, torch.full_like(uniform, 1 / 6))
    torch.testing.assert_close(sure, torch.nn.functional.one_hot(scores.argmax(-1), 6).float(), atol=1e-6, rtol=0)


@pytest.mark.parametrize("head,free", [("eps_greedy", 0.2), ("inverse_gap", 30.0)])
def test_what_explores_does_everything_sometimes(head, free):
    p = HEADS[head](4 * U.rand(1, 50, 6) - 2, torch.full((2, 1, 1), free)).probs
    torch.testing.assert_close(p.sum(-1), torch.ones(2, 50))
    assert bool((p > 1e-3).all())


def test_what_is_never_done_keeps_divergences_finite():
    one, other = (Categorical(HEADS["eps_greedy"](torch.tensor([[s]]), torch.zeros(1, 1, 1)).logits) for s in ([1.0, 0.0], [0.0, 1.0]))
    assert kl(one, other).item() == pytest.approx(-NEVER)


def test_two_thompson_arms_in_closed_form():
    """P(x > y) = Phi((m - m2) / sqrt(s^2 + s2^2))"""
    beliefs = U.rand(1, 40, 4) + 0.2
    m, m2, s, s2 = beliefs.unbind(-1)
    exact = torch.special.ndtr((m - m2) / (s * s + s2 * s2).sqrt())
    torch.testing.assert_close(HEADS["thompson"](beliefs, beliefs[..., :0]).probs[..., 0], exact, atol=2e-6, rtol=0)


def test_thompson_chances_are_the_frequencies_of_the_largest_draw():
    mean, deviation, n = torch.tensor([0.3, 0.0, 0.5, -0.2]), torch.tensor([0.4, 0.9, 0.15, 0.6]), 200_000
    draws = Gaussian(mean.expand(1, n, 4), deviation.log().expand(1, n, 4)).sample(Lanes((4,)).rand(1, n, 4))
    share = torch.bincount(draws[0].argmax(-1), minlength=4) / n
    p = HEADS["thompson"](torch.cat([mean, deviation])[None, None], mean[:0]).probs[0, 0]
    assert bool(((share - p).abs() <= 4 * (p * (1 - p) / n).sqrt()).all())


def test_thompson_without_doubt_takes_the_largest_mean_and_equals_share():
    p = HEADS["thompson"](torch.tensor([[[0.2, 0.5, 0.5, SHUT, 0.0, 0.0, 0.0, 0.0]]]), torch.zeros(0)).probs[0, 0]
    torch.testing.assert_close(p, torch.tensor([0.0, 0.5, 0.5, 0.0]))
