"""The tabular methods against finite differences, autograd, closed forms and theorems."""
import itertools
import math
from dataclasses import replace

import pytest
import torch

from labkit import worlds
from labkit.errors import LabError
from labkit.lanes import Lanes
from labkit.learner import Learner
from labkit.paper import changed
from labkit.tabular.family import (
    GAP,
    best_action,
    exact_pg,
    mirror_descent,
    natural,
    npg,
    policy_gradient,
    policy_iteration,
    soft_policy_iteration,
)
from labkit.tabular.value_iteration import value_iteration
from labkit.worlds.finite import advantage, expected_return, from_table, occupancy, performance_difference, sampled, values

METHODS = (exact_pg, npg, policy_iteration, value_iteration, mirror_descent, soft_policy_iteration)
every_method = pytest.mark.parametrize("method", METHODS, ids=lambda m: m.paper.key)


def garnets(n, gamma=0.9, **options):
    """n lanes with a random MDP each."""
    return worlds.make("finite.garnet", seed=range(n), gamma=gamma, **options)


def run(method, world, steps, lanes=None, **grid):
    lanes = lanes or Lanes(tuple(range(max(1, world.mdp.lanes))), grid)
    return list(itertools.islice(method.run(world, lanes), steps))


def some_policy(lanes, states, actions):
    return (2 * Lanes(tuple(range(lanes))).rand(7, states, actions).double()).log_softmax(-1)


def policies(snapshots):
    return [s.learner.memory["log_pi"].exp() for s in snapshots]


# the gradient


def test_policy_gradient_is_that_of_finite_differences_and_autograd():
    mdp = garnets(4, states=5).mdp
    logits = some_policy(4, 5, 3).requires_grad_()
    pi = logits.softmax(-1)
    ours = policy_gradient(mdp, pi.detach(), values(mdp, pi.detach())[0])
    auto = torch.autograd.grad(expected_return(mdp, pi).sum(), logits)[0]
    torch.testing.assert_close(ours, auto, rtol=1e-9, atol=1e-11)
    h = 1e-5
    for s, a in itertools.product(range(5), range(3)):
        nudge = torch.zeros(5, 3, dtype=torch.float64)
        nudge[s, a] = h
        up, down = (expected_return(mdp, (logits.detach() + sign * nudge).softmax(-1)) for sign in (1, -1))
        torch.testing.assert_close(ours[:, s, a], (up - down) / (2 * h), rtol=1e-6, atol=1e-8)


def test_policy_gradient_where_episodes_end():
    mdp = worlds.make("finite.frozenlake", gamma=0.95).mdp
    logits = some_policy(3, 16, 4).requires_grad_()
    pi = logits.softmax(-1)
    auto = torch.autograd.grad(expected_return(mdp, pi).sum(), logits)[0]
    torch.testing.assert_close(policy_gradient(mdp, pi.detach(), values(mdp, pi.detach())[0]), auto, rtol=1e-9, atol=1e-13)


def test_exact_pg_steps_along_the_gradient():
    world = garnets(3, states=5)
    first, second = run(exact_pg, world, 2, eta=(0.25,))
    logits = first.learner.memory["log_pi"].clone().requires_grad_()
    grad = torch.autograd.grad(expected_return(world.mdp, logits.softmax(-1)).sum(), logits)[0]
    torch.testing.assert_close(second.learner.memory["log_pi"], (logits + 0.25 * grad).log_softmax(-1).detach(), rtol=0, atol=1e-12)


def test_small_exact_steps_never_lower_the_return():
    """Agarwal et al. (2021): with rewards in [0, 1] a step of (1 - gamma)^3 / 8 ascends."""
    world = unit_garnets(10, gamma=0.5)
    returns = torch.stack([s.metrics["return"] for s in run(exact_pg, world, 100, eta=(0.5**3 / 8,))])
    assert (returns.diff(dim=0) > 0).all()


