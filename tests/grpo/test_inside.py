"""An update seen from inside: it is the very update that the learner makes next, and what is said of its tokens can be worked out."""
from dataclasses import replace
from itertools import islice

import pytest
import torch

from labkit import worlds
from labkit.errors import LabError
from labkit.grpo.family import Shape, dapo, grpo, read, sft
from labkit.grpo.inside import inside
from labkit.lanes import Lanes

SHAPE = Shape(prompts=6, group=4, width=16, warm=0.3)
CHAIN = worlds.make("tokens.chain", levels=(1, 2, 3), problems=12, held=2)
LANES = Lanes((0, 1), {"epochs": (1, 3)})


def begun(algo, world=CHAIN, lanes=LANES):
    """A small form of the method, and its learner after two updates."""
    algo = replace(algo, shape=SHAPE)
    return algo, list(islice(algo.run(world, lanes), 3))


@pytest.mark.parametrize("algo", [grpo, dapo, sft])
def test_it_is_the_update_that_comes_next_and_leaves_the_learner_alone(algo):
    algo, (_, now, then) = begun(algo)
    was = {name: x.clone() for name, x in now.learner.pack()[0].items()}
    seen = inside(algo, CHAIN, now.learner)
    assert all(x.equal(was[name]) for name, x in now.learner.pack()[0].items())
    batch = algo.gather(CHAIN, now.learner.copy(), LANES.knobs(algo.knobs))
    assert seen.token.equal(batch.token) and seen.reward.equal(batch.reward)
    assert seen.before.equal(batch.pick(read(CHAIN, now.learner, batch)).detach())
    assert seen.after.equal(batch.pick(read(CHAIN, then.learner, batch)).detach()) and not seen.after.equal(seen.before)


def test_a_token_weighs_its_advantage_where_all_weigh_alike():
    algo, (_, now, _) = begun(dapo)
    seen = inside(algo, CHAIN, now.learner)
    once = slice(0, 2)  # the lanes of one step, whose ratios are 1
    counts = seen.shown & seen.real[..., None]
    assert torch.allclose(seen.weight[once], (seen.adv * counts)[once], atol=1e-5) and bool(seen.weight[once].any())


def test_a_token_of_a_short_response_weighs_more_in_grpo():
    algo, (_, now, _) = begun(replace(grpo, penalty=dapo.penalty))
    seen = inside(algo, CHAIN, now.learner)
    length = seen.shown.sum(-1, keepdim=True)
    mean = seen.shown.sum((1, 2, 3), keepdim=True) / (SHAPE.prompts * SHAPE.group)
    assert torch.allclose(seen.weight[:2], (seen.adv * seen.shown * mean / length)[:2], atol=1e-5)


def test_clipped_are_those_whose_ratio_had_left_the_range_before_the_last_step():
    algo, (_, now, _) = begun(dapo)
    k, out = LANES.knobs(algo.knobs), torch.tensor(False)
    seen, copy = inside(algo, CHAIN, now.learner), now.learner.copy()
    batch = algo.gather(CHAIN, copy, k)
    for steps in range(3):
        ratio = (batch.pick(read(CHAIN, copy, batch)) - batch.old).exp().detach()
        leaves = ((ratio > 1.28) & (batch.adv > 0)) | ((ratio < 0.8) & (batch.adv < 0))
        out = out | (leaves & batch.mask & (k.epochs > steps)[..., None, None])
        copy.descend("pi", algo.loss(read(CHAIN, copy, batch), batch, k), k.lr, k.epochs[:, 0] > steps, clip=1.0)
    assert seen.clipped.dtype == torch.bool and seen.clipped.equal(out)
    assert bool(out[2:].any()) and not bool(out[:2].any())


def test_the_ratio_of_old_data_compares_with_the_policy_that_wrote_them():
    lanes = Lanes((0,), {"lag": (2,), "eps": (0.1,)})
    algo, (*_, now) = begun(grpo, lanes=lanes)
    seen = inside(algo, CHAIN, now.learner)
    batch = algo.gather(CHAIN, now.learner.copy(), lanes.knobs(algo.knobs))
    assert torch.allclose(seen.old, batch.old, atol=1e-5) and not torch.allclose(seen.before, batch.old, atol=1e-2)
    assert torch.allclose(seen.bounds, torch.tensor([0.9, 1.1])) and bool(seen.clipped.any())


def test_the_bounds_of_a_clip_are_the_methods_own():
    seen = [inside(algo, CHAIN, now.learner) for algo, (now, *_) in map(begun, (sft, dapo))]
    assert seen[0].bounds.tolist() == [[0, torch.inf]] * 4 and torch.allclose(seen[1].bounds, torch.tensor([0.8, 1.28]))
    assert not bool(seen[0].old.any()), "whoever shows what is right is sure of it"
    finds = replace(grpo, surrogate=lambda ratio, batch, k: batch.info.update(low=k.eps[:, 0], high=k.lr[:, 0]) or ratio * batch.adv)
    algo, (now, *_) = begun(finds)
    assert inside(algo, CHAIN, now.learner).bounds[0].tolist() == pytest.approx([0.2, 0.01])


def test_what_is_written_and_not_learnt_from_is_counted():
    algo, (_, now, then) = begun(dapo)
    seen = inside(algo, CHAIN, now.learner)
    written = then.learner.memory["rollouts"] - now.learner.memory["rollouts"]
    assert seen.dropped.equal(written - seen.real.sum((1, 2))) and bool((seen.dropped > 0).any())
    assert not bool(inside(begun(grpo)[0], CHAIN, begun(grpo)[1][0].learner).dropped.any())


def test_text_is_seen_as_well():
    world = worlds.make("tokens.chain", levels=(1, 2), problems=8, held=0, text=True)
    algo, (now, then, _) = begun(replace(grpo), world, Lanes((0,)))
    seen = inside(algo, world, now.learner)
    batch = algo.gather(world, now.learner.copy(), Lanes((0,)).knobs(algo.knobs))
    assert torch.allclose(seen.before, seen.old, atol=1e-4) and seen.after.equal(batch.pick(read(world, then.learner, batch)).detach())
    assert bool((seen.kl >= -1e-6).all()) and bool((seen.entropy[seen.shown] > 0).all()) and len(seen.take(0).token) == 1


def test_a_world_without_responses_is_told():
    algo, (now, *_) = begun(grpo)
    with pytest.raises(LabError, match="has no prompts and responses"):
        inside(algo, worlds.make("control.cartpole"), now.learner)
