"""MiniGrid in batched torch: seven layouts, three views, exact tables, MiniGrid's own pictures."""
from inspect import Signature, signature

from labkit.worlds.grid import layouts
from labkit.worlds.grid.table import StateTable, enumerate_states, exact_return, optimal_return
from labkit.worlds.grid.world import GridWorld
from labkit.worlds.registry import register

__all__ = ["GridWorld", "StateTable", "enumerate_states", "exact_return", "optimal_return"]


def _enter(key: str, layout: type[layouts.Layout]) -> None:
    sizes = signature(layout).parameters

    def maker(**options) -> GridWorld:
        mine = {name: options.pop(name) for name in sizes.keys() & options.keys()}
        return GridWorld(key, layout(**mine), **options)

    ours = list(signature(GridWorld).parameters.values())[2:]
    maker.__signature__ = Signature([*sizes.values(), *ours])  # type: ignore[attr-defined]
    register(key)(maker)


for _key, _layout in (
    ("grid.empty", layouts.Empty), ("grid.fourrooms", layouts.FourRooms), ("grid.doorkey", layouts.DoorKey),
    ("grid.lavagap", layouts.LavaGap), ("grid.simplecrossing", layouts.SimpleCrossing), ("grid.unlock", layouts.Unlock),
    ("grid.memory", layouts.Memory),
):
    _enter(_key, _layout)
