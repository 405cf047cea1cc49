"""MiniGrid in batched torch: seven layouts, three views, exact tables, MiniGrid's own pictures."""
from inspect import signature

from labkit.worlds.grid import layouts
from labkit.worlds.grid.table import StateTable, enumerate_states, exact_return, optimal_return
from labkit.worlds.grid.world import GridWorld
from labkit.worlds.registry import register

__all__ = ["GridWorld", "StateTable", "enumerate_states", "exact_return", "optimal_return"]


def _enter(key: str, layout: type[layouts.Layout]) -> None:
    names = set(signature(layout).parameters)

    def maker(**options) -> GridWorld:
        mine = {name: options.pop(name) for name in names & set(options)}
        return GridWorld(key, layout(**mine), **options)

    register(key)(maker)


for _key, _layout in (
    ("grid.empty", layouts.Empty), ("grid.fourrooms", layouts.FourRooms), ("grid.doorkey", layouts.DoorKey),
    ("grid.lavagap", layouts.LavaGap), ("grid.simplecrossing", layouts.SimpleCrossing), ("grid.unlock", layouts.Unlock),
    ("grid.memory", layouts.Memory),
):
    _enter(_key, _layout)
