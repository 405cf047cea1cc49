"""The family's loop and its pieces: numbers worked out by hand, finite differences, and sums over all responses."""
import itertools
import math
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as some
from torch.testing import assert_close

from labkit import worlds
from labkit.errors import LabError
from labkit.grpo import family
from labkit.grpo.family import (
    Shape,
    aged,
    anchor,
    assemble,
    centred,
    clip,
    clipped,
    clipped_higher,
    dapo,
    demonstration,
    fill,
    free,
    group_mean,
    grpo,
    importance,
    log_likelihood,
    marked,
    mixed,
    not_too_long,
    plain_reward,
    pull,
    read,
    response_mean,
    sft,
    standardised,
    to_sampler,
    token_mean,
    write,
)
from labkit.grpo.outcome import outcome, policy_at
from labkit.lanes import Lanes
from labkit.policy import Categorical
from labkit.worlds.tokens import truth
from labkit.worlds.tokens.chain import Chain
from labkit.worlds.tokens.world import EMPTY
from tests.grpo.by_hand import batch_of, of_lengths

SMALL = {"prompts": 4, "group": 4, "width": 8, "warm": 0.2}


def f64(*x):
    return torch.tensor(x, dtype=torch.float64)


def knob(**values):
    """Knobs of one lane, (1, 1) each, in float64."""
    return SimpleNamespace(**{name: f64([value]) for name, value in values.items()})


def small(method, **sizes):
    return replace(method, shape=replace(method.shape, **SMALL | sizes))


def begun(method=grpo, world=None, seeds=(0, 1), grid=None, **sizes):
    """A small learner before its first update, and all that made it."""
    algo, world, lanes = small(method, **sizes), world or Chain((1, 2), problems=6, held=1), Lanes(seeds, grid or {})
    return SimpleNamespace(algo=algo, world=world, k=lanes.knobs(algo.knobs), learner=algo.begin(world, lanes, algo.shape.warm))


# advantage


def test_advantages_by_hand():
    """Mean 1/4; the deviation of a sample is sqrt((9 + 3) / 16 / 3) = 1/2."""
    batch = of_lengths([[1] * 4], f64([[1, 0, 0, 0]]))
    assert centred(batch, None).flatten().tolist() == [0.75, -0.25, -0.25, -0.25]
    assert_close(standardised(batch, None).flatten(), f64(1.5, -0.5, -0.5, -0.5) * 0.5 / (0.5 + 1e-6), rtol=1e-12, atol=0)
    assert plain_reward(batch, None).flatten().tolist() == [1, 0, 0, 0]


def test_empty_places_have_no_part_in_a_group():
    batch = of_lengths([[1] * 5], f64([[1, 0, 1, 1, 1]]))
    batch.real = torch.tensor([[[True, True, False, False, True]]])
    third = math.sqrt(1 / 3)  # of a sample of 1, 0, 1
    assert_close(centred(batch, None).flatten(), f64(1, -2, 0, 0, 1) / 3)
    assert_close(standardised(batch, None).flatten(), f64(1, -2, 0, 0, 1) / 3 / (third + 1e-6), rtol=1e-12, atol=0)
    assert plain_reward(batch, None).flatten().tolist() == [1, 0, 0, 0, 1]
    batch.real = torch.tensor([[[True, False, False, False, True]]])
    assert batch.dead.item() and not standardised(batch, None).any()
    for real in (torch.arange(5) == 3, torch.zeros(5, dtype=torch.bool)):
        batch.real = real[None, None]
        assert not standardised(batch, None).any()
        assert group_mean(batch.reward, batch).item() == real.any()


def test_a_group_that_agrees_has_advantages_of_exactly_nothing():
    batch = of_lengths([[1] * 3] * 2, f64([[0.1, 0.1, 0.1], [0.1, 0.1, 0.7]]))  # the mean of three 0.1 rounds to another number
    assert float(batch.reward[0, 0].mean()) != 0.1
    for advantage in (centred, standardised):
        assert not advantage(batch, None)[0, 0].any() and advantage(batch, None)[0, 1].all()
    assert batch.dead.tolist() == [[True, False]]


