"""The equations of chapter 22 beside the code, on numbers that the chapter does not use."""
import itertools
import math
from dataclasses import replace
from itertools import islice
from types import SimpleNamespace

import pytest
import torch

from labkit.course.progress import exercise, module
from labkit.divergence import chi2, effective_share, k3, kl
from labkit.files import ROOT
from labkit.grpo.arpo import arpo
from labkit.grpo.avatar import against_the_past, towards_the_ends
from labkit.grpo.bapo import weights
from labkit.grpo.family import Batch, Shape, aged, clip, grpo, read, standardised
from labkit.grpo.missing_old_logits import decoupled, to_middle
from labkit.grpo.outcome import policy_at
from labkit.lanes import Lanes
from labkit.policy import Categorical
from labkit.worlds.form import Form
from labkit.worlds.tokens import truth
from labkit.worlds.tokens.chain import MOD, Chain

SMALL = Shape(prompts=4, group=4, width=16, warm=0.3)


@pytest.fixture(scope="module")
def world():
    return Chain((1, 2), problems=(4, 6), held=0)


def two(world, seed=0):
    """Two policies (L = 2, R, 11) that differ, in float64."""
    return (Categorical((k * Lanes((seed, seed + 1)).rand(k, len(world.graph.obs), MOD)).double()) for k in (2, 3))


def responses(world, problem, *policies):
    """Each response to a problem: its probability under each policy, (policies, L), its places and tokens, and where it ends."""
    for tokens in itertools.product(range(MOD), repeat=int(world.level[problem])):
        node, path = world.start[problem], []
        for token in tokens:
            path.append((int(world.graph.row[node]), token))
            node = world.graph.next[node, token]
        yield torch.stack([math.prod(p.probs[:, row, token] for row, token in path) for p in policies]), path, node


def test_the_kl_of_a_response_is_the_sum_of_its_tokens_and_grows_with_the_square_of_the_distance(world):
    now, other = two(world)
    told = truth.expected(world.graph, now.probs, (kl(now, other),))[0][:, world.start]
    for problem in (0, 5):
        whole = sum(p * (p / q).log() for (p, q), *_ in responses(world, problem, now, other))
        torch.testing.assert_close(told[:, problem], whole)
    near = [Categorical(now.logits + step * other.logits) for step in (0.001, 0.002)]
    one, twice = (truth.expected(world.graph, now.probs, (kl(now, p),))[0][:, world.start].mean(1) for p in near)
    torch.testing.assert_close(twice / one, torch.full_like(one, 4.0), rtol=1e-2, atol=0)


def test_the_ratio_keeps_means_and_its_variance_is_chi2(world):
    mu, pi = two(world)
    rho, x = pi.probs / mu.probs, Lanes((3, 4)).rand(9, len(world.graph.obs), MOD).double()
    torch.testing.assert_close((mu.probs * rho * x).sum(-1), (pi.probs * x).sum(-1))
    variance = (mu.probs * (rho - (mu.probs * rho).sum(-1, keepdim=True)).square()).sum(-1)
    torch.testing.assert_close(variance, chi2(pi, mu))
    torch.testing.assert_close(effective_share(mu, pi), 1 / (1 + variance))


def test_the_square_of_whole_responses_is_a_sum_with_pi_squared_over_mu(world):
    mu, pi = two(world)
    second = truth.expected(world.graph, (2 * pi.logits - mu.logits).exp(), (), torch.ones(len(world.graph.row)))[0][:, world.start]
    for problem in (1, 7):
        summed = sum(q * (p / q).square() for (p, q), *_ in responses(world, problem, pi, mu))
        torch.testing.assert_close(second[:, problem], summed)


