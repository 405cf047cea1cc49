"""A run in words: all that decides it, the worlds and methods that go together, and the drift read from its record."""
import copy
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cache

import torch
from torch import Tensor

from labkit import worlds
from labkit.divergence import DIVERGENCES
from labkit.errors import LabError
from labkit.grpo.family import Grpo
from labkit.knobs import read_knobs, write_knobs
from labkit.lanes import Knob, Lanes
from labkit.learner import Learner
from labkit.meter import probe
from labkit.paper import Algorithm, discover
from labkit.policy import Categorical, Gaussian, Policy
from labkit.record import Record
from labkit.snapshot import Snapshot
from labkit.studio.figures import Floor, floor, watch
from labkit.studio.figures.moving import watch_moving
from labkit.studio.figures.responses import watch_inside
from labkit.studio.live import LiveRun
from labkit.tabular.steering import steer, steerable
from labkit.worlds.finite import FiniteWorld
from labkit.worlds.grid import GridWorld, enumerate_states
from labkit.worlds.registry import takes
from labkit.worlds.steered import Events, read_events, stages, write_events
from labkit.worlds.tokens.world import TokenWorld
from labkit.worlds.world import Continuous, World

MANY = 2000  # states up to which a world is watched state by state
PROBES = 128  # states at which the policy is looked at in all other worlds
EARLY = 64  # steps of an episode within which they are met, so that a run need not wait for them
SPACE = 128 * 2**20  # bytes that the pictures' data of one run may take
STEERED = "finite.steered"
STAGE_BYTES = 20_000  # of one seed's steered world in one stage, about
READS = ("nodes", "text")  # what a policy reads of a world of text: what its verifier knows, or the text itself
TOKEN_BYTES = 40  # of one token looked at from inside, about
REFERENCES = {"start": 0, "previous": -1, "end": -1}  # where the policy to compare with stands in the record
EVERYWHERE, VISITED, PROBED = "every state alike", "where the policy goes", "states met at random"



@dataclass(frozen=True)
class Settings:
    """What decides a run: equal settings give equal runs, bit for bit.

    layout: the seed of a grid's layout; -1 draws another one every episode. knobs: values to try, each a setting. events: what
    becomes of STEERED, of which each seed then has its own; None: the world is one for all and stays as it is made. reads: of a world of
    text, one of READS; each of its updates is then looked at from inside. "": it is a world like any other.
    """

    world: str = "control.cartpole"
    algorithm: str = "ppo"
    knobs: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    seeds: int = 5
    updates: int = 60
    layout: int = 0
    events: Events | None = None
    reads: str = ""

    def __str__(self) -> str:
        words = [self.algorithm, self.world, f"seeds={self.seeds}", f"updates={self.updates}"]
        words += [f"layout={self.layout}"] if self.world.startswith("grid.") else []
        words += [] if self.events is None else [f"events={write_events(self.events)}"]
        words += [f"reads={self.reads}"] if self.reads else []
        return " ".join([*words, *write_knobs(self.knobs).split()])

    @classmethod
    def read(cls, text: str) -> "Settings":
        """The inverse of str. LabError where the text is something else."""
        try:
            algorithm, world, *rest = text.split()
            pairs = dict(word.split("=") for word in rest)
            numbers = {name: int(pairs.pop(name)) for name in ("seeds", "updates", "layout") if name in pairs}
        except ValueError as error:
            raise LabError(f"{text!r} does not describe a run; one looks like {str(cls())!r}.") from error
        events, reads = read_events(pairs.pop("events")) if "events" in pairs else None, pairs.pop("reads", "")
        knobs = read_knobs(" ".join(f"{name}={values}" for name, values in pairs.items()))
        return cls(world, algorithm, knobs, **numbers, events=events, reads=reads)

    def begin(self) -> LiveRun:
        """A run with these settings, not yet started. LabError where they do not go together, or would fill the memory."""
        self.check()
        parts = self.parts()
        return LiveRun(*parts, self.updates, fields=self.fields(*parts))

    def check(self) -> None:
        """LabError where these settings do not go together, or would fill the memory."""
        if not 1 <= self.seeds <= 64:
            raise LabError(f"A run takes 1 to 64 seeds; got {self.seeds}.")
        if self.updates < 1:
            raise LabError(f"A run takes at least 1 update; got {self.updates}.")
        known = self.methods
        if self.algorithm not in known:
            raise LabError(f"There is no method {self.algorithm!r} for {self.world}; choose one of {', '.join(known)}.")
        each = self.updates * (self._inside_bytes if self.reads else field_bytes(self.world, self.layout))
        if self.events is not None:  # beside policy and occupancy, best actions and beliefs; and a world for every seed
            each = 2 * each + STAGE_BYTES * len(stages(self.events, self.life))
        if (size := each * len(self.lanes)) > SPACE:
            fewer = "seeds, values or updates" if self.events is None else "seeds, values, updates or events"
            raise LabError(f"This run would keep {size >> 20} MiB, more than {SPACE >> 20}; take fewer {fewer}.")

    @property
    def methods(self) -> list[str]:
        """Those that could be chosen here."""
        if self.reads:
            return reading_methods(self.world, self.reads)
        return fitting(self.world, self.layout) if self.events is None else steered_methods()

    @property
    def _inside_bytes(self) -> int:
        """What is kept of one update in one lane."""
        shape, world = discover()[self.algorithm].shape, text_world(self.world, self.reads)  # type: ignore[attr-defined]
        return TOKEN_BYTES * shape.prompts * shape.group * world.horizon

    @property
    def lanes(self) -> Lanes:
        """A lane for every value of the knobs and every seed."""
        return Lanes(tuple(range(self.seeds)), self.knobs)

    def parts(self) -> tuple[Algorithm, World, Lanes]:
        """The method, its world, and its lanes."""
        method = discover()[self.algorithm]
        if self.reads:
            shape = replace(method.shape, updates=1)  # type: ignore[attr-defined]
            return replace(method, shape=shape), text_world(self.world, self.reads), self.lanes  # type: ignore[call-arg]
        if self.events is None:
            return method, make(self.world, self.layout), self.lanes
        seeds = [*self.lanes.seeds] * len(self.lanes.points)
        world = worlds.make(self.world, events=write_events(self.events), seed=seeds, life=self.life)
        return replace(method, respond=steer), world, self.lanes  # type: ignore[call-arg]

    @property
    def life(self) -> int:
        """Environment steps per lane that a steered world is made for."""
        return self.updates * discover()[self.algorithm].shape.stride  # type: ignore[attr-defined]

    def fields(self, method: Algorithm, world: World, lanes: Lanes) -> dict[str, Callable[[Snapshot], Tensor]]:
        """What to record of a run of these parts for its pictures."""
        if self.reads:
            return watch_inside(method, world)  # type: ignore[arg-type]
        return watched(self.world, self.layout) if self.events is None else watch_moving(method, world)  # type: ignore[arg-type]


