"""performative_rl: the world answers each policy deployed, and the next one is trained on that answer (Mandal et al. 2023).

A policy is planned as its flow, d(s, a) = sum_t gamma^t P(s_t = s, a_t = a). Both of the paper's algorithms are one formula here:
d' = the flow of the answered world nearest to d + step (r / lam - d), with their eta = step / lam. A step of 1 is repeated
optimisation, argmax <d, r> - lam/2 |d|^2; less is their gradient ascent.

At a sharpness of 10 the paper's own 8 x 8 grid settles too, at each of its lam above 0, once every round is solved exactly; only at
its largest, 200, does it keep moving. So beta reaches 200 here.
"""
from collections.abc import Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from labkit.errors import LabError
from labkit.lanes import Knob, Lanes
from labkit.learner import Learner
from labkit.nn import product
from labkit.paper import Paper
from labkit.tabular.checks import improvements
from labkit.tabular.family import GAP, Tabular
from labkit.tabular.value_iteration import value_iteration
from labkit.verdict import Verdict, above, below, exactly, together
from labkit.worlds.finite import MDP, lookahead, occupancy
from labkit.worlds.performative import Answering, performative

CLOSED = 1e-10  # how far a flow may miss its balance, relative to what it should be near to
MOST = 200  # Newton steps; a lane that needs more is stopped


def answered(algo: Tabular, world: Any, learner: Learner, k: SimpleNamespace) -> MDP:
    """The world once its follower has answered the policy deployed. LabError for a world that answers nobody."""
    if not isinstance(world, Answering):
        raise LabError(f"{world.key} does not answer the policy deployed in it; take finite.performative.")
    return world.answer(learner.memory["log_pi"].exp(), k.beta.double())


def priced(algo: Tabular, known: MDP, learner: Learner, k: SimpleNamespace) -> Tensor:
    """What a unit of flow is worth, wish(s, a) + gamma sum P h, (L, S, A), at those prices h of states that balance all flows.

    With a step of 1 it is Q / lam of the regularised problem. Keeps h (L, S) in memory; a lane without such prices gets NaN.
    """
    memory = learner.memory
    d = memory["d"] if "d" in memory else flow(known, memory["log_pi"].exp())
    wish = d + k.step[..., None] * (known.r / k.lam[..., None] - d)
    memory["h"], found = prices(known, wish, memory.get("h", torch.zeros_like(d[..., 0])))
    return torch.where(found[:, None, None], lookahead(replace(known, r=wish), memory["h"]), torch.nan)


def share_of_flow(algo: Tabular, known: MDP, q: Tensor, learner: Learner, k: SimpleNamespace) -> Tensor:
    """pi(a|s) = d(s, a) / sum_b d(s, b) of the flow d = max(0, q - h), kept in memory; all actions alike where nothing flows."""
    d = (q - learner.memory["h"][..., None]).relu()
    learner.memory["d"] = d.nan_to_num()
    share = d / d.sum(-1, keepdim=True).clamp_min(torch.finfo(d.dtype).tiny)
    return share.log().clamp_min(-GAP).log_softmax(-1)


def flow(mdp: MDP, pi: Tensor) -> Tensor:
    """d (L, S, A) of a policy (L, S, A); it sums to 1 / (1 - gamma) where nothing ends."""
    return occupancy(mdp, pi)[..., None] * pi / (1 - mdp.discount[:, None, None])


