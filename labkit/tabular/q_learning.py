"""q_learning: control from single steps (Watkins 1989). The world may change meanwhile; what was learnt of it wears off with the step."""
from collections.abc import Sequence
from dataclasses import replace
from types import SimpleNamespace

import torch
from torch import Tensor

from labkit.lanes import Knob, Lanes
from labkit.learner import Learner
from labkit.paper import Paper
from labkit.tabular.family import Shape, Tabular, policy_iteration
from labkit.tabular.sampling import BLOCK, Step, after, follow, visits, walk
from labkit.verdict import Verdict, above
from labkit.worlds.finite import MDP, garnet


def try_out(algo: Tabular, mdp: MDP, learner: Learner, k: SimpleNamespace) -> Step:
    """A step by the policy, and with chance eps by any action alike."""
    return walk(mdp, learner, lambda log_pi: (1 - k.eps) * log_pi.exp() + k.eps / mdp.actions)


def learn(algo: Tabular, known: Step, learner: Learner, k: SimpleNamespace) -> Tensor:
    """Q(s, a) + alpha / n^omega (r + gamma max Q(s', .) - Q(s, a)), n the visits of (s, a) so far, this one included: (L, S, A).

    alpha alone is a constant step; alpha = 1 with omega = 1 averages all targets alike (Sutton and Barto 2018, eq. 6.8).
    """
    q, own = learner.memory["q"].clone(), learner.memory["q"].take(known.pair)
    ahead = torch.where(known.ended, 0.0, q.flatten(0, 1).index_select(0, known.follows).amax(-1))
    step = k.alpha[:, 0] * (-k.omega[:, 0] * visits(learner, known).log()).exp()
    return q.put_(known.pair, own + step * (known.reward + known.mdp.discount * ahead - own))


q_learning = replace(
    policy_iteration,
    respond=follow,
    explore=try_out,
    evaluate=learn,
    shape=Shape(stride=BLOCK),
    knobs={
        "alpha": Knob(0.1, 0.0, 1.0, "step size at the first visit"),
        "omega": Knob(0.0, 0.0, 1.0, "how fast the step shrinks with visits n: as n^-omega"),
        "eps": Knob(0.1, 0.0, 1.0, "chance of any action alike"),
    },
    paper=Paper(
        key="q_learning",
        title="Learning from Delayed Rewards",
        year=1989,
        url="https://www.cs.rhul.ac.uk/~chrisw/thesis.html",
        claim="In a world that stays as it is, steps that shrink with visits end nearer to Q* than a constant step.",
        lesson="A step size is a statement about how long the world will stay the same.",
        lost="Function approximation and replay.",
        chapter=7,
    ),
)


def check(seeds: Sequence[int] = range(40), steps: int = 20_000) -> Verdict:
    """A random MDP per seed: the largest error of Q after 20,000 steps with a constant step of 0.1, less that with steps of n^-0.7."""
    world = garnet(states=5, seed=seeds, gamma=0.9)

    def error(alpha: float, omega: float) -> Tensor:
        lanes = Lanes(tuple(seeds), {"alpha": (alpha,), "omega": (omega,)})
        return (after(q_learning, world, lanes, steps).memory["q"] - world.mdp.best.q).abs().amax((1, 2))

    return above(error(0.1, 0.0) - error(1.0, 0.7), 0, "largest error of Q with a constant step, less that with a shrinking one")