@settings(max_examples=40)
@given(some.lists(some.floats(-5, 5, width=32), min_size=2, max_size=9), some.floats(-3, 3), some.floats(0.5, 4))
def test_advantages_sum_to_nothing_and_forget_where_rewards_start_and_their_scale(rewards, shift, scale):
    first, other = (of_lengths([[1] * len(rewards)], f64([x])) for x in (rewards, [scale * r + shift for r in rewards]))
    assert abs(float(centred(first, None).sum())) < 1e-12
    assert_close(centred(other, None), scale * centred(first, None), rtol=1e-9, atol=1e-9)
    if first.reward.std() > 1e-2:
        adv = standardised(first, None)
        assert_close(standardised(other, None), adv, rtol=1e-3, atol=1e-9)
        assert_close(adv.var(), f64(1)[0], rtol=1e-3, atol=0)


# ratio, surrogate, penalty


@pytest.mark.parametrize(
    ("ratio", "adv", "value", "slope"),
    [
        (1.1, 1, 1.1, 1), (1.5, 1, 1.3, 0), (0.5, 1, 0.5, 1),  # clipped above where more would be rewarded
        (0.9, -1, -0.9, -1), (0.5, -1, -0.8, 0), (1.5, -1, -1.5, -1),  # and below where less would be
        (1.5, 0, 0, 0),
    ],
)  # fmt: skip
def test_clip_by_hand(ratio, adv, value, slope):
    x = f64(ratio).view(1, 1, 1, 1).requires_grad_()
    out = clip(x, f64(adv).view(1, 1, 1, 1), f64([0.8]), f64([1.3]))
    out.sum().backward()
    assert out.item() == pytest.approx(value) and x.grad.item() == slope


def test_clips_take_their_widths_from_the_knobs_of_each_lane():
    batch = batch_of(torch.zeros(2, 1, 1, 4, dtype=torch.int64))
    batch.adv = f64(1, 1, -1, -1).view(1, 1, 1, 4)
    ratio = f64(0.1, 9, 0.1, 9).expand(2, 1, 1, 4)
    k = SimpleNamespace(eps=f64([0.1], [0.3]), eps_high=f64([0.5], [0.7]))
    assert_close(clipped(ratio, batch, k).view(2, 4), f64([0.1, 1.1, -0.9, -9], [0.1, 1.3, -0.7, -9]))
    assert_close(clipped_higher(ratio, batch, k).view(2, 4), f64([0.1, 1.5, -0.9, -9], [0.1, 1.7, -0.7, -9]))
    assert_close(importance(ratio, batch, k).view(2, 4), f64([0.1, 9, -0.1, -9], [0.1, 9, -0.1, -9]))


def test_ratios_and_penalty_by_hand():
    """At log-probabilities log 1/2: the old one was 1/4, and the reference's is 1, 1/2 and 1/4."""
    batch = batch_of(torch.zeros(1, 1, 1, 3, dtype=torch.int64))
    batch.old = torch.full((1, 1, 1, 3), -math.log(4), dtype=torch.float64)
    batch.ref = f64(0, -math.log(2), -math.log(4)).view(1, 1, 1, 3)
    logp = torch.full_like(batch.old, -math.log(2))
    assert_close(to_sampler(logp, batch, None), torch.full_like(logp, 2.0))
    assert log_likelihood(logp, batch, None) is logp
    k3 = f64(2 - math.log(2) - 1, 0, 0.5 + math.log(2) - 1)  # ref/pi - log(ref/pi) - 1
    assert_close(pull(logp, None, batch, knob(beta=0.3)).flatten(), 0.3 * k3)
    assert not free(logp, None, batch, None).any()


@settings(max_examples=40)
@given(some.floats(-8, 8), some.floats(-8, 8))
def test_the_penalty_is_never_negative(logp, ref):
    batch = of_lengths([[1]])
    batch.ref = f64(ref).view(1, 1, 1, 1)
    cost = float(pull(f64(logp).view(1, 1, 1, 1), None, batch, knob(beta=1)))
    assert cost >= 0 and (cost < 1e-15) == (abs(logp - ref) < 1e-7)


# reduce


