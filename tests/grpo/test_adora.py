"""adora: in which groups length pays, what is damped, its limits, and the check."""
from dataclasses import replace
from itertools import islice

import pytest
import torch

from labkit.grpo import adora as module
from labkit.grpo.adora import adora, along, check, length_pays, mixture
from labkit.grpo.family import grpo, standardised
from labkit.lanes import Lanes
from labkit.worlds.tokens.chain import Chain
from labkit.worlds.tokens.modes import Modes
from labkit.worlds.tokens.world import EMPTY
from tests.methods import lane, small

SMALL = small(adora, prompts=6, group=4)


@pytest.fixture(scope="module")
def world():
    return Modes(levels=(1, 3), problems=8, held=1)


def drawn(world, grid=None):
    lanes = Lanes((0, 1), grid or {})
    k = lanes.knobs(SMALL.knobs)
    return SMALL.gather(world, SMALL.begin(world, lanes, 0.2), k), k


def told(lengths, rewards, answers=None):
    """A batch of one lane with these lengths (P, G), rewards and answers; there is room for 5 tokens."""
    batch, _ = drawn(Chain(levels=(5,), problems=6, held=0))
    shape = (1, len(lengths), len(lengths[0]))
    batch.token = torch.where(torch.arange(5) < torch.tensor(lengths).view(*shape, 1), 0, EMPTY)
    batch.reward, batch.real = torch.tensor(rewards).view(shape), torch.ones(shape, dtype=torch.bool)
    batch.extra["answer"] = torch.tensor(answers).view(shape) if answers else torch.zeros(shape, dtype=torch.int64)
    return batch


def test_length_pays_where_the_longest_right_response_is_longer_than_wrong_ones_on_average():
    lengths = [[4, 1, 3, 4], [3, 1, 3, 3], [2, 2, 5, 1], [1, 1, 1, 1], [2, 3, 4, 5]]
    rewards = [[1.0, 1.0, 0.0, 0.0], [1.0, 1.0, 0.0, 0.0], [1.0, 0.0, 0.0, 0.0], [1.0, 1.0, 1.0, 1.0], [0.0, 0.0, 0.0, 0.0]]
    assert length_pays(told(lengths, rewards)).tolist() == [[True, False, False, True, False]]


def test_wrong_responses_that_were_cut_off_do_not_count():
    lengths, rewards = [[3, 5, 2, 1]] * 3 + [[3, 5, 5, 5]], [[1.0, 0.0, 0.0, 0.0]] * 4
    answers = [[2, 7, 7, 7], [2, EMPTY, 7, 7], [2, EMPTY, EMPTY, EMPTY], [2, EMPTY, EMPTY, EMPTY]]
    batch = told(lengths, rewards, answers)
    assert length_pays(batch).tolist() == [[True, True, True, True]]  # 3 against 8/3, 3/2, 3/2, none
    batch.extra["answer"][:, 3] = 7
    assert length_pays(batch).tolist() == [[True, True, True, False]]
    longer = told([[2, 5, 2, 2]] * 2, rewards[:2], answers[:2])
    assert length_pays(longer).tolist() == [[False, False]]  # 2 against 3, and against 2


def test_empty_places_count_for_neither_side():
    batch = told([[2, 4, 1, 4]] * 2, [[1.0, 1.0, 0.0, 0.0]] * 2)
    batch.real[:, 1, 1] = False
    assert length_pays(batch).tolist() == [[True, False]]
    batch.real[:, 1, 3] = False
    assert length_pays(batch).tolist() == [[True, True]]


def test_a_group_weighs_lam_or_1_and_still_sums_to_nothing(world):
    batch, k = drawn(world, {"lam": (0.25,)})
    plain, weight = standardised(batch, k), torch.where(length_pays(batch), 1.0, 0.25)[..., None, None]
    assert torch.equal(batch.adv, plain * weight) and {0.25, 1.0} == set(weight[plain.abs().amax(2, keepdim=True) > 0].tolist())
    assert batch.adv.sum(2).abs().max() < 1e-5
    torch.testing.assert_close(batch.info["damped"], (weight < 1).float().mean((1, 2, 3)))
    none = (batch.reward == 0).all(-1)
    assert none.any() and (batch.adv[none] == 0).all()


def test_undamped_it_is_grpo_bit_for_bit(world):
    plain, lanes = replace(grpo, shape=SMALL.shape), Lanes((0, 1), {"lam": (0.0, 1.0)})
    mine = list(islice(SMALL.run(world, lanes), 3))[-1]
    theirs = list(islice(plain.run(world, Lanes((0, 1))), 3))[-1]
    for i in range(2):
        assert all(torch.equal(lane(mine, 2 + i)[name], x) for name, x in lane(theirs, i).items() if not name.endswith("held out"))
    assert not torch.equal(mine.learner.nets["pi"].theta[:2], mine.learner.nets["pi"].theta[2:])


def test_a_mixture_has_the_told_share_of_hard_problems():
    for share, counts in ((0.8, [2, 2, 2, 8, 8, 8]), (0.0, [10, 10, 10, 0, 0, 0])):
        world = mixture(share, 30)
        assert [int((world.level[world.pool] == level).sum()) for level in range(1, 7)] == counts


def test_looks_are_averaged_over_the_run(world):
    success, length = along(world, Lanes((0, 1), {"lam": (0.0, 1.0)}), 20, world.level == 3)
    method = replace(adora, shape=replace(adora.shape, updates=10))
    looks = [module.exact(world, s.learner) for s in islice(method.run(world, Lanes((0,), {"lam": (0.0,)})), 2)]
    torch.testing.assert_close(length[0, 0], sum(look["length"][0, world.level == 3].mean() for look in looks) / 2)
    torch.testing.assert_close(success[0, 0], sum(look["success"][0, world.level == 3].mean() for look in looks) / 2)


def test_the_check_looks_at_hard_problems_where_there_are_any(monkeypatch):
    def told(world, lanes, updates, where):
        hard = bool((world.level[where] >= 4).all())
        assert (hard or not (world.level[where] >= 4).any()) and not (where & world.held_out).any()
        base = torch.zeros(2, len(lanes.seeds))
        base[0] = 0.1 if hard else -0.2
        return [base, 10 * base]

    monkeypatch.setattr(module, "along", told)
    monkeypatch.setattr(module, "mixture", lambda share: mixture(share, 30))
    verdict = check(range(10), 30)
    assert [round(part.value, 3) for part in verdict.parts] == [0.1, 1.0, -0.2] and verdict.held == "held"
