"""Do the tests bite? Mutants of the code that decides results, the tests that reach them, and the share that is killed.

A pytest session collects the tests once. Each mutant then stands in for its function in a fork of that session, where only
the tests that reach the function run, quickest first, until one fails. A mutant of a paper's change that the tests let live
is put to the paper's claim, if that is held: a claim that a mutant still holds says little.
"""
import gc
import os
import resource
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from inspect import isfunction, unwrap
from multiprocessing import connection, get_context
from pathlib import Path
from types import CodeType
from typing import Any

from tqdm import tqdm

from labkit.claims.ledger import check_of, latest
from labkit.claims.mutation import Mutant, methods, mutants, path_of
from labkit.errors import LabError
from labkit.files import ROOT
from labkit.paper import Algorithm, changed, discover, slots

MEASURES = ("labkit.divergence", "labkit.stats")
FAST = 2.0  # CPU seconds: a test that takes longer is not asked
MEMORY = 4 << 30  # bytes of data that a fork may hold


@dataclass(frozen=True)
class Identity:
    """The mutant of a paper whose slot is its base's again."""

    key: str
    slot: str

    def install(self) -> None:
        """Give the paper its base's piece, in this process: meant for a fork."""
        found = discover()
        method = found[self.key]
        object.__setattr__(method, self.slot, getattr(found[method.paper.base], self.slot))

    def __str__(self) -> str:
        return f"{self.key}: its {self.slot} is its base's"


Change = Mutant | Identity


@dataclass(frozen=True)
class Score:
    """Of the mutants of a module or of a paper's change: how many there are, how many the tests kill, and which ones live."""

    name: str
    total: int
    killed: int
    alive: list[str]  # file:line: what was changed
    held: list[str] | None  # those of them that the paper's claim survives; None where no claim is held

    @property
    def share(self) -> float:
        """killed / total."""
        return self.killed / self.total


# ---- what is mutated --------------------------------------------------------------------------------------------


def reached(start: Sequence[Callable[..., Any]], package: str) -> set[tuple[str, str]]:
    """(module, name) of the functions of a package that `start` call, directly or through one another, themselves included."""
    found: set[tuple[str, str]] = set()
    queue = list(start)
    while queue:
        f = unwrap(queue.pop())
        if isfunction(f) and f.__module__.startswith(package) and (f.__module__, f.__qualname__) not in found:
            found.add((f.__module__, f.__qualname__))
            queue += [f.__globals__[name] for name in _names(f.__code__) if callable(f.__globals__.get(name))]
    return found


def _names(code: CodeType) -> set[str]:
    return set(code.co_names).union(*(_names(c) for c in code.co_consts if isinstance(c, CodeType)))


def package(method: Algorithm) -> str:
    """The family's package, such as labkit.on_policy."""
    return type(method).__module__.rpartition(".")[0]


def change(method: Algorithm, base: Algorithm | None) -> set[tuple[str, str]]:
    """(module, name) of the functions that a paper brings: what its changed slots call and its base's slots do not."""
    own = slots(method)
    names = changed(method, base) if base else list(own)
    known = reached(list(slots(base).values()), package(method)) if base else set()
    return reached([own[name] for name in names], package(method)) - known


def of_family(name: str, found: dict[str, Algorithm]) -> list[Mutant]:
    """The mutants of all that decides what a family's methods do: their slots, what these call, and the family's loop."""
    own = [method for method in found.values() if package(method) == name]
    pieces = set().union(*(reached(list(slots(method).values()), name) for method in own))
    pieces |= {(module, method) for module in {type(method).__module__ for method in own} for method in methods(module)}
    return _mutants(pieces)


def of_paper(key: str, found: dict[str, Algorithm]) -> list[Change]:
    """The mutants of a paper's change: its slots given back to its base one by one, and each function that it brings."""
    method = found[key]
    base = found.get(method.paper.base)
    given = [Identity(key, slot) for slot in changed(method, base)] if base else []
    return [*given, *_mutants(change(method, base))]