def test_a_policy_sure_of_a_bad_action_hardly_moves_along_the_gradient_but_along_the_natural_one():
    world = worlds.make("finite.chain", n=3, gamma=0.9)
    lanes = Lanes((0,), {"eta": (1.0,)})
    learner = next(exact_pg.run(world, lanes)).learner
    learner.memory["log_pi"] = torch.tensor([10.0, -10.0], dtype=torch.float64).expand(1, 3, 2).log_softmax(-1)
    gained = {}
    for method in (exact_pg, npg):
        snapshots = list(itertools.islice(method.run(world, lanes, learner), 20))
        gained[method.paper.key] = snapshots[-1].metrics["return"].item()
    assert gained["exact_pg"] < 1e-6
    assert gained["npg"] > 0.8  # of 0.81


# the natural gradient


def test_natural_step_is_the_inverse_fisher_matrix_times_the_gradient():
    mdp, log_pi = garnets(1, states=4).mdp, some_policy(1, 4, 3)
    pi = log_pi.exp()
    q = values(mdp, pi)[0]
    d = occupancy(mdp, pi)[0]
    fisher = torch.block_diag(*(d[s] * (torch.diag(pi[0, s]) - torch.outer(pi[0, s], pi[0, s])) for s in range(4)))
    step = torch.linalg.pinv(fisher, rtol=1e-12) @ policy_gradient(mdp, pi, q).flatten()
    lanes = Lanes((0,), {"eta": (0.5,)})
    learner = next(npg.run(sampled(mdp), lanes)).learner
    learner.memory["log_pi"] = log_pi
    ours = natural(npg, mdp, q, learner, lanes.knobs(npg.knobs))
    torch.testing.assert_close(ours, (log_pi + 0.5 * step.view(1, 4, 3)).log_softmax(-1), rtol=1e-9, atol=1e-10)
    shift = step.view(4, 3) - advantage(mdp, pi)[0] / (1 - 0.9)  # up to a constant per state it is A / (1 - gamma)
    assert (shift - shift.mean(-1, keepdim=True)).abs().max() < 1e-9


def unit_garnets(n, gamma):
    """Garnets with their rewards brought into [0, 1]."""
    mdp = garnets(n, gamma).mdp
    low, high = mdp.r.amin((1, 2), keepdim=True), mdp.r.amax((1, 2), keepdim=True)
    return sampled(replace(mdp, r=(mdp.r - low) / (high - low)))


@pytest.mark.parametrize("eta", [0.01, 0.1, 1.0])
def test_npg_keeps_the_bound_of_agarwal_et_al(eta):
    """Their theorem 16, for every k, from the uniform policy, on 20 Garnets."""
    gamma = 0.9
    for k, s in enumerate(run(npg, unit_garnets(20, gamma), 200, eta=(eta,)), start=1):
        assert (s.metrics["gap"] <= math.log(3) / (eta * k) + 1 / ((1 - gamma) ** 2 * k)).all()
        assert (s.metrics["gap"] >= -1e-10).all()
    assert eta < 0.1 or s.metrics["gap"].max() < 1e-2


# policy iteration


def test_policy_iteration_improves_every_state_and_ends_at_the_optimum():
    world = garnets(20)
    snapshots = run(policy_iteration, world, 20)
    state_values = torch.stack([values(world.mdp, pi)[1] for pi in policies(snapshots)])
    assert (state_values.diff(dim=0) > -1e-9).all()
    assert snapshots[-1].metrics["gap"].abs().max() < 1e-9
    assert (snapshots[-1].metrics["kl"] == 0).all()  # it stays there


def test_policy_iteration_finds_the_best_of_all_deterministic_policies():
    world = garnets(5, states=3, actions=2, branching=2)
    best = torch.full((5,), -torch.inf, dtype=torch.float64)
    for choice in itertools.product(range(2), repeat=3):
        pi = torch.nn.functional.one_hot(torch.tensor(choice), 2).double().expand(5, 3, 2)
        best = best.maximum(expected_return(world.mdp, pi))
    torch.testing.assert_close(run(policy_iteration, world, 8)[-1].metrics["return"], best, rtol=0, atol=1e-10)


def test_the_best_action_is_the_first_of_equals_and_exact_in_float64():
    q = torch.tensor([[[1.0, 3.0, 3.0 + 1e-12], [-5.0, -6.0, -5.0]]], dtype=torch.float64)
    log_pi = best_action(q)
    assert torch.equal(log_pi.exp().round(), torch.tensor([[[0.0, 1.0, 0.0], [1.0, 0.0, 0.0]]], dtype=torch.float64))
    assert log_pi.exp().max() == 1 and log_pi.min() == -GAP


