"""The equations of chapter 06 beside the code, on numbers that the chapter does not use: sections 1 to 3."""
from dataclasses import replace
from itertools import islice
from math import exp, log, sqrt

import numpy as np
import pytest
import torch
from scipy.optimize import linprog

from labkit.bandits.family import Shape, ucb
from labkit.bandits.purely_periodic import earned, odd_part, purely_periodic, rounded
from labkit.bandits.wtb import surviving, wtb
from labkit.lanes import Lanes
from labkit.worlds.bandit import Arms, Recovering, Tallying, best_shares

LANES = Lanes((11, 12, 13))


def rounds(algo, world, n, lanes=LANES):
    return list(islice(replace(algo, shape=Shape(rounds=1)).run(world, lanes), n))


def arms_played(snapshots):
    """The arm of each round, (T, L): the one whose count has grown."""
    plays = torch.stack([s.learner.memory["plays"][:, 0] for s in snapshots])
    return plays.diff(dim=0, prepend=torch.zeros_like(plays[:1])).argmax(-1)


def test_regret_is_the_sum_of_what_the_best_arm_would_have_earned_more():
    run = rounds(ucb, Arms(arms=4, gap=0.45), 60)
    mean = run[0].learner.memory["world"]["mean"][:, 0]
    lost = mean.max(-1).values - mean.gather(1, arms_played(run).T).T  # (T, L)
    torch.testing.assert_close(torch.stack([s.metrics["regret"] for s in run]), lost.double().cumsum(0), rtol=1e-5, atol=1e-6)


def test_the_arm_of_ucb():
    """argmax mean + c sigma sqrt(2 log t / n), round by round, from what was paid."""
    world, lanes, c = Arms(arms=3, sigma=0.8), Lanes((5,), {"c": (1.25,)}), 1.25
    run = rounds(ucb, world, 50, lanes)
    chosen, paid = arms_played(run)[:, 0].tolist(), [s.learner.memory["world"]["paid"].sum().item() for s in run]
    for t in range(3, 50):
        n = [chosen[:t].count(a) for a in range(3)]
        mean = [sum(p for a, p in zip(chosen[:t], paid[:t], strict=True) if a == arm) / n[arm] for arm in range(3)]
        index = [mean[a] + c * 0.8 * sqrt(2 * log(t) / n[a]) for a in range(3)]
        assert chosen[t] == index.index(max(index))


def curves(pulls=3, **options):
    world = Recovering(pulls, rest=9, **options)
    state = world.reset(LANES.rand(2, 1, world.reset_noise))
    return state, state["curve"][:, 0].double()


def test_what_an_arm_pays_after_rest():
    world = Recovering(2, rest=9, sharp=0.8)
    u = LANES.rand(3, 1, world.reset_noise)
    got = world.reset(u)["curve"][:, 0]
    for lane, arm, d in ((0, 0, 1), (1, 2, 5), (2, 3, 9)):
        top, delay = 0.5 + 0.5 * u[lane, 0, arm].item(), 1 + 3.5 * u[lane, 0, 4 + arm].item()
        assert got[lane, arm, d - 1].item() == pytest.approx(top / (1 + exp(-0.8 * (d - delay))), rel=1e-5)


@pytest.mark.parametrize("pulls", [0.5, 1.0, 2.5])
def test_the_concave_bound_is_the_linear_programme_over_mixtures_of_rhythms(pulls):
    """max sum lambda(i, d) R_i(d) / d with sum_d lambda(i, d) <= 1 for each arm and sum lambda(i, d) / d <= K."""
    _, curve = curves()
    x, worth = best_shares(curve, [pulls])
    n, rest = curve.shape[1:]
    each, share = np.kron(np.eye(n), np.ones(rest)), np.tile(1 / np.arange(1, rest + 1), n)
    for lane in range(3):
        best = linprog(-curve[lane].flatten().numpy() * share, np.vstack([each, share]), [1.0] * n + [pulls])
        assert worth[lane, 0].item() == pytest.approx(-best.fun, rel=1e-9)
        assert x[lane, 0].sum().item() <= pulls + 1e-9 and x[lane, 0].max() <= 1 + 1e-9