def by_module(changes: Sequence[Mutant]) -> dict[str, list[Change]]:
    """Mutants sorted by the module that they are in."""
    return {module: [m for m in changes if m.module == module] for module in sorted({m.module for m in changes})}


def _mutants(pieces: set[tuple[str, str]]) -> list[Mutant]:
    return [m for module in sorted({module for module, _ in pieces}) for m in mutants(module, {f for m, f in pieces if m == module})]


# ---- running the tests on them ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Cost:
    """What a test takes, in CPU seconds, and where the functions begin that it calls: (file, line)."""

    seconds: float
    calls: frozenset[tuple[Path, int]]

    def reaches(self, mutant: Mutant) -> bool:
        """Does the test call the function, or one inside it?"""
        file, (first, last) = path_of(mutant.module), mutant.span
        return any(first <= line <= last and where == file for where, line in self.calls)


class Bite:
    """A pytest plugin that runs the collected tests for every change in place of once. killed: what became of each."""

    def __init__(self, changes: Sequence[Change], jobs: int) -> None:
        self.changes, self.jobs = changes, jobs
        self.killed: list[bool] = []
        self.broken = ""  # a test that fails though nothing is wrong
        self.clock: Clock | None = None  # while tests are measured
        self.reports: list[Any] = []
        self.items: dict[str, Any] = {}
        self.costs: dict[str, Cost] = {}
        self.chosen: dict[int, list[str]] = {}
        self.kills: Counter[tuple[str, str]] = Counter()

    def pytest_runtest_makereport(self, call: Any) -> None:
        """Called in the forks, when a phase of a test is over. A failure that came in time counts, however long its report takes."""
        if call.excinfo and self.clock:
            self.clock.halt()

    def pytest_runtest_logreport(self, report: Any) -> None:
        """Called in the forks, for each phase of a test."""
        self.reports.append(report)

    def pytest_runtestloop(self, session: Any) -> bool:
        """Measure the tests, then put the changes to those that reach them."""
        if session.testsfailed:
            raise session.Interrupted("tests cannot be collected")
        self.items = {item.nodeid: item for item in session.items}
        self.costs = self.measured(session.items)
        if not self.broken:
            gc.freeze()  # a collection in a fork would copy all memory
            codes = forks(len(self.changes), self.work, self.ended, self.jobs)
            self.killed = [code != ALIVE for code in codes]
            self.broken = next((f"{change} fits nowhere" for change, code in zip(self.changes, codes, strict=True) if code == BROKEN), "")
        return True

    def work(self, i: int) -> Callable[[], int]:
        """What a fork does about change i: first the tests that killed its like, then the quickest."""
        change, costs = self.changes[i], self.costs
        own = [name for name in costs if f"/test_{change.key}.py::" in name] if isinstance(change, Identity) else []
        chosen = own or [name for name, cost in costs.items() if isinstance(change, Identity) or cost.reaches(change)]
        self.chosen[i] = sorted(chosen, key=lambda name: (-self.kills[_place(change), name], costs[name].seconds))
        return partial(self.attack, change, self.chosen[i])

    def ended(self, i: int, code: int) -> None:
        """Remember which test killed."""
        if 0 < code < UNFIT:
            self.kills[_place(self.changes[i]), self.chosen[i][code - 1]] += 1

    def attack(self, change: Change, names: Sequence[str]) -> int:
        """Put the change in place and run tests until one fails or takes many times as long as it should: its number, from 1."""
        try:
            change.install()
        except ImportError:
            return UNFIT
        except Exception:
            return BROKEN
        for i, name in enumerate(names, 1):
            killed = min(i, UNFIT - 1)
            signal.signal(signal.SIGPROF, lambda *_, code=killed: os._exit(code))
            signal.setitimer(signal.ITIMER_PROF, 1 + 5 * self.costs[name].seconds)
            try:
                if not self.passes(self.items[name]):
                    return killed
            except BaseException:  # such as a test that calls pytest.exit
                return killed
        return ALIVE

    def passes(self, item: Any) -> bool:
        """Run one test."""
        self.reports.clear()
        item.ihook.pytest_runtest_protocol(item=item, nextitem=None)
        return not any(report.failed for report in self.reports)

    def measured(self, items: Sequence[Any]) -> dict[str, Cost]:
        """What each fast test costs, found in forks; `broken` names one that fails though nothing is wrong."""
        costs, left = dict[str, Cost](), list(items)
        while left and not self.broken:
            here, there = get_context("fork").Pipe(duplex=False)
            child = get_context("fork").Process(target=_fork, args=(partial(self.measure, left, there),))
            child.start()
            there.close()
            try:
                found, done, self.broken = here.recv()
                costs, left = costs | found, left[done:]
            except EOFError:
                self.broken = "A test ends the process"
            child.join()
        return costs

    def measure(self, items: Sequence[Any], out: Any) -> int:
        """Send the costs of tests up to the first slow one, how many were tried, and the name of one that fails.

        A test that was stopped leaves its set-up standing, so those after it are for a fresh fork.
        """
        costs, done, broken = dict[str, Cost](), 0, ""
        files = {str(path): path for path in {path_of(m.module) for m in self.changes if isinstance(m, Mutant)}}
        for item in items:
            self.clock = clock = Clock()
            passed = False
            with clock:
                passed = self.passes(item)
            done += 1
            if clock.late:
                break
            if not passed:
                broken = f"{item.nodeid} fails though nothing is wrong"
                break
            costs[item.nodeid] = Cost(clock.seconds, frozenset((files[file], line) for file, line in clock.calls if file in files))
        out.send((costs, done, broken))
        return ALIVE


