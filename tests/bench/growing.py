"""How PPO's cost per lane shrinks with more lanes, and grows with more parameters."""
from dataclasses import replace

from harness import Row, cpu
from learning import UNIT, train

from labkit import worlds
from labkit.on_policy.family import ppo

LANES, WIDTHS = (1, 4, 16, 64, 256, 1024), (16, 32, 64, 128, 256)


def row(what: str, lanes: int, width: int, repeats: int, updates: int = 2) -> Row:
    algo = replace(ppo, shape=replace(ppo.shape, width=width))
    steps = updates * algo.shape.envs * algo.shape.steps
    times = cpu(lambda: train(algo, worlds.make("control.cartpole"), lanes, steps), repeats, 1e5 / steps / lanes)
    return Row(what, UNIT, "labkit", times)


def rows(repeats: int, share: float) -> list[Row]:
    lanes = [row(f"PPO CartPole by lanes: {n:,}", n, ppo.shape.width, repeats if n < 256 else 1) for n in LANES]
    return lanes + [row(f"PPO CartPole by width of its layers: {w}", 16, w, repeats) for w in WIDTHS]