def prices(mdp: MDP, wish: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
    """h (L, S) with which max(0, wish - B h) is the flow nearest to wish (L, S, A), from a first h; and which lanes have it, (L,).

    Semi-smooth Newton steps, halved until they lower the dual enough. A lane rests once its flow is balanced.
    """
    dual, h = Dual(mdp, wish), pad(h, (0, -mdp.states % 8))
    slack = CLOSED * (1 + wish.abs().amax((1, 2)))
    d, slope, height = dual.look(h)
    for _ in range(MOST):
        left = slope.abs().amax(1) > slack
        if not bool(left.any()):
            break
        way, size = dual.newton(d, slope), torch.ones_like(height)
        fall = (way * slope).sum(1)
        while True:
            trial = torch.where(left[:, None], h + size[:, None] * way, h)
            d, slope, now = dual.look(trial)
            short = left & (size > 1e-12) & (now > height + 1e-4 * size * fall + 1e-12 * height.abs())
            if not bool(short.any()):
                break
            size = torch.where(short, size / 2, size)
        h, height = trial, now
    return h[:, : mdp.states], slope.abs().amax(1) <= slack


class Dual:
    """The dual of the nearest flow: min over h of mu h + |max(0, wish - B h)|^2 / 2. Its slope is what the flow in it misses.

    B (L, S A, S) holds 1[s = s'] - gamma P(s, a, s'). S is padded to whole cache lines: so every lane rounds alike.
    """

    def __init__(self, mdp: MDP, wish: Tensor) -> None:
        more = -mdp.states % 8
        self.same = torch.eye(mdp.states + more, dtype=torch.float64, device=wish.device)
        B = self.same[:, None] - mdp.discount[:, None, None, None] * pad(mdp.P, (0, more, 0, 0, 0, more))
        self.B = B.flatten(1, 2).expand(len(wish), -1, -1)
        self.mu, self.wish = pad(mdp.mu, (0, more)).expand(len(wish), -1), pad(wish, (0, 0, 0, more)).flatten(1)

    def look(self, h: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """At h (L, S): the flow (L, S A), the slope mu - B' flow (L, S), and the height (L,)."""
        d = (self.wish - product(self.B, h[..., None])[..., 0]).relu()
        return d, self.mu - product(self.B.mT, d[..., None])[..., 0], (self.mu * h).sum(1) + d.square().sum(1) / 2

    def newton(self, d: Tensor, slope: Tensor) -> Tensor:
        """The step to the bottom of the parabola at hand, (L, S): the dual is made of parabolas that meet where a flow begins."""
        bend = product((self.B * (d > 0)[..., None]).mT, self.B) + 1e-10 * self.same
        return -torch.linalg.solve(bend, slope[..., None])[..., 0]


performative_rl = replace(
    value_iteration,
    respond=answered,
    evaluate=priced,
    improve=share_of_flow,
    knobs={
        "lam": Knob(0.5, 0.02, 10.0, "weight of |d|^2 / 2: how even the flow is kept"),
        "beta": Knob(10.0, 0.0, 200.0, "sharpness of the follower's answer; at 0 it answers alike to everything"),
        "step": Knob(1.0, 0.05, 1.0, "share of the way: 1 optimises anew in each round, less is a gradient step"),
    },
    paper=Paper(
        key="performative_rl",
        title="Performative Reinforcement Learning",
        year=2023,
        url="https://arxiv.org/abs/2207.00046",
        claim="A soft response settles at every lam; a sharp one keeps moving where lam is small and settles where it is larger.",
        lesson="If the world answers your policy, improvement needs damping to arrive anywhere.",
        lost="Finite samples with their saddle-point solver, and a grid of 8 x 8 cells; states are 25, and both worlds are known exactly.",
        base="value_iteration",
        chapter=7,
    ),
)


def changes(learners: Sequence[Learner]) -> Tensor:
    """|d' - d| / |d| from each learner to the next, (T - 1, L): 0 at a stable point."""
    d = torch.stack([learner.memory["d"].flatten(1) for learner in learners])
    return d.diff(dim=0).norm(dim=-1) / d[:-1].norm(dim=-1)


def check(seeds: Sequence[int] = range(20), rounds: int = 25, soft: float = 2.0, sharp: float = 10.0) -> Verdict:
    """A grid per seed: how far the flow still moves in the last round, with a soft answer at four lam and a sharp one at two.

    The bounds were written for medians; interquartile means stand in their place. These grids were explored before; the rule was not
    changed.
    """
    lams = (0.02, 0.1, 0.5, 2.0)
    lanes = Lanes(tuple(seeds), {"beta": (soft, sharp), "lam": lams})
    world = performative(seed=[*seeds] * len(lanes.points))
    calm, keen = changes(improvements(performative_rl, world, lanes, rounds))[-1].view(2, len(lams), len(seeds))
    return together(
        exactly(bool((calm < 1e-3).all()), calm.max().item(), f"with beta {soft:g} every flow moves by less than 0.001 in round {rounds}"),
        above(keen[0], 0.05, f"change in round {rounds} with beta {sharp:g} and lam {lams[0]:g}"),
        below(keen[2], 0.005, f"change in round {rounds} with beta {sharp:g} and lam {lams[2]:g}"),
    )
