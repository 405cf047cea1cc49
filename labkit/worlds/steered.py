"""A world that is changed while one learns: a small grid, and what it becomes is a list of events."""
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from labkit.errors import LabError
from labkit.worlds.finite import MDP, Table, _grid_cells, _walk
from labkit.worlds.moving import LIFE, MovingWorld, _seeds
from labkit.worlds.registry import register

STAGE, STAGES = 100, 30  # a drift is so many equal moves, one every so many steps
PERIOD = 1500  # steps after which what recurs comes back
WEAR = 0.8  # chance that a move goes astray where the policy deployed is sure of it, in a world that answers
MOST = 60  # events
COMPASS = ((-1, 0), (0, 1), (1, 0), (0, -1))  # up, right, down, left, as (row, column) steps

KINDS = {
    "jump": "at once another goal, and other ways",
    "drift": f"bit by bit, over {STAGE * STAGES:,} steps, another goal and other ways",
    "recur": f"another goal and other ways, and the old ones again, in turn, {PERIOD:,} steps each",
    "respond": "what the policy does surely goes astray: the world answers the policy deployed",
    "still": "from now on the world stays as it is",
}
NEW = ("jump", "drift", "recur")  # those that bring another goal and other ways


@dataclass(frozen=True)
class Event:
    """From `step` on the world moves in another way, and no longer as it did. LabError for an unknown kind, or before the beginning."""

    kind: str
    step: int

    def __post_init__(self) -> None:
        if self.kind not in KINDS or self.step < 0:
            raise unreadable(str(self))

    def __str__(self) -> str:
        return f"{self.kind}@{self.step}"


Events = tuple[Event, ...]  # in the order of their steps


def write_events(events: Events) -> str:
    """'jump@2000,drift@5000'"""
    return ",".join(map(str, events))


def read_events(text: str) -> Events:
    """The inverse of `write_events`, in the order of their steps. LabError where the text is something else, or more than MOST events."""
    words = text.replace(",", " ").split()
    if len(words) > MOST:
        raise LabError(f"There are {len(words)} events; a world takes {MOST} at most.")
    return tuple(sorted((_read(word) for word in words), key=lambda event: event.step))


def _read(word: str) -> Event:
    kind, _, step = word.partition("@")
    if not (step.isascii() and step.isdigit()):
        raise unreadable(word)
    return Event(kind, int(step))


def unreadable(word: str) -> LabError:
    """What to say of a word that is no event."""
    return LabError(f"The event {word!r} cannot be read; write it like 'jump@2000', the kind one of {', '.join(KINDS)}.")


# ---- what events make of the world ------------------------------------------------------------------------------


@dataclass(frozen=True)
class Stage:
    """From `step` on: how much of each scene there is, summing to 1, the first one first; does the world answer the policy?"""

    step: int
    shares: tuple[float, ...]
    answers: bool = False


