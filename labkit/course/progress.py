"""The reader's exercises and progress, kept in one JSON file on the reader's own machine.

In a chapter, the cell of an exercise holds its stub and hands the reader's answer to `check`:

    from labkit.course.progress import check, hint, solution

    # %load -s clipped course/exercises/03.py
    check("03.2", clipped)        # prints "PASS 03.2", or "NOT YET 03.2: " and what is wrong; never raises
    hint("03.2")                  # prints the first hint, called again the second
    solution("03.2")              # prints the source of the solution

An answer may be a function or any value (`check("03.1", 0.25)`). What `check` prints never depends on earlier
attempts, so that notebooks can be compared; attempts, hints and passes go to the progress file.

The author of chapter 03 writes `course/exercises/03.py`. A check is a function of the answer: it returns when the
answer is right, else `assert`s with a message that tells the reader what to look at. The stub is what the chapter
shows; `wrong` lists the mistakes that readers make. `tests/test_chapters.py` finds the file and makes sure that
the check accepts the solution and rejects the stub and each wrong answer.

    '''Exercises of chapter 03.'''
    import torch
    from labkit.course.progress import Exercise

    def clipped(ratio, adv, clip):
        ...                                                    # your code

    def clipped_solution(ratio, adv, clip):
        return torch.minimum(ratio * adv, ratio.clamp(1 - clip, 1 + clip) * adv)

    def check_clipped(answer):
        gain = answer(torch.tensor([2.0]), torch.tensor([-1.0]), 0.2)
        assert gain is not None, "clipped returns nothing yet."
        assert gain.item() == -2.0, "A bad action that became likelier must keep its full penalty."

    EXERCISES = [
        Exercise(
            key="03.2",
            prompt="Write clipped(ratio, adv, clip), the gain that PPO climbs.",
            check=check_clipped,
            stub=clipped,
            solution=clipped_solution,
            wrong={"clips both": lambda ratio, adv, clip: ratio.clamp(1 - clip, 1 + clip) * adv},
            hints=("Write the clipped and the unclipped gain first.", "PPO takes the smaller of the two."),
        ),
    ]

`report()` gives the progress as text, `chapters()` as numbers; `export_to(file)` and `import_from(file)` move it.
The file lies in the user's data folder, or in the folder that the environment variable DRIFTLAB_HOME names.
"""
import importlib.util
import inspect
import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import ModuleType

from filelock import FileLock

from labkit.errors import LabError
from labkit.files import ROOT, home, write_whole


@dataclass(frozen=True)
class Exercise:
    """One exercise: `check(answer)` returns for a right answer and raises AssertionError(advice) for any other."""

    key: str  # "03.2": chapter, dot, number
    prompt: str
    check: Callable[[object], None]
    solution: object
    wrong: dict[str, object]  # name of the mistake -> answer
    hints: tuple[str, str]
    stub: object = None

    def verdict(self, answer: object) -> str | None:
        """None if the answer is right, else one sentence of advice. An answer that raises is wrong, not fatal."""
        try:
            self.check(answer)
        except AssertionError as advice:
            return str(advice) or "not the expected answer."
        except Exception as error:
            return f"your answer raised {type(error).__name__}: {error}"
        return None


@cache
def exercises(chapter: str) -> dict[str, Exercise]:
    """The exercises of a chapter ("03") by key, in order; none if it has no file. LabError for a file without EXERCISES."""
    path = ROOT / "course" / "exercises" / f"{chapter}.py"
    if not path.is_file():
        return {}
    found = module(path)
    if not hasattr(found, "EXERCISES"):
        raise LabError(f"{path.name} in course/exercises defines no list EXERCISES; add one.")
    return {e.key: e for e in found.EXERCISES}


def module(path: Path) -> ModuleType:
    """A file of the course, which is in no package, as a module."""
    spec = importlib.util.spec_from_file_location(f"{path.parent.name}_{path.stem}", path)
    assert spec and spec.loader
    found = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(found)
    return found


def exercise(key: str) -> Exercise:
    """The exercise called `key`, such as "03.2". LabError for an unknown one."""
    chapter = exercises(str(key).split(".")[0])
    if key not in chapter:
        known = ", ".join(chapter) or "none in that chapter"
        raise LabError(f"There is no exercise {key!r}; known: {known}.")
    return chapter[key]


