"""Figures: pure functions of records and tensors, each with a text alternative."""
from labkit.studio.figures.curves import drift_over_time, frontier, learning_curve, ratio_histogram
from labkit.studio.figures.frame import alt, animate, figure, show
from labkit.studio.figures.grid import Floor, difference_map, floor, flux, grid_arrows, watch

__all__ = ["Floor", "alt", "animate", "difference_map", "drift_over_time", "figure", "floor", "flux", "frontier", "grid_arrows",
           "learning_curve", "ratio_histogram", "show", "watch"]  # fmt: skip
