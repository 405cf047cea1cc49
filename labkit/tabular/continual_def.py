"""continual_def: is the best agent one that never stops searching? (Abel et al. 2023). A world that is redrawn with chance p, and a
count of how often the agent's greedy choices move: our finite stand-in for "does it settle on one behaviour of its basis".

The two agents are settings: a constant step goes on searching, a step that shrinks with visits comes to rest.
"""
from collections.abc import Sequence
from dataclasses import replace
from types import SimpleNamespace

import torch
from torch import Tensor

from labkit.lanes import Knob, Lanes
from labkit.learner import Learner
from labkit.paper import Paper
from labkit.tabular.family import Tabular, greedy
from labkit.tabular.q_learning import q_learning
from labkit.tabular.sampling import Step, after, count, noise
from labkit.verdict import Verdict, above, below, together
from labkit.worlds.finite import MDP, FiniteWorld
from labkit.worlds.moving import switching


def redraw(algo: Tabular, world: FiniteWorld, learner: Learner, k: SimpleNamespace) -> MDP:
    """Before a step the world changes, with chance p, to another of its modes; agents of one seed see the same changes.

    learner.memory keeps the mode (L,). A world of one mode stays as it is.
    """
    u, was = noise(learner)[-1], learner.memory.get("mode", torch.zeros_like(learner.on[:, 0], dtype=torch.int64))
    jump = 1 + (u / k.p.clamp_min(1e-9) * (world.modes - 1)).long()  # below p, u / p is uniform again
    learner.memory["mode"] = torch.where(u < k.p, jump, 0)[:, 0].add(was) % world.modes
    return world.in_mode(learner.memory["mode"])


def watched(algo: Tabular, known: Step, q: Tensor, learner: Learner, k: SimpleNamespace) -> Tensor:
    """The greedy policy. Total: "moves", the steps at which a greedy choice changed."""
    log_pi = greedy(algo, known, q, learner, k)
    count(learner, moves=(log_pi != learner.memory["log_pi"]).any(-1).any(-1).double())
    return log_pi


continual_def = replace(
    q_learning,
    respond=redraw,
    improve=watched,
    knobs=q_learning.knobs | {"p": Knob(0.001, 0.0, 0.01, "chance of another world before each step")},
    paper=Paper(
        key="continual_def",
        title="A Definition of Continual Reinforcement Learning",
        year=2023,
        url="https://arxiv.org/abs/2307.11046",
        claim="Where the world is redrawn now and then the agent that never settles earns more; where it is not, the one that does.",
        lesson="Continual is not a property of the agent's code but of what the best agents must do.",
        lost="The calculus of agents and histories, and its theorems.",
        base="q_learning",
        chapter=7,
    ),
)


def check(seeds: Sequence[int] = range(40), steps: int = 20_000) -> Verdict:
    """Ten random MDPs per seed. A constant step of 0.2 and steps of n^-0.7, in a world that stays and in one redrawn once in 1000
    steps: mean reward over their lives, and moves of the greedy choices in the last quarter."""
    world, ps = switching(rate=0.0, seed=[*seeds] * 2), (0.0, 0.001)

    def live(alpha: float, omega: float) -> tuple[Tensor, Tensor]:
        lanes = Lanes(tuple(seeds), {"alpha": (alpha,), "omega": (omega,), "p": ps})
        late = after(continual_def, world, lanes, steps * 3 // 4)
        last = after(continual_def, world, lanes, steps // 4, late).memory["totals"]
        parts = last["reward"] / steps, last["moves"] - late.memory["totals"]["moves"]
        return tuple(x.view(len(ps), -1) for x in parts)

    (earned, moved), (settled, rested) = live(0.2, 0.0), live(1.0, 0.7)
    return together(
        above(earned[1] - settled[1], 0, "mean reward of the constant step less that of the shrinking one where the world is redrawn"),
        below(earned[0] - settled[0], 0.01, "the same where the world stays"),
        below(rested[0] / moved[0].clamp_min(1), 0.05, "there, late moves of the shrinking step as a share of the constant one's"),
    )