# mirror descent and soft policy iteration


def test_mirror_descent_without_entropy_is_the_natural_gradient():
    world = garnets(5, gamma=0.75)
    ours = policies(run(mirror_descent, world, 10, eta=(2.0,), tau=(0.0,)))
    theirs = policies(run(npg, world, 10, eta=(0.5,)))  # eta (1 - gamma)
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-12)


def far_reaching(eta):
    """Mirror descent with a knob that goes as far as eta."""
    return replace(mirror_descent, knobs=mirror_descent.knobs | {"eta": replace(mirror_descent.knobs["eta"], high=eta)})


def test_one_step_of_mirror_descent_in_the_limit_is_greedy():
    world = garnets(10)
    start = run(npg, world, 3)[-1].learner
    leap = next(far_reaching(1e9).run(world, Lanes(tuple(range(10)), {"eta": (1e9,)}), start))
    greedy = next(policy_iteration.run(world, Lanes(tuple(range(10))), start))
    a, b = policies([leap, greedy])
    torch.testing.assert_close(a, b, rtol=0, atol=1e-12)


def test_mirror_descent_without_entropy_adds_up_all_past_values():
    snapshots = run(mirror_descent, garnets(4), 6, eta=(2.0,), tau=(0.0,))
    total = torch.stack([s.learner.memory["q"] for s in snapshots]).sum(0)
    torch.testing.assert_close(snapshots[-1].learner.memory["log_pi"], (2 * total).log_softmax(-1), rtol=0, atol=1e-9)


def test_mirror_descent_with_entropy_in_the_limit_is_soft_policy_iteration():
    world = garnets(10)
    ours = policies(run(far_reaching(1e9), world, 6, eta=(1e9,), tau=(0.5,)))
    for a, b in zip(ours, policies(run(soft_policy_iteration, world, 6, tau=(0.5,))), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-6)


def test_mirror_descent_maximises_its_objective_in_every_state():
    world = garnets(3, states=4)
    eta, tau = 0.5, 0.25
    first, second = run(mirror_descent, world, 2, eta=(eta,), tau=(tau,))
    old, q = first.learner.memory["log_pi"], second.learner.memory["q"]

    def objective(log_pi):
        return (log_pi.exp() * (q - tau * log_pi - (log_pi - old) / eta)).sum(-1)

    best = objective(second.learner.memory["log_pi"])
    for i in range(50):
        other = (second.learner.memory["log_pi"] + 10 ** (-i / 10) * (some_policy(3, 4, 3) + i % 3)).log_softmax(-1)
        assert (objective(other) <= best + 1e-14).all()


def soft_bellman(mdp, q, tau):
    return mdp.r + mdp.discount[:, None, None] * torch.einsum("ksat,kt->ksa", mdp.P, tau * (q / tau).logsumexp(-1))


@pytest.mark.parametrize("method, grid", [(soft_policy_iteration, {"tau": (0.25,)}), (mirror_descent, {"tau": (0.25,), "eta": (4.0,)})])
def test_soft_fixed_points_solve_the_soft_bellman_equation(method, grid):
    world = garnets(5)
    last = run(method, world, 60, **grid)[-1].learner
    q = last.memory["q"]
    torch.testing.assert_close(soft_bellman(world.mdp, q, 0.25), q, rtol=0, atol=1e-9)
    torch.testing.assert_close(last.memory["log_pi"], (q / 0.25).log_softmax(-1), rtol=0, atol=1e-9)


def test_soft_values_never_fall():
    world = garnets(10)
    q = torch.stack([s.learner.memory["q"] for s in run(soft_policy_iteration, world, 15, tau=(0.5,))])
    assert (q.diff(dim=0) > -1e-10).all()
    assert q.diff(dim=0).max() > 0.1


def test_soft_values_add_the_entropy_of_every_later_step():
    """In a world of one state that pays 1 for ever, uniform over 2 actions: Q = 1 + g (1 + tau log 2) / (1 - g)."""
    world = from_table([[0, 0]], [[1.0, 1.0]], [[False, False]], [1.0], gamma=0.5)
    q = run(soft_policy_iteration, world, 1, tau=(0.5,))[0].learner.memory["q"]
    torch.testing.assert_close(q, torch.full((1, 1, 2), 1 + (1 + 0.5 * math.log(2)), dtype=torch.float64))


