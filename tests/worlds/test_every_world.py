"""What holds for every world, found by discovery: pure functions of state, action and noise."""
import pytest
import torch

from labkit import worlds
from labkit.lanes import Lanes
from labkit.worlds.world import Discrete

LANES, ENVS = Lanes((3, 4)), 6
each_world = pytest.mark.parametrize("key", worlds.names())


def drawn(world, tick):
    """Actions from everywhere in the space, and the noise of a step and of a restart."""
    u = LANES.rand(3 * tick, ENVS, world.actions.noise)
    low, high = (0, 0) if isinstance(world.actions, Discrete) else (world.actions.low, world.actions.high)
    action = (u[..., 0] * world.actions.n).long() if isinstance(world.actions, Discrete) else low + (high - low) * u
    return action, LANES.rand(3 * tick + 1, ENVS, world.step_noise), LANES.rand(3 * tick + 2, ENVS, world.reset_noise)


def begun(world):
    return world.reset(LANES.rand(1 << 20, ENVS, world.reset_noise))


def journey(key, steps=25, horizon=10):
    """Rows of state, what `step` was given and gave, and the state that the next row starts from."""
    world = worlds.make(key)
    world.horizon = min(world.horizon, horizon)
    state, rows = begun(world), []
    for tick in range(steps):
        action, u, again = drawn(world, tick)
        after, reward, terminated, truncated = world.step(state, action, u)
        following = world.restart(after, terminated | truncated, again)
        rows.append((state, action, u, after, reward, terminated, truncated, again, following))
        state = following
    return world, rows


def flat(state):
    return [state[name] for name in sorted(state)]


@each_world
def test_the_same_noise_gives_the_same_journey(key):
    for one, other in zip(*(journey(key)[1] for _ in range(2)), strict=True):
        for a, b in zip(one, other, strict=True):
            assert all(torch.equal(x, y) for x, y in zip(*(flat(v) if isinstance(v, dict) else [v] for v in (a, b)), strict=True))


@each_world
def test_nothing_writes_into_its_arguments(key):
    world, rows = journey(key, steps=12)
    for state, action, u, after, *_, terminated, truncated, again, _ in rows:
        given = [*flat(state), action, u, *flat(after), again]
        before = [x.clone() for x in given]
        world.step(state, action, u), world.observe(state), world.restart(after, terminated | truncated, again)
        world.restart(after, torch.ones_like(terminated), again), world.reset(again)
        assert all(torch.equal(x, y) for x, y in zip(before, given, strict=True))


@each_world
def test_what_is_seen_and_paid_has_its_shape_and_lies_within_its_bounds(key):
    world, rows = journey(key, horizon=10**6)
    low, high = (torch.as_tensor(x) for x in (world.obs_low, world.obs_high))
    for state, *_, reward, terminated, truncated, _, _ in rows:
        obs = world.observe(state)
        assert obs.shape == (2, ENVS, world.obs_size) and obs.dtype == torch.float32
        assert ((obs >= low - 1e-6) & (obs <= high + 1e-6)).all()
        assert reward.shape == (2, ENVS) and reward.dtype == torch.float32 and reward.isfinite().all()
        assert terminated.dtype == truncated.dtype == torch.bool and terminated.shape == truncated.shape == (2, ENVS)
        assert all(x.shape[:2] == (2, ENVS) for x in state.values())


@each_world
def test_the_clock_runs_out_at_the_horizon_and_not_before(key):
    world, rows = journey(key, horizon=7)
    age = torch.zeros(2, ENVS)
    for *_, terminated, truncated, _, _ in rows:
        age += 1
        assert torch.equal(truncated, age == world.horizon)
        age[terminated | truncated] = 0


@each_world
def test_a_restart_touches_only_what_is_done(key):
    world, rows = journey(key, steps=12)
    for *_, again, _ in rows[2:]:
        after, fresh = rows[2][3], world.reset(again)
        done = torch.rand(2, ENVS, generator=torch.Generator().manual_seed(1)) < 0.5
        mixed = world.restart(after, done, again)
        for name in after:
            assert torch.equal(mixed[name][done], fresh[name][done]) and torch.equal(mixed[name][~done], after[name][~done])
    assert mixed.keys() == fresh.keys() == after.keys()
    assert all(x is y for x, y in zip(flat(after), flat(world.restart(after, torch.zeros_like(done), again)), strict=True))


@each_world
def test_an_environment_is_the_same_whatever_stands_beside_it(key):
    """Lane 1 alone, and its environments in another order."""
    world, rows = journey(key, steps=12)
    order = torch.tensor([3, 1, 5, 0, 4, 2])
    for state, action, u, after, reward, terminated, truncated, *_ in rows:
        alone = {name: x[1:, order] for name, x in state.items()}
        got, *rest = world.step(alone, action[1:, order], u[1:, order])
        for x, y in zip((*flat(got), *rest), (*flat(after), reward, terminated, truncated), strict=True):
            torch.testing.assert_close(x, y[1:, order], rtol=1e-6, atol=1e-6)  # sines differ by place in memory; lanes keep theirs
