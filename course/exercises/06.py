"""Exercises of chapter 06: an optimist's arm, periods that never meet, a block after its burn-in, weights by the gap among routes that
are open, and one play's part in a belief."""
import math

import torch

from labkit.course.progress import Exercise
from labkit.policy import SHUT, inverse_gap


def close(answer, truth, tolerance=1e-5):
    """Is the answer a tensor of the truth's shape and values?"""
    if not isinstance(answer, torch.Tensor) or answer.shape != truth.shape:
        return False
    return bool(((answer.double() - truth.double()).abs() < tolerance).all())


# 06.1


def optimist(mean, plays, scale):
    """mean, plays (L, N) of N arms; scale = c * sigma -> ucb's arm in each lane, (L,) int64."""
    ...  # your code


def optimist_solution(mean, plays, scale):
    t = plays.sum(1, keepdim=True).clamp_min(1)
    index = mean + scale * (2 * t.log() / plays.clamp_min(1)).sqrt()
    return torch.where(plays > 0, index, torch.inf).argmax(1)


def check_optimist(answer):
    mean = torch.tensor([[0.5, 0.3, 0.62], [0.5, 0.3, 0.62], [0.9, 0.0, 0.0], [0.2, 0.4, 0.3]])
    plays = torch.tensor([[5.0, 2.0, 40.0], [50.0, 20.0, 400.0], [3.0, 0.0, 0.0], [100.0, 100.0, 100.0]])
    arm = answer(mean, plays, 0.5)
    assert arm is not None, "optimist returns nothing yet."
    assert isinstance(arm, torch.Tensor) and arm.shape == (4,), "Give one arm per lane, (L,)."
    assert arm[2] == 1, "Lane 2: arms 1 and 2 were never played; the first of them comes before any that was, however good."
    assert arm[0] == 1, "Lane 0: two plays leave so much doubt (0.5 * sqrt(2 log 47 / 2) = 0.98) that arm 1 comes first."
    assert arm[1] == 0, "Lane 1: after ten times the plays the indices are 0.75, 0.69 and 0.68. t counts all arms of a lane, n one of them."
    assert arm[3] == 1, "Lane 3: with equal doubt the best mean wins."
    assert answer(mean[:1], plays[:1], 0.0)[0] == 2, "Without optimism (scale 0) it is greedy; is 0.5 written into your function?"


# 06.2


def never_meet(periods, turns):
    """Arm i is pulled in rounds t with t % periods[i] == turns[i]; lists of whole numbers -> is there no round that pulls two? bool"""
    ...  # your code


def never_meet_solution(periods, turns):
    arms = list(zip(periods, turns, strict=True))
    return all((one[1] - other[1]) % math.gcd(one[0], other[0]) for i, one in enumerate(arms) for other in arms[:i])


def check_never_meet(answer):
    assert answer([2, 2], [0, 1]) is not None, "never_meet returns nothing yet."
    assert answer([2, 2], [0, 1]) is True, "Even rounds and odd rounds: periods 2 and 2 with turns 0 and 1 never meet. Return True."
    assert answer([2, 4, 8], [0, 1, 3]) is True, "Periods 2, 4, 8 nest: turns 0, 1 and 3 leave each other alone."
    assert answer([4, 4], [1, 1]) is False, "Equal periods with equal turns meet in every one of their rounds. Return False."
    assert answer([2, 3], [0, 1]) is False, "Periods 2 and 3 have no common factor: turns 0 and 1 meet in round 4, and so would all others."
    assert answer([6, 4], [1, 2]) is True, "Periods 6 and 4 share the factor 2, and turns 1 and 2 are one odd, one even: they never meet."
    assert answer([37, 41], [5, 7]) is False, "Periods 37 and 41 meet first in round 745; look further, or not at rounds at all."
    assert answer([6, 3, 12], [0, 1, 8]) is True, "Turns 0 of 6, 1 of 3 and 8 of 12: no two are equal modulo their common factor."
    assert answer([6, 3, 12], [0, 1, 7]) is False, "The second and third arm meet: 7 = 1 modulo 3. Compare all pairs."


# 06.3


def judged(paid, M, sigma):
    """paid (L, B): a block of plays per lane; M (L,): plays that do not count -> mean of the others and its standard error, (L,) both."""
    ...  # your code


def judged_solution(paid, M, sigma):
    counts = torch.arange(paid.shape[1]) >= M[:, None]
    n = counts.sum(1)
    return (paid * counts).sum(1) / n, sigma / n.sqrt()


