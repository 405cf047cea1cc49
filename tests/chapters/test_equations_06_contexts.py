"""The equations of chapter 06 on logged payments and rewrites beside the code, on numbers that the chapter does not use."""
from dataclasses import replace
from itertools import islice

import numpy as np
import pytest
import scipy.integrate
import scipy.stats
import torch

from labkit.bandits.adyen import adyen
from labkit.bandits.eps_oracle import chances, eps_oracle, fit
from labkit.bandits.family import Shape
from labkit.bandits.querybandits import querybandits
from labkit.lanes import Lanes
from labkit.worlds.payments import payments
from labkit.worlds.rewriting import LETTERS, NAMES, PER_STYLE, SHARP, STYLES, Answerer, ask, rewriting, score

MARKET = payments(seed=77)


def model(learner):
    """f(x, a) of the learner's own weights, (C, A)."""
    x = torch.nn.functional.pad(MARKET.contexts[0, :, :8], (0, 1), value=1.0).double()
    return torch.sigmoid(x @ learner.memory["belief"][0].mT)


def generation(method, number, knobs):
    run = replace(method, shape=Shape(plays=500, rounds=1)).run(MARKET, Lanes((5,), knobs))
    return list(islice(run, number))[-1].learner


def test_the_value_is_a_sum_over_kinds_and_routes():
    pi = (3 * Lanes((1,)).rand(0, 256, 6).double()).softmax(-1)
    by_hand = sum((MARKET.chance[0, x] * pi[0, x, a] * MARKET.mean[0, x, a]).item() for x in range(256) for a in range(6))
    assert MARKET.value(pi).item() == pytest.approx(by_hand)


def test_no_other_weights_do_better_than_the_fit():
    """sum of w log f + (n - w) log(1 - f) - |w|^2 / 2, at the fit and a little beside it."""
    u = Lanes((3,)).rand(1, 2, 6, 16).double()
    n = (30 * u[:, 0]).floor()
    won = (n * u[:, 1]).floor()
    x = torch.cat([torch.tensor([[c >> i & 1 for i in range(4)] for c in range(16)]), torch.ones(16, 1)], 1).double()

    def likelihood(weights):
        f = torch.sigmoid(weights @ x.T)
        return (won * f.log() + (n - won) * (1 - f).log()).sum() - weights.square().sum() / 2

    best = fit(n, won)
    for tick in range(20):
        assert likelihood(best) > likelihood(best + 0.05 * (Lanes((3,)).rand(2 + tick, 6, 5).double() - 0.5))


def test_eps_greedy():
    """(1 - eps) [a is the best] + eps / 6"""
    learner = generation(eps_oracle, 3, {"eps": (0.24,)})
    best = torch.nn.functional.one_hot(model(learner).argmax(1), 6).double()
    torch.testing.assert_close(chances(learner, MARKET)[0], (1 - 0.24) * best + 0.24 / 6, rtol=1e-5, atol=1e-6)


def test_inverse_gap_weights():
    learner = generation(adyen, 4, {"gamma": (120.0,)})
    f, p = model(learner), chances(learner, MARKET)[0]
    best = f.argmax(1, keepdim=True)
    by_hand = (1 / (6 + 120 * (f.gather(1, best) - f))).scatter(1, best, 0.0)
    torch.testing.assert_close(p, by_hand.scatter(1, best, 1 - by_hand.sum(1, keepdim=True)), rtol=1e-4, atol=1e-6)


def test_the_mass_of_letters():
    """softmax of beta q'(e_name + e_attribute) over facts, summed by letter; what the first layer lets through of others moves none."""
    for seed in range(5):
        rng = np.random.Generator(np.random.Philox(seed))
        answerer = Answerer.drawn(rng)
        questions = [ask(answerer, style, rng)[0] for style in STYLES for _ in range(10)]
        match = answerer.embed[answerer.names] + answerer.embed[NAMES + answerer.attributes]
        q = np.stack([answerer.embed[words].mean(0) for words in questions])
        weight = torch.softmax(torch.as_tensor(SHARP * q @ match.T), -1).numpy()
        mass = np.einsum("bf,fsl->bsl", weight, np.eye(LETTERS)[answerer.letters])
        top = np.sort(mass, -1)
        clear = (top[..., -1] - top[..., -2]) > 0.02
        assert clear.mean() > 0.9 and (mass.argmax(-1) == answerer.answer(questions))[clear].all()


def test_the_score():
    answer, truth = np.array([[3, 4, 4]]), np.array([[3, 4, 5]])
    assert score(answer, truth)[0] == pytest.approx(0.6 * 0 + 0.3 * 2 / 3 + 0.1 * 2 / 3)
    assert score(truth, truth)[0] == pytest.approx(1.0)


def test_belief_and_chances():
    """A and b summed over plays, then the integral of phi(z) prod Phi(...) by adaptive quadrature."""
    world, plays = rewriting(seed=91), []

    def watching(algo, learner, log, k):
        plays.append((torch.nn.functional.pad(log.obs[0, 0, :8], (0, 1), value=1.0).double(), log.action.item(), log.paid.sum().item()))
        return querybandits.estimate(algo, learner, log, k)

    watched = replace(querybandits, estimate=watching, shape=Shape(plays=1, rounds=120))
    learner = next(watched.run(world, Lanes((2,), {"v": (0.4,)}))).learner
    p, style = chances(learner, world)[0], PER_STYLE
    for c in (0, style, 3 * style):
        x = torch.nn.functional.pad(world.contexts[0, c, :8], (0, 1), value=1.0).double()
        m, s = [], []
        for a in range(6):
            A = torch.eye(9).double() + sum((torch.outer(y, y) for y, arm, _ in plays if arm == a), torch.zeros(9, 9).double())
            b = sum((paid * y for y, arm, paid in plays if arm == a), torch.zeros(9).double())
            m.append((x @ torch.linalg.solve(A, b)).item())
            s.append(0.4 * (x @ torch.linalg.solve(A, x)).sqrt().item())
        for a in range(6):

            def largest(z, a=a, m=m, s=s):
                below = [(m[a] + s[a] * z - m[b]) / s[b] for b in range(6) if b != a]
                return scipy.stats.norm.pdf(z) * scipy.stats.norm.cdf(below).prod()

            assert p[c, a].item() == pytest.approx(scipy.integrate.quad(largest, -8, 8)[0], abs=1e-4)
