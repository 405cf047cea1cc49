"""The two language models: what the transformer reads, and its samples against sums over all that it can write."""
import itertools
from dataclasses import replace

import pytest
import torch

from labkit.grpo.family import Shape, assemble, demonstration, grpo, read, write
from labkit.grpo.models import StateModel, TextModel, model_of
from labkit.lanes import Lanes
from labkit.learner import Learner
from labkit.stats import interval
from labkit.worlds.tokens.chain import Chain
from labkit.worlds.tokens.world import EMPTY

STOPPING = Chain((1, 2), problems=4, held=1, stop=True, room=3, text=True)  # 12^3 = 1,728 texts for each prompt
STEADY = Chain((1, 2), problems=6, held=1, text=True)  # 11^2 = 121
BOTH = torch.tensor([0, 1, 8, 7])  # problems of both levels
each_world = pytest.mark.parametrize("world", [STOPPING, STEADY], ids=["stop", "no stop"])


def begun(world, seeds=(0, 1), warm=0.0):
    return replace(grpo, shape=Shape(width=16)).begin(world, Lanes(seeds), warm)


def all_responses(world, learner, problem):
    """Everything that can be written after problem (P,): a batch, and the chance of each text (L, P, G), 0 where it is one that ended."""
    lanes, tokens = len(learner.lanes), range(len(world.tokens))
    token = torch.tensor(list(itertools.product(tokens, repeat=world.horizon))).expand(lanes, len(problem), -1, -1)
    node, passed = world.start[problem][:, None].expand(token.shape[:3]), []
    for t in token.unbind(-1):
        passed.append(node)
        node = world.graph.next[node, t]
    passed = torch.stack(passed, -1)
    batch = assemble(world, problem.expand(lanes, -1), token, passed, node, torch.zeros(token.shape))
    once = ((passed >= world.graph.finished) | (token == 0)).all(-1)  # of texts that differ after their end alone, the first
    return batch, batch.pick(read(world, learner, batch)).detach().sum(-1).exp() * once


def test_a_model_reads_as_its_world_is_read():
    assert isinstance(model_of(STEADY), TextModel) and isinstance(model_of(Chain((1,))), StateModel)
    assert begun(STEADY).nets["pi"].sizes == (4 + 2, 11 + 7, 16, 2, 2, 11)


@each_world
def test_the_policy_at_a_token_is_that_at_the_text_before_it(world):
    """Stepping through a world shows a meter the very contexts that the model is trained on."""
    learner, problem = begun(world), BOTH.expand(2, -1)
    theta = learner.nets["pi"].theta.detach()
    batch = write(world, learner, problem, learner.rand(4, 3, world.horizon), theta)
    told = read(world, learner, batch).logits.view(2, 12, world.horizon, -1)
    state = world.begin(problem.repeat_interleave(3, 1))
    for t in range(world.horizon):
        writing = state["node"] >= world.graph.finished
        torch.testing.assert_close(told[:, :, t][writing], learner.policy(world.observe(state)).logits[writing], atol=1e-5, rtol=1e-5)
        state, *_ = world.step(state, batch.token.flatten(1, 2)[..., t].clamp_min(0), torch.empty(0))


@each_world
def test_samples_agree_with_the_sum_over_all_responses(world):
    """Success, length and entropy of a response, each within four standard errors of 8,000 samples."""
    learner, problem = begun(world, warm=0.5), BOTH[1:3]
    batch, chance = all_responses(world, learner, problem)
    torch.testing.assert_close(chance.sum(-1), torch.ones(2, 2))
    logp = chance.clamp_min(1e-30).log()
    exact = [(chance * x).sum(-1) for x in (world.graph.reward[batch.node], batch.length, -logp)]
    drawn = write(world, learner, problem.expand(2, -1), learner.rand(2, 8000, world.horizon), learner.nets["pi"].theta.detach())
    sampled = (world.graph.reward[drawn.node], drawn.length.float(), -drawn.old.sum(-1))
    for truth, x in zip(exact, sampled, strict=True):
        assert ((x.mean(-1) - truth).abs() <= 4 * x.std(-1) / 8000**0.5 + 1e-5).all()
    assert (exact[0] > 0.02).all() and (exact[0] < 0.9).all()


def test_a_warm_start_of_the_transformer_stops_at_its_level():
    world = Chain(text=True)
    batch = demonstration(world, world.pool[None])
    chance = batch.pick(read(world, grpo.begin(world, Lanes(), 0.5), batch)).exp()[batch.mask].mean()
    assert 0.5 <= chance < 0.6


def test_padding_and_the_answers_of_others_do_not_reach_a_token():
    """The gradient of one response's log-probability is that of it alone: the same in a group, and whatever stands beside it."""
    learner, problem = begun(STOPPING, (0,)), torch.tensor([[0, 5]])
    token = torch.tensor([[[[3, 11, EMPTY], [4, 5, 6]], [[1, 2, 11], [11, EMPTY, EMPTY]]]])

    def slope(problem, token):
        net = learner.nets["pi"]
        policy = TextModel().read(STOPPING, net, net.theta, problem, token)
        chosen = policy.logits.view(*token.shape, -1)[0, 0, 0, :2].gather(-1, torch.tensor([[3], [11]]))
        return torch.autograd.grad(chosen.sum(), net.theta)[0]

    beside = slope(problem, token)
    torch.testing.assert_close(slope(problem[:, :1], token[:, :1, :1]), beside, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(slope(problem, token.where(token != 6, 7)), beside, atol=1e-6, rtol=1e-5)


def test_a_lane_alone_trains_the_transformer_as_beside_others_and_goes_on_from_where_it_was_stored():
    algo = replace(grpo, shape=Shape(prompts=3, group=4, width=16, warm=0.2))

    def after(lanes, updates, start=None):
        return list(itertools.islice(algo.run(STOPPING, lanes, start), updates))[-1].learner

    together = after(Lanes((0, 1, 2)), 3)
    assert torch.equal(after(Lanes((1,)), 3).nets["pi"].theta[0], together.nets["pi"].theta[1])
    stored = Learner.unpack(*after(Lanes((0, 1, 2)), 1).pack())
    assert torch.equal(after(Lanes((0, 1, 2)), 2, stored).nets["pi"].theta, together.nets["pi"].theta)


def test_grpo_makes_the_transformer_better():
    """Success over all problems and all responses, before and after 40 updates of five runs."""
    algo = replace(grpo, shape=Shape(prompts=8, updates=40, warm=0.2))
    lanes = Lanes(tuple(range(5)), {"lr": (3e-3,)})
    success = []
    for learner in (algo.begin(STEADY, lanes, 0.2), next(algo.run(STEADY, lanes)).learner):
        batch, chance = all_responses(STEADY, learner, STEADY.pool)
        success.append((chance * STEADY.graph.reward[batch.node]).sum(-1).mean(-1))
    gain, low, _ = interval(success[1] - success[0])
    assert low > 0.1, (gain, success)
