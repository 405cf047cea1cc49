"""Both ways across to Gymnasium: every world as a Gymnasium environment, any Gymnasium environment as a world.

A world called KEY is the environment `DriftLab/KEY`: `gymnasium.make("DriftLab/control.cartpole")` once `labkit.worlds` is
imported, `gymnasium.make("labkit.worlds:DriftLab/control.cartpole")` without; `gymnasium.make_vec` steps a batch natively.
"""
import math
from difflib import get_close_matches
from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium import spaces
from gymnasium.vector import AutoresetMode
from gymnasium.vector.utils import batch_space
from torch import Tensor

from labkit.errors import LabError
from labkit.worlds import registry
from labkit.worlds.world import Continuous, Discrete, State, World


def spaces_of(world: World) -> tuple[spaces.Box, spaces.Discrete | spaces.Box]:
    """Gymnasium's observation and action space. Bounds: `obs_low`, `obs_high`; actions -1 to 1."""
    bounds = (world.obs_low, world.obs_high)
    low, high = (np.broadcast_to(np.asarray(bound, np.float32), world.obs_size) for bound in bounds)
    seen = spaces.Box(low.copy(), high.copy(), dtype=np.float32)
    if isinstance(world.actions, Discrete):
        return seen, spaces.Discrete(world.actions.n)
    return seen, spaces.Box(-1.0, 1.0, (world.actions.dim,), np.float32)


class Stepper:
    """What the two environments below share: one lane of a world with n environments, fed by NumPy's noise."""

    def __init__(self, key: str, n: int, options: dict[str, Any]) -> None:
        self.world, self.n = registry.make(key, **options), n
        self.state: State = {}

    def noise(self, rng: np.random.Generator, size: int) -> Tensor:
        return torch.from_numpy(rng.random((1, self.n, size), dtype=np.float32))

    def reset(self, rng: np.random.Generator) -> None:
        self.state = self.world.reset(self.noise(rng, self.world.reset_noise))

    def step(self, action: Any, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Reward, terminated, truncated, (n,) each."""
        act, actions = torch.from_numpy(np.asarray(action).reshape(1, self.n, -1)), self.world.actions
        if isinstance(actions, Continuous):
            act = act.float() * ((actions.high - actions.low) / 2) + (actions.high + actions.low) / 2
        else:
            act = act[..., 0]
        self.world.check(act)
        self.state, *rest = self.world.step(self.state, act, self.noise(rng, self.world.step_noise))
        reward, terminated, truncated = (x[0].numpy() for x in rest)
        return reward, terminated, truncated

    def observe(self) -> np.ndarray:
        return self.world.observe(self.state)[0].numpy().copy()  # a copy: observations may share memory with the state

    def picture(self, env: int) -> np.ndarray:
        return np.asarray(self.world.picture(self.state, 0, env))  # type: ignore[attr-defined]

    def metadata(self, render_mode: str | None) -> dict[str, Any]:
        """What can be rendered; LabError where `render_mode` cannot."""
        modes = ["rgb_array"] if hasattr(self.world, "picture") else []
        if render_mode is not None and render_mode not in modes:
            remedy = " or give 'rgb_array'." if modes else "."
            raise LabError(f"{self.world.key} cannot be rendered as {render_mode!r}; leave render_mode out{remedy}")
        return {"render_modes": modes, "render_fps": 10}


class DriftEnv(gymnasium.Env[np.ndarray, Any]):
    """A world as a Gymnasium environment, seeded through `reset(seed=...)`.

    Continuous actions go from -1 to 1 in every dimension and are scaled to the world's own box (the pendulum's torque
    is twice the action). The world truncates by its own clock. `options` go to `worlds.make`.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 10}  # noqa: RUF012 (an instance says what its world offers)

    def __init__(self, world: str, render_mode: str | None = None, **options: Any) -> None:
        self._stepper = Stepper(world, 1, options)
        self.metadata, self.render_mode = self._stepper.metadata(render_mode), render_mode
        self.observation_space, self.action_space = spaces_of(self._stepper.world)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        self._stepper.reset(self.np_random)
        return self._stepper.observe()[0], {}

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        reward, terminated, truncated = self._stepper.step(action, self.np_random)
        return self._stepper.observe()[0], float(reward[0]), bool(terminated[0]), bool(truncated[0]), {}

    def render(self) -> Any:
        return self._stepper.picture(0) if self.render_mode else None


