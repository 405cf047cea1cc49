"""Finite worlds that change while one learns: a few modes, a schedule of which holds when, and each mode's optimum known exactly."""
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from labkit.errors import LabError
from labkit.worlds.finite import MDP, FiniteWorld, Table, at_least, garnet_table, river
from labkit.worlds.registry import register
from labkit.worlds.world import State

Parts = tuple[np.ndarray, ...]  # successors, chances and rewards, (S, A, B) each
LIFE = 20_000  # steps of a lifetime, which is one episode


class MovingWorld(FiniteWorld):
    """K worlds, for all lanes or one for each, each of M modes. An episode's clock `t` says by the schedule which mode holds.

    table (K M, S, A, B): the outcomes in every mode, modes side by side. schedule (K, T) int64: the mode at each step; after
    its last entry the world stays. `mdp` is the world at its beginning, `models` all modes, `at(clock)` the world at any time.
    """

    def __init__(self, key: str, table: Table, schedule: Tensor, mu: Tensor, gamma: float, horizon: int, **names: Any) -> None:
        super().__init__(key, table, mu, gamma, horizon, **names)
        self.models, self.schedule, self.modes = self.mdp, schedule, len(table.next) // len(schedule)
        self._rows = torch.arange(len(schedule)) * self.modes + schedule[:, 0]
        self.mdp = self._now = self.models.take(self._rows)

    def mode(self, clock: Tensor) -> Tensor:
        """The mode that holds at clock (L,) int64, or (L, E): as many numbers."""
        lane = self._lane(len(clock))
        return self.schedule[lane if clock.dim() == 2 else lane[:, 0], clock.clamp_max(self.schedule.shape[1] - 1)]

    def at(self, clock: Tensor) -> MDP:
        return self.in_mode(self.mode(clock))

    def in_mode(self, mode: Tensor) -> MDP:
        rows = self._lane(len(mode))[:, 0] * self.modes + mode
        if not torch.equal(rows, self._rows):  # the last answer is kept: worlds change seldom
            self._rows, self._now = rows, self.models.take(rows)
        return self._now

    def _row(self, state: State) -> Tensor:
        return self._lane(len(state["s"])) * self.modes + self.mode(state["t"])


def _seeds(seed: int | Sequence[int]) -> list[int]:
    return [seed] if isinstance(seed, int) else list(seed)


def _stream(seed: int) -> np.random.Generator:
    """The numbers that a seed's schedule is drawn from; those of its modes are from [seed, mode]."""
    return np.random.Generator(np.random.Philox([seed]))


def _life(steps: int, parts: int, what: str) -> None:
    if not 1 <= parts <= steps:
        raise LabError(f"{what} is {parts}; it must lie between 1 and the {steps} steps of the world's life.")


def _moving(
    key: str, tables: list[Parts], schedule: list[np.ndarray], gamma: float, life: int, first: Sequence[int], **names: Any
) -> MovingWorld:  # fmt: skip
    """A world that never ends, from successors, chances and rewards (S, A, B), one table per world and mode, and its first states."""
    follow, prob, reward = (torch.from_numpy(np.stack(x)) for x in zip(*tables, strict=True))
    mu = torch.zeros(1, follow.shape[1], dtype=torch.float64)
    mu[0, list(first)] = 1 / len(first)
    table = Table(follow, prob, reward.double(), torch.zeros_like(follow, dtype=torch.bool))
    return MovingWorld(key, table, torch.from_numpy(np.stack(schedule)), mu, gamma, life, **names)


def _garnets(seeds: list[int], modes: int, states: int, actions: int, branching: int) -> list[Parts]:
    """A random MDP for each seed and mode, from a stream of its own."""
    return [garnet_table(states, actions, branching, [seed, mode]) for seed in seeds for mode in range(modes)]


