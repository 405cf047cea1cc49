"""missing_old_logits: the two ratios multiply to the whole one whatever stands between, and where nothing is lost all repairs agree."""
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from torch.testing import assert_close

from labkit import worlds
from labkit.grpo.family import aged, read, sampled
from labkit.grpo.missing_old_logits import (
    asynchronous,
    averaged,
    decoupled,
    discrepancy,
    missing_old_logits,
    recalled,
    rounded,
    to_middle,
    versions,
)
from labkit.lanes import Lanes
from labkit.policy import Categorical
from tests.grpo.by_hand import batch_of
from tests.methods import small

METHOD = small(missing_old_logits)


def moved(world, lanes, updates=3):
    """A learner some updates from its start, and its knobs."""
    k, learner = lanes.knobs(METHOD.knobs), METHOD.begin(world, lanes, 0.2)
    for _ in range(updates):
        METHOD.learn(world, learner, METHOD.gather(world, learner, k), k)
    return learner, k


@pytest.fixture(scope="module")
def chain():
    return worlds.make("tokens.chain")


def written(how, world, learner, k):
    copy = learner.copy()
    return how(METHOD, world, copy, METHOD.tasks(METHOD, world, copy, k), k)


def test_rounding_by_hand():
    policy, grid = Categorical(torch.tensor([[[0.6, 0.3, 0.1]]]).log()), torch.tensor([[0.5]])
    weight = torch.tensor([-0.5, -1.0, -2.5]).exp()  # log 0.6 = -0.51, log 0.3 = -1.20, log 0.1 = -2.30
    assert_close(rounded(policy, grid).probs[0, 0], weight / weight.sum())
    assert torch.equal(rounded(policy, 0 * grid).logits, policy.logits)


def test_a_response_begins_old_and_ends_young():
    lag = torch.tensor([[0.0], [2.0], [6.0]])
    told = torch.cat(versions(lag, 3), 1)
    assert told.tolist() == [[0, 0, 0], [2, 2, 1], [6, 4, 2]]


def test_each_token_is_written_by_its_version(chain):
    learner, k = moved(chain, Lanes((0, 1), {"lag": (3.0,)}))
    batch = written(asynchronous, chain, learner, k)
    for t, lag in enumerate(versions(k.lag, chain.horizon)):
        policy = read(chain, learner, batch, aged(learner, lag))
        assert_close(batch.extra["then"][..., t], batch.pick(policy)[..., t])
        assert_close(batch.old[..., t], batch.pick(rounded(policy, k.grid))[..., t])
    assert not torch.equal(batch.extra["then"], batch.pick(read(chain, learner, batch)))


def test_nothing_rounded_and_no_lag_is_the_bases_own_rollout(chain):
    learner, k = moved(chain, Lanes((0, 1), {"lag": (0.0,), "grid": (0.0,)}))
    mine, theirs = (written(how, chain, learner, k) for how in (asynchronous, sampled))
    assert torch.equal(mine.token, theirs.token) and torch.equal(mine.old, theirs.old)


@pytest.mark.parametrize("how", [recalled, averaged])
def test_the_two_ratios_multiply_to_the_whole_whatever_is_in_the_middle(chain, how):
    learner, k = moved(chain, Lanes((0, 1), {"cap": (10.0,)}))
    batch = written(how, chain, learner, k)
    logp = batch.pick(read(chain, learner, batch)).double()
    batch.old, batch.extra["middle"] = batch.old.double(), batch.extra["middle"].double()
    weight = discrepancy(batch, k)
    whole = (logp - batch.old).exp()
    assert bool((weight < 10).all())
    assert_close(weight * to_middle(logp, batch, k), whole)


def test_without_lag_and_decay_kept_and_averaged_are_the_same(chain):
    learner, k = moved(chain, Lanes((0, 1), {"lag": (0.0,), "decay": (0.0,)}))
    kept, near = (written(how, chain, learner, k) for how in (recalled, averaged))
    assert torch.equal(kept.token, near.token)
    assert_close(kept.extra["middle"], near.extra["middle"])


def test_without_rounding_a_kept_version_leaves_no_discrepancy(chain):
    learner, k = moved(chain, Lanes((0, 1), {"grid": (0.0,)}))
    assert bool((discrepancy(written(recalled, chain, learner, k), k) == 1).all())


def test_the_average_without_decay_is_the_policy_of_now_and_else_an_exponential_mean(chain):
    learner, k = moved(chain, Lanes((0,), {"decay": (0.0, 0.5)}), updates=0)
    before = [learner.nets["pi"].theta.detach().clone()]
    for _ in range(2):
        METHOD.learn(chain, learner, METHOD.gather(chain, learner, k), k)
        before.append(learner.nets["pi"].theta.detach().clone())
    METHOD.gather(chain, learner, k)
    average = learner.memory["average"]
    assert torch.equal(average[0], before[2][0])
    assert_close(average[1], 0.25 * before[0][1] + 0.25 * before[1][1] + 0.5 * before[2][1])


def test_the_weight_is_capped_and_the_ratio_clipped():
    batch = batch_of(torch.zeros(1, 1, 3, 1, dtype=torch.int64))
    batch.adv = torch.ones(1, 1, 3, 1, dtype=torch.float64)
    batch.extra["middle"] = torch.tensor([0.5, 4.0, 1.0], dtype=torch.float64).log().view(1, 1, 3, 1)
    logp = torch.tensor([0.55, 4.0, 3.0], dtype=torch.float64).log().view(1, 1, 3, 1)
    k = SimpleNamespace(cap=torch.tensor([[2.0]], dtype=torch.float64), eps=torch.tensor([[0.2]], dtype=torch.float64))
    gain = decoupled(to_middle(logp, batch, k), batch, k)
    assert_close(gain.flatten(), torch.tensor([0.5 * 1.1, 2.0 * 1.0, 1.0 * 1.2], dtype=torch.float64))


def test_a_text_is_read_again_by_each_version():
    world = worlds.make("tokens.chain", levels=(1, 2), problems=8, held=2, text=True)
    method = replace(METHOD, shape=replace(METHOD.shape, width=16, warm=0.1))
    lanes = Lanes((0,), {"lag": (2.0,)})
    learner, k = method.begin(world, lanes, 0.1), lanes.knobs(method.knobs)
    for _ in range(2):
        method.learn(world, learner, method.gather(world, learner, k), k)
    batch = recalled(method, world, learner, method.tasks(method, world, learner, k), k)
    for t, lag in enumerate(versions(k.lag, world.horizon)):
        assert_close(batch.extra["then"][..., t], batch.pick(read(world, learner, batch, aged(learner, lag)))[..., t], atol=1e-5, rtol=1e-5)
