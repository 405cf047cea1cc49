"""The claims of the family's bases, put to the test. A paper's own check stands in its file."""
from collections.abc import Sequence
from dataclasses import replace
from itertools import islice
from types import SimpleNamespace

import torch
from torch import Tensor

from labkit.bandits.family import BanditAlgorithm, ucb
from labkit.lanes import Lanes
from labkit.learner import Learner
from labkit.snapshot import Snapshot
from labkit.verdict import Verdict, above, below, exactly, together
from labkit.worlds.bandit import Arms, Bandit

EPS = 0.1  # how often epsilon-greedy plays an arm at random


def play(algo: BanditAlgorithm, world: Bandit, lanes: Lanes, rounds: int, times: int = 1) -> list[Snapshot]:
    """The snapshots after each of `times` equal parts of so many rounds."""
    sized = replace(algo, shape=replace(algo.shape, rounds=rounds // times))
    return list(islice(sized.run(world, lanes), times))


def epsilon_greedy(algo: BanditAlgorithm, world: Bandit, learner: Learner, obs: Tensor, k: SimpleNamespace) -> tuple[Tensor, Tensor]:
    """The arm that ucb is compared with: the best mean, but any arm one time in ten."""
    u, best = learner.rand(obs.shape[1], 2), learner.memory["belief"].argmax(-1)
    action = torch.where(u[..., 0] < EPS, (u[..., 1] * world.arms).long(), best)
    return action, EPS / world.arms + (1 - EPS) * (action == best)


def check_ucb(seeds: Sequence[int] = range(200), rounds: int = 5000) -> Verdict:
    """Ten arms, one better by 0.3: exact regret of epsilon-greedy minus ucb's, how ucb's grows when rounds double, and how often
    greed (c = 0) ends on a wrong arm."""
    world, lanes = Arms(), Lanes(tuple(seeds), {"c": (0.0, 0.5)})
    half, full = play(ucb, world, lanes, rounds, 2)
    regret = [s.metrics["regret"].view(2, -1) for s in (half, full)]
    random = play(replace(ucb, choose=epsilon_greedy, knobs={}), world, Lanes(tuple(seeds)), rounds)[0].metrics["regret"]
    wrong = full.learner.nets["pi"].theta.argmax(1) != full.learner.memory["world"]["mean"][:, 0].argmax(1)
    share = wrong.view(2, -1)[0].double().mean().item()
    return together(
        above(random - regret[1][1], 0, f"regret of epsilon-greedy {EPS:g} minus that of ucb, c = 0.5, after {rounds} rounds"),
        below(regret[1][1] / regret[0][1], 1.5, f"regret of ucb after {rounds} rounds over that after {rounds // 2}"),
        exactly(share > 0.1, share, "share of seeds in which greed ends on a wrong arm is above 0.1"),
    )
