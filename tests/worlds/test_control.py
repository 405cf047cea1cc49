"""Control worlds against Gymnasium's, step by step from the same states."""
import re

import gymnasium
import numpy as np
import pytest
import torch
from scipy.stats import kstest

from labkit import worlds

PEERS = {
    "control.cartpole": "CartPole-v1",
    "control.acrobot": "Acrobot-v1",
    "control.mountaincar": "MountainCarContinuous-v0",
    "control.pendulum": "Pendulum-v1",
}
FAR = {"control.acrobot": (3.1, 3.1, 12, 28), "control.mountaincar": (1.1, 0.07), "control.pendulum": (7, 8)}
TOLERANCE = {torch.float64: 1e-9, torch.float32: 2e-5}  # Acrobot's fast spins lose about 1e-6 of 28 in one float32 step
each_world = pytest.mark.parametrize("key", PEERS)


def actions(world, rng, shape):
    """Random actions; a quarter of the continuous ones lie outside the box."""
    if isinstance(world.actions, worlds.Discrete):
        return rng.integers(world.actions.n, size=shape)
    return rng.uniform(1.33 * world.actions.low, 1.33 * world.actions.high, size=(*shape, 1))


def peer_steps(key, steps, rng):
    """`steps` steps of Gymnasium's environment: bodies before, actions, and what came of them."""
    env, world, rows = gymnasium.make(PEERS[key]).unwrapped, worlds.make(key), []
    env.reset(seed=3)
    for t in range(steps):
        if t % 50 == 0 or rows[-1][4]:
            env.reset()
            env.state = np.array(env.state, dtype=np.float64)
            if t % 100 == 0 and key != "control.cartpole":  # faster and farther than a random policy gets
                env.state = rng.uniform(-1, 1, len(env.state)) * FAR[key]
            env.steps_beyond_terminated = None
        before, action = np.array(env.state, dtype=np.float64), actions(world, rng, ())
        obs, reward, terminated, _, _ = env.step(action)
        rows.append((before, action, np.array(env.state, dtype=np.float64), reward, terminated, obs))
    return world, rows


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@each_world
def test_each_step_equals_gymnasium(key, dtype):
    world, rows = peer_steps(key, 3000, np.random.default_rng(0))
    before, action, after, reward, terminated, obs = (torch.from_numpy(np.stack(column)) for column in zip(*rows, strict=True))
    state = {"body": before[None].to(dtype), "t": torch.zeros(1, len(rows), dtype=torch.int64)}
    action = action[None] if action.dtype == torch.int64 else action[None].to(dtype)
    new, got, ended, truncated = world.step(state, action, torch.empty(1, len(rows), 0))
    # Gymnasium's mountain car keeps its state in float32, the others in float64
    tolerance = 2e-7 if key == "control.mountaincar" and dtype == torch.float64 else TOLERANCE[dtype]
    assert (new["body"][0].double() - after).abs().amax() < tolerance
    assert (got[0].double() - reward).abs().amax() < max(tolerance, 1e-6)
    assert torch.equal(ended[0], terminated)
    assert (world.observe(new)[0] - obs).abs().amax() < 2e-5
    assert not truncated.any() and torch.equal(new["t"], state["t"] + 1)
    assert key == "control.pendulum" or 5 < terminated.sum() < 1000, "the comparison must see episodes end"
    assert got.dtype == dtype and world.observe(new).dtype == torch.float32


@each_world
def test_episodes_are_truncated_where_gymnasium_truncates(key):
    world, spec = worlds.make(key), gymnasium.spec(PEERS[key])
    assert world.horizon == spec.max_episode_steps
    state = world.reset(torch.full((1, 1, world.reset_noise), 0.5))
    state["t"] += torch.tensor([[world.horizon - 2]])
    rest = torch.ones(1, 1, dtype=torch.int64) if isinstance(world.actions, worlds.Discrete) else torch.zeros(1, 1, 1)
    state, _, terminated, truncated = world.step(state, rest, torch.empty(1, 1, 0))
    assert not truncated and not terminated
    _, _, terminated, truncated = world.step(state, rest, torch.empty(1, 1, 0))
    assert truncated and not terminated


