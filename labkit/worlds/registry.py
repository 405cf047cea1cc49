"""The one namespace of worlds: each enters itself under its key."""
import inspect
from collections.abc import Callable
from difflib import get_close_matches
from typing import TypeVar

import gymnasium

from labkit.errors import LabError
from labkit.lanes import check_device
from labkit.worlds.world import World

Maker = TypeVar("Maker", bound=Callable[..., World])
_MAKERS: dict[str, Callable[..., World]] = {}
NAMESPACE = "DriftLab/"  # Gymnasium's name of ours


def register(key: str) -> Callable[[Maker], Maker]:
    """Enter a maker (a class or a function that returns a World) under its key."""

    def enter(maker: Maker) -> Maker:
        _MAKERS[key] = maker
        return maker

    return enter


def names() -> list[str]:
    """Every world that `make` knows, sorted."""
    return sorted(_MAKERS)


def takes(key: str) -> list[str]:
    """What the maker of the world called `key` can be told. LabError for an unknown name."""
    if key not in _MAKERS:
        near = get_close_matches(key, _MAKERS, 1)
        raise LabError(f"There is no world {key!r}; " + (f"did you mean {near[0]!r}?" if near else f"known: {', '.join(names())}."))
    return [*inspect.signature(_MAKERS[key]).parameters]


def register_all() -> None:
    """Enter every world of `names()` in Gymnasium's registry; again after new worlds were registered."""
    for key in names():
        if NAMESPACE + key not in gymnasium.registry:
            module = "labkit.worlds.gym:"
            gymnasium.register(NAMESPACE + key, module + "DriftEnv", vector_entry_point=module + "DriftVectorEnv", kwargs={"world": key})


def make(key: str, device: str = "cpu", **options) -> World:
    """The world called `key` on a device; options go to its maker. LabError for an unknown name, device or option."""
    known = takes(key)
    if unknown := options.keys() - set(known):
        raise LabError(f"World {key!r} has no option {min(unknown)!r}; it takes {', '.join(known) or 'none'}.")
    try:
        return _MAKERS[key](**options).to(check_device(device))
    except TypeError as error:
        raise LabError(f"World {key!r} does not take these options: {error}.") from error
