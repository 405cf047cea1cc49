"""rbocpd_ucrl2: without hazard ucrl2 bit for bit; restarts forget one pair and no more; delays are read off as they should."""
import itertools
from dataclasses import replace

import torch

from labkit.lanes import Lanes
from labkit.paper import changed
from labkit.tabular.family import Shape
from labkit.tabular.rbocpd_ucrl2 import delay, rank_correlation, rbocpd_ucrl2
from labkit.tabular.sampling import after
from labkit.tabular.ucrl2 import ucrl2
from labkit.worlds.moving import reversing


def test_it_adds_a_detector_and_nothing_else():
    assert changed(rbocpd_ucrl2, ucrl2) == ["detect"]


def test_without_hazard_it_is_ucrl2():
    world, lanes = reversing(seed=(1, 2), segments=2, life=400), Lanes((1, 2), {"c": (0.2,)})
    watched = after(rbocpd_ucrl2, world, Lanes((1, 2), {"h": (0.0,)}), 400).memory
    plain = after(ucrl2, world, lanes, 400).memory
    for name in ("q", "log_pi", "n", "led", "paid", "before", "s"):
        assert torch.equal(watched[name], plain[name]), name
    assert not watched["totals"]["restarts"].any() and torch.equal(watched["totals"]["regret"], plain["totals"]["regret"])


def test_a_restart_forgets_its_pair_alone_and_comes_after_the_turn():
    world, lanes = reversing(seed=(1, 2, 3), segments=2, life=900), Lanes((1, 2, 3))
    turn = (world.schedule != world.schedule[:, :1]).byte().argmax(1)
    before, caught = None, torch.zeros(3)
    for snapshot in itertools.islice(replace(rbocpd_ucrl2, shape=Shape(stride=1)).run(world, lanes), 900):
        now = snapshot.learner.memory
        if before is not None:
            new = now["totals"]["restarts"] > before["totals"]["restarts"]
            fell = now["n"] < before["n"]
            assert torch.equal(fell.flatten(1).sum(1) == 1, new) or (before["n"][new].min() <= 1).all()
            assert (now["n"][fell] == 1).all() and (now["led"].sum(-1) == now["n"]).all()
            assert (now["watch"]["seen"][fell] == 0).all()
            assert (snapshot.step > turn[new]).all()
            caught += new
        before = now
    assert (caught > 0).all()


def test_delays_by_hand():
    """Turns at 25 and 60 of a lane, looked at every 10 steps: a restart seen at 40 has a delay of 15; none at all, of 35."""
    schedule = torch.tensor([0] * 25 + [1] * 35 + [0] * 40).expand(3, -1)
    restarts = torch.zeros(10, 3)
    restarts[3:, 0] = 1
    restarts[0:, 2] = 1  # a false alarm before the turn
    restarts[4:, 2] = 2
    assert delay(restarts, schedule, 10).tolist() == [15, 35, 25]


def test_rank_correlation_by_hand():
    x = torch.tensor([0.1, 0.2, 0.3, 0.4])
    y = torch.tensor([[5, 1, 7], [4, 2, 7], [3, 3, 7], [1, 3, 7]])
    expected = torch.tensor([-1.0, 4.5 / (5 * 4.5) ** 0.5, 0.0]).double()
    torch.testing.assert_close(rank_correlation(x, y), expected)
