"""Exercises of chapter 07: what a step size remembers, the most hopeful world, a change noticed, regret in a world that moves, loops that
come to rest, and a reward that carries old values."""
import math
from dataclasses import replace

import torch

from labkit.course.progress import Exercise
from labkit.lanes import Lanes
from labkit.worlds.finite import garnet, optimal


def close(answer, truth, tolerance=1e-6):
    """Is the answer a tensor of the truth's shape and values?"""
    if not isinstance(answer, torch.Tensor) or answer.shape != truth.shape:
        return False
    return bool(((answer.double() - truth.double()).abs() < tolerance).all())


# 07.1


def weights(alpha, omega, n):
    """The step at visit i = 1 .. n is alpha i^-omega -> the weight of each of the n targets in Q after visit n, (n,)."""
    ...  # your code


def weights_solution(alpha, omega, n):
    step = alpha * torch.arange(1, n + 1, dtype=torch.float64) ** -omega
    kept = (1 - step).flip(0).cumprod(0).flip(0)  # what all visits from i on leave of what was there before
    return step * torch.cat([kept[1:], torch.ones(1, dtype=torch.float64)])


def check_weights(answer):
    got = answer(1.0, 1.0, 4)
    assert got is not None, "weights returns nothing yet."
    assert isinstance(got, torch.Tensor) and got.shape == (4,), "Give one weight per target, (n,)."
    assert close(got, torch.full((4,), 0.25)), "With alpha = omega = 1 Q is the mean of its targets: all weights are 1 / n."
    got = answer(0.5, 0.0, 3)
    assert not close(got, torch.tensor([0.5, 0.25, 0.125])), "Turned round: the newest target, the last in the list, weighs most."
    assert not close(got, torch.full((3,), 0.5)), "A target loses 1 - step of the weight it had at every later visit."
    assert close(got, torch.tensor([0.125, 0.25, 0.5])), "With a constant step of 0.5 the weights are 0.125, 0.25 and 0.5."
    q, targets = 0.0, [3.0, -1.0, 2.0, 5.0, 0.5]
    for i, target in enumerate(targets, 1):
        q += 0.8 * i**-0.6 * (target - q)
    got = (answer(0.8, 0.6, 5).double() * torch.tensor(targets).double()).sum()
    assert abs(got - q) < 1e-6, f"With alpha 0.8 and omega 0.6 five targets give {q:.4f} by the update and {got:.4f} by your weights."


# 07.2


def hopeful(p, off, u):
    """p (S,) chances, off a number, u (S,) worths -> the largest mean of u under any chances within off of p in L1."""
    ...  # your code


def hopeful_solution(p, off, u):
    order = u.argsort(descending=True)
    sums = (p[order].cumsum(0) + off / 2).clamp(max=1)
    return (torch.diff(sums, prepend=sums.new_zeros(1)) * u[order]).sum()


def check_hopeful(answer):
    p, u = torch.tensor([0.5, 0.3, 0.2]), torch.tensor([0.3, -1.0, 2.0])
    got = answer(p, 0.4, u)
    assert got is not None, "hopeful returns nothing yet."
    assert abs(float(answer(p, 0.0, u)) - 0.25) < 1e-5, "Without doubt it is the mean itself, 0.25."
    assert abs(float(got) - 1.25) > 1e-5, "An L1 distance of 0.4 moves 0.2: what one place gains another one loses, and both count."
    assert abs(float(got) - 0.85) < 1e-5, f"0.2 goes from the worst place to the best: 0.15 - 0.1 + 0.8 = 0.85; yours is {float(got):.2f}."
    assert abs(float(answer(p, 1.0, u)) - 1.49) < 1e-5, "With a doubt of 1 the worst place gives its 0.3, the next worst 0.2."
    assert abs(float(answer(p, 2.0, u)) - 2.0) < 1e-5, "With a doubt of 2 all may be in the best place, and no more than all."


# 07.3


