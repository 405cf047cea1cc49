"""Worlds as Gymnasium environments, Gymnasium environments as worlds."""
import warnings

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces
from gymnasium.utils.env_checker import check_env

from labkit import worlds
from labkit.errors import LabError
from labkit.worlds.control import CartPole

each_world = pytest.mark.parametrize("key", worlds.names())


def uniform(seed, *shape):
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


# worlds in Gymnasium


CONSTANT = {"bandit.arms", "bandit.recovering", "bandit.tallying"}  # there is nothing to see, and Gymnasium wonders at that


def test_every_world_is_registered_under_its_own_key():
    ours = {id for id in gymnasium.registry if id.startswith("DriftLab/")}
    assert ours == {f"DriftLab/{key}" for key in worlds.names()}


@each_world
def test_gymnasium_finds_nothing_to_warn_of(key):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        if key in CONSTANT:
            warnings.filterwarnings("ignore", message=".*maximum and minimum values are equal")
        check_env(gymnasium.make(f"DriftLab/{key}").unwrapped)


@each_world
def test_bounds_hold_what_is_observed(key):
    env = gymnasium.make_vec(f"DriftLab/{key}", num_envs=16)
    obs, _ = env.reset(seed=0)
    env.action_space.seed(0)
    for _ in range(40):
        assert env.observation_space.contains(obs)
        obs = env.step(env.action_space.sample())[0]
    assert np.isfinite(env.observation_space.low).all() and np.isfinite(env.observation_space.high).all()


def test_one_environment_is_the_world_under_numpy_s_noise():
    env, world, rng = gymnasium.make("DriftLab/control.pendulum"), worlds.make("control.pendulum"), np.random.default_rng(0)
    seeded = gymnasium.utils.seeding.np_random(5)[0]
    obs, _ = env.reset(seed=5)
    state = world.reset(torch.from_numpy(seeded.random((1, 1, 2), dtype=np.float32)))
    for t in range(200):
        assert np.array_equal(obs, world.observe(state)[0, 0].numpy())
        action = rng.uniform(-1.2, 1.2, 1).astype(np.float32)
        obs, reward, terminated, truncated, _ = env.step(action)
        state, ours, _, _ = world.step(state, torch.from_numpy(2 * action)[None, None], torch.empty(1, 1, 0))  # torque in N m
        assert (reward, terminated, truncated) == (ours.item(), False, t == 199)


def test_seeds_decide_the_first_state():
    env = gymnasium.make("DriftLab/control.cartpole")
    first, again, other = (env.reset(seed=seed)[0] for seed in (1, 1, 2))
    assert np.array_equal(first, again) and not np.array_equal(first, other) and not np.array_equal(again, env.reset()[0])


@pytest.mark.parametrize("key", ["control.cartpole", "control.mountaincar"])
def test_native_batch_equals_gymnasium_s_sync_vector(key):
    """Same states, same actions: same observations, rewards and flags, next-step autoreset included."""
    native = gymnasium.make_vec(f"DriftLab/{key}", num_envs=7, vectorization_mode="vector_entry_point")
    sync = gymnasium.make_vec(f"DriftLab/{key}", num_envs=7, vectorization_mode="sync")
    assert native.observation_space == sync.observation_space and native.action_space == sync.action_space
    assert native.metadata["autoreset_mode"] is sync.metadata["autoreset_mode"] is gymnasium.vector.AutoresetMode.NEXT_STEP
    native.reset(seed=1), sync.reset(seed=2)
    native.action_space.seed(3)
    fresh, ends = np.ones(7, bool), 0
    for t in range(400 if key == "control.cartpole" else 1050):
        for i in fresh.nonzero()[0]:  # both have begun an episode there, each by its own noise
            sync.envs[i].unwrapped._stepper.state = {k: v[:, i : i + 1].clone() for k, v in native._stepper.state.items()}
        done = native._done
        action = native.action_space.sample() if key == "control.cartpole" or t % 200 < 100 else np.ones((7, 1), np.float32)
        (obs, reward, terminated, truncated, _), theirs = native.step(action), sync.step(action)
        assert all(np.array_equal(a, b) for a, b in zip((reward, terminated, truncated), theirs[1:4], strict=True))
        assert np.array_equal(obs[~done], theirs[0][~done])
        assert not reward[done].any() and not native._stepper.state["t"][0].numpy()[done].any()
        fresh, ends = done, ends + (terminated | truncated).sum()
    assert ends > (80 if key == "control.cartpole" else 6)


