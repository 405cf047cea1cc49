"""Exact states of the drift meter against exact occupancies, an enumerated peer and sampled episodes."""
import itertools

import pytest
import torch

from labkit import worlds
from labkit.errors import LabError
from labkit.lanes import Lanes
from labkit.learner import Learner
from labkit.meter import DriftMeter
from labkit.nn import Net
from labkit.occupancy import exact_states, visits
from labkit.on_policy.family import ppo
from labkit.snapshot import Snapshot
from labkit.tabular.family import npg
from labkit.worlds.finite import from_table, occupancy
from labkit.worlds.grid import enumerate_states


def random_policy(lanes, table):
    return (2 * Lanes(tuple(range(lanes))).rand(1, *table.next.shape).double()).softmax(-1)


def grid(**options):
    """Four rooms of 3 x 3 cells, in which an episode ends at the goal or after 30 steps."""
    world = worlds.make("grid.fourrooms", size=9, layout_seed=1, max_steps=30, **options)
    return world, enumerate_states(world)


def snapshot_of(world, lanes):
    learner = ppo.begin(world, lanes)
    net = learner.nets["pi"]
    net.move(net.theta * 3, learner.on)  # away from the uniform policy
    return Snapshot(0, learner, {})


def test_the_meter_on_exact_states_reads_the_kl_of_the_metrics():
    world = worlds.make("finite.frozenlake", gamma=0.95)
    meter = DriftMeter(exact_states(world.mdp), "kl", "previous")
    readings = [(meter(s).value, s.metrics["kl"]) for s in itertools.islice(npg.run(world, Lanes((0, 1), {"eta": (0.1, 1.0)})), 6)]
    for read, exact in readings[1:]:
        torch.testing.assert_close(read, exact, rtol=1e-4, atol=1e-6, check_dtype=False)
    assert readings[1][1].min() > 1e-4


def test_states_of_an_mdp_are_one_hot_and_weighed_by_its_occupancy():
    world = worlds.make("finite.garnet", seed=range(3), gamma=0.9)
    last = list(itertools.islice(npg.run(world, Lanes((0, 1, 2))), 4))[-1]
    states = exact_states(world.mdp)(last)
    assert torch.equal(states.obs, torch.eye(10))
    torch.testing.assert_close(states.weights, occupancy(world.mdp, last.learner.memory["log_pi"].exp()), rtol=1e-5, atol=1e-7)


def test_weights_sum_to_one_where_episodes_end():
    world = worlds.make("finite.frozenlake", gamma=0.95)
    first = next(npg.run(world, Lanes((0,))))
    assert occupancy(world.mdp, first.learner.memory["log_pi"].exp()).sum() < 0.9
    torch.testing.assert_close(exact_states(world.mdp)(first).weights.sum(-1), torch.ones(1, dtype=torch.float64))


def test_visits_are_the_occupancy_of_the_listed_grid_step_by_step():
    _, table = grid()
    pi = random_policy(3, table)
    mdp = from_table(table.next, table.reward, table.done, table.mu, gamma=1.0).mdp
    steps = occupancy(mdp, pi, horizon=table.horizon).sum(1)
    ours = visits(table)(pi)
    torch.testing.assert_close(ours, steps / steps.sum(-1, keepdim=True), rtol=0, atol=1e-14)
    torch.testing.assert_close(ours.sum(-1), torch.ones(3, dtype=torch.float64), rtol=0, atol=1e-14)


@torch.no_grad()
def sampled_shares(world, learner, batches, episodes):
    """Shares of the steps of whole episodes spent in each state, by counting, (batches, S)."""
    rows = []
    for _ in range(batches):
        state, live = world.reset(learner.rand(episodes, world.reset_noise)), torch.ones(1, episodes, dtype=torch.bool)
        count = torch.zeros(world.obs_size, dtype=torch.float64)
        for _ in range(world.horizon):
            obs = world.observe(state)
            count += obs[live].double().sum(0)
            action = learner.policy(obs).sample(learner.rand(episodes, 1))
            state, _, terminated, _ = world.step(state, action, learner.rand(episodes, world.step_noise))
            live = live & ~terminated
        rows.append(count / count.sum())
    return torch.stack(rows)


def test_visits_are_those_of_sampled_episodes():
    """Shares of 4,000 episodes in 40 batches, each within 4.5 standard errors."""
    world, table = grid(view="state", random_start=False)
    snap = snapshot_of(world, Lanes((0,)))
    exact = exact_states(table)(snap).weights[0]
    shares = sampled_shares(world, snap.learner, 40, 100)
    often = exact > 0.01
    assert often.sum() > 10
    z = (shares.mean(0) - exact)[often] / (shares.std(0)[often] / 40**0.5)
    assert z.abs().max() < 4.5
    assert (exact[shares.sum(0) > 0] > 0).all()


def test_partial_views_are_read_at_every_listed_state():
    world, table = grid()
    snap = snapshot_of(world, Lanes((0, 1)))
    states = exact_states(table)(snap)
    assert states.obs.shape == (len(table.mu), 147)
    pi = snap.learner.policy(table.obs).probs.double()
    torch.testing.assert_close(states.weights, visits(table)(pi.detach()), rtol=0, atol=0)
    meter = DriftMeter(exact_states(table), "kl", snapshot_of(world, Lanes((7, 8))).learner)
    assert (meter(snap).value > 1e-4).all()


def test_lane_beside_others_equals_lane_alone():
    _, table = grid()
    pi = random_policy(37, table)
    together = visits(table)(pi)
    for lanes in (slice(0, 1), slice(3, 4), slice(2, 5), slice(0, 7), slice(4, 36)):
        assert torch.equal(visits(table)(pi[lanes]), together[lanes])


def test_what_has_no_exact_states_is_refused():
    with pytest.raises(LabError, match=r"grid.fourrooms cannot be listed; take a finite world, a grid with layout_seed=0, or tokens"):
        exact_states(worlds.make("grid.fourrooms"))
    lanes = Lanes((0,))
    learner = Learner(lanes, "gaussian")
    learner.nets["pi"] = Net(learner.rand, (10, 2), free=2)
    with pytest.raises(LabError, match="finitely many actions; this one is Gaussian"):
        exact_states(worlds.make("finite.garnet").mdp)(Snapshot(0, learner, {}))
