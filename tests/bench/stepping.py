"""Steps of a grid world, each with what is seen and with fresh episodes, beside the minigrid package and NAVIX."""
from typing import Any

from harness import Row, against, cpu, missing

from labkit import worlds
from labkit.lanes import Lanes

UNIT = "CPU-s per million steps"
ALONE = ("grid.doorkey", "grid.lavagap", "grid.simplecrossing", "grid.unlock", "grid.memory")
EMPTY, ROOMS = "Empty-8x8, 4,096 at once", "FourRooms, 4,096 at once"


def walk(key: str, lanes: int, envs: int, steps: int) -> None:
    """Random actions: step, restart, observe."""
    world, some = worlds.make(key), Lanes(tuple(range(lanes)))
    state = world.reset(some.rand(1, envs, world.reset_noise))
    fresh = some.rand(2, envs, world.reset_noise)
    for t in range(steps):
        action = (some.rand(3 + t, envs) * world.actions.n).long()
        state, _, terminated, truncated = world.step(state, action, some.rand(0, envs, world.step_noise))
        state = world.restart(state, terminated | truncated, fresh)
        world.observe(state)


def ours(what: str, key: str, repeats: int, steps: int = 100) -> Row:
    return Row(what, UNIT, "labkit", cpu(lambda: walk(key, 64, 64, steps), repeats, 1e6 / (64 * 64 * steps)))


def minigrid(what: str, env_id: str, repeats: int, steps: int = 2000) -> Row:
    """One environment after the other: the package has no batches."""
    if gap := missing(what, UNIT, "minigrid", "minigrid"):
        return gap
    import gymnasium
    import minigrid  # noqa: F401  registers its environments

    env = gymnasium.make(env_id)
    env.reset(seed=0)
    env.action_space.seed(0)

    def work() -> None:
        for _ in range(steps):
            *_, terminated, truncated, _ = env.step(env.action_space.sample())
            if terminated or truncated:
                env.reset()

    return Row(what, UNIT, "minigrid", cpu(work, repeats, 1e6 / steps), least=30)


def navix(what: str, env_id: str, repeats: int, envs: int = 4096, steps: int = 100) -> Row:
    """A scan over steps of a vectorised environment, compiled beforehand."""
    if gap := missing(what, UNIT, "NAVIX", "jax", "navix"):
        return gap
    import jax
    import navix as nx

    env = nx.make(env_id)

    def step(state: Any, key: Any) -> tuple[Any, Any]:
        action = jax.random.randint(key, (envs,), 0, env.action_space.n)
        state = jax.vmap(env.step)(state, action)
        return state, state.observation.sum()

    def run(key: Any) -> Any:
        first, later = jax.random.split(key)
        return jax.lax.scan(step, jax.vmap(env.reset)(jax.random.split(first, envs)), jax.random.split(later, steps))[1]

    compiled = jax.jit(run).lower(jax.random.key(0)).compile()
    times = cpu(lambda: jax.block_until_ready(compiled(jax.random.key(1))), repeats, 1e6 / envs / steps)
    return Row(what, UNIT, "NAVIX", times)


def rows(repeats: int, share: float) -> list[Row]:
    empty = ours(EMPTY, "grid.empty", repeats)
    rooms = ours(ROOMS, "grid.fourrooms", repeats)
    return [
        *against(empty, minigrid(EMPTY, "MiniGrid-Empty-8x8-v0", repeats), navix(EMPTY, "Navix-Empty-8x8-v0", repeats)),
        *against(rooms, minigrid(ROOMS, "MiniGrid-FourRooms-v0", repeats), navix(ROOMS, "Navix-FourRooms-v0", repeats)),
        *(ours(f"{key}, 4,096 at once", key, repeats) for key in ALONE),
    ]
