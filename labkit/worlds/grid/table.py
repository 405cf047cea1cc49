"""A fixed layout as a table: every state that can be reached, what follows, and exact returns under the step limit."""
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from labkit.errors import LabError
from labkit.lanes import Lanes
from labkit.worlds.finite import MDP, Table
from labkit.worlds.grid import kinds as k
from labkit.worlds.world import State

if TYPE_CHECKING:
    from labkit.worlds.grid.world import GridWorld

LIMIT = 100_000  # states that one table may have


@dataclass(frozen=True)
class StateTable:
    """S states and A = 7 actions of one fixed layout; time is left out of the state.

    next (S, A) int64; where `done` (S, A) bool the episode ends and `next` is the state itself. reward (S, A) is 1 where
    the episode ends in success: MiniGrid pays 1 - 0.9 * t / horizon for success in step t. mu (S,) float64: where episodes
    start. obs (S, obs_size): what the world's view shows. place (S, 3): x, y, direction. states: tensors (1, S, ...).
    """

    next: Tensor
    reward: Tensor
    done: Tensor
    mu: Tensor
    obs: Tensor
    place: Tensor
    states: State
    horizon: int

    def mdp(self, gamma: float | Tensor) -> MDP:
        """The discounted MDP in which success pays 1 at any time; `cells` are (row, column) of every state."""
        table = Table(*(x[None, ..., None] for x in (self.next, torch.ones_like(self.reward), self.reward, self.done)))
        return table.mdp(self.mu[None], gamma, cells=tuple((y, x) for x, y, _ in self.place.tolist()))


@dataclass(frozen=True)
class Namer:
    """Gives every state of a fixed layout, plan (1, cells), its own number below 2^62.

    The low 16 bits are cell * 4 + direction; the others are a random weighted sum of what differs from the plan, so
    that they are 0 until a thing or a door has moved. What is carried is missing from the grid: it needs no number.
    """

    plan: Tensor
    weight: Tensor = field(init=False)

    def __post_init__(self) -> None:
        halves = Lanes((0,), device=str(self.plan.device)).rand(1, 2, self.plan.shape[1])[0].double()
        object.__setattr__(self, "weight", (halves[0] * 2**24 * 2**22 + halves[1] * 2**22).long())

    def __call__(self, state: State) -> Tensor:
        moved = ((state["grid"].long() - self.plan[0].long()) * self.weight).sum(-1) & (1 << 46) - 1
        return (moved << 16) + state["pos"] * 4 + state["dir"]


def _fan(world: "GridWorld", states: State) -> tuple[State, Tensor, Tensor]:
    """All 7 actions in all states (1, S, ...): next states (7, S, ...), success and end, both (7, S)."""
    wide = {name: v.expand(k.ACTIONS, *v.shape[1:]) for name, v in states.items()}
    action = torch.arange(k.ACTIONS, device=wide["pos"].device)[:, None].expand(wide["pos"].shape)
    after, reward, terminated, _ = world.step(wide, action, torch.empty(*action.shape, 0, device=action.device))
    return after | {"time": torch.zeros_like(after["time"])}, reward > 0, terminated


def _starts(world: "GridWorld") -> State:
    plan = world.fixed_plan()
    first = world.starts(plan)
    zero = torch.zeros_like(first)
    rows = {"grid": plan.expand(len(first), -1), "pos": first // 4, "dir": first % 4, "load": zero + k.EMPTY, "time": zero}
    return {name: v[None] for name, v in rows.items()}


def reach(world: "GridWorld", name: Namer) -> State:
    """Breadth first from all starts: every state in which an action can be taken, (1, S, ...), sorted by name."""
    edge = _starts(world)
    known, parts = name(edge)[0].cpu().numpy(), [edge]
    while len(edge["pos"][0]):
        after, _, ended = _fan(world, edge)
        rows = {key: v[~ended] for key, v in after.items()}
        names, index = np.unique(name(rows).cpu().numpy(), return_index=True)
        index = index[~np.isin(names, known)]
        edge = {key: v[torch.from_numpy(index).to(v.device)][None] for key, v in rows.items()}
        known, parts = np.concatenate([known, name(edge)[0].cpu().numpy()]), [*parts, edge]
        if len(known) > LIMIT:
            raise LabError(f"{world.key} has more than {LIMIT} states at size {world.width} x {world.height}; choose a smaller size.")
    order = torch.from_numpy(np.argsort(known)).to(edge["pos"].device)
    return {key: torch.cat([part[key] for part in parts], 1)[:, order] for key in edge}


def enumerate_states(world: "GridWorld") -> StateTable:
    """List a world of fixed layout exactly. LabError where the layout is drawn anew every episode."""
    name = Namer(world.fixed_plan())
    states = reach(world, name)
    names = name(states)[0]
    after, win, ended = _fan(world, states)
    own = torch.arange(len(names), device=names.device).expand(ended.shape)
    follow = torch.where(ended, own, torch.searchsorted(names, name(after)).clamp(max=len(names) - 1))
    start = torch.searchsorted(names, name(_starts(world))[0])
    mu = torch.zeros(len(names), dtype=torch.float64, device=names.device).index_fill(0, start, 1 / len(start))
    pos = states["pos"][0]
    place = torch.stack([pos % world.width, pos // world.width, states["dir"][0]], 1)
    follow, ended = follow.T.contiguous(), ended.T.contiguous()
    return StateTable(follow, win.T.double(), ended, mu, world.observe(states)[0], place, states, world.horizon)


def _sweep(table: StateTable, judge: Callable[[Tensor], Tensor]) -> Tensor:
    """Backward over the steps of an episode; `judge` turns action values (L, S, A) into state values (L, S)."""
    value = table.mu.new_zeros(1, len(table.mu))
    for t in range(table.horizon, 0, -1):
        later = torch.where(table.done, 0.0, value[:, table.next])
        value = judge(table.reward * (1 - 0.9 * (t / table.horizon)) + later)
    return (value * table.mu).sum(-1)


def exact_return(table: StateTable, pi: Tensor) -> Tensor:
    """Expected MiniGrid return of a stationary policy pi (L, S, A): (L,) float64, no sampling, step limit and all."""
    if pi.shape[1:] != table.next.shape:
        raise LabError(f"exact_return takes a policy (L, {table.next.shape[0]}, {table.next.shape[1]}); got shape {tuple(pi.shape)}.")
    return _sweep(table, lambda q: (pi.double() * q).sum(-1))


def optimal_return(table: StateTable) -> float:
    """The best expected MiniGrid return that any policy reaches, even one that looks at the clock."""
    return _sweep(table, lambda q: q.amax(-1)).item()
