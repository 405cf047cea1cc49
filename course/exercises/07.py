"""Exercises of chapter 07: loops that come to rest, and a reward that carries old values."""
from dataclasses import replace

import torch

from labkit.course.progress import Exercise
from labkit.lanes import Lanes
from labkit.worlds.finite import garnet, optimal

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
    assert bool(rests[0]) and not rests[1], "At a step of 1 the deviation is multiplied by -c / lam: it shrinks with lam 2, grows with lam 0.5."
    assert bool(rests[2]), "With c = 1, lam = 0.5 and half a step the factor is 1 - 0.5 * (1 + 2) = -0.5: it rests. A small step damps, too."
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
    assert torch.allclose(v, old - phi), "The best values should be the old ones less phi: add gamma times the mean of phi at the next state, take off phi here."


EXERCISES = [
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
