"""Knobs and other settings in words, as a command line or a link gives them."""
import json
from collections.abc import Mapping
from typing import Any

from labkit.errors import LabError


def write_knobs(knobs: Mapping[str, tuple[float, ...]]) -> str:
    """{"eps": (0.1, 0.2)} -> 'eps=0.1,0.2'"""
    return " ".join(f"{name}={','.join(f'{v:g}' for v in values)}" for name, values in sorted(knobs.items()))


def read_knobs(text: str) -> dict[str, tuple[float, ...]]:
    """The inverse of `write_knobs`; a repeated value counts once. LabError where the text is something else."""
    try:
        pairs = [word.split("=") for word in text.split()]
        return {name: tuple(dict.fromkeys(float(v) for v in values.split(","))) for name, values in pairs}
    except ValueError as error:
        raise LabError(f"The knobs {text!r} cannot be read; write them like 'eps=0.1,0.2 lr=0.003'.") from error


def read_options(text: str) -> dict[str, Any]:
    """'layout_seed=3 view=state' -> {"layout_seed": 3, "view": "state"}. LabError where the text is something else."""
    try:
        pairs = [word.split("=", 1) for word in text.split()]
        return {name: _plain(value) for name, value in pairs}
    except ValueError as error:
        raise LabError(f"The options {text!r} cannot be read; write them like 'layout_seed=3 view=state'.") from error


def _plain(text: str) -> Any:
    """A number, true, false or null as JSON has it, else the text itself."""
    try:
        return json.loads(text)
    except ValueError:
        return text
