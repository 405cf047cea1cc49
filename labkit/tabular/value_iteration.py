"""value_iteration: one backup of the optimality equation in place of a whole evaluation (Bellman 1957)."""
from dataclasses import replace
from itertools import islice
from types import SimpleNamespace

import torch
from scipy.stats import t as student
from torch import Tensor

from labkit.lanes import Knob, Lanes
from labkit.learner import Learner
from labkit.paper import Paper
from labkit.tabular.family import Tabular, exact_model, policy_iteration, softened
from labkit.verdict import Verdict
from labkit.worlds.finite import MDP, garnet, lookahead, optimal, values
from labkit.worlds.world import World


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


RULE = (
    "In every Garnet: each sweep's error is at most gamma times the last one's, a policy greedy for values off by e loses at most "
    "2 gamma e / (1 - gamma), and policy iteration is exact after fewer improvements than value iteration takes sweeps to 1e-6. "
    "The value is the mean of sweeps per improvement."
)


def course(method: Tabular, world: World, lanes: Lanes, steps: int) -> tuple[Tensor, Tensor]:
    """Of each of `steps` improvements its q (T, L, S, A), and the most that any state loses under its policy, (T, L)."""
    mdp = exact_model(world, lanes)
    best = optimal(mdp)[1]
    learners = [s.learner for s in islice(method.run(world, lanes), steps)]
    lost = [(best - values(mdp, learner.memory["log_pi"].exp())[1]).amax(-1) for learner in learners]
    return torch.stack([learner.memory["q"] for learner in learners]), torch.stack(lost)


def check(seeds: int = 20, gamma: float = 0.9, sweeper: Tabular = value_iteration, leaper: Tabular = policy_iteration) -> Verdict:
    """The claim on one random MDP per seed, by RULE."""
    world, lanes, steps = garnet(seed=range(seeds), gamma=gamma), Lanes(tuple(range(seeds))), int(30 / (1 - gamma))
    best, v, _ = optimal(exact_model(world, lanes))
    q, lost = course(sweeper, world, lanes, steps)
    q = torch.cat([torch.zeros_like(q[:1]), q])
    error, off = (q - best).abs().amax((2, 3)), (q.amax(-1) - v).abs().amax(-1)
    shrinks = error[1:] <= (gamma + 1e-9) * error[:-1] + 1e-12  # what rounding leaves
    bounded = lost <= 2 * gamma * off[:-1] / (1 - gamma) + 1e-9
    sweeps, leaps = (error > 1e-6).sum(0), 1 + (course(leaper, world, lanes, steps)[1] > 1e-9).sum(0)
    held = bool(shrinks.all() and bounded.all() and (leaps < sweeps).all())
    ratio = sweeps / leaps
    mean, half = ratio.mean().item(), float(student.ppf(0.975, seeds - 1)) * ratio.std().item() / seeds**0.5
    return Verdict(mean, mean - half, mean + half, "held" if held else "not held", RULE)
