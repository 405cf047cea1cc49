"""Runs that train in the background: start, pause, step, stop, fork; read them at any moment."""
import atexit
import copy
import logging
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Mapping

import torch
from torch import Tensor

from labkit.errors import LabError
from labkit.lanes import Lanes
from labkit.learner import Learner, branch
from labkit.meter import DriftMeter
from labkit.paper import Algorithm
from labkit.record import Record, Recorder
from labkit.snapshot import Snapshot
from labkit.worlds.world import World

KEPT = 64  # learners kept to fork from, at most
KEPT_BYTES = 256 * 2**20  # and what they may weigh together

log = logging.getLogger(__name__)
_begun: "weakref.WeakSet[Training]" = weakref.WeakSet()


@atexit.register
def stop_all() -> None:
    """End every run of this process: an interpreter that exits under a thread at work aborts."""
    for run in list(_begun):
        run.stop()
    for run in list(_begun):
        if run.thread:
            run.thread.join(10)


class Training:
    """Training in the background, read through a Recorder; a subclass says where it is computed.

    It goes on for so many `updates`, and computes for at most `seconds`. Nothing here waits for the thread, except `wait`;
    every method may be called from any thread. `version` grows with every change that a view would want to show.

    state: idle, running, paused, done (a cap was reached), stopped or failed. `error` says in a sentence why it failed, or
    why it paused or stopped by itself.
    """

    def __init__(self, recorder: Recorder, updates: int, seconds: float) -> None:
        self.algorithm, self.world, self.lanes = recorder.algorithm, recorder.world, recorder.lanes
        self.lanes.knobs(self.algorithm.knobs)  # a wrong knob is told now, not in the thread
        if updates < 1 or not seconds > 0:  # NaN is no time either
            raise LabError(f"A live run needs at least 1 update and some time; got updates={updates}, seconds={seconds:g}.")
        self.updates, self.seconds = updates, seconds
        self.state, self.error, self.version, self.spent = "idle", "", 0, 0.0
        self._recorder = recorder
        self._latest: Record | None = None
        self._change = threading.Condition()
        self._owed = 0  # single steps that were asked for
        self._busy = False  # is an update under way?
        self.thread: threading.Thread | None = None

    def _advance(self) -> float:
        """In the thread: one update, recorded, and the seconds that it took. May leave it at `_hold`."""
        raise NotImplementedError

    def _rests(self) -> None:
        """In the thread: no update is wanted for now."""

    def _ended(self) -> None:
        """In the thread: no update will ever be wanted."""

    # ---- controls: each only says what is wanted -----------------------------------------------------------------

    def start(self) -> None:
        """Begin, or go on after a pause. Without effect once the run is over."""
        self._want("running")

    resume = start

    def pause(self) -> None:
        """Finish the update that is under way, then wait."""
        self._want("paused")

    def step(self) -> None:
        """Exactly one update, then wait."""
        self._want("paused", owed=1)

    def stop(self, why: str = "") -> None:
        """End the run after the update that is under way, with a sentence for `error`. What was recorded stays."""
        self._want("stopped", why=why)

    def _want(self, state: str, owed: int = 0, why: str = "") -> None:
        with self._change:
            if self.over or (self.state == "idle" and state == "paused" and not owed):
                return
            self.state, self.error = state, why
            self._owed = self._owed + owed if state == "paused" else 0
            self._told()
            if self.thread is None and state != "stopped":
                self.thread = threading.Thread(target=self._work, name=f"live {self.algorithm.paper.key}", daemon=True)
                _begun.add(self)
                self.thread.start()

    def _told(self) -> None:
        self.version += 1
        self._change.notify_all()

    # ---- what a view reads ---------------------------------------------------------------------------------------

    @property
    def over(self) -> bool:
        """Has it ended, for whatever reason?"""
        return self.state in ("done", "stopped", "failed")

    @property
    def moments(self) -> int:
        """How many snapshots are recorded."""
        return len(self._recorder.steps)

    @property
    def progress(self) -> tuple[int, int]:
        """Updates done, and the cap on them."""
        return self.moments, self.updates

    def record(self) -> Record:
        """The record so far, immutable. LabError before the first snapshot."""
        count = self.moments
        if self._latest is None or len(self._latest.steps) != count:
            self._latest = self.part(0, count)
        return self._latest

    def part(self, first: int, end: int, fields: bool = True) -> Record:
        """The record of moments first .. end - 1 alone, and without its fields where they are not asked for: cheap."""
        rows = slice(first, min(end, self.moments))  # the Recorder appends to its steps last: so many rows are whole
        view = copy.copy(self._recorder)
        view.steps = view.steps[rows]
        view.curves = {name: values[rows] for name, values in view.curves.items()}
        view.fields = {name: view.fields[name][rows] for name in view.fields if fields}
        return view.record()

    def wait(self, timeout: float | None = None, moments: int = 0) -> bool:
        """Block until nothing is under way, or until so many moments are recorded. False if `timeout` seconds pass first."""

        def settled() -> bool:
            still = not self._busy and (self.over or self.state == "idle" or (self.state == "paused" and not self._owed))
            return self.moments >= moments > 0 or still

        with self._change:
            return self._change.wait_for(settled, timeout)

    def changed(self, version: int, timeout: float) -> bool:
        """Block until `version` has grown beyond the one given. False if `timeout` seconds pass first."""
        with self._change:
            return self._change.wait_for(lambda: self.version > version, timeout)

    # ---- the thread ----------------------------------------------------------------------------------------------

    def _work(self) -> None:
        try:
            while self._may_go_on():
                self._rest(self._advance())
        except Exception as error:
            log.exception("The run of %s on %s failed", self.algorithm.paper.key, self.world.key)
            self._fail(sentence(error, self.algorithm.paper.key, self.world.key, self.moments))
        finally:
            self._ended()

    def _may_go_on(self) -> bool:
        """Wait for permission for one more update; False once the run is over."""
        with self._change:
            if not self.over and (self.moments >= self.updates or self.spent >= self.seconds):
                self.state = "done"
                self._told()
            if not self._wanted():
                self._rests()
            self._change.wait_for(lambda: self.over or self._wanted())
            self._busy, self._owed = not self.over, max(0, self._owed - 1)
            return self._busy

    def _wanted(self) -> bool:
        return self.state == "running" or self._owed > 0

    def _rest(self, seconds: float) -> None:
        with self._change:
            self.spent, self._busy = self.spent + seconds, False
            self._told()

    def _hold(self, why: str) -> None:
        """Pause by itself, and say why."""
        with self._change:
            if not self.over:
                self.state, self.error, self._owed = "paused", why, 0

    def _fail(self, why: str) -> None:
        with self._change:
            self.state, self.error, self._busy = "failed", why, False
            self._told()


