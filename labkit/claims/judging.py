"""`labkit claims`: put the papers' claims to the test, side by side, and write each verdict down as soon as it is there."""
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from time import thread_time

import torch
from joblib import Parallel, delayed, parallel_config
from tqdm import tqdm

from labkit.claims import ledger
from labkit.claims.ledger import FOLDER, Entry
from labkit.errors import LabError
from labkit.paper import discover
from labkit.stats import FEW

PATIENCE = 10  # seconds for a scheduler to answer, and for its first worker


def plan(
    keys: Sequence[str] = (), seeds: int | None = None, first: int | None = None, every: bool = False, folder: Path = FOLDER
) -> dict[str, tuple[int, ...]]:
    """What is to be judged, and on which seeds: the papers named; else those without a fresh verdict; `every`: all with a check.

    seeds, first: how many, and the first of them, in place of the check's own. LabError for fewer than 10, a negative first,
    an unknown key and one without a check.
    """
    told = {key: _seeds(key, seeds, first) for key in keys or (key for key in discover() if ledger.check_of(key))}
    return {key: own for key, own in told.items() if keys or every or not _fresh(key, own, folder)}


def judge(
    keys: Sequence[str] = (), seeds: int | None = None, first: int | None = None, every: bool = False, jobs: int | None = None,
    scheduler: str | None = None, folder: Path = FOLDER, tell: Callable[[Entry], None] = lambda entry: None,
) -> list[Entry]:  # fmt: skip
    """Run the checks of a `plan`, append each verdict to the ledger in `folder` as it ends, then `tell` it.

    jobs: processes, one per core by default. scheduler: address of a Dask scheduler, whose workers then do the work.
    An interrupted run keeps what has ended. LabError, when all others have ended, names the checks that failed.
    """
    todo, done, failed = plan(keys, seeds, first, every, folder), [], []
    with tqdm(total=len(todo), unit="claim", disable=None) as bar:
        for result in _results(todo, jobs, scheduler):
            bar.update()
            if isinstance(result, str):
                failed.append(result)
                continue
            ledger.append(result, folder)
            done.append(result)
            tell(result)
    if failed:
        raise LabError(f"{'; '.join(failed)}; the verdicts of the other {len(done)} are in the ledger.")
    return done


def attempt(key: str, seeds: tuple[int, ...]) -> Entry | str:
    """The entry of one check, or in words how it failed."""
    torch.set_num_threads(1)
    try:
        check = ledger.check_of(key)
        assert check is not None
        code, began = ledger.code_of(key), thread_time()
        v = check(seeds)
        entry = Entry(
            key, v.held, v.value, v.low, v.high, v.rule, v.parts or (v,), seeds, ledger.defaults(check)[1],
            seconds=round(thread_time() - began, 1), code=code, versions=ledger.versions(), machine=ledger.machine(),
            time=datetime.now(UTC).isoformat(timespec="seconds"),
        )  # fmt: skip
        ledger.line(entry)  # a number that is none fails here, with its key
        return entry
    except Exception as error:  # whatever a check may raise
        return " ".join(f"The check of {key} failed with {type(error).__name__}: {error}".split()).rstrip(".")


def _seeds(key: str, count: int | None, first: int | None) -> tuple[int, ...]:
    check = ledger.check_of(key)
    if check is None:
        raise LabError(f"{key} has no check yet; write check(seeds) in its file.")
    own = ledger.defaults(check)[0]
    count, first = len(own) if count is None else count, own[0] if first is None else first
    if count < FEW or first < 0:
        raise LabError(f"A claim is judged on {FEW} seeds or more, from 0 up; got {count} from {first}.")
    return tuple(range(first, first + count))


def _fresh(key: str, seeds: tuple[int, ...], folder: Path) -> bool:
    """Does the ledger hold a verdict on these seeds from today's code?"""
    found = ledger.latest(key, folder, seeds)
    return found is not None and not ledger.stale(found)


def _results(todo: Mapping[str, tuple[int, ...]], jobs: int | None, scheduler: str | None) -> Iterator[Entry | str]:
    """What `attempt` gives, as it ends. LabError where the machinery breaks, such as a process that was killed."""
    if jobs is not None and jobs < 1:
        raise LabError(f"There must be a process to work in; got --jobs {jobs}, take 1 or more.")
    with _workers(jobs, scheduler):
        try:
            yield from Parallel(return_as="generator_unordered", batch_size=1)(delayed(attempt)(*task) for task in todo.items())
        except Exception as error:
            why = f"{type(error).__name__}, such as when memory ran out"
            raise LabError(f"A process that judged was lost ({why}); what had ended is kept, so run the command again.") from error


@contextmanager
def _workers(jobs: int | None, scheduler: str | None) -> Iterator[None]:
    """Where joblib sends the work: processes of this machine, or a Dask cluster."""
    if scheduler is None:
        with parallel_config("loky", n_jobs=jobs or -1, inner_max_num_threads=1):
            yield
        return
    try:
        from distributed import Client
    except ImportError as error:
        raise LabError("A cluster needs the package distributed; install labkit[cluster].") from error
    try:
        client = Client(scheduler, timeout=PATIENCE, set_as_default=False)
        client.wait_for_workers(1, timeout=PATIENCE)
    except (OSError, ValueError) as error:  # a timeout is an OSError
        remedy = "start `dask scheduler` and `dask worker`, and give the scheduler's address"
        raise LabError(f"No Dask scheduler with a worker answers at {scheduler!r}; {remedy}.") from error
    with client, parallel_config("dask", client=client):
        yield