class Clock:
    """Around a test: its CPU seconds, the functions it calls, and whether it was stopped for being `late`, slower than FAST."""

    def __init__(self) -> None:
        self.calls, self.late, self.seconds = set[tuple[str, int]](), False, 0.0

    def __enter__(self) -> None:
        self.begun = time.process_time()
        signal.signal(signal.SIGPROF, self.stop)
        signal.setitimer(signal.ITIMER_PROF, FAST)
        sys.settrace(lambda frame, event, arg: self.calls.add((frame.f_code.co_filename, frame.f_code.co_firstlineno)))

    def __exit__(self, kind: type | None, *_: object) -> bool:
        sys.settrace(None)
        self.halt()
        self.seconds = time.process_time() - self.begun
        return self.late and kind is TimeoutError

    def halt(self) -> None:
        """From now on it may take as long as it likes."""
        signal.setitimer(signal.ITIMER_PROF, 0)

    def stop(self, *_: object) -> None:
        """The signal's handler."""
        self.late = True
        raise TimeoutError("this test is not fast")


def _place(change: Change) -> str:
    return change.slot if isinstance(change, Identity) else change.function


ALIVE, UNFIT, BROKEN = 0, 254, 255  # how a fork ends: no test failed; nothing could import it; it fits nowhere; else the test's number


def _fork(work: Callable[[], int]) -> None:
    """Do the work in a fork that says nothing and cannot eat the machine's memory."""
    null = os.open(os.devnull, os.O_WRONLY)
    for stream in (1, 2):
        os.dup2(null, stream)
    resource.setrlimit(resource.RLIMIT_DATA, (MEMORY, MEMORY))
    code = BROKEN
    try:
        code = work()
    finally:
        os._exit(code)


def forks(n: int, work: Callable[[int], Callable[[], int]], ended: Callable[[int, int], None], jobs: int) -> list[int]:
    """Do n works, each in a fork of this process, at most `jobs` at a time, and tell how each `ended`."""
    running: dict[Any, tuple[int, Any]] = {}
    codes = [BROKEN] * n
    with tqdm(total=n, unit="mutant", disable=None, leave=False) as bar:
        for i in range(n):
            child = get_context("fork").Process(target=_fork, args=(work(i),))
            child.start()
            running[child.sentinel] = i, child
            while len(running) >= (jobs if i + 1 < n else 1):
                for sentinel in connection.wait(list(running)):
                    at, done = running.pop(sentinel)
                    done.join()
                    codes[at] = done.exitcode
                    ended(at, codes[at])
                    bar.update()
    return codes


