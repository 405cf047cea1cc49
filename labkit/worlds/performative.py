"""A world that answers the policy deployed in it: a hazard grid with a follower who may overrule each move."""
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from labkit.errors import LabError
from labkit.worlds.finite import MDP, FiniteWorld, Table, optimal
from labkit.worlds.registry import register

WAYS = ((0, -1), (0, 1), (-1, 0), (1, 0))  # left, right, up, down, as (row, column) steps
PLAIN, FLAW, HAZARD, GOAL = -0.01, -0.02, -0.5, 1.0  # what entering a cell pays
HAZARDS, FLAWS = 11 / 48, 7 / 48  # shares of the inner cells, as on the authors' grid


class Answering(FiniteWorld):
    """A finite world, and how it stands once its follower has answered a policy.

    `mdp` is the world while nobody answers. views (K, V, S, A): what the follower thinks each move pays, in V versions;
    cost: what overruling costs the follower, in units of reward.
    """

    def __init__(self, key: str, table: Table, views: Tensor, cost: float, mu: Tensor, gamma: float, horizon: int, **names: Any) -> None:
        super().__init__(key, table, mu, gamma, horizon, **names)
        self.views, self.cost = views, cost

    def answer(self, pi: Tensor, beta: Tensor) -> MDP:
        """The MDP of whoever plays pi (L, S, A) next; the follower's sharpness beta (L, 1).

        In each state the follower lets the move be, or makes one of its own: P'(s, a) = w(0|s) P(s, a) + sum_b w(b|s) P(s, b), and
        rewards likewise (Mandal et al. 2023, section 5).
        """
        own, base = self.overruling(pi, beta), self.mdp
        let, made = own[..., -1:], own[..., :-1]
        P = let[..., None] * base.P + (made[..., None] * base.P).sum(2, keepdim=True)
        r = let * base.r + (made * base.r).sum(2, keepdim=True)
        return MDP(P, r, base.mu, base.gamma, base.labels, base.cells)

    def overruling(self, pi: Tensor, beta: Tensor) -> Tensor:
        """w (L, S, A + 1): the follower's softmax of beta times its values, averaged over views; the last is letting the move be."""
        return (beta[..., None] * self.follower_values(pi)).softmax(-1)

    def follower_values(self, pi: Tensor) -> Tensor:
        """Q (L, S, A + 1) of best responses to pi (L, S, A), the mean over the follower's views. The last action lets the move be."""
        views = self.views.expand(len(pi), -1, -1, -1)
        L, V, S, A = views.shape
        let = (pi[:, None] * views).sum(-1, keepdim=True)
        r = torch.cat([views - self.cost, let], -1).flatten(0, 1)
        base = self.mdp.P.expand(L, -1, -1, -1)
        P = torch.cat([base, (pi[..., None] * base).sum(2, keepdim=True)], 2)
        seen = MDP(P.repeat_interleave(V, 0), r, self.mdp.mu[:1], self.mdp.gamma)
        return optimal(seen)[0].view(L, V, S, A + 1).mean(1)


@register("finite.performative")
def performative(
    size: int = 5, views: int = 5, doubt: float = 0.3, cost: float = 0.05, seed: int | Sequence[int] = 0, gamma: float = 0.9,
    horizon: int = 50,
) -> Answering:  # fmt: skip
    """A grid of size x size cells: left, right, up, down from the first row or column to the goal in the last corner, which pays 1.

    Entering a cell costs 0.01, a flaw 0.02, a hazard 0.5; a sequence of seeds gives each lane a grid of its own. The follower
    sees `views` grids, in each of which every inner cell was redrawn with chance `doubt`; overruling costs it `cost`. After
    Mandal et al. (2023, section 5) and their code, whose one grid has 8 x 8 cells.
    """
    for name, value, least in (("size", size, 3), ("views", views, 1)):
        if value < least:
            raise LabError(f"{name} is {value}; it must be at least {least}.")
    if not 0 <= doubt <= 1:
        raise LabError(f"doubt is {doubt}; a chance lies in [0, 1].")
    drawn = [_grids(size, views, doubt, one) for one in ([seed] if isinstance(seed, int) else seed)]
    grids, seen = (torch.from_numpy(np.stack(parts)) for parts in zip(*drawn, strict=True))
    row, column = (torch.from_numpy(x) for x in np.divmod(np.arange(size**2), size))
    goal = torch.arange(size**2)[:, None] == size**2 - 1  # nothing more is paid there
    moves = [(row + down).clamp(0, size - 1) * size + (column + right).clamp(0, size - 1) for down, right in WAYS]
    follow = torch.where(goal, size**2 - 1, torch.stack(moves, -1))
    pays = [torch.where(goal, 0.0, cells[..., follow]) for cells in (grids, seen)]
    ends = follow == size**2 - 1
    table = Table(*(x.expand(len(drawn), -1, -1)[..., None] for x in (follow, torch.ones_like(pays[0]), pays[0], ends)))
    starts = ((row == 0) | (column == 0)).double()
    cells = tuple(zip(row.tolist(), column.tolist(), strict=True))
    named = {GOAL: "G", HAZARD: "X"} if len(drawn) == 1 else {GOAL: "G"}  # hazards lie elsewhere on every other grid
    labels = tuple(named.get(pay, ".") for pay in grids[0].tolist())
    return Answering("finite.performative", table, pays[1], cost, (starts / starts.sum())[None], gamma, horizon, labels=labels, cells=cells)


def _grids(size: int, views: int, doubt: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """What entering each cell pays, (S,), and what the follower thinks of it, (views, S), from the seed's own stream."""
    rng = np.random.Generator(np.random.Philox(seed))
    inner = (np.arange(size**2).reshape(size, size)[1:, 1:]).ravel()[:-1]
    hazards, flaws = round(HAZARDS * len(inner)), round(FLAWS * len(inner))
    grid = np.full(size**2, PLAIN)
    grid[-1] = GOAL
    grid[rng.permutation(inner)[: hazards + flaws]] = [HAZARD] * hazards + [FLAW] * flaws
    redrawn = rng.choice([HAZARD, FLAW, PLAIN], (views, len(inner)))
    seen = np.repeat(grid[None], views, 0)
    seen[:, inner] = np.where(rng.random(redrawn.shape) < doubt, redrawn, grid[inner])
    return grid, seen
