"""The equations of chapter 20 beside the code, on numbers that the chapter does not use."""
import itertools
import math
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from labkit import worlds
from labkit.course.progress import module
from labkit.divergence import kl
from labkit.files import ROOT
from labkit.grpo.family import (
    Shape,
    centred,
    clip,
    clipped_higher,
    grpo,
    not_too_long,
    pull,
    response_mean,
    standardised,
    to_sampler,
    token_mean,
)
from labkit.grpo.outcome import exact, policy_at
from labkit.lanes import Lanes
from labkit.policy import Categorical
from labkit.worlds.tokens import truth
from tests.grpo.by_hand import batch_of, of_lengths

STOPPED = worlds.make("tokens.chain", levels=(1, 2), problems=3, held=0, stop=True, room=3)
EXERCISES = module(ROOT / "course" / "exercises" / "20.py")


def knob(**values):
    return SimpleNamespace(**{name: torch.tensor([[value]], dtype=torch.float64) for name, value in values.items()})


@pytest.fixture(scope="module")
def learner():
    """After three updates, so that it is no longer its reference."""
    method = replace(grpo, shape=Shape(prompts=4, group=8, width=16, warm=0.3, updates=3))
    return next(method.run(STOPPED, Lanes((4,), {"lr": (0.03,)}))).learner


def everything(learner, problem):
    """Of each response to a problem: how likely it is, how likely it was to the reference, its length and its reward."""
    graph, pi, pi0 = STOPPED.graph, *(policy_at(STOPPED, learner, theta).probs[0] for theta in (None, learner.memory["reference"]))
    left, rows = [(int(STOPPED.start[problem]), 1.0, 1.0, 0)], []
    while left:
        node, p, p0, length = left.pop()
        if node < graph.finished:
            rows.append((p, p0, length, graph.reward[node].item()))
            continue
        row = graph.row[node]
        left += [(int(graph.next[node, t]), p * pi[row, t].item(), p0 * pi0[row, t].item(), length + 1) for t in range(12)]
    return torch.tensor(rows, dtype=torch.float64).unbind(1)


def test_success_and_drift_by_recursion_are_sums_over_all_responses(learner):
    told = exact(STOPPED, learner)
    for problem in (0, 5):
        p, p0, length, reward = everything(learner, problem)
        assert p.sum().item() == pytest.approx(1) and len(p) > 1000
        assert told["success"][0, problem].item() == pytest.approx((p * reward).sum().item())
        assert told["kl"][0, problem].item() == pytest.approx((p * (p / p0).log()).sum().item())
        assert told["length"][0, problem].item() == pytest.approx((p * length).sum().item())


def test_the_length_of_wrong_responses(learner):
    """What exercise 2 measures, by the list of all responses."""
    wrong = total = 0.0
    for problem in range(6):
        p, _, length, reward = everything(learner, problem)
        wrong, total = wrong + (p * (1 - reward)).sum().item(), total + (p * (1 - reward) * length).sum().item()
    got = EXERCISES.wrong_length(STOPPED, SimpleNamespace(learner=learner))
    assert got.item() == pytest.approx(total / wrong)


def test_a_mask_up_to_the_first_stop_makes_filling_up_harmless():
    """What exercise 4 measures: with its solution a run is the family's own, bit for bit; with its stub it is not."""
    base, lanes = replace(EXERCISES.FREE, shape=Shape(prompts=4, width=16, warm=0.3)), Lanes((0, 1))
    mended, broken = (replace(base, rollout=EXERCISES.filled_up(way)) for way in (EXERCISES.written_solution, EXERCISES.written))
    theta = [next(itertools.islice(a.run(STOPPED, lanes), 2, None)).learner.nets["pi"].theta for a in (base, mended, broken)]
    assert torch.equal(theta[0], theta[1]) and not torch.equal(theta[0], theta[2])


# one prompt: all groups of G answers among V = 4, the second and no other right

P = torch.tensor([0.2, 0.35, 0.05, 0.4], dtype=torch.float64)
R = torch.tensor([0.0, 1.0, 0.0, 0.0], dtype=torch.float64)
SCORE = torch.eye(4).double() - P


def all_groups(G):
    """Answers (N, G) of all groups and how likely each is, (N,)."""
    y = torch.tensor(list(itertools.product(range(4), repeat=G)))
    return y, P[y].prod(1)