def test_on_one_token_the_ratio_gives_the_gradient_of_the_success_and_on_two_it_does_not(world):
    mu, pi = two(world)
    logits = pi.logits.clone().requires_grad_()
    policy = Categorical(logits)
    for problem, exact in ((0, True), (6, False)):
        success = truth.success(world.graph, policy.probs)[:, world.start[problem]].sum()
        gain = torch.zeros(2, dtype=torch.float64)
        for (drawn,), path, node in responses(world, problem, mu):
            gain = gain + drawn * world.graph.reward[node] * sum(policy.probs[:, r, a] / mu.probs[:, r, a] for r, a in path)
        true, used = (torch.autograd.grad(y.sum(), logits, retain_graph=True)[0] for y in (success, gain))
        assert torch.allclose(true, used, rtol=1e-9, atol=1e-12) == exact


def test_the_slope_of_the_clip_is_the_three_cases():
    generator = torch.Generator().manual_seed(0)
    logp = torch.randn(1, 1, 1, 400, generator=generator, dtype=torch.float64).requires_grad_()
    adv = torch.randn(1, 1, 1, 400, generator=generator, dtype=torch.float64)
    slope = torch.autograd.grad(clip(logp.exp(), adv, torch.tensor([[0.7]]), torch.tensor([[1.4]])).sum(), logp)[0]
    for r, a, got in zip(logp.exp().flatten().tolist(), adv.flatten().tolist(), slope.flatten().tolist(), strict=True):
        flat = (a > 0 and r > 1.4) or (a < 0 and r < 0.7)
        assert got == pytest.approx(0 if flat else r * a)
    eps = 0.3
    both = torch.autograd.grad(clip(logp.exp(), adv, torch.tensor([[1 - eps]]), torch.tensor([[1 + eps]])).sum(), logp)[0].flatten()
    told = exercise("22.1").solution(logp.detach().flatten(), torch.zeros(400, dtype=torch.float64), adv.flatten(), eps)
    torch.testing.assert_close(told, both)


@pytest.mark.parametrize(("p", "q", "eps"), [(0.01, 0.5, 0.2), (0.03, 0.9, 0.28), (0.2, 0.21, 0.5)])
def test_a_token_needs_so_many_updates(p, q, eps):
    n = math.ceil(math.log(q / p) / math.log(1 + eps))
    assert p * (1 + eps) ** n >= q > p * (1 + eps) ** (n - 1)
    assert exercise("22.2").solution(p, q, eps) == n


def test_the_mean_surprise_is_the_entropy_of_the_law_that_drew_and_of_no_other(world):
    mu, pi = two(world)
    own, other = ((mu.probs * -p.logits).sum(-1) - p.entropy() for p in (mu, pi))
    torch.testing.assert_close(own, torch.zeros_like(own))
    assert other.abs().min() > 1e-6
    torch.testing.assert_close(other, kl(mu, pi) + mu.entropy() - pi.entropy())


def test_a_lag_is_a_number_of_updates_and_old_is_what_the_writer_said(world):
    lanes = Lanes((0, 1), {"lag": (0, 3)})
    algo = replace(grpo, shape=SMALL)
    run = [s.learner for s in islice(algo.run(world, lanes), 5)]
    learner, k = run[-1], lanes.knobs(algo.knobs)
    then = aged(learner, k.lag)
    assert torch.equal(then[:2], run[4].nets["pi"].theta[:2]) and torch.equal(then[2:], run[1].nets["pi"].theta[2:])
    batch = algo.gather(world, learner.copy(), k)
    torch.testing.assert_close(batch.old, batch.pick(read(world, learner, batch, then)).detach(), rtol=0, atol=1e-5)
    away = (algo.ratio(batch.pick(read(world, learner, batch)), batch, k).detach() - 1).abs()
    assert away[:2].max() < 1e-5 < 1e-2 < away[2:].max()


