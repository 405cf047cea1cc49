"""The bandits' loop and ucb: which arm, what is remembered, exact metrics, and the check of its claim."""
from dataclasses import replace
from itertools import islice

import pytest
import torch

from labkit import worlds
from labkit.bandits import checks
from labkit.bandits.checks import play
from labkit.bandits.family import Shape, ucb
from labkit.errors import LabError
from labkit.lanes import Lanes
from labkit.meter import DriftMeter, States
from labkit.worlds.bandit import Arms, Tallying

LANES = Lanes((0, 1, 2))


def rounds(algo, world, lanes, n):
    """Snapshots of single rounds."""
    return list(islice(replace(algo, shape=Shape(rounds=1)).run(world, lanes), n))


def test_the_first_plays_visit_each_arm_once():
    for n, snapshot in enumerate(rounds(ucb, Arms(arms=4), LANES, 4), 1):
        plays = snapshot.learner.memory["plays"]
        assert plays.sum(-1).eq(n).all() and plays.amax() == 1


def test_counts_sum_to_the_rounds_and_beliefs_are_means_of_what_was_paid():
    world, paid = Arms(), torch.zeros(3, 1, 10)
    for n, snapshot in enumerate(rounds(ucb, world, LANES, 60), 1):
        memory = snapshot.learner.memory
        paid += memory["world"]["paid"]
        assert memory["plays"].sum(-1).eq(n).all() and snapshot.step == n
        torch.testing.assert_close(memory["belief"], paid.double() / memory["plays"].clamp_min(1), rtol=1e-4, atol=1e-6)


def test_ucb_takes_the_largest_upper_bound():
    """mean + c sigma sqrt(2 log t / n), written out."""
    world, k = Arms(arms=3, sigma=0.7), Lanes((0, 1), {"c": (0.2, 1.5)}).knobs(ucb.knobs)
    learner = ucb.fresh(world, Lanes((0, 1), {"c": (0.2, 1.5)}))
    learner.memory["plays"] = torch.tensor([5.0, 2.0, 40.0]).double().expand(4, 1, 3)
    learner.memory["belief"] = torch.tensor([0.5, 0.3, 0.62]).double().expand(4, 1, 3)
    action, chance = ucb.choose(ucb, world, learner, torch.ones(4, 1, 1), k)
    log = (2 * torch.tensor(47.0).log()).sqrt()
    for lane, c in enumerate((0.2, 0.2, 1.5, 1.5)):
        index = [m + c * 0.7 * log / n**0.5 for m, n in ((0.5, 5), (0.3, 2), (0.62, 40))]
        assert action[lane].item() == max(range(3), key=lambda a: index[a])
    assert action[0] != action[2] and chance.eq(1).all()


def test_without_optimism_it_is_greedy_bit_for_bit():
    def greedy(algo, world, learner, obs, k):
        n = learner.memory["plays"]
        best = torch.where(n == 0, torch.inf, learner.memory["belief"]).argmax(-1)
        return best, torch.ones_like(obs[..., 0])

    lanes = Lanes((0, 1, 2), {"c": (0.0,)})
    one, other = (play(replace(ucb, choose=choose), Arms(), lanes, 300)[0] for choose in (ucb.choose, greedy))
    assert torch.equal(one.learner.memory["total"], other.learner.memory["total"])
    assert torch.equal(one.metrics["regret"], other.metrics["regret"])


def test_regret_and_return_are_of_means_not_of_samples():
    world = Arms(gap=0.25, sigma=1.0)
    first, last = play(ucb, world, LANES, 200, 2)
    memory = last.learner.memory
    wrong = (memory["plays"] * (memory["world"]["mean"] < 1)).sum((1, 2))
    torch.testing.assert_close(last.metrics["regret"], 0.25 * wrong)
    torch.testing.assert_close(last.metrics["return"], 1 - (last.metrics["regret"] - first.metrics["regret"]) / 100)


def test_the_policy_is_the_play_shares_of_its_window():
    first, last = play(ucb, Arms(), LANES, 100, 2)
    recent = (last.learner.memory["plays"] - first.learner.memory["plays"])[:, 0]
    probs = last.learner.policy(torch.ones(1, 1)).probs[:, 0].double()
    torch.testing.assert_close(probs, (recent + 1) / 60, rtol=1e-5, atol=1e-7)
    meter = DriftMeter(States(torch.ones(1, 1), torch.ones(1)), "kl", "start")
    assert (meter(first).value == 0).all() and (meter(last).value > 0).all()


def test_side_by_side_plays_are_problems_of_their_own():
    snapshot = play(replace(ucb, shape=Shape(plays=5)), Arms(), Lanes((0,)), 400)[0]
    memory = snapshot.learner.memory
    assert snapshot.step == 2000 and memory["plays"].sum(-1).eq(400).all()
    assert len(memory["world"]["mean"].argmax(-1).unique()) > 1
    each = (memory["plays"] * (1 - memory["world"]["mean"])).sum(-1)
    torch.testing.assert_close(snapshot.metrics["regret"], each.mean(-1))


def test_a_world_that_misfits_gets_one_sentence():
    for key, part in (("finite.chain", "take a bandit"), ("bandit.recovering", "one arm"), ("bandit.payments", "no context")):
        with pytest.raises(LabError, match=part) as error:
            next(ucb.run(worlds.make(key), LANES))
        assert str(error.value).endswith(".") and key in str(error.value)
    with pytest.raises(LabError, match="rounds=0"):
        Shape(rounds=0)


def test_a_run_does_not_go_on_in_another_world():
    start = next(ucb.run(Arms(), LANES)).learner
    for world in (Arms(arms=4), Tallying(arms=10)):
        with pytest.raises(LabError):
            next(ucb.run(world, LANES, start))


def test_epsilon_greedy_explores_one_time_in_ten_and_knows_its_chances():
    lanes, world = Lanes(range(3000)), Arms(arms=4)
    learner = ucb.fresh(world, lanes)
    learner.memory["belief"] = torch.tensor([0.1, 0.9, 0.2, 0.3]).double().expand(3000, 1, 4)
    action, chance = checks.epsilon_greedy(ucb, world, learner, torch.ones(3000, 1, 1), lanes.knobs({}))
    shares = torch.bincount(action.flatten(), minlength=4) / 3000
    assert ((shares - torch.tensor([0.025, 0.925, 0.025, 0.025])).abs() < 0.02).all()
    torch.testing.assert_close(chance, torch.where(action == 1, 0.925, 0.025))


# the check


def test_the_claim_of_ucb_holds():
    assert checks.check_ucb(range(20), 1000).held == "held"


def ignorant(algo, learner, log, k):
    """Believes the latest payment alone."""
    learner.memory["plays"] = learner.memory["plays"] + log.pulled
    return torch.where(log.pulled > 0, log.paid.double(), learner.memory["belief"])


def test_the_claim_is_rejected_of_a_ucb_that_forgets(monkeypatch):
    monkeypatch.setattr(checks, "ucb", replace(ucb, estimate=ignorant))
    assert checks.check_ucb(range(20), 1000).held != "held"
