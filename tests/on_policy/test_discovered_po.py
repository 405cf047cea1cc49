"""discovered_po: a drift is nowhere negative and flat at ratio 1; written as a drift, the clip is ppo's."""
from types import SimpleNamespace

import pytest
import torch

from labkit.on_policy.discovered_po import braked, discovered_po, drift
from labkit.on_policy.family import clipped, policy_loss, ppo
from labkit.paper import changed

RATIO = torch.linspace(0.02, 4, 800, dtype=torch.float64)[None]
ENDS = [(a, b) for a in (0.5, 2.0, 10.0) for b in (0.1, 0.6, 3.0)]


def knobs(alpha=2.0, beta=0.6, eps=0.2):
    return SimpleNamespace(**{n: torch.tensor([[v]], dtype=torch.float64) for n, v in (("alpha", alpha), ("beta", beta), ("eps", eps))})


def test_it_changes_the_surrogate_alone():
    assert changed(discovered_po, ppo) == ["surrogate"]


@pytest.mark.parametrize(("alpha", "beta"), ENDS)
@pytest.mark.parametrize("adv", [-3.0, -0.4, 0.0, 0.4, 3.0])
def test_drift_is_never_negative_and_zero_and_flat_at_one(adv, alpha, beta):
    k = knobs(alpha, beta)
    assert (drift(RATIO, torch.full_like(RATIO, adv), k) >= 0).all()
    one = torch.ones(1, 1, dtype=torch.float64, requires_grad=True)
    at_one = drift(one, torch.full_like(one, adv), k)
    assert at_one.item() == 0 and torch.autograd.grad(at_one.sum(), one)[0].item() == 0


def test_slope_is_the_closed_form():
    """d/dr of r A - drift: A (1 - tanh^2) for good actions that gain; A - (A / r) tanh^2 for bad ones that lose."""
    for adv in (1.5, 0.5, -1.5):
        ratio = RATIO.clone().requires_grad_()
        slope = torch.autograd.grad(braked(ratio, torch.full_like(ratio, adv), knobs()).sum(), ratio)[0]
        good = adv * (1 - ((RATIO - 1) * adv / 2.0).tanh().square())
        bad = adv - adv / RATIO * (RATIO.log() * adv / 0.6).tanh().square()
        expected = torch.where(RATIO > 1, good, adv) if adv > 0 else torch.where(RATIO < 1, bad, adv)
        torch.testing.assert_close(slope, expected, rtol=1e-9, atol=1e-9)


def test_far_down_a_bad_action_is_pulled_back():
    """Where the clip only stops pushing, r A - drift has its top, where r = tanh^2(log(r) A / beta), and slopes back below it."""
    value = braked(RATIO, torch.full_like(RATIO, -1.0), knobs())[0]
    top = RATIO[0, value.argmax()]
    assert top.item() == pytest.approx((top.log() / 0.6).tanh().square().item(), abs=0.01)
    assert 0 < top < 1 and (value[RATIO[0] < top].diff() > 0).all()


def test_the_clip_as_a_drift_is_ppo():
    for adv in (-2.0, 0.3):
        adv = torch.full_like(RATIO, adv)
        k = knobs()
        f = ((RATIO - RATIO.clamp(1 - k.eps, 1 + k.eps)) * adv).relu()
        torch.testing.assert_close(RATIO * adv - f, clipped(RATIO, adv, k), rtol=0, atol=1e-14)


@pytest.mark.parametrize("world", ["control.cartpole", "control.pendulum"])
def test_its_first_gradient_is_that_of_ppo(collected, world):
    c = collected(discovered_po, world)
    flat, k = c.batch.flat(), SimpleNamespace(**vars(c.k), eps=torch.full_like(c.k.lr, 0.2))
    one, other = (c.learner.gradient("pi", policy_loss(a, c.learner, flat, k)) for a in (discovered_po, ppo))
    torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-7)


def test_a_ratio_that_underflows_gives_no_nan():
    ratio = torch.zeros(1, 1, requires_grad=True)
    value = braked(ratio, torch.full_like(ratio, -1.0), SimpleNamespace(alpha=torch.tensor([[2.0]]), beta=torch.tensor([[0.6]])))
    assert value.isfinite().all() and torch.autograd.grad(value.sum(), ratio)[0].isfinite().all()
