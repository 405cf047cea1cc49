"""The picture of change points says what the record holds."""
import pytest
import torch

from labkit.divergence import kl
from labkit.errors import LabError
from labkit.lanes import Lanes
from labkit.policy import Categorical
from labkit.record import record
from labkit.studio.figures.changes import change_points, watch_changes
from labkit.studio.figures.frame import alt
from labkit.studio.figures.moving import DRIFT, TREMBLE, with_distance
from labkit.tabular.rbocpd_ucrl2 import rbocpd_ucrl2
from labkit.worlds.moving import reversing


@pytest.fixture(scope="module")
def kept():
    world = reversing(seed=(1, 2) * 2, segments=2, life=800)
    return record(rbocpd_ucrl2, world, Lanes((1, 2), {"h": (0.0, 0.01)}), 800, fields=watch_changes(world)), world


def test_truth_belief_regret_and_drift_share_one_axis(kept):
    found, world = kept
    fig = change_points(found, world, seed=1)
    steps = found.steps.tolist()
    names = {trace.name: trace for trace in fig.data if trace.name}
    turn = int((world.schedule[1] != 0).byte().argmax())
    for a in (0, 1):
        true = [0.35 if (a == 1) == (step - 1 < turn) else 0.0 for step in steps]
        assert list(names[f"action {a} leads onward"].y) == pytest.approx(true)
    heat = next(trace for trace in fig.data if trace.type == "heatmap")
    torch.testing.assert_close(torch.tensor(heat.customdata), found.fields["run"][:, 3].flatten(1).T)
    regret = next(trace for trace in fig.data if trace.name == "h=0.01" and trace.yaxis == "y3")
    assert list(regret.y) == pytest.approx(found.curves["regret"][:, 3].tolist())
    marks = names["restart"].x
    total = found.curves["restarts"][:, 3]
    assert len(marks) == int((total.diff(prepend=torch.zeros(1)) > 0).sum()) > 0 and f"{turn}" in alt(fig)


def test_the_cursor_stands_at_every_moment_in_every_panel(kept):
    fig = change_points(*kept)
    for frame, step in zip(fig.frames, kept[0].steps.tolist(), strict=True):
        assert [trace.yaxis for trace in frame.data] == ["y", "y2", "y3", "y4"]
        assert all(list(trace.x) == [step, step] for trace in frame.data)
    assert len(fig.layout.sliders[0].steps) == len(kept[0].steps)


def test_the_drift_is_from_the_policy_that_is_now_best(kept):
    """Of the last moment, by hand: the best policy of the world as it stands, both with a tremble, over the policy's occupancy."""
    found, world = kept
    now = world.at(torch.full((4,), 799))
    pi, where = (found.fields[name][-1].double() for name in ("policy", "occupancy"))
    assert torch.equal(found.fields["best"][-1].double(), now.best.pi)
    own, best = (Categorical(((1 - TREMBLE) * p + TREMBLE / 2).log()) for p in (pi, now.best.pi))
    away = (kl(own, best) * where).sum(-1) / where.sum(-1)
    torch.testing.assert_close(with_distance(found).curves[DRIFT][-1], away, rtol=1e-6, atol=1e-6)


def test_another_record_is_refused(kept):
    found, world = kept
    with pytest.raises(LabError, match="watch_changes"):
        change_points(type(found)(found.algorithm, found.world, found.lanes, found.steps, found.curves), world)