def test_a_ratio_to_the_policy_of_now_is_1_and_has_the_slope_of_plain_policy_gradients_whatever_the_clip():
    made = module(ROOT / "course" / "recordings" / "22.py")
    logp = torch.linspace(-3, 0, 8).view(1, 1, 2, 4).requires_grad_()
    batch = SimpleNamespace(adv=torch.tensor([1.0, -2.0]).view(1, 1, 2, 1), old=torch.zeros_like(logp))
    ratio = made.of_now(logp, batch, None)
    assert (ratio == 1).all()
    for eps in (0.01, 0.9):
        k = SimpleNamespace(eps=torch.tensor([[eps]]))
        slope = torch.autograd.grad(grpo.surrogate(ratio, batch, k).sum(), logp, retain_graph=True)[0]
        assert torch.equal(slope, batch.adv.expand_as(logp))


def test_the_recorded_share_outside_the_clip_and_the_distance_from_the_writer(world):
    made = module(ROOT / "course" / "recordings" / "22.py")
    lanes = Lanes((0, 1), {"lag": (0, 2)})
    algo = replace(grpo, shape=SMALL, surrogate=made.outside)
    *_, last = islice(algo.run(world, lanes), 4)
    learner, k = last.learner, lanes.knobs(algo.knobs)
    batch = algo.gather(world, learner.copy(), k)
    ratio = (batch.pick(read(world, learner, batch)) - batch.old).exp()
    made.outside(ratio, batch, k)
    for i in range(4):
        told = ratio[i][batch.mask[i]].tolist()
        assert batch.info["outside"][i] == pytest.approx(sum(not 0.8 <= r <= 1.2 for r in told) / len(told))
    now, then = policy_at(world, learner), policy_at(world, learner, aged(learner, k.lag))
    per_problem = truth.expected(world.graph, now.probs, (kl(now, then),))[0][:, world.start[world.pool]]
    torch.testing.assert_close(made.since_written(world, lanes)(last), per_problem.mean(1))
    assert (per_problem[:2] == 0).all() and (per_problem[2:] > 0).any()


@pytest.mark.parametrize("group", [2, 5, 8])
def test_the_advantages_of_a_restarted_group(group):
    reward = torch.zeros(1, 1, group)
    reward[..., 0] = 1
    batch = SimpleNamespace(reward=reward, real=torch.ones_like(reward, dtype=torch.bool), dead=torch.zeros(1, 1, dtype=torch.bool))
    told = standardised(batch, None).flatten()
    expected = torch.tensor([(group - 1) / math.sqrt(group), *[-1 / math.sqrt(group)] * (group - 1)])
    torch.testing.assert_close(told, expected, rtol=1e-5, atol=1e-5)


def test_what_is_counted_is_what_was_put_in():
    """The recipe's sums over updates, against the batches one by one."""
    made, world = module(ROOT / "course" / "recordings" / "22.py"), Form((2, 3), tasks=4, held=1, impossible=1)
    lanes, algo = Lanes((0, 1, 2)), replace(arpo, rollout=made.counted, shape=SMALL)
    learner, k = algo.begin(world, lanes, 0.6), lanes.knobs(arpo.knobs)
    put, age = torch.zeros(3, len(world.start)), torch.zeros(3, len(world.start))
    for _ in range(8):
        batch = algo.gather(world, learner, k)
        for i, p in (batch.extra["age"] >= 0).nonzero().tolist():
            put[i, batch.problem[i, p]] += 1
            age[i, batch.problem[i, p]] += batch.extra["age"][i, p] / 16
        algo.learn(world, learner, batch, k)
    assert put.sum() > 0
    torch.testing.assert_close(learner.memory["put"], put)
    torch.testing.assert_close(learner.memory["age"], age)


# bapo, missing_old_logits, avatar, erpd


def by_hand(ratio, adv):
    """Responses of one token each, in one lane, with these ratios and advantages."""
    ratio, adv = (torch.tensor(x, dtype=torch.float64).view(1, 1, -1, 1) for x in (ratio, adv))
    token = torch.zeros(ratio.shape, dtype=torch.int64)
    batch = Batch(token[..., 0, 0], token, token, token, token[..., 0], ratio.log(), torch.ones(ratio.shape[:3], dtype=torch.bool))
    batch.adv = adv
    return ratio, batch


