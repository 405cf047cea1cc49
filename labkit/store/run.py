"""A run in its folder: read it, add to it, go on from it."""
from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock

from labkit import worlds
from labkit.errors import LabError
from labkit.lanes import Lanes
from labkit.learner import Learner
from labkit.paper import Algorithm, changed, discover
from labkit.record import Record
from labkit.snapshot import Snapshot
from labkit.store import folder as disk
from labkit.store.folder import Damage, Entry
from labkit.store.parts import pack_learner, pack_metrics, unpack_fields, unpack_learner, unpack_metrics
from labkit.worlds.world import World

MANY = 1_000_000  # lanes that a run may say it has


class Run:
    """A run on disk. Who opens it first with `write` may append, all others read.

    entries: what is stored, oldest first. damage: a sentence if not all of it can be trusted; then `entries` are the intact
    ones before. denied: a sentence if it cannot be written, and why. A damaged run is never written: fork it.
    """

    def __init__(self, folder: Path | str, write: bool = False, lock: FileLock | None = None) -> None:
        """lock: of the folder, where it is held already. LabError where the folder holds no run that can be trusted."""
        self.folder = Path(folder)
        self.meta = disk.read_meta(self.folder)
        self.denied = "" if write else f"Run {self.name} is open for reading only; open it with write=True."
        self._lock = lock
        try:
            self.lanes = lanes_of(self.meta)
            if write and not lock:
                self._lock = disk.hold(self.folder)
        except Damage as why:
            raise LabError(f"Run {self.name} has a meta.json that no run writes ({why}); delete it or restore a copy.") from why
        except LabError as taken:
            self.denied = str(taken)
        self.entries, self.length, damage = disk.read_journal(self.folder, self.meta["check"])
        self.damage = self._sentence(damage) if damage else ""
        self._pending: list[Snapshot] = []  # updates since the last entry
        if self._lock and self.damage:
            self.close()
            self.denied = self.damage
        elif self._lock:
            disk.sweep(self.folder, self.updates)

    def _sentence(self, why: str) -> str:
        """What is damaged, what is not, and the remedy."""
        count = len(self.entries)
        if not count:
            return f"run {self.name}: damaged from its beginning ({why}); no snapshot is intact, so restore a copy or delete it."
        intact = f"first {count} snapshots are" if count > 1 else "first snapshot is"
        return (
            f"run {self.name}: damaged after step {self.step:,}; the {intact} intact ({why}), "
            f"and `labkit runs fork {self.name}` goes on from there."
        )

    # ---- reading -------------------------------------------------------------------------------------------------

    @property
    def name(self) -> str:
        """The folder's."""
        return self.folder.name

    @property
    def updates(self) -> int:
        """Stored so far."""
        return self.entries[-1].update if self.entries else 0

    @property
    def step(self) -> int:
        """Environment steps per lane, stored so far."""
        return self.entries[-1].step if self.entries else 0

    @property
    def goal(self) -> int:
        """Environment steps per lane that it was begun for; of a saved record, those that it has."""
        return self.meta["training"]["steps"] if self.meta["training"] else self.step

    @property
    def state(self) -> str:
        """In a few words."""
        if self.damage:
            return "damaged"
        if self.meta["training"] is None:
            return "a record"
        if self._lock is None and disk.held(self.folder):
            return f"held by {disk.holder(self.folder)}"
        return "done" if self.step >= self.goal else "can go on"

    @property
    def kept(self) -> list[int]:
        """The updates whose learners are stored."""
        return [entry.update for entry in self.entries if "learner" in entry.parts]

    @property
    def size(self) -> int:
        """Bytes that its parts take."""
        return sum(size for entry in self.entries for _, size in entry.parts.values())

    def record(self) -> Record:
        """Curves, and fields where they were saved. A damaged run's record ends before the damage, and its notes say so."""
        entries, size = [entry for entry in self.entries if "metrics" in entry.parts], len(self.lanes)
        if not entries:
            raise LabError(self.damage or f"Run {self.name} has no snapshot yet; `labkit train --resume {self.name}` goes on with it.")
        steps, rows = zip(*(self._part(entry, "metrics", lambda data: unpack_metrics(data, size)) for entry in entries), strict=True)
        curves = {name: torch.cat([row[name] for row in rows]) for name in rows[0]}
        saved = [entry for entry in entries if "fields" in entry.parts]  # of a saved record, the one entry that it has
        fields = [self._part(entry, "fields", lambda data: unpack_fields(data, (len(steps[0]), size))) for entry in saved]
        notes = (*self.entries[-1].notes, *([self.damage] if self.damage else []))
        joined = torch.cat(steps)
        return Record(self.meta["algorithm"], self.meta["world"], self.lanes, joined, curves, fields[0] if fields else {}, notes)

    def learner(self, update: int | None = None, device: str = "cpu") -> Learner:
        """The learner after an update, or the last one that is stored. LabError names those that are."""
        found = {entry.update: entry for entry in self.entries if "learner" in entry.parts}
        if not found:
            raise LabError(self.damage or f"Run {self.name} keeps no learner; name a run that was trained to disk.")
        entry = found.get(max(found) if update is None else update)
        if entry is None:
            raise LabError(f"Run {self.name} keeps no learner of update {update}; it keeps those of updates {', '.join(map(str, found))}.")
        return self._part(entry, "learner", lambda data: unpack_learner(data, replace(self.lanes, device=device)))

    def _part(self, entry: Entry, kind: str, unpack: Any) -> Any:
        try:
            return unpack(disk.read_part(self.folder, entry, kind))
        except Damage as why:
            file = disk.part_name(kind, entry.update)
            raise LabError(f"Run {self.name} is damaged at step {entry.step:,} ({file}: {why}); restore a copy or delete it.") from why

    # ---- going on ------------------------------------------------------------------------------------------------

    def algorithm(self) -> Algorithm:
        """The method with the shape and the defaults that it was begun with. LabError where this labkit has no such method."""
        told, found = self._training(), discover()
        try:
            base = found[self.meta["algorithm"]]
            knobs = {name: replace(base.knobs[name], default=value) for name, value in told["knobs"].items()}
            return shaped(replace(base, knobs=knobs), told["shape"] or {})
        except (KeyError, LabError) as error:
            what = f"{self.meta['algorithm']!r} as labkit {self.meta['versions'].get('labkit')} had it ({error})"
            raise LabError(f"Run {self.name} needs {what}; install that version to go on.") from error

    def world(self, device: str = "cpu") -> World:
        """The world, made again. LabError where this labkit has no such world, or it takes other options."""
        return make(self.meta["world"], self._training()["options"], device)

    def _training(self) -> dict[str, Any]:
        if self.meta["training"] is None:
            raise LabError(f"Run {self.name} is a saved record, without learners to go on from; begin a run with `labkit train`.")
        return self.meta["training"]

    def snapshots(self, device: str = "cpu") -> Iterator[Snapshot]:
        """What follows upon the last stored learner, bit for bit as if nothing had come between, for ever."""
        algorithm = self.algorithm()
        start = self.learner(device=device) if self.entries else None
        return algorithm.run(self.world(device), replace(self.lanes, device=device), start)

    # ---- writing -------------------------------------------------------------------------------------------------

    @classmethod
    def create(cls, folder: Path | str, content: dict[str, Any], first: dict[str, Any] | None = None, **parts: bytes) -> Run:
        """A new run of these settings, open for writing, with a `first` entry where one is given.

        It is there once its meta.json is, which comes last. LabError where the folder is in use or cannot be written.
        """
        folder = Path(folder)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            lock = disk.hold(folder)
            try:
                disk.clear(folder)
                versions = {name: version(name) for name in ("labkit", "torch")}
                meta = disk.make_meta(content | {"created": disk.now(), "versions": versions})
                disk.write_at(folder / disk.JOURNAL, 0, b"")
                if first:
                    disk.write_entry(folder, first, parts, meta["check"], 0)
                disk.write_meta(folder, meta)
                disk.sync(folder.parent)
                return cls(folder, True, lock)
            except BaseException:
                disk.release(folder, lock)
                raise
        except OSError as error:
            raise LabError(f"{folder} cannot be written ({error.strerror}); free some space, or make it yours.") from error

    def append(self, snapshot: Snapshot) -> None:
        """Take the next snapshot: its metrics, and of every `every`-th update the learner; then both are written.

        LabError if the disk refuses: the run is as it was before, and the same snapshot may be given again.
        """
        if self._lock is None:
            raise LabError(self.denied)
        snapshots = [*self._pending, snapshot]
        if (self.updates + len(snapshots)) % self._training()["every"] == 0:
            self._commit(snapshots)
        else:
            self._pending = snapshots

    def flush(self) -> None:
        """Write what was appended since the last learner, with the learner of now."""
        if self._pending:
            self._commit(self._pending)

    def _commit(self, snapshots: list[Snapshot]) -> None:
        last = snapshots[-1]
        curves = {name: torch.stack([s.metrics[name].detach().cpu() for s in snapshots]) for name in last.metrics}
        steps = torch.tensor([s.step for s in snapshots])
        parts = {"learner": pack_learner(last.learner), "metrics": pack_metrics(steps, curves, len(self.lanes))}
        if (size := max(map(len, parts.values()))) > disk.LARGEST:
            raise LabError(f"A snapshot of run {self.name} takes {size >> 20:,} MiB, more than {disk.LARGEST >> 20:,}; take fewer lanes.")
        above = self.entries[-1].check if self.entries else self.meta["check"]
        content = entry_of(self.updates + len(snapshots), last.learner)
        try:
            entry, self.length = disk.write_entry(self.folder, content, parts, above, self.length)
        except OSError as error:
            raise LabError(
                f"Run {self.name} could not store step {last.step:,} ({error.strerror}); what it has up to step {self.step:,} is intact: "
                "free some space or make its folder yours, then go on."
            ) from error
        self.entries.append(entry)
        self._pending = []

    def close(self) -> None:
        """Let others write. What is not yet stored is forgotten: `flush` first."""
        if self._lock:
            disk.release(self.folder, self._lock)
            self._lock, self.denied = None, f"Run {self.name} was closed; open it again with write=True."

    def __enter__(self) -> Run:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def shaped(algorithm: Algorithm, shape: Mapping[str, float]) -> Algorithm:
    """The method with these settings of its shape. LabError names those that it has."""
    if not shape:
        return algorithm
    old = getattr(algorithm, "shape", None)
    known = asdict(old) if old else {}
    if wrong := [f"{name}={value}" for name, value in shape.items() if name not in known or not _fits(value, known[name])]:
        sizes, shares = ([name for name, value in known.items() if isinstance(value, kind)] for kind in (int, float))
        has = f"whole numbers of 1 or more for {', '.join(sizes)}" if sizes else "none"
        has += f", and a number for {', '.join(shares)}" if shares else ""
        raise LabError(f"{algorithm.paper.key} cannot have the shape {' '.join(wrong)}; it takes {has}.")
    return replace(algorithm, shape=replace(old, **shape))  # type: ignore[call-arg, type-var]


