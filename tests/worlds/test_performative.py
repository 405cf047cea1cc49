"""The world that answers: its grid, what the follower wants, and how its answer mixes into the model."""
import pytest
import torch

from labkit import worlds
from labkit.errors import LabError
from labkit.lanes import Lanes
from labkit.worlds.finite import expected_return
from labkit.worlds.performative import WAYS, performative


def policies(lanes, world, tick=0):
    return (4 * Lanes(range(lanes)).rand(tick, world.mdp.states, world.mdp.actions).double()).softmax(-1)


def beta(value, lanes=1):
    return torch.full((lanes, 1), float(value), dtype=torch.float64)


def test_every_seed_draws_a_grid_with_the_shares_of_the_authors_one():
    mdp = performative(seed=range(30)).mdp
    paid = torch.stack([(mdp.r[:, s, a] if s + d * 5 + e == t and 0 <= s // 5 + d < 5 and 0 <= s % 5 + e < 5 else torch.full((30,), 9.0))
                        for t in range(24) for s in range(24) for a, (d, e) in enumerate(WAYS)]).view(24, -1, 30)  # fmt: skip
    cell = paid.double().amin(1)  # what entering each cell pays
    assert ((cell == -0.5).sum(0) == 3).all() and ((cell == -0.02).sum(0) == 2).all() and ((cell == -0.01).sum(0) == 19).all()
    assert bool((cell[[0, 1, 2, 3, 4, 5, 10, 15, 20]] == -0.01).all()) and len({tuple(c) for c in cell.T.tolist()}) > 20
    assert torch.equal(performative(seed=7).mdp.r[0], mdp.r[7]) and mdp.mu[0].count_nonzero() == 9


def test_no_lane_of_a_follower_depends_on_its_neighbours():
    many, one = performative(seed=range(5)), performative(seed=3)
    pi = policies(5, many)
    assert torch.equal(many.answer(pi, beta(10, 5)).P[3], one.answer(pi[3:4], beta(10)).P[0])


def test_a_follower_that_answers_all_alike_moves_at_random():
    world = performative(seed=2)
    one, other = (world.answer(policies(1, world, tick), beta(0)) for tick in (0, 1))
    assert torch.equal(one.P, other.P) and torch.equal(one.r, other.r)
    torch.testing.assert_close(one.P, (world.mdp.P + world.mdp.P.sum(2, keepdim=True)) / 5)
    torch.testing.assert_close(one.r, (world.mdp.r + world.mdp.r.sum(2, keepdim=True)) / 5)


def test_a_sharp_follower_who_sees_what_pays_does_better_than_the_policy_and_pays_for_overruling():
    """With views that are true its best response earns at least what the policy earns, and free overruling earns the optimum."""
    world = performative(seed=range(6), doubt=0.0, cost=0.0)
    pi = policies(6, world)
    best = (world.mdp.mu * world.mdp.best.v).sum(-1)
    torch.testing.assert_close(expected_return(world.answer(pi, beta(1e5, 6)), pi), best, rtol=0, atol=1e-6)
    dear = performative(seed=range(6), doubt=0.0, cost=100.0)
    assert (dear.overruling(pi, beta(10, 6))[..., :-1].sum(-1)[:, :-1] < 1e-9).all()  # not worth it, wherever something is at stake
    torch.testing.assert_close(dear.follower_values(pi)[..., -1:], (pi * dear.mdp.r).sum(-1, keepdim=True)
                               + 0.9 * (pi[..., None] * dear.mdp.P).sum(2) @ dear.follower_values(pi)[..., -1:])  # fmt: skip


def test_values_of_the_follower_solve_its_bellman_equation():
    """Q(let) = sum_a pi(a) (r' + gamma max Q'), Q(b) = r'(b) - cost + gamma max Q', averaged over views."""
    world = performative(seed=4, views=1)
    pi, q = policies(1, world), world.follower_values(policies(1, world))
    ahead = world.views[:, 0] + 0.9 * world.mdp.P @ q.amax(-1)[0]
    torch.testing.assert_close(q[..., :-1], ahead - 0.05, rtol=0, atol=1e-12)
    torch.testing.assert_close(q[..., -1], (pi * ahead).sum(-1), rtol=0, atol=1e-12)


def test_views_differ_from_the_grid_in_inner_cells_alone():
    world = performative(seed=range(40), doubt=0.3)
    off = (world.views != world.mdp.r[:, None]).double()
    assert not off[:, :, [0, 1, 2, 3], 0].any() and not off[:, :, 19, 3].any()  # left along the first row, down into the goal
    assert 0.1 < off[:, :, 1, 3].mean() < 0.3  # down into an inner cell: redrawn with chance 0.3, in a third of cases to what it was
    assert torch.equal(performative(doubt=0.0, views=2).views, performative().mdp.r[:, None].expand(-1, 2, -1, -1))


@pytest.mark.parametrize(("options", "part"), [({"size": 2}, "size is 2"), ({"views": 0}, "views is 0"), ({"doubt": 1.5}, "doubt is 1.5")])
def test_bad_options_get_one_sentence(options, part):
    with pytest.raises(LabError, match=part):
        worlds.make("finite.performative", **options)
