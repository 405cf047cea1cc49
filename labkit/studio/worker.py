"""Runs in processes of their own: a page stays awake while they compute, and no run takes another's core."""
import json
import logging
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from multiprocessing import forkserver
from multiprocessing.connection import Connection
from typing import Any

import torch
from safetensors.torch import load, save
from torch import Tensor

from labkit.errors import LabError
from labkit.paper import discover
from labkit.record import Record, Recorder
from labkit.studio.limits import Limits
from labkit.studio.live import Training, sentence
from labkit.studio.study import Settings

CORES = max(1, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)
TURN = 10.0  # seconds that a run keeps its core while others wait
NICE = 10  # below the server, whose pages must answer
ROW_BYTES = 256 * 2**20  # the most that a child may send at once; study.SPACE keeps rows below it

log = logging.getLogger(__name__)
_context = multiprocessing.get_context("forkserver")


def warm_up() -> None:
    """Begin the process that all others are forked from, with all methods loaded: a run then starts in a fraction of a second."""
    discover()
    core = [name for name in sys.modules if name.startswith("labkit.") and not name.startswith("labkit.studio.")]
    _context.set_forkserver_preload(["labkit.studio.worker", *core])
    forkserver.ensure_running()


# ---- the child ---------------------------------------------------------------------------------------------------


