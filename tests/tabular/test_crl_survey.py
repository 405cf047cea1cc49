"""crl_survey: each store by hand, a learner without any against a fresh one, and what the readouts and the check say."""
import itertools
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from labkit import worlds
from labkit.errors import LabError
from labkit.lanes import Lanes
from labkit.tabular import crl_survey as module
from labkit.tabular.crl_survey import STORES, check, crl_survey, hand_over, old_step, planned, readouts, stored, winners
from labkit.tabular.sampling import Step
from labkit.worlds.finite import optimal
from labkit.worlds.rooms import rooms

PERIOD = 100


def run(stores, steps, seeds=(0, 1), change="reward", start=None, stride=100, **grid):
    """Learners every `stride` steps; lanes are stores x seeds."""
    lanes = Lanes(tuple(seeds), {"store": tuple(STORES.index(s) for s in stores)} | grid)
    world = rooms(change, period=PERIOD, seed=[*seeds] * len(lanes.points))
    method = replace(crl_survey, shape=replace(crl_survey.shape, stride=stride))
    return [s.learner for s in itertools.islice(method.run(world, lanes, start), steps // stride)], world


def knobs(learner):
    return learner.lanes.knobs(crl_survey.knobs)


def all_begin(learner):
    """A task begins in every lane."""
    hand_over(learner, knobs(learner), torch.ones_like(learner.on))


def test_without_a_store_a_task_finds_a_fresh_learner_bit_for_bit():
    first, last = run(["none"], 2 * PERIOD)[0]
    fresh = first.copy()  # all that was learnt is taken away; where it stands and its noise are not
    fresh.memory |= {"q": torch.zeros_like(fresh.memory["q"]), "log_pi": torch.zeros_like(fresh.memory["log_pi"]).log_softmax(-1)}
    for name in ("past", "potential", "begun", "led", "paid", "tried", "n", "task"):
        del fresh.memory[name]
    again = run(["none"], PERIOD, start=fresh)[0][0]
    assert torch.equal(again.memory["q"], last.memory["q"]) and torch.equal(again.memory["log_pi"], last.memory["log_pi"])


def test_the_policy_store_carries_q_and_the_others_do_not():
    learner = run(STORES, 3 * PERIOD, seeds=(3,))[0][-1]
    before = learner.copy()
    assert bool(before.memory["q"].flatten(1).any(1).all())
    all_begin(learner)
    assert torch.equal(learner.memory["q"][1], before.memory["q"][1]) and not learner.memory["q"][[0, 2, 3, 4]].any()
    assert learner.memory["begun"].tolist() == [3 * PERIOD] * 5
    assert not learner.memory["paid"].any() and not learner.memory["tried"].any() and learner.memory["led"].sum() == 5 * 3 * PERIOD
    value = before.memory["q"][4].amax(-1) + before.memory["potential"][4]
    torch.testing.assert_close(learner.memory["potential"][4], value)
    assert not learner.memory["potential"][:4].any()


def test_a_task_that_stays_loses_nothing_without_learning():
    learners, _ = run(["policy"], 4 * PERIOD, alpha=(0.0,))
    assert all(torch.equal(learner.memory["log_pi"], learners[0].memory["log_pi"]) for learner in learners)


def test_a_potential_leaves_the_best_policy_as_it_is():
    mdp = rooms(seed=4).mdp
    potential = 3 * Lanes((0,)).rand(0, mdp.states).double()
    shaped = replace(mdp, r=mdp.r + mdp.discount * (mdp.P @ potential[0]) - potential[..., None])
    assert torch.equal(optimal(shaped)[2], optimal(mdp)[2])
    torch.testing.assert_close(optimal(shaped)[1], optimal(mdp)[1] - potential)


def one_step(learner, world, pair, reward, follows):
    """The slot on a step of every lane, told within its lane."""
    lane = torch.arange(len(learner.on))
    step = Step(world.mdp, lane * 196 + pair, torch.full((len(lane),), reward, dtype=torch.float64), lane * 49 + follows, lane < 0)
    return crl_survey.evaluate(crl_survey, step, learner, knobs(learner))


def test_shaping_adds_the_gain_of_potential_by_hand():
    (*_, learner), world = run(["none", "reward"], PERIOD, seeds=(0,))
    learner.memory["q"] = learner.rand(49, 4).double()
    all_begin(learner)
    phi = learner.memory["potential"][1]
    start, end = 0, int(phi.argmax())
    assert phi[end] > phi[start] > 0
    q = one_step(learner, world, pair=4 * start + 1, reward=0.25, follows=end)
    assert q[0, start, 1].item() == pytest.approx(0.5 * 0.25)
    assert q[1, start, 1].item() == pytest.approx(0.5 * (0.25 + 0.95 * phi[end].item() - phi[start].item()))


def test_experience_replays_the_old_steps_one_after_the_other():
    (*_, learner), world = run(["policy", "experience"], PERIOD, seeds=(0,))
    told = {name: learner.memory["past"][name][:, :PERIOD].clone() for name in ("pair", "reward", "follows")}
    all_begin(learner)
    for at in (0, 1, 7, PERIOD - 1, PERIOD):  # the last begins anew
        learner.step = 3 * PERIOD + at
        learner.memory["past"]["pair"][:, learner.step % module.PAST] = 1
        step = old_step(somewhere(world), learner)
        assert step.pair.tolist() == (told["pair"][:, at % PERIOD] + torch.tensor([0, 196])).tolist()
        assert step.follows.tolist() == (told["follows"][:, at % PERIOD] + torch.tensor([0, 49])).tolist()
        assert step.reward.tolist() == told["reward"][:, at % PERIOD].tolist()


def somewhere(world):
    """A step that is not looked at."""
    nothing = torch.zeros(2)
    return Step(world.mdp, nothing, nothing, nothing, nothing > 0)


def test_old_steps_move_q_where_experience_is_kept_and_nowhere_else():
    (*_, learner), world = run(["none", "experience"], PERIOD, seeds=(0,))
    all_begin(learner)
    learner.step = 3 * PERIOD
    learner.memory["past"]["reward"][:, 0] = 1.0  # the first old step paid
    q = one_step(learner, world, pair=100, reward=0.0, follows=1)
    old = int(learner.memory["past"]["pair"][1, 0])
    assert q[0].abs().sum() == 0 and q[1].flatten()[old].item() == pytest.approx(0.5) and q[1].count_nonzero() == 1


def test_a_plan_with_all_counts_right_is_value_iteration_and_moves_no_pair_that_was_never_tried():
    (*_, learner), world = run(["dynamics"], PERIOD, seeds=(0,))
    mdp, memory = world.mdp, learner.memory
    memory |= {"led": 3 * mdp.P.clone(), "paid": 2 * mdp.r.clone(), "tried": torch.full_like(mdp.r, 2.0), "q": torch.zeros_like(mdp.r)}
    memory["led"][0, 48, 2] = 0.0
    q = planned(learner, torch.tensor([0]), mdp.discount)
    want = torch.zeros_like(q)
    for _ in range(module.SWEEPS):
        want = mdp.r + 0.95 * mdp.P @ want.amax(-1)[0]
        want[0, 48, 2] = 0.0
    torch.testing.assert_close(q, want, rtol=0, atol=1e-12)


def test_a_kept_model_needs_to_see_a_new_goal_but_once():
    """With the model of the first task, one visit of the new goal and a plan lead there from everywhere."""
    (*_, learner), world = run(["dynamics"], PERIOD, seeds=(2,))
    new, memory = world.in_mode(torch.tensor([1])), learner.memory
    memory |= {"led": new.P.clone(), "q": torch.zeros_like(new.r), "paid": torch.zeros_like(new.r), "tried": torch.zeros_like(new.r)}
    goal = int(new.r.sum(-1).argmax())
    memory["paid"][0, goal, 0], memory["tried"][0, goal, 0] = 1.0, 1.0
    for _ in range(10):
        memory["q"] = planned(learner, torch.tensor([0]), new.discount)
    assert (memory["q"].amax(-1)[0, 0] - new.best.v[0, 0]).abs() < 1e-3


def test_bytes_are_counted_by_hand():
    (*_, learner), _ = run(STORES, PERIOD, seeds=(0,))
    seen = [int((learner.memory["led"][i] > 0).sum()) for i in range(5)]
    assert stored(learner, knobs(learner)).tolist() == [0, 8 * 49 * 4, 8 * 3 * PERIOD, 8 * seen[3], 8 * 49] and 0 < seen[3] <= 49 * 4


def test_lanes_of_every_store_are_the_same_alone_past_plans_and_tasks():
    many = run(STORES, 2 * PERIOD, seeds=(7, 1))[0][-1]
    for i, store in enumerate(STORES):
        alone = run([store], 2 * PERIOD, seeds=(7,))[0][-1]
        assert all(torch.equal(alone.memory[name][0], many.memory[name][2 * i]) for name in ("q", "log_pi", "led", "potential", "s"))


def test_readouts_by_hand(monkeypatch):
    """The exact returns are made up: in task t, after n hundred steps, 10 t + n for every store, and 1 more for the third."""

    def told(mdp, pi):
        task, n = mdp.r.sum((1, 2)), pi[:, 0, 0]
        return 10 * task + n + (torch.arange(10) // 2 == 3)

    class World:
        modes = 4

        def in_mode(self, task):
            return SimpleNamespace(r=task[:, None, None].double())

    def run(world, lanes):
        made = {"q": torch.zeros(10, 5, 2), "led": torch.ones(10, 5, 2, 5)}
        for n in itertools.count(1):
            learner = SimpleNamespace(step=100 * n, memory=made | {"log_pi": torch.full((10, 1, 1), float(n)).log()})
            yield SimpleNamespace(learner=learner)

    monkeypatch.setattr(module, "expected_return", told)
    monkeypatch.setattr(module, "rooms", lambda *args, **options: World())
    monkeypatch.setattr(module, "crl_survey", SimpleNamespace(run=run, shape=crl_survey.shape, knobs=crl_survey.knobs))
    found = readouts("reward", (0, 1), 200)  # two moments in each of four tasks
    assert found["transfer"][:, 0].tolist() == [0, 0, 0, 1, 0]
    assert found["average"][:, 1].tolist() == [15 + 8] * 3 + [15 + 9] + [15 + 8]
    assert found["forgetting"][0, 0].item() == (2 + 4 + 6) / 3 - 8  # it gained
    assert found["plasticity"][0, 0].item() == (10 + 4 + 20 + 6 + 30 + 8) / 3
    assert found["bytes"][:, 0].tolist() == [0, 80, 8 * 3 * 800, 8 * 50, 40]


def made(transfer, forgetting, size):
    rows = torch.tensor([[0.0] * 5, transfer, forgetting, size])[1:]
    return {name: row[:, None] + torch.zeros(30) for name, row in zip(("transfer", "forgetting", "bytes"), rows, strict=True)}


def test_winners_leave_out_the_learner_that_keeps_nothing():
    assert winners(made([9, 1, 2, 3, 0], [0, 5, 4, 9, 9], [0, 7, 8, 9, 1])) == [3, 2, 4]


def test_the_check_wants_a_larger_gain_where_the_goal_moves_and_no_winner_everywhere(monkeypatch):
    split, apart = [0, 5, 4, 9, 9], [0, 7, 8, 9, 1]
    moved, opened = made([0, 1, 2, 3, 0], split, apart), made([0, 1, 2, 1, 0], split, apart)
    for reward, doors, want in ((moved, opened, "held"), (opened, moved, "not held"), (moved, moved, "not held")):
        monkeypatch.setattr(module, "readouts", lambda change, seeds, period, r=reward, d=doors: {"reward": r, "dynamics": d}[change])
        assert check().held == want
    all_first = made([0, 1, 2, 9, 0], [0, 5, 4, 1, 9], [0, 7, 8, 1, 9])
    monkeypatch.setattr(module, "readouts", lambda change, seeds, period: {"reward": all_first, "dynamics": opened}[change])
    assert [part.held for part in check().parts] == ["held", "not held"]


def test_a_world_without_tasks_is_refused():
    with pytest.raises(LabError, match=r"^finite.garnet is not a sequence of tasks; take finite.rooms\.$"):
        next(crl_survey.run(worlds.make("finite.garnet"), Lanes((0,))))
