"""avatar: weights along a response, what is remembered of prompts and groups, and advantages against a prompt's past."""
import itertools
from types import SimpleNamespace

import torch
from torch.testing import assert_close

from labkit import worlds
from labkit.grpo.avatar import (
    BATCHES,
    SMALLEST,
    VISITS,
    against_the_past,
    avatar,
    drawn,
    mean_marks,
    places,
    shaped,
    store,
    tiers,
    towards_the_ends,
    visit,
)
from labkit.grpo.family import grpo, sampled, standardised
from labkit.lanes import Lanes
from tests.grpo.by_hand import batch_of, of_lengths
from tests.methods import small

METHOD = small(avatar)


def knobs(**given):
    return SimpleNamespace(**{name: torch.tensor([[value]], dtype=torch.float64) for name, value in given.items()})


def memory(prompts, lanes=1):
    zeros = {"marks": torch.zeros(lanes, prompts, VISITS), "visits": torch.zeros(lanes, prompts, dtype=torch.int64)}
    return zeros | {"stored": torch.zeros(lanes, 3, dtype=torch.int64)}


# weights


def test_weights_are_1_in_the_middle_more_at_both_ends_and_alike_from_either_side():
    batch = of_lengths([[5, 4, 1]])
    told = towards_the_ends(batch, knobs(ends=2.0))[0, 0]
    assert_close(told[0], torch.tensor([3.0, 1.5, 1.0, 1.5, 3.0], dtype=torch.float64))
    assert_close(told[1, :4], told[1, :4].flip(0))
    assert told[1, 0] == told[2, 0] == 3.0
    assert bool((towards_the_ends(batch, knobs(ends=0.0)) == 1).all()) and towards_the_ends(batch, knobs(ends=-0.9))[0, 0, 0, 0] > 0


def test_without_replay_and_weights_it_is_grpo_bit_for_bit():
    world, lanes = worlds.make("tokens.plan"), Lanes((0, 1), {"replay": (0.0,), "ends": (0.0,)})
    mine, theirs = METHOD.begin(world, lanes, 0.2), small(grpo).begin(world, lanes, 0.2)
    k, base = lanes.knobs(avatar.knobs), Lanes((0, 1)).knobs(grpo.knobs)
    batch, plain = METHOD.gather(world, mine, k), small(grpo).gather(world, theirs, base)
    assert torch.equal(batch.token, plain.token) and torch.equal(batch.old, plain.old)
    METHOD.learn(world, mine, batch, k), small(grpo).learn(world, theirs, plain, base)
    assert torch.equal(mine.nets["pi"].theta, theirs.nets["pi"].theta) and bool(batch.adv.any())


# what is remembered of prompts


def test_usual_rewards_are_means_of_the_last_visits_newest_first():
    kept = memory(3)
    for right in (1.0, 0.0, 0.5):
        visit(kept, torch.tensor([[0]]), torch.tensor([[[right, right]]]))
    assert mean_marks(kept, knobs(window=2.0))[0].tolist() == [0.25, 0, 0]
    assert mean_marks(kept, knobs(window=16.0))[0].tolist() == [0.5, 0, 0]
    assert kept["visits"].tolist() == [[3, 0, 0]]


def test_a_prompt_that_is_drawn_twice_is_visited_once():
    kept = memory(2)
    visit(kept, torch.tensor([[1, 1]]), torch.tensor([[[1.0, 1.0], [0.0, 1.0]]]))
    assert kept["visits"].tolist() == [[0, 1]] and mean_marks(kept, knobs(window=4.0))[0, 1] == 0.75


def test_tiers_are_told_by_the_quantiles_of_visited_prompts():
    kept = memory(12)
    rewards = torch.arange(10) / 10  # of ten prompts; quantiles 0.4 and 0.75 of 0 .. 0.9 stand at numbers 4 and 7
    visit(kept, torch.arange(10)[None], rewards[None, :, None].float())
    assert tiers(kept, torch.arange(10)[None], knobs(window=4.0))[0].tolist() == [0] * 5 + [1] * 3 + [2] * 2


# the store


