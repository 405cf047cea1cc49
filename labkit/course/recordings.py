"""Recordings for the course: runs trained once, kept small in course/recordings/, with what decided them.

The author of chapter 03 writes course/recordings/03.py. Each of its functions without arguments that says it returns a
Recording is a recipe; `labkit build --recordings 03/props` runs it and writes course/recordings/03/props.rec, which
`load("03/props")` reads as a Record for every figure and the scrubber.

    def props() -> Recording:
        '''PROPS in four rooms.'''
        return Recording(record(method, world, lanes, 12_288), method, options)

Values are kept in 16 bits, those of fields in 8 where the file grows too large otherwise: evenly spaced levels from the
least to the greatest, and one for "no number". Steps, seeds and settings are exact. How far off the rest is, is measured and
written inside. A file is a line that says what it is, a line with the SHA-256 of all that follows, and, packed by LZMA, a line
of JSON with the provenance and a safetensors file. No name found in a file is used as a path, and nothing is executed or
unpickled. A recording is stale when its recipe's file, or code that this rests on, has changed.
"""
import ast
import hashlib
import json
import lzma
import time
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.numpy import load as deserialise
from safetensors.numpy import save as serialise
from torch import Tensor

from labkit.claims import ledger
from labkit.claims.sources import fingerprint
from labkit.course.progress import module
from labkit.errors import LabError
from labkit.files import ROOT, write_whole
from labkit.lanes import Lanes
from labkit.paper import Algorithm
from labkit.record import Record

FOLDER = ROOT / "course" / "recordings"
FORMAT, VERSION = b"driftlab recording", 1
LARGEST = 200_000  # bytes of a file
UNPACKED = 1 << 26  # bytes of its tensors


@dataclass(frozen=True)
class Recording:
    """What a recipe returns: a record, the method that made it, and the options of its world."""

    record: Record
    algorithm: Algorithm
    options: Mapping[str, Any]


# ---- recipes -----------------------------------------------------------------------------------------------------


def names(wanted: Iterable[str] = ()) -> list[str]:
    """Recordings that have a recipe, such as "03/props"; only these if any are given. LabError for one without."""
    found = [f"{path.stem}/{recipe}" for path in sorted(FOLDER.glob("[0-9][0-9].py")) for recipe in _recipes(path)]
    if unknown := [name for name in wanted if name not in found]:
        raise LabError(f"There is no recipe for the recording {unknown[0]!r}; there are {', '.join(found) or 'none'}.")
    return list(wanted) or found


def _recipes(path: Path) -> list[str]:
    """The recipes in a file, told from its text: to list them nothing is run."""
    functions = [node for node in ast.parse(path.read_text(encoding="utf-8")).body if isinstance(node, ast.FunctionDef)]
    return [f.name for f in functions if ast.unparse(f.args) == "" and getattr(f.returns, "id", "") == "Recording"]


def train(name: str) -> Recording:
    """Run a recipe: the training that its recording spares the reader. LabError for an unknown name."""
    chapter, recipe = names([name])[0].split("/")
    return getattr(module(FOLDER / f"{chapter}.py"), recipe)()


def build(name: str) -> Path:
    """Run a recipe and write what it returns. LabError where it does not fit into the file or the disk refuses."""
    begun = time.process_time()
    made = train(name)
    return save(name, made, time.process_time() - begun)


def stale(name: str) -> str | None:
    """What is wrong with a recording that has a recipe, in a sentence: missing, damaged, too large, or older than its code."""
    try:
        told = about(name)
    except LabError as error:
        return str(error)
    return None if told.get("code") == _code(name) else f"Recording {name} is older than the code that it rests on{_again(name)}"


def faults() -> list[str]:
    """What is wrong with each recording; those that no recipe makes are told too."""
    made = {_path(name): name for name in names()}
    strays = [path for path in sorted(FOLDER.glob("[0-9][0-9]/*")) if path not in made]
    told = [f"No recipe makes {path.parent.name}/{path.name} in course/recordings; remove it." for path in strays]
    return [fault for fault in map(stale, made.values()) if fault] + told


def _again(name: str) -> str:
    return f"; `labkit build --recordings {name}` makes it anew."


def _code(name: str) -> str:
    """Fingerprint of the recipe's file and of the code that it rests on."""
    return fingerprint([f"course.recordings.{name.split('/')[0]}"], FOLDER.parents[1])


def _path(name: str) -> Path:
    return FOLDER / f"{name}.rec"


# ---- files -------------------------------------------------------------------------------------------------------


def save(name: str, made: Recording, seconds: float) -> Path:
    """Write a recording, which took so many CPU seconds, whole or not at all. LabError where it is too large or the disk refuses."""
    told = _provenance(name, made, seconds)
    content = _pack(told, made.record, 16)
    if len(content) > LARGEST:
        content = _pack(told, made.record, 8)
    if len(content) > LARGEST:
        raise LabError(f"Recording {name} takes {len(content):,} bytes, more than {LARGEST:,}; keep fewer moments, lanes or fields.")
    try:
        _path(name).parent.mkdir(parents=True, exist_ok=True)
        write_whole(_path(name), content)
    except OSError as error:
        raise LabError(f"Recording {name} cannot be written ({error.strerror}); free some space, or make its folder yours.") from error
    return _path(name)


def load(name: str) -> Record:
    """The record that course/recordings keeps under a name, such as "03/props". LabError where there is none that can be read."""
    return _read(name)[1]


