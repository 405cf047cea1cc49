"""erpd: where the signal comes from and what it is worth, the policy that it leads to, and the two stages as one run or two."""
from types import SimpleNamespace

import pytest
import torch
from torch.testing import assert_close

from labkit import worlds
from labkit.divergence import k3
from labkit.grpo.erpd import DATA, distilled, erpd, extreme, signalled, stages, taught
from labkit.grpo.family import clipped, standardised
from labkit.grpo.outcome import policy_at
from labkit.lanes import Lanes
from tests.grpo.by_hand import of_lengths
from tests.methods import small

METHOD, LANES = small(erpd), Lanes((0, 1), {"passes": (3.0,)})


@pytest.fixture(scope="module")
def world():
    return worlds.make("tokens.countdown")


@pytest.fixture(scope="module")
def begun(world):
    return METHOD.begin(world, LANES, 0.2)


def after_stage_one(world, begun, steps):
    """Stage one by hand: so many updates of a step each on one batch."""
    first, k, teacher = extreme(METHOD), LANES.knobs(erpd.knobs), begun.copy()
    batch = first.gather(world, teacher, k)
    for _ in range(steps):
        first.learn(world, teacher, batch, k)
    return teacher


def test_a_teacher_that_never_moved_gives_no_signal_and_no_motion(world, begun):
    pupil, k = taught(begun, begun), LANES.knobs(erpd.knobs)
    before = pupil.nets["pi"].theta.detach().clone()
    batch = METHOD.gather(world, pupil, k)
    assert not batch.extra["signal"].any() and not batch.adv.any()
    METHOD.learn(world, pupil, batch, k)
    assert torch.equal(pupil.nets["pi"].theta, before)


def test_the_signal_is_worth_more_to_the_teacher_than_to_the_start_in_every_state(world, begun):
    learner = taught(begun, after_stage_one(world, begun, 3))
    start, teacher = (policy_at(world, learner, learner.memory[name]) for name in ("reference", "teacher"))
    signal = teacher.logits - start.logits
    worth = ((teacher.probs - start.probs) * signal).sum(-1)
    assert bool((worth >= 0).all()) and worth.max() > 1e-3


def test_the_signal_of_a_token_is_the_teachers_over_the_references(world, begun):
    learner, k = taught(begun, after_stage_one(world, begun, 3)), LANES.knobs(erpd.knobs)
    batch = METHOD.gather(world, learner, k)
    teacher, start = (policy_at(world, learner, learner.memory[name]) for name in ("teacher", "reference"))
    assert_close(batch.extra["signal"].double(), batch.pick(teacher) - batch.pick(start), atol=1e-5, rtol=1e-4)


def test_stage_two_that_makes_no_update_is_where_stage_one_began(world, begun):
    teacher = after_stage_one(world, begun, 3)
    pupil = taught(begun, teacher)
    assert torch.equal(pupil.nets["pi"].theta, begun.nets["pi"].theta) and not pupil.nets["pi"].clock.any()
    assert pupil.tick == teacher.tick > begun.tick  # so that no noise is used twice
    assert not torch.equal(pupil.memory["teacher"], pupil.memory["reference"])


def test_a_run_without_a_teacher_makes_the_one_that_stage_one_makes(world, begun):
    """Bit for bit: here stage one draws its noise after the first prompts are drawn, so the chain begins there too."""
    k, alone = LANES.knobs(erpd.knobs), begun.copy()
    METHOD.tasks(METHOD, world, alone, k)
    problem = METHOD.tasks(METHOD, world, alone.copy(), k)
    start = alone.copy()
    signalled(METHOD, world, alone, problem, k)
    teacher = after_stage_one(world, start, 3)
    assert torch.equal(alone.memory["teacher"], teacher.nets["pi"].theta)
    chained = taught(start, teacher)
    signalled(METHOD, world, chained, problem, k)
    assert alone.tick == chained.tick and all(torch.equal(alone.memory[n], chained.memory[n]) for n in ("rollouts", "tokens"))
    assert alone.memory["rollouts"].tolist() == [(DATA + 1) * 16] * 2


def test_the_advantage_is_the_signal_less_its_mean_over_all_tokens():
    batch = of_lengths([[2, 1]])
    batch.extra["signal"] = torch.tensor([[[[3.0, 1.0], [-1.0, 99.0]]]], dtype=torch.float64)
    assert distilled(batch, None).tolist() == [[[[2.0, 0.0], [-2.0, 0.0]]]]


def test_where_the_policy_comes_to_rest():
    """In one state, over all its tokens: the gradient of signal and pull together is 0 at pi0 * beta / (beta + c - signal)."""
    generator = torch.Generator().manual_seed(0)
    start = torch.randn(11, generator=generator, dtype=torch.float64).log_softmax(0)
    signal, beta = torch.randn(11, generator=generator, dtype=torch.float64).log_softmax(0) - start, 6.0
    low, high = (signal.max() - beta).item(), signal.max().item() + beta
    for _ in range(200):
        c = (low + high) / 2
        low, high = (c, high) if (start.exp() * beta / (beta + c - signal)).sum() > 1 else (low, c)
    logits = (start + torch.log(beta / (beta + c - signal))).requires_grad_()
    logp = logits.log_softmax(0)
    gain = (logp.exp().detach() * (logp * signal - beta * k3(start - logp))).sum()
    assert_close(torch.autograd.grad(gain, logits)[0], torch.zeros(11, dtype=torch.float64), atol=1e-9, rtol=0)


def test_stage_one_is_rewards_alone_with_a_wide_clip_and_more_data():
    first = extreme(erpd)
    assert first.advantage is standardised and first.shape.prompts == DATA * erpd.shape.prompts
    batch = of_lengths([[1, 1]])
    batch.adv = torch.tensor([1.0, -1.0], dtype=torch.float64).view(1, 1, 2, 1)
    ratio = torch.tensor([1.7, 0.1], dtype=torch.float64).view(1, 1, 2, 1)
    k = SimpleNamespace(wide=torch.tensor([[1.0]], dtype=torch.float64), eps=torch.tensor([[0.2]], dtype=torch.float64))
    assert first.surrogate(ratio, batch, k).flatten().tolist() == [1.7, -0.1]
    assert clipped(ratio, batch, k).flatten().tolist() == pytest.approx([1.2, -0.8])
    k.wide = k.eps
    assert torch.equal(first.surrogate(ratio, batch, k), clipped(ratio, batch, k))


def test_the_stages_of_the_check_begin_together_and_stage_one_goes_further(world):
    one, two = stages(world, Lanes((0,)), passes=8, updates=2)
    assert len(one["kl"]) == 9 and len(two["kl"]) == 3
    assert one["kl"][0] == two["kl"][0] == 0 and torch.equal(one["success"][0], two["success"][0])
    assert one["kl"][-1] > 0 and two["kl"][-1] > 0