@register("finite.switching")
def switching(
    modes: int = 10, rate: float = 0.001, states: int = 5, actions: int = 3, branching: int = 3, seed: int | Sequence[int] = 0,
    gamma: float = 0.9, life: int = LIFE,
) -> MovingWorld:  # fmt: skip
    """Random MDPs (see finite.garnet) that take turns: before each step, with chance `rate`, another of the modes is drawn.

    A sequence of seeds gives each lane its own modes and its own times.
    """
    if not 0 <= rate <= 1:
        raise LabError(f"rate is {rate}; it is a chance, from 0 to 1.")
    _life(life, modes, "modes")
    seeds, schedule = _seeds(seed), []
    for rng in map(_stream, seeds):
        jump = (rng.random(life) < rate) * (1 + rng.integers(max(1, modes - 1), size=life))
        schedule.append(jump.cumsum() % modes)
    return _moving("finite.switching", _garnets(seeds, modes, states, actions, branching), schedule, gamma, life, range(states))


@register("finite.recurring")
def recurring(
    modes: int = 3, period: int = 2000, states: int = 5, actions: int = 3, branching: int = 3, seed: int | Sequence[int] = 0,
    gamma: float = 0.9, life: int = LIFE,
) -> MovingWorld:  # fmt: skip
    """Random MDPs (see finite.garnet) that come back again and again, in the same order, each for `period` steps."""
    _life(life, modes, "modes")
    at_least("period", period, 1)
    seeds = _seeds(seed)
    schedule = [np.arange(life) // period % modes for _ in seeds]
    return _moving("finite.recurring", _garnets(seeds, modes, states, actions, branching), schedule, gamma, life, range(states))


@register("finite.drifting")
def drifting(
    stages: int = 100, states: int = 5, actions: int = 3, branching: int = 3, seed: int | Sequence[int] = 0, gamma: float = 0.9,
    life: int = LIFE,
) -> MovingWorld:  # fmt: skip
    """A random MDP (see finite.garnet) that turns into another one in the course of its life, in `stages` equal small moves."""
    _life(life, stages, "stages")
    seeds = _seeds(seed)
    ends = _garnets(seeds, 2, states, actions, branching)
    share = np.linspace(0, 1, stages)
    tables = [_between(*pair, w) for pair in zip(ends[::2], ends[1::2], strict=True) for w in share]
    return _moving("finite.drifting", tables, [np.arange(life) * stages // life for _ in seeds], gamma, life, range(states))


def _between(one: Parts, other: Parts, w: float) -> Parts:
    """The table that is 1 - w of one and w of the other: chances and mean rewards are mixed in these shares."""
    mixed = (1 - w) * one[2] + w * other[2]
    prob = np.concatenate([(1 - w) * one[1], w * other[1]], -1)
    return np.concatenate([one[0], other[0]], -1), prob, np.concatenate([mixed, mixed], -1)


@register("finite.reversing")
def reversing(
    n: int = 6, shift: float | Sequence[float] = 1.0, segments: int = 4, seed: int | Sequence[int] = 0, gamma: float = 0.99,
    life: int = LIFE,
) -> MovingWorld:  # fmt: skip
    """RiverSwim whose current turns round: from then on what carried one back (0) is a stroke forward, and the stroke (1) is lost.

    A place pays whatever one does there: 1 upstream, 0.005 downstream, so that a turn changes how things move and nothing else.
    shift: how much of the turn takes place; 0 is none, at 0.5 both actions do the same; a sequence gives each lane its own. The
    times of the segments - 1 turns are each lane's own: each within a quarter of a segment of even spacing.
    """
    _life(life, 4 * segments, "4 * segments")
    seeds = _seeds(seed)
    shifts = [shift] * len(seeds) if isinstance(shift, (int, float)) else list(shift)
    if len(shifts) != len(seeds) or not all(0 <= x <= 1 for x in shifts):
        raise LabError(f"shift is {shift}; it takes one number from 0 to 1, or one for each of the {len(seeds)} seeds.")
    follow, prob = river(n)
    reward = np.zeros(follow.shape)
    reward[0], reward[-1] = 0.005, 1.0
    tables: list[Parts] = [(follow, p, reward) for x in shifts for p in (prob, (1 - x) * prob + x * prob[:, ::-1])]
    turns = [(np.arange(1, segments) + (_stream(one).random(segments - 1) - 0.5) / 2) * life / segments for one in seeds]
    schedule = [np.searchsorted(turn, np.arange(life), side="right") % 2 for turn in turns]
    return _moving("finite.reversing", tables, schedule, gamma, life, [0], cells=tuple((0, s) for s in range(n)))
