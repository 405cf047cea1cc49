"""performative_rl: the nearest flow against quadratic programming, its identities, and when the loop comes to rest."""
import itertools

import numpy as np
import pytest
import torch
from scipy.optimize import nnls

from labkit import worlds
from labkit.errors import LabError
from labkit.lanes import Lanes
from labkit.tabular import performative_rl as module
from labkit.tabular.performative_rl import Dual, changes, check, flow, performative_rl, prices
from labkit.worlds.finite import MDP, expected_return, garnet, optimal
from labkit.worlds.performative import performative


def run(rounds, seeds=(0, 1, 2), **grid):
    lanes = Lanes(tuple(seeds), grid)
    return list(itertools.islice(performative_rl.run(performative(seed=[*seeds] * len(lanes.points)), lanes), rounds))


def nearest(mdp, wish):
    h, found = prices(mdp, wish, torch.zeros_like(wish[..., 0]))
    assert bool(found.all())
    return (wish + mdp.discount[:, None, None] * (mdp.P @ h[:, None, :, None])[..., 0] - h[..., None]).relu(), h


def missed(mdp, d):
    return mdp.mu + mdp.discount[:, None] * torch.einsum("lsa,lsat->lt", d, mdp.P) - d.sum(-1)


def wishes(mdp, size=3.0):
    return size * (2 * Lanes(range(mdp.lanes)).rand(5, mdp.states, mdp.actions).double() - 1)


def test_the_nearest_flow_is_balanced_and_its_duality_gap_closed():
    mdp = garnet(states=13, seed=range(8), gamma=0.9).mdp
    wish = wishes(mdp)
    d, h = nearest(mdp, wish)
    assert missed(mdp, d).abs().max() < 1e-8 and bool((d >= 0).all())
    torch.testing.assert_close(d.sum((1, 2)), torch.full((8,), 10.0, dtype=torch.float64))  # 1 / (1 - gamma): nothing ends
    primal = (d - wish).square().sum((1, 2)) / 2
    dual = wish.square().sum((1, 2)) / 2 - (mdp.mu * h).sum(1) - d.square().sum((1, 2)) / 2
    torch.testing.assert_close(primal, dual, rtol=1e-8, atol=1e-8)


def test_the_nearest_flow_is_that_of_non_negative_least_squares():
    """The balance enters as heavy rows: an independent solver finds the same flow."""
    mdp = garnet(states=6, seed=range(3), gamma=0.8).mdp
    wish = wishes(mdp)
    ours = nearest(mdp, wish)[0]
    for lane in range(3):
        B = (torch.eye(6)[:, None] - 0.8 * mdp.P[lane]).flatten(0, 1).numpy()
        rows, goal = np.concatenate([np.eye(18), 1e4 * B.T]), np.concatenate([wish[lane].flatten().numpy(), 1e4 * mdp.mu[0].numpy()])
        found, _ = nnls(rows, goal)
        np.testing.assert_allclose(ours[lane].flatten().numpy(), found, atol=1e-5)


def test_a_flow_is_nearest_to_itself_and_the_dual_slopes_as_it_says():
    mdp = garnet(states=9, seed=range(3), gamma=0.9).mdp
    d = flow(mdp, wishes(mdp).softmax(-1))
    torch.testing.assert_close(nearest(mdp, d)[0], d, rtol=0, atol=1e-8)
    dual, h = Dual(mdp, wishes(mdp)), wishes(mdp)[..., 0].new_ones(3, 16, requires_grad=True)
    torch.testing.assert_close(torch.autograd.grad(dual.look(h)[2].sum(), h)[0], dual.look(h)[1].detach())


def test_with_little_regularisation_the_flow_is_the_best_policys():
    world = garnet(states=8, seed=range(4), gamma=0.9)
    best = optimal(world.mdp)[2]
    d = nearest(world.mdp, world.mdp.r / 1e-4)[0]
    torch.testing.assert_close(d, flow(world.mdp, best), rtol=0, atol=1e-5)


