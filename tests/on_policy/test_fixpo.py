"""fixpo: after every update every state of the batch is inside the bound."""
import pytest
import torch

from labkit.divergence import kl
from labkit.lanes import Lanes
from labkit.on_policy import fixpo as module
from labkit.on_policy.family import epochs, importance, ppo
from labkit.on_policy.fixpo import adapt, fixpo, penalise_then_repair, repair
from labkit.paper import changed

both = pytest.mark.parametrize("world", ["control.cartpole", "control.pendulum"])
BOUNDS = Lanes((0, 1, 2), {"eps_kl": (0.005, 0.1, 0.5), "lr": (3e-3, 3e-2)})


def furthest(c):
    """The largest KL of each lane over the states of its batch."""
    flat = c.batch.flat()
    return kl(flat.policy, c.learner.policy(flat.obs)).amax(1)


def test_it_changes_surrogate_and_improvement():
    assert changed(fixpo, ppo) == ["surrogate", "improve"] and fixpo.surrogate is importance


@both
def test_every_state_ends_inside_the_bound_where_ppo_leaves_it(collected, world):
    c = collected(fixpo, world, lanes=BOUNDS)
    twin = collected(ppo, world, lanes=Lanes((0, 1, 2), {"lr": (3e-3, 3e-2)}))
    penalise_then_repair(c.algo, c.learner, c.batch, c.k)
    epochs(twin.algo, twin.learner, twin.batch, twin.k)
    assert (furthest(c) <= c.k.eps_kl[:, 0]).all() and not c.learner.notes
    assert (furthest(c) > 0).all()
    assert (furthest(twin) > 0.1).any()
    assert (c.batch.info["repair share"] > 0).any()


@both
def test_lanes_inside_the_bound_are_frozen_while_others_are_repaired(collected, world):
    c = collected(fixpo, world, updates=1)
    before = c.learner.nets["pi"].theta.detach().clone()
    with torch.no_grad():
        c.learner.nets["pi"].theta[1] += 0.5 * torch.randn(before.shape[1], generator=torch.Generator().manual_seed(0))  # lane 1 strays
    steps, outside = repair(c.learner, c.batch.flat(), c.k)
    assert steps[1] > 0 and steps[[0, 2]].tolist() == [0, 0] and not outside.any()
    assert torch.equal(c.learner.nets["pi"].theta[[0, 2]], before[[0, 2]])


def test_without_bound_and_penalty_it_is_the_unclipped_surrogate(collected):
    c = collected(fixpo, updates=0)
    twin = c.learner.copy()
    c.learner.memory["beta"] = torch.zeros_like(c.k.lr)
    c.k.eps_kl = torch.full_like(c.k.lr, torch.inf)
    penalise_then_repair(c.algo, c.learner, c.batch, c.k)
    epochs(c.algo, twin, c.batch, c.k)
    assert torch.equal(c.learner.nets["pi"].theta, twin.nets["pi"].theta) and torch.equal(c.learner.nets["v"].theta, twin.nets["v"].theta)


def test_beta_moves_by_the_excess_and_is_never_negative(collected):
    c = collected(fixpo, lanes=Lanes((0, 1, 2), {"lr_beta": (1.0,)}))
    c.learner.memory["beta"] = torch.tensor([[0.05], [0.05], [0.05]])
    gap = torch.tensor([[0.01, 0.3], [0.0, 0.01], [0.2, 0.3]])
    adapt(c.learner, gap, c.k, torch.tensor([True, True, False]))
    torch.testing.assert_close(c.learner.memory["beta"], torch.tensor([[0.05 + 2 * 0.3 - 0.1], [0.0], [0.05]]))


def test_a_lane_that_cannot_be_repaired_goes_back_and_is_noted(collected, monkeypatch):
    c = collected(fixpo, lanes=Lanes((0, 1), {"eps_kl": (0.005, 0.5), "aim": (1.0,), "lr": (0.03,)}), updates=0)
    before, twin = c.learner.nets["pi"].theta.detach().clone(), c.learner.copy()
    penalise_then_repair(c.algo, twin, c.batch, c.k)
    strayed = c.batch.info["repair share"] > 0
    assert strayed.any() and not strayed.all()
    monkeypatch.setattr(module, "LIMIT", 0)
    penalise_then_repair(c.algo, c.learner, c.batch, c.k)
    assert torch.equal((c.learner.nets["pi"].theta == before).all(1), strayed)
    assert [note.split(" undid")[0] for note in c.learner.notes] == [c.learner.lanes.name(i) for i in strayed.nonzero()[:, 0].tolist()]
    assert (furthest(c) <= c.k.eps_kl[:, 0]).all()
