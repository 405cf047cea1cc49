"""Which of nearly equal actions is taken: the first within TIE of the best, relative to the largest value of that state."""
import pytest
import torch

from labkit.errors import LabError
from labkit.lanes import Lanes
from labkit.tabular.family import best_action, policy_iteration
from labkit.worlds.finite import TIE


@pytest.mark.parametrize(
    ("q", "taken"),
    [
        ([5.0, 5.0 + 4 * TIE, 0.0], 0),  # TIE is relative to 5
        ([5.0, 5.0 + 6 * TIE, 0.0], 1),
        ([1.0, 1.0 + 4 * TIE, -5.0], 0),  # to the largest in size, of whatever sign
        ([0.05, 0.05 + TIE / 2, 0.0], 1),
        ([2.0 - 2.0 * TIE, 2.0, 2.0], 0),  # exactly at the margin
        ([0.0, 0.0, 0.0], 0),
        ([-3.0, -2.0, -2.0], 1),
    ],
)
def test_ties_are_relative_to_the_state(q, taken):
    alone = torch.tensor([[q]], dtype=torch.float64)
    beside = torch.cat([alone, 1e6 * torch.ones(1, 1, 3, dtype=torch.float64)], 1)  # another state does not blur this one
    for values in (alone, beside):
        assert best_action(values)[0, 0].argmax() == taken


def test_a_worlds_name_is_not_a_world():
    with pytest.raises(LabError, match="policy_iteration needs a World"):
        next(policy_iteration.run("finite.garnet", Lanes((0,))))