def test_reductions_by_hand():
    """Losses 6; 1 2 3; 4 4 of lengths 1, 3, 2, and one more place that is empty."""
    batch = of_lengths([[1, 3], [2, 3]])
    batch.real = torch.tensor([[[True, True], [True, False]]])
    loss = f64([[6, 99, 99], [1, 2, 3]], [[4, 4, 99], [99, 99, 99]])[None]
    assert float(response_mean(loss, batch, None)) == (6 + 2 + 4) / 3
    assert float(token_mean(loss, batch)) == 20 / 6
    batch.real = torch.tensor([[[True, False], [False, False]]])
    assert float(response_mean(loss, batch, None)) == float(token_mean(loss, batch)) == 6
    batch.real = torch.zeros_like(batch.real)
    assert float(response_mean(loss, batch, None)) == float(token_mean(loss, batch)) == 0


def test_the_length_of_a_right_response_moves_one_mean_and_not_the_other():
    """Two responses whose every token has the same loss: the mean of responses weighs a token of the short one more."""
    batch, loss = of_lengths([[1, 4]]), f64([1, 0, 0, 0], [-1, -1, -1, -1])[None, None]
    assert float(response_mean(loss, batch, None)) == 0 and float(token_mean(loss, batch)) == -0.6


# the loss as a whole

CASES = pytest.mark.parametrize(
    "algo", [grpo, dapo, replace(grpo, advantage=centred, ratio=log_likelihood, surrogate=importance, reduce=token_mean)]
)


def stale():
    """Ragged responses in two lanes with one empty place, a policy that has moved on, and the knobs; float64."""
    generator = torch.Generator().manual_seed(3)
    length = torch.randint(1, 5, (2, 3, 3, 1), generator=generator)
    token = torch.where(torch.arange(4) < length, torch.randint(0, 5, (2, 3, 3, 4), generator=generator), EMPTY)
    batch = batch_of(token, torch.randint(0, 2, (2, 3, 3), generator=generator))
    logits, old, ref = torch.randn(3, 2, 36, 5, generator=generator, dtype=torch.float64)
    batch.old, batch.ref = batch.pick(Categorical(logits + 0.3 * old)), batch.pick(Categorical(logits + 0.3 * ref))
    batch.real[0, 1, 2] = False
    return batch, logits.requires_grad_(), SimpleNamespace(eps=f64([0.1], [0.4]), eps_high=f64([0.3], [0.5]), beta=f64([0.2], [0.0]))


@CASES
def test_the_gradient_of_the_loss_is_that_of_finite_differences(algo):
    batch, logits, k = stale()
    batch.adv = algo.advantage(batch, k)
    assert torch.autograd.gradcheck(lambda x: algo.loss(Categorical(x), batch, k), logits, fast_mode=True)


@CASES
def test_padding_and_empty_places_count_for_nothing(algo):
    """Whatever stands there, the loss is the same bit for bit, and no gradient reaches it."""
    batch, logits, k = stale()
    batch.adv = algo.advantage(batch, k)
    before = algo.loss(Categorical(logits), batch, k)
    unread = torch.autograd.grad(before.sum(), logits)[0].view(*batch.token.shape, 5)[~batch.mask]
    assert len(unread) and not unread.any()
    for x in (batch.old, batch.ref):
        x[~batch.mask] = -3.0
    batch.reward = batch.reward.clone()
    batch.reward[~batch.real] = 7.0
    batch.token[0, 1, 2] = 4
    batch.adv = algo.advantage(batch, k)
    assert algo.loss(Categorical(logits), batch, k).equal(before)