def test_writing_into_an_observation_leaves_the_episode_alone():
    env, twin = (gymnasium.make_vec("DriftLab/control.cartpole", num_envs=2) for _ in range(2))
    spoiled, same = env.reset(seed=0)[0], twin.reset(seed=0)[0]
    spoiled += 1
    assert not np.array_equal(spoiled, same)
    assert np.array_equal(env.step(np.zeros(2, np.int64))[0], twin.step(np.zeros(2, np.int64))[0])


def test_a_batch_is_seeded_and_its_environments_differ():
    env = gymnasium.make_vec("DriftLab/control.cartpole", num_envs=3)
    first, again = (env.reset(seed=4)[0] for _ in range(2))
    assert np.array_equal(first, again) and len(np.unique(first[:, 0])) == 3


def test_pictures_come_from_the_world(monkeypatch):
    def picture(world, state, lane=0, env=0):
        return np.full((2, 3, 3), int(state["t"][lane, env]) + 10 * env, np.uint8)

    with pytest.raises(LabError, match=r"control.acrobot cannot be rendered as 'rgb_array'; leave render_mode out"):
        gymnasium.make("DriftLab/control.acrobot", render_mode="rgb_array")
    monkeypatch.setattr(CartPole, "picture", picture, raising=False)
    env = gymnasium.make("DriftLab/control.cartpole", render_mode="rgb_array")
    check_env(env.unwrapped)
    env.reset()
    env.step(1)
    assert env.render().shape == (2, 3, 3) and (env.render() == 1).all()
    batch = gymnasium.make_vec("DriftLab/control.cartpole", num_envs=3, render_mode="rgb_array")
    batch.reset()
    assert [int(frame[0, 0, 0]) for frame in batch.render()] == [0, 10, 20]


def test_bad_actions_and_options_are_named():
    env = gymnasium.make("DriftLab/control.cartpole")
    env.reset()
    with pytest.raises(LabError, match=r"control.cartpole takes whole actions 0 to 1"):
        env.unwrapped.step(2)
    with pytest.raises(LabError, match=r"control.cartpole takes whole actions"):
        env.unwrapped.step(0.5)
    with pytest.raises(LabError, match=r"'control.cartpole' has no option 'gravity'"):
        gymnasium.make("DriftLab/control.cartpole", gravity=1.6)


# Gymnasium's environments as worlds


@pytest.mark.parametrize("id, key", [("CartPole-v1", "control.cartpole"), ("Pendulum-v1", "control.pendulum")])
def test_a_hosted_environment_equals_the_native_world(id, key):
    hosted, native = worlds.from_gymnasium(id), worlds.make(key)
    assert (hosted.obs_size, hosted.actions, hosted.horizon) == (native.obs_size, native.actions, native.horizon)
    state, g, ends = hosted.reset(uniform(0, 2, 3, 2)), torch.Generator().manual_seed(1), 0
    for _ in range(300):
        live = [[env.unwrapped.state for env in row] for row in hosted._envs]
        same = {"body": torch.tensor(np.array(live)).float(), "t": state["t"]}
        assert (hosted.observe(state) - native.observe(same)).abs().amax() < 2e-6
        action = torch.randint(2, (2, 3), generator=g) if key == "control.cartpole" else 6 * torch.rand(2, 3, 1, generator=g) - 3
        state, *ours = hosted.step(state, action, torch.empty(2, 3, 0))
        same, *theirs = native.step(same, action, torch.empty(2, 3, 0))
        assert (hosted.observe(state) - native.observe(same)).abs().amax() < 1e-5
        assert (ours[0] - theirs[0]).abs().amax() < 1e-4 and torch.equal(ours[1], theirs[1]) and torch.equal(ours[2], theirs[2])
        ends += (ours[1] | ours[2]).sum()
        state = hosted.restart(state, ours[1] | ours[2], torch.rand(2, 3, 2, generator=g))
    assert ends >= 6