@each_world
def test_first_states_are_spread_as_gymnasium_spreads_them(key):
    world, env = worlds.make(key), gymnasium.make(PEERS[key]).unwrapped
    u = torch.rand(2, 2000, world.reset_noise, generator=torch.Generator().manual_seed(1))
    ours = world.reset(u)["body"].flatten(0, 1).double().numpy()
    env.reset(seed=0)
    theirs = np.stack([(env.reset(), env.state)[1] for _ in range(4000)])
    assert not world.reset(u)["t"].any()
    for mine, yours in zip(ours.T, theirs.T, strict=True):
        assert mine.min() >= yours.min() - 0.01 * np.ptp(yours) and mine.max() <= yours.max() + 0.01 * np.ptp(yours)
        assert np.ptp(mine) >= 0.99 * np.ptp(yours)
        assert np.ptp(yours) == 0 or kstest(mine, yours).pvalue > 1e-3


@each_world
def test_bounds_hold_every_observation(key):
    """Also under a bully that pushes along the motion, and against it near the end."""
    world, g = worlds.make(key), torch.Generator().manual_seed(2)
    low, high = torch.tensor(world.obs_low), torch.tensor(world.obs_high)
    state = world.reset(torch.rand(2, 64, world.reset_noise, generator=g))
    for t in range(600):
        obs = world.observe(state)
        assert ((obs >= low) & (obs <= high)).all()
        along = (obs[..., -1] > 0) ^ (torch.rand(2, 64, generator=g) < (0.5 if t < 300 else 0.05))
        action = along * (world.actions.n - 1) if isinstance(world.actions, worlds.Discrete) else (4.0 * along - 2)[..., None]
        state, _, terminated, truncated = world.step(state, action, torch.empty(2, 64, 0))
        state = world.restart(state, terminated | truncated, torch.rand(2, 64, world.reset_noise, generator=g))


@each_world
def test_bounds_are_gymnasium_s_where_it_has_some(key):
    space, world = gymnasium.make(PEERS[key]).observation_space, worlds.make(key)
    for ours, theirs in ((world.obs_low, space.low), (world.obs_high, space.high)):
        known = np.isfinite(theirs)
        assert np.allclose(np.array(ours)[known], theirs[known], rtol=1e-6)


@each_world
def test_a_lane_beside_others_equals_the_lane_alone(key):
    world, rng = worlds.make(key), np.random.default_rng(4)
    u = torch.from_numpy(rng.random((5, 13, world.reset_noise))).float()
    together, alone = world.reset(u), world.reset(u[3:4])
    for _ in range(60):
        act = torch.from_numpy(actions(world, rng, (5, 13)))
        act = act if act.dtype == torch.int64 else act.float()
        together, reward, *_ = world.step(together, act, torch.empty(5, 13, 0))
        alone, reward_alone, *_ = world.step(alone, act[3:4], torch.empty(1, 13, 0))
        assert torch.equal(reward[3:4], reward_alone)
        assert torch.equal(together["body"][3:4], alone["body"])
        assert torch.equal(world.observe(together)[3:4], world.observe(alone))


@each_world
def test_step_leaves_its_arguments_alone(key):
    world = worlds.make(key)
    state = world.reset(torch.rand(2, 3, world.reset_noise, generator=torch.Generator().manual_seed(0)))
    kept = {name: value.clone() for name, value in state.items()}
    action = torch.ones(2, 3, dtype=torch.int64) if isinstance(world.actions, worlds.Discrete) else torch.full((2, 3, 1), 9.0)
    world.step(state, action, torch.empty(2, 3, 0))
    assert all(torch.equal(state[name], kept[name]) for name in state)
    assert isinstance(world.actions, worlds.Discrete) or torch.equal(action, torch.full((2, 3, 1), 9.0))


def test_restart_touches_only_finished_environments():
    world = worlds.make("control.cartpole")
    state = {"body": torch.arange(12.0).view(1, 3, 4), "t": torch.tensor([[7, 8, 9]])}
    new = world.restart(state, torch.tensor([[False, True, False]]), torch.full((1, 3, 4), 0.5))
    assert new["t"].tolist() == [[7, 0, 9]]
    assert torch.equal(new["body"][:, [0, 2]], state["body"][:, [0, 2]]) and torch.equal(new["body"][:, 1], torch.zeros(1, 4))


def test_unknown_options_are_named():
    with pytest.raises(worlds.world.LabError, match=re.escape("control.cartpole")):
        worlds.make("control.cartpole", gravity=1.6)
