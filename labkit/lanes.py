"""Lanes: settings x seeds, side by side on axis 0 of every tensor."""
import itertools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from numbers import Real
from operator import index
from types import SimpleNamespace

import torch
from torch import Tensor

from labkit.errors import LabError

_GOLDEN = 0x9E3779B97F4A7C15 - (1 << 64)  # the odd 64-bit constants of SplitMix64, as signed integers
_MIX = ((30, 0xBF58476D1CE4E5B9 - (1 << 64)), (27, 0x94D049BB133111EB - (1 << 64)))


def _mix(z: Tensor) -> Tensor:
    """SplitMix64's finaliser (Steele, Lea and Flood 2014): every input bit reaches every output bit."""
    for shift, factor in _MIX:
        z = (z ^ ((z >> shift) & ((1 << (64 - shift)) - 1))) * factor
    return z ^ ((z >> 31) & ((1 << 33) - 1))


@dataclass(frozen=True)
class Knob:
    """A setting that may differ from lane to lane, and the ends of its slider."""

    default: float
    low: float
    high: float
    doc: str


def _seeds(given: Iterable[int]) -> tuple[int, ...]:
    """Seeds as plain integers, each once."""
    try:
        seeds = tuple(index(s) for s in given)
    except TypeError as error:
        raise LabError(f"Seeds are a list of whole numbers, such as range(10); got {given!r}.") from error
    if not seeds or len(set(seeds)) < len(seeds) or not all(-(2**63) <= s < 2**63 for s in seeds):
        raise LabError(f"Lanes need at least one seed, each once and within 64 bits; got {seeds}.")
    return seeds


def _values(name: str, given: Iterable[float]) -> tuple[float, ...]:
    """The values of one knob."""
    values = tuple(given) if isinstance(given, Iterable) else ()
    if not values or not all(isinstance(v, Real) for v in values):
        raise LabError(f"Knob {name!r} takes a list of numbers, such as {{{name!r}: (0.1, 0.2)}}; got {given!r}.")
    return values


def check_device(device: str) -> str:
    """The device; LabError where PyTorch has none of that name."""
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise LabError(f"PyTorch has no device {device!r} here; give 'cpu', or 'cuda' where a GPU is at hand.") from error
    return device


@dataclass(frozen=True)
class Lanes:
    """L = settings x seeds. `grid` has one entry per slider; a lane is one of its points with one seed.

    Lane k has setting k // len(seeds) and seed k % len(seeds). Settings of one seed share their noise,
    so that they can be compared in pairs.
    """

    seeds: tuple[int, ...] = (0,)
    grid: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    device: str = "cpu"

    def __post_init__(self) -> None:
        object.__setattr__(self, "seeds", _seeds(self.seeds))
        object.__setattr__(self, "grid", {name: _values(name, values) for name, values in self.grid.items()})
        check_device(self.device)

    @property
    def points(self) -> list[dict[str, float]]:
        """The settings, in lane order: the last knob of `grid` moves fastest."""
        return [dict(zip(self.grid, values, strict=True)) for values in itertools.product(*self.grid.values())]

    def __len__(self) -> int:
        return len(self.points) * len(self.seeds)

    def name(self, lane: int) -> str:
        """How a lane is called in messages: 'lane 3 (clip=0.8, seed 1)'."""
        point, seed = divmod(lane, len(self.seeds))
        settings = "".join(f"{k}={v:g}, " for k, v in self.points[point].items())
        return f"lane {lane} ({settings}seed {self.seeds[seed]})"

    def knobs(self, table: Mapping[str, Knob]) -> SimpleNamespace:
        """Every knob of `table` as a tensor (L, 1): the grid's values, else the default.

        LabError names a knob that the table lacks or a value outside its range.
        """
        for name, values in self.grid.items():
            if name not in table:
                raise LabError(f"There is no knob {name!r} here; the knobs are {', '.join(table)}.")
            for v in values:
                if not table[name].low <= v <= table[name].high:
                    raise LabError(f"Knob {name}={v:g} is out of range; it goes from {table[name].low:g} to {table[name].high:g}.")
        defaults = {name: knob.default for name, knob in table.items()}
        rows = [defaults | point for point in self.points for _ in self.seeds]
        column = {name: torch.tensor([[float(row[name])] for row in rows], device=self.device) for name in table}
        return SimpleNamespace(**column)

    def rand(self, tick: int, *shape: int) -> Tensor:
        """Uniform numbers in [0, 1), (L, *shape): a pure function of (seed, tick, place).

        Counter-based: number i of a stream is mix(key + i * golden), the key mixed from seed and tick.
        """
        seeds = torch.tensor(self.seeds, dtype=torch.int64, device=self.device)[:, None]
        key = _mix(_mix(seeds * _GOLDEN + 1) + torch.tensor(tick, device=self.device) * _GOLDEN)
        place = torch.arange(1, 1 + torch.Size(shape).numel(), device=self.device)
        bits = (_mix(key + place * _GOLDEN) >> 40) & 0xFFFFFF  # 24 bits fill a float32
        return (bits.float() * 2.0**-24).repeat(len(self.points), 1).view(len(self), *shape)
