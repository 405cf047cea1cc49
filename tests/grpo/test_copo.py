"""copo: answers that differ, the comparison among prompts, how both are blended, dead groups, its limits, and the check."""
from dataclasses import replace
from math import log2

import pytest
import torch

from labkit.grpo import copo as module
from labkit.grpo.copo import among_prompts, blended, check, copo, disagreement, extremes
from labkit.grpo.family import clipped, free, grpo, read
from labkit.lanes import Lanes
from labkit.worlds.tokens.chain import Chain
from tests.methods import small

SMALL = small(copo, prompts=6, group=4)


@pytest.fixture(scope="module")
def world():
    return Chain(levels=(1, 3), problems=8, held=0)


@pytest.fixture
def batch(world):
    """A batch of two lanes whose answers and rewards are those of `told`."""
    lanes = Lanes((0, 1))
    return SMALL.gather(world, SMALL.begin(world, lanes, 0.2), lanes.knobs(SMALL.knobs))


def told(batch, answers, rewards):
    batch.extra["answer"] = torch.tensor(answers).expand_as(batch.node)
    batch.reward = torch.tensor(rewards, dtype=torch.float32).expand_as(batch.reward)
    return batch


ANSWERS = [[1, 2, 3, 4], [5, 5, 5, 5], [0, 0, 7, 7], [2, 2, 2, -1], [6, 6, 6, 6], [3, 3, 3, 9]]
REWARDS = [[0, 0, 0, 1], [1, 1, 1, 1], [1, 1, 0, 0], [1, 1, 1, 0], [0, 0, 0, 0], [0, 0, 0, 0]]
QUARTER = -0.75 * log2(0.75) - 0.25 * log2(0.25)


def test_disagreement_is_the_entropy_of_the_answers_in_bits(batch):
    bits = disagreement(told(batch, ANSWERS, REWARDS))
    torch.testing.assert_close(bits, torch.tensor([2.0, 0.0, 1.0, QUARTER, 0.0, QUARTER]).expand(2, 6))
    batch.real[:, 0, 2:] = False
    assert disagreement(batch)[:, 0].tolist() == [1.0, 1.0]


def test_all_different_answers_keep_a_gth_of_the_reward_and_one_answer_all_of_it(batch):
    told(batch, ANSWERS, [[1, 1, 1, 1]] * 6)
    lam = 0.75 / 2
    kept = torch.tensor([1 / 4, 1.0, 1 - lam, 1 - lam * QUARTER, 1.0, 1 - lam * QUARTER])
    torch.testing.assert_close(1 - lam * disagreement(batch)[0], kept)
    torch.testing.assert_close(among_prompts(batch, disagreement(batch))[0], (kept - kept.mean()) / (kept.std() + 1e-6))


def test_the_comparison_among_prompts_is_mean_reward_times_consistency_standardised(batch):
    told(batch, ANSWERS, REWARDS)
    reward = torch.tensor([0.25 * 0.25, 1.0, 0.5 * (1 - 0.375), 0.75 * (1 - 0.375 * QUARTER), 0.0, 0.0])
    mine = among_prompts(batch, disagreement(batch))
    torch.testing.assert_close(mine[1], (reward - reward.mean()) / (reward.std() + 1e-6))
    assert mine.sum(1).abs().max() < 1e-5


def test_one_response_or_one_prompt_is_compared_with_nothing(world):
    for prompts, group in ((1, 4), (3, 1)):
        method, lanes = small(copo, prompts=prompts, group=group), Lanes((0, 1))
        batch = method.gather(world, method.begin(world, lanes, 0.2), lanes.knobs(method.knobs))
        others = batch.extra["among prompts"]
        assert others.isfinite().all() and (batch.extra["weight"] == 0).all() == (group == 1)
        assert (others == 0).all() or group == 1