def evidence(x, outcomes):
    """The log evidence of a list of outcomes 0 .. outcomes - 1."""
    counts = [x.count(o) for o in range(outcomes)]
    return math.lgamma(outcomes) - math.lgamma(len(x) + outcomes) + sum(math.lgamma(c + 1) for c in counts)


def noticed(x, outcomes, h):
    """x a list of outcomes; evidence(x, outcomes) is a log -> the first t at which some change in x[: t + 1] beats none, or None."""
    ...  # your code


def noticed_solution(x, outcomes, h):
    for t in range(1, len(x)):
        seen = x[: t + 1]
        split = max(evidence(seen[:s], outcomes) + evidence(seen[s:], outcomes) for s in range(1, t + 1))
        if math.log(h) + split > evidence(seen, outcomes):
            return t
    return None


def check_noticed(answer):
    x = [0] * 12 + [1] * 12
    got = answer(x, 2, 0.01)
    assert got is not None or answer(x, 2, 0.5) is not None, "noticed returns nothing yet, though the stream changes from 0 to 1."
    assert answer([0, 1] * 12, 2, 0.01) is None, "A stream of 0, 1, 0, 1 has not changed: give None."
    truth = noticed_solution(x, 2, 0.01)
    assert got > 11, "Before outcome 12 there has been nothing but zeros; compare with what was seen so far, and with nothing later."
    assert got == truth, f"With h = 0.01 it is noticed at {truth}, yours says {got}. A change has its price, log h, and two evidences."
    assert answer(x, 2, 0.3) == noticed_solution(x, 2, 0.3), "With h = 0.3 it is noticed sooner; is 0.01 written into your function?"
    late = [0] * 30 + [1, 1]
    assert answer(late, 2, 0.01) == noticed_solution(late, 2, 0.01), "Try every place of the change, not the middle alone."


# 07.4


def dynamic_regret(rewards, modes, gains):
    """rewards (L, T); modes (L, T) int64, which mode held; gains (M,), each mode's best -> regret after every step, (L, T)."""
    ...  # your code


def dynamic_regret_solution(rewards, modes, gains):
    return (gains[modes] - rewards).cumsum(1)


def check_dynamic_regret(answer):
    rewards = torch.tensor([[0.0, 1.0, 0.5, 0.0], [1.0, 1.0, 0.0, 0.0]])
    modes, gains = torch.tensor([[0, 0, 1, 1], [1, 0, 0, 1]]), torch.tensor([1.0, 0.5])
    got = answer(rewards, modes, gains)
    assert got is not None, "dynamic_regret returns nothing yet."
    assert isinstance(got, torch.Tensor) and got.shape == rewards.shape, "Give the regret after every step of every lane, (L, T)."
    assert not close(got, (gains.max() - rewards).cumsum(1)), "Nobody earns 1 a step while mode 1 holds: compare with the best then."
    assert not close(got, gains[modes] - rewards), "That is the loss of each step; regret is its sum so far."
    assert float(got[1, 0]) == -0.5, "A lucky reward makes regret negative for a while: 0.5 - 1.0. Do not cut it off."
    assert close(got, (gains[modes] - rewards).cumsum(1)), "Sum gain(mode then) - reward over the steps of each lane."


# 07.5


def comes_to_rest(c, lam, step):
    """c, lam, step (L,) > 0 -> which loops of two roads come to rest, (L,) bool."""
    ...  # your code


def comes_to_rest_solution(c, lam, step):
    return (1 - step * (1 + c / lam)).abs() < 1


