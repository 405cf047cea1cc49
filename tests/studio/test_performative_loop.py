"""The performative loop's picture: what is kept, where occupancies lie, who has come to rest, and what the browser is sent."""
import numpy as np
import pytest
import torch

from labkit.errors import LabError
from labkit.lanes import Lanes
from labkit.record import Record, record
from labkit.studio import figures
from labkit.studio.loop import _CHANGES, Loop
from labkit.studio.scrubber import Scrubber
from labkit.tabular.performative_rl import performative_rl
from labkit.worlds.performative import performative

WORLD = performative(seed=12)
FLOOR = figures.floor(WORLD)


@pytest.fixture(scope="module")
def kept():
    lanes = Lanes((0, 1), {"beta": (0.0, 10.0), "lam": (0.5, 2.0)})
    return record(performative_rl, WORLD, lanes, steps=12, fields=figures.watch_flow())


def test_the_record_keeps_the_flow_its_occupancy_and_the_policy(kept):
    flow = kept.fields["flow"]
    torch.testing.assert_close(kept.fields["occupancy"], flow.sum(-1))
    where = flow.sum(-1) > 1e-3
    torch.testing.assert_close((flow / flow.sum(-1, keepdim=True))[where], kept.fields["policy"][where], rtol=0, atol=1e-5)


def test_distances_on_the_plane_are_those_of_roots_as_far_as_it_keeps_them():
    """Occupancies over two states lie on one circle, so the plane keeps all: distances are the root of 2 times Hellinger's."""
    share = torch.tensor([[0.1, 0.5], [0.3, 0.9], [0.8, 0.2]])  # (T, L)
    occupancy = torch.stack([share, 1 - share], -1) * torch.tensor([[1.0, 7.0]])[..., None]  # the scale does not matter
    two = Record("performative_rl", "w", Lanes((0, 1)), torch.arange(3), {}, {"flow": occupancy[..., None], "occupancy": occupancy})
    found, part = figures.orbit(two)
    places = torch.stack([found.curves["across"], found.curves["up"]], -1).flatten(0, 1)
    roots = torch.stack([share, 1 - share], -1).double().sqrt().flatten(0, 1)
    torch.testing.assert_close(torch.cdist(places, places), torch.cdist(roots, roots), rtol=0, atol=1e-7)
    assert part == pytest.approx(1)
    by_hand = (occupancy[1, 1] - occupancy[0, 1]).norm() / occupancy[0, 1].norm()
    assert found.curves["change"][1, 1].item() == pytest.approx(by_hand.item()) and found.curves["change"][0].isnan().all()


def test_a_start_rests_only_if_no_late_round_moves_it():
    change = torch.full((15, 2), 1e-5)
    change[4] = 1.0  # long ago
    change[6, 1] = 2e-3  # in the last ten
    late = Record("performative_rl", "w", Lanes((0, 1)), torch.arange(15), {"change": change})
    assert figures.settled(late, 0).tolist() == [True, False]


def test_the_figure_has_a_frame_per_setting_and_says_who_rests(kept):
    orbit = figures.orbit(kept)[0]
    fig = figures.performative_loop(orbit, FLOOR, 1)
    assert [frame.name for frame in fig.frames] == [f"beta={b}, lam={lam}" for b in (0, 10) for lam in ("0.5", "2")]
    still = [int(figures.settled(orbit, p).sum()) for p in range(4)]
    assert f"beta=0, lam=0.5 {still[0]} of 2" in figures.alt(fig) and still[0] == 2
    trail = fig.frames[3].data[0]
    np.testing.assert_allclose(trail.x, orbit.curves["across"][:, 6], rtol=1e-6)
    assert len(fig.frames[3].data) == 2 * 2 + 1 + 10 and FLOOR.things["hazard"].tolist() == [[3, 1], [2, 3], [3, 4]]


def test_the_widget_is_the_scrubber_with_other_pictures(kept):
    assert all(old in Scrubber._code() for old in _CHANGES)
    widget = Loop(kept, FLOOR, setting=2)
    assert widget.about["curves"] == ["across", "up", "change"] and widget.steps == list(range(1, 13))
    sent = np.frombuffer(widget.curves, "<f4")[3 * 4 * 3 * 12 :].reshape(3, 4, 2, 12)
    np.testing.assert_allclose(sent[1, 2, 1], widget.record.curves["up"][:, 5], atol=1e-6)
    assert "drawTrail" in widget.to_html() and "drawTrail" not in Scrubber(widget.record, FLOOR, ("return",)).to_html()
    assert figures.alt(widget.figure()).startswith("Occupancies of performative_rl from 2 starts over 12 rounds")


def test_a_record_without_flows_is_refused(kept):
    with pytest.raises(LabError, match="lacks the field 'flow'"):
        Loop(Record("ppo", "w", kept.lanes, kept.steps, {}), FLOOR)
