"""bapo: what counts as good and bad news, where the bounds go, and that they are a fixed clip where nothing is wanted."""
from types import SimpleNamespace

import pytest
import torch
from torch.testing import assert_close

from labkit import worlds
from labkit.grpo.bapo import DUAL, HIGH, LOW, balanced, bapo, bounds, weights
from labkit.grpo.family import clip, clipped, grpo, read
from labkit.lanes import Lanes
from labkit.worlds.tokens.world import EMPTY
from tests.grpo.by_hand import batch_of
from tests.methods import small


def knobs(target, step=0.05):
    return SimpleNamespace(target=torch.tensor([[target]], dtype=torch.float64), step=torch.tensor([[step]], dtype=torch.float64))


def told(ratio, adv):
    """Responses of one token each with these ratios and advantages, one lane."""
    batch = batch_of(torch.zeros(1, 1, len(ratio), 1, dtype=torch.int64))
    batch.adv = torch.tensor(adv, dtype=torch.float64).view(1, 1, -1, 1)
    return torch.tensor(ratio, dtype=torch.float64).view(1, 1, -1, 1), batch


def bound(value):
    return torch.tensor([[value]], dtype=torch.float64)


@pytest.fixture
def stale():
    """Many tokens with ratios from 0.2 to 3.5, more bad than good."""
    generator = torch.Generator().manual_seed(0)
    ratio = 0.2 + 3.3 * torch.rand(400, generator=generator)
    return told(ratio.tolist(), (torch.randn(400, generator=generator) - 0.3).tolist())


def test_only_tokens_that_the_clip_lets_through_count():
    ratio, batch = told([1.0, 1.3, 0.5, 0.8, 2.0], [1.0, 2.0, -1.0, -3.0, -0.5])
    good, bad = weights(ratio, batch, bound(0.6), bound(1.2))
    assert (good.item(), bad.item()) == pytest.approx((1.0, 3 * 0.8 + 0.5 * 2.0))
    batch.token[0, 0, 0] = EMPTY
    assert weights(ratio, batch, bound(0.6), bound(1.2))[0].item() == 0


def test_both_bounds_raise_the_share_of_good_news(stale):
    ratio, batch = stale
    shares = []
    for i in range(61):
        low, high = bound(min(0.6 + 0.01 * i, 0.9)), bound(1.2 + 0.06 * max(i - 30, 0))
        good, bad = weights(ratio, batch, low, high)
        shares.append((good / bad).item())
    assert shares == sorted(shares) and shares[0] < shares[30] < shares[-1]


def test_the_lower_bound_rises_first_and_the_upper_only_at_its_end():
    few = [1.0, 0.65, 0.7, 1.5], [1.0, -0.2, -1.0, 5.0]
    low, high = bounds(*told(*few), knobs(1.2))  # without the token at 0.65 good over bad is 1.43, with it 1.21
    assert (low.item(), high.item()) == (LOW[0], HIGH[0])
    low, high = bounds(*told(*few), knobs(1.3))
    assert low.item() == pytest.approx(0.7) and high.item() == HIGH[0]
    low, high = bounds(*told([1.0, 1.0, 1.5], [1.0, -2.0, 5.0]), knobs(1.0))  # only the good token at 1.5 helps
    assert low.item() == LOW[1] and high.item() == pytest.approx(1.5)


def test_bounds_stay_within_their_ends(stale):
    low, high = bounds(*stale, knobs(1e6, 0.07))
    assert (low.item(), high.item()) == (LOW[1], HIGH[1])


def test_without_bad_news_the_bounds_stay():
    low, high = bounds(*told([1.0, 2.0], [1.0, 1.0]), knobs(3.0))
    assert (low.item(), high.item()) == (LOW[0], HIGH[0])


def test_a_balance_within_rounding_moves_no_bound():
    low, high = bounds(*told([1.0, 1.0], [1.0 - 1e-6, -1.0]), knobs(1.0))
    assert (low.item(), high.item()) == (LOW[0], HIGH[0])


def test_target_0_is_a_fixed_clip_bit_for_bit(stale):
    ratio, batch = stale
    fixed = clip(ratio, batch.adv, bound(LOW[0]), bound(HIGH[0]))
    bad = (batch.adv < 0) & (ratio > DUAL)
    gain = balanced(ratio, batch, knobs(0.0))
    assert bool(bad.any()) and torch.equal(gain[~bad], fixed[~bad])
    assert torch.equal(gain[bad], DUAL * batch.adv[bad])  # the dual clip


def test_the_bounds_that_are_found_are_those_that_clip(stale):
    ratio, batch = stale
    low, high = bounds(ratio, batch, knobs(0.3))
    assert HIGH[0] < high.item() < HIGH[1]
    gain, near = balanced(ratio, batch, knobs(0.3)), ratio <= DUAL
    assert_close(gain[near], clip(ratio, batch.adv, low, high)[near], rtol=0, atol=0)
    assert batch.info["low"].item() == low.item() and batch.info["high"].item() == high.item()


def test_a_fresh_batch_is_learnt_as_under_a_fixed_clip():
    """At lag 0 all ratios are 1: the gradient is that of GRPO's own clip, bit for bit."""
    method, world, lanes = small(bapo), worlds.make("tokens.chain"), Lanes((0, 1))
    learner = method.begin(world, lanes, method.shape.warm)
    k = SimpleNamespace(**vars(lanes.knobs(grpo.knobs)) | vars(lanes.knobs(bapo.knobs)))
    batch, grads = method.gather(world, learner, k), []
    for surrogate in (balanced, clipped):
        ratio_gain = method.reduce(-surrogate(method.ratio(batch.pick(read(world, learner, batch)), batch, k), batch, k), batch, k)
        grads.append(learner.gradient("pi", ratio_gain))
    assert bool(grads[0].any()) and torch.equal(*grads)
