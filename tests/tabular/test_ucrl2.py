"""ucrl2 against brute force over plausible worlds, certainty equivalence and exact gains."""
import itertools
from dataclasses import replace

import pytest
import torch

from labkit import worlds
from labkit.lanes import Lanes
from labkit.tabular.family import Shape
from labkit.tabular.sampling import after
from labkit.tabular.ucrl2 import best_mean, optimistic_values, ucrl2
from labkit.worlds.finite import MDP, gain, lookahead, optimal_gain

TIGHT = 10**10  # a clock at which planning goes on to 1e-5


def simplex(n=60):
    """Every distribution over three states with chances in steps of 1 / n, (N, 3)."""
    return torch.tensor([(i, j, n - i - j) for i, j in itertools.product(range(n + 1), repeat=2) if i + j <= n]).double() / n


@pytest.mark.parametrize("off", [0.0, 0.1, 0.4, 1.0, 3.0])
def test_the_inner_maximum_is_that_of_a_search_over_the_simplex(off):
    centre = torch.tensor([[0.5, 0.3, 0.2], [0.0, 0.1, 0.9], [1.0, 0.0, 0.0]], dtype=torch.float64).view(1, 3, 1, 3)
    u = torch.tensor([[0.3, -1.0, 2.0]], dtype=torch.float64)
    ours = best_mean(centre, torch.full((1, 3, 1), off, dtype=torch.float64), u)
    points = simplex()
    for s in range(3):
        near = points[(points - centre[0, s, 0]).abs().sum(-1) <= off + 1e-9]
        found = (near @ u[0]).max()
        assert found - 1e-9 <= ours[0, s, 0] <= found + 3.01 / 60  # the grid misses the edge by a step at most


def test_without_doubt_it_plans_for_what_was_seen():
    """c = 0: gain and greedy choices of optimistic planning are those of the MDP itself."""
    mdp = worlds.make("finite.garnet", states=5, actions=3, seed=range(6)).mdp
    q = optimistic_values(mdp.r, mdp.P, torch.zeros_like(mdp.r), TIGHT)
    g, h, _ = optimal_gain(mdp)
    torch.testing.assert_close((lookahead(MDP(mdp.P, mdp.r, mdp.mu, 1.0), h).amax(-1) - h), g, rtol=0, atol=1e-8)
    greedy = torch.nn.functional.one_hot(q.argmax(-1), 3).double()
    torch.testing.assert_close(gain(mdp, greedy), g, rtol=0, atol=1e-4)


def test_what_it_plans_for_is_no_worse_than_any_plausible_world():
    """The last sweep's gain is the optimistic one: at least the true gain wherever the truth lies within the sets."""
    mdp, other = (worlds.make("finite.garnet", states=4, actions=2, branching=4, seed=seeds).mdp for seeds in (range(8), range(8, 16)))
    seen = 0.8 * mdp.P + 0.2 * other.P
    off = (mdp.P - seen).abs().sum(-1)

    def planned(off, paid):
        u, q = torch.zeros(8, 4).double(), paid
        for _ in range(2000):
            q = paid + best_mean(seen, off, u)
            low, u = (q.amax(-1) - u).amin(-1), q.amax(-1)
        return low

    true = mdp.best_gain
    assert (planned(off, mdp.r) >= true - 1e-9).all()
    assert (planned(torch.zeros_like(off), mdp.r) < true - 1e-3).any()  # without doubt some plans promise less than there is


def test_an_episode_begins_when_the_visits_of_a_pair_have_doubled():
    """And the policy changes at no other step."""
    world, lanes, before = worlds.make("finite.riverswim"), Lanes(range(3)), None
    for snapshot in itertools.islice(replace(ucrl2, shape=Shape(stride=1)).run(world, lanes), 300):
        now = snapshot.learner.memory
        if before is not None:
            grown = (before["n"] + (now["n"] > before["n"])) - before["before"] >= before["before"].clamp_min(1)
            begun = (now["before"] != before["before"]).flatten(1).any(1)
            assert torch.equal(begun, (grown & (now["n"] > before["n"])).flatten(1).any(1))
            same = (now["q"] == before["q"]).flatten(1).all(1)
            assert same[~begun].all()
        before = now
    assert torch.equal(now["led"].sum(-1), now["n"]) and now["n"].sum().item() == 3 * 300
    torch.testing.assert_close(now["paid"], now["n"] * world.mdp.r, rtol=0, atol=1e-9)


def test_doubt_leads_to_the_far_bank():
    """1500 steps of RiverSwim: with doubt (c = 0.2) lanes get there; without they rest on the near one."""
    lanes = Lanes(range(6), {"c": (0.0, 0.2)})
    n = after(ucrl2, worlds.make("finite.riverswim"), lanes, 1500).memory["n"].sum(-1)
    assert (n[:6, -1] <= 2).all() and (n[6:, -1] > 10).all()
