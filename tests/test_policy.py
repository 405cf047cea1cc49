"""Policies against torch.distributions, and their samples against their densities."""
import pytest
import torch
from torch import distributions as D

from labkit.lanes import Lanes
from labkit.policy import Categorical, Gaussian, TanhGaussian

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