def _child(pipe: Connection) -> None:
    """Compute a run: one update for every str(settings) that comes, until the pipe closes or the server has ended."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C goes to the server, which ends its children
    threading.Thread(target=end_with_the_server, daemon=True).start()
    os.nice(NICE)
    torch.set_num_threads(1)
    rows = _rows(iter(lambda: pipe.recv_bytes().decode(), ""))
    try:
        while True:
            begun = time.process_time()
            about, tensors = next(rows)
            about["seconds"] = time.process_time() - begun
            pipe.send_bytes(json.dumps(about).encode())
            if tensors is not None:
                pipe.send_bytes(tensors)
    except (EOFError, OSError, StopIteration):
        return  # nobody listens any more, or the run has failed


def end_with_the_server() -> None:
    """In a thread of the child, which may be deep in an update: the server may have been killed."""
    server = multiprocessing.parent_process()
    assert server is not None
    server.join()
    os._exit(1)


def _rows(texts: Iterator[str]) -> Iterator[tuple[dict[str, Any], bytes | None]]:
    """For each str(settings) what to say of an update, and its tensors; at last, where it fails, a sentence.

    Where they are other settings than before, the run goes on with them from where it is.
    """
    done, was, learner = 0, "", None
    for text in texts:
        try:
            if text != was:
                settings, was = Settings.read(text), text
                parts = settings.parts()
                fields, run = settings.fields(*parts), parts[0].run(*parts[1:], learner)
            snapshot = next(run)
            row = Recorder(*parts, fields=fields)
            row.add(snapshot)
            learner = snapshot.learner
            yield {"step": snapshot.step, "notes": row.notes}, pack(row.record())
            done += 1
        except Exception as error:
            log.exception("The run of %s failed", text)
            yield {"error": sentence(error, settings.algorithm, settings.world, done)}, None
            return


def pack(row: Record) -> bytes:
    """The curves and fields of a record of one moment."""
    groups = {"curves": row.curves, "fields": row.fields}
    return save({f"{group}/{name}": rows[0].contiguous() for group, named in groups.items() for name, rows in named.items()})


# ---- the server's side -------------------------------------------------------------------------------------------


class Line:
    """Whose turn it is: at most `cores` runs compute at once, and others wait in line for at most a TURN each."""

    def __init__(self, cores: int = CORES) -> None:
        self._free, self._change = cores, threading.Condition()
        self._waiting: list[object] = []
        self._since: dict[object, float] = {}  # who has a core, and since when

    def before(self, who: object) -> int | None:
        """How many wait before it; None where it does not wait."""
        with self._change:
            return self._waiting.index(who) if who in self._waiting else None

    @property
    def busy(self) -> int:
        """How many compute or wait."""
        return len(self._since) + len(self._waiting)

    def take(self, who: object, wanted: Callable[[], bool]) -> bool:
        """Wait for a core, as long as it is wanted. True with a core; at once for who has one already."""
        with self._change:
            if who in self._since:
                return True
            self._waiting.append(who)
            while wanted() and (not self._free or self._waiting[0] is not who):
                self._change.wait(0.1)
            self._waiting.remove(who)
            if wanted():
                self._free -= 1
                self._since[who] = time.monotonic()
            self._change.notify_all()
            return who in self._since

    def give(self, who: object, turn: bool = False) -> None:
        """Give a core back; with `turn`, only where others wait and its turn is over. Without effect for who has none."""
        with self._change:
            begun = self._since.get(who)
            if begun is None or (turn and (not self._waiting or time.monotonic() - begun < TURN)):
                return
            del self._since[who]
            self._free += 1
            self._change.notify_all()


LINE = Line()
LIMITS = Limits()


class WorkerRun(Training):
    """A run that computes in a process of its own, begun with its first update, and waits in line for a core.

    A child that is killed or crashes fails the run with a sentence; what was recorded stays. So does a run that would take
    more than limits.run environment steps over all lanes, after its first update. `spend` is told after every update how
    many it took; where it raises LabError the run pauses with that sentence. `pace`: seconds that an update takes at least.
    """

    def __init__(
        self, settings: Settings, limits: Limits = LIMITS, spend: Callable[[int], None] = lambda steps: None, line: Line | None = None
    ) -> None:
        settings.check()
        super().__init__(Recorder(*settings.parts()), settings.updates, limits.seconds)
        self.settings, self.limits, self.spend, self.line = settings, limits, spend, line or LINE
        self.pace, self._next, self.asked = 0.0, 0.0, 0  # updates that the child was asked for
        self._pipe: Connection | None = None
        self.process: Any = None

    def stop(self, why: str = "") -> None:
        """End the run at once: an update that is under way is lost. What was recorded stays."""
        super().stop(why)
        if self.process:
            self.process.kill()

    def _advance(self) -> float:
        stepping = self.state == "paused"
        if not stepping and not self._in_time():
            return 0.0
        if not self.line.take(self, lambda: not self.over and (stepping or self.state == "running")):
            return 0.0
        try:
            about, tensors = self._ask()
        except (EOFError, OSError) as error:
            if self.over:
                return 0.0  # it was stopped
            raise LabError(self._lost()) from error
        finally:
            self.line.give(self, turn=True)
        self._add(about, tensors)
        return about["seconds"]

    def _in_time(self) -> bool:
        """Wait for the next update's time, without a core. False where it is no longer wanted."""
        if self.pace:
            self.line.give(self)
            with self._change:
                self._change.wait_for(lambda: self.state != "running", self._next - time.monotonic())
            self._next = time.monotonic() + self.pace
        return self.state == "running"

    def _ask(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """What the child says of its next update. EOFError or OSError where it has gone."""
        if self._pipe is None:
            self._pipe, theirs = _context.Pipe()
            process = _context.Process(target=_child, args=(theirs,), daemon=True)
            process.start()
            theirs.close()
            self.process = process  # once there is something to kill
        with self._change:
            self.asked, text = self.asked + 1, str(self.settings)
        self._pipe.send_bytes(text.encode())
        about = json.loads(self._pipe.recv_bytes(ROW_BYTES))
        if "error" in about:
            raise LabError(about["error"])
        return about, load(self._pipe.recv_bytes(ROW_BYTES))

    def _lost(self) -> str:
        self.process.join(5)
        done = f"{self.algorithm.paper.key} on {self.world.key} ended after {self.moments} updates"
        return f"The process of {done} (exit code {self.process.exitcode}); what it recorded is kept, and Train begins it anew."

    def _add(self, about: dict[str, Any], tensors: dict[str, Tensor]) -> None:
        kept = self._recorder
        steps = about["step"] - (kept.steps[-1] if kept.steps else 0)
        for name, value in tensors.items():
            group, name = name.split("/", 1)
            getattr(kept, group).setdefault(name, []).append(value)
        kept.notes = tuple(about["notes"])
        kept.steps.append(about["step"])  # last: so many rows are whole
        try:
            self.spend(steps * len(self.lanes))
        except LabError as error:
            self._hold(str(error))
        planned = self.updates * len(self.lanes) * kept.steps[0]
        if planned > self.limits.run:
            raise LabError(f"This run would take {planned:,} steps over all lanes, more than {self.limits.run:,}; take fewer updates.")

    def _rests(self) -> None:
        self.line.give(self)

    def _ended(self) -> None:
        self.line.give(self)
        if self._pipe:
            self._pipe.close()
        if self.process:
            self.process.kill()
            self.process.join()


def steer(runs: Sequence[WorkerRun], change: Callable[[Settings, int], Settings]) -> None:
    """Change the settings of several runs, from an update on that none of them has begun: change(settings, its number from 0)."""
    with ExitStack() as held:
        for run in runs:
            held.enter_context(run._change)
        begun = max(run.asked for run in runs)
        for run in runs:
            run.settings = change(run.settings, begun)