def check_comes_to_rest(answer):
    c = torch.tensor([1.0, 1.0, 1.0, 2.0, 0.5, 3.0])
    lam = torch.tensor([2.0, 0.5, 0.5, 4.0, 0.1, 1.0])
    step = torch.tensor([1.0, 1.0, 0.5, 0.2, 0.4, 0.49])
    rests = answer(c, lam, step)
    assert rests is not None, "comes_to_rest returns nothing yet."
    assert isinstance(rests, torch.Tensor) and rests.shape == c.shape and rests.dtype == torch.bool, "Give one truth value per loop, (L,)."
    assert bool(rests[0]) and not rests[1], "With step 1 the deviation is multiplied by -c / lam: lam 2 shrinks it, lam 0.5 does not."
    assert bool(rests[2]), "With c 1, lam 0.5 and step 0.5 the factor is 1 - 0.5 * (1 + 2) = -0.5: a small step damps, too."
    assert bool(rests[5]), "With c = 3, lam = 1 and a step of 0.49 the factor is -0.96: it swings, yet it comes to rest."
    assert rests.tolist() == [True, False, True, True, False, True], "Compare the size of 1 - step (1 + c / lam) with 1, loop by loop."


# 07.6


def shape(r, P, gamma, phi):
    """r (S, A), P (S, A, S), gamma a number, phi (S,) -> the expected reward shaped by the potential phi, (S, A)."""
    ...  # your code


def shape_solution(r, P, gamma, phi):
    return r + gamma * (P @ phi) - phi[:, None]


def check_shape(answer):
    mdp = garnet(states=7, actions=3, seed=3, gamma=0.8).mdp
    phi = 2 * Lanes((1,)).rand(0, 7).double()[0] - 1
    made = answer(mdp.r[0], mdp.P[0], 0.8, phi)
    assert made is not None, "shape returns nothing yet."
    assert isinstance(made, torch.Tensor) and made.shape == (7, 3), "The shaped reward has one number per state and action, (S, A)."
    same = answer(mdp.r[0], mdp.P[0], 0.8, torch.zeros(7, dtype=torch.float64))
    assert torch.allclose(same, mdp.r[0]), "A potential of 0 everywhere shapes nothing: the reward stays what it was."
    v, old = optimal(replace(mdp, r=made[None]))[1], optimal(mdp)[1]
    assert not torch.allclose(v, old + phi), "The old values come out raised by phi: the signs of the two terms are turned round."
    assert torch.allclose(v, old - phi), "Best values should be the old ones less phi: add gamma times phi's mean ahead, take off phi here."


def always_all(alpha, omega, n):
    return alpha * torch.arange(1, n + 1, dtype=torch.float64) ** -omega


def backwards(alpha, omega, n):
    return weights_solution(alpha, omega, n).flip(0)


def constant_only(alpha, omega, n):
    return weights_solution(alpha, 0.0, n) if omega == 0 else torch.full((n,), 1 / n)


def both_moved(p, off, u):
    return hopeful_solution(p, 2 * off, u)


def from_the_worst_alone(p, off, u):
    best, worst = u.argmax(), u.argmin()
    q = p.clone()
    q[best], q[worst] = q[best] + off / 2, q[worst] - off / 2
    return (q * u).sum()


def more_than_all(p, off, u):
    q = p.clone()
    q[u.argmax()] += off / 2
    return (q * u).sum()


def credulous(x, outcomes, h):
    return next((t for t in range(1, len(x)) if max(evidence(x[:s], outcomes) + evidence(x[s : t + 1], outcomes) for s in range(1, t + 1))
                 > evidence(x[: t + 1], outcomes)), None)  # fmt: skip


def in_the_middle(x, outcomes, h):
    for t in range(1, len(x)):
        seen, s = x[: t + 1], (t + 1) // 2
        if math.log(h) + evidence(seen[:s], outcomes) + evidence(seen[s:], outcomes) > evidence(seen, outcomes):
            return t
    return None


def with_hindsight(x, outcomes, h):
    splits = [evidence(x[:s], outcomes) + evidence(x[s:], outcomes) for s in range(1, len(x))]
    return 1 + splits.index(max(splits)) if math.log(h) + max(splits) > evidence(x, outcomes) else None