def test_lunar_lander_flies_as_it_does_in_gymnasium_and_alone_as_beside_others():
    u, g = uniform(2, 3, 2, 2), torch.Generator().manual_seed(3)
    beside, alone, real = worlds.from_gymnasium("LunarLander-v3"), worlds.from_gymnasium("LunarLander-v3"), gymnasium.make("LunarLander-v3")
    many, one = beside.reset(u), alone.reset(u[1:2])
    high, low = (u[1, 0].double() * 2**24).long().tolist()
    obs, _ = real.reset(seed=high * 2**24 + low)
    flying, ends = True, 0
    for _ in range(300):
        assert torch.equal(many["obs"][1:2], one["obs"]) and (not flying or np.array_equal(many["obs"][1, 0], obs))
        action, again = torch.randint(4, (3, 2), generator=g), torch.rand(3, 2, 2, generator=g)
        many, reward, over, cut = beside.step(many, action, torch.empty(3, 2, 0))
        one, reward_alone, over_alone, _ = alone.step(one, action[1:2], torch.empty(1, 2, 0))
        assert torch.equal(reward[1:2], reward_alone) and torch.equal(over[1:2], over_alone)
        if flying:
            obs, gain, done, _, _ = real.step(action[1, 0].item())
            assert np.float32(gain) == reward[1, 0].item() and done == over[1, 0].item()
            flying = not done
        ends += int(over.sum())
        many, one = beside.restart(many, over | cut, again), alone.restart(one, over_alone, again[1:2])
    assert ends > 6 and not flying


@pytest.mark.parametrize("id", [next(id for id in gymnasium.registry if id.startswith("Taxi")), "FrozenLake-v1"])
def test_discrete_observations_become_one_hot(id):
    world, real, u = worlds.from_gymnasium(id), gymnasium.make(id), uniform(5, 1, 1, 2)
    high, low = (u[0, 0].double() * 2**24).long().tolist()
    obs, _ = real.reset(seed=high * 2**24 + low)
    state, over = world.reset(u), False
    assert world.obs_size == real.observation_space.n and world.obs_high == (1.0,) * world.obs_size
    while not over:
        seen = world.observe(state)[0, 0]
        assert seen.sum() == 1 and seen[obs] == 1
        obs, gain, over, cut, _ = real.step(1)
        state, reward, terminated, truncated = world.step(state, torch.ones(1, 1, dtype=torch.int64), torch.empty(1, 1, 0))
        assert (reward.item(), terminated.item(), truncated.item()) == (gain, over, cut)
        over = over or cut


def test_restart_touches_only_finished_environments():
    world = worlds.from_gymnasium("CartPole-v1")
    state = world.reset(uniform(0, 1, 3, 2))
    state, *_ = world.step(state, torch.ones(1, 3, dtype=torch.int64), torch.empty(1, 3, 0))
    done = torch.tensor([[False, True, False]])
    new = world.restart(state, done, uniform(1, 1, 3, 2))
    assert torch.equal(new["obs"][:, [0, 2]], state["obs"][:, [0, 2]]) and not torch.equal(new["obs"][:, 1], state["obs"][:, 1])
    assert new["t"].tolist() == [[1, 0, 1]]
    after, _, _, truncated = world.step(new, torch.ones(1, 3, dtype=torch.int64), torch.empty(1, 3, 0))
    assert after["t"].tolist() == [[2, 1, 2]] and not truncated.any()


def test_a_fork_starts_fresh_episodes():
    world = worlds.from_gymnasium("CartPole-v1")
    push, none = torch.ones(1, 2, dtype=torch.int64), torch.empty(1, 2, 0)
    start = world.reset(uniform(0, 1, 2, 2))
    ahead, *_ = world.step(start, push, none)
    assert not world.forkable
    for elsewhere in (world, worlds.from_gymnasium("CartPole-v1")):  # the run went on; the state was stored
        fork, reward, terminated, truncated = elsewhere.step(start, push, none)
        assert truncated.all() and not terminated.any() and not reward.any() and torch.equal(fork["obs"], start["obs"])
        fresh = elsewhere.restart(fork, truncated, uniform(1, 1, 2, 2))
        assert not torch.equal(fresh["obs"], start["obs"])
        _, reward, _, truncated = elsewhere.step(fresh, push, none)
        assert (reward == 1).all() and not truncated.any()
    assert world.step(ahead, push, none)[3].all(), "its episodes ended where the fork's began"


