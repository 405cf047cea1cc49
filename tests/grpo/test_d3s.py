"""d3s: who is chosen, against all subsets; what is kept, how the shares relax, its limit, lots of the same size, and the check."""
from dataclasses import replace
from itertools import combinations, islice

import pytest
import torch

from labkit.grpo import d3s as module
from labkit.grpo.d3s import at_random, best_of, check, d3s, kept_mean, progress, up_to, whole, widest, with_dice
from labkit.grpo.family import aged, grpo, read
from labkit.lanes import Lanes
from labkit.worlds.tokens.chain import Chain
from tests.methods import lane, small

SMALL = small(d3s, prompts=2, group=8)


@pytest.fixture(scope="module")
def world():
    return Chain(levels=(1, 2, 3), problems=6, held=2)


def drawn(world, grid=None, method=SMALL):
    """The first batch and its knobs."""
    lanes = Lanes((0, 1), grid or {})
    k = lanes.knobs(method.knobs)
    return method.gather(world, method.begin(world, lanes, 0.2), k), k


def test_the_widest_are_those_of_all_subsets_with_the_largest_variance():
    x = torch.cat([torch.randn(40, 8, generator=torch.Generator().manual_seed(0)), (torch.arange(64).view(8, 8) % 5 < 2) * 1.0])
    for m in range(1, 9):
        chosen = widest(x, torch.full((len(x), 1), m / 8))
        assert (chosen.sum(1) == m).all()
        best = torch.stack([x[:, list(s)].double().var(1, correction=0) for s in combinations(range(8), m)]).amax(0)
        found = torch.stack([row[c].double().var(correction=0) for row, c in zip(x, chosen, strict=True)])
        torch.testing.assert_close(found, best, rtol=0, atol=1e-12)


def test_a_share_is_rounded_up_and_a_rounding_error_is_not():
    n = torch.tensor(16)
    assert [int(whole(torch.tensor(s), n)) for s in (0.25, 0.26, 1.0, 0.07)] == [4, 5, 16, 2]
    assert [int(whole(torch.tensor(0.1 * i, dtype=torch.float32), torch.tensor(10))) for i in range(1, 11)] == list(range(1, 11))


def test_the_best_are_a_share_of_those_asked_for_and_the_first_of_equals():
    score = torch.tensor([[3.0, 9.0, 1.0, 2.0, 2.0], [0.0, 0.0, 0.0, 0.0, 5.0]])
    among = torch.tensor([[True, False, True, True, True], [True, True, True, True, True]])
    assert best_of(score, among, torch.tensor([[0.5], [0.6]])).int().tolist() == [[1, 0, 0, 1, 0], [1, 1, 0, 0, 1]]


def test_of_the_widest_responses_the_share_of_tokens_with_the_highest_scores_is_kept(world):
    batch, k = drawn(world, {"pooled": (1, 0), "samples": (0.25,), "tokens": (0.4,)})
    kept, adv = batch.extra["kept"], batch.adv[..., 0]
    pooled = widest(adv.flatten(1), k.samples).view_as(adv)[:2]
    alone = torch.stack([widest(adv[:, p], k.samples) for p in range(2)], 1)[2:]
    score = adv.abs()[..., None] * batch.extra["entropy"]
    for i, samples in enumerate((*pooled, *alone)):
        among = batch.mask[i] & samples[..., None]
        n = int(whole(torch.tensor(0.4), among.sum()))
        assert samples.sum() == 4 and not (kept[i] & ~among).any() and kept[i].sum() == n == batch.info["learnt from"][i]
        assert torch.equal(score[i][kept[i]].sort().values, score[i][among].sort().values[-n:])
    assert (alone.sum(-1) == 2).all() and (pooled.sum(-1) != 2).any()


def test_entropy_is_that_of_the_policy_that_wrote(world):
    lanes = Lanes((0,), {"lag": (2,)})
    k, learner = lanes.knobs(SMALL.knobs), SMALL.begin(world, lanes, 0.2)
    for _ in range(2):
        SMALL.learn(world, learner, SMALL.gather(world, learner, k), k)
    batch = SMALL.gather(world, learner, k)
    old, new = (batch.at(read(world, learner, batch, theta).entropy()) for theta in (aged(learner, k.lag), None))
    assert torch.equal(batch.extra["entropy"], old) and not torch.equal(old, new)