def advantages(how, y):
    """By a slot of the family, (N, G)."""
    return how(batch_of(torch.zeros(1, *y.shape, 1, dtype=torch.int64), R[y][None]), None)[0, ..., 0]


def test_reinforce_is_right_on_average_and_its_gradient_is_p_times_r_less_j():
    z = P.log().requires_grad_()
    slope = torch.autograd.grad((z.softmax(0) * R).sum(), z)[0]
    torch.testing.assert_close(slope, P * (R - (P * R).sum()))
    torch.testing.assert_close(slope, (P[:, None] * R[:, None] * SCORE).sum(0))


@pytest.mark.parametrize("b", [0.0, 0.35, -2.0])
def test_the_noise_of_an_estimate_with_a_baseline(b):
    y, chance = all_groups(3)
    g = ((R[y] - b)[..., None] * SCORE[y]).mean(1)
    mean = (chance[:, None] * g).sum(0)
    torch.testing.assert_close(mean, P * (R - 0.35))
    by_formula = ((P * (R - b) ** 2 * SCORE.square().sum(1)).sum() - mean.square().sum()) / 3
    torch.testing.assert_close((chance * (g - mean).square().sum(1)).sum(), by_formula)


@pytest.mark.parametrize("G", [2, 3, 5])
def test_a_groups_own_mean_shrinks_the_gradient_and_its_noise_is_a_short_sum(G):
    y, chance = all_groups(G)
    adv = advantages(centred, y)
    g = (adv[..., None] * SCORE[y]).mean(1)
    torch.testing.assert_close(g, (adv[..., None] * torch.eye(4).double()[y]).mean(1))
    torch.testing.assert_close((chance[:, None] * g).sum(0), (G - 1) / G * P * (R - 0.35))
    p, s = 0.35, ((P * (1 - R) / 0.65) ** 2).sum().item()
    by_formula = sum(
        math.comb(G, k) * p**k * (1 - p) ** (G - k) * ((k * (G - k) / G**2) ** 2 + k**2 / G**4 * ((G - k) * (1 - s) + (G - k) ** 2 * s))
        for k in range(G + 1)
    )
    assert (chance * g.square().sum(1)).sum().item() == pytest.approx(by_formula)


@pytest.mark.parametrize("G", [2, 4, 6])
def test_dead_groups_and_the_push_on_the_right_answer(G):
    y, chance = all_groups(G)
    batch = batch_of(torch.zeros(1, *y.shape, 1, dtype=torch.int64), R[y][None])
    assert (chance * batch.dead[0]).sum().item() == pytest.approx(0.35**G + 0.65**G)
    pushes = [(chance * (advantages(how, y) * R[y]).mean(1)).sum().item() for how in (centred, standardised)]
    assert pushes[0] == pytest.approx((G - 1) / G * 0.35 * 0.65)
    by_formula = sum(
        math.comb(G, k) * 0.35**k * 0.65 ** (G - k) * math.sqrt(k * (G - k) * G * (G - 1)) / G**2 for k in range(G + 1)
    )
    assert pushes[1] == pytest.approx(by_formula, rel=1e-5)  # the code adds 1e-6 to the deviation
    limit = sum(math.comb(900, k) * 0.35**k * 0.65 ** (900 - k) * math.sqrt(k * (900 - k) * 900 * 899) / 900**2 for k in range(901))
    assert limit == pytest.approx(math.sqrt(0.35 * 0.65), abs=2e-3)


def test_an_advantage_is_the_distance_from_the_mean_in_deviations_of_a_sample():
    reward = torch.tensor([0.0, 1.0, 0.5, 0.25], dtype=torch.float64)
    batch = batch_of(torch.zeros(1, 1, 4, 1, dtype=torch.int64), reward.view(1, 1, 4))
    spread = math.sqrt(sum((r - 0.4375) ** 2 for r in reward.tolist()) / 3)
    torch.testing.assert_close(standardised(batch, None).flatten(), (reward - 0.4375) / (spread + 1e-6))