def test_a_plan_earns_the_sum_of_pay_over_period():
    """Pull each arm in its period, by hand, and average."""
    _, curve = curves(pulls=2)
    period = torch.tensor([3, 5, 4, 9])
    total = 0.0
    for t in range(180, 360):
        total += sum(curve[0, i, d - 1].item() for i, d in enumerate(period.tolist()) if t % d == 0)
    assert earned(curve[:, None], period.expand(3, 1, -1))[0, 0].item() == pytest.approx(total / 180, rel=1e-9)


def test_the_set_of_periods_is_that_of_small_odd_parts():
    for a in (1, 2, 3, 4):
        by_set = {d for d in range(1, 65) if d < a or any(d == j * 2**power for j in range(a, 2 * a) for power in range(7))}
        assert by_set == {d for d in range(1, 65) if odd_part(torch.tensor(d)) < 2 * a}
        assert {int(rounded(torch.full((1, 1), 1 / d).double(), torch.full((1, 1), float(a)))) for d in range(1, 65)} == by_set


def test_the_belief_of_a_curve_is_mean_plus_doubt_and_at_most_that_of_longer_rest():
    world, lanes = Recovering(1, arms=2, rest=4), Lanes((3,), {"c": (0.4,)})
    run = rounds(purely_periodic, world, 40, lanes)
    idle, seen = [4, 4], {}
    for t, snapshot in enumerate(run, 1):
        memory = snapshot.learner.memory
        for arm in range(2):
            paid, pulled = memory["world"]["paid"][0, 0, arm].item(), memory["world"]["idle"][0, 0, arm].item() == 1
            if pulled:
                seen.setdefault((arm, idle[arm]), []).append(paid)
            idle[arm] = 1 if pulled else min(idle[arm] + 1, 4)
        for arm in range(2):
            top = [1.0] * 4
            for d in range(4):
                if x := seen.get((arm, d + 1)):
                    top[d] = min(1.0, sum(x) / len(x) + 0.4 * sqrt(2 * log(t) / len(x)))
            want = [min(top[d:]) for d in range(4)]
            assert memory["belief"][0, 0, arm].tolist() == pytest.approx(want, abs=1e-5)


def test_policy_regret_is_against_the_taste_played_from_the_first_round():
    world = Tallying(arms=3, m=5, decay=0.7)
    run = rounds(wtb, world, 30, Lanes((4,), {"M": (2,), "length": (3,)}))
    costs = run[0].learner.memory["world"]["costs"][0, 0].tolist()
    chosen = [s.learner.memory["world"]["past"][0, 0, :, 0].argmax().item() for s in run]
    weight = [0.7**j / sum(0.7**i for i in range(5)) for j in range(5)]
    taste, regret = min(range(3), key=lambda a: costs[a][1]), 0.0

    def cost(arm, history):
        tally = sum(w for w, a in zip(weight, reversed(history), strict=False) if a == arm)
        return costs[arm][0] + (costs[arm][1] - costs[arm][0]) * tally

    for t, snapshot in enumerate(run, 1):
        regret += cost(chosen[t - 1], chosen[:t]) - cost(taste, [taste] * t)
        assert snapshot.metrics["regret"].item() == pytest.approx(regret, abs=1e-4)


def test_an_arm_is_dropped_by_its_upper_end_against_the_best_lower_end():
    mean, plays = torch.tensor([[[0.5, 0.62, 0.4]]]), torch.tensor([[[20.0, 35.0, 60.0]]])
    for scale in (0.02, 0.05, 0.1, 0.3):
        conf = [scale * sqrt(2 * log(115) / n) for n in (20, 35, 60)]
        low = max(m - c for m, c in zip((0.5, 0.62, 0.4), conf, strict=True))
        want = [m + c >= low for m, c in zip((0.5, 0.62, 0.4), conf, strict=True)]
        assert surviving(torch.ones(1, 1, 3).bool(), mean, plays, torch.tensor(scale)).flatten().tolist() == want