def check_judged(answer):
    paid = torch.tensor([[0.2, 0.4, 0.7, 0.9, 0.8], [1.0, 0.0, 0.5, 0.3, 0.1], [0.5, 0.5, 0.5, 0.5, 0.9]])
    M = torch.tensor([2, 0, 4])
    got = answer(paid, M, 0.6)
    assert got is not None, "judged returns nothing yet."
    assert isinstance(got, tuple) and len(got) == 2, "Return both: the mean and its standard error."
    mean, error = got
    assert isinstance(mean, torch.Tensor) and mean.shape == (3,), "Give one mean per lane, (L,)."
    assert abs(mean[0] - 0.8) < 1e-5, "Lane 0 has a burn-in of 2: the mean of 0.7, 0.9 and 0.8 is 0.8. Count from the third play on."
    assert close(mean, torch.tensor([0.8, 0.38, 0.9])), "Every lane has its own burn-in M; with M = 0 all plays count."
    assert isinstance(error, torch.Tensor) and error.shape == (3,), "Give one standard error per lane, (L,)."
    assert close(error, 0.6 / torch.tensor([3.0, 5.0, 1.0]).sqrt()), "The error is sigma / sqrt(n), with n the plays that count."


# 06.4


def by_gap(f, offered, gamma):
    """f (B, A) predicted success; offered (B, A) bool, the best by f among them; gamma a number -> probabilities (B, A)."""
    ...  # your code


def by_gap_solution(f, offered, gamma):
    f = torch.where(offered, f, -1.0)
    best = torch.nn.functional.one_hot(f.argmax(1), f.shape[1]).bool()
    p = 1 / (offered.sum(1, keepdim=True) + gamma * (f.amax(1, keepdim=True) - f))
    p = torch.where(offered & ~best, p, 0.0)
    return torch.where(best, 1 - p.sum(1, keepdim=True), p)


def normalised(f, offered, gamma):
    f = torch.where(offered, f, -1.0)
    p = offered / (offered.sum(1, keepdim=True) + gamma * (f.amax(1, keepdim=True) - f))
    return p / p.sum(1, keepdim=True)


def counts_all(f, offered, gamma):
    return by_gap_solution(torch.where(offered, f, 0.0), torch.ones_like(offered), gamma) * offered


def check_by_gap(answer):
    f = torch.tensor([[0.9, 0.8, 0.7, 0.2], [0.5, 0.95, 0.9, 0.99]])
    offered = torch.tensor([[True, True, True, True], [True, True, True, False]])
    p = answer(f, offered, 20.0)
    assert p is not None, "by_gap returns nothing yet."
    assert isinstance(p, torch.Tensor) and p.shape == f.shape, "Give a probability for each payment and route, (B, A)."
    assert bool((p[1, 3] == 0).all()), "Route 3 is shut to payment 1: its probability is 0, however well it would do."
    assert close(p.sum(1), torch.ones(2)), "The probabilities of a payment sum to 1."
    assert abs(p[0, 1] - 1 / 6) < 1e-5, "Payment 0, route 1: a gap of 0.1 gives 1 / (4 + 20 * 0.1) = 1/6; the best route has what is left."
    assert abs(p[1, 2] - 1 / 4) < 1e-5, "Payment 1, route 2: of three open routes the best has 0.95, so 1 / (3 + 20 * 0.05) = 1/4."
    log_odds = torch.where(offered, (f / (1 - f)).log(), SHUT)
    for gamma in (0.0, 20.0, 500.0):
        truth = inverse_gap(log_odds[None], torch.full((1, 1, 1), gamma)).probs[0]
        assert close(answer(f, offered, gamma), truth), f"At gamma = {gamma:g} it differs from inverse-gap weights."


# 06.5


def learn(inverse, total, x, paid):
    """inverse (d, d) = A^-1 and total (d,) = b of one rewrite; a play with features x (d,) paid -> the new inverse and total."""
    ...  # your code


def learn_solution(inverse, total, x, paid):
    reach = inverse @ x
    return inverse - torch.outer(reach, reach) / (1 + x @ reach), total + paid * x


def check_learn(answer):
    root = torch.tensor([[1.0, 0.3, 0.0], [0.2, 0.8, -0.4], [0.5, 0.0, 1.2]]).double()
    A, b = torch.eye(3).double() + root @ root.T, torch.tensor([0.4, -0.2, 1.0]).double()
    x, paid = torch.tensor([1.0, 0.0, 1.0]).double(), 0.7
    given = torch.linalg.inv(A)
    got = answer(given.clone(), b.clone(), x, paid)
    assert got is not None, "learn returns nothing yet."
    assert isinstance(got, tuple) and len(got) == 2, "Return both: the new inverse and the new total."
    inverse, total = got
    assert close(total, b + paid * x, 1e-9), "b is the sum of reward times features: add paid * x."
    assert isinstance(inverse, torch.Tensor) and inverse.shape == A.shape, "The inverse stays a (d, d) matrix."
    assert not close(inverse, A + torch.outer(x, x), 1e-9), "That is A, not its inverse."
    x_doubt, was = x @ inverse @ x, x @ given @ x
    assert x_doubt < was, f"A play makes the doubt at its own features smaller: x' A^-1 x was {was:.3f} and is now {x_doubt:.3f}."
    assert close(inverse, torch.linalg.inv(A + torch.outer(x, x)), 1e-9), "It should be the inverse of A + x x'."


