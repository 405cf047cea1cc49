"""A grid that is changed by events: what they are in words, what holds at each step, and that nothing later shows earlier."""
import itertools

import pytest
import torch

from labkit.errors import LabError
from labkit.worlds.finite import optimal, optimal_gain
from labkit.worlds.steered import PERIOD, STAGE, STAGES, WEAR, Event, read_events, stages, steered, write_events

STORY = "jump@150,drift@400,recur@1250,jump@2900,respond@3000,drift@3100,still@3333"
LIFE = 3600


def model(world, step, seeds=1):
    return world.at(torch.full((seeds,), step))


def same(one, other):
    return one.P.equal(other.P) and one.r.equal(other.r)


# ---- words -------------------------------------------------------------------------------------------------------


def test_events_can_be_written_and_read():
    events = (Event("jump", 2000), Event("drift", 5000))
    assert write_events(events) == "jump@2000,drift@5000" and read_events("drift@5000 jump@2000") == events
    assert read_events("") == () and write_events(()) == ""


@pytest.mark.parametrize("text", ["leap@3", "jump", "jump@", "jump@-3", "jump@3.5", "jump@x", "@3", "jump@²"])
def test_what_is_no_event_is_told(text):
    with pytest.raises(LabError, match=r"The event '.*' cannot be read; write it like 'jump@2000', the kind one of jump, drift"):
        read_events(f"still@0,{text}")


@pytest.mark.parametrize(
    "options, message",
    [
        ({"events": ",".join(["jump@3"] * 61)}, "61 events; a world takes 60"),
        ({"rows": 1}, "rows is 1; it must be at least 2"),
        ({"life": 0}, "life is 0; it must be at least 1"),
        ({"slip": 2.0}, "slip is 2.0; it is a chance"),
    ],
)
def test_bad_options_are_told(options, message):
    with pytest.raises(LabError, match=message):
        steered(**options)


# ---- the story ---------------------------------------------------------------------------------------------------


def held(text, life=10_000):
    return [(s.step, s.shares, s.answers) for s in stages(read_events(text), life)]


def test_a_jump_brings_another_scene_and_still_keeps_it():
    assert held("jump@5,jump@5,still@9") == [
        (0, (1.0,), False), (5, (0.0, 1.0), False), (5, (0.0, 0.0, 1.0), False), (9, (0.0, 0.0, 1.0), False),
    ]  # fmt: skip


def test_a_drift_takes_its_stages_and_stops_where_the_next_event_finds_it():
    whole = held("drift@100")[1:]
    assert len(whole) == STAGES and whole[-1] == (100 + STAGE * (STAGES - 1), (0.0, 1.0), False)
    assert [step for step, *_ in whole] == [100 + STAGE * n for n in range(STAGES)]
    assert [shares[-1] for _, shares, _ in whole] == [(n + 1) / STAGES for n in range(STAGES)]
    cut = held(f"drift@100,still@{100 + STAGE + 1}")[1:]
    assert cut[:2] == whole[:2] and cut[2] == (100 + STAGE + 1, whole[1][1], False)


def test_what_recurs_takes_turns():
    assert held("recur@10", life=10 + 3 * PERIOD)[1:] == [
        (10, (0.0, 1.0), False), (10 + PERIOD, (1.0,), False), (10 + 2 * PERIOD, (0.0, 1.0), False),
    ]  # fmt: skip


# ---- the world ---------------------------------------------------------------------------------------------------


def test_scenes_are_grids_with_a_goal_that_pays_one_and_leads_anywhere():
    mdp = model(steered("jump@1", slip=0.2), 0)
    goal = mdp.r[0].amax(-1).argmax()
    assert mdp.r.sum() == 4 and mdp.r[0, goal].eq(1).all() and torch.allclose(mdp.P[0, goal], torch.tensor(1 / 12).double())
    assert torch.allclose(mdp.P.sum(-1), torch.tensor(1.0).double())
    corner = mdp.P[0, 0] if goal else mdp.P[0, 11]
    near = {0, 1, 4} if goal else {11, 10, 7}
    ways = {tuple(sorted((int(s), round(p.item(), 6)) for s, p in enumerate(row) if p)) for row in corner}
    assert {s for way in ways for s, _ in way} == near and len(ways) == 4, "four ways, two of them against a wall"