def test_ratio_and_clip():
    batch = batch_of(torch.zeros(1, 1, 1, 3, dtype=torch.int64))
    batch.old = torch.tensor([0.5, 0.2, 0.9], dtype=torch.float64).log().view(1, 1, 1, 3)
    new = torch.tensor([0.4, 0.5, 0.9], dtype=torch.float64)
    rho = to_sampler(new.log().view(1, 1, 1, 3), batch, None)
    torch.testing.assert_close(rho.flatten(), torch.tensor([0.8, 2.5, 1.0], dtype=torch.float64))
    for adv, low, high in itertools.product((-1.5, 0.5), (0.7, 0.9), (1.1, 1.6)):
        got = clip(rho, torch.tensor(adv), torch.tensor([[low]]), torch.tensor([[high]])).flatten()
        by_hand = [min(x * adv, min(max(x, low), high) * adv) for x in rho.flatten().tolist()]
        assert got.tolist() == pytest.approx(by_hand)
    batch.adv = torch.ones(1, 1, 1, 1, dtype=torch.float64)
    assert clipped_higher(rho, batch, knob(eps=0.1, eps_high=0.4)).flatten().tolist() == pytest.approx([0.8, 1.4, 1.0])


def test_k3_has_the_mean_of_k1_and_the_gradient_of_the_other_kl():
    z, z0 = torch.tensor([0.3, -1.0, 0.8], dtype=torch.float64).requires_grad_(), torch.tensor([1.0, 0.2, -0.5], dtype=torch.float64)
    pi, pi0 = Categorical(z.log_softmax(0)), Categorical(z0.log_softmax(0))
    batch = batch_of(torch.tensor([0, 1, 2]).view(1, 3, 1, 1))
    batch.ref = pi0.logits.view(1, 3, 1, 1)
    price = pull(pi.logits.view(1, 3, 1, 1), pi, batch, knob(beta=0.4)).flatten() / 0.4
    d = pi0.logits - pi.logits
    torch.testing.assert_close(price, d.exp() - d - 1)
    weight = pi.probs.detach()
    torch.testing.assert_close((weight * price).sum(), kl(pi, pi0))
    torch.testing.assert_close((weight * -d).sum(), kl(pi, pi0))
    of_k3, of_k1 = (torch.autograd.grad((weight * x).sum(), z, retain_graph=True)[0] for x in (price, -d))
    torch.testing.assert_close(of_k3, torch.autograd.grad(kl(pi0, pi), z)[0])
    torch.testing.assert_close(of_k1, torch.zeros(3).double())  # why the pull of exercise 3 does not pull


def test_means_over_responses_and_over_tokens():
    batch = of_lengths([[2, 5], [1, 4]])
    loss = torch.arange(20, dtype=torch.float64).view(1, 2, 2, 5) ** 2
    rows = [[loss[0, p, g, t].item() for t in range(n)] for p, g, n in ((0, 0, 2), (0, 1, 5), (1, 0, 1), (1, 1, 4))]
    assert response_mean(loss, batch, None).item() == pytest.approx(sum(sum(row) / len(row) for row in rows) / 4)
    assert token_mean(loss, batch).item() == pytest.approx(sum(map(sum, rows)) / 12)


def test_the_price_of_length():
    batch = of_lengths([[1, 4, 5, 6, 7]])
    world = SimpleNamespace(horizon=7, graph=SimpleNamespace(reward=torch.ones(1)))
    got = not_too_long(world, batch, knob(band=3.0)).flatten()
    assert got.tolist() == pytest.approx([1 - min(max((n - (7 - 3)) / 3, 0), 1) for n in (1, 4, 5, 6, 7)])


def test_pass_at_k():
    p = torch.tensor([0.0, 0.03, 0.5, 1.0], dtype=torch.float64)
    for k in (1, 7, 64):
        torch.testing.assert_close(truth.pass_at(p, k), 1 - (1 - p) ** k)


def test_what_a_full_batch_costs():
    """Exercise 1 against draws."""
    success, solution = torch.tensor([0.5, 0.95, 0.01], dtype=torch.float64), EXERCISES.until_full_solution
    u = Lanes((3,)).rand(0, 60_000, 5)[0].double()
    chosen = success[(u[:, 4] * 3).long()]
    right = (u[:, :4] < chosen[:, None]).sum(1)
    alive = ((right > 0) & (right < 4)).double().mean().item()
    assert solution(success, 4, 10).item() == pytest.approx(10 / alive, rel=0.03)
