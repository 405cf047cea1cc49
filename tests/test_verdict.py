"""A verdict follows from its interval by its rule, and a claim is as good as its weakest part."""
import numpy as np
import pytest
import torch

from labkit.errors import LabError
from labkit.verdict import above, below, exactly, together, weakest

SEEDS = torch.linspace(-1, 1, 21)


def test_the_whole_interval_decides():
    assert above(SEEDS + 2, 0, "x").held == "held"
    assert above(SEEDS - 2, 0, "x").held == "not held"
    assert above(SEEDS, 0, "x").held == "inconclusive"
    assert above(torch.zeros(12), 0, "x").held == "not held"  # no difference is not above 0


def test_below_is_above_upside_down():
    v, w = below(SEEDS + 0.3, 0.7, "x"), above(-SEEDS - 0.3, -0.7, "x")
    assert (v.value, v.low, v.high, v.held) == (-w.value, -w.high, -w.low, w.held)
    assert (v.bound, v.side, w.bound, w.side) == (0.7, "below", -0.7, "above")
    assert v.low < 0.3 < v.high and v.rule == "x: interquartile mean over 21 seeds below 0.7"


def test_the_weakest_part_decides_and_all_rules_are_told():
    good, open_, bad = above(SEEDS + 2, 0, "a"), above(SEEDS, 0, "b"), exactly(False, 0.4, "c")
    assert together(good, open_).held == "inconclusive" and together(good, open_).value == open_.value
    whole = together(good, open_, bad)
    assert whole.held == "not held" and whole.value == 0.4 and all(f"({v.held})" in whole.rule for v in (good, open_, bad))
    assert whole.parts == (good, open_, bad) and weakest((good, open_)) is open_ and together(good, open_).bound == open_.bound
    both = together(exactly(True, 1.0, "c"), good)
    assert both.held == "held" and both.value == good.value


def test_one_seed_decides_nothing():
    with pytest.raises(LabError, match="A verdict takes at least 2 seeds; got 1"):
        below(torch.tensor([0.0]), 1.0, "x")


def test_a_claim_of_two_parts_is_held_wrongly_no_more_often_than_its_false_part():
    rng = np.random.default_rng(0)
    runs = torch.from_numpy(rng.standard_normal((40, 2, 20)))
    both = [together(above(x, 0, "no effect"), above(y + 3, 0, "a large one")).held for x, y in runs]
    one = [above(x, 0, "no effect").held for x, _ in runs]
    assert both == one and both.count("held") <= 3
