"""The user's runs by name: found, begun, trained, forked, deleted, laid beside each other."""
import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from labkit.errors import LabError
from labkit.files import home
from labkit.lanes import Lanes
from labkit.learner import branch
from labkit.paper import Algorithm
from labkit.record import Record
from labkit.snapshot import Snapshot
from labkit.store import folder as disk
from labkit.store.parts import pack_fields, pack_learner, pack_metrics
from labkit.store.run import Run, entry_of, make, settings

KEPT = 64  # learners that a run keeps where `every` is not given, about
NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}")


def root() -> Path:
    """Where the user's runs lie: the folder `runs` in the user's data folder, or in the one that DRIFTLAB_HOME names."""
    return home() / "runs"


def names() -> list[str]:
    """Of all runs, sorted."""
    return sorted(path.parent.name for path in root().glob(f"*/{disk.META}") if NAME.fullmatch(path.parent.name))


def place(name: str) -> Path:
    """The folder of a run called `name`, whether it is there or not. LabError for a name that could lead elsewhere."""
    if not NAME.fullmatch(name):
        raise LabError(f"{name!r} cannot name a run; take small letters, digits, '-' and '_', such as 'fourrooms-ppo-3'.")
    if (path := root() / name).is_symlink():
        raise LabError(f"Run {name} is a link to another place; copy the run itself to {path}.")
    return path


def find(name: str, write: bool = False) -> Run:
    """The run called `name`. LabError where there is none; where it cannot be written it is read, and `denied` says why."""
    if not (path := place(name)).is_dir():
        known = ", ".join(names())
        raise LabError(f"There is no run {name!r}; " + (f"there are {known}." if known else "begin one with `labkit train`."))
    return Run(path, write)


def free(stem: str) -> str:
    """The first of stem-1, stem-2, ... that names no run."""
    return next(name for n in range(1, 10**9) if not (root() / (name := f"{stem}-{n}")).exists())


# ---- training ----------------------------------------------------------------------------------------------------


def begin(
    algorithm: Algorithm,
    world: str,
    lanes: Lanes,
    steps: int,
    options: Mapping[str, Any] | None = None,
    every: int | None = None,
    name: str | None = None,
) -> Run:
    """A new run, open for writing, that `train` takes to `steps` environment steps per lane. Nothing is written for bad input.

    options: of `worlds.make`. every: updates from one stored learner to the next; by default there are about KEPT in all.
    """
    first = next(algorithm.run(make(world, options or {}, lanes.device), lanes))  # says how far an update goes, and whether all fits
    every = max(1, math.ceil(steps / first.step / KEPT)) if every is None else every
    content = settings(algorithm, world, dict(options or {}), lanes, steps, every)
    try:
        json.dumps(content, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise LabError(f"The options {options} of {world} cannot be stored; give numbers and words.") from error
    path = place(free(f"{world.rpartition('.')[2]}-{algorithm.paper.key}") if name is None else name)
    return Run.create(path, content)


def train(run: Run, steps: int | None = None, device: str = "cpu") -> Iterator[Snapshot]:
    """Go on with a run from what is stored up to `steps` steps per lane (its own goal), yielding each snapshot once it is taken.

    Whoever ends it early calls `run.flush()`. LabError where the disk refuses; what is stored stays.
    """
    goal = steps or run.goal
    if run.step >= goal:
        return
    for snapshot in run.snapshots(device):
        run.append(snapshot)
        yield snapshot
        if snapshot.step >= goal:
            run.flush()
            return


def fork(
    name: str,
    new: str | None = None,
    update: int | None = None,
    grid: Mapping[str, tuple[float, ...]] | None = None,
    setting: int | None = None,
    steps: int | None = None,
) -> Run:
    """A new run, open for writing, that goes on from a stored learner of another (its last), by default with the same knobs.

    setting: where the settings are not as many as before, the one that all go on from. Its `parent` says where it comes from.
    """
    old = find(name)
    learner = old.learner(update)
    entry = next(e for e in old.entries if e.update == (old.kept[-1] if update is None else update))
    start = branch(learner, grid if grid is not None else old.lanes.grid, setting)
    start.lanes.knobs(old.algorithm().knobs)
    parent = {"run": name, "update": entry.update, "step": entry.step, "check": entry.check}
    training = old.meta["training"] | {"steps": steps or max(old.goal, entry.step)}
    content = {key: old.meta[key] for key in ("algorithm", "world", "seeds")} | {"grid": dict(start.lanes.grid)}
    path = place(new or free(f"{name}-fork"))
    return Run.create(path, content | {"training": training, "parent": parent}, entry_of(0, start), learner=pack_learner(start))


def delete(name: str) -> None:
    """Delete a run. LabError where it is being written, or is not there."""
    path = place(name)
    if not (path / disk.META).exists():
        find(name)
    lock = disk.hold(path)
    try:
        disk.remove(path, lock)
    except OSError as error:
        raise LabError(f"Run {name} cannot be deleted ({error.strerror}); make its folder yours.") from error


# ---- records -----------------------------------------------------------------------------------------------------


def save(record: Record, folder: Path | str) -> Path:
    """Store a record as a run of one entry, without learners. LabError where the folder is in use or cannot be written."""
    size = (len(record.steps), len(record.lanes))
    first = {"update": size[0], "step": int(record.steps[-1]), "notes": list(record.notes)}
    content = {"algorithm": record.algorithm, "world": record.world, "seeds": list(record.lanes.seeds), "grid": dict(record.lanes.grid)}
    parts = {"metrics": pack_metrics(record.steps, record.curves, size[1]), "fields": pack_fields(record.fields)}
    Run.create(folder, content | {"training": None, "parent": None}, first, **parts).close()
    return Path(folder)


def load(folder: Path | str) -> Record:
    """The record of any run's folder; of a damaged one up to the damage, which its notes tell. LabError where nothing is left."""
    return Run(folder).record()


def compare(names: Sequence[str]) -> dict[str, Record]:
    """The records of several runs on one axis of steps, see `aligned`; any figure draws them. LabError where that cannot be."""
    return dict(zip(names, aligned([find(name).record() for name in names]), strict=True))


def aligned(records: Sequence[Record]) -> list[Record]:
    """The records' curves on one axis of steps, which all of them cover: that of the one with the fewest moments there.

    Between its moments a curve is a straight line; fields are left out. LabError where no step is common to all.
    """
    first, last = (pick(int(r.steps[end]) for r in records) for pick, end in ((max, 0), (min, -1)))
    inside = [r.steps[(r.steps >= first) & (r.steps <= last)] for r in records]
    axis = min(inside, key=len)
    if first > last or not len(axis):
        spans = "; ".join(f"{r.algorithm} in {r.world} from {r.steps[0]:,} to {r.steps[-1]:,}" for r in records)
        raise LabError(f"These runs have no step in common ({spans}); train the shorter ones further.")
    return [
        Record(r.algorithm, r.world, r.lanes, axis, {name: _at(axis, r.steps, y) for name, y in r.curves.items()}, notes=r.notes)
        for r in records
    ]


def _at(axis: torch.Tensor, steps: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """y (T, L), known at `steps` (T,), at the steps `axis` (A,) by straight lines: (A, L)."""
    right = torch.searchsorted(steps, axis).clamp_max(len(steps) - 1)
    left = torch.where(steps[right] == axis, right, (right - 1).clamp_min(0))
    share = ((axis - steps[left]) / (steps[right] - steps[left]).clamp_min(1)).to(y.dtype)[:, None]
    return torch.where(share > 0, torch.lerp(y[left], y[right], share), y[left])
