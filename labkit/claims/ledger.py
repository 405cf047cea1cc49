"""The ledger: what became of each claim, a file of JSON lines for each paper. Lines are added, never changed.

A verdict rests on code, and goes stale when that code changes: the module that holds the check, the module that holds the
method, and what these rest on (sources.py). Which torch computed it is written beside it and makes nothing stale: a rule
decides over seeds, not over last bits.
"""
import json
import math
import platform
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass, is_dataclass
from importlib import import_module
from importlib.metadata import version
from importlib.util import find_spec
from inspect import signature
from pathlib import Path
from types import UnionType
from typing import Any, Literal, get_args, get_origin, get_type_hints

import torch
from filelock import FileLock

from labkit.claims.sources import fingerprint
from labkit.errors import LabError
from labkit.files import ROOT, write_whole
from labkit.paper import discover, module_of
from labkit.verdict import Held, Verdict

FOLDER = ROOT / "course" / "ledger"
FORMAT = 1


@dataclass(frozen=True)
class Entry:
    """A claim put to the test once: what came out, by which rule, on what."""

    key: str  # of the paper
    held: Held
    value: float
    low: float  # of the 95% interval
    high: float
    rule: str  # with all its parts
    parts: tuple[Verdict, ...]  # each with its own numbers and bound; one where the rule has one
    seeds: tuple[int, ...]
    settings: dict[str, Any]  # the check's other arguments: its budget
    seconds: float  # CPU seconds
    code: str  # fingerprint of the code that it rests on
    versions: dict[str, str]
    machine: str  # what decides the last bits
    time: str  # when it ended, ISO 8601, UTC


def entries(key: str | None = None, folder: Path = FOLDER) -> list[Entry]:
    """All entries, or a paper's, oldest first. Lines that cannot be read are skipped, with a sentence on stderr."""
    found = [entry for path in sorted(folder.glob("*.jsonl")) if key in (None, path.stem) for entry in _read(path)]
    return sorted(found, key=lambda entry: entry.time)


def latest(key: str, folder: Path = FOLDER, seeds: tuple[int, ...] | None = None) -> Entry | None:
    """The verdict: the newest entry on the check's own settings and its own seeds, or on these. None too where there is no check."""
    check = check_of(key)
    if check is None:
        return None
    own, settings = defaults(check)
    return next((e for e in reversed(entries(key, folder)) if (e.seeds, e.settings) == (seeds or own, settings)), None)


def append(entry: Entry, folder: Path = FOLDER) -> None:
    """Add an entry, whole or not at all; a torn last line, which no one could read, makes room. LabError if the disk refuses."""
    path = folder / f"{entry.key}.jsonl"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / ".lock"):
            old = path.read_bytes() if path.exists() else b""
            write_whole(path, old[: old.rfind(b"\n") + 1] + line(entry).encode() + b"\n")
    except OSError as error:
        raise LabError(f"The ledger {path} cannot be written ({error.strerror}); free some space, or make its folder yours.") from error


def line(entry: Entry) -> str:
    """An entry as the ledger holds it. LabError where a number is not finite."""
    try:
        return json.dumps({"format": FORMAT} | asdict(entry), ensure_ascii=False, allow_nan=False)
    except ValueError:
        value = f"{entry.value:g} [{entry.low:g}, {entry.high:g}]"
        raise LabError(f"The verdict on {entry.key}, {value}, or a part of it is not finite.") from None


def stale(entry: Entry) -> bool:
    """Has the code that a verdict rests on changed since, or gone?"""
    return entry.key not in discover() or entry.code != code_of(entry.key)


def check_of(key: str) -> Callable[..., Verdict] | None:
    """A paper's check: `check` in its own file, or `check_<key>` in its family's checks.py. LabError for an unknown key."""
    family = _method(key).rpartition(".")[0]
    for module, name in ((f"{family}.{key}", "check"), (f"{family}.checks", f"check_{key}")):
        if find_spec(module) and (check := getattr(import_module(module), name, None)):
            return check
    return None


def defaults(check: Callable[..., Verdict]) -> tuple[tuple[int, ...], dict[str, Any]]:
    """The seeds and the settings of a check that is told no others."""
    told = {name: parameter.default for name, parameter in signature(check).parameters.items()}
    return tuple(told.pop("seeds")), told


def code_of(key: str) -> str:
    """Fingerprint of the code that a paper's verdict rests on."""
    check = check_of(key)
    return fingerprint({_method(key)} | ({check.__module__} if check else set()))


def machine() -> str:
    """What decides the last bits of a number: processor, instruction set, torch."""
    return f"{_processor()}, {torch.backends.cpu.get_cpu_capability()}, torch {torch.__version__}"


def versions() -> dict[str, str]:
    """Of what computes."""
    return {"python": platform.python_version()} | {name: version(name) for name in ("labkit", "torch", "numpy", "scipy")}


def _processor() -> str:
    """The processor's model where the system tells it, else its kind."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    models = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(models, platform.processor() or platform.machine())


def _method(key: str) -> str:
    """The module that holds the method called `key`. LabError for an unknown one."""
    found = discover()
    if key not in found:
        raise LabError(f"There is no paper {key!r}; `labkit papers` lists them.")
    return module_of(found[key])


def _read(path: Path) -> list[Entry]:
    """The entries of a file."""
    found = []
    for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(), 1):
        try:
            found.append(_parse(line, path.stem))
        except ValueError as error:
            print(f"{path.name} in {path.parent}: line {number} is skipped: {error}.", file=sys.stderr)
    return found


def _parse(line: str, key: str) -> Entry:
    """A line of the ledger of `key`. ValueError says in words why it cannot be read."""
    try:
        row = json.loads(line)
    except ValueError:
        raise ValueError("it is damaged") from None
    form = row.pop("format", None) if isinstance(row, dict) else None
    if form != FORMAT:
        newer = isinstance(form, int) and form > FORMAT
        raise ValueError(f"a newer labkit wrote it, in format {form}; this one reads {FORMAT}" if newer else "labkit did not write it")
    entry = _as(Entry, row)
    if entry.key != key:
        raise ValueError(f"it is about {entry.key}")
    return entry


def _as(kind: Any, value: Any) -> Any:
    """What JSON says, as a `kind` of value. ValueError where it is none."""
    plain, inner = get_origin(kind) or kind, get_args(kind)
    if is_dataclass(kind) and isinstance(kind, type) and isinstance(value, dict) and value.keys() == (hints := get_type_hints(kind)).keys():
        return kind(**{name: _as(hint, value[name]) for name, hint in hints.items()})
    if plain is tuple and isinstance(value, list):
        return tuple(_as(inner[0], one) for one in value)
    if plain is float and type(value) in (int, float) and math.isfinite(value):
        return float(value)
    if plain is UnionType:  # with None
        return value if value is None else _as(inner[0], value)
    if value in inner if plain is Literal else plain in (str, int, dict) and type(value) is plain:
        return value
    raise ValueError(f"{value!r:.40} is not what belongs there")
