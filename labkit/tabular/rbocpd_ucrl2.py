"""rbocpd_ucrl2: a change detector watches every pair's next states; where one restarts, ucrl2 forgets that pair (Alami et al. 2023).

The paper's abstract leaves open what is forgotten: here the counts of the pair whose detector restarted, and nothing else. Its
rewards may drift unnoticed.
"""
from collections.abc import Sequence
from dataclasses import replace
from itertools import islice
from types import SimpleNamespace

import torch
from scipy.stats import rankdata
from torch import Tensor

from labkit.lanes import Knob, Lanes
from labkit.learner import Learner
from labkit.paper import Paper
from labkit.tabular import changepoint
from labkit.tabular.family import Shape, Tabular
from labkit.tabular.sampling import Step, count
from labkit.tabular.ucrl2 import ucrl2
from labkit.verdict import Verdict, above, below, exactly, together
from labkit.worlds.moving import reversing


def restart(algo: Tabular, known: Step, learner: Learner, k: SimpleNamespace) -> None:
    """Show each lane's step to the detector of its pair; where that restarts, forget the pair. Total: "restarts"."""
    memory, (L, S, A) = learner.memory, learner.memory["q"].shape
    if "watch" not in memory:
        memory["watch"] = changepoint.fresh((L, S, A), S, device=known.pair.device)
    caught = changepoint.observe(memory["watch"], known.follows % S, k.h[:, 0].double(), known.pair)
    count(learner, restarts=caught.double())
    if bool(caught.any()):
        forget(learner, known.pair[caught])


def forget(learner: Learner, pairs: Tensor) -> None:
    """Whatever ucrl2 has counted of these pairs (n,), numbered over all lanes. Its next episode begins at once."""
    for name in {"n", "before", "paid"} & learner.memory.keys():
        learner.memory[name].put_(pairs, torch.zeros_like(pairs, dtype=torch.float64))
    if "led" in learner.memory:
        learner.memory["led"].flatten(0, 2).index_fill_(0, pairs, 0.0)


rbocpd_ucrl2 = replace(
    ucrl2,
    detect=restart,
    knobs=ucrl2.knobs | {"h": Knob(0.001, 0.0, 0.05, "how likely a change is at each visit, before anything was seen; 0 is never")},
    paper=Paper(
        key="rbocpd_ucrl2",
        title="Restarted Bayesian Online Change-point Detection for Non-Stationary Markov Decision Processes",
        year=2023,
        url="https://proceedings.mlr.press/v232/alami23a.html",
        claim="Restarts cut regret after changes, hardly ever come without one, and come sooner the larger the change.",
        lesson="Forget on evidence, not on schedule.",
        lost="The constants of the theory, larger state spaces, and changes of reward.",
        base="ucrl2",
        chapter=7,
    ),
)

SHIFTS = (0.0, 0.25, 0.5, 0.75, 1.0)


def check(seeds: Sequence[int] = range(1000, 1020), steps: int = 20_000) -> Verdict:
    """A river that turns round three times, five sizes of the turn; and the full turn without hazard, which is ucrl2. The full turn:
    regret of ucrl2 less that with restarts. No turn: in how many lanes there is a restart. The others: rank correlation of the size
    with the steps from the first turn to the next restart, or to the second turn where there is none; it is 0 where all take
    equally long.

    Seeds from 1000 up: on 0 to 19, looked at every 100 steps, all delays of some seeds were tied, and sizes and looks were chosen then.
    """
    shifts, hs = (1.0, *SHIFTS), (0.0, *[rbocpd_ucrl2.knobs["h"].default] * len(SHIFTS))
    world = reversing(seed=[*seeds] * len(hs), shift=[x for x in shifts for _ in seeds], life=steps)
    often, lanes = replace(rbocpd_ucrl2, shape=Shape(stride=20)), Lanes(tuple(seeds), {"h": hs})
    curves = [s.metrics for s in islice(often.run(world, lanes), steps // 20)]
    restarts, regret = (torch.stack([m[name] for m in curves]) for name in ("restarts", "regret"))
    plain, *_, restarted = regret[-1].view(len(hs), -1)
    false = (restarts[-1].view(len(hs), -1)[1] > 0).double().mean().item()
    delays = delay(restarts, world.schedule, 20).view(len(hs), -1)[2:]
    return together(
        above(plain - restarted, 0, "regret of ucrl2 less that with restarts"),
        exactly(false < 0.05, false, "share of lanes with a restart where nothing changes is below 0.05"),
        below(rank_correlation(torch.tensor(SHIFTS[1:]), delays), 0, "rank correlation of delay with the size of the turn"),
    )


def delay(restarts: Tensor, schedule: Tensor, stride: int) -> Tensor:
    """Steps from the first turn of schedule (L, T) to the next restart, or to the second turn, (L,); restarts (N, L) so far, one
    row every `stride` steps."""
    turn = [(row.diff() != 0).nonzero()[:2, 0] + 1 for row in schedule]
    first, second = torch.stack(turn).T
    end = stride * torch.arange(1, len(restarts) + 1)[:, None]
    more = restarts > restarts.gather(0, (first // stride - 1).clamp_min(0)[None])
    caught = torch.where(more & (end > first), end, second).amin(0)
    return torch.minimum(caught, second) - first


def rank_correlation(x: Tensor, y: Tensor) -> Tensor:
    """Spearman's, of x (n,) with each column of y (n, S): (S,); 0 where a column is constant."""
    a, b = (torch.from_numpy(rankdata(z, axis=0)) for z in (x[:, None].expand_as(y).numpy(), y.numpy()))
    a, b = a - a.mean(0), b - b.mean(0)
    return ((a * b).sum(0) / (a.square().sum(0) * b.square().sum(0)).sqrt()).nan_to_num(0.0)