def test_a_finished_episode_goes_no_further():
    world = worlds.from_gymnasium("CartPole-v1", max_episode_steps=2)
    state, push, none = world.reset(uniform(0, 1, 1, 2)), torch.ones(1, 1, dtype=torch.int64), torch.empty(1, 1, 0)
    for expected in ((1, False), (1, True), (0, True), (0, True)):
        state, reward, _, truncated = world.step(state, push, none)
        assert (reward.item(), truncated.item()) == expected


class Stub(gymnasium.Env):
    """Any spaces; the reward is the action, or NaN at the third step."""

    def __init__(self, obs=None, act=None, nan=False):
        self.observation_space, self.action_space, self.nan = obs or spaces.Box(0, 1, (2, 3)), act or spaces.Discrete(3, start=5), nan

    def reset(self, *, seed=None, options=None):
        self.t = 0
        return np.arange(6, dtype=np.float32).reshape(2, 3) / 6, {}

    def step(self, action):
        assert self.action_space.contains(action)
        self.t += 1
        gain = float("nan") if self.nan and self.t == 3 else float(np.sum(action))
        return np.arange(6, dtype=np.float32).reshape(2, 3) / 6, gain, False, False, {}


@pytest.fixture
def stub():
    gymnasium.register("test/Stub-v0", Stub, max_episode_steps=9)
    yield lambda **options: worlds.from_gymnasium("test/Stub-v0", **options)
    del gymnasium.registry["test/Stub-v0"]


def test_arrays_are_flattened_and_actions_counted_from_their_start(stub):
    world = stub()
    state = world.reset(uniform(0, 1, 2, 2))
    assert world.obs_size == 6 and torch.equal(world.observe(state), (torch.arange(6.0) / 6).expand(1, 2, 6))
    assert world.step(state, torch.tensor([[0, 2]]), torch.empty(1, 2, 0))[1].tolist() == [[5, 7]]


def test_actions_are_clipped_into_a_box_of_any_shape(stub):
    world = stub(act=spaces.Box(-1, 2, (2, 2)))
    assert world.actions == worlds.Continuous(4, -1.0, 2.0)
    reward = world.step(world.reset(uniform(0, 1, 1, 2)), torch.tensor([[[-9.0, 0.5, 9.0, 1.0]]]), torch.empty(1, 1, 0))[1]
    assert reward.item() == -1 + 0.5 + 2 + 1


def test_a_reward_that_is_no_number_is_placed(stub):
    world = stub(nan=True)
    state = world.reset(uniform(0, 2, 2, 2))
    act, none = torch.zeros(2, 2, dtype=torch.int64), torch.empty(2, 2, 0)
    for _ in range(2):
        state, *_ = world.step(state, act, none)
    state = world.restart(state, torch.tensor([[True, True], [True, False]]), uniform(1, 2, 2, 2))
    with pytest.raises(LabError, match="test/Stub-v0 gave the reward nan at lane 1, environment 1, step 3; rewards must be finite"):
        world.step(state, act, none)


UNSUPPORTED = {
    "observed through Dict": {"obs": spaces.Dict(a=spaces.Discrete(2))},
    "observed through Tuple": {"obs": spaces.Tuple([spaces.Discrete(2)])},
    "actions from MultiDiscrete": {"act": spaces.MultiDiscrete([2, 3])},
    "same finite bounds": {"act": spaces.Box(np.array([-1, -2], np.float32), np.ones(2, np.float32))},
    "same finite": {"act": spaces.Box(-np.inf, np.inf, (2,))},
}


@pytest.mark.parametrize("message", UNSUPPORTED)
def test_other_spaces_are_refused(stub, message):
    with pytest.raises(LabError, match=message):
        stub(**UNSUPPORTED[message])


@pytest.mark.parametrize(
    "id, options, message",
    [
        ("LunarLander-v9", {}, "Gymnasium has no environment 'LunarLander-v9'; did you mean 'LunarLander-v3'"),
        ("Nothing/of-this-kind", {}, "Gymnasium has no environment 'Nothing/of-this-kind'; gymnasium.pprint_registry"),
        ("CliffWalking-v1", {}, "CliffWalking-v1 has no step limit; give one, such as max_episode_steps=200"),
        ("CartPole-v1", {"gravity": 1}, "Gymnasium cannot make 'CartPole-v1' with options {'gravity': 1}: .*unexpected keyword"),
    ],
)
def test_what_gymnasium_cannot_make_is_named(id, options, message):
    with pytest.raises(LabError, match=message):
        worlds.from_gymnasium(id, **options)