class DriftVectorEnv(gymnasium.vector.VectorEnv[np.ndarray, np.ndarray, np.ndarray]):
    """A batch of environments of one world, stepped by one tensor program; actions and options as in `DriftEnv`.

    Autoreset is next-step, Gymnasium's default: the step after an episode's end ignores that environment's action and
    returns the first observation of its next episode with reward 0. All environments draw from one generator.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 10, "autoreset_mode": AutoresetMode.NEXT_STEP}  # noqa: RUF012

    def __init__(self, world: str, num_envs: int = 1, render_mode: str | None = None, **options: Any) -> None:
        self.num_envs, self.render_mode, self._stepper = num_envs, render_mode, Stepper(world, num_envs, options)
        self.metadata = self.metadata | self._stepper.metadata(render_mode)
        self.single_observation_space, self.single_action_space = spaces_of(self._stepper.world)
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self._done = np.zeros(num_envs, bool)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        self._stepper.reset(self.np_random)
        self._done = np.zeros(self.num_envs, bool)
        return self._stepper.observe(), {}

    def step(self, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        s, fresh = self._stepper, self._done
        reward, terminated, truncated = s.step(actions, self.np_random)
        if fresh.any():
            s.state = s.world.restart(s.state, torch.from_numpy(fresh)[None], s.noise(self.np_random, s.world.reset_noise))
        terminated, truncated = terminated & ~fresh, truncated & ~fresh
        self._done = terminated | truncated
        return s.observe(), np.where(fresh, 0.0, reward), terminated, truncated, {}

    def render(self) -> Any:
        return tuple(self._stepper.picture(env) for env in range(self.num_envs)) if self.render_mode else None


def from_gymnasium(id: str, **options: Any) -> World:
    """Any Gymnasium environment with flat spaces as a world; options go to `gymnasium.make`.

    Observations: Box (flattened) or Discrete (one-hot). Actions: Discrete, or Box with one bound for all dimensions.
    LabError for an unknown id, for other spaces and for an environment without a step limit. See `Hosted` for its limits.
    """
    return Hosted(id, options)


class Hosted(World):
    """Live Gymnasium environments under lanes, one instance for each lane and environment, stepped one after the other.

    Slower than a native world, and CPU only. An episode is seeded from the uniform noise given to `reset` and `restart`, so a run
    repeats, and a lane is the same alone and beside others. Continuous actions are clipped into the box.

    The state only names what the live environments hold (`seed` of the episode, steps `t`), it cannot bring it back. So a state
    that the environments have left (a fork, a stored run, a finished episode) is truncated at its first step with
    reward 0, and `restart` begins a fresh episode. For the same reason each run needs a world object of its own.
    """

    forkable = False
    reset_noise = 2  # 2 x 24 bits of seed

    def __init__(self, id: str, options: dict[str, Any]) -> None:
        self.key, self._options = id, options
        env = self._open()
        self.horizon = _horizon(id, env)
        self.actions = _actions(id, env.action_space)
        self.obs_low, self.obs_high = _bounds(id, env.observation_space)
        self.obs_size = len(self.obs_low)
        self._chosen: Any = env.action_space
        self._observed = env.observation_space
        env.close()
        self._seat(0, 0)

    def _open(self) -> gymnasium.Env:
        try:
            return gymnasium.make(self.key, disable_env_checker=True, **self._options)
        except gymnasium.error.UnregisteredEnv as error:
            near = get_close_matches(self.key, gymnasium.registry, 1)
            hint = f"did you mean {near[0]!r}?" if near else "gymnasium.pprint_registry() lists what there is."
            raise LabError(f"Gymnasium has no environment {self.key!r}; {hint}") from error
        except (gymnasium.error.Error, TypeError) as error:
            why = str(error).rstrip(".")
            raise LabError(f"Gymnasium cannot make {self.key!r} with options {self._options}: {why}.") from error

    def _seat(self, lanes: int, envs: int) -> None:
        """Hold lanes x envs environments, none of them within an episode."""
        self._envs = [[self._open() for _ in range(envs)] for _ in range(lanes)]
        self._seed, self._t = torch.full((2, lanes, envs), -1)

    def reset(self, u: Tensor) -> State:
        empty = torch.zeros(u.shape[:2], dtype=torch.int64)
        state = {"obs": u.new_zeros(*u.shape[:2], self.obs_size), "seed": empty, "t": empty}
        return self.restart(state, empty == 0, u)

    def restart(self, state: State, done: Tensor, u: Tensor) -> State:
        if done.shape != self._t.shape:
            self._seat(*done.shape)
        high, low = (u * 2**24).long().unbind(-1)
        self._seed = torch.where(done, (high << 24) + low, self._seed)
        self._t = torch.where(done, 0, self._t)
        obs = state["obs"].clone()
        for lane, env in done.nonzero().tolist():
            seen, _ = self._envs[lane][env].reset(seed=int(self._seed[lane, env]))
            obs[lane, env] = self._flat(seen)
        return {"obs": obs, "seed": torch.where(done, self._seed, state["seed"]), "t": torch.where(done, 0, state["t"])}

    def step(self, state: State, action: Tensor, u: Tensor) -> tuple[State, Tensor, Tensor, Tensor]:
        if action.shape[:2] != self._t.shape:
            self._seat(*action.shape[:2])
        live = (state["seed"] == self._seed) & (state["t"] == self._t)
        obs, reward = state["obs"].clone(), torch.zeros(live.shape)
        terminated, truncated = torch.zeros_like(live), ~live
        for lane, env in live.nonzero().tolist():
            seen, gain, over, cut, _ = self._envs[lane][env].step(self._act(action[lane, env]))
            if not math.isfinite(gain):
                where = f"lane {lane}, environment {env}, step {int(state['t'][lane, env]) + 1}"
                raise LabError(f"{self.key} gave the reward {gain} at {where}; rewards must be finite.")
            obs[lane, env] = self._flat(seen)
            reward[lane, env], terminated[lane, env], truncated[lane, env] = float(gain), bool(over), bool(cut)
        t = state["t"] + 1
        self._t = torch.where(live & ~terminated & ~truncated, t, -1)
        return {"obs": obs, "seed": state["seed"], "t": t}, reward, terminated, truncated

    def observe(self, state: State) -> Tensor:
        return state["obs"]

    def _flat(self, seen: Any) -> Tensor:
        return torch.from_numpy(np.array(spaces.flatten(self._observed, seen), np.float32))

    def _act(self, action: Tensor) -> Any:
        if isinstance(self._chosen, spaces.Discrete):
            return self._chosen.start + action.numpy()
        return np.clip(action.numpy(), self._chosen.low.flat, self._chosen.high.flat).reshape(self._chosen.shape)


def _horizon(id: str, env: gymnasium.Env) -> int:
    limit = env.spec.max_episode_steps if env.spec else None
    if limit is None:
        raise LabError(f"{id} has no step limit; give one, such as max_episode_steps=200.")
    return limit


def _actions(id: str, space: gymnasium.Space) -> Discrete | Continuous:
    if isinstance(space, spaces.Discrete):
        return Discrete(int(space.n))
    if not isinstance(space, spaces.Box):
        raise LabError(f"{id} takes actions from {space}; a world's actions are Discrete or a Box.")
    low, high = float(space.low.min()), float(space.high.max())
    if not (math.isfinite(low) and math.isfinite(high) and (space.low == low).all() and (space.high == high).all()):
        raise LabError(f"{id} takes actions from {space}; a world's Box needs the same finite bounds in every dimension.")
    return Continuous(math.prod(space.shape), low, high)


def _bounds(id: str, space: gymnasium.Space) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Least and greatest value of each number observed."""
    if not isinstance(space, spaces.Box | spaces.Discrete):
        raise LabError(f"{id} is observed through {space}; a world's observations are a Box or Discrete.")
    flat = spaces.flatten_space(space)
    assert isinstance(flat, spaces.Box)
    return tuple(flat.low.tolist()), tuple(flat.high.tolist())