def test_the_weight_is_a_sigmoid_of_the_disagreement_and_nothing_where_the_group_is_dead(batch):
    k = Lanes((0, 1), {"b": (0.5,), "k": (3.0,)}).knobs(copo.knobs)
    copo.advantage(told(batch, ANSWERS, REWARDS), k)
    live = torch.tensor([1.0, 0.0, 1.0, 1.0, 0.0, 0.0])
    bits = torch.tensor([2.0, 0.0, 1.0, QUARTER, 0.0, QUARTER])
    torch.testing.assert_close(batch.extra["weight"][0, :, 0, 0], torch.sigmoid(3 * (bits - 0.5)) * live)
    torch.testing.assert_close(batch.info["weight"], batch.extra["weight"].mean((1, 2, 3)))
    at_b = told(batch, [[0, 0, 1, 1]] * 6, [[1, 0, 0, 0]] * 6)
    copo.advantage(at_b, Lanes((0, 1), {"b": (1.0,)}).knobs(copo.knobs))
    assert (batch.extra["weight"] == 0.5).all()


def test_weight_1_is_grpo_and_a_dead_group_learns_from_the_others_alone(world, batch):
    k = Lanes((0, 1)).knobs(copo.knobs)
    batch.adv = copo.advantage(batch, k)
    ratio = 1 + 0.5 * (torch.rand(batch.mask.shape, generator=torch.Generator().manual_seed(0)) - 0.5)
    batch.extra["weight"] = torch.ones_like(batch.extra["weight"])
    assert torch.equal(blended(ratio, batch, k), clipped(ratio, batch, k))
    batch.adv = copo.advantage(batch, k)
    others, gone = batch.extra["among prompts"].expand_as(ratio), batch.dead
    assert gone.any() and not gone.all()
    want = torch.minimum(ratio * others, ratio.clamp(0.8, 1.2) * others)
    torch.testing.assert_close(blended(ratio, batch, k)[gone], want[gone])
    w = batch.extra["weight"]
    torch.testing.assert_close(blended(ratio, batch, k), w * clipped(ratio, batch, k) + (1 - w) * want)


def test_where_all_groups_agree_grpo_stands_still_and_copo_moves(world):
    lanes = Lanes((0, 1))
    for method, moves in ((copo, True), (grpo, False)):
        method = replace(small(method, prompts=6, group=4), penalty=free)
        learner, k = method.begin(world, lanes, 0.2), lanes.knobs(method.knobs)
        batch = method.gather(world, learner, k)
        batch.reward = (batch.problem % 2 == 0)[..., None].float().expand_as(batch.reward)
        batch.adv = method.advantage(batch, k)
        grad = learner.gradient("pi", method.loss(read(world, learner, batch), batch, k))
        assert batch.dead.all() and (grad != 0).any() == moves


def test_answers_are_told_by_the_world(world, batch):
    assert torch.equal(batch.extra["answer"], world.graph.answer[batch.node]) and batch.extra["answer"].unique().numel() > 3
    assert torch.equal(batch.reward, world.graph.reward[batch.node])


def test_extreme_problems_are_a_share_of_all():
    for share, counts in ((0.8, [2, 8]), (0.1, [9, 1])):
        world = extremes(share, 10)
        assert [int((world.level[world.pool] == level).sum()) for level in (1, 6)] == counts


def test_the_check_asks_for_a_gain_where_groups_agree_and_for_none_elsewhere(monkeypatch):
    def curves(method, world, lanes, updates):
        hard = (world.level == 6).float().mean() > 0.5
        success = torch.full((3, 1, len(lanes.seeds)), 0.3) + 0.1 * (hard and method is copo)
        return {"return": success, "dead": torch.full_like(success, 0.9 if hard else 0.2)}

    monkeypatch.setattr(module, "curves", curves)
    monkeypatch.setattr(module, "extremes", lambda share: extremes(share, 10))
    verdict = check(range(10), 30)
    assert [round(part.value, 3) for part in verdict.parts] == [0.9, 0.1, 0.0, 0.0] and verdict.held == "held"
