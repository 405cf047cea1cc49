"""A paper is an algorithm object that carries its card; papers are found by walking the package."""
import importlib
import importlib.util
import pkgutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields
from functools import cache
from pathlib import Path
from typing import Any

from labkit.errors import LabError
from labkit.lanes import Knob, Lanes
from labkit.learner import Learner
from labkit.snapshot import Snapshot
from labkit.worlds.world import World


@dataclass(frozen=True)
class Paper:
    """The card of a method: what it says and where it stands."""

    key: str
    title: str
    year: int
    url: str
    claim: str  # what our miniature checks, in a sentence
    lesson: str
    lost: str  # what the miniature leaves out
    base: str = ""  # key of the method it changes
    chapter: int | None = None


@dataclass(frozen=True)
class Algorithm:
    """A family's loop with its slots. A family subclasses this once; a paper is `replace(base, slot=..., paper=...)`.

    The fields that hold callables are the slots.
    """

    knobs: dict[str, Knob]
    paper: Paper

    def run(self, world: World, lanes: Lanes, start: Learner | None = None) -> Iterator[Snapshot]:
        """Yield a Snapshot after each update, for ever. With `start`, go on from that learner, bit for bit."""
        raise NotImplementedError

    def expect(self, world: World, lanes: Lanes, start: Learner | None) -> None:
        """LabError where an argument of `run` is of another kind, such as a world's name in place of the world."""
        given = {"a World, such as worlds.make('control.cartpole')": (world, World), "Lanes, such as Lanes(range(10))": (lanes, Lanes)}
        given |= {"a Learner to start from, such as snapshot.learner": (start, Learner)} if start is not None else {}
        for what, (value, kind) in given.items():
            if not isinstance(value, kind):
                raise LabError(f"{self.paper.key} needs {what}; got {value if isinstance(value, str) else type(value).__name__!r}.")


def slots(algorithm: Algorithm) -> dict[str, Callable[..., Any]]:
    """The named pieces that a paper may replace."""
    return {f.name: value for f in fields(algorithm) if callable(value := getattr(algorithm, f.name))}


def changed(child: Algorithm, parent: Algorithm) -> list[str]:
    """The slots in which `child` differs from `parent`: the whole of a paper's change."""
    theirs = slots(parent)
    return [name for name, piece in slots(child).items() if piece is not theirs.get(name)]


def module_of(algorithm: Algorithm) -> str:
    """The module that holds a method: its own, or its family's."""
    family = type(algorithm).__module__
    own = f"{family.rpartition('.')[0]}.{algorithm.paper.key}"
    return own if importlib.util.find_spec(own) else family


@cache
def _found() -> dict[str, Algorithm]:
    found: dict[str, Algorithm] = {}
    for family in sorted(Path(__file__).parent.glob("*/family.py")):
        package = f"labkit.{family.parent.name}"
        for info in pkgutil.iter_modules([str(family.parent)], f"{package}."):
            module = importlib.import_module(info.name)
            found |= {a.paper.key: a for a in vars(module).values() if isinstance(a, Algorithm)}
    return found


def discover() -> dict[str, Algorithm]:
    """Every algorithm of the package by its paper's key, families and papers alike; there is no list to keep.

    A family is a folder with a family.py. The folders are read once per process.
    """
    return dict(_found())
