"""ta_lpo: the clock, and what the drift function makes of it."""
import pytest
import torch

from labkit.lanes import Lanes
from labkit.on_policy.discovered_po import discovered_po
from labkit.on_policy.evolution import HORIZONS, WEIGHTS, learnt_drift
from labkit.on_policy.family import epochs
from labkit.on_policy.ta_lpo import FOUND, exam, free_width, on_the_clock, ta_lpo, timed
from labkit.paper import changed


def test_it_changes_the_surrogate_and_tells_the_time():
    assert changed(ta_lpo, discovered_po) == ["surrogate", "improve"] and len(FOUND) == WEIGHTS


def test_the_surrogate_is_the_ratio_less_the_drift():
    k = Lanes((0, 1), {"clock": (0.0, 1.0)}).knobs(ta_lpo.knobs)
    ratio, adv = torch.linspace(0.1, 3, 16).expand(4, -1), torch.linspace(-2, 2, 16).expand(4, -1)
    weights, spent = torch.tensor(FOUND).expand(4, -1), torch.full((4, 1), 0.8)
    torch.testing.assert_close(timed(ratio, adv, k, spent), ratio * adv - learnt_drift(weights, k.clock * spent, ratio, adv))
    assert torch.equal(timed(ratio, adv, k, spent)[:2], timed(ratio, adv, k)[:2])


@pytest.mark.parametrize("world", ["control.cartpole", "control.pendulum"])
def test_the_clock_counts_updates_and_stops_at_one(collected, world, monkeypatch):
    c = collected(ta_lpo, world, lanes=Lanes((0,), {"clock": (0.0, 1.0), "N": (5,)}), updates=0)
    seen = []

    def watching(ratio, adv, k, spent=0.0):
        seen.append((k.clock * spent).flatten().tolist())
        return timed(ratio, adv, k, spent)

    monkeypatch.setattr("labkit.on_policy.ta_lpo.timed", watching)
    for _ in range(7):
        on_the_clock(c.algo, c.learner, c.batch, c.k)
    told = seen[:: len(seen) // 7]
    assert [round(row[1], 4) for row in told] == [0, 0.2, 0.4, 0.6, 0.8, 1, 1] and not any(row[0] for row in told)
    assert c.learner.memory["updates"].tolist() == [[7], [7]]


def test_the_first_update_is_that_of_a_training_that_has_just_begun(collected):
    c = collected(ta_lpo, updates=0)
    other = c.learner.copy()
    on_the_clock(c.algo, c.learner, c.batch, c.k)
    epochs(c.algo, other, c.batch, c.k)
    assert torch.equal(c.learner.nets["pi"].theta, other.nets["pi"].theta)


def test_the_free_width_by_hand():
    """Weights of nought cost nothing anywhere; a drift of the squared log ratio costs as soon as its net passes 1e-4."""
    weights = torch.zeros(2, WEIGHTS)
    weights[1, 3 * 8], weights[1, 16 * 8] = 1.0, 1.0  # the first unit sees log^2 and is the whole net
    width = free_width(weights, torch.tensor([0.0, 1.0]))
    assert width[0].tolist() == pytest.approx([1.5, 1.5]) and width[1].tolist() == pytest.approx([0, 0], abs=1e-6)
    weights[1, 3 * 8], weights[1, 11 * 8] = 0.0, -1.0  # with the time it sees -log^2: free at any time
    weights[1, 3 * 8] = 0.5  # and log^2 / 2 always: free once half of the time is spent
    early, late = free_width(weights, torch.tensor([0.0, 0.6]))[1].tolist()
    assert early == pytest.approx(0, abs=1e-6) and late == pytest.approx(1.5)


def test_the_exam_is_the_same_for_all_and_harder_with_less_time():
    lanes = Lanes((0, 1), {"clock": (0.0, 1.0)})
    reached = exam(torch.zeros(4, WEIGHTS), lanes, tasks=6)
    assert reached.shape == (4, 6, len(HORIZONS)) and torch.equal(reached[0], reached[3])
    assert (reached.mean(1).diff(dim=1) > 0).all()