EXERCISES = [
    Exercise(
        key="06.1",
        prompt="Write optimist(mean, plays, scale): the arm that ucb plays.",
        check=check_optimist,
        stub=optimist,
        solution=optimist_solution,
        wrong={
            "greedy": lambda m, n, s: m.argmax(1),
            "forgets new arms": lambda m, n, s: (m + s * (2 * n.sum(1, keepdim=True).log() / n.clamp_min(1)).sqrt()).argmax(1),
            "own plays in the log": lambda m, n, s: torch.where(n > 0, m + s * (2 * n.log() / n.clamp_min(1)).sqrt(), 9).argmax(1),
            "no root": lambda m, n, s: torch.where(n > 0, m + s * 2 * n.sum(1, keepdim=True).log() / n.clamp_min(1), 99).argmax(1),
            "pessimist": lambda m, n, s: optimist_solution(m, n, -s),
            "its own scale": lambda m, n, s: optimist_solution(m, n, 0.5),
        },
        hints=(
            "Write the index of every arm first: its mean plus scale * sqrt(2 log t / n), with t = plays.sum(1, keepdim=True).",
            "torch.where(plays > 0, index, torch.inf) puts new arms first; argmax(1) takes the first of equal ones.",
        ),
    ),
    Exercise(
        key="06.2",
        prompt="Write never_meet(periods, turns): do arms with these periods and turns leave each other alone?",
        check=check_never_meet,
        stub=never_meet,
        solution=never_meet_solution,
        wrong={
            "distinct turns": lambda d, r: len(set(r)) == len(r),
            "room enough": lambda d, r: sum(1 / x for x in d) <= 1,
            "a hundred rounds": lambda d, r: all(sum(t % x == y for x, y in zip(d, r, strict=True)) < 2 for t in range(100)),
            "neighbours alone": lambda d, r: all((r[i] - r[i - 1]) % math.gcd(d[i], d[i - 1]) != 0 for i in range(1, len(d) - 1)),
            "turned around": lambda d, r: not never_meet_solution(d, r),
        },
        hints=(
            "Two arms meet if some t is r1 modulo d1 and r2 modulo d2. Both say what t is modulo every common factor of d1 and d2.",
            "By the Chinese remainder theorem they meet just if r1 and r2 are equal modulo math.gcd(d1, d2). Try all pairs.",
        ),
    ),
    Exercise(
        key="06.3",
        prompt="Write judged(paid, M, sigma): mean and standard error of a block, without its burn-in.",
        check=check_judged,
        stub=judged,
        solution=judged_solution,
        wrong={
            "counts all": lambda p, M, s: (p.mean(1), s / torch.full((3,), 5.0).sqrt()),
            "the burn-in alone": lambda p, M, s: judged_solution(p.flip(1), 5 - M, s),
            "one too few": lambda p, M, s: judged_solution(p, (M + 1).clamp_max(4), s),
            "divides by all": lambda p, M, s: ((p * (torch.arange(5) >= M[:, None])).sum(1) / 5, s / (5 - M).sqrt()),
            "error of all plays": lambda p, M, s: (judged_solution(p, M, s)[0], s / torch.full((3,), 5.0).sqrt()),
            "no root": lambda p, M, s: (judged_solution(p, M, s)[0], s / (5 - M)),
            "one burn-in": lambda p, M, s: judged_solution(p, M[:1].expand(3), s),
        },
        hints=(
            "Which plays count is a table: torch.arange(B) >= M[:, None], (L, B).",
            "Sum paid times that table, and divide by how many count, lane by lane; the error is sigma over the root of that number.",
        ),
    ),
    Exercise(
        key="06.4",
        prompt="Write by_gap(f, offered, gamma): inverse-gap weights where some routes are shut.",
        check=check_by_gap,
        stub=by_gap,
        solution=by_gap_solution,
        wrong={
            "counts shut routes": counts_all,
            "forgets that some are shut": lambda f, offered, gamma: by_gap_solution(f, torch.ones_like(offered), gamma),
            "normalises": normalised,
            "greedy": lambda f, offered, gamma: torch.nn.functional.one_hot(torch.where(offered, f, -1.0).argmax(1), 4).float(),
        },
        hints=(
            "Before you look for the best, put a success below 0 where a route is shut.",
            "It is 1 / (number of open routes + gamma * gap) for the open ones but the best, which has 1 minus their sum; else 0.",
        ),
    ),
    Exercise(
        key="06.5",
        prompt="Write learn(inverse, total, x, paid): what a play does to A^-1 and b, without inverting a matrix.",
        check=check_learn,
        stub=learn,
        solution=learn_solution,
        wrong={
            "adds": lambda i, b, x, r: (i + torch.outer(i @ x, i @ x) / (1 + x @ i @ x), b + r * x),
            "forgets the 1": lambda i, b, x, r: (i - torch.outer(i @ x, i @ x) / (x @ i @ x), b + r * x),
            "A in place of its inverse": lambda i, b, x, r: (torch.linalg.inv(i) + torch.outer(x, x), b + r * x),
            "forgets the reward": lambda i, b, x, r: (learn_solution(i, b, x, r)[0], b + x),
        },
        hints=(
            "With u = A^-1 x the inverse changes by a multiple of u u'.",
            "The multiple is -1 / (1 + x'u) (Sherman and Morrison 1950); b grows by paid * x.",
        ),
    ),
]
