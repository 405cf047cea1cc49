"""Exact worlds against closed forms, Gymnasium's tables, finite differences, sampling and each other."""
import time

import gymnasium
import numpy as np
import pytest
import torch

from labkit import worlds
from labkit.errors import LabError
from labkit.worlds import finite

MAKERS = {
    "chain": lambda: finite.chain(6, slip=0.2),
    "riverswim": finite.riverswim,
    "cliff": lambda: finite.cliff(3, 5, slip=0.1),
    "fatal cliff": lambda: finite.cliff(3, 5, fatal=True),
    "frozenlake": finite.frozenlake,
    "garnet": lambda: finite.garnet(11, 4, 3, seed=(4, 5, 6)),
}
all_worlds = pytest.mark.parametrize("world", [make() for make in MAKERS.values()], ids=MAKERS)


def policy(mdp, seed=0, lanes=3, heat=1.0):
    logits = torch.randn(lanes, mdp.states, mdp.actions, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return (heat * logits).softmax(-1)


def close(a, b, tol=1e-10):
    torch.testing.assert_close(a, b, rtol=tol, atol=tol)


def gym_table(env, states, actions):
    """Gymnasium's env.P as P without the ended part, and r."""
    P, r = np.zeros((states, actions, states)), np.zeros((states, actions))
    for s in range(states):
        for a in range(actions):
            for prob, after, reward, done in env.unwrapped.P[s][a]:
                P[s, a, after] += prob * (not done)
                r[s, a] += prob * reward
    return torch.from_numpy(P), torch.from_numpy(r)


# ---- makers -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [4, 8])
@pytest.mark.parametrize("slippery", [True, False])
def test_frozenlake_is_gymnasiums(size, slippery):
    env = gymnasium.make("FrozenLake-v1" if size == 4 else "FrozenLake8x8-v1", is_slippery=slippery)
    mdp = finite.frozenlake(size, slip=2 / 3 if slippery else 0.0).mdp
    P, r = gym_table(env, size**2, 4)
    close(mdp.P[0], P, 1e-15)
    close(mdp.r[0], r, 1e-15)
    close(mdp.mu[0], torch.from_numpy(env.unwrapped.initial_state_distrib), 0.0)
    assert finite.frozenlake(size).horizon == env.spec.max_episode_steps


@pytest.mark.parametrize("slippery", [True, False])
def test_cliff_is_gymnasiums_except_that_the_goal_absorbs(slippery):
    env = gymnasium.make("CliffWalking-v1", is_slippery=slippery)
    mdp = finite.cliff(slip=2 / 3 if slippery else 0.0).mdp
    P, r = gym_table(env, 48, 4)
    close(mdp.P[0, :47], P[:47], 1e-15)
    close(mdp.r[0, :47], r[:47], 1e-14)
    assert mdp.P[0, 47].sum() == 0 and mdp.r[0, 47].abs().sum() == 0


def test_cliff_has_the_safe_and_the_best_path_of_the_book():
    world = finite.cliff(gamma=1.0)
    pi = finite.optimal(world.mdp, horizon=13)[2]
    assert finite.expected_return(world.mdp, pi, horizon=13).item() == -13  # along the edge: 1 up, 11 right, 1 down


def test_chain_has_its_closed_form():
    q, v, pi = finite.optimal(finite.chain(7, gamma=0.9).mdp)
    close(v[0], 0.9 ** torch.arange(6, -1, -1, dtype=torch.float64), 1e-14)
    close(q[0, 1:, 0], 0.9 * v[0, :-1], 1e-14)
    assert pi[0].argmax(-1).tolist() == [1] * 7


def test_a_long_chain_is_solved_where_values_are_tiny():
    _, v, pi = finite.optimal(finite.chain(500, gamma=0.9).mdp)
    assert pi[0, :, 1].all() and abs(v[0, 0].item() / 0.9**499 - 1) < 1e-9


def test_riverswim_pays_the_patient():
    assert finite.optimal(finite.riverswim().mdp)[2][0].argmax(-1).tolist() == [1] * 6
    assert finite.optimal(finite.riverswim(gamma=0.5).mdp)[2][0].argmax(-1)[0] == 0  # the hurried rest downstream


def test_garnet_has_distinct_successors_and_its_own_stream():
    world = finite.garnet(9, 3, 4, seed=(1, 2))
    assert ((world.mdp.P > 0).sum(-1) == 4).all() and not torch.equal(world.mdp.P[0], world.mdp.P[1])
    close(world.mdp.P.sum(-1), torch.ones(2, 9, 3, dtype=torch.float64), 1e-12)
    np.random.seed(0)
    assert torch.equal(finite.garnet(9, 3, 4, seed=2).mdp.P[0], world.mdp.P[1])
    counts = (finite.garnet(6, 1, 2, seed=range(2000)).mdp.P > 0).double().mean((0, 1, 2))
    assert ((counts - 2 / 6).abs() < 4 * (2 / 9 / 12000) ** 0.5).all()  # every state equally often a successor


def test_makers_are_worlds():
    assert {f"finite.{k}" for k in ("chain", "riverswim", "cliff", "frozenlake", "garnet")} <= set(worlds.names())
    assert worlds.make("finite.chain", n=8).obs_size == 8


# ---- exact answers ----------------------------------------------------------------------------------------------


@all_worlds
def test_values_solve_the_bellman_equations_and_agree_with_sweeps(world):
    mdp = world.mdp
    pi = policy(mdp)
    q, v = finite.values(mdp, pi)
    close(v, (pi * q).sum(-1))
    close(q, mdp.r + mdp.discount[:, None, None] * torch.einsum("ksat,kt->ksa", mdp.P.expand(3, -1, -1, -1), v))
    far = finite.values(mdp, pi, horizon=3000)
    close(far[1][:, 0], v, 1e-9)
    assert finite.advantage(mdp, pi).mul(pi).sum(-1).abs().max() < 1e-9 * (1 + v.abs().max())


@all_worlds
def test_occupancy_is_flow_balance_and_pays_the_return(world):
    mdp, gamma = world.mdp, 0.99
    pi = policy(mdp)
    d = finite.occupancy(mdp, pi)
    close(d, (1 - gamma) * mdp.mu + gamma * torch.einsum("ls,lsa,lsat->lt", d, pi, mdp.P.expand(3, -1, -1, -1)))
    pay = (pi * mdp.r).sum(-1)
    close((d * pay).sum(-1) / (1 - gamma), finite.expected_return(mdp, pi))
    steps = finite.occupancy(mdp, pi, horizon=3000)
    close((1 - gamma) * (gamma ** torch.arange(3000.0).double()[:, None] * steps).sum(1), d, 1e-9)
    close((steps[:, :5] * pay[:, None]).sum(-1) @ gamma ** torch.arange(5.0).double(), finite.expected_return(mdp, pi, horizon=5))


def test_occupancy_misses_the_time_after_the_end():
    mdp = finite.chain(4, gamma=0.9).mdp
    right = torch.tensor([0.0, 1.0]).expand(1, 4, 2)
    close(finite.occupancy(mdp, right), torch.tensor([[0.1, 0.09, 0.081, 0.0729]], dtype=torch.float64))
    assert abs(1 - finite.occupancy(mdp, right).sum().item() - 0.9**4) < 1e-12  # E[gamma^T], T = 4
    close(finite.occupancy(finite.riverswim().mdp, policy(finite.riverswim().mdp)).sum(-1), torch.ones(3).double())


@all_worlds
def test_optimal_beats_every_policy_and_satisfies_bellman_optimality(world):
    q, v, pi = finite.optimal(world.mdp)
    close(finite.values(world.mdp, pi)[1], v)
    close(q.amax(-1), v)
    for seed in range(5):
        assert (finite.values(world.mdp, policy(world.mdp, seed, heat=4.0))[1] <= v + 1e-9).all()


def test_optimal_is_the_best_of_all_deterministic_policies():
    mdp = finite.garnet(4, 3, 2, seed=3).mdp
    plans = torch.cartesian_prod(*[torch.arange(3)] * 4)
    every = finite.values(mdp, torch.nn.functional.one_hot(plans).double())[1]
    close(finite.optimal(mdp)[1][0], every.amax(0))


def test_optimal_by_step_is_the_best_of_all_plans():
    mdp = finite.garnet(2, 2, 2, seed=1).mdp
    plans = torch.cartesian_prod(*[torch.arange(2)] * 6).view(-1, 3, 2)
    every = finite.values(mdp, torch.nn.functional.one_hot(plans).double(), horizon=3)[1][:, 0]
    _, v, pi = finite.optimal(mdp, horizon=3)
    close(v[0, 0], every.amax(0))
    close(finite.values(mdp, pi, horizon=3)[1], v)


def test_ties_go_to_the_lowest_action():
    world = finite.from_table([[0, 0, 0]], [[1.0, 2.0, 2.0]], [[True, True, True]], [1.0])
    assert finite.optimal(world.mdp)[2].tolist() == [[[0, 1, 0]]]
    assert finite.optimal(world.mdp, horizon=2)[2].tolist() == [[[[0, 1, 0]]] * 2]
    assert finite.optimal(finite.frozenlake(slip=0.0).mdp)[2][0, [5, 15]].argmax(-1).tolist() == [0, 0]  # all is over


def test_policy_gradient_by_autograd_is_the_theorem_and_the_finite_difference():
    mdp = finite.frozenlake(gamma=0.9).mdp
    logits = torch.randn(1, 16, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64).requires_grad_()
    (grad,) = torch.autograd.grad(finite.expected_return(mdp, logits.softmax(-1)).sum(), logits)
    pi = logits.detach().softmax(-1)
    close(grad, finite.occupancy(mdp, pi)[..., None] * pi * finite.advantage(mdp, pi) / 0.1)  # Sutton et al. (2000), softmax
    assert torch.autograd.gradcheck(lambda x: finite.expected_return(mdp, x.softmax(-1)), logits)
    assert torch.autograd.gradcheck(lambda x: finite.expected_return(mdp, x.softmax(-1), horizon=4), logits)


@all_worlds
def test_performance_difference_is_exact(world):
    old, new = policy(world.mdp, 1), policy(world.mdp, 2, heat=3.0)
    total, split = finite.performance_difference(world.mdp, old, new)
    assert split.shape == (3, world.mdp.states) and total.abs().min() > 1e-6
    close(split.sum(-1), total)


def test_discounts_may_differ_by_lane():
    mdp = finite.riverswim(gamma=torch.tensor([0.9, 0.5, 0.99], dtype=torch.float64)).mdp
    pi = policy(mdp)
    for k, gamma in enumerate((0.9, 0.5, 0.99)):
        alone = finite.riverswim(gamma=gamma).mdp
        close(finite.values(mdp, pi)[1][k], finite.values(alone, pi[k : k + 1])[1][0])
        close(finite.optimal(mdp)[1][k], finite.optimal(alone)[1][0])


@pytest.mark.parametrize("states", [5, 16, 17, 33])
def test_a_lane_beside_others_is_the_lane_alone_bit_for_bit(states):
    many = finite.garnet(states, 3, 3, seed=range(5)).mdp
    pi, other = policy(many, 1, 5), policy(many, 2, 5)
    asks = (
        lambda m, p, o: finite.values(m, p)[0],
        lambda m, p, o: finite.occupancy(m, p),
        lambda m, p, o: finite.occupancy(m, p, horizon=4),
        lambda m, p, o: finite.performance_difference(m, p, o)[1],
        lambda m, p, o: finite.optimal(m)[0],
    )
    for ask in asks:
        together = ask(many, pi, other)
        for k in range(5):
            alone = finite.MDP(many.P[k : k + 1], many.r[k : k + 1], many.mu[k : k + 1], 0.99)
            assert torch.equal(ask(alone, pi[k : k + 1], other[k : k + 1])[0], together[k])


def test_one_mdp_for_many_lanes_is_bit_identical_too():
    mdp = finite.frozenlake().mdp
    pi = policy(mdp, lanes=4)
    for k in range(4):
        assert torch.equal(finite.values(mdp, pi)[0][k], finite.values(mdp, pi[k : k + 1])[0][0])


# ---- sparse -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [name for name in MAKERS if name != "garnet"])
@pytest.mark.parametrize("horizon", [None, 7])
def test_sparse_equals_dense(name, horizon):
    dense = MAKERS[name]().mdp
    sparse, pi, new = dense.to_sparse(), policy(dense, 1, 2), policy(dense, 2, 2)
    for one, two in zip(finite.values(dense, pi, horizon), finite.values(sparse, pi, horizon), strict=True):
        close(one, two)
    close(finite.occupancy(dense, pi, horizon), finite.occupancy(sparse, pi, horizon))
    for one, two in zip(finite.optimal(dense, horizon), finite.optimal(sparse, horizon), strict=True):
        close(one, two)
    close(finite.performance_difference(dense, pi, new)[1], finite.performance_difference(sparse, pi, new)[1])


@pytest.mark.parametrize("horizon", [None, 5])
def test_sparse_gradients_equal_dense_ones(horizon):
    dense = finite.frozenlake(gamma=0.9).mdp
    for ask in (lambda m, x: finite.values(m, x, horizon)[0], lambda m, x: finite.occupancy(m, x, horizon), finite.expected_return):
        grads = []
        for mdp in (dense, dense.to_sparse()):
            logits = policy(dense, 3, 2).log().requires_grad_()
            out = ask(mdp, logits.softmax(-1))
            weights = torch.randn(out.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
            grads += torch.autograd.grad((weights * out).sum(), logits)
        close(*grads)
        assert grads[0].abs().max() > 1e-3


def test_the_iterative_solver_equals_the_dense_one(monkeypatch):
    dense = finite.garnet(400, 3, 4).mdp
    monkeypatch.setattr(finite, "DENSE", 100)
    sparse = finite.garnet(400, 3, 4).mdp
    pi = policy(dense, lanes=1)
    assert sparse.sparse and not sparse.narrow
    close(finite.values(sparse, pi)[0], finite.values(dense, pi)[0])
    close(finite.occupancy(sparse, pi), finite.occupancy(dense, pi))
    for one, two in zip(finite.optimal(dense), finite.optimal(sparse), strict=True):
        close(one, two)


def test_a_scrambled_corridor_is_solved_by_sweeps(monkeypatch):
    order = np.random.default_rng(0).permutation(3000)
    follow = np.zeros((3000, 1), int)
    follow[order, 0] = np.roll(order, -1)
    monkeypatch.setattr(finite.MDP, "narrow", False)
    mdp = finite.from_table(follow, order[:, None] == 0, follow == order[0], np.full(3000, 1 / 3000)).mdp
    v = finite.values(mdp, torch.ones(1, 3000, 1))[1]
    close(v, mdp.r[..., 0] + 0.99 * finite._ahead(mdp, v)[..., 0])


def lake(side):
    """An open slippery lake, the goal in a corner."""
    follow, prob = finite._walk(side, side, ((0, -1), (1, 0), (0, 1), (-1, 0)), 0.1)
    goal = follow == side**2 - 1
    return finite.from_table(follow, goal, goal, np.full(side**2, side**-2.0), prob)


@pytest.mark.parametrize("make", [lambda: lake(317), lambda: finite.garnet(100_000, 4, 4)], ids=["grid", "garnet"])
def test_a_hundred_thousand_states_are_solved_exactly_in_seconds(make):
    mdp = make().mdp
    pi = torch.full((1, mdp.states, 4), 0.25)
    start = time.process_time()
    q, v = finite.values(mdp, pi)
    evaluated = time.process_time()
    d = finite.occupancy(mdp, pi)
    best = finite.optimal(mdp)
    solved = time.process_time()
    assert evaluated - start < 4 and solved - evaluated < 8  # about 1 and 2 s on a free core
    close(v, (mdp.r + 0.99 * finite._ahead(mdp, v)).mean(-1), 1e-9)
    assert abs((d * mdp.r.mean(-1)).sum().item() * 100 - (mdp.mu * v).sum().item()) < 1e-9
    close(best[1], (mdp.r + 0.99 * finite._ahead(mdp, best[1])).amax(-1), 1e-9)
    assert (best[0] >= q - 1e-9).all()


# ---- sampled ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", MAKERS)
def test_sampled_steps_have_the_exact_frequencies(name):
    world, n = MAKERS[name](), 4000
    K, S, A = world.mdp.lanes, world.mdp.states, world.mdp.actions
    s, a = torch.arange(S).repeat_interleave(A * n).repeat(K, 1), torch.arange(A).repeat_interleave(n).repeat(K, S)
    u = torch.rand(K, S * A * n, 1, generator=torch.Generator().manual_seed(0))
    after, reward, ended, _ = world.step({"s": s, "t": torch.zeros_like(s)}, a, u)
    counts = torch.nn.functional.one_hot(after["s"], S).double() * ~ended[..., None]
    freq, P = counts.view(K, S, A, n, S).mean(3), world.mdp.P
    assert ((freq - P).abs() <= 5 * (P * (1 - P) / n).sqrt() + 1e-12).all()
    spread = reward.view(K, S, A, n).double().std(-1) / n**0.5
    assert ((reward.view(K, S, A, n).double().mean(-1) - world.mdp.r).abs() <= 5 * spread + 1e-6).all()


def test_sampled_returns_agree_with_exact_ones_and_truncate():
    world = finite.frozenlake(gamma=0.95)
    pi, seeds = policy(world.mdp, 3, 1), torch.Generator().manual_seed(5)
    n = 20_000
    state = world.reset(torch.rand(1, n, 1, generator=seeds))
    total, alive = torch.zeros(1, n, dtype=torch.float64), torch.ones(1, n)
    for t in range(12):
        action = (pi[0].cumsum(-1)[:, :-1][state["s"]] <= torch.rand(1, n, 1, generator=seeds)).sum(-1)
        state, reward, ended, cut = world.step(state, action, torch.rand(1, n, 1, generator=seeds))
        total += 0.95**t * alive * reward
        alive = alive * ~ended
        assert not cut.any()
    exact = finite.expected_return(world.mdp, pi, horizon=12).item()
    assert abs(total.mean().item() - exact) < 4 * total.std().item() / n**0.5
    assert world.step({"s": state["s"], "t": state["t"] * 0 + 99}, action, torch.zeros(1, n, 1))[3].all()
    assert (world.observe(state).argmax(-1) == state["s"]).all() and world.observe(state).sum() == n


def test_starts_follow_mu_and_steps_do_not_write():
    world = finite.from_table([[0], [1], [2]], [[0.0]] * 3, [[False]] * 3, [0.25, 0.0, 0.75])
    state = world.reset(torch.tensor([[[0.0], [0.2499], [0.25], [1 - 2**-24]]]))
    assert state["s"].tolist() == [[0, 0, 2, 2]]
    before = {k: v.clone() for k, v in state.items()}
    world.step(state, torch.zeros(1, 4, dtype=torch.int64), torch.zeros(1, 4, 1))
    assert all(torch.equal(before[k], state[k]) for k in state)


def test_every_uniform_number_below_one_finds_an_outcome():
    tenth = [0.1] * 10  # adds up to less than 1 in floating point
    world = finite.from_table([[range(10)]] + [[[0] * 10]] * 9, np.zeros((10, 1, 10)), np.zeros((10, 1, 10)), tenth, [[tenth]] * 10)
    u = torch.tensor([[[np.nextafter(1.0, 0.0)]]], dtype=torch.float64)
    assert world.reset(u)["s"].item() == 9
    zero = torch.zeros(1, 1, dtype=torch.int64)
    assert world.step({"s": zero, "t": zero}, zero, u)[0]["s"].item() == 9


def test_an_mdp_can_be_sampled_and_lanes_have_their_own():
    mdp = finite.garnet(4, 2, 2, seed=(1, 2)).mdp
    half = finite.MDP(mdp.P / 2, mdp.r, mdp.mu, 0.9)
    world = finite.sampled(half)
    close(world.mdp.P, half.P, 1e-14)
    close(world.mdp.r, half.r, 1e-14)
    u = torch.tensor([0.1, 0.4, 0.6, 0.99]).expand(2, 4)[..., None]
    state = {"s": torch.zeros(2, 4, dtype=torch.int64), "t": torch.zeros(2, 4, dtype=torch.int64)}
    _, reward, ended, _ = world.step(state, torch.zeros_like(state["s"]), u)
    assert ended.tolist() == [[False, False, True, True]] * 2
    close(reward[:, 0].double(), mdp.r[:, 0, 0], 1e-6)
    with pytest.raises(LabError, match="one per lane"):
        world.reset(torch.zeros(3, 1, 1))


# ---- bad input --------------------------------------------------------------------------------------------------


def build(P=None, r=None, mu=None, gamma=0.9, **names):
    parts = (P, torch.full((1, 2, 1, 2), 0.5)), (r, torch.zeros(1, 2, 1)), (mu, torch.ones(1, 2) / 2)
    return finite.MDP(*(usual if given is None else given for given, usual in parts), gamma, **names)


@pytest.mark.parametrize(
    ("bad", "says"),
    [
        (lambda: build(P=torch.full((1, 2, 1, 2), 0.6)), "sums to 1.2"),
        (lambda: build(P=torch.tensor([[[[1.5, -0.5]], [[0.0, 0.0]]]])), "least entry is -0.5"),
        (lambda: build(P=torch.full((1, 2, 1, 2), torch.nan)), "sums to inf|sums to nan"),
        (lambda: build(P=torch.ones(2, 1, 2)), "P is K x"),
        (lambda: build(r=torch.tensor([[[0.0], [torch.nan]]])), "reward of state 1, action 0"),
        (lambda: build(mu=torch.ones(1, 2)), "not a distribution"),
        (lambda: build(mu=torch.ones(1, 3) / 3), "mu \\(K, S\\)"),
        (lambda: build(gamma=1.5), "gamma is"),
        (lambda: build(gamma=-0.1), "gamma is"),
        (lambda: build(gamma=float("nan")), "gamma is"),
        (lambda: build(gamma=torch.ones(2) / 2, r=torch.zeros(3, 2, 1)), "lanes"),
        (lambda: build(labels=("only",)), "1 labels"),
        (lambda: finite.values(build(gamma=1.0), torch.ones(1, 2, 1)), "horizon="),
        (lambda: finite.values(build(), torch.ones(1, 2, 2) / 2), "A policy here is"),
        (lambda: finite.values(build(), torch.ones(1, 2, 1) * 2), "sum to 1"),
        (lambda: finite.values(build(gamma=torch.ones(2) / 2), torch.ones(3, 2, 1)), "3 lanes and the MDP 2"),
        (lambda: finite.garnet(seed=(1, 2)).mdp.to_sparse(), "has 2"),
        (lambda: finite.from_table([[2]], [[0.0]], [[False]], [1.0]), "state 2; it has states 0 to 0"),
        (lambda: finite.from_table([[0]], [[torch.nan]], [[False]], [1.0]), "not finite"),
        (lambda: finite.from_table([[[0, 0]]], [[[0.0, 0.0]]], [[[False, False]]], [1.0]), "sum to 1"),
        (lambda: finite.chain(0), "n is 0"),
        (lambda: finite.chain(3, slip=1.5), "not negative"),
        (lambda: finite.frozenlake(5), "no frozen lake of size 5"),
        (lambda: finite.garnet(3, branching=4), "branching is 4"),
        (lambda: finite.sampled(build().to_sparse()), "from_table"),
        (lambda: worlds.make("finite.chain", length=3), "length"),
    ],
)
def test_bad_input_is_named(bad, says):
    with pytest.raises(LabError, match=says):
        bad()