def test_good_and_bad_news_are_sums_over_what_the_bounds_let_through():
    ratios, advs, low, high = [0.5, 0.9, 1.0, 1.4, 0.7, 1.3], [1.0, 2.0, -1.0, 3.0, -0.5, -2.0], 0.75, 1.35
    pairs = list(zip(ratios, advs, strict=True))
    good, bad = weights(*by_hand(ratios, advs), *(torch.tensor([[x]], dtype=torch.float64) for x in (low, high)))
    assert good.item() == pytest.approx(sum(r * a for r, a in pairs if a > 0 and r <= high))
    assert bad.item() == pytest.approx(sum(r * -a for r, a in pairs if a < 0 and r >= low))


def test_the_ratio_to_the_engine_is_mismatch_times_age_and_each_is_bounded_by_itself():
    now, middle, engine, adv = 0.36, 0.3, 0.1, -2.0
    _, batch = by_hand([engine], [adv])
    batch.extra["middle"] = torch.full((1, 1, 1, 1), math.log(middle), dtype=torch.float64)
    k = SimpleNamespace(cap=torch.tensor([[2.5]], dtype=torch.float64), eps=torch.tensor([[0.1]], dtype=torch.float64))
    ratio = to_middle(torch.full((1, 1, 1, 1), math.log(now), dtype=torch.float64), batch, k)
    assert (middle / engine) * ratio.item() == pytest.approx(now / engine)
    bounded = min(ratio.item() * adv, min(max(ratio.item(), 0.9), 1.1) * adv)
    assert decoupled(ratio, batch, k).item() == pytest.approx(min(middle / engine, 2.5) * bounded)


def test_weights_along_a_response_and_advantages_against_the_past():
    batch = SimpleNamespace(length=torch.tensor([[[7]]]), token=torch.zeros(1, 1, 1, 7))
    told = towards_the_ends(batch, SimpleNamespace(ends=torch.tensor([[0.6]])))
    assert told.flatten().tolist() == pytest.approx([1 + 0.6 * (2 * t / 6 - 1) ** 2 for t in range(7)])
    _, old = by_hand([1.0, 1.0, 1.0], [0.0, 0.0, 0.0])
    old.reward, old.extra = torch.tensor([[[1.0, 0.0, 1.0]]]), {"again": torch.tensor([[True]]), "usual": torch.tensor([[0.4]])}
    adv = against_the_past(old, SimpleNamespace(weight=torch.tensor([[0.5]]))).flatten()
    assert adv.tolist() == pytest.approx([0.5 * (r - 0.4) / (math.sqrt(1 / 3) + 1e-4) for r in (1, 0, 1)])


def test_the_signal_is_worth_both_divergences_and_rests_where_the_chapter_says(world):
    teacher, start = two(world)
    signal = teacher.logits - start.logits
    worth = ((teacher.probs - start.probs) * signal).sum(-1)
    torch.testing.assert_close(worth, kl(teacher, start) + kl(start, teacher))
    beta, place, first = 9.0, signal[0, 0], start.probs[0, 0]
    low, high = place.max() - beta, place.max() + beta
    for _ in range(200):
        c = (low + high) / 2
        low, high = (c, high) if (first * beta / (beta + c - place)).sum() > 1 else (low, c)
    logits = (first * beta / (beta + c - place)).log().requires_grad_()
    logp = logits.log_softmax(0)
    loss = (logp.exp().detach() * (beta * k3(first.log() - logp) - place * logp)).sum()  # GRPO's penalty minus the signal as advantage
    torch.testing.assert_close(torch.autograd.grad(loss, logits)[0], torch.zeros_like(place), rtol=0, atol=1e-9)