EXERCISES = [
    Exercise(
        key="07.1",
        prompt="Write weights(alpha, omega, n): what Q remembers of each of its n targets.",
        check=check_weights,
        stub=weights,
        solution=weights_solution,
        wrong={"the steps themselves": always_all, "backwards": backwards, "one decay": constant_only},
        hints=(
            "Target i comes in with the weight of its own step. What does every later visit j leave of it?",
            "Weight i is step_i times the product of (1 - step_j) over j > i; flip(0).cumprod(0).flip(0) gives all products at once.",
        ),
    ),
    Exercise(
        key="07.2",
        prompt="Write hopeful(p, off, u): the largest mean within a doubt.",
        check=check_hopeful,
        stub=hopeful,
        solution=hopeful_solution,
        wrong={
            "moves off, not half": both_moved,
            "from the worst alone": from_the_worst_alone,
            "takes from nobody": more_than_all,
            "no doubt": lambda p, off, u: (p * u).sum(),
        },
        hints=(
            "Sort the places from best to worst, and give off / 2 to the first.",
            "Running sums of chances from the best down, with off / 2 added and cut at 1: their differences are the hopeful chances.",
        ),
    ),
    Exercise(
        key="07.3",
        prompt="Write noticed(x, outcomes, h): the first outcome at which a change is likelier than none.",
        check=check_noticed,
        stub=noticed,
        solution=noticed_solution,
        wrong={"no price for a change": credulous, "in the middle alone": in_the_middle, "with hindsight": with_hindsight},
        hints=(
            "At each t compare one number, the evidence of all so far, with the best of t others, one per place of the change.",
            "log h + evidence(x[:s]) + evidence(x[s : t + 1]) > evidence(x[: t + 1]) for some s from 1 to t; return the first such t.",
        ),
    ),
    Exercise(
        key="07.4",
        prompt="Write dynamic_regret(rewards, modes, gains): regret in a world that changes.",
        check=check_dynamic_regret,
        stub=dynamic_regret,
        solution=dynamic_regret_solution,
        wrong={
            "the best mode for ever": lambda rewards, modes, gains: (gains.max() - rewards).cumsum(1),
            "of one step": lambda rewards, modes, gains: gains[modes] - rewards,
            "never below zero": lambda rewards, modes, gains: (gains[modes] - rewards).cumsum(1).clamp_min(0),
            "all lanes in one": lambda rewards, modes, gains: (gains[modes] - rewards).flatten().cumsum(0).view_as(rewards),
        },
        hints=("What could be earned at step t? Index gains with the modes.", "Subtract the rewards and sum along time, .cumsum(1)."),
    ),
    Exercise(
        key="07.5",
        prompt="Write comes_to_rest(c, lam, step): which performative loops of two roads settle.",
        check=check_comes_to_rest,
        stub=comes_to_rest,
        solution=comes_to_rest_solution,
        wrong={
            "forgets the step": lambda c, lam, step: c < lam,
            "one side only": lambda c, lam, step: 1 - step * (1 + c / lam) < 1,
            "must not swing": lambda c, lam, step: step * (1 + c / lam) < 1,
            "turned around": lambda c, lam, step: (1 - step * (1 + c / lam)).abs() >= 1,
            "upside down": lambda c, lam, step: (1 - step * (1 + lam / c)).abs() < 1,
        },
        hints=(
            "Write the next deviation as a number times the last one: the plan's target has the deviation -c / lam times the old.",
            "The number is (1 - step) + step * (-c / lam). When does its power vanish?",
        ),
    ),
    Exercise(
        key="07.6",
        prompt="Write shape(r, P, gamma, phi): a reward that carries old values and leaves the best policy as it is.",
        check=check_shape,
        stub=shape,
        solution=shape_solution,
        wrong={
            "no discount": lambda r, P, gamma, phi: r + P @ phi - phi[:, None],
            "signs turned round": lambda r, P, gamma, phi: r - gamma * (P @ phi) + phi[:, None],
            "only what comes": lambda r, P, gamma, phi: r + gamma * (P @ phi),
            "by action": lambda r, P, gamma, phi: r + gamma * (P @ phi) - (P @ phi),
        },
        hints=(
            "A step earns what it gains in potential: later less now, where later counts gamma.",
            "The mean of phi over next states is P @ phi, (S, A); phi of this state is phi[:, None].",
        ),
    ),
]
