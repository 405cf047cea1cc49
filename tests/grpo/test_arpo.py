"""arpo: without a store it is dapo, a success enters failed groups alone, the store is a queue, and only what can be done is tried."""
from collections import defaultdict, deque
from dataclasses import replace
from itertools import islice
from math import sqrt

import pytest
import torch

from labkit.grpo.arpo import arpo, doable, inject, selected
from labkit.grpo.family import Shape, aged, dapo, noise, read, standardised, uniform, write
from labkit.grpo.outcome import exact
from labkit.lanes import Lanes
from labkit.paper import changed
from labkit.worlds.form import Form
from labkit.worlds.tokens.world import EMPTY
from tests.methods import assert_same, lane

SHAPE = Shape(prompts=6, group=4, width=16, warm=0.6)
ALGO = replace(arpo, shape=SHAPE)


@pytest.fixture(scope="module")
def world():
    return Form((2, 3), tasks=4, held=1, impossible=2)


def begun(world, lanes, memory=True):
    learner = ALGO.begin(world, lanes, SHAPE.warm)
    if memory:
        learner.memory["doable"] = doable(ALGO, world, learner, lanes.knobs(ALGO.knobs))
    return learner


def updated(world, grid, updates, seeds=(0, 1, 2)):
    """A learner after some updates, and its knobs."""
    lanes = Lanes(seeds, grid)
    learner = next(islice(ALGO.run(world, lanes), updates - 1, None)).learner
    return learner, lanes.knobs(ALGO.knobs)


def test_it_changes_three_slots():
    assert changed(arpo, dapo) == ["tasks", "rollout", "verify"]


@pytest.mark.parametrize(("replay", "updates"), [(0, 4), (1, 1)])
def test_without_replay_or_with_an_empty_store_it_is_dapo_without_resampling(world, replay, updates):
    mine, theirs = {"replay": (replay,), "select": (0,)}, {"filter": (0,), "band": (0,), "eps_high": (0.3,), "lr": (0.003,)}
    start = begun(world, Lanes((0, 1), mine))
    one = next(islice(ALGO.run(world, Lanes((0, 1), mine), start), updates - 1, None))
    start.memory.pop("doable")
    start.lanes = Lanes((0, 1), theirs)
    other = next(islice(replace(dapo, shape=SHAPE).run(world, start.lanes, start), updates - 1, None))
    for i in range(2):
        numbers = lane(other, i)
        assert_same({name: x for name, x in lane(one, i).items() if name in numbers}, numbers)


def batches(world, learner, k):
    """What the learner will write next, and the batch that it will learn from; as in `remembering`."""
    twin = learner.copy()
    problem = selected(ALGO, world, twin, k)
    draw = noise(ALGO, world, twin)
    fresh = write(world, twin, problem, draw(0), aged(twin, k.lag))
    return fresh, inject(world, twin, fresh, draw(1)[..., 0, 0], k), ALGO.gather(world, learner.copy(), k)


def test_one_success_stands_in_each_failed_group_whose_task_has_a_store_and_nowhere_else(world):
    exchanged = 0
    for updates in (4, 10):
        learner, k = updated(world, {"replay": (0, 1)}, updates, tuple(range(4)))
        fresh, mixed, batch = batches(world, learner, k)
        assert torch.equal(mixed.token, batch.token) and torch.equal(mixed.old, batch.old)
        failed = (world.graph.reward[fresh.node] == 0).all(-1)
        stored = learner.memory["store"]["count"].gather(1, fresh.problem) > 0
        asked = torch.arange(8)[:, None] >= 4  # lanes with replay
        due = failed & stored & asked
        differs = (mixed.token != fresh.token).any(-1)
        assert not differs[..., 1:].any() and not differs[~due].any()
        assert torch.equal(world.graph.reward[mixed.node].sum(-1)[due], torch.ones(int(due.sum())))
        assert torch.equal(mixed.extra["age"] >= 0, due) and torch.equal(mixed.info["injected"], due.float().mean(1))
        assert torch.equal(mixed.old[~due], fresh.old[~due])
        exchanged += int(due.sum())
    assert exchanged


def test_the_advantages_of_a_restarted_group(world):
    """sqrt(G - 1) and -1 / sqrt(G - 1) where the deviation is a population's; ours is a sample's, less by sqrt((G - 1) / G)."""
    learner, k = updated(world, {}, 6, tuple(range(6)))
    batch = ALGO.gather(world, learner, k)
    adv, group = batch.adv[batch.extra["age"] >= 0][..., 0], SHAPE.group
    assert len(adv)
    expected = torch.tensor([sqrt(group - 1), *[-1 / sqrt(group - 1)] * (group - 1)])
    torch.testing.assert_close(adv * sqrt(group / (group - 1)), expected.expand_as(adv), rtol=1e-4, atol=0)
    torch.testing.assert_close(standardised(batch, k), batch.adv)


