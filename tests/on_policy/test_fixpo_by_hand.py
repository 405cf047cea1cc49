"""fixpo's two phases, worked out by hand: what is descended, how beta moves, when repairs stop and what share they were."""
from dataclasses import replace

import pytest
import torch

from labkit.lanes import Lanes
from labkit.on_policy import fixpo as module
from labkit.on_policy.fixpo import fixpo, give_up, penalise_then_repair, pull, repair


@pytest.fixture
def strayed(tiny):
    """A tiny batch of two lanes whose policy has since gone far, with weights beta of 0.5 and 2."""
    c = tiny(fixpo, Lanes((0, 1), {"lr_beta": (0.3,), "aim": (3.0,), "lr": (0.02,)}), torch.float32)
    with torch.no_grad():
        c.learner.nets["pi"].theta += torch.randn(2, 12, generator=torch.Generator().manual_seed(1))
    c.learner.memory["beta"] = torch.tensor([[0.5], [2.0]])
    return c


def kl_by_hand(learner, batch):
    """sum of p log(p / q) over actions, p the batch's policy and q the learner's: (L, B)."""
    p, q = batch.policy.logits.softmax(-1), learner.policy(batch.obs).logits.softmax(-1)
    return (p * (p / q).log()).sum(-1).detach()


def test_a_pull_descends_loss_and_penalty_and_moves_beta_by_the_excess(strayed, monkeypatch):
    c, told = strayed, {}
    flat, loss = c.batch.flat(), torch.tensor([4.0, 7.0])
    gap, where = kl_by_hand(c.learner, flat), torch.tensor([True, False])
    monkeypatch.setattr(c.learner, "descend", lambda net, loss, *rest, **options: told.update(net=net, loss=loss, rest=rest, **options))
    pull(c.learner, flat, gap, loss, c.k, where)
    torch.testing.assert_close(told["loss"], loss + torch.tensor([0.5, 2.0]) * gap.mean(1))
    assert told["net"] == "pi" and told["rest"][0] is c.k.lr and told["rest"][1] is where and told["clip"] == 0.5
    excess = 3 * gap[0].max() - 0.1
    torch.testing.assert_close(c.learner.memory["beta"], torch.stack([0.5 + 0.3 * excess, torch.tensor(2.0)])[:, None])


def test_beta_starts_at_one_and_rests_where_a_lane_does(tiny):
    """At the only minibatch's KL of 0 it moves by -lr_beta eps_kl."""
    c = tiny(fixpo, Lanes((0, 1), {"lr_beta": (0.2,), "eps_kl": (0.5,), "epochs": (1,)}), torch.float32)
    c.learner.on[1] = False
    penalise_then_repair(replace(c.algo, shape=replace(c.algo.shape, minibatches=1)), c.learner, c.batch, c.k)
    torch.testing.assert_close(c.learner.memory["beta"], torch.tensor([[1 - 0.2 * 0.5], [1.0]]))


def test_the_penalty_is_on_the_kl_from_the_batchs_policy(strayed, monkeypatch):
    c, seen = strayed, []

    def watched(learner, batch, gap, loss, k, where):
        seen.append((gap.detach(), kl_by_hand(learner, batch)))
        pull(learner, batch, gap, loss, k, where)

    monkeypatch.setattr(module, "pull", watched)
    penalise_then_repair(c.algo, c.learner, c.batch, c.k)
    assert len(seen) > 8 and seen[0][0].shape == (2, 4) and seen[8][0].shape == (2, 8)  # 4 epochs of 2 minibatches, then repairs
    for gap, expected in seen:
        torch.testing.assert_close(gap, expected, rtol=1e-4, atol=1e-6)


def test_the_repair_share_is_of_all_steps(tiny, monkeypatch):
    c = tiny(fixpo, Lanes((0, 1), {"epochs": (1, 3)}), torch.float32)
    monkeypatch.setattr(module, "repair", lambda *_: (torch.tensor([0.0, 3.0, 4.0, 2.0]), torch.zeros(4, dtype=torch.bool)))
    penalise_then_repair(c.algo, c.learner, c.batch, c.k)
    torch.testing.assert_close(c.batch.info["repair share"], torch.tensor([0, 3 / (3 + 2), 4 / (4 + 6), 2 / (2 + 6)]))


def test_repairs_stop_at_the_limit_and_leave_a_lane_at_rest_alone(strayed, monkeypatch):
    c = strayed
    monkeypatch.setattr(module, "LIMIT", 5)
    c.learner.on[1] = False
    before = c.learner.nets["pi"].theta.detach().clone()
    steps, outside = repair(c.learner, c.batch.flat(), c.k)
    assert steps.tolist() == [5, 0] and outside.tolist() == [True, False]
    assert c.learner.nets["pi"].clock[:, 0].tolist() == [5, 0]
    assert (c.learner.nets["pi"].theta == before).all(1).tolist() == [False, True]


def test_a_state_at_the_bound_is_inside(strayed):
    c = strayed
    flat = c.batch.flat()
    c.k.eps_kl = module.kl(flat.policy, c.learner.policy(flat.obs)).detach().amax(1, keepdim=True)
    steps, outside = repair(c.learner, flat, c.k)
    assert steps.tolist() == [0, 0] and not outside.any()


def test_every_lane_that_is_given_up_is_put_back_and_named(tiny):
    c = tiny(fixpo, Lanes((0, 1, 2)), torch.float32)
    before, start = c.learner.nets["pi"].theta.detach().clone(), torch.ones(3, 12)
    give_up(c.learner, start, torch.tensor([True, False, True]))
    assert [note.split(" undid")[0] for note in c.learner.notes] == [c.learner.lanes.name(i) for i in (0, 2)]
    assert torch.equal(c.learner.nets["pi"].theta, torch.stack([start[0], before[1], start[2]]))
