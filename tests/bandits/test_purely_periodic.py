"""purely_periodic: periods of D_a, turns that never meet, the plan's worth, and what it learns."""
from dataclasses import replace

import pytest
import torch

from labkit.bandits import purely_periodic as module
from labkit.bandits.checks import play
from labkit.bandits.purely_periodic import (
    check,
    earned,
    in_rhythm,
    keep,
    knowing,
    myopic,
    odd_part,
    purely_periodic,
    rhythm,
    rounded,
    slots,
    turns,
)
from labkit.lanes import Lanes
from labkit.worlds.bandit import Recovering, best_shares

planned = replace(purely_periodic, choose=knowing, estimate=keep)


def curves(pulls, seeds=6, **options):
    world, lanes = Recovering(pulls, **options), Lanes(range(seeds))
    return world.reset(lanes.rand(0, 1, world.reset_noise))["curve"].double()


def column(value, lanes=6):
    return torch.full((lanes, 1), float(value))


@pytest.mark.parametrize("a", [1, 2, 3, 4])
def test_periods_are_those_of_the_set(a):
    """{1 .. a - 1} and j 2^l with a <= j < 2a, by rounding every share 1 / d up to the next."""
    allowed = set(range(1, a)) | {j * 2**power for j in range(a, 2 * a) for power in range(7)}
    shares = 1 / torch.arange(1, 65).double()
    got = rounded(shares[None], column(a, 1))[0]
    assert got.tolist() == [min(d for d in allowed if d >= want) for want in range(1, 65)]


def test_shares_are_rounded_down_and_tiny_ones_left_out():
    shares = torch.tensor([[1.0, 0.999, 0.5, 0.34, 0.3, 0.2, 1 / 64, 1 / 65, 0.0]]).double()
    assert rounded(shares, column(2, 1)).tolist() == [[1, 2, 2, 3, 4, 6, 64, 0, 0]]


@pytest.mark.parametrize("pulls", [1, 2, 3, 8])
def test_no_round_claims_more_than_the_pulls(pulls):
    for a in (1, 2, 3, 4):
        for arms in (2 * pulls, 5 * pulls):
            period, turn = rhythm(curves(pulls, arms=arms, rest=12), pulls, column(a))
            assert (slots(period) <= pulls).all() and (period > 0).any(-1).all()
            t = torch.arange(64 * 3)[:, None, None, None]
            due = (period > 0) & (t % period.clamp_min(1) == turn)
            assert due.sum(-1).max() <= pulls and (turn < period.clamp_min(1)).all()
            assert odd_part(period).max() < 2 * a


def test_turns_of_a_full_slot_fill_every_round():
    period = torch.tensor([[[3, 6, 12, 12, 24, 24, 12, 24, 24, 12, 8, 2, 4, 8]]])  # two slots, to the brim
    t = torch.arange(48)[:, None, None, None]
    due = t % period == turns(period)
    assert due.sum(-1).eq(2).all() and slots(period).item() == 2
    assert [odd_part(torch.tensor(d)).item() for d in (0, 1, 8, 12, 40)] == [0, 1, 1, 3, 5]


def test_arms_that_do_not_tire_are_pulled_in_every_round_the_best_first():
    pay = torch.tensor([0.3, 0.9, 0.5, 0.7])
    period, _ = rhythm(pay[:, None].expand(1, 1, 4, 6).double(), 2, column(2, 1))
    assert period.tolist() == [[[0, 1, 0, 1]]]


def test_the_formula_of_a_plan_is_what_it_earns_and_no_more_than_the_bound():
    world, lanes = Recovering(4, sigma=0.0), Lanes(range(6), {"a": (2,)})
    last = play(planned, world, lanes, 384, 2)[-1]  # 192 rounds hold every period of a = 2 whole
    memory = last.learner.memory
    worth = earned(memory["belief"], memory["period"])[:, 0]
    torch.testing.assert_close(last.metrics["return"], worth, rtol=1e-5, atol=0)
    assert (worth <= memory["world"]["bound"][:, 0]).all() and (worth > 0.85 * memory["world"]["bound"][:, 0]).all()


def test_the_plan_is_the_best_that_fits():
    curve = curves(2)
    period, _ = rhythm(curve, 2, column(2))
    worth, tried = earned(curve, period), []
    for i in range(1, 65):
        candidate = rounded(best_shares(curve, [4 * i / 64])[0], column(2))[..., 0, :]
        tried.append(torch.where(slots(candidate) <= 2, earned(curve, candidate), 0.0))
    torch.testing.assert_close(worth, torch.stack(tried).amax(0))


def test_what_is_believed_is_optimistic_and_never_falls_with_rest():
    world, lanes = Recovering(2), Lanes(range(6), {"c": (0.3,)})
    memory = play(purely_periodic, world, lanes, 640)[0].learner.memory
    seen, truth = memory["plays"] > 0, memory["world"]["curve"].double()
    assert (memory["belief"].diff(dim=-1) >= 0).all() and memory["belief"].max() <= 1
    assert ((memory["belief"] >= truth - 1e-9) | ~seen).double().mean() > 0.99
    assert memory["plays"].sum((1, 2, 3)).le(2 * 640).all() and memory["round"] == 640
    mean = (memory["total"] / memory["plays"].clamp_min(1) - truth)[seen]
    assert (mean.abs() * memory["plays"][seen].sqrt() < 5 * world.sigma).all(), "each payment counts for the rest that its arm had"


def test_it_learns_to_earn_nearly_what_the_plan_does():
    world, lanes = Recovering(2), Lanes(range(6))
    learnt = play(purely_periodic, world, lanes, 2100, 3)
    known = play(planned, world, lanes, 2100, 3)[-1].metrics["return"]
    shares = [(s.metrics["return"] / known).mean().item() for s in learnt]
    assert shares[0] < shares[2] and shares[2] > 0.9


def test_the_claim_holds_and_is_rejected_of_plans_that_collide(monkeypatch):
    assert check(range(10)).held == "held"
    monkeypatch.setattr(module, "turns", torch.zeros_like)  # all turns come at once, so that most pulls are refused
    assert check(range(10)).parts[0].held == "not held"
    monkeypatch.setattr(module, "knowing", myopic)
    assert check(range(10)).parts[2].held == "not held"


def test_phases_are_planned_anew_and_turns_come_by_the_clock():
    world, lanes = Recovering(2, rest=4), Lanes((0,))
    learner, k = planned.fresh(world, lanes), lanes.knobs(purely_periodic.knobs)
    learner.memory["belief"] = learner.memory["world"]["curve"].double()
    for t in range(20):
        action, _ = in_rhythm(purely_periodic, world, learner, torch.ones(1, 1, 1), k)
        memory = learner.memory
        want = [d > 0 and t % d == at for d, at in zip(memory["period"].flatten().tolist(), memory["turn"].flatten().tolist(), strict=True)]
        assert action.flatten().bool().tolist() == want
        if t == 10:
            learner.memory["belief"] = torch.zeros_like(memory["belief"]).index_fill_(2, torch.tensor([3]), 1.0)
        assert (memory["period"].flatten().tolist() == [0, 0, 0, 1]) == (t >= 16)
