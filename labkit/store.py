"""Runs on disk: a folder with meta.json and a safetensors file, replaced whole or not at all."""
import hashlib
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from safetensors.torch import save as serialise
from torch import Tensor

from labkit.errors import LabError
from labkit.files import write_whole
from labkit.lanes import Lanes
from labkit.learner import Learner
from labkit.record import Record

FORMAT = "driftlab-1"


def save(thing: Record | Learner, folder: Path | str) -> Path:
    """Write a record or a learner into a folder, which holds the old one until the new one is complete.

    meta.json names the file of tensors, so replacing it is the one step that counts.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    tensors, meta = _pack(thing)
    data = serialise({name: t.detach().cpu().contiguous() for name, t in tensors.items()})
    meta["tensors"] = f"{hashlib.sha256(data).hexdigest()[:16]}.safetensors"
    write_whole(folder / meta["tensors"], data)
    write_whole(folder / "meta.json", json.dumps(meta, indent=1))
    for old in folder.glob("*.safetensors"):
        if old.name != meta["tensors"]:
            old.unlink(missing_ok=True)
    return folder


def load(folder: Path | str) -> Record | Learner:
    """Read what `save` wrote. LabError names the folder and what is wrong with it; nothing in it is ever executed."""
    folder = Path(folder)
    try:
        meta = json.loads((folder / "meta.json").read_text())
        tensors = load_file(folder / Path(str(meta["tensors"])).name)  # a name, so that no path leads out of the folder
    except (FileNotFoundError, NotADirectoryError) as error:
        raise LabError(f"{folder} is not a stored run, or it is incomplete: {error}.") from error
    except (json.JSONDecodeError, UnicodeDecodeError, SafetensorError, KeyError, TypeError) as error:
        raise LabError(f"The stored run {folder} is damaged ({error}); delete it or restore a copy.") from error
    if not isinstance(meta, dict) or meta.get("format") != FORMAT:
        raise LabError(f"{folder} was not written by this version of labkit; its format is not {FORMAT!r}.")
    try:
        return Learner.unpack(tensors, meta) if meta["kind"] == "learner" else _record(meta, tensors)
    except (KeyError, TypeError, ValueError) as error:
        raise LabError(f"The stored run {folder} is damaged ({error}); delete it or restore a copy.") from error


def _pack(thing: Record | Learner) -> tuple[dict[str, Tensor], dict[str, Any]]:
    if isinstance(thing, Learner):
        tensors, plain = thing.pack()
        return tensors, {"format": FORMAT, "kind": "learner"} | plain
    tensors = {"steps": thing.steps} | {f"{group}/{name}": t for group in ("curves", "fields") for name, t in getattr(thing, group).items()}
    meta = {"algorithm": thing.algorithm, "world": thing.world, "lanes": asdict(thing.lanes), "notes": thing.notes}
    return tensors, {"format": FORMAT, "kind": "record"} | meta


def _record(meta: dict[str, Any], tensors: dict[str, Tensor]) -> Record:
    def group(prefix: str) -> dict[str, Tensor]:
        return {name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)}

    record = Record(
        meta["algorithm"], meta["world"], Lanes(**meta["lanes"]), tensors["steps"], group("curves/"), group("fields/"), tuple(meta["notes"])
    )
    size = torch.Size((len(record.steps), len(record.lanes)))
    for name, t in (record.curves | record.fields).items():
        if t.shape[:2] != size:
            raise ValueError(f"{name} has shape {tuple(t.shape)}, not {tuple(size)} first")
    return record