def test_soft_policy_iteration_without_entropy_is_policy_iteration():
    world = garnets(10)
    for a, b in zip(policies(run(soft_policy_iteration, world, 6, tau=(0.0,))), policies(run(policy_iteration, world, 6)), strict=True):
        assert torch.equal(a, b)


# every method


@every_method
def test_return_changes_by_the_performance_difference(method):
    world = garnets(4)
    snapshots = run(method, world, 6)
    for old, new in itertools.pairwise(snapshots):
        total, split = performance_difference(world.mdp, old.learner.memory["log_pi"].exp(), new.learner.memory["log_pi"].exp())
        torch.testing.assert_close(new.metrics["return"] - old.metrics["return"], total, rtol=0, atol=1e-11)
        torch.testing.assert_close(split.sum(-1), total, rtol=0, atol=1e-9)


@every_method
def test_metrics_are_those_of_the_snapshots_policy(method):
    world = worlds.make("finite.frozenlake", gamma=0.95)
    old, new = run(method, world, 2, lanes=Lanes((0, 1)))
    pi, was = new.learner.memory["log_pi"].exp(), old.learner.memory["log_pi"].exp()
    d = occupancy(world.mdp, pi)
    kl = torch.special.xlogy(was, was / pi).sum(-1)
    torch.testing.assert_close(new.metrics["kl"], (d * kl).sum(-1) / d.sum(-1))
    torch.testing.assert_close(new.metrics["return"], expected_return(world.mdp, pi))
    shown = new.learner.policy(torch.eye(16)).probs
    torch.testing.assert_close(shown, pi.float(), rtol=1e-5, atol=1e-7)
    assert (old.step, new.step) == (1, 2)


def lane_cases(method):
    ends = {name: (knob.low, knob.default, knob.high) for name, knob in method.knobs.items()}
    return Lanes((3, 5), ends)


@every_method
def test_lane_beside_others_equals_lane_alone_at_all_ends_of_the_knobs(method):
    lanes = lane_cases(method)
    world = garnets(len(lanes), states=7)
    together = run(method, world, 12, lanes)[-1]
    for i, point in enumerate(lanes.points):
        for j, seed in enumerate(lanes.seeds):
            lane = 2 * i + j
            alone_in = worlds.make("finite.garnet", seed=[lane], states=7, gamma=0.9)
            alone = run(method, alone_in, 12, Lanes((seed,), {k: (v,) for k, v in point.items()}))[-1]
            for name in ("log_pi", "q"):
                assert torch.equal(together.learner.memory[name][lane], alone.learner.memory[name][0])
            assert torch.equal(together.learner.nets["pi"].theta[lane], alone.learner.nets["pi"].theta[0])
            for name, value in together.metrics.items():
                assert value.isfinite().all()
                assert value[lane] == alone.metrics[name][0]


@every_method
def test_a_run_goes_on_from_a_snapshot_bit_for_bit(method):
    world, lanes = garnets(2), Lanes((0, 1))
    snapshots = run(method, world, 6, lanes)
    again = list(itertools.islice(method.run(world, lanes, snapshots[2].learner), 3))
    assert [s.step for s in again] == [4, 5, 6]
    assert torch.equal(again[-1].learner.memory["log_pi"], snapshots[-1].learner.memory["log_pi"])
    assert torch.equal(again[-1].metrics["kl"], snapshots[-1].metrics["kl"])


def test_each_method_changes_what_its_card_says():
    slots = {(m.paper.key, m.paper.base): changed(m, {b.paper.key: b for b in METHODS}[m.paper.base]) for m in METHODS[1:]}
    assert slots == {
        ("npg", "exact_pg"): ["improve"],
        ("policy_iteration", "exact_pg"): ["improve"],
        ("value_iteration", "policy_iteration"): ["evaluate", "improve"],
        ("mirror_descent", "npg"): ["evaluate", "improve"],
        ("soft_policy_iteration", "mirror_descent"): ["improve"],
    }