def sentence(error: Exception, algorithm: str, world: str, updates: int) -> str:
    """What to say of an error that ended a run."""
    if isinstance(error, LabError):
        return str(error)
    return f"{algorithm} on {world} failed after {updates} updates: {type(error).__name__} {error}".split("\n")[0] + "."


class LiveRun(Training):
    """`algorithm.run(world, lanes, start)` in a thread of its own; it can be forked.

    Meters are copied, so that a fork starts with fresh ones. `sink` is given every snapshot before it is recorded; where it
    raises LabError the run pauses with that sentence, and gives it the same snapshot again once it goes on.
    """

    def __init__(
        self,
        algorithm: Algorithm,
        world: World,
        lanes: Lanes,
        updates: int = 200,
        seconds: float = 600.0,
        start: Learner | None = None,
        meters: Mapping[str, DriftMeter] | None = None,
        fields: Mapping[str, Callable[[Snapshot], Tensor]] | None = None,
        sink: Callable[[Snapshot], None] | None = None,
    ) -> None:
        self.meters, self.fields = dict(meters or {}), dict(fields or {})
        super().__init__(Recorder(algorithm, world, lanes, copy.deepcopy(self.meters), self.fields), updates, seconds)
        self.origin, self.sink = start, sink
        self.learners: dict[int, Learner] = {}  # by moment of the record; never written into once it is kept
        self._stride = 1
        self._snapshots: Iterator[Snapshot] | None = None
        self._next: Snapshot | None = None  # made, and not yet taken by the sink

    def anew(self, grid: Mapping[str, tuple[float, ...]]) -> "LiveRun":
        """A new run from the same beginning, with other knobs and the same seeds. LabError where a fork would change its lanes."""
        lanes = Lanes(self.lanes.seeds, grid, self.lanes.device)
        if self.origin and len(lanes) != len(self.lanes):
            raise LabError(f"This run goes on from {len(self.lanes)} lanes, and cannot begin anew with {len(lanes)}; fork it again.")
        return LiveRun(self.algorithm, self.world, lanes, self.updates, self.seconds, self.origin, self.meters, self.fields)

    def fork(self, moment: int, grid: Mapping[str, tuple[float, ...]], setting: int | None = None) -> "LiveRun":
        """A new run that goes on from a moment of this one, with other knobs and the same seeds.

        Lane k goes on from lane k; with `setting`, every setting of `grid` goes on from that one of this run. LabError
        where the learner of that moment was not kept, or the settings are not as many as here.
        """
        with self._change:
            learner, kept = self.learners.get(moment), sorted(self.learners)
        if learner is None:
            near = min(kept, key=lambda m: abs(m - moment), default=None)
            remedy = "train first." if near is None else f"the nearest that can be forked is {near}."
            raise LabError(f"The learner of moment {moment} is not at hand; {remedy}")
        start = branch(learner, grid, setting)
        return LiveRun(self.algorithm, self.world, start.lanes, self.updates, self.seconds, start, self.meters, self.fields)

    def _advance(self) -> float:
        begun = time.perf_counter()
        if self._snapshots is None:
            torch.set_num_threads(1)
            self._snapshots = self.algorithm.run(self.world, self.lanes, self.origin)
        snapshot = self._next = self._next or next(self._snapshots)
        try:
            if self.sink:
                self.sink(snapshot)
        except LabError as error:
            self._hold(str(error))
        else:
            self._next = None
            self._keep(snapshot)
        return time.perf_counter() - begun

    def _ended(self) -> None:
        self._snapshots = self._next = None

    def _keep(self, snapshot: Snapshot) -> None:
        self._recorder.add(snapshot)
        moment, size = self.moments - 1, sum(t.nbytes for t in snapshot.learner.pack()[0].values())
        with self._change:
            kept = {m: learner for m, learner in self.learners.items() if m % self._stride == 0}
            while len(kept) >= min(KEPT, max(2, KEPT_BYTES // size)):
                self._stride *= 2
                kept = {m: learner for m, learner in kept.items() if m % self._stride == 0}
            self.learners = kept | {moment: snapshot.learner}