def test_the_shares_go_in_a_straight_line_to_everything_or_never_move(world):
    lanes = Lanes((0,), {"relax": (4, 0)})
    k, learner, shares = lanes.knobs(SMALL.knobs), SMALL.begin(world, lanes, 0.2), []
    for _ in range(6):
        batch = SMALL.gather(world, learner, k)
        shares.append(torch.cat([batch.extra["samples"], batch.extra["tokens"]], 1).tolist())
        SMALL.learn(world, learner, batch, k)
    assert shares == [[[s, s], [0.25, 0.25]] for s in (0.25, 0.4375, 0.625, 0.8125, 1.0, 1.0)]


def test_keeping_everything_is_grpo_bit_for_bit(world):
    every, plain = {"samples": (1.0,), "tokens": (1.0,), "pooled": (0, 1)}, replace(grpo, shape=SMALL.shape)
    mine = list(islice(SMALL.run(world, Lanes((0, 1), every)), 3))[-1]
    theirs = lane(list(islice(plain.run(world, Lanes((0, 1))), 3))[-1], 1)
    for i in (1, 3):
        assert all(torch.equal(lane(mine, i)[name], x) for name, x in theirs.items())


def test_the_mean_is_over_kept_tokens_then_over_responses_that_have_any(world):
    batch, k = drawn(world)
    batch.extra["kept"] = torch.zeros_like(batch.mask)
    batch.extra["kept"][:, 0, 0, :2] = batch.extra["kept"][:, 1, 3, 0] = True
    loss = torch.zeros(batch.mask.shape)
    loss[:, 0, 0], loss[:, 1, 3], loss[:, 1, 4] = torch.tensor([1.0, 3.0, 99.0]), 6.0, 99.0
    assert kept_mean(loss, batch, k).tolist() == [4.0, 4.0]


def test_a_lot_keeps_as_many_whoever_they_are(world):
    method = replace(SMALL, rollout=with_dice, advantage=at_random)
    grid = {"samples": (0.25,), "tokens": (0.5,)}
    (lot, k), (told, _) = drawn(world, grid, method), drawn(world, grid)
    kept = lot.extra["kept"]
    assert torch.equal(lot.token, told.token) and torch.equal(lot.adv, told.adv) and not torch.equal(kept, told.extra["kept"])
    for i in range(2):
        samples = best_of(lot.extra["dice"][..., :1], torch.ones_like(lot.adv, dtype=torch.bool), k.samples)[i]
        among = lot.mask[i] & samples
        assert samples.sum() == 4 and not (kept[i] & ~among).any() and kept[i].sum() == whole(torch.tensor(0.5), among.sum())


def test_progress_counts_the_tokens_learnt_from(world):
    tokens, success = progress(SMALL, world, Lanes((0, 1), {"relax": (0,)}), 10)
    everything, _ = progress(replace(grpo, shape=SMALL.shape), world, Lanes((0, 1)), 10)
    assert (tokens[0] == 0).all() and (tokens[1] < everything[1] / 8).all() and (everything[1] >= 10 * 16).all()
    assert success.shape == (2, 2) and not torch.equal(success[0], success[1])


def test_success_is_averaged_over_tokens():
    tokens, success = torch.tensor([[0.0, 0.0], [10.0, 20.0], [30.0, 40.0]]), torch.tensor([[0.0, 0.0], [1.0, 1.0], [1.0, 1.0]])
    torch.testing.assert_close(up_to(torch.tensor([20.0, 10.0]), tokens, success), torch.tensor([0.75, 0.25]), rtol=0, atol=0.01)


def test_the_check_sets_the_right_arms_against_each_other(monkeypatch):
    """With success 0.5 where it is chosen, 0.4 where for ever, 0.3 by lot, 0.2 for grpo."""

    def told(method, world, lanes, updates):
        level = {"informative": (0.5, 0.4), "at_random": (0.3,), "standardised": (0.2,)}[method.advantage.__name__]
        assert method.shape == d3s.shape and (lanes.grid == {"relax": (200, 0)}) == (len(level) == 2)
        rows = torch.tensor(level).repeat_interleave(len(lanes.seeds)) + torch.tensor([[0.0], [0.0]])
        return torch.tensor([[0.0], [len(level) * 10.0]]).expand_as(rows), rows

    monkeypatch.setattr(module, "progress", told)
    verdict = check(range(10), 10)
    assert [round(part.value, 3) for part in verdict.parts] == [0.2, 0.3, 0.1] and verdict.held == "held"