def test_each_scene_has_another_goal_and_other_ways():
    world = steered(",".join(f"jump@{n}" for n in range(1, 6)), seed=3)
    models = [model(world, n) for n in range(6)]
    goals = {int(mdp.r[0].amax(-1).argmax()) for mdp in models}
    assert len(goals) == 6
    assert all(not one.P.equal(other.P) for one, other in itertools.pairwise(models))


def test_what_holds_at_a_step_is_decided_by_the_events_up_to_it():
    events, steps = read_events(STORY), range(0, LIFE, 10)
    whole = steered(STORY, life=LIFE, seed=[4, 7])
    for n in range(len(events)):
        part = steered(write_events(events[:n]), life=LIFE, seed=[4, 7])
        for step in (s for s in steps if s < events[n].step):
            assert same(model(whole, step, 2), model(part, step, 2)), f"{events[n]} shows at step {step}"
    longer = steered(STORY, life=2 * LIFE, seed=[4, 7])
    assert all(same(model(whole, step, 2), model(longer, step, 2)) for step in steps), "nor does it matter how long it lives"


def test_a_drift_is_a_mixture_and_what_recurs_is_the_same_to_the_bit():
    world = steered(f"drift@0,still@{STAGE * STAGES},recur@{STAGE * STAGES}", life=STAGE * STAGES + 3 * PERIOD)
    old, half, new = (model(world, s) for s in (0, STAGE * (STAGES // 2 - 1), STAGE * (STAGES - 1)))
    first = model(steered(), 0)
    share = 1 / STAGES
    assert torch.allclose(old.P, (1 - share) * first.P + share * new.P) and torch.allclose(half.P, (first.P + new.P) / 2)
    assert torch.allclose(half.r, (first.r + new.r) / 2)
    again = [model(world, STAGE * STAGES + n * PERIOD) for n in range(3)]
    assert same(again[0], again[2]) and same(again[1], new) and not same(again[0], new)


def test_every_stage_has_its_exact_optimum():
    world = steered(STORY, life=LIFE, seed=[0, 1])
    for step in (0, 200, 700, 1300, 2950, 3200):
        mdp = model(world, step, 2)
        assert torch.allclose(mdp.best.v, optimal(mdp)[1]) and torch.allclose(mdp.best_gain, optimal_gain(mdp)[0].amax(-1))


def test_a_seed_beside_others_is_the_seed_alone():
    beside, alone = steered(STORY, life=LIFE, seed=[0, 5, 9]), steered(STORY, life=LIFE, seed=5)
    pi = torch.rand(3, 12, 4, generator=torch.Generator().manual_seed(0)).double().softmax(-1)
    for step in (0, 200, 700, 3050):
        one, other = beside.facing(torch.full((3,), step), pi), alone.facing(torch.tensor([step]), pi[1:2])
        assert one.P[1].equal(other.P[0]) and one.r[1].equal(other.r[0]) and one.best_gain[1].equal(other.best_gain[0])


def test_where_it_answers_what_is_done_surely_goes_astray():
    world = steered("respond@10", life=20)
    pi = torch.tensor([1.0, 0, 0, 0]).double().expand(1, 12, 4).contiguous()
    base = model(world, 10)
    assert world.facing(torch.tensor([9]), pi) is world.at(torch.tensor([9])), "before, it does not mind"
    faced = world.facing(torch.tensor([10]), pi)
    assert faced.P[:, :, 1:].equal(base.P[:, :, 1:]), "what is never done is as it was"
    assert torch.allclose(faced.P[:, :, 0], (1 - WEAR) * base.P[:, :, 0] + WEAR * base.P.mean(2))
    evenly = world.facing(torch.tensor([11]), torch.full((1, 12, 4), 0.25).double())
    assert torch.allclose(evenly.P, (1 - WEAR / 4) * base.P + WEAR / 4 * base.P.mean(2, keepdim=True)), "a new policy, a new answer"


def test_its_samples_follow_its_model():
    world = steered("jump@3", life=10, slip=0.3)
    n = 20_000
    u = torch.arange(n).add(0.5).div(n).view(1, n, 1)
    for t in (0, 3):
        state = {"s": torch.full((1, n), 5), "t": torch.full((1, n), t)}
        after, reward, _, _ = world.step(state, torch.ones(1, n, dtype=torch.int64), u)
        share = torch.bincount(after["s"][0], minlength=12) / n
        mdp = model(world, t)
        assert torch.allclose(share.double(), mdp.P[0, 5, 1], atol=1e-3) and torch.allclose(reward.mean(), mdp.r[0, 5, 1].float())
