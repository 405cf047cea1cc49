"""Figures: pure functions of records and tensors, each with a text alternative."""
from labkit.studio.figures.curves import drift_over_time, frontier, learning_curve, ratio_histogram
from labkit.studio.figures.forest import forest, replications
from labkit.studio.figures.frame import alt, animate, figure, show
from labkit.studio.figures.grid import Floor, difference_map, floor, flux, grid_arrows, watch
from labkit.studio.figures.maps import js_distances, policy_map, scale
from labkit.studio.figures.moving import detector, mark_events, small_world, watch_moving, with_distance
from labkit.studio.figures.performative import orbit, performative_loop, settled, watch_flow
from labkit.studio.figures.petals import petals
from labkit.studio.figures.recovering import harvest, recovering_arms
from labkit.studio.figures.responses import before_after, groups, responses, update_at, watch_inside
from labkit.studio.figures.simplex import ball, place, simplex_path

__all__ = [
    "Floor", "alt", "animate", "ball", "before_after", "detector", "difference_map", "drift_over_time", "figure", "floor", "flux", "forest",
    "frontier", "grid_arrows", "groups", "harvest", "js_distances", "learning_curve", "mark_events", "orbit", "performative_loop", "petals",
    "place", "policy_map", "ratio_histogram", "recovering_arms", "replications", "responses", "scale", "settled", "show", "simplex_path",
    "small_world", "update_at", "watch", "watch_flow", "watch_inside", "watch_moving", "with_distance",
]  # fmt: skip
