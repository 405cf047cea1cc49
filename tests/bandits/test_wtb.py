"""wtb: blocks, burn-in, who is dropped, plain successive elimination as its limit, Exp3, and the check."""
from dataclasses import replace
from itertools import islice
from math import log, sqrt

import torch

from labkit.bandits import wtb as module
from labkit.bandits.checks import play
from labkit.bandits.family import Shape, ucb
from labkit.bandits.wtb import PLAIN, check, exp3, next_alive, over_its_chance, surviving, wtb
from labkit.lanes import Lanes
from labkit.worlds.bandit import Arms, Tallying


def played(world, lanes, rounds):
    """The arm of each round, (rounds, L), and the learners after it."""
    run = islice(replace(wtb, shape=Shape(rounds=1)).run(world, lanes), rounds)
    learners = [snapshot.learner for snapshot in run]
    return torch.stack([learner.memory["world"]["paid"][:, 0].abs().argmax(-1) for learner in learners]), learners


def test_every_arm_is_played_in_one_block_an_epoch_and_blocks_grow():
    lanes = Lanes((0,), {"M": (3,), "length": (2,), "growth": (2.0,), "c": (2.0,)})
    arms, learners = played(Tallying(sigma=3.0), lanes, 5 * 5 + 5 * 7)
    want = [arm for epoch in (5, 7) for arm in range(5) for _ in range(epoch)]
    assert arms[:, 0].tolist() == want
    counted = [learner.memory["plays"].sum().item() for learner in learners]
    assert counted[:6] == [0, 0, 0, 1, 2, 2] and counted[24] == 10 and counted[-1] == 10 + 20
    assert [learners[i].memory["epoch"].item() for i in (23, 24, 59)] == [0, 1, 2]


def test_the_first_plays_of_a_block_do_not_count():
    lanes = Lanes((0, 1), {"M": (20,), "length": (10,), "c": (2.0,)})
    learner = played(Tallying(sigma=0.0), lanes, 150)[1][-1]
    costs = learner.memory["world"]["costs"]
    torch.testing.assert_close(learner.memory["belief"], (1 - costs[..., 1]).double(), rtol=1e-5, atol=1e-6)


def test_an_arm_is_dropped_where_even_its_upper_end_lies_below_anothers_lower_end():
    mean = torch.tensor([[[0.9, 0.71, 0.69, 0.95]]])
    plays = torch.tensor([[[50.0, 50.0, 50.0, 50.0]]])
    alive = torch.tensor([[[True, True, True, False]]])
    conf = sqrt(2 * log(200) / 50)
    scale = 0.1 / conf  # each end lies 0.1 from its mean
    assert surviving(alive, mean, plays, torch.tensor(scale)).tolist() == [[[True, True, False, False]]]


def test_the_next_arm_is_the_next_that_is_left_round_about():
    alive = torch.tensor([[[True, False, True, True]], [[False, False, True, False]]])
    following = [next_alive(alive, torch.full((2, 1), arm))[:, 0].tolist() for arm in range(4)]
    assert following == [[2, 2], [2, 2], [3, 2], [0, 2]]


def elimination(algo, learner, log, k):
    """Successive elimination without blocks (Even-Dar, Mannor and Mansour 2006): each arm that is left once, then drop."""
    memory = learner.memory
    memory["plays"], memory["total"] = memory["plays"] + log.pulled, memory["total"] + log.paid
    left, mean = memory["alive"][0, 0], memory["total"] / memory["plays"].clamp_min(1)
    here = int(memory["arm"])
    later = [a for a in range(len(left)) if a > here and left[a]]
    if not later:
        conf = k.c * memory["sigma"] * (2 * memory["plays"].sum().clamp_min(1).log() / memory["plays"].clamp_min(1)).sqrt()
        floor = max(float((mean - conf)[0, 0, a]) for a in range(len(left)) if left[a])
        memory["alive"] = memory["alive"] & (mean + conf >= floor)
        later = [a for a in range(len(left)) if memory["alive"][0, 0, a]]
    memory["arm"] = torch.full_like(memory["arm"], later[0])
    return mean


def test_without_memory_and_growth_it_is_successive_elimination_bit_for_bit():
    for world in (Arms(arms=5, gap=0.6), Tallying()):
        for seed in (0, 1):
            arms = (replace(wtb, estimate=slot) for slot in (wtb.estimate, elimination))
            one, other = (play(algo, world, Lanes((seed,), PLAIN), 400)[0].learner for algo in arms)
            assert all(torch.equal(one.memory[name], other.memory[name]) for name in ("plays", "total", "alive", "belief", "arm"))
            assert one.memory["alive"].sum() < 5


def test_it_finds_the_acquired_taste_where_ucb_does_not():
    lanes = Lanes(range(10))
    blocks, steps = (play(algo, Tallying(), lanes, 1600)[0].learner.memory for algo in (wtb, ucb))
    taste = blocks["world"]["costs"][..., 0].argmax(-1)
    assert torch.equal(blocks["alive"].byte().argmax(-1), taste) and blocks["alive"].sum(-1).eq(1).all()
    assert (steps["plays"].argmax(-1) != taste).all()


def test_exp3_draws_by_exponential_weights_and_weighs_by_the_chance():
    lanes, world = Lanes(range(4000)), Tallying(arms=3)
    learner = ucb.fresh(world, lanes)
    learner.memory["total"] = torch.tensor([0.0, 60.0, 120.0]).double().expand(4000, 1, 3)
    action, chance = exp3(ucb, world, learner, torch.ones(4000, 1, 1), lanes.knobs({}))
    shares = 0.95 * torch.tensor([0.0, 1.0, 2.0]).double().softmax(0) + 0.05 / 3
    assert ((torch.bincount(action.flatten()) / 4000 - shares).abs() < 0.03).all()
    torch.testing.assert_close(chance, shares[action])
    round = replace(ucb, choose=exp3, estimate=over_its_chance, knobs={}, shape=Shape(rounds=1))
    first = next(round.run(world, Lanes((0, 1)))).learner.memory
    torch.testing.assert_close(first["total"], first["world"]["paid"].double() * 3)


def test_the_claim_holds_and_is_rejected_without_burn_in(monkeypatch):
    assert check(range(10), 2000).held == "held"
    hasty = wtb.knobs | {"M": replace(wtb.knobs["M"], default=0)}
    monkeypatch.setattr(module, "wtb", replace(wtb, knobs=hasty))
    assert check(range(10), 400).held == "not held"
