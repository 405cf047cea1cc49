"""Worlds in one namespace: `make("grid.fourrooms")`, `make("control.cartpole")`, `make("finite.chain", n=8)`."""
from collections.abc import Callable
from difflib import get_close_matches

from labkit.errors import LabError
from labkit.worlds.world import Continuous, Discrete, State, World

__all__ = ["Continuous", "Discrete", "State", "World", "from_gymnasium", "make", "names", "register"]

_MAKERS: dict[str, Callable[..., World]] = {}


def register(key: str) -> Callable[[Callable[..., World]], Callable[..., World]]:
    """Enter a maker (a class or a function that returns a World) under its key."""

    def enter(maker: Callable[..., World]) -> Callable[..., World]:
        _MAKERS[key] = maker
        return maker

    return enter


def names() -> list[str]:
    """Every world that `make` knows, sorted."""
    return sorted(_MAKERS)


def make(key: str, **options) -> World:
    """The world called `key`; options go to its maker. LabError for an unknown name or option."""
    if key not in _MAKERS:
        near = get_close_matches(key, _MAKERS, 1)
        raise LabError(f"There is no world {key!r}; " + (f"did you mean {near[0]!r}?" if near else f"known: {', '.join(names())}."))
    try:
        return _MAKERS[key](**options)
    except TypeError as error:
        raise LabError(f"World {key!r} does not take these options: {error}.") from error

from labkit.worlds import control  # noqa: E402, F401 (enters its worlds)
from labkit.worlds import finite  # noqa: E402, F401
from labkit.worlds import grid as _grid  # noqa: E402, F401
from labkit.worlds.gym import from_gymnasium, register_all  # noqa: E402 (last: it registers all worlds with Gymnasium)

register_all()
