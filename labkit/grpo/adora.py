"""adora: groups in which thinking longer does not pay at present count for less.

The rule of the authors' code for language models. Its runs with images judge groups by another, which is not built here.
"""
from collections.abc import Sequence
from dataclasses import replace
from itertools import islice
from types import SimpleNamespace

import torch
from torch import Tensor

from labkit.grpo.checks import EVERY
from labkit.grpo.copo import with_answers
from labkit.grpo.family import Batch, grpo, standardised
from labkit.grpo.outcome import exact
from labkit.lanes import Knob, Lanes
from labkit.paper import Paper
from labkit.stats import by_setting
from labkit.verdict import Verdict, above, below, together
from labkit.worlds.tokens.modes import Modes
from labkit.worlds.tokens.world import EMPTY


def damped(batch: Batch, k: SimpleNamespace) -> Tensor:
    """GRPO's advantages, times lam in groups where length does not pay. (L, P, G, 1)"""
    pays = length_pays(batch)
    batch.info["damped"] = 1 - pays.float().mean(1)
    return standardised(batch, k) * torch.where(pays, 1.0, k.lam)[..., None, None]


def length_pays(batch: Batch) -> Tensor:
    """Is the longest right response longer than the wrong ones on average, (L, P) bool? Wrong ones that were cut off, which fill all the
    room and give no answer, do not count; without any wrong one it is, without a right one it is not."""
    right, length = batch.real & (batch.reward > 0), batch.length.float()
    cut = (batch.extra["answer"] == EMPTY) & (batch.length == batch.token.shape[-1])
    wrong = batch.real & ~right & ~cut
    longest = torch.where(right, length, -torch.inf).amax(-1)
    mean = torch.where(wrong.any(-1), (length * wrong).sum(-1) / wrong.sum(-1).clamp_min(1), -torch.inf)
    return longest > mean


adora = replace(
    grpo,
    verify=with_answers,
    advantage=damped,
    knobs=grpo.knobs | {"lam": Knob(0.1, 0.0, 1.0, "weight of a group in which length does not pay; 1: that of the others")},
    paper=Paper(
        key="adora",
        title="ADORA: Training Reasoning Models with Dynamic Advantage Estimation on Reinforcement Learning",
        year=2026,
        url="https://arxiv.org/abs/2602.10019",
        claim="Damping groups in which length does not pay makes hard problems learnt in steps, and sooner, and easy ones later.",
        lesson="To weigh whole groups by what pays at present is a curriculum, hidden in the advantage.",
        lost="Geometry with images, logic puzzles, and criteria made for one field.",
        base="grpo",
        chapter=20,
    ),
)  # fmt: skip


HARD = 4  # operations from which a problem is called hard


def mixture(hard: float, problems: int = 180) -> Modes:
    """Chains of 4 to 6 operations for a share `hard` of the problems, of 1 to 3 for the others."""
    many = round(hard * problems / 3)
    return Modes(problems=[problems // 3 - many] * 3 + [many] * 3, held=4)


def along(world: Modes, lanes: Lanes, updates: int, where: Tensor) -> list[Tensor]:
    """Exact success and length on the problems `where` (N,) bool, averaged over looks at every tenth update; (settings, seeds) both."""
    run = replace(adora, shape=replace(adora.shape, updates=EVERY)).run(world, lanes)
    looks = [exact(world, snapshot.learner) for snapshot in islice(run, updates // EVERY)]
    return [by_setting(torch.stack([look[name][:, where].mean(1) for look in looks]).mean(0), lanes) for name in ("success", "length")]


def check(seeds: Sequence[int] = range(20), updates: int = 300) -> Verdict:
    """Exact success, averaged over the run, damped minus undamped, which is grpo. Where 80% of the problems are hard: on the hard ones, and
    by how many tokens their responses are longer. Where none is: on all."""
    lanes, hard, easy = Lanes(tuple(seeds), {"lam": (0.1, 1.0)}), mixture(0.8), mixture(0.0)
    success, length = along(hard, lanes, updates, ~hard.held_out & (hard.level >= HARD))
    calm, _ = along(easy, lanes, updates, ~easy.held_out)
    return together(
        above(success[0] - success[1], 0, "success on hard problems, damped minus undamped, 80% hard"),
        above(length[0] - length[1], 0, "length of their responses, damped minus undamped, 80% hard"),
        below(calm[0] - calm[1], 0, "success, damped minus undamped, none hard"),
    )
