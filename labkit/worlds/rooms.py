"""Four rooms as a sequence of tasks: the goal moves and the walls stay, or the doors move and the goal stays."""
from collections.abc import Sequence

import numpy as np
import torch

from labkit.errors import LabError
from labkit.worlds.finite import Table
from labkit.worlds.moving import MovingWorld
from labkit.worlds.performative import WAYS
from labkit.worlds.registry import register

CHANGES = ("reward", "dynamics")


@register("finite.rooms")
def rooms(
    change: str = "reward", tasks: int = 4, period: int = 2500, side: int = 3, seed: int | Sequence[int] = 0, gamma: float = 0.95
) -> MovingWorld:  # fmt: skip
    """Four rooms of side x side cells, one door in each wall: left, right, up, down. The goal pays 1 and leads back to the first corner.

    Each task holds for `period` steps. change: "reward" moves the goal from task to task, "dynamics" the doors. A sequence of seeds
    gives each lane its own tasks; the first task of a seed is the same for both changes.
    """
    if change not in CHANGES:
        raise LabError(f"change is {change!r}; it is one of {', '.join(CHANGES)}.")
    for name, value, least in (("tasks", tasks, 1), ("period", period, 1), ("side", side, 2)):
        if value < least:
            raise LabError(f"{name} is {value}; it must be at least {least}.")
    seeds, size = [seed] if isinstance(seed, int) else list(seed), 2 * side + 1
    drawn = [_task(side, one, task, change) for one in seeds for task in range(tasks)]
    follow, reward = (torch.from_numpy(np.stack(x))[..., None] for x in zip(*drawn, strict=True))
    table = Table(follow, torch.ones_like(reward), reward, torch.zeros_like(follow, dtype=torch.bool))
    schedule = torch.arange(tasks).repeat_interleave(period).expand(len(seeds), -1)
    mu = torch.zeros(1, size**2, dtype=torch.float64)
    mu[0, 0] = 1
    cells = tuple((row, column) for row in range(size) for column in range(size))
    return MovingWorld("finite.rooms", table, schedule, mu, gamma, tasks * period, cells=cells)


def _task(side: int, seed: int, task: int, change: str) -> tuple[np.ndarray, np.ndarray]:
    """Successors (S, A) and rewards (S, A) of a seed's task. What does not change is drawn from the stream of task 0."""
    goals, doors = (np.random.Generator(np.random.Philox([seed, i, task * (change == kind)])) for i, kind in enumerate(CHANGES))
    size = 2 * side + 1
    free = np.ones((size, size), bool)
    free[side], free[:, side] = False, False
    for i in range(4):
        at = int(doors.integers(side)) + (side + 1) * (i % 2)
        free[(side, at) if i < 2 else (at, side)] = True
    far = [r * size + c for r in range(size) for c in range(size) if r != side != c and (r > side or c > side)]
    goal = int(goals.choice(far))
    row, column = np.divmod(np.arange(size**2), size)
    moves = [(np.clip(row + d, 0, size - 1), np.clip(column + r, 0, size - 1)) for d, r in WAYS]
    follow = np.stack([np.where(free[r, c] & free[row, column], r * size + c, row * size + column) for r, c in moves], -1)
    follow[goal] = 0
    reward = np.zeros(follow.shape)
    reward[goal] = 1
    return follow, reward