def check(key: str, answer: object) -> None:
    """Print PASS or advice on the answer to an exercise, and record the attempt."""
    advice = exercise(key).verdict(answer)
    print(f"PASS {key}" if advice is None else f"NOT YET {key}: {advice}")
    _record(key, attempts=1, passed=advice is None)


def hint(key: str) -> None:
    """Print the next hint of an exercise: the first, then the second."""
    hints = exercise(key).hints
    seen = load().get(key, {}).get("hints", 0)
    print(f"HINT {key}: {hints[min(seen, len(hints) - 1)]}")
    if seen < len(hints):
        _record(key, hints=1)


def solution(key: str) -> None:
    """Print the solution of an exercise: the source of a function, any other value as it is."""
    answer = exercise(key).solution
    print(inspect.getsource(answer) if callable(answer) else answer)


def file() -> Path:
    """Where the progress is kept."""
    return home() / "progress.json"


def load() -> dict[str, dict]:
    """Results by exercise key: {"attempts": int, "hints": int, "passed": bool}. A damaged file is set aside, with a sentence."""
    path = file()
    try:
        return _read(path)
    except FileNotFoundError:
        return {}
    except OSError as error:
        print(f"The progress file {path} cannot be read ({error.strerror}); going on without it.")
    except LabError:
        aside = next(p for n in range(1, 1000) if not (p := path.with_name(f"progress.damaged-{n}.json")).exists())
        path.replace(aside)
        print(f"The progress file was damaged and is now {aside}; a new one begins.")
    return {}


def chapters() -> dict[str, tuple[int, int]]:
    """Exercises (passed, in all) for every chapter that has some."""
    results = load()
    numbers = sorted(p.stem for p in (ROOT / "course" / "exercises").glob("[0-9]*.py"))
    return {n: (sum(results.get(k, {}).get("passed", False) for k in exercises(n)), len(exercises(n))) for n in numbers}


def report() -> str:
    """The progress as text, one chapter a line."""
    done = chapters()
    lines = [f"chapter {n}  {'#' * p}{'.' * (of - p)}  {p} of {of} exercises" for n, (p, of) in done.items()]
    return "\n".join(lines) or "This course has no exercises yet."


def export_to(target: str | Path) -> Path:
    """Write the progress to a file that `import_from` reads. LabError if it cannot be written."""
    target = Path(target).expanduser()
    try:
        _write(target, load())
    except OSError as error:
        raise LabError(f"{target} cannot be written ({error.strerror}); name a file in a folder of yours.") from error
    return target


def import_from(source: str | Path) -> dict[str, dict]:
    """Merge an exported file into the progress (passes are kept, counts are maxima) and give the result. LabError if unreadable."""
    source = Path(source).expanduser()
    try:
        theirs = _read(source)
    except OSError as error:
        raise LabError(f"{source} cannot be read ({error.strerror}); name a file written by `labkit progress --export`.") from error
    with _lock():
        mine = load()
        for key, result in theirs.items():
            old = mine.get(key, {})
            mine[key] = {name: max(old.get(name, 0), result.get(name, 0)) for name in ("attempts", "hints")}
            mine[key]["passed"] = bool(old.get("passed") or result.get("passed"))
        _write(file(), mine)
    return mine


def _record(key: str, attempts: int = 0, hints: int = 0, passed: bool = False) -> None:
    """Add to one exercise's result. A disk that refuses costs the record, not the chapter."""
    try:
        with _lock():
            results = load()
            old = results.get(key, {"attempts": 0, "hints": 0, "passed": False})
            results[key] = {
                "attempts": old["attempts"] + attempts,
                "hints": old["hints"] + hints,
                "passed": old["passed"] or passed,
            }
            _write(file(), results)
    except OSError as error:
        print(f"The progress could not be stored in {file()} ({error.strerror}).")


def _lock() -> FileLock:
    """Two notebooks may record at once."""
    file().parent.mkdir(parents=True, exist_ok=True)
    return FileLock(file().with_suffix(".lock"))


def _read(path: Path) -> dict[str, dict]:
    try:
        results = json.loads(path.read_text(encoding="utf-8"))["exercises"]
        for result in results.values():
            if [type(result[name]) for name in ("attempts", "hints", "passed")] != [int, int, bool]:
                raise TypeError
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise LabError(f"{path} is not a progress file of Drift Lab; name one written by `labkit progress --export`.") from error
    return results


def _write(path: Path, results: dict[str, dict]) -> None:
    text = json.dumps({"version": 1, "exercises": dict(sorted(results.items()))}, indent=1)
    write_whole(path, text + "\n")
