"""value_iteration: one backup of the optimality equation in place of a whole evaluation (Bellman 1957)."""
from collections.abc import Sequence
from dataclasses import replace
from types import SimpleNamespace

import torch
from torch import Tensor

from labkit.lanes import Knob, Lanes
from labkit.learner import Learner
from labkit.paper import Paper
from labkit.tabular.checks import ROUNDING, improvements, losses, until
from labkit.tabular.family import Tabular, policy_iteration, softened
from labkit.verdict import Verdict, above, exactly, together
from labkit.worlds.finite import MDP, garnet, lookahead, optimal


def backup(algo: Tabular, known: MDP, learner: Learner, k: SimpleNamespace) -> Tensor:
    """Q <- r + gamma P max Q, (L, S, A), from the Q kept in memory."""
    return lookahead(known, learner.memory["q"].amax(-1))


value_iteration = replace(
    policy_iteration,
    evaluate=backup,
    improve=softened,
    knobs={"tau": Knob(0.0, 0.0, 1.0, "softness: the policy is proportional to exp(Q / tau), greedy at 0")},
    paper=Paper(
        key="value_iteration",
        title="A Markovian Decision Process",
        year=1957,
        url="https://doi.org/10.1512/iumj.1957.6.56038",
        claim="Each sweep shrinks the largest error of Q at least by gamma, while policy iteration needs far fewer improvements.",
        lesson="In a small world every drift can be measured exactly; keep one at hand.",
        lost="Nothing essential.",
        base="policy_iteration",
        chapter=1,
    ),
)


def check(seeds: Sequence[int] = range(20), gamma: float = 0.9) -> Verdict:
    """A random MDP per seed: the error of each sweep and the loss of its greedy policy; sweeps to 1e-6 and improvements to exact."""
    world, lanes, steps = garnet(seed=seeds, gamma=gamma), Lanes(tuple(seeds)), int(30 / (1 - gamma))
    best, v, _ = optimal(world.mdp)
    sweeps = improvements(value_iteration, world, lanes, steps)
    q = torch.stack([torch.zeros_like(best), *(learner.memory["q"] for learner in sweeps)])
    error, off = (q - best).abs().amax((2, 3)), (q.amax(-1) - v).abs().amax(-1)
    excess = (error[1:] - gamma * error[:-1]).max().item()
    over = (losses(world.mdp, sweeps) - 2 * gamma * off[:-1] / (1 - gamma)).max().item()
    slow = until(error[1:], 1e-6)
    fast = until(losses(world.mdp, improvements(policy_iteration, world, lanes, steps)), ROUNDING)
    return together(
        exactly(excess <= ROUNDING, excess, "no sweep's error exceeds gamma times the last one's"),
        exactly(over <= ROUNDING, over, "no policy greedy for values off by e loses more than 2 gamma e / (1 - gamma)"),
        exactly(bool((fast < slow).all()), (fast / slow).max().item(), "policy iteration is exact sooner than value iteration to 1e-6"),
        above(slow / fast, 1, "sweeps per improvement"),
    )