@CASES
def test_empty_groups_leave_the_loss_of_the_others(algo):
    batch, logits, k = stale()
    batch.real[:, 2] = False
    batch.adv = algo.advantage(batch, k)
    two = batch_of(batch.token[:, :2], batch.reward[:, :2])
    two.old, two.ref, two.real = batch.old[:, :2], batch.ref[:, :2], batch.real[:, :2]
    two.adv = algo.advantage(two, k)
    assert_close(algo.loss(Categorical(logits), batch, k), algo.loss(Categorical(logits[:, :24]), two, k), rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("algo", [replace(grpo, penalty=free), dapo])
def test_groups_that_agree_have_a_gradient_of_exactly_nothing(algo):
    batch, logits, k = stale()
    batch.reward = torch.full_like(batch.reward, 0.1)
    batch.adv = algo.advantage(batch, k)
    assert not torch.autograd.grad(algo.loss(Categorical(logits), batch, k).sum(), logits)[0].any()


def test_a_batch_reads_each_token_where_its_row_says():
    token, row = torch.tensor([[[[2, 0]], [[1, EMPTY]]]]), torch.tensor([[[[3, 1]], [[1, 0]]]])
    batch = batch_of(token)
    batch.row = row
    logits = torch.arange(12.0).square().view(1, 4, 3)
    law = Categorical(logits)
    assert batch.pick(law)[0, :, 0].tolist() == [[law.logits[0, 3, 2], law.logits[0, 1, 0]], [law.logits[0, 1, 1], 0]]
    assert batch.at(f64([0, 10, 20, 30]))[0, :, 0].tolist() == [[30, 10], [10, 0]]
    assert batch.length[0, :, 0].tolist() == [2, 1]


# the whole gradient, over all responses


@pytest.mark.parametrize(("advantage", "share"), [(centred, 1 / 2), (plain_reward, 1.0)])
def test_the_expected_gradient_over_all_pairs_of_responses_is_that_of_success(advantage, share):
    """Sums over tokens at ratio 1. A group's mean holds a response's own reward, which takes 1/G of the gradient; no baseline, nothing."""
    world = Chain((2,), problems=1, held=0)
    logits = Lanes((0,)).rand(1, len(world.graph.obs), 11).double().requires_grad_()
    wanted = torch.autograd.grad(truth.success(world.graph, logits.softmax(-1))[0, world.start[0]], logits)[0]
    batch, chance = every_pair(world, Categorical(logits.detach()))
    algo = replace(grpo, advantage=advantage, reduce=lambda loss, batch, k: (loss * chance[:, :, None, None]).sum((1, 2, 3)) / 2)
    batch.old, batch.ref = batch.pick(Categorical(logits.detach())), torch.zeros(1)
    batch.adv = algo.advantage(batch, None)
    loss = algo.loss(Categorical(logits), batch, knob(beta=0, eps=0.2))
    assert_close(-torch.autograd.grad(loss.sum(), logits)[0], share * wanted, rtol=1e-10, atol=1e-12)


def every_pair(world, policy):
    """All pairs of responses of two tokens to the only problem, as groups (1, 14641, 2, 2), and the chance of each pair (1, 14641)."""
    one = torch.cartesian_prod(torch.arange(11), torch.arange(11))
    token = one[torch.cartesian_prod(torch.arange(121), torch.arange(121))][None]
    start = world.start[:1].expand(1, 14641, 2)
    middle = world.graph.next[start, token[..., 0]]
    batch = assemble(world, torch.zeros(1, 14641, dtype=torch.int64), token, torch.stack([start, middle], -1),
                     world.graph.next[middle, token[..., 1]], torch.zeros(token.shape))  # fmt: skip
    batch.reward = marked(world, batch, None)
    return batch, batch.pick(policy).sum((2, 3)).exp()


# the loop


def test_a_run_begins_with_its_reference_and_goes_on_as_the_pieces_say():
    """A copy gathers and learns just what the run then does."""
    s = begun(grid={"beta": (0.0, 0.5)})
    run = s.algo.run(s.world, s.learner.lanes)
    for _ in range(3):
        batch = s.algo.gather(s.world, s.learner.copy(), s.k)
        assert batch.token.equal(s.algo.gather(s.world, s.learner, s.k).token)
        s.algo.learn(s.world, s.learner, batch, s.k)
        snapshot = next(run)
        assert snapshot.learner.nets["pi"].theta.equal(s.learner.nets["pi"].theta) and snapshot.step == s.learner.step
        assert snapshot.metrics["dead"].equal(batch.dead.float().mean(1))
    fresh = begun(grid={"beta": (0.0, 0.5)}).learner
    assert s.learner.memory["reference"].equal(fresh.nets["pi"].theta)
    assert snapshot.step == 3 * 16 and snapshot.metrics["rollouts"].tolist() == [3 * 16] * 4


@pytest.mark.parametrize("text", [False, True])
def test_what_was_written_has_the_log_probabilities_of_its_writer_and_the_mark_of_the_world(text):
    """And stepping the world through the tokens gives the same rewards and ends."""
    s = begun(world=Chain((1, 2), problems=6, held=1, stop=True, room=4, text=text), warm=0.0)
    batch = s.algo.gather(s.world, s.learner, s.k)
    assert_close(batch.pick(read(s.world, s.learner, batch)), batch.old, rtol=1e-4, atol=1e-5)
    assert_close(batch.ref, batch.old, rtol=1e-4, atol=1e-5)
    assert (batch.length < 4).any()
    state, total = s.world.begin(batch.problem.repeat_interleave(4, 1)), 0
    for t in batch.token.flatten(1, 2).unbind(-1):
        assert ((t == EMPTY) == (state["node"] < s.world.graph.finished)).all()
        state, reward, *_ = s.world.step(state, t.clamp_min(0), torch.empty(0))
        total += reward
    assert state["node"].view_as(batch.node).equal(batch.node) and total.view_as(batch.reward).equal(batch.reward)


def test_problems_are_drawn_from_those_to_train_on_all_alike():
    s = begun(seeds=(0,), prompts=11_000, warm=0.0)
    problem = s.algo.tasks(s.algo, s.world, s.learner, s.k)
    seen = problem[0].bincount(minlength=len(s.world.start))
    assert not seen[s.world.held_out].any()
    share = seen[s.world.pool] / 11_000 * len(s.world.pool)
    assert len(share) == 12 and ((share - 1).abs() < 4 * (11 / 11_000) ** 0.5).all()


def test_the_past_is_kept_as_far_as_lag_may_go_and_a_phase_begins_without_one():
    s = begun(seeds=(0,), warm=0.3)
    before = s.learner.memory["past"].shape
    assert before[1] == 1 + grpo.knobs["lag"].high and begun(sft, warm=0.0).learner.memory["past"].shape[1] == 1
    for _ in range(2):
        s.algo.learn(s.world, s.learner, s.algo.gather(s.world, s.learner, s.k), s.k)
    theta = s.learner.nets["pi"].theta.detach().clone()
    assert s.learner.memory["past"].shape == before and not (s.learner.memory["past"] == theta[:, None]).all()
    assert anchor(s.learner) is s.learner and s.learner.memory["reference"].equal(theta)
    assert s.learner.memory["past"].shape == before and (s.learner.memory["past"] == theta[:, None]).all()


def test_text_is_measured_by_the_responses_that_count():
    """Rewards of the world, whatever a method pays; KL by k3, which is never negative; and groups that agree where empty places do not."""
    s = begun(world=Chain((1, 2), problems=6, held=1, text=True), warm=0.0, seeds=(0,))
    batch = s.algo.gather(s.world, s.learner, s.k)
    batch.ref = batch.ref - 0.5 * batch.mask
    batch.reward = torch.zeros_like(batch.reward)
    batch.reward[..., 0], batch.real[..., 0] = 3.0, False
    told = outcome(s.world, s.learner, batch)
    right, length = s.world.graph.reward[batch.node][batch.real], batch.length[batch.real].float()
    assert_close(told["return"][0], right.mean())
    assert_close(told["length"][0], length.mean())
    assert_close(told["kl"][0], (math.exp(-0.5) + 0.5 - 1) * length.mean(), rtol=1e-4, atol=0)
    assert_close(told["entropy"][0], -batch.old[batch.mask].mean())
    assert told["dead"].item() == 1


def test_responses_are_drawn_with_the_policy_s_chances():
    """10,000 first tokens of one prompt against the policy, by Pearson's test."""
    s = begun(seeds=(0,), warm=0.0)
    problem = torch.zeros(1, 100, dtype=torch.int64)
    batch = write(s.world, s.learner, problem, s.learner.rand(100, 100, s.world.solution.shape[1]), s.learner.nets["pi"].theta)
    seen = batch.token[..., 0].flatten().bincount(minlength=11)
    expected = 1e4 * policy_at(s.world, s.learner).probs[0, s.world.graph.row[s.world.start[0]]].detach()
    assert float(((seen - expected).square() / expected).sum()) < 35  # 10 degrees of freedom: once in 10,000


def test_lag_writes_with_the_policy_of_so_many_updates_ago():
    s = begun(grid={"lag": (0, 1, 3)}, seeds=(0,))
    past = [s.learner.nets["pi"].theta.detach().clone()]
    for _ in range(5):
        batch = s.algo.gather(s.world, s.learner, s.k)
        for lane, lag in enumerate((0, 1, 3)):
            then = past[max(0, len(past) - 1 - lag)]
            assert aged(s.learner, s.k.lag)[lane].equal(then[lane])
            assert_close(batch.pick(read(s.world, s.learner, batch, then))[lane], batch.old[lane])
        s.algo.learn(s.world, s.learner, batch, s.k)
        past.append(s.learner.nets["pi"].theta.detach().clone())
    assert not past[-1].equal(past[-2])


def test_epochs_are_steps_on_the_same_batch():
    s = begun(grid={"epochs": (1, 3)}, seeds=(0,), warm=0.5)
    twin, batch = s.learner.copy(), s.algo.gather(s.world, s.learner, s.k)
    s.algo.learn(s.world, s.learner, batch, s.k)
    moved = []
    for _ in range(3):
        twin.descend("pi", s.algo.loss(read(s.world, twin, batch), batch, s.k), s.k.lr, clip=1.0)
        moved.append(twin.nets["pi"].theta.detach().clone())
    theta = s.learner.nets["pi"].theta
    assert theta[0].equal(moved[0][0]) and theta[1].equal(moved[2][1]) and not moved[1][1].equal(moved[2][1])


def test_a_warm_start_stops_at_its_level_and_is_the_same_for_equal_seeds():
    s = begun(grid={"beta": (0.0, 0.1)}, warm=0.4)
    batch = demonstration(s.world, s.world.pool.expand(4, -1))
    chance = batch.pick(read(s.world, s.learner, batch)).exp()[batch.mask].view(4, -1).mean(1)
    assert (chance >= 0.4).all() and (chance < 0.5).all()
    theta, net = s.learner.nets["pi"].theta, s.learner.nets["pi"]
    assert theta[:2].equal(theta[2:]) and not theta[0].equal(theta[1]) and not net.moments.any() and not net.clock.any()
    cold = begun(warm=0.0).learner
    assert cold.nets["pi"].theta.equal(small(grpo).begin(s.world, Lanes((0, 1)), 0.0).nets["pi"].theta)


# sft


def test_imitation_makes_right_tokens_likelier_and_nothing_else_is_in_its_loss():
    s = begun(sft, warm=0.0, seeds=(0,))
    batch = s.algo.gather(s.world, s.learner, s.k)
    assert batch.token[0, :, 0].equal(s.world.solution[batch.problem[0]]) and (batch.reward == 1).all()
    logp = batch.pick(read(s.world, s.learner, batch))
    assert_close(s.algo.loss(read(s.world, s.learner, batch), batch, s.k)[0], -logp[batch.mask].mean())
    for _ in range(30):
        s.algo.learn(s.world, s.learner, batch, s.k)
    assert (batch.pick(read(s.world, s.learner, batch)) - logp)[batch.mask].mean() > 0.5


# dapo


def test_dapo_without_its_changes_is_grpo_without_penalty_bit_for_bit():
    world = Chain((1, 2), problems=6, held=1, stop=True, room=4)
    plain, off = small(replace(dapo, reduce=response_mean)), {"eps_high": (0.2,), "filter": (0,), "band": (0,)}
    runs = plain.run(world, Lanes((0,), off | {"epochs": (2,)})), small(grpo).run(world, Lanes((0,), {"beta": (0.0,), "epochs": (2,)}))
    for one, other in itertools.islice(zip(*runs, strict=True), 3):
        assert one.learner.nets["pi"].theta.equal(other.learner.nets["pi"].theta)


def test_the_price_of_length_by_hand():
    """Responses of 1 to 6 tokens where the longest is 6: with a band of 4, lengths 3 to 6 cost 1/4 to 1; with none, nothing."""
    batch = of_lengths([[1, 2, 3, 4, 5, 6]])
    world = SimpleNamespace(horizon=6, graph=SimpleNamespace(reward=torch.ones(1)))
    assert not_too_long(world, batch, knob(band=4)).flatten().tolist() == [1, 1, 0.75, 0.5, 0.25, 0]
    assert not_too_long(world, batch, knob(band=1)).flatten().tolist() == [1] * 5 + [0]
    assert not_too_long(world, batch, knob(band=0)).flatten().tolist() == [1] * 6


def test_mixed_groups_by_hand():
    batch = of_lengths([[1] * 3] * 4)
    batch.node = torch.tensor([[[0, 0, 0], [1, 1, 1], [0, 1, 0], [1, 1, 0]]])
    assert mixed(SimpleNamespace(graph=SimpleNamespace(reward=f64(0, 1))), batch).tolist() == [[False, False, True, True]]


def test_every_kept_group_is_right_and_wrong_and_what_was_dropped_is_paid_for():
    s = begun(dapo, Chain((1,), problems=20, held=0, stop=True, room=3), warm=0.3, seeds=(0, 1, 2))
    batch = s.algo.gather(s.world, s.learner, s.k)
    right = (s.world.graph.reward[batch.node] > 0).sum(-1)
    assert batch.real.all() and ((right > 0) & (right < 4)).all()
    assert (s.learner.memory["rollouts"] > 16).all() and (s.learner.memory["rollouts"] % 16 == 0).all()
    assert (s.learner.memory["tokens"] > batch.length.sum((1, 2))).all()


def test_the_filter_is_on_in_one_lane_and_off_in_another():
    """Where it is off, one round is enough, and it is the round of a run without a filter."""
    world = Chain((1,), problems=20, held=0, stop=True, room=3)
    s = begun(dapo, world, warm=0.3, seeds=(0,), grid={"filter": (0, 1)})
    plain = begun(grpo, world, warm=0.3, seeds=(0,))
    batch = s.algo.gather(world, s.learner, s.k)
    off, on = s.learner.memory["rollouts"].tolist()
    assert off == 16 < on
    assert batch.token[0].equal(plain.algo.gather(world, plain.learner, plain.k).token[0]) and not batch.token[1].equal(batch.token[0])


def test_where_all_groups_agree_no_place_is_filled_and_nothing_moves(monkeypatch):
    """Groups as the filter is made to see them. Every round draws problems of its own, and from other numbers than those that write."""
    rounds = []
    monkeypatch.setattr(family, "write", lambda *given: rounds.append(given[2:4]) or write(*given))
    monkeypatch.setattr(family, "mixed", lambda world, batch: torch.zeros(batch.problem.shape, dtype=torch.bool))
    s = begun(dapo, seeds=(0,), prompts=30)
    theta, batch = s.learner.nets["pi"].theta.clone(), s.algo.gather(s.world, s.learner, s.k)
    assert not batch.real.any() and s.learner.memory["rollouts"].tolist() == [4 * 30 * family.ROUNDS]
    s.algo.learn(s.world, s.learner, batch, s.k)
    assert s.learner.nets["pi"].theta.equal(theta) and not s.learner.notes
    problems = [tuple(problem[0].tolist()) for problem, _ in rounds]
    assert len(set(problems)) == family.ROUNDS and set().union(*problems) == set(s.world.pool.tolist())
    for _, u in rounds:
        assert tuple(s.world.pool[(u[0, :, 0, 0] * len(s.world.pool)).long()].tolist()) not in problems


def test_batches_are_filled_with_the_first_groups_that_were_kept():
    s = begun()
    draw = s.learner.stream()
    rounds = [write(s.world, s.learner, s.world.pool[:4].expand(2, -1) + i, draw(i, 4, 4, 2), s.learner.nets["pi"].theta) for i in range(2)]
    kept = [torch.tensor([[True, False, True, False], [False] * 4]), torch.tensor([[True] * 4, [False, True, False, False]])]
    batch = fill(s.world, list(zip(rounds, kept, strict=True)), 4)
    assert batch.problem[0].tolist() == [0, 2, 1, 2] and batch.problem[1, 0] == 2
    assert batch.real[..., 0].tolist() == [[True] * 4, [True, False, False, False]]
    assert batch.token[0, 2].equal(rounds[1].token[0, 0]) and batch.old[1, 0].equal(rounds[1].old[1, 1])


# what is refused


@pytest.mark.parametrize("sizes", [{"prompts": 0}, {"group": 2.5}, {"warm": 1.0}, {"warm": -0.1}])
def test_shapes_that_make_no_sense_are_refused(sizes):
    with pytest.raises(LabError, match=str(next(iter(sizes.values())))):
        Shape(**sizes)


def test_worlds_without_text_are_refused():
    with pytest.raises(LabError, match=r"control.cartpole has no prompts"):
        next(grpo.run(worlds.make("control.cartpole"), Lanes((0,))))


def test_a_warm_start_that_gets_nowhere_is_told(monkeypatch):
    monkeypatch.setattr(family, "PATIENCE", 2)
    with pytest.raises(LabError, match=r"After 2 supervised steps a right token is still not 0.9 likely in tokens.chain"):
        begun(warm=0.9)