def about(name: str) -> dict[str, Any]:
    """Where a recording comes from: algorithm, world, options, shape, knobs, lanes, code, versions, machine, seconds, time.

    `tensors` gives for each curve and field the `error` by which its values may be off.
    """
    return _read(name)[0]


def _provenance(name: str, made: Recording, seconds: float) -> dict[str, Any]:
    record, shape = made.record, getattr(made.algorithm, "shape", None)
    return {
        "name": name,
        "algorithm": record.algorithm,
        "world": record.world,
        "options": dict(made.options),
        "shape": shape and asdict(shape),
        "knobs": {knob: known.default for knob, known in made.algorithm.knobs.items()},
        "seeds": list(record.lanes.seeds),
        "grid": {knob: list(values) for knob, values in record.lanes.grid.items()},
        "notes": list(record.notes),
        "code": _code(name),
        "versions": ledger.versions(),
        "machine": ledger.machine(),
        "seconds": round(seconds, 1),
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def _read(name: str) -> tuple[dict[str, Any], Record]:
    """Provenance and record of a recording, checked. LabError says in a sentence why it cannot be read."""
    path = _path(names([name])[0])
    again = _again(name)
    if not path.is_file() or path.is_symlink():
        raise LabError(f"Recording {name} has not been built{again}")
    if (size := path.stat().st_size) > LARGEST:
        raise LabError(f"Recording {name} has {size:,} bytes, more than {LARGEST:,}{again}")
    head, _, rest = path.read_bytes().partition(b"\n")
    form, _, version = head.rpartition(b" ")
    digest, _, packed = rest.partition(b"\n")
    if form == FORMAT and version.isdigit() and int(version) > VERSION:
        raise LabError(f"Recording {name} has version {int(version)}, this labkit reads {VERSION}; use a newer labkit.")
    if form != FORMAT:
        raise LabError(f"Recording {name} was not written by labkit{again}")
    if version != b"%d" % VERSION or digest != hashlib.sha256(packed).hexdigest().encode():
        raise LabError(f"Recording {name} is damaged{again}")
    try:
        return _unpack(packed)
    except (lzma.LZMAError, SafetensorError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise LabError(f"Recording {name} was not written by labkit{again}") from error


def _pack(told: dict[str, Any], record: Record, bits: int) -> bytes:
    """A file's bytes, fields in so many bits."""
    tensors, scales = {"steps": record.steps.long().numpy()}, {}
    for kind, parts, width in (("curves", record.curves, 16), ("fields", record.fields, bits)):
        for part, values in parts.items():
            tensors[f"{kind}/{part}"], scales[f"{kind}/{part}"] = _quantise(part, values, width)
    head = json.dumps(told | {"tensors": scales}, allow_nan=False).encode()
    packed = lzma.compress(head + b"\n" + serialise(tensors), preset=9)
    return b"%s %d\n%s\n%s" % (FORMAT, VERSION, hashlib.sha256(packed).hexdigest().encode(), packed)


def _unpack(packed: bytes) -> tuple[dict[str, Any], Record]:
    """The inverse, without the two lines. ValueError where it unpacks to more than UNPACKED, KeyError and others where a part lacks."""
    unpacker = lzma.LZMADecompressor()
    head, _, tail = unpacker.decompress(packed, UNPACKED).partition(b"\n")
    if not unpacker.eof:
        raise ValueError(f"it unpacks to more than {UNPACKED:,} bytes")
    told, tensors = json.loads(head), deserialise(tail)
    lanes = Lanes(tuple(told["seeds"]), {knob: tuple(values) for knob, values in told["grid"].items()})
    parts: dict[str, dict[str, Tensor]] = {"curves": {}, "fields": {}}
    for key, scale in told["tensors"].items():
        kind, _, part = key.partition("/")
        parts[kind][part] = _restore(tensors[key], scale)
    return told, Record(told["algorithm"], told["world"], lanes, torch.from_numpy(tensors["steps"]), **parts, notes=tuple(told["notes"]))


def _quantise(name: str, values: Tensor, bits: int) -> tuple[np.ndarray, dict[str, Any]]:
    """Values as levels of so many bits, the highest for NaN, and what restores them. LabError where one is infinite."""
    exact = values.double().numpy()
    if np.isinf(exact).any():
        raise LabError(f"{name!r} has an infinite value, which a recording cannot hold; leave it out or record fewer steps.")
    known = exact[~np.isnan(exact)]
    low, high = (float(known.min()), float(known.max())) if known.size else (0.0, 0.0)
    scale = {"low": low, "step": (high - low) / (2**bits - 2), "shares": _shares(exact)}
    levels = np.where(np.isnan(exact), 2**bits - 1, np.rint((exact - low) / (scale["step"] or 1.0))).astype(f"uint{bits}")
    off = np.abs(_restore(levels, scale).double().numpy() - exact)
    return levels, scale | {"error": float(np.nanmax(off, initial=0.0))}


def _shares(values: np.ndarray) -> bool:
    """Are these probabilities, or other shares, that sum to 1 over the last axis? What is restored shall too."""
    return values.ndim > 2 and bool((values >= 0).all() and (np.abs(values.sum(-1) - 1) < 1e-4).all())


def _restore(levels: np.ndarray, scale: Mapping[str, Any]) -> Tensor:
    """The inverse of `_quantise`, float32."""
    values = np.where(levels == np.iinfo(levels.dtype).max, np.nan, scale["low"] + scale["step"] * levels.astype(float))
    return torch.from_numpy(values / values.sum(-1, keepdims=True) if scale["shares"] else values).float()
