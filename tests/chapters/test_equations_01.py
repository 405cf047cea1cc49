"""The equations of chapter 01 beside the code, on numbers that the chapter does not use."""
import math
from itertools import islice

import pytest
import torch

from labkit import divergence as div
from labkit import worlds
from labkit.lanes import Lanes
from labkit.policy import Categorical
from labkit.tabular.family import mirror_descent, npg
from labkit.worlds import finite

U = Lanes(range(5)).rand(3, 2, 40, 4).double()
P, Q = (5 * U).softmax(-1).unbind(1)  # (5, 40, 4) each
PAIR = Categorical(P.log()), Categorical(Q.log())


def close(a, b, tolerance=1e-10):
    torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)


def garnet(**options):
    return worlds.make("finite.garnet", states=9, actions=3, branching=3, seed=range(6), **{"gamma": 0.8} | options).mdp


def policies(*shape, tick=0):
    return (4 * Lanes(range(6)).rand(tick, *shape).double()).softmax(-1)


def test_total_variation_is_the_best_event_and_the_share_of_decisions_that_must_differ():
    events = torch.tensor([[e >> a & 1 for a in range(4)] for e in range(16)]).double()
    close(div.total_variation(*PAIR), ((P - Q) @ events.T).abs().amax(-1))
    close(div.total_variation(*PAIR), 1 - torch.minimum(P, Q).sum(-1))


def test_kl_has_a_direction():
    close(div.kl(*PAIR), (P * (P / Q).log()).sum(-1))
    close(div.reverse_kl(*PAIR), (Q * (Q / P).log()).sum(-1))


def test_chi2_is_the_variance_of_ratios_and_the_effective_share_follows():
    ratio = Q / P
    variance = (P * ratio**2).sum(-1) - (P * ratio).sum(-1) ** 2
    close(div.chi2(PAIR[1], PAIR[0]), variance, 1e-9)
    close(div.effective_share(*PAIR), 1 / (1 + variance), 1e-9)


def test_effective_sample_size_tends_to_the_effective_share():
    p, q = (x[0, 0] for x in (P, Q))
    drawn = torch.searchsorted(p.cumsum(0), Lanes((7,)).rand(0, 200_000)[0].double())
    share = div.effective_sample_size((q / p).log()[drawn]) / len(drawn)
    assert abs(share - div.effective_share(Categorical(p.log()), Categorical(q.log()))) < 0.01


def test_jensen_shannon_is_what_the_best_detective_learns():
    posterior = P / (P + Q)
    surprise = -0.5 * (P * posterior.log() + Q * (1 - posterior).log()).sum(-1)  # of who acted, per action seen, in nats
    close(div.jensen_shannon(*PAIR), math.log(2) - surprise)


def test_the_order_of_the_rulers():
    tv, h2, kl, chi2, js = (f(*PAIR) for f in (div.total_variation, div.hellinger, div.kl, div.chi2, div.jensen_shannon))
    assert (0.5 * tv**2 <= h2).all() and (h2 <= tv).all() and (tv <= (0.5 * kl).sqrt()).all()
    assert (kl <= torch.log1p(chi2)).all() and (js <= math.log(2) * tv).all()


MULTIPLES = {"reverse_kl": 1, "chi2": 2, "hellinger": 0.25, "jensen_shannon": 0.25, "renyi": 0.5}


@pytest.mark.parametrize(("name", "factor"), MULTIPLES.items())
def test_small_moves_are_multiples_of_the_fisher_length(name, factor):
    p, delta = P[0], Q[0] - P[0]
    h = 1e-5
    fisher = 0.5 * (delta**2 / p).sum(-1)
    moved = Categorical(p.log()), Categorical((p + h * delta).log())
    close(div.kl(*moved) / h**2, fisher, 1e-3)
    close(div.DIVERGENCES[name](*moved) / h**2, factor * fisher, 1e-3)


def test_forward_kl_forbids_dropping_and_reverse_kl_prices_it():
    p, q = torch.tensor([0.6, 0.3, 0.1]).double(), torch.tensor([2 / 3, 1 / 3, 0]).double()
    pair = Categorical(p.log()), Categorical(q.log())
    assert div.kl(*pair) == math.inf
    assert div.reverse_kl(*pair).item() == pytest.approx(-math.log(0.9))
    nearby = torch.tensor([0.6, 0.4, 0.0]).double(), torch.tensor([0.7, 0.3, 0.0]).double()
    assert all(div.reverse_kl(pair[0], Categorical(x.log())) > -math.log(0.9) for x in nearby)  # none drops it for less