def _fits(value: Any, default: float) -> bool:
    """Can a setting of a shape that is `default` be this?"""
    return type(value) is int and value >= 1 if isinstance(default, int) else type(value) in (int, float)


def make(world: str, options: Mapping[str, Any], device: str) -> World:
    """A world on a device, which worlds need be told only where it is not the CPU."""
    return worlds.make(world, **options, **({} if device == "cpu" else {"device": device}))


def entry_of(update: int, learner: Learner) -> dict[str, Any]:
    """A line of the journal, but for its parts."""
    return {"update": update, "step": learner.step, "notes": list(learner.notes)}


def settings(algorithm: Algorithm, world: str, options: dict[str, Any], lanes: Lanes, steps: int, every: int) -> dict[str, Any]:
    """All that decides a run, as meta.json holds it. LabError where a folder could not bring it back."""
    key, base = algorithm.paper.key, discover().get(algorithm.paper.key)
    if base is None or (own := changed(algorithm, base)):
        what = f"{key!r} has slots of its own: {', '.join(own)}" if base else f"there is no {key!r}"
        raise LabError(f"A run on disk trains a method that `labkit papers` lists, and {what}.")
    if steps < 1 or every < 1:
        raise LabError(f"A run takes at least 1 step and keeps a learner every 1 update or more; got steps={steps}, every={every}.")
    shape = getattr(algorithm, "shape", None)
    knobs = {name: knob.default for name, knob in algorithm.knobs.items()}
    training = {"options": options, "shape": shape and asdict(shape), "knobs": knobs, "every": every, "steps": steps}
    return {"algorithm": key, "world": world, "seeds": list(lanes.seeds), "grid": dict(lanes.grid), "training": training, "parent": None}


def lanes_of(meta: dict[str, Any]) -> Lanes:
    """The lanes of a run. Damage where meta.json holds what no run writes."""

    def whole(value: Any) -> bool:
        return type(value) is int and value >= 1

    def table(value: Any, *kinds: type) -> bool:
        return isinstance(value, dict) and all(type(v) in kinds for v in value.values())

    try:
        told, parent = meta["training"], meta["parent"]
        fine = all(isinstance(meta[name], str) for name in ("algorithm", "world", "created")) and table(meta["versions"], str)
        if parent is not None:
            fine = fine and isinstance(parent["run"], str) and type(parent["step"]) is type(parent["update"]) is int
        if told is not None:
            fine = fine and isinstance(told["options"], dict) and table(told["knobs"], int, float)
            fine = fine and whole(told["every"]) and whole(told["steps"]) and (told["shape"] is None or table(told["shape"], int, float))
        count = len(meta["seeds"]) * math.prod(map(len, meta["grid"].values()))
        lanes = Lanes(tuple(meta["seeds"]), meta["grid"])
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise Damage("something is missing or of another kind") from error
    if not fine or count > MANY:
        raise Damage("something is of another kind" if not fine else f"it has {count:,} lanes, more than {MANY:,}")
    return lanes
