"""vmpo: weights and prices against their definitions; steps held to the wished length."""
from dataclasses import replace

import pytest
import torch

from labkit.divergence import kl
from labkit.lanes import Lanes
from labkit.on_policy.family import a2c, policy_loss
from labkit.on_policy.vmpo import best, gaps, imitate_the_best, likelihood, log_weights, price_loss, prices, temperature_loss, tilt, vmpo
from labkit.paper import changed
from labkit.policy import Gaussian

ADV = torch.randn(3, 40, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
TOP = torch.tensor([[0.1], [0.5], [1.0]])
ETA = torch.tensor([[0.3], [1.0], [4.0]], dtype=torch.float64)


def test_it_changes_the_surrogate_and_the_improvement():
    assert changed(vmpo, a2c) == ["surrogate", "improve"]


def test_the_largest_advantages_of_each_lane_are_kept():
    kept = best(ADV, TOP)
    assert kept.sum(1).tolist() == [4, 20, 40]
    for lane in range(2):
        assert ADV[lane][kept[lane]].min() > ADV[lane][~kept[lane]].max()
    assert best(torch.zeros(1, 5), torch.tensor([[0.5]])).tolist() == [[True, True, True, False, False]]  # of equals the first; 2.5 are 3


def test_weights_are_the_softmax_over_what_is_kept():
    kept = best(ADV, TOP)
    psi = log_weights(ADV, kept, ETA).exp()
    torch.testing.assert_close(psi.sum(1), torch.ones(3).double())
    for lane in range(3):
        own = (ADV[lane][kept[lane]] / ETA[lane]).exp()
        torch.testing.assert_close(psi[lane][kept[lane]], own / own.sum())
        assert not psi[lane][~kept[lane]].any()


def test_a_high_temperature_weighs_all_kept_samples_alike():
    kept = best(ADV, TOP)
    log_psi = log_weights(ADV, kept, torch.full((3, 1), 1e9).double())
    torch.testing.assert_close(log_psi.exp(), kept / kept.sum(1, keepdim=True).double(), rtol=1e-8, atol=0)
    assert (tilt(log_psi, kept).abs() < 1e-12).all() and (tilt(log_weights(ADV, kept, ETA), kept) > 0.01).all()


def test_the_slope_of_the_temperature_is_radius_less_tilt():
    eta, kept = ETA.clone().requires_grad_(), best(ADV, TOP)
    slope = torch.autograd.grad(temperature_loss(ADV, kept, eta, torch.full((3, 1), 0.02, dtype=torch.float64)).sum(), eta)[0][:, 0]
    torch.testing.assert_close(slope, 0.02 - tilt(log_weights(ADV, kept, ETA), kept), rtol=1e-10, atol=1e-12)


def test_a_price_rises_while_its_part_goes_too_far():
    k = Lanes((0, 1)).knobs(vmpo.knobs)
    alpha = torch.ones(2, 2, requires_grad=True)
    gap = torch.tensor([[0.05, 0.001], [0.002, 0.0001]])  # by mean and by spread, of two lanes
    slope = torch.autograd.grad(price_loss(gap, alpha, k).sum(), alpha)[0]
    torch.testing.assert_close(slope, torch.tensor([[0.01 - 0.05, 0.009], [-0.001, 0.001 - 0.0001]]))


def test_the_two_parts_of_a_normals_kl_vanish_one_at_a_time():
    """In one of mean and spread the parts make up the whole; moved in both, each is the KL of its own move."""
    old = Gaussian(torch.tensor([[[0.0]]]), torch.tensor([[[0.0]]]))
    moved = replace(old, mean=torch.tensor([[[0.5]]]))
    wider = replace(old, log_std=torch.tensor([[[0.3]]]))
    assert gaps(old, moved)[:, 0, 0].tolist() == [kl(old, moved).item(), 0.0]
    assert gaps(old, wider)[:, 0, 0].tolist() == [0.0, kl(old, wider).item()]
    assert gaps(old, replace(moved, log_std=wider.log_std))[:, 0, 0].tolist() == [kl(old, moved).item(), kl(old, wider).item()]


def test_its_first_gradient_is_that_of_the_weighted_log_likelihood(collected):
    c = collected(vmpo)
    flat = c.batch.flat()
    ours = c.learner.gradient("pi", policy_loss(vmpo, c.learner, flat, c.k))
    plain = -(flat.adv * c.learner.policy(flat.obs).log_prob(flat.action)).mean(1)
    torch.testing.assert_close(ours, c.learner.gradient("pi", plain), rtol=1e-5, atol=1e-7)
    assert likelihood(torch.zeros(1, 1), torch.ones(1, 1), c.k).isfinite().all()


@pytest.mark.parametrize("world", ["control.cartpole", "control.pendulum"])
def test_the_farther_it_may_walk_the_farther_it_walks(collected, world):
    c = collected(vmpo, world, lanes=Lanes((0, 1, 2), {"eps_a": (0.001, 0.3), "dual": (0.1,)}), updates=15)
    imitate_the_best(c.algo, c.learner, c.batch, c.k)
    near, far = c.batch.info["kl"].view(2, 3)
    flat = c.batch.flat()
    assert torch.equal(c.batch.info["kl"], kl(flat.policy, c.learner.policy(flat.obs)).mean(1).detach())
    assert far.mean() > 1.5 * near.mean()
    held, free = prices(c.learner)[:, 1].view(2, 3)
    assert (held > 10 * free).all()