def notches(knob: Knob) -> list[float]:
    """Positions of a knob's slider: round numbers from its low to its high end, in even ratios over wide ranges."""
    low, high = knob.low, knob.high
    if low > 0 and high / low >= 30:
        decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)))
        inner = [m * 10.0**d for d in decades for m in (1, 1.2, 1.5, 2, 2.5, 3, 4, 5, 6, 8)]
    else:
        whole = all(float(v).is_integer() for v in (low, high, knob.default)) and high - low > 1
        step = next(m * 10.0**d for d in range(-9, 9) for m in (1, 2, 5) if m * 10.0**d >= (1 if whole else (high - low) / 50))
        inner = [i * step for i in range(math.ceil(low / step), math.floor(high / step) + 1)]
    return sorted({low, high, knob.default, *(float(f"{v:.6g}") for v in inner if low < v < high)})


# ---- what goes together ------------------------------------------------------------------------------------------


@cache
def make(key: str, layout: int) -> World:
    """The world; a grid with the layout of that seed, or with a new one every episode where it is negative."""
    world = worlds.make(key)
    return worlds.make(key, layout_seed=layout) if isinstance(world, GridWorld) and layout >= 0 else world


def text_worlds() -> list[str]:
    """The worlds of text."""
    return [key for key in worlds.names() if "text" in takes(key)]


@cache
def text_world(key: str, reads: str) -> World:
    """A world of text as one of READS. LabError where it is no such world, or cannot be read so."""
    if key not in text_worlds():
        raise LabError(f"There is no world of text {key!r}; choose one of {', '.join(text_worlds())}.")
    if reads not in READS:
        raise LabError(f"A policy cannot read {reads!r}; choose one of {', '.join(READS)}.")
    return worlds.make(key, text=reads == "text")


@cache
def reading_methods(key: str, reads: str) -> list[str]:
    """The methods that learn in a world of text, read so."""
    world = text_world(key, reads)
    return [name for name, method in sorted(discover().items()) if isinstance(method, Grpo) and _fits(method, world)]


class _ResetError(Exception):
    """The method has begun to act: it takes the world."""


