"""`make bench`: CPU seconds of the lab beside its peers, in one run on one core, as a table of ratios."""
import argparse
import platform
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from stable_baselines3 import PPO

from labkit import worlds
from labkit.lanes import Lanes
from labkit.on_policy.family import ppo

STEPS = 100_000


@dataclass(frozen=True)
class Row:
    """One measured line: seconds per unit of work, of ours and of the peer."""

    what: str
    unit: str
    ours: float
    peer: str
    theirs: float


def cpu(work: Callable[[], object], repeats: int) -> float:
    """Least CPU seconds of `repeats` runs."""
    times = []
    for _ in range(repeats):
        begin = time.process_time()
        work()
        times.append(time.process_time() - begin)
    return min(times)


def train(lanes: int, steps: int) -> None:
    """PPO on CartPole in `lanes` lanes, `steps` steps each."""
    for snapshot in ppo.run(worlds.make("control.cartpole"), Lanes(tuple(range(lanes)))):
        if snapshot.step >= steps:
            break


def train_sb3(steps: int) -> None:
    """Stable-Baselines3 at its own defaults for small networks."""
    PPO("MlpPolicy", "CartPole-v1", seed=0, device="cpu").learn(steps)


def ppo_rows(repeats: int, share: float) -> list[Row]:
    """Seconds per 100,000-step run, from a `share` of such a run."""
    steps = int(STEPS * share)
    theirs = cpu(lambda: train_sb3(steps), repeats) / share
    ours = {lanes: cpu(lambda n=lanes: train(n, steps), repeats) / lanes / share for lanes in (1, 8, 64)}
    unit = "CPU-s per 100,000 steps of a lane"
    return [Row(f"PPO CartPole, lanes: {lanes}", unit, seconds, "Stable-Baselines3", theirs) for lanes, seconds in ours.items()]


def first_curve() -> Row:
    """Seconds from pressing Train to the first snapshot."""
    begin = time.perf_counter()
    run = ppo.run(worlds.make("control.cartpole"), Lanes(tuple(range(10)), {"eps": (0.1, 0.2, 0.3)}))
    next(run)
    return Row("first curve, 30 lanes", "s, wall", time.perf_counter() - begin, "limit", 1.0)


def step_grid(lanes: int, envs: int, steps: int) -> None:
    """Random actions in FourRooms: step, observe, restart."""
    world, some = worlds.make("grid.fourrooms"), Lanes(tuple(range(lanes)))
    state = world.reset(some.rand(1, envs, world.reset_noise))
    fresh = some.rand(2, envs, world.reset_noise)
    for t in range(steps):
        action = (some.rand(3 + t, envs) * world.actions.n).long()
        state, _, terminated, truncated = world.step(state, action, some.rand(0, envs, world.step_noise))
        state = world.restart(state, terminated | truncated, fresh)
        world.observe(state)


def step_minigrid(steps: int) -> None:
    """The same through the minigrid package."""
    import gymnasium
    import minigrid  # noqa: F401  registers its environments

    env = gymnasium.make("MiniGrid-FourRooms-v0")
    env.reset(seed=0)
    env.action_space.seed(0)
    for _ in range(steps):
        *_, terminated, truncated, _ = env.step(env.action_space.sample())
        if terminated or truncated:
            env.reset()


def grid_row(repeats: int) -> Row:
    """Seconds per million steps."""
    ours = cpu(lambda: step_grid(64, 64, 100), repeats) / (4096 * 100) * 1e6
    theirs = cpu(lambda: step_minigrid(2000), repeats) / 2000 * 1e6
    return Row("FourRooms, 4,096 at once", "CPU-s per million steps", ours, "minigrid", theirs)


def solver_row(repeats: int) -> Row:
    """Seconds for the exact value of a policy on a grid of 99,856 states."""
    from scipy.sparse import identity
    from scipy.sparse.linalg import spsolve

    from labkit.worlds.finite import cliff, values

    mdp = cliff(316, 316).mdp
    pi = torch.full((1, mdp.states, 4), 0.25, dtype=torch.float64)
    chain = sum(mdp.P[a::4] for a in range(4)) / 4
    system = (identity(mdp.states) - float(mdp.gamma) * chain).tocsc()
    reward = (mdp.r[0] * pi[0]).sum(-1).numpy()
    ours = cpu(lambda: values(mdp, pi), repeats)
    return Row("policy evaluation, 99,856 states", "CPU-s", ours, "scipy spsolve", cpu(lambda: spsolve(system, reward), repeats))


def table(rows: list[Row]) -> str:
    """As Markdown: what, ours, theirs, how many times faster."""
    lines = ["| what | unit | labkit | peer | peer's | ratio |\n|---|---|---|---|---|---|"]
    lines += [f"| {r.what} | {r.unit} | {r.ours:.2f} | {r.peer} | {r.theirs:.2f} | {r.theirs / r.ours:.1f} |" for r in rows]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=3, help="runs of each, the fastest counts")
    parser.add_argument("--share", type=float, default=0.2, help="share of 100,000 training steps to run and scale up")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    print(f"Python {platform.python_version()}, torch {torch.__version__}, one thread, least of {arguments.repeats} runs\n")
    rows = [*ppo_rows(arguments.repeats, arguments.share), first_curve(), grid_row(arguments.repeats), solver_row(arguments.repeats)]
    print(table(rows))


if __name__ == "__main__":
    main()
