"""value_iteration: one backup of the optimality equation in place of a whole evaluation (Bellman 1957)."""
from dataclasses import replace
from types import SimpleNamespace

from torch import Tensor

from labkit.lanes import Knob
from labkit.learner import Learner
from labkit.paper import Paper
from labkit.tabular.family import Tabular, policy_iteration, softened
from labkit.worlds.finite import MDP
from labkit.worlds.finite import _q as lookahead


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