@cache
def fitting(key: str, layout: int) -> list[str]:
    """The methods that take a world: each is begun, and left as soon as it resets the world or gives a first snapshot."""

    def reset(u: Tensor) -> None:
        raise _ResetError

    world = copy.copy(make(key, layout))
    world.reset = world.begin = reset  # type: ignore[attr-defined, method-assign, assignment]
    return [name for name, algorithm in sorted(discover().items()) if _fits(algorithm, world)]


@cache
def steered_methods() -> list[str]:
    """The methods that learn in a world changed by events."""
    return [name for name, algorithm in sorted(discover().items()) if steerable(algorithm)]


def _fits(algorithm: Algorithm, world: World) -> bool:
    if isinstance(algorithm, Grpo):  # which resets no world, and may learn for long before its first update
        return isinstance(world, TokenWorld)
    try:
        next(algorithm.run(world, Lanes()))
    except _ResetError:
        return True
    except LabError:
        return False
    return True


@cache
def ground(key: str, layout: int) -> Floor | None:
    """The floor of a world that is watched state by state, where it has one."""
    try:
        return None if listed(key, layout) is None else floor(make(key, layout))
    except LabError:
        return None


# ---- what is recorded --------------------------------------------------------------------------------------------


@cache
def listed(key: str, layout: int) -> Tensor | None:
    """Observations of all states (S, obs_size) of a world that is watched state by state: one of fewer than MANY."""
    world = make(key, layout)
    if isinstance(world, FiniteWorld):
        return torch.eye(world.obs_size) if world.obs_size < MANY else None
    if isinstance(world, GridWorld) and layout >= 0:
        obs = enumerate_states(world).obs
        return obs if len(obs) < MANY else None
    if isinstance(world, TokenWorld):
        return world.graph.obs
    return None


@cache
def watched(key: str, layout: int) -> dict[str, Callable[[Snapshot], Tensor]]:
    """What to record for pictures and drift: the policy at every state and its occupancy, or at a sample of states."""
    world = make(key, layout)
    if listed(key, layout) is not None:
        return watch(world)
    obs = _sample(world)
    return {"probe": lambda snapshot: torch.stack([v.detach() for v in vars(snapshot.learner.policy(obs)).values()], 2)}


def _sample(world: World) -> Tensor:
    """Observations (N, obs_size) met by acting at random."""

    def anyhow(obs: Tensor) -> Policy:
        if isinstance(world.actions, Continuous):
            flat = obs.new_zeros(*obs.shape[:-1], world.actions.dim)
            return Gaussian(flat, flat)
        return Categorical(obs.new_zeros(*obs.shape[:-1], world.actions.n))

    brief = copy.copy(world)
    brief.horizon = min(world.horizon, EARLY)
    return probe(brief, Learner(Lanes()).rand, anyhow, PROBES).obs[0]


def field_bytes(key: str, layout: int) -> int:
    """What the fields of one moment take in one lane."""
    actions, states = make(key, layout).actions, listed(key, layout)
    numbers = 2 * actions.dim if isinstance(actions, Continuous) else actions.n
    return 4 * PROBES * numbers if states is None else 4 * len(states) * (numbers + 1)


def state_choices(key: str, layout: int) -> list[str]:
    """Over which states drift can be read there."""
    return [PROBED] if listed(key, layout) is None else [VISITED, EVERYWHERE]


def policies(record: Record) -> Policy:
    """The recorded policies, fields (T, L, N, ...)."""
    if "policy" in record.fields:
        return Categorical(record.fields["policy"].clamp_min(1e-38).log())
    parts = record.fields["probe"].unbind(3)
    return Categorical(*parts) if len(parts) == 1 else Gaussian(*parts)


@torch.no_grad()
def with_drift(record: Record, reference: str, divergence: str, states: str) -> tuple[Record, str]:
    """The record with one more curve, the drift of this triple, and the curve's name. LabError names what there is.

    States: "where the policy goes" weights each by its occupancy at that moment; else all count alike.
    """
    for given, known in ((reference, REFERENCES), (divergence, DIVERGENCES)):
        if given not in known:
            raise LabError(f"There is no {given!r} to measure drift with; choose one of {', '.join(known)}.")
    now = policies(record)
    past = now.map(lambda v: torch.cat([v[:1], v[:-1]]) if reference == "previous" else v[[REFERENCES[reference]]].expand_as(v))
    per_state = DIVERGENCES[divergence](past, now)
    if states == VISITED:
        where = record.fields["occupancy"]
        value = (per_state * where).sum(-1) / where.sum(-1)
    else:
        value = per_state.mean(-1)
    name = f"{divergence} from {reference}"
    return replace(record, curves=record.curves | {name: value}), name