def _motion(kind: str, steps: int) -> Iterator[tuple[int, float]]:
    """What a kind of event does within so many steps: (steps since it, share of the new scene)."""
    if kind == "drift":
        return ((n * STAGE, (n + 1) / STAGES) for n in range(min(STAGES, -(-steps // STAGE))))
    if kind == "recur":
        return ((n * PERIOD, 1.0 - n % 2) for n in range(-(-steps // PERIOD)))
    return iter([(0, float(kind == "jump"))])


def stages(events: Events, life: int) -> list[Stage]:
    """The whole story, in order. Each event goes on from the scene, or the mixture of scenes, in which it finds the world.

    What holds at a step is decided by the events up to it.
    """
    out, scenes = [Stage(0, (1.0,))], 0
    for event, end in zip(events, [*(event.step for event in events), life][1:], strict=True):
        old, scenes = out[-1].shares, scenes + (event.kind in NEW)
        for since, share in _motion(event.kind, end - event.step):
            out.append(Stage(event.step + since, _mixed(old, scenes, share), event.kind == "respond"))
    return out


def _mixed(old: tuple[float, ...], fresh: int, share: float) -> tuple[float, ...]:
    """1 - share of the old mixture and share of scene number `fresh`; trailing zeros are left out, so that equals are equal."""
    shares = [(1 - share) * part for part in old] + [0.0] * (fresh + 1 - len(old))
    shares[fresh] += share
    while not shares[-1]:
        shares.pop()
    return tuple(shares)


def _scenes(seed: int, count: int, rows: int, columns: int, slip: float) -> tuple[Tensor, Tensor]:
    """P (N, S, A, S) and r (N, S, A) of a seed's first `count` scenes. Each draws its turn of the compass from a stream of its own.

    The goal is another cell each time, until all have had their turn, and so is the way in which each action leads. It pays 1, and
    leads anywhere.
    """
    S = rows * columns
    goals = np.random.Generator(np.random.Philox([seed])).permutation(S)
    turn, P, r = 0, np.zeros((count, S, 4, S)), np.zeros((count, S, 4))
    for n in range(count):
        turn += 1 + int(np.random.Generator(np.random.Philox([seed, n])).integers(3))
        follow, prob = _walk(rows, columns, [COMPASS[(a + turn) % 4] for a in range(4)], slip)
        np.add.at(P[n], (np.arange(S)[:, None, None], np.arange(4)[:, None], follow), prob)
        P[n, goals[n % S]], r[n, goals[n % S]] = 1 / S, 1.0
    return torch.from_numpy(P), torch.from_numpy(r)


def _mixture(parts: Tensor, shares: Tensor) -> Tensor:
    """Mixtures (M, ...) of parts (N, ...) in shares (M, N), added up one by one: parts without a share leave no trace, to the bit."""
    return sum((shares[:, n].view(-1, *[1] * (parts.dim() - 1)) * part for n, part in enumerate(parts)), torch.zeros(()))


class SteeredWorld(MovingWorld):
    """A MovingWorld whose modes are what its events make of it. answers (M,): in which of them it answers the policy."""

    def __init__(self, answers: Tensor, *args: Any, **names: Any) -> None:
        super().__init__(*args, **names)
        self.answers = answers
        self._asked: tuple[Any, ...] = (None, None, None)

    def facing(self, clock: Tensor, pi: Tensor) -> MDP:
        """The world at clock (L,) once it has answered the policy deployed, pi (L, S, A).

        Where it answers, a move goes astray with chance WEAR pi(a|s), and then all actions are alike:
        P'(s, a) = (1 - c) P(s, a) + c mean over b of P(s, b) with c = WEAR pi(a|s), and rewards likewise.
        """
        mdp, astray = self.at(clock), WEAR * self.answers[self.mode(clock)]
        if not bool(astray.any()):
            return mdp
        if self._asked[0] is not pi or self._asked[1] is not mdp:  # the last answer is kept: it is asked for at every step
            c = astray[:, None, None] * pi
            P = (1 - c)[..., None] * mdp.P + c[..., None] * mdp.P.mean(2, keepdim=True)
            r = (1 - c) * mdp.r + c * mdp.r.mean(2, keepdim=True)
            self._asked = pi, mdp, MDP(P, r, mdp.mu, mdp.gamma, mdp.labels, mdp.cells)
        return self._asked[2]


@register("finite.steered")
def steered(
    events: str = "", rows: int = 3, columns: int = 4, slip: float = 0.1, seed: int | Sequence[int] = 0, gamma: float = 0.9,
    life: int = LIFE,
) -> SteeredWorld:  # fmt: skip
    """A grid of rows x columns cells, four ways and a goal, which pays 1 and leads anywhere; `events`, such as 'jump@2000,drift@5000',
    are what becomes of it (see KINDS).

    With chance `slip` a move goes to one side of the way meant. A sequence of seeds gives each lane scenes of its own.
    """
    for name, value, least in (("rows", rows, 2), ("columns", columns, 2), ("life", life, 1)):
        if value < least:
            raise LabError(f"{name} is {value}; it must be at least {least}.")
    if not 0 <= slip <= 1:
        raise LabError(f"slip is {slip}; it is a chance, from 0 to 1.")
    story, seeds, S = stages(read_events(events), life), _seeds(seed), rows * columns
    modes = list(dict.fromkeys((stage.shares, stage.answers) for stage in story))
    schedule = np.zeros(life, np.int64)
    for stage in story:
        schedule[stage.step :] = modes.index((stage.shares, stage.answers))
    shares = torch.zeros(len(modes), max(len(held) for held, _ in modes), dtype=torch.float64)
    for row, (held, _) in zip(shares, modes, strict=True):
        row[: len(held)] = torch.tensor(held, dtype=torch.float64)
    P, r = (torch.cat(x) for x in zip(*(
        [_mixture(part, shares) for part in _scenes(one, shares.shape[1], rows, columns, slip)] for one in seeds
    ), strict=True))  # fmt: skip
    follow = torch.arange(S).expand_as(P)
    table = Table(follow, P, r[..., None].expand_as(P), torch.zeros(()).bool().expand_as(P))
    return SteeredWorld(
        torch.tensor([answers for _, answers in modes]), "finite.steered", table, torch.from_numpy(schedule).expand(len(seeds), -1),
        torch.full((1, S), 1 / S, dtype=torch.float64), gamma, life, cells=_grid_cells(rows, columns),
    )  # fmt: skip