def test_one_world_serves_all_lanes_and_a_large_sparse_one_too():
    n = 1200
    follow = torch.stack([torch.arange(n) - 1, torch.arange(n) + 1], -1).clamp(0, n - 1)
    pays = torch.tensor([[False, True]]) & (torch.arange(n) == n - 1)[:, None]
    world = from_table(follow, pays, pays, torch.full((n,), 1 / n, dtype=torch.float64), gamma=0.9)
    assert world.mdp.sparse
    last = run(policy_iteration, world, 4, Lanes((0, 1)))[-1]
    right = torch.tensor([0.0, 1.0]).expand(20, 2)  # nearer to the reward than its value fades
    assert torch.equal(last.learner.policy(torch.eye(n)).probs[0, -20:].round(), right)
    with pytest.raises(LabError, match="tau > 0"):
        run(soft_policy_iteration, world, 1, Lanes((0, 1)))


# a slot that the bases leave alone


def test_a_world_that_answers_is_solved_and_judged_anew():
    """respond sees the policy in play: here rewards turn against whatever is done."""

    def against(algo, world, learner, k):
        return replace(world.mdp, r=world.mdp.r - learner.memory["log_pi"].exp())

    world = garnets(3)
    method = replace(policy_iteration, respond=against)
    first, second = run(method, world, 2)
    harsher = against(method, world, first.learner, None)
    torch.testing.assert_close(second.learner.memory["q"], values(harsher, first.learner.memory["log_pi"].exp())[0])
    torch.testing.assert_close(second.metrics["return"], expected_return(harsher, second.learner.memory["log_pi"].exp()))
    best = run(policy_iteration, sampled(harsher), 20)[-1].metrics["return"]
    torch.testing.assert_close(second.metrics["gap"], best - second.metrics["return"], rtol=0, atol=1e-9)


def test_a_learner_plans_in_the_world_it_knows_and_is_judged_in_the_one_there_is():
    def mistaken(algo, mdp, learner, k):
        return replace(mdp, r=-mdp.r)

    world = garnets(3)
    last = run(replace(policy_iteration, explore=mistaken), world, 8)[-1]
    worst = run(policy_iteration, sampled(mistaken(None, world.mdp, None, None)), 8)[-1]
    torch.testing.assert_close(last.metrics["return"], -worst.metrics["return"], rtol=0, atol=1e-9)
    best = run(policy_iteration, world, 8)[-1].metrics["return"]
    torch.testing.assert_close(last.metrics["gap"], best - last.metrics["return"], rtol=0, atol=1e-9)


# bad input


def test_a_world_without_a_model_is_refused():
    with pytest.raises(LabError, match=r"control.cartpole has no exact model; .*from_table"):
        next(exact_pg.run(worlds.make("control.cartpole"), Lanes((0,))))


def test_a_learner_of_another_family_is_refused():
    world = garnets(1)
    with pytest.raises(LabError, match="table for 10 states and 3 actions"):
        next(exact_pg.run(world, Lanes((0,)), Learner(Lanes((0,)))))


def test_wrong_numbers_of_lanes_and_foreign_learners_are_refused():
    with pytest.raises(LabError, match="3 MDPs, one per lane; run that many lanes, not 2"):
        next(exact_pg.run(garnets(3), Lanes((0, 1))))
    other = run(exact_pg, garnets(2, states=4), 1)[0].learner
    with pytest.raises(LabError, match="table for 10 states and 3 actions"):
        next(exact_pg.run(garnets(2), Lanes((0, 1)), other))
    with pytest.raises(LabError, match="no knob 'tau'"):
        next(exact_pg.run(garnets(1), Lanes((0,), {"tau": (0.1,)})))


def test_a_lane_that_overflows_is_stopped_and_its_neighbour_is_not():
    mdp = garnets(2).mdp
    world = sampled(replace(mdp, r=mdp.r * torch.tensor([4e307, 1.0], dtype=torch.float64)[:, None, None]))
    last = list(itertools.islice(value_iteration.run(world, Lanes((0, 1))), 8))[-1].learner
    assert last.on[:, 0].tolist() == [False, True]
    assert "lane 0 (seed 0) stopped" in last.notes[0]
    assert last.memory["log_pi"].isfinite().all() and last.memory["q"].isfinite().all()
    alone = run(value_iteration, garnets(2), 8)[-1].learner
    assert torch.equal(last.memory["log_pi"][1], alone.memory["log_pi"][1])