def test_each_tier_has_its_share_and_the_oldest_gives_way():
    size, first = places(10, torch.device("cpu"))
    assert size.tolist() == [32, 28, 20] and first.tolist() == [0, 32, 60] and int(size.sum()) == BATCHES * 10
    kept, batch = memory(10), of_lengths([[1]] * 10)
    kept |= {name: torch.full((1, 80, *getattr(batch, name).shape[2:]), -7) for name in ("problem", "token", "passed", "node")}
    kept["old"] = torch.full((1, 80, 1, 1), -7.0, dtype=torch.float64)
    tier = torch.tensor([[0, 2, 0, 1, 2, 2, 0, 0, 0, 0]])
    for number in range(6):
        batch.problem = torch.arange(10)[None] + 100 * number
        store(kept, batch, tier)
    assert kept["stored"].tolist() == [[36, 6, 18]]
    assert kept["problem"][0, :4].tolist() == [506, 507, 508, 509]  # 32 places, 36 groups: the last four came round again
    assert kept["problem"][0, 4:6].tolist() == [8, 9] and kept["problem"][0, 32:38].tolist() == [3, 103, 203, 303, 403, 503]
    assert bool((kept["problem"][0, 38:60] == -7).all()) and bool((kept["problem"][0, 78:] == -7).all())


def test_old_groups_come_from_filled_places_of_their_tiers():
    kept, u = memory(4), torch.linspace(0, 0.999, 10)[None]
    kept["stored"] = torch.tensor([[3, 0, 50]])
    again, which = drawn(kept, u, knobs(replay=0.8))
    assert again[0].tolist() == [True] * 3 + [False] * 3 + [True] * 2 + [False] * 2  # of 8: 3 hard, 3 medium (there is none), 2 easy
    assert bool((which[0, :3] < 3).all()) and bool(((which[0, 6:8] >= 60) & (which[0, 6:8] < 80)).all())
    assert not drawn(kept, u, knobs(replay=0.0))[0].any()


def test_a_replayed_group_was_written_before_and_keeps_its_old_probabilities():
    world, lanes = worlds.make("tokens.plan"), Lanes((0, 1))
    learner, k, seen = METHOD.begin(world, lanes, 0.2), lanes.knobs(avatar.knobs), []
    names, replayed = ("problem", "token", "node", "old"), 0
    for _ in range(4):
        copy = learner.copy()
        fresh = sampled(METHOD, world, copy, METHOD.tasks(METHOD, world, copy, k), k)
        batch = METHOD.gather(world, learner, k)
        for lane, place in itertools.product(range(2), range(4)):
            group = [getattr(batch, name)[lane, place] for name in names]
            again = bool(batch.extra["again"][lane, place])
            own = [[getattr(fresh, name)[lane, place] for name in names]]
            among = [[x[lane, p] for x in old] for old in seen for p in range(4)] if again else own
            assert any(all(torch.equal(x, y) for x, y in zip(group, other, strict=True)) for other in among)
            replayed += again
            stored = learner.memory["past groups"]
            assert any(torch.equal(stored["old"][lane, at], fresh.old[lane, place]) for at in range(stored["old"].shape[1]))
        seen.append([getattr(fresh, name) for name in names])
        all_drawn = torch.stack([old[0] for old in seen], -1).flatten(1)
        assert [set(row.nonzero()[:, 0].tolist()) for row in stored["visits"]] == [set(row.tolist()) for row in all_drawn]
        METHOD.learn(world, learner, batch, k)
    assert replayed


# advantages


def mixed_batch():
    """Two fresh groups and two old ones; the last agrees."""
    batch = batch_of(torch.zeros(1, 4, 2, 3, dtype=torch.int64))
    batch.reward = torch.tensor([[[1.0, 0.0], [1.0, 1.0], [1.0, 0.0], [1.0, 1.0]]], dtype=torch.float64)
    batch.extra = {"again": torch.tensor([[False, False, True, True]])}
    batch.extra["usual"] = torch.tensor([[0.9, 0.9, 0.5, 0.25]], dtype=torch.float64)
    return batch


def test_old_groups_are_held_against_their_prompts_past_and_fresh_ones_against_themselves():
    batch = mixed_batch()
    told = against_the_past(batch, knobs(weight=0.5))[0, ..., 0]
    assert torch.equal(told[:2], standardised(batch, None)[0, :2, :, 0])
    spread = batch.reward[0, 2:].std() + SMALLEST
    assert_close(told[2:], 0.5 * torch.tensor([[0.5, -0.5], [0.75, 0.75]], dtype=torch.float64) / spread)
    assert batch.info["silent"].tolist() == [0.25]  # of four groups only the second, which is fresh and agrees


def test_what_is_usual_has_no_advantage():
    batch = mixed_batch()
    batch.extra["usual"][0, 3] = 1.0
    assert not against_the_past(batch, knobs(weight=1.0))[0, 3].any() and batch.info["silent"].tolist() == [0.5]


def test_advantages_are_weighted_towards_the_ends():
    batch, k = mixed_batch(), knobs(weight=1.0, ends=1.0)
    told = shaped(batch, k)
    assert_close(told, against_the_past(batch, k) * torch.tensor([2.0, 1.0, 2.0], dtype=torch.float64))
