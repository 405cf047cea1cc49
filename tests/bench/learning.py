"""PPO on CartPole and on DoorKey-5x5 beside Stable-Baselines3, CleanRL's settings and JAX, and beside its own matrix products."""
import time
from typing import Any

import torch
from harness import Row, against, cpu, missing

from labkit import worlds
from labkit.lanes import Lanes
from labkit.on_policy.family import OnPolicy, ppo
from labkit.on_policy.recipes import tuned

STEPS = 100_000
UNIT = "CPU-s per 100,000 steps of a lane"
CARTPOLE, DOORKEY = "PPO CartPole", "PPO DoorKey-5x5"
# Published in CleanRL's ppo.py, with 4 environments; the layers, of 64 units, are those of SB3. Its rate falls to 0, which costs nothing
CLEANRL: dict[str, Any] = {
    "n_steps": 128, "batch_size": 128, "n_epochs": 4, "learning_rate": 2.5e-4, "ent_coef": 0.01, "vf_coef": 0.5, "clip_range_vf": 0.2,
}  # fmt: skip


def train(algo: OnPolicy, world: worlds.World, lanes: int, steps: int) -> None:
    """`steps` steps in each of `lanes` lanes."""
    for snapshot in algo.run(world, Lanes(tuple(range(lanes)))):
        if snapshot.step >= steps:
            return


def ours(what: str, key: str, lanes: int, steps: int, repeats: int, **options: Any) -> Row:
    world, algo = worlds.make(key, **options), tuned(ppo, key)
    updates = max(1, round(steps / (algo.shape.envs * algo.shape.steps)))
    steps = updates * algo.shape.envs * algo.shape.steps
    return Row(what, UNIT, f"labkit, lanes: {lanes}", cpu(lambda: train(algo, world, lanes, steps), repeats, STEPS / steps / lanes))


def sb3(what: str, env: str, steps: int, repeats: int, who: str, least: float, envs: int = 1, full: bool = False, **settings: Any) -> Row:
    """Stable-Baselines3 at its own defaults for small networks, or at `settings`."""
    if gap := missing(what, UNIT, who, "stable_baselines3"):
        return gap
    from stable_baselines3 import PPO
    from stable_baselines3.common.env_util import make_vec_env

    if full:
        import minigrid  # noqa: F401  registers its environments
    wrap = _full_view if full else None
    steps = max(steps, 2 * envs * settings.get("n_steps", 2048))

    def work() -> None:
        PPO("MlpPolicy", make_vec_env(env, envs, seed=0, wrapper_class=wrap), seed=0, device="cpu", **settings).learn(steps)

    return Row(what, UNIT, who, cpu(work, repeats, STEPS / steps), least=least)


def _full_view(env: Any) -> Any:
    from gymnasium.wrappers import FlattenObservation
    from minigrid.wrappers import FullyObsWrapper, ImgObsWrapper

    return FlattenObservation(ImgObsWrapper(FullyObsWrapper(env)))


def jax(repeats: int, steps: int, lanes: int = 64) -> list[Row]:
    """rejax's PPO on gymnax's CartPole, vectorised over seeds as PureJaxRL is; compiling is told apart."""
    who = f"rejax (PureJaxRL's way), lanes: {lanes}"
    if gap := missing(CARTPOLE, UNIT, who, "jax", "rejax"):
        return [gap]
    import jax
    import rejax

    algo = rejax.get_algo("ppo").create(env="CartPole-v1", total_timesteps=steps, eval_freq=steps)
    algo = algo.replace(eval_callback=lambda *_: ())  # ours does not evaluate either
    keys = jax.random.split(jax.random.key(0), lanes)
    begin = time.process_time()
    run = jax.jit(jax.vmap(algo.train)).lower(keys).compile()
    compiling = time.process_time() - begin
    times = cpu(lambda: jax.block_until_ready(run(keys)), repeats, STEPS / steps / lanes)
    return [Row(CARTPOLE, UNIT, who, times, note=f"and {compiling:.0f} CPU-s to compile")]


def floor(repeats: int, lanes: int = 64) -> Row:
    """The matrix products alone that a run of CartPole takes at 64 lanes: the floating-point floor on this machine, at this hour."""
    s, size = ppo.shape, ppo.shape.envs * ppo.shape.steps
    passes = int(ppo.knobs["epochs"].default)
    part = size // s.minibatches
    x, h, w, first, head = (torch.ones(lanes, *z) for z in ((size, 4), (size, s.width), (s.width, s.width), (4, s.width), (2, s.width)))

    def forward(n: int) -> None:
        torch.bmm(x[:, :n], first)
        torch.bmm(h[:, :n], w)
        torch.bmm(head, h[:, :n].mT)

    def backward(n: int) -> None:
        torch.bmm(x[:, :n].mT, h[:, :n])
        torch.bmm(h[:, :n].mT, h[:, :n])
        torch.bmm(h[:, :n], w.mT)

    def update() -> None:
        for _ in range(3):  # acting, the batch's log-probabilities, values
            forward(size)
        for _ in range(2 * passes * s.minibatches):
            forward(part)
            backward(part)

    return Row(CARTPOLE, UNIT, "its matrix products alone", cpu(update, repeats, STEPS / size / lanes), note="the floating-point floor")


def rows(repeats: int, share: float) -> list[Row]:
    steps = int(STEPS * share)
    mine = ours(CARTPOLE, "control.cartpole", 64, steps, repeats)
    peers = [
        floor(repeats),
        *(ours(CARTPOLE, "control.cartpole", lanes, steps, repeats) for lanes in (1, 8)),
        sb3(CARTPOLE, "CartPole-v1", steps, repeats, "Stable-Baselines3, its defaults", 20),
        sb3(CARTPOLE, "CartPole-v1", steps, repeats, "CleanRL's settings through SB3", 10, envs=4, **CLEANRL),
        *jax(repeats, steps),
    ]
    door = ours(DOORKEY, "grid.doorkey", 16, steps, repeats, size=5, view="full")
    doors = [sb3(DOORKEY, "MiniGrid-DoorKey-5x5-v0", steps, repeats, "Stable-Baselines3, its defaults", 20, full=True)]
    return [*against(mine, *peers), *against(door, *doors)]
