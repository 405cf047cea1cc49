"""What is kept of a run: curves and pictures' data over time and lanes, gathered from snapshots."""
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from labkit.errors import LabError
from labkit.lanes import Lanes
from labkit.learner import Learner
from labkit.meter import DriftMeter
from labkit.paper import Algorithm
from labkit.snapshot import Snapshot
from labkit.worlds.world import World


@dataclass(frozen=True)
class Record:
    """T moments of a run over L lanes. Every figure is a pure function of one of these."""

    algorithm: str  # key of the method
    world: str  # key of the world
    lanes: Lanes
    steps: Tensor  # (T,) environment steps per lane
    curves: dict[str, Tensor]  # name -> (T, L): "return", "kl from start", ...
    fields: dict[str, Tensor] = field(default_factory=dict)  # name -> (T, L, ...): "policy" (T, L, S, A), "occupancy" (T, L, S)
    notes: tuple[str, ...] = ()  # which lanes stopped, and why

    def setting(self, point: int) -> slice:
        """The lanes of setting number `point`: one per seed."""
        seeds = len(self.lanes.seeds)
        return slice(point * seeds, (point + 1) * seeds)


class Recorder:
    """Gathers snapshots into a Record; meters give curves, `fields` give tensors (L, ...) of a snapshot."""

    def __init__(
        self,
        algorithm: Algorithm,
        world: World,
        lanes: Lanes,
        meters: Mapping[str, DriftMeter] | None = None,
        fields: Mapping[str, Callable[[Snapshot], Tensor]] | None = None,
    ) -> None:
        self.algorithm, self.world, self.lanes = algorithm, world, lanes
        self.meters, self.makers = dict(meters or {}), dict(fields or {})
        self.steps: list[int] = []
        self.curves: dict[str, list[Tensor]] = {}
        self.fields: dict[str, list[Tensor]] = {name: [] for name in self.makers}
        self.notes: tuple[str, ...] = ()

    def add(self, snapshot: Snapshot) -> None:
        """Read one snapshot."""
        row = snapshot.metrics | {name: meter(snapshot).value for name, meter in self.meters.items()}
        for name, value in row.items():
            self.curves.setdefault(name, []).append(value.detach().cpu())
        for name, maker in self.makers.items():
            self.fields[name].append(maker(snapshot).detach().cpu())
        self.steps.append(snapshot.step)
        self.notes = tuple(snapshot.learner.notes)

    def record(self) -> Record:
        """What has been gathered so far. LabError before the first snapshot."""
        if not self.steps:
            raise LabError("Nothing is recorded yet; add at least one snapshot.")
        curves = {name: torch.stack(rows) for name, rows in self.curves.items()}
        fields = {name: torch.stack(rows) for name, rows in self.fields.items()}
        return Record(self.algorithm.paper.key, self.world.key, self.lanes, torch.tensor(self.steps), curves, fields, self.notes)


def record(
    algorithm: Algorithm,
    world: World,
    lanes: Lanes,
    steps: int,
    every: int = 1,
    start: Learner | None = None,
    meters: Mapping[str, DriftMeter] | None = None,
    fields: Mapping[str, Callable[[Snapshot], Tensor]] | None = None,
) -> Record:
    """Run for `steps` environment steps per lane and keep every `every`-th snapshot, the first and the last too.

    LabError where either is below 1.
    """
    if not steps >= 1 or not every >= 1:
        raise LabError(f"A record takes at least 1 step and every 1st snapshot; got steps={steps}, every={every}.")
    recorder = Recorder(algorithm, world, lanes, meters, fields)
    for i, snapshot in enumerate(algorithm.run(world, lanes, start)):
        last = snapshot.step >= steps
        if i % every == 0 or last:
            recorder.add(snapshot)
        if last:
            break
    return recorder.record()
