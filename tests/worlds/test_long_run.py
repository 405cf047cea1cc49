"""Long-run averages of finite worlds against powers of the chain, all policies, and values worked out by hand."""
import itertools

import pytest
import torch

from labkit import worlds
from labkit.errors import LabError
from labkit.lanes import Lanes
from labkit.worlds.finite import MDP, gain, optimal_gain, stationary


def garnet(seeds=8, states=4, actions=2, branching=2):
    return worlds.make("finite.garnet", states=states, actions=actions, branching=branching, seed=range(seeds)).mdp


def policies(lanes, states, actions):
    return (2 * Lanes(range(lanes)).rand(3, states, actions).double()).softmax(-1)


def averaged(mdp, pi, steps=20_000):
    """The mean over steps of where the chain is, and of what it pays, by walking on distributions from every state."""
    P, r = (pi[..., None] * mdp.P).sum(2), (pi * mdp.r).sum(-1)
    now, total = torch.eye(mdp.states).double().expand_as(P), torch.zeros_like(P)
    for _ in range(steps):
        total, now = total + now, now @ P
    return total / steps, (total @ r[..., None])[..., 0] / steps


def test_gain_and_stationary_distribution_are_those_of_a_long_walk():
    mdp = garnet()
    pi = policies(8, 4, 2)
    where, paid = averaged(mdp, pi)
    torch.testing.assert_close(gain(mdp, pi), paid, rtol=0, atol=5e-3)
    torch.testing.assert_close(stationary(mdp, pi), (mdp.mu[:, None] @ where)[:, 0], rtol=0, atol=5e-3)
    flow = (stationary(mdp, pi)[..., None] * pi)[..., None] * mdp.P
    torch.testing.assert_close(flow.sum((1, 2)), stationary(mdp, pi), rtol=0, atol=1e-12)  # what leaves is what arrives


@pytest.mark.parametrize("options", [{}, {"states": 3, "actions": 3, "branching": 1}], ids=["mixing", "cycles and traps"])
def test_no_policy_gains_more_than_the_optimal_one(options):
    """Every deterministic policy of every MDP; with one successor each they have cycles and several places to end."""
    mdp = garnet(20, **options)
    g, h, pi = optimal_gain(mdp)
    every = [gain(mdp, torch.eye(mdp.actions).double()[list(choice)].expand(20, -1, -1))
             for choice in itertools.product(range(mdp.actions), repeat=mdp.states)]  # fmt: skip
    torch.testing.assert_close(g, torch.stack(every).amax(0), rtol=0, atol=1e-9)
    torch.testing.assert_close(gain(mdp, pi), g, rtol=0, atol=1e-12)
    P, r = (pi[..., None] * mdp.P).sum(2), (pi * mdp.r).sum(-1)
    torch.testing.assert_close(g + h, r + (P @ h[..., None])[..., 0], rtol=0, atol=1e-9)  # the bias: what a start is worth


def test_a_cycle_and_an_end_by_hand():
    """Two states that take turns, paying 1 and 0; and an episode of one step that pays 3 and begins anew half the time elsewhere."""
    turns = MDP(torch.tensor([[[[0.0, 1.0]], [[1.0, 0.0]]]]), torch.tensor([[[1.0], [0.0]]]), torch.tensor([[1.0, 0.0]]), 0.9)
    only = torch.ones(1, 2, 1).double()
    assert gain(turns, only).tolist() == [[0.5, 0.5]] and stationary(turns, only).tolist() == [[0.5, 0.5]]
    ends = MDP(torch.zeros(1, 2, 1, 2), torch.tensor([[[3.0], [1.0]]]), torch.tensor([[0.25, 0.75]]), 0.9)
    assert gain(ends, only).tolist() == [[1.5, 1.5]]
    assert ends.ends and not turns.ends


def test_riverswim_pays_in_the_long_run_for_swimming():
    mdp = worlds.make("finite.riverswim").mdp
    g, _, pi = optimal_gain(mdp)
    assert pi[0, :, 1].tolist() == [1.0] * 6
    balance = torch.tensor([(0.6 if s == 0 else 0.35) / (0.4 if s == 4 else 0.05) for s in range(5)]).double()
    weight = torch.cat([torch.ones(1).double(), balance.cumprod(0)])  # flows up and down balance between neighbours
    torch.testing.assert_close(g[0], (weight[-1] / weight.sum()).expand(6), rtol=0, atol=1e-12)
    assert mdp.best_gain.item() == g.max()


def test_a_lane_has_the_same_long_run_alone():
    many = garnet(9, states=5, actions=3)
    for k in (0, 4, 8):
        one = many.take(torch.tensor([k]))
        for x, y in zip(optimal_gain(one), optimal_gain(many), strict=True):
            assert torch.equal(x[0], y[k])


def test_taking_lanes_takes_what_is_known_of_them():
    many = garnet(5, states=5, actions=3)
    some = many.take(torch.tensor([3, 3, 0]))
    again = MDP(some.P, some.r, some.mu, some.gamma)
    assert torch.equal(some.P[0], many.P[3]) and some.lanes == 3
    for name in ("q", "v", "pi"):
        assert torch.equal(getattr(some.best, name), getattr(again.best, name))
    assert torch.equal(some.best_gain, again.best_gain) and torch.equal(some.below, again.below)


def test_a_sparse_world_has_no_long_run_here():
    sparse = garnet(1).to_sparse()
    for ask in (lambda: optimal_gain(sparse), lambda: gain(sparse, policies(1, 4, 2)), lambda: sparse.below):
        with pytest.raises(LabError, match="1000 states"):
            ask()
