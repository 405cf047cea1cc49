"""Flowers: the length of each petal by hand, and what is said."""
import pytest
import torch

from labkit.errors import LabError
from labkit.studio import figures

WORTH = {
    "dry": {"growth": torch.tensor([[1.0, 3.0], [0.0, 0.0]]), "price": torch.tensor([[5.0, 5.0], [7.0, 7.0]])},
    "wet": {"growth": torch.tensor([[4.0, 4.0], [1.0, 1.0]]), "price": torch.tensor([[5.0, 5.0], [6.0, 6.0]])},
}


def test_petals_run_from_the_worst_to_the_best_of_all_situations():
    fig = figures.petals(WORTH, ["oak", "elm"])
    dry, wet = fig.frames
    lengths = [[[(r - 0.04) / 0.96 for r in flower.r] for flower in frame.data] for frame in (dry, wet)]
    assert lengths == [[pytest.approx([0.5, 0]), pytest.approx([0, 1])], [pytest.approx([1, 0]), pytest.approx([0.25, 0.5])]]
    assert [flower.subplot for flower in dry.data] == ["polar", "polar2"] and dry.data[0].customdata == (2.0, 5.0)
    assert "dry: growth oak, price elm; wet: growth oak, price elm" in figures.alt(fig)


def test_every_method_has_a_name():
    with pytest.raises(LabError, match="2 methods and 1 names"):
        figures.petals(WORTH, ["oak"])
