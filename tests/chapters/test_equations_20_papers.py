"""The equations of chapter 20's papers beside the code: who is kept, what a prompt is worth, which group is damped, who gets responses."""
from math import log2

import pytest
import torch

from labkit.course.progress import module
from labkit.files import ROOT
from labkit.grpo.adora import adora, length_pays
from labkit.grpo.copo import blended, copo
from labkit.grpo.d3s import d3s, widest
from labkit.grpo.family import clipped, grpo
from labkit.grpo.v0 import allotment, mixed_chance
from labkit.lanes import Lanes
from labkit.worlds.tokens.chain import Chain
from labkit.worlds.tokens.modes import Modes
from tests.methods import small

EXERCISES = module(ROOT / "course" / "exercises" / "20.py")
LANES = Lanes((3, 4))


def drawn(method, world):
    """The first batch of a method, and its knobs."""
    method = small(method, prompts=6, group=6)
    k = LANES.knobs(method.knobs)
    return method.gather(world, method.begin(world, LANES, 0.2), k), k


@pytest.fixture(scope="module")
def chains():
    return Chain(levels=(1, 2), problems=8, held=0)


def test_the_exercise_chooses_responses_as_widely_as_the_code():
    x = torch.randn(6, 9, generator=torch.Generator().manual_seed(5))
    for m in (2, 5, 8):
        mine = torch.stack([EXERCISES.widest_of_solution(row, m) for row in x])
        assert torch.equal(mine, widest(x, torch.full((6, 1), m / 9)))


def test_a_token_scores_its_advantage_times_entropy(chains):
    batch, k = drawn(d3s, chains)
    kept, score = batch.extra["kept"], batch.adv.abs() * batch.extra["entropy"]
    among = batch.mask & widest(batch.adv.flatten(1), k.samples).view(batch.adv.shape)
    for i in range(2):
        assert kept[i].any() and score[i][kept[i]].min() >= score[i][among[i] & ~kept[i]].max()


def test_a_prompts_worth_its_weight_and_the_blend_of_both_losses(chains):
    batch, k = drawn(copo, chains)
    for lane in range(2):
        worth = EXERCISES.prompt_reward_solution(batch.extra["answer"][lane], batch.reward[lane])
        torch.testing.assert_close(batch.extra["among prompts"][lane, :, 0, 0].double(), (worth - worth.mean()) / (worth.std() + 1e-6))
        for p, answers in enumerate(batch.extra["answer"][lane].tolist()):
            shares = [answers.count(a) / 6 for a in set(answers)]
            weight = 0.0 if batch.dead[lane, p] else 1 / (1 + 2.718281828 ** (0.5 + sum(s * log2(s) for s in shares)))
            assert float(batch.extra["weight"][lane, p]) == pytest.approx(weight, abs=1e-6)
    ratio, w = torch.linspace(0.5, 1.5, batch.mask.numel()).view(batch.mask.shape), batch.extra["weight"]
    both = blended(ratio, batch, k)
    own = clipped(ratio, batch, k)
    batch.adv = batch.extra["among prompts"]
    torch.testing.assert_close(both, w * own + (1 - w) * clipped(ratio, batch, k))


def test_a_group_is_damped_unless_its_longest_right_response_is_longer_than_wrong_ones_are():
    world = Modes(levels=(1, 3), problems=8, held=0)
    (batch, _), (plain, _) = drawn(adora, world), drawn(grpo, world)
    pays = length_pays(batch)
    for lane, p in torch.cartesian_prod(torch.arange(2), torch.arange(6)).tolist():
        told = list(zip(batch.length[lane, p].tolist(), batch.reward[lane, p].tolist(), strict=True))
        right, wrong = ([length for length, mark in told if mark == side] for side in (1, 0))
        assert bool(pays[lane, p]) == (bool(right) and (not wrong or max(right) > sum(wrong) / len(wrong)))
        torch.testing.assert_close(batch.adv[lane, p], plain.adv[lane, p] * (1.0 if pays[lane, p] else 0.1))
    assert pays.any() and not pays.all()


def test_one_more_response_adds_what_the_text_says_and_greed_is_the_allotment():
    p, n = torch.linspace(0, 1, 11, dtype=torch.float64), torch.arange(2, 9)[:, None]
    gain = p**n * (1 - p) + (1 - p) ** n * p
    torch.testing.assert_close(mixed_chance(p, n + 1) - mixed_chance(p, n), gain)
    assert (gain.diff(dim=0) <= 0).all()
    for chances in ([0.5, 0.3, 0.21, 0.13], [0.9, 0.61, 0.02, 0.33]):
        given = allotment(torch.tensor([chances], dtype=torch.float64), torch.tensor([[17]]), 12)[0].tolist()
        assert given == EXERCISES.allot_solution(chances, 17)
