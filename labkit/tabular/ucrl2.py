"""ucrl2: plan for the best world that the data still allow (Jaksch, Ortner and Auer 2010, figure 1), for the average reward."""
from collections.abc import Sequence
from dataclasses import replace
from types import SimpleNamespace

import torch
from torch import Tensor

from labkit.lanes import Knob, Lanes
from labkit.learner import Learner
from labkit.paper import Paper
from labkit.tabular.family import Tabular
from labkit.tabular.q_learning import q_learning
from labkit.tabular.sampling import Step, after, visits, walk
from labkit.verdict import Verdict, above
from labkit.worlds.finite import MDP, riverswim

ROUNDS = 1000  # of extended value iteration at most; without doubt (c = 0) a model may have periods, and never settle


def act(algo: Tabular, mdp: MDP, learner: Learner, k: SimpleNamespace) -> Step:
    """A step by the policy."""
    return walk(mdp, learner, Tensor.exp)


def plan(algo: Tabular, known: Step, learner: Learner, k: SimpleNamespace) -> Tensor:
    """Optimistic action values, (L, S, A): in lanes that begin an episode planned anew, elsewhere those of the last plan.

    An episode ends as soon as a pair's visits in it reach those before it. learner.memory keeps the visits "n" and "before",
    what was paid in all, "paid" (L, S, A), and where it led, "led" (L, S, A, S).
    """
    memory, q = learner.memory, learner.memory["q"]
    for name, like in (("before", q), ("paid", q), ("led", q[..., None].expand(*q.shape, q.shape[1]))):
        memory.setdefault(name, torch.zeros_like(like).contiguous())
    n, old = visits(learner, known), memory["before"].take(known.pair)
    memory["paid"].put_(known.pair, known.reward, accumulate=True)
    memory["led"].put_(known.pair * q.shape[1] + known.follows % q.shape[1], torch.ones_like(n), accumulate=True)
    rows = (n - old >= old.clamp_min(1)).nonzero()[:, 0]
    if not len(rows):
        return q
    memory["before"] = memory["before"].index_copy(0, rows, memory["n"][rows])
    return q.index_copy(0, rows, optimistic_values(*believed(known, learner, k, rows), learner.step + 1))


def believed(known: Step, learner: Learner, k: SimpleNamespace, rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Of lanes `rows`: the highest plausible rewards (L', S, A), the chances seen (L', S, A, S), and by how much they may be off.

    c sqrt(3.5 log(2 S A t / delta) / n) for rewards, times their range, which the paper has as [0, 1]; in total
    c sqrt(14 S log(2 A t / delta) / n) for chances (their eqs. 3 and 4, with c = 1).
    """
    memory, (_, S, A) = learner.memory, learner.memory["q"].shape
    n, c, delta = memory["n"][rows], k.c[rows, :, None], k.delta[rows, :, None].double()
    seen, t = n.clamp_min(1), learner.step + 1
    range_ = (known.mdp.r.amax((1, 2)) - known.mdp.r.amin((1, 2))).expand(len(learner.on))[rows, None, None]
    paid = memory["paid"][rows] / seen + c * range_ * (3.5 * (2 * S * A * t / delta).log() / seen).sqrt()
    chances = torch.where(n[..., None] > 0, memory["led"][rows] / seen[..., None], 1 / S)
    return paid, chances, c * (14 * S * (2 * A * t / delta).log() / seen).sqrt()


def best_mean(chances: Tensor, off: Tensor, u: Tensor) -> Tensor:
    """The largest mean of u (L, S) under any distribution within `off` (L, S, A) of chances (L, S, A, S) in L1: (L, S, A).

    off / 2 goes to the best state and is taken from the worst ones: running sums from the best state down, cut at 1.
    """
    order = u.sort(dim=-1, descending=True, stable=True)
    at = order.indices[:, None, None].expand_as(chances)
    sums = (chances.gather(-1, at).cumsum(-1) + off[..., None] / 2).clamp_max(1)
    steps = order.values[:, None, None, :-1] - order.values[:, None, None, 1:]
    return (sums[..., :-1] * steps).sum(-1) + order.values[:, None, None, -1]


def optimistic_values(paid: Tensor, chances: Tensor, off: Tensor, t: int) -> Tensor:
    """Extended value iteration (their figure 2): values (L, S, A) of the best of all plausible worlds, up to a constant a lane.

    It stops where all states gain alike in a sweep, to within 1 / sqrt(t).
    """
    q, u = paid, torch.zeros_like(paid[..., 0])
    on = torch.ones_like(u[:, :1], dtype=torch.bool)
    for _ in range(ROUNDS):
        q = torch.where(on[..., None], paid + best_mean(chances, off, u), q)
        gained = q.amax(-1) - u
        on = gained.amax(-1, keepdim=True) - gained.amin(-1, keepdim=True) >= t**-0.5
        if not bool(on.any()):
            break
        u = torch.where(on, q.amax(-1) - q.amax(-1).amin(-1, keepdim=True), u)
    return q


ucrl2 = replace(
    q_learning,
    explore=act,
    evaluate=plan,
    knobs={
        "c": Knob(0.2, 0.0, 1.0, "width of the doubt, as a share of what the theory asks for"),
        "delta": Knob(0.05, 0.01, 0.5, "chance that the truth lies outside, at c = 1"),
    },
    paper=Paper(
        key="ucrl2",
        title="Near-optimal Regret Bounds for Reinforcement Learning",
        year=2010,
        url="https://www.jmlr.org/papers/v11/jaksch10a.html",
        claim="In RiverSwim optimism reaches the far bank in steps that leave epsilon-greedy Q-learning on the near one.",
        lesson="Believe the best world that the data still allow, and you will go and check it.",
        lost="The constants of the theory, which are too wide at this size, and worlds too large to count.",
        base="q_learning",
        chapter=7,
    ),
)


def check(seeds: Sequence[int] = range(20), steps: int = 20_000) -> Verdict:
    """RiverSwim with six places: regret to the best gain after 20,000 steps, of Q-learning (eps 0.1) less that of ucrl2 (c 0.2)."""
    world, lanes = riverswim(), Lanes(tuple(seeds))
    greedy, bold = (after(method, world, lanes, steps).memory["totals"]["regret"] for method in (q_learning, ucrl2))
    return above(greedy - bold, 0, f"regret of q_learning less that of ucrl2 after {steps} steps")
