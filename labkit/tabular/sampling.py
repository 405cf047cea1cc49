"""What tabular methods share that learn from their own steps: an agent that walks through the world, lane by lane, without end."""
from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice
from types import SimpleNamespace

import torch
from torch import Tensor

from labkit.lanes import Lanes
from labkit.learner import Learner
from labkit.tabular.family import Tabular
from labkit.worlds.finite import MDP, FiniteWorld

NOISE = 4  # uniform numbers of a step: which action, where it leads, where an episode begins anew, how the world changes
BLOCK = 100  # steps whose numbers are drawn at once


@dataclass(frozen=True)
class Step:
    """A step of every lane in `mdp`, each (L,): what was paid, and whether it ended the episode.

    pair, follows: where it was and where it came to, as rows of tables over all lanes: (lane * S + s) * A + a of the state and
    action, lane * S + s of the next state, which is a first one where the episode ended.
    """

    mdp: MDP
    pair: Tensor
    reward: Tensor
    follows: Tensor
    ended: Tensor


def follow(algo: Tabular, world: FiniteWorld, learner: Learner, k: SimpleNamespace) -> MDP:
    """The world goes its own way, by its own clock."""
    return world.at(clock(learner))


def clock(learner: Learner) -> Tensor:
    """The world's time in each lane, (L,) int64."""
    if "clock" not in learner.memory:
        learner.memory["clock"] = torch.zeros_like(learner.on[:, 0], dtype=torch.int64)
    return learner.memory["clock"]


def noise(learner: Learner) -> tuple[Tensor, ...]:
    """The NOISE uniform numbers of this step, (L, 1) each. They are drawn for a block of steps at once."""
    if "noise" not in learner.memory:
        learner.memory["noise"] = learner.rand(BLOCK, NOISE, 1)
    return learner.memory["noise"][:, learner.step % BLOCK].unbind(1)


def drawn(chances: Tensor, u: Tensor) -> Tensor:
    """A number below n in each lane, (L,), with chances (L | 1, n), by uniform numbers u (L, 1)."""
    return (u >= chances[:, :-1].cumsum(-1)).sum(-1)


def walk(mdp: MDP, learner: Learner, chances: Callable[[Tensor], Tensor]) -> Step:
    """One step in every lane -> what was seen of it. chances: from log_pi where the lanes are, (L, A), to those of the actions.

    Where an episode ends, the next one begins. learner.memory keeps the state "s" (L,) and the clock. Totals: "reward", and
    "regret" to the best gain of the world as it stands; both from mean rewards, never from luck.
    """
    memory, (choose, move, begin, _) = learner.memory, noise(learner)
    s = memory["s"] if "s" in memory else drawn(mdp.mu, begin)
    lane = torch.arange(0, len(s) * mdp.states, mdp.states, device=s.device)
    here = lane + s
    a = drawn(chances(memory["log_pi"].flatten(0, 1).index_select(0, here)), choose)
    pair = here * mdp.actions + a
    after, reward = (move >= _at(mdp.below, pair)).sum(-1), _at(mdp.r[..., None], pair)[:, 0]
    ended = after == mdp.states
    memory["s"] = torch.where(ended, drawn(mdp.mu, begin), after) if mdp.ends else after
    memory["clock"] = clock(learner) + 1
    if learner.step % BLOCK == BLOCK - 1:
        del memory["noise"]
    count(learner, reward=reward, regret=mdp.best_gain - reward)
    return Step(mdp, pair, reward, lane + memory["s"], ended)


def _at(table: Tensor, pair: Tensor) -> Tensor:
    """The rows of a table (K, S, A, n) of all lanes or of each, (L, n), for pairs (L,)."""
    rows = table.flatten(0, 2)
    return rows.index_select(0, pair if len(table) > 1 else pair % len(rows))


def count(learner: Learner, **more: Tensor) -> None:
    """Add to the totals that snapshots show, each (L,)."""
    totals = learner.memory.setdefault("totals", {})
    for name, x in more.items():
        totals[name] = totals.get(name, 0) + x


def visits(learner: Learner, step: Step) -> Tensor:
    """How often each lane has taken this action in this state, (L,), this time included; learner.memory keeps "n" (L, S, A)."""
    if "n" not in learner.memory:
        learner.memory["n"] = torch.zeros_like(learner.memory["q"])
    n = learner.memory["n"].take(step.pair) + 1
    learner.memory["n"].put_(step.pair, n)
    return n


def after(method: Tabular, world: FiniteWorld, lanes: Lanes, steps: int, start: Learner | None = None) -> Learner:
    """The learner after so many more steps, a multiple of the method's stride."""
    return next(islice(method.run(world, lanes, start), steps // method.shape.stride - 1, None)).learner
