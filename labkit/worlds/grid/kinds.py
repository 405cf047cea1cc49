"""What can lie in a cell, as one byte, and the physics of MiniGrid as one lookup table."""
from functools import cache

import torch
from torch import Tensor

UNSEEN, EMPTY, GOAL, LAVA = range(4)
WIN, LOSE = 4, 5  # look empty, but stepping there ends the episode: Memory's two places
AGENT = 8  # + direction; only in the full view
KEY, BALL = 16, 24  # + colour; what can be carried lies below 32
OPEN = 32  # + colour
WALL, CLOSED, LOCKED = 64, 72, 80  # the last two + colour; bit 6 says: nobody sees through this
OPAQUE = 64
KINDS = 128
LOADS = 32  # values of "what the agent carries": EMPTY, KEY + colour, BALL + colour

COLOURS = 6  # MiniGrid's order: red green blue purple yellow grey
GREEN, YELLOW = 1, 4
LEFT, RIGHT, FORWARD, PICKUP, DROP, TOGGLE, DONE = range(7)
ACTIONS = 7


@cache
def codes() -> Tensor:
    """MiniGrid's (object, colour, state) of every kind: (128, 3) uint8."""
    table = torch.zeros(KINDS, 3, dtype=torch.uint8)
    for kind in (EMPTY, WIN, LOSE):
        table[kind] = torch.tensor([1, 0, 0])
    for kind, code in ((GOAL, [8, 1, 0]), (LAVA, [9, 0, 0]), (WALL, [2, 5, 0])):
        table[kind] = torch.tensor(code)
    for direction in range(4):
        table[AGENT + direction] = torch.tensor([10, 0, direction])
    for base, thing, state in ((KEY, 5, 0), (BALL, 6, 0), (OPEN, 4, 0), (CLOSED, 4, 1), (LOCKED, 4, 2)):
        for colour in range(COLOURS):
            table[base + colour] = torch.tensor([thing, colour, state])
    return table


@cache
def _kinds() -> Tensor:
    """The inverse of `codes`, at 64 object + 8 colour + state: (1024,) uint8."""
    at = codes().long() @ torch.tensor([64, 8, 1])
    table = torch.full((1024,), UNSEEN, dtype=torch.uint8)
    for kind in reversed(range(KINDS)):  # the lowest kind with a code is written last: EMPTY, not WIN
        table[at[kind]] = kind
    return table


def kind_of(code: Tensor) -> Tensor:
    """The kinds that look like MiniGrid's (object, colour, state): (..., 3) -> (...) uint8."""
    return _kinds()[code.long() @ torch.tensor([64, 8, 1])]


def _within(kind: int, base: int) -> bool:
    return base <= kind < base + COLOURS


def _toggled(kind: int, load: int) -> int:
    """What a cell becomes when toggled: doors open and close, a locked one opens to the key of its colour."""
    if _within(kind, LOCKED):
        return kind - LOCKED + OPEN if load - KEY == kind - LOCKED else kind
    return {OPEN: kind - OPEN + CLOSED, CLOSED: kind - CLOSED + OPEN}.get(kind - kind % 8, kind)


def _effect(ahead: int, load: int, action: int, opening_wins: bool) -> tuple[int, int, bool, bool, bool]:
    """(what lies ahead now, what is carried now, the agent moves, the episode ends, it ends in success)."""
    movable = _within(ahead, KEY) or _within(ahead, BALL)
    if action == FORWARD:
        go = ahead in (EMPTY, GOAL, LAVA, WIN, LOSE) or _within(ahead, OPEN)
        return ahead, load, go, ahead in (GOAL, LAVA, WIN, LOSE), ahead in (GOAL, WIN)
    if action == PICKUP and movable and load == EMPTY:
        return EMPTY, ahead, False, False, False
    if action == DROP and ahead == EMPTY and load != EMPTY:
        return load, EMPTY, False, False, False
    if action == TOGGLE:
        won = opening_wins and _within(ahead, LOCKED) and _toggled(ahead, load) != ahead
        return _toggled(ahead, load), load, False, won, won
    return ahead, load, False, False, False


@cache
def effects(opening_wins: bool = False, pickup_toggles: bool = False) -> Tensor:
    """The physics: row (ahead * 32 + load) * 7 + action of (28672, 5) int64, as `_effect` returns it."""
    means = [TOGGLE if pickup_toggles and action == PICKUP else action for action in range(ACTIONS)]
    rows = [_effect(ahead, load, action, opening_wins) for ahead in range(KINDS) for load in range(LOADS) for action in means]
    return torch.tensor(rows, dtype=torch.int64)
