"""PPO on a CUDA device at 1, 1,000 and 100,000 lanes: nothing changes but `device=`."""
import time
from dataclasses import replace

import torch
from harness import Row

from labkit import worlds
from labkit.lanes import Lanes
from labkit.on_policy.family import ppo

UNIT = "s, wall, per 100,000 steps of a lane"


def row(lanes: int, repeats: int, updates: int = 3) -> Row:
    """Environments shrink where lanes are many, so that 100,000 of them fit into memory."""
    shape = ppo.shape if lanes <= 1000 else replace(ppo.shape, envs=2, steps=16, width=16)
    algo = replace(ppo, shape=shape)
    run = algo.run(worlds.make("control.cartpole", device="cuda"), Lanes(tuple(range(lanes)), device="cuda"))
    next(run)  # the first one loads kernels
    times = []
    for _ in range(repeats):
        torch.cuda.synchronize()
        begin = time.perf_counter()
        for _ in range(updates):
            next(run)
        torch.cuda.synchronize()
        times.append((time.perf_counter() - begin) / updates / shape.envs / shape.steps / lanes * 1e5)
    peak = torch.cuda.max_memory_allocated() / 1e9
    note = f"{shape.envs} x {shape.steps} steps an update, width {shape.width}; {peak:.1f} GB; {torch.cuda.get_device_name()}"
    return Row(f"PPO CartPole on CUDA, lanes: {lanes:,}", UNIT, "labkit", tuple(times), note=note)


def rows(repeats: int, share: float) -> list[Row]:
    if not torch.cuda.is_available():
        return [Row("PPO CartPole on CUDA", UNIT, "labkit", note="skipped: there is no CUDA device here")]
    return [row(lanes, repeats) for lanes in (1, 1000, 100_000)]