def test_every_round_plays_the_flow_that_is_best_for_the_answered_world():
    first, second = run(2, lam=(0.1,), beta=(10.0,))
    world = performative(seed=(0, 1, 2))
    mdp = world.answer(first.learner.memory["log_pi"].exp(), torch.full((3, 1), 10.0, dtype=torch.float64))
    d, pi = second.learner.memory["d"], second.learner.memory["log_pi"].exp()
    assert missed(mdp, d).abs().max() < 1e-6
    torch.testing.assert_close(flow(mdp, pi), d, rtol=0, atol=1e-6)
    torch.testing.assert_close(second.metrics["return"], expected_return(mdp, pi), rtol=0, atol=1e-12)

    def worth(other):
        return (other * mdp.r - 0.05 * other.square()).sum((1, 2))

    for tick in range(20):  # no other policy's flow is worth more
        assert (worth(flow(mdp, (6 * Lanes((0, 1, 2)).rand(tick, 25, 4).double()).softmax(-1))) < worth(d) + 1e-9).all()


def test_a_follower_that_answers_all_alike_is_settled_after_one_round():
    learners = [s.learner for s in run(4, beta=(0.0,))]
    assert changes(learners).max() < 1e-9


def test_a_gradient_step_is_a_projection_and_a_whole_one_optimises():
    """Proj[(1 - eta lam) d + eta r] with eta = step / lam."""
    lanes, world = Lanes((0, 1, 2), {"lam": (0.5,), "step": (0.2,)}), performative(seed=(0, 1, 2))
    first, second = (s.learner.memory for s in itertools.islice(performative_rl.run(world, lanes), 2))
    mdp = world.answer(first["log_pi"].exp(), torch.full((3, 1), 10.0, dtype=torch.float64))
    eta = float(torch.tensor(0.2)) / 0.5
    torch.testing.assert_close(second["d"], nearest(mdp, (1 - eta * 0.5) * first["d"] + eta * mdp.r)[0], rtol=0, atol=1e-8)


def test_small_steps_and_large_ones_come_to_rest_at_the_same_flow():
    ends = [run(n, beta=(2.0,), step=(step,))[-1].learner.memory["d"] for n, step in ((12, 1.0), (50, 0.5))]
    torch.testing.assert_close(*ends, rtol=0, atol=1e-6)


def test_a_lane_without_prices_is_stopped_and_its_neighbours_go_on(monkeypatch):
    whole = prices

    def failing(mdp, wish, h):
        h, found = whole(mdp, wish, h)
        return h, found & torch.tensor([True, False, True])

    monkeypatch.setattr(module, "prices", failing)
    learner = run(2)[-1].learner
    assert learner.on[:, 0].tolist() == [True, False, True] and len(learner.notes) == 1
    assert all(t.isfinite().all() for t in learner.memory.values())
    monkeypatch.undo()
    assert torch.equal(learner.memory["log_pi"][[0, 2]], run(2)[-1].learner.memory["log_pi"][[0, 2]])


def test_newton_gives_up_where_there_is_no_flow():
    mdp = garnet(states=5, seed=(0, 1)).mdp
    impossible = MDP(mdp.P, mdp.r, mdp.mu, 1.0)  # undiscounted and endless: no flow is balanced
    assert not prices(impossible, wishes(mdp), torch.zeros(2, 5, dtype=torch.float64))[1].any()


def test_a_world_that_does_not_answer_is_refused():
    with pytest.raises(LabError, match=r"^finite.garnet does not answer .*; take finite.performative\.$"):
        next(performative_rl.run(worlds.make("finite.garnet"), Lanes((0,))))


def test_the_check_tells_rest_from_motion(monkeypatch):
    assert check(range(3), rounds=8).parts[0].held == "held"
    monkeypatch.setattr(module, "changes", lambda learners: torch.linspace(0.06, 0.1, 24)[None])
    assert [v.held for v in check(range(3), rounds=2).parts] == ["not held", "held", "not held"]