@pytest.mark.parametrize("size", [1, 2, 8])
def test_the_store_of_a_task_is_a_queue(world, size):
    """Held against deques that are filled response by response."""
    lanes = Lanes((0, 1), {"store": (size,), "replay": (0,)})
    k, learner = lanes.knobs(ALGO.knobs), begun(world, lanes)
    queues = defaultdict(lambda: deque(maxlen=size))
    for _ in range(8):
        step, batch = learner.step, ALGO.gather(world, learner, k)
        right = world.graph.reward[batch.node] > 0
        for at in right.nonzero().tolist():
            queues[at[0], int(batch.problem[at[0], at[1]])].append((step, batch.token[tuple(at)].tolist(), batch.old[tuple(at)].tolist()))
        ALGO.learn(world, learner, batch, k)
    store = learner.memory["store"]
    assert sum(store["count"].flatten().tolist()) > 20 and max(store["count"].flatten().tolist()) > 2 * size
    for i, task in store["count"].nonzero().tolist():
        kept = min(int(store["count"][i, task]), size)
        told = zip(*(store[name][i, task, :kept].tolist() for name in ("step", "token", "old")), strict=True)
        assert sorted(told) == sorted(queues[i, task])
        assert (store["token"][i, task, kept:] == EMPTY).all()


def test_only_what_was_written_afresh_is_stored(world):
    learner, k = updated(world, {}, 10, tuple(range(8)))
    fresh, mixed, _ = batches(world, learner, k)
    twin, before = learner.copy(), learner.memory["store"]["count"]
    ALGO.gather(world, twin, k)
    right = (world.graph.reward[fresh.node] > 0).sum(-1)
    assert mixed.info["injected"].sum() > 0
    assert torch.equal(twin.memory["store"]["count"] - before, torch.zeros_like(before).scatter_add(1, fresh.problem, right))


def test_what_is_drawn_from_the_store_is_one_of_its_successes_and_its_age_is_told(world):
    learner, k = updated(world, {}, 10, tuple(range(8)))
    store, batch = learner.memory["store"], ALGO.gather(world, learner.copy(), k)
    injected = (batch.extra["age"] >= 0).nonzero().tolist()
    assert injected
    for i, p in injected:
        task, age = int(batch.problem[i, p]), int(batch.extra["age"][i, p])
        held = min(int(store["count"][i, task]), 8)
        kept = zip(store["token"][i, task, :held].tolist(), store["step"][i, task, :held].tolist(), strict=True)
        assert (batch.token[i, p, 0].tolist(), learner.step - age) in list(kept)


@pytest.mark.parametrize("recall", [0, 1])
def test_old_log_probabilities_are_those_of_now_or_those_of_the_writer(world, recall):
    learner, k = updated(world, {"recall": (recall,)}, 10, tuple(range(8)))
    batch = ALGO.gather(world, learner.copy(), k)
    i, p = (batch.extra["age"] >= 0).nonzero(as_tuple=True)
    now = batch.pick(read(world, learner, batch))[i, p, 0] * batch.mask[i, p, 0]
    assert len(i) and torch.equal(batch.old[i, p, 0], now) == (recall == 0)
    if recall:
        stored = learner.memory["store"]["old"][i, batch.problem[i, p]]  # (n, places, T)
        assert (stored == batch.old[i, p, 0][:, None]).all(-1).any(-1).all()


def test_selection_keeps_what_was_done_at_least_once_in_16_tries_and_pays_for_them(world):
    lanes = Lanes(tuple(range(40)), {"select": (0, 1)})
    learner = begun(world, lanes)
    known, chance = learner.memory["doable"], exact(world, learner)["success"][:, world.pool]
    assert known[:40].all() and not known[40:][chance[40:] == 0].any()
    expected = 1 - (1 - chance[40:]) ** 16
    assert abs((known[40:].double() - expected).mean().item()) < 3 * sqrt((expected * (1 - expected)).sum().item()) / expected.numel()
    assert learner.memory["rollouts"].tolist() == [0] * 40 + [16 * len(world.pool)] * 40


def test_where_nothing_can_be_done_all_tasks_stay():
    hopeless, lanes = Form((5,), tasks=0, held=0, impossible=3), Lanes((0, 1))
    learner = ALGO.begin(hopeless, lanes, 0)
    assert doable(ALGO, hopeless, learner, lanes.knobs(ALGO.knobs)).all()


def test_tasks_are_drawn_alike_from_those_that_are_doable(world):
    lanes = Lanes(tuple(range(50)), {"select": (0, 1)})
    learner = begun(world, lanes)
    known, twin = learner.memory["doable"], learner.copy()
    drawn = torch.cat([selected(ALGO, world, learner, lanes.knobs(ALGO.knobs)) for _ in range(20)], 1)
    place = torch.full((len(world.start),), -1).scatter(0, world.pool, torch.arange(len(world.pool)))[drawn]
    assert (place >= 0).all() and known.gather(1, place).all()
    assert torch.equal(uniform(ALGO, world, twin, None)[:50], drawn[:50, : SHAPE.prompts])
    counts, share = torch.stack([(place == i).sum(1) for i in range(len(world.pool))], 1), 120 / known.sum(1, keepdim=True)
    off = ((counts - share * known) / share.sqrt()).abs()
    assert off.max() < 5  # standard deviations


def test_a_lane_of_web_forms_is_the_same_alone_and_beside_others(world):
    alone, among = (next(islice(ALGO.run(world, Lanes(seeds)), 4, None)) for seeds in ((7,), (1, 2, 7)))
    assert_same(lane(alone, 0), lane(among, 2))
