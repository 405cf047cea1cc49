"""To MiniGrid and back: live environments from states, states from live environments."""
from typing import TYPE_CHECKING, Any

import torch
from minigrid.core.grid import Grid
from minigrid.core.world_object import Wall, WorldObj
from minigrid.envs import CrossingEnv, DoorKeyEnv, EmptyEnv, FourRoomsEnv, LavaGapEnv, MemoryEnv, UnlockEnv
from minigrid.minigrid_env import MiniGridEnv

from labkit.worlds.grid import kinds as k
from labkit.worlds.grid.layouts import DoorKey, Empty, FourRooms, LavaGap, Memory, SimpleCrossing, Unlock
from labkit.worlds.world import State

if TYPE_CHECKING:
    from labkit.worlds.grid.world import GridWorld


def peer(world: "GridWorld") -> MiniGridEnv:
    """MiniGrid's own environment of the same layout, size and step limit, not yet reset."""
    layout, limit = world.layout, {"max_steps": world.horizon}
    env: Any
    match layout:
        case Empty():
            env = EmptyEnv(layout.size, agent_start_pos=None if world.random_start else (1, 1), **limit)
        case FourRooms():
            env = FourRoomsEnv(**limit)
            env.width = env.height = env.size = layout.size
        case DoorKey():
            env = DoorKeyEnv(layout.size, **limit)
        case LavaGap():
            env = LavaGapEnv(layout.size, **limit)
        case SimpleCrossing():
            env = CrossingEnv(layout.size, layout.crossings, Wall, **limit)
        case Unlock():
            env = UnlockEnv(**limit)
            env.room_size, env.width, env.height = layout.size, world.width, world.height
        case Memory():
            env = MemoryEnv(layout.size, layout.random_length, **limit)
    return env


def from_minigrid(env: MiniGridEnv) -> State:
    """The state of a live MiniGrid environment (unwrapped), tensors (1, 1, ...)."""
    grid = k.kind_of(torch.from_numpy(env.grid.encode())).T.contiguous()
    if isinstance(env, MemoryEnv):
        for (x, y), kind in ((env.success_pos, k.WIN), (env.failure_pos, k.LOSE)):
            grid[y, x] = kind
    load = k.EMPTY if env.carrying is None else int(k.kind_of(torch.tensor(env.carrying.encode())))
    pos = int(env.agent_pos[1]) * env.width + int(env.agent_pos[0])
    numbers = {"pos": pos, "dir": int(env.agent_dir), "load": load, "time": env.step_count}
    return {"grid": grid.view(1, 1, -1)} | {name: torch.full((1, 1), v) for name, v in numbers.items()}


def to_minigrid(world: "GridWorld", state: State, lane: int = 0, env: int = 0) -> MiniGridEnv:
    """A live MiniGrid environment in the state of one environment; it can be stepped and drawn."""
    live: Any = peer(world)
    one = {name: v[lane, env] for name, v in state.items()}
    live.grid = Grid(world.width, world.height)
    live.grid.grid = [_thing(kind) for kind in one["grid"].tolist()]
    live.agent_pos = (int(one["pos"]) % world.width, int(one["pos"]) // world.width)
    live.agent_dir, live.step_count = int(one["dir"]), int(one["time"])
    live.carrying = _thing(int(one["load"]))
    for name, kind in (("success_pos", k.WIN), ("failure_pos", k.LOSE)):
        for cell in (one["grid"] == kind).nonzero()[:, 0].tolist():
            setattr(live, name, (cell % world.width, cell // world.width))
    live.door = next((thing for thing in live.grid.grid if thing and thing.type == "door"), None)
    return live


def _thing(kind: int) -> WorldObj | None:
    return WorldObj.decode(*k.codes()[kind].tolist())

