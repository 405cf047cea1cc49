"""The learner: streams, stopping, copying, packing."""
import pytest
import torch

from labkit.errors import LabError
from labkit.lanes import Lanes
from labkit.learner import Learner, branch, take
from labkit.nn import Net, Table

LANES = Lanes((0, 1), {"clip": (0.2, 0.8)})


def learner(lanes=LANES):
    made = Learner(lanes)
    made.nets["pi"] = Net(made.rand, (3, 8, 2))
    made.memory = {"deep": {"tensor": torch.ones(len(lanes), 2), "count": 3}, "word": "x"}
    return made


def test_how_much_one_stream_draws_does_not_shift_the_next():
    a, b = Learner(LANES), Learner(LANES)
    first, second = a.stream(), b.stream()
    first(0, 3), first(1, 3), second(0, 99)
    assert torch.equal(a.rand(4), b.rand(4)) and not torch.equal(first(0, 3), first(1, 3))


def descend(made, poison=None, updates=1):
    for _ in range(updates):
        x = made.rand(5, 3)
        loss = made.policy(x).entropy().mean(1)
        if poison is not None:
            loss = loss * torch.where(torch.arange(len(loss)) == poison[0], poison[1], 1.0)
        made.descend("pi", loss, torch.full((len(made.lanes), 1), 0.1), clip=0.5)
    return made


def test_a_lane_with_a_loss_that_is_not_finite_is_stopped_and_named_and_its_neighbours_are_untouched():
    clean, hurt = learner(), learner()
    start = hurt.nets["pi"].theta.detach().clone()
    hurt.step = 812
    descend(clean, updates=3)
    descend(hurt, poison=(3, float("nan")))
    descend(hurt, updates=2)
    assert hurt.notes == ["lane 3 (clip=0.8, seed 1) stopped at step 812: loss is NaN"]
    assert torch.equal(hurt.nets["pi"].theta[:3], clean.nets["pi"].theta[:3])
    assert torch.equal(hurt.nets["pi"].theta[3], start[3])


def test_an_infinite_loss_is_called_infinite():
    hurt = descend(learner(), poison=(0, float("inf")))
    assert hurt.notes[0].endswith("stopped at step 0: loss is infinite") and hurt.on[:, 0].tolist() == [False, True, True, True]


def test_where_holds_a_lane_back():
    made = learner()
    start = made.nets["pi"].theta.detach().clone()
    loss = made.policy(made.rand(5, 3)).entropy().mean(1)
    made.descend("pi", loss, torch.full((4, 1), 0.1), where=torch.tensor([True, False, True, True]))
    assert torch.equal(made.nets["pi"].theta[1], start[1]) and not torch.equal(made.nets["pi"].theta[0], start[0])


def test_a_copy_shares_nothing():
    made = learner()
    twin = made.copy()
    descend(made)
    made.memory["deep"]["tensor"].zero_()
    assert twin.memory["deep"]["tensor"].sum() == 8 and not torch.equal(twin.nets["pi"].theta, made.nets["pi"].theta)
    assert torch.equal(descend(twin).nets["pi"].theta, made.nets["pi"].theta)


def test_pack_and_unpack_are_inverse():
    made = descend(learner())
    made.nets["table"] = Table(4, (3, 2))
    back = Learner.unpack(*made.pack())
    assert back.memory["word"] == "x" and back.memory["deep"]["count"] == 3 and back.lanes == made.lanes
    assert torch.equal(descend(back).nets["pi"].theta, descend(made).nets["pi"].theta) and back.tick == made.tick


def test_a_fork_takes_other_settings_of_the_same_lanes():
    made = learner()
    other = Lanes((0, 1), {"clip": (0.3, 0.4)})
    assert made.fork(other).lanes == other and made.lanes == LANES
    with pytest.raises(LabError, match=r"4 lanes with seeds \(0, 1\).*not 2"):
        made.fork(Lanes((0, 1)))


def test_taking_lanes_keeps_all_that_a_learner_has():
    old = learner()
    old.nets["pi"] = Table(4, (3, 2))
    old.nets["pi"].theta = torch.arange(24.0).view(4, 6).requires_grad_()
    old.memory = {"deep": {"x": torch.arange(4.0)}, "plain": 7}
    old.tick, old.step, old.on[3] = 5, 9, False
    new = take(old, torch.tensor([3, 0]), Lanes((0, 1)))
    assert (new.tick, new.step, new.memory["plain"], len(new.lanes)) == (5, 9, 7, 2)
    assert new.memory["deep"]["x"].tolist() == [3, 0] and new.on[:, 0].tolist() == [False, True]
    assert new.nets["pi"].theta.tolist() == [list(range(18, 24)), list(range(6))] and isinstance(new.nets["pi"], Table)
    new.nets["pi"].theta.data += 1
    assert old.nets["pi"].theta[3, 0] == 18, "a copy, not a view"


def test_a_branch_goes_on_lane_by_lane_or_all_from_one_setting():
    old = learner()
    old.memory = {"x": torch.arange(4.0)}
    assert branch(old, {"clip": (0.1, 0.3)}).memory["x"].tolist() == [0, 1, 2, 3]
    grown = branch(old, {"clip": (0.1, 0.3, 0.5)}, setting=1)
    assert grown.memory["x"].tolist() == [2, 3] * 3 and grown.lanes == Lanes((0, 1), {"clip": (0.1, 0.3, 0.5)})
    for grid, setting in (({}, None), ({"clip": (0.1,)}, 2), ({"clip": (0.1,)}, -1)):
        with pytest.raises(LabError, match="has 2 settings, the fork 1; say from which `setting`"):
            branch(old, grid, setting)