def test_occupancy_is_a_sum_over_time_and_solves_the_flow_equations():
    mdp, pi = garnet(), policies(9, 3)
    d = finite.occupancy(mdp, pi)
    here, total = mdp.mu.expand(6, -1), torch.zeros(6, 9).double()
    for t in range(150):
        total = total + 0.2 * 0.8**t * here
        here = torch.einsum("ls,lsa,lsax->lx", here, pi, mdp.P)
    close(d, total)
    close(d, 0.2 * mdp.mu + 0.8 * torch.einsum("ls,lsa,lsax->lx", d, pi, mdp.P))
    close(finite.expected_return(mdp, pi), (d * (pi * mdp.r).sum(-1)).sum(-1) / 0.2)


def test_what_the_natural_gradient_and_mirror_descent_ask_for():
    world, lanes = worlds.make("finite.garnet", seed=4, gamma=0.75), Lanes((0, 1))
    (one, two), three = ([*islice(algo.run(world, lanes, **o), 2)] for algo, o in ((npg, {}), (mirror_descent, {})))
    pi = one.learner.memory["log_pi"]
    step = 0.1 * finite.advantage(world.mdp, pi.exp()) / 0.25
    close(two.learner.memory["log_pi"], (pi + step).log_softmax(-1), 1e-7)
    old, q, new = three[0].learner.memory["log_pi"], three[1].learner.memory["q"], three[1].learner.memory["log_pi"]

    def worth(log_pi):  # <pi, Q> - KL(pi || old) / eta, with eta = 1
        return (log_pi.exp() * (q - (log_pi - old))).sum(-1)

    others = (new[..., None, :] + 0.3 * Lanes((1, 2)).rand(0, 10, 50, 3).double()).log_softmax(-1)
    close(worth(new), (q + old).logsumexp(-1), 1e-7)  # the maximum, in closed form
    assert (worth(new)[..., None] >= (others.exp() * (q[..., None, :] - (others - old[..., None, :]))).sum(-1)).all()


def test_the_three_estimators():
    r = Q / P
    close(div.k1(r.log()), -r.log())
    close(div.k2(r.log()), 0.5 * r.log() ** 2)
    close(div.k3(r.log()), (r - 1) - r.log())
    for k in (div.k1, div.k3):
        close((P * k(r.log())).sum(-1), div.kl(*PAIR))
    assert (div.k3(r.log()) >= 0).all() and (div.k1(r.log()) < 0).any()
    assert ((P * div.k2(r.log())).sum(-1) - div.kl(*PAIR)).abs().max() > 0.05


def test_performance_difference_is_new_visits_new_actions_old_advantage():
    mdp, old, new = garnet(), policies(9, 3), policies(9, 3, tick=1)
    split = finite.occupancy(mdp, new) * (new * finite.advantage(mdp, old)).sum(-1) / 0.2
    total = finite.expected_return(mdp, new) - finite.expected_return(mdp, old)
    close(split.sum(-1), total)
    for mine, theirs in zip((total, split), finite.performance_difference(mdp, old, new), strict=True):
        close(mine, theirs)


def surrogate(mdp, old, new, gamma):
    """The gain that old visits promise, (L,), and the bound of Achiam et al. (2017) on what it misses, (L,)."""
    d, better = finite.occupancy(mdp, old), (new * finite.advantage(mdp, old)).sum(-1)
    moved = (d * div.total_variation(Categorical(old.log()), Categorical(new.log()))).sum(-1)
    return (d * better).sum(-1) / (1 - gamma), 2 * gamma / (1 - gamma) ** 2 * better.abs().amax(-1) * moved


@pytest.mark.parametrize("gamma", [0.3, 0.8, 0.95])
def test_the_bound_on_the_surrogate_holds_for_any_two_policies(gamma):
    mdp = garnet(gamma=gamma)
    for tick in range(1, 9):
        old, new = policies(9, 3), policies(9, 3, tick=tick)
        promised, bound = surrogate(mdp, old, new, gamma)
        missing = (finite.performance_difference(mdp, old, new)[0] - promised).abs()
        assert (missing <= bound).all() and (missing > 1e-6).all()


def test_what_the_surrogate_misses_grows_with_the_square_of_the_step():
    mdp, old, toward = garnet(), policies(9, 3), policies(9, 3, tick=1)
    missing = []
    for h in (1e-3, 2e-3):
        new = (1 - h) * old + h * toward
        missing.append(finite.performance_difference(mdp, old, new)[0] - surrogate(mdp, old, new, 0.8)[0])
    close(missing[1] / missing[0], torch.full((6,), 4.0).double(), 2e-2)