def bite(changes: Sequence[Change], tests: Sequence[Path], jobs: int = 1) -> list[bool]:
    """Which of the changes the tests kill. LabError where the tests do not pass, or are not installed."""
    try:
        import pytest
    except ImportError:
        raise LabError("Mutants are put to the tests, which need pytest; install labkit[test].") from None
    plugin = Bite(changes, jobs)
    pytest.main(["-s", "-p", "no:cacheprovider", "-p", "no:terminal", *map(str, tests)], plugins=[plugin])
    if plugin.broken or len(plugin.killed) < len(changes):
        raise LabError(f"{plugin.broken or 'The tests cannot be collected'}, so that mutants prove nothing; mend that first.")
    return plugin.killed


# ---- the score --------------------------------------------------------------------------------------------------


def scores(keys: Sequence[str] = (), jobs: int | None = None) -> list[Score]:
    """The score of the changes of the papers `keys`, or of every module in MEASURES, every family's modules and every paper.

    jobs: forks side by side, one per core by default. LabError for an unknown key, and where the tests fail as they are.
    """
    found = discover()
    if unknown := [key for key in keys if key not in found]:
        raise LabError(f"There is no paper {unknown[0]!r}; `labkit papers` lists them.")
    jobs, told = jobs or os.cpu_count() or 1, list[Score]()
    for module in () if keys else MEASURES:
        told += _scored({module: mutants(module)}, [ROOT / "tests" / f"test_{module.rpartition('.')[2]}.py"], jobs)
    for family in sorted({package(found[key]) for key in keys or found}):
        papers = {key: of_paper(key, found) for key in found if package(found[key]) == family and (not keys or key in keys)}
        whole = {} if keys else by_module(of_family(family, found))
        told += _scored(whole | papers, [ROOT / "tests" / family.rpartition(".")[2]], jobs)
    return told


def _scored(groups: Mapping[str, Sequence[Change]], tests: Sequence[Path], jobs: int) -> list[Score]:
    """The score of each group of changes; one that stands in several is tried once."""
    changes = list(dict.fromkeys(change for group in groups.values() for change in group))
    fate = dict(zip(changes, bite(changes, tests, jobs), strict=True))
    told = []
    for name, group in groups.items():
        alive = [change for change in group if not fate[change]]
        told.append(Score(name, len(group), len(group) - len(alive), [str(change) for change in alive], claimed(name, alive, jobs)))
    return told


def claimed(key: str, alive: Sequence[Change], jobs: int) -> list[str] | None:
    """Those of a paper's living mutants for which its claim is held as well; None where the ledger holds no such claim."""
    entry = latest(key) if key in discover() else None
    if entry is None or entry.held != "held":
        return None
    codes = forks(len(alive), lambda i: partial(_judge, alive[i], key, entry.seconds), lambda i, code: None, jobs)
    return [str(change) for change, code in zip(alive, codes, strict=True) if code == ALIVE]


def _judge(change: Change, key: str, seconds: float) -> int:
    """Put a paper's claim to the test with the change in place, for five times as long as it should take."""
    check = check_of(key)
    assert check is not None
    change.install()
    signal.signal(signal.SIGPROF, lambda *_: os._exit(1))
    signal.setitimer(signal.ITIMER_PROF, 10 + 5 * seconds)
    try:
        return ALIVE if check().held == "held" else 1
    except Exception:
        return 1


def report(told: Sequence[Score]) -> str:
    """The scores as a table, then the mutants that live."""
    width = max(len(score.name) for score in told)
    lines = [f"{'':{width}}  killed  of    share"]
    lines += [f"{score.name:{width}}  {score.killed:6}  {score.total:<4}  {score.share:.1%}" for score in told]
    for score in told:
        lines += [f"\n{score.name}: alive"] * bool(score.alive)
        lines += [f"  {line}{'  (and the claim is held)' if line in (score.held or ()) else ''}" for line in score.alive]
    return "\n".join(lines)
