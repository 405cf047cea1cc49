"""Figures show the numbers of the record, say them in words, and hold on light and dark pages."""
import math

import numpy as np
import pytest
import torch

from labkit.errors import LabError
from labkit.lanes import Lanes
from labkit.record import Record
from labkit.studio import figures, theme
from labkit.studio.figures import curves, frame
from labkit.worlds import make

SEEDS = 12


def record(seeds=SEEDS, grid=None):
    """Two settings, three moments; returns of setting p at moment t run 10 p + t + seed / 100, the first is not known."""
    lanes = Lanes(tuple(range(seeds)), {"eps": (0.1, 0.4)} if grid is None else grid)
    points, moments = len(lanes.points), 3
    base = 10 * torch.arange(points)[None, :, None] + torch.arange(moments)[:, None, None] + torch.arange(seeds) / 100
    returns = base.flatten(1).clone()
    returns[0] = math.nan
    return Record("ppo", "grid.fourrooms", lanes, torch.tensor([100, 200, 300]), {"return": returns, "kl from start": base.flatten(1) / 10})


def floor():
    """Two cells beside each other, one direction each way per cell: states 0, 1 in cell 0, states 2, 3 in cell 1."""
    heading = torch.zeros(4, 2, 2)
    heading[:, 1] = torch.tensor([[1.0, 0.0], [-1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    return figures.Floor(2, 1, torch.tensor([0, 0, 1, 1]), heading, {"goal": torch.tensor([[1, 0]])})


def walked():
    """A record on that floor: one setting, two seeds, two moments."""
    policy = torch.rand(2, 2, 4, 2, generator=torch.Generator().manual_seed(0))
    policy = policy / policy.sum(-1, keepdim=True)
    where = torch.tensor([[[0.4, 0.1, 0.3, 0.2], [0.1, 0.1, 0.4, 0.4]], [[0.2, 0.2, 0.1, 0.5], [0.7, 0.1, 0.1, 0.1]]])
    lanes = Lanes((3, 5))
    return Record("ppo", "grid.two", lanes, torch.tensor([10, 20]), {"return": torch.zeros(2, 2)}, {"policy": policy, "occupancy": where})


def luminance(colour):
    """WCAG's relative luminance of '#rrggbb'."""
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    red, green, blue = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(a, b):
    high, low = sorted((luminance(a), luminance(b)), reverse=True)
    return (high + 0.05) / (low + 0.05)


# theme


def test_text_stands_out_from_light_and_dark_as_far_as_one_colour_can():
    both = [contrast(theme.INK, page) for page in ("#ffffff", "#111111")]
    best = math.sqrt(contrast("#ffffff", "#111111"))  # what a colour gains on one page it loses on the other
    assert min(both) > 0.99 * best and best < 4.5
    assert "--jp-content-font-color1" in theme.FOLLOW  # Jupyter's own colour, where it can be known, passes 4.5


def test_series_stand_out_from_both_pages_and_differ_in_more_than_colour():
    for colour in theme.COLOURS:
        assert min(contrast(colour, "#ffffff"), contrast(colour, "#111111")) >= 3
    for key in ("color", "dash", "symbol"):
        assert len({theme.style(i)[key] for i in range(6)}) == 6


def test_the_template_is_small_and_transparent():
    assert len(theme.template.to_plotly_json().__repr__()) < 1000
    fig = figures.learning_curve(record())
    assert fig.layout.template.layout.paper_bgcolor == "rgba(0,0,0,0)"


# curves


def test_learning_curve_draws_the_iqm_and_its_interval():
    fig = figures.learning_curve(record(), point=1)
    line = next(t for t in fig.data if t.mode == "lines" and t.line.width > 2)
    middle_half = np.arange(3, 9).mean() / 100  # of 12 seeds, the inner 6
    assert np.isnan(line.y[0]) and line.y[1:] == pytest.approx([11 + middle_half, 12 + middle_half])
    band = next(t for t in fig.data if t.fill == "toself")
    centre, low, high = curves.summary(record(), "return", 1)
    assert band.x == pytest.approx([200, 300, 300, 200]) and band.y == pytest.approx([high[1], high[2], low[2], low[1]])
    assert (low[1:] < centre[1:]).all() and (centre[1:] < high[1:]).all() and (high[1:] - low[1:] < 0.11).all()


def test_learning_curve_says_its_numbers():
    centre, low, high = curves.summary(record(), "return", 1)
    text = figures.alt(figures.learning_curve(record(), point=1))
    assert f"eps=0.4: {centre[2]:.3g}, 95% interval {low[2]:.3g} to {high[2]:.3g}" in text and "12 seeds" in text


def test_other_settings_stand_back_and_the_chosen_one_is_named():
    fig = figures.learning_curve(record(), point=0)
    faint = [t for t in fig.data if t.mode == "lines" and t.line.width < 2]
    assert [t.name for t in faint] == ["eps=0.4"] and faint[0].y[1] == pytest.approx(11.055)
    assert [t.text for t in fig.data if t.mode == "text"] == [("  eps=0.1",)]


def test_few_seeds_are_dots_and_no_band():
    fig = figures.learning_curve(record(seeds=9), point=0)
    assert not [t for t in fig.data if t.fill] and "95% interval" not in frame.alt(fig)
    dots = next(t for t in fig.data if t.mode == "markers" and t.marker.size == 4)
    seen = {(x, round(float(y), 4)) for x, y in zip(dots.x, dots.y, strict=True) if not math.isnan(y)}
    assert seen == {(200 + 100 * t, round(1 + t + s / 100, 4)) for t in range(2) for s in range(9)}
    assert "eps=0.1: 2.04, seeds from 2 to 2.08." in frame.alt(fig)
    assert [t for t in figures.learning_curve(record(seeds=10), point=0).data if t.fill == "toself"]


def test_dots_are_thinned_and_the_last_moment_keeps_them():
    times = torch.arange(200) + 1.0
    many = Record("ppo", "w", Lanes(range(3)), times.long(), {"return": times[:, None].expand(200, 3)})
    dots = figures.learning_curve(many).data[0]
    assert dots.mode == "markers" and len(set(dots.x)) <= curves.DOTS and max(dots.x) == 200


def test_a_curve_without_values_and_unknown_names_are_refused():
    nothing = record()
    nothing.curves["return"][:] = math.nan
    with pytest.raises(LabError, match="no finite value"):
        figures.learning_curve(nothing)
    with pytest.raises(LabError, match="no curve 'reward'; it has return"):
        figures.learning_curve(record(), curve="reward")
    with pytest.raises(LabError, match="no setting 2"):
        figures.learning_curve(record(), point=2)


def test_labels_are_pushed_apart_and_keep_their_order():
    assert curves.apart([0.0, 1.0], 0.5) == [0.0, 1.0]
    assert curves.apart([1.0, 1.0, 0.9, 5.0], 0.5) == pytest.approx([0.9667, 1.4667, 0.4667, 5.0], abs=1e-4)


def test_drift_has_a_row_per_curve_with_its_unit():
    fig = figures.drift_over_time(record(), ["kl from start", "return"], point=1)
    assert [fig.layout.yaxis.title.text, fig.layout.yaxis2.title.text] == ["kl from start<br>(nats)", "return"]
    rows = {t.yaxis: t.y for t in fig.data if t.mode == "lines" and t.line.width > 2}
    assert rows["y"] == pytest.approx([1.0055, 1.1055, 1.2055]) and rows["y2"][2] == pytest.approx(12.055)


def test_frontier_ends_where_the_record_ends_and_moves():
    fig = figures.frontier(record(), moving=True)
    head = fig.data[-1]
    assert head.x == pytest.approx([0.2055, 1.2055]) and head.y == pytest.approx([2.055, 12.055]) and head.text == (" eps=0.1", " eps=0.4")
    assert [f.name for f in fig.frames] == ["200", "300"]  # at 100 no return is known
    assert fig.frames[0].data[0].y == pytest.approx([1.055, 11.055]) and fig.frames[0].traces == (2,)
    assert "eps=0.4: return 12.1 at drift 1.21" in figures.alt(fig)


def test_ratio_histogram_counts_what_lies_outside_the_clip():
    ratios = torch.tensor([0.5, 0.79, 0.81, 1.0, 1.0, 1.1, 1.19, 1.21, 1.5, 3.0])
    fig = figures.ratio_histogram(ratios, 0.2)
    inside, outside = fig.data[:2]
    assert sum(inside.y) == pytest.approx(0.5) and sum(outside.y) == pytest.approx(0.5)
    assert max(abs(np.array(inside.x) - 1)) < 0.2 < min(abs(np.array(outside.x) - 1))
    assert [s.x0 for s in fig.layout.shapes] == [0.8, 1.2]
    assert "50.0% of 10 lie outside the clip range 0.8 to 1.2; the largest is 3, the least 0.5" in figures.alt(fig)
    assert fig.data[1].marker.pattern.shape == "/"
    with pytest.raises(LabError, match="eps is above 0"):
        figures.ratio_histogram(ratios, 0.0)


def test_ratio_histogram_moves_through_time():
    fig = figures.ratio_histogram(torch.tensor([[1.0, 1.0, 1.0, 1.0], [1.0, 1.5, 1.5, 1.0]]), 0.2, names=("first", "second"))
    assert [sum(f.data[1].y) for f in fig.frames] == [0, 0.5] and [f.name for f in fig.frames] == ["first", "second"]


# floor


def test_flux_of_two_cells_by_hand():
    policy = torch.tensor([[0.2, 0.8], [0.5, 0.5], [1.0, 0.0], [0.4, 0.6]])
    arrows, heat = figures.flux(policy, torch.tensor([0.3, 0.1, 0.4, 0.2]), floor())
    # cell 0: 0.3 * 0.8 right and 0.1 * 0.5 left, of 0.29 that moves; cell 1: only 0.2 * 0.6 down
    assert torch.allclose(arrows, torch.tensor([[0.19 / 0.29, 0.0], [0.0, 1.0]]).double(), atol=1e-7)
    assert torch.allclose(heat, torch.tensor([0.4, 0.6]).double())


def test_flux_of_a_cell_without_movement_is_no_arrow_and_lanes_stay_apart():
    still = torch.tensor([1.0, 0.0]).expand(4, 2)
    mixed = torch.tensor([0.5, 0.5]).expand(4, 2)
    where = torch.tensor([[0.25] * 4, [0.5, 0.5, 0.0, 0.0]])
    arrows, heat = figures.flux(torch.stack([still, mixed]), where, floor())
    assert not arrows[0].any() and heat.tolist() == [[0.5, 0.5], [1.0, 0.0]]
    assert arrows[1, 0].tolist() == [0.0, 0.0]  # as much to the left as to the right
    with pytest.raises(LabError, match=r"takes policies \(..., 4, 2\)"):
        figures.flux(torch.rand(3, 2), torch.rand(3), floor())


def test_grid_arrows_show_flux_and_heat_of_the_joined_seeds():
    rec = walked()
    fig = figures.grid_arrows(rec, floor())
    both = [figures.flux(rec.fields["policy"][1, n], rec.fields["occupancy"][1, n], floor()) for n in (0, 1)]
    heat = (both[0][1] + both[1][1]) / 2
    assert np.array(fig.data[0].customdata)[0] == pytest.approx(heat.numpy(), abs=1e-6)
    assert np.array(fig.data[0].z)[0] == pytest.approx(heat.sqrt().numpy(), abs=1e-6)
    busy = int(heat.argmax())
    assert f"{heat[busy]:.1%}, is spent in column {busy}, row 0" in figures.alt(fig) and "2 seeds" in figures.alt(fig)
    assert [f.name for f in fig.frames] == ["10", "20"] and len(fig.layout.sliders[0].steps) == 2


def test_grid_arrows_point_along_the_flux_of_one_seed():
    rec = walked()
    arrows, _ = figures.flux(rec.fields["policy"][0, 1], rec.fields["occupancy"][0, 1], floor())
    needles = figures.grid_arrows(rec, floor(), seed=1).frames[0].data[1]
    clockwise = [math.degrees(math.atan2(x, -y)) for x, y in arrows.tolist()]
    assert needles.marker.angle == pytest.approx(clockwise, abs=1)
    lengths = np.array(needles.marker.size) / max(needles.marker.size)
    assert lengths == pytest.approx((arrows.norm(dim=-1) / arrows.norm(dim=-1).max()).numpy(), abs=1e-5)


def test_a_real_grid_has_the_flux_of_its_forward_moves():
    world = make("grid.empty", size=5)
    with pytest.raises(LabError, match="layout_seed=0"):
        figures.floor(world)
    from labkit.worlds.grid import enumerate_states

    world = make("grid.empty", size=5, layout_seed=0)
    ground, table = figures.floor(world), enumerate_states(world)
    policy = torch.zeros(len(table.mu), 7)
    policy[:, 2] = 1.0  # always forward
    facing = table.place[:, 2] == 1  # down
    arrows, heat = figures.flux(policy, facing.float(), ground)
    inner = heat > 0
    assert torch.equal(arrows[inner], torch.tensor([[0.0, 1.0]]).double().expand(int(inner.sum()), 2))
    moved = table.next[facing, 2]
    steps = table.place[moved] - table.place[facing]
    assert set(map(tuple, steps.tolist())) <= {(0, 1, 0), (0, 0, 0)} and (0, 1, 0) in set(map(tuple, steps.tolist()))
    assert ground.things["goal"].tolist() == [[3, 3]]


def test_finite_worlds_with_cells_have_a_floor():
    ground = figures.floor(make("finite.cliff"))
    assert (ground.width, ground.height) == (12, 4)
    assert ground.heading[13].tolist() == [[0, -1], [1, 0], [0, 1], [-1, 0]]  # up, right, down, left
    assert ground.things["goal"].tolist() == [[11, 3]] and len(ground.things["cliff"]) == 10
    with pytest.raises(LabError, match="has no floor"):
        figures.floor(make("control.cartpole"))


def test_difference_map_sums_states_to_cells_and_cells_to_the_change():
    fig = figures.difference_map(torch.tensor([0.5, -0.1, -0.2, -0.1]), floor())
    assert np.array(fig.data[0].customdata)[0] == pytest.approx([0.4, -0.3])
    assert np.array(fig.data[0].text).tolist() == [["+", "−"]]
    assert "+0.1 in all. Largest gain +0.4 in column 0, row 0; largest loss -0.3 in column 1, row 0" in figures.alt(fig)
    with pytest.raises(LabError, match="4 states; the split is of 3"):
        figures.difference_map(torch.zeros(3), floor())


def test_a_record_without_policies_is_refused():
    with pytest.raises(LabError, match="lacks the field 'occupancy'"):
        figures.grid_arrows(record(), floor())


# simplex


@pytest.mark.parametrize(("divergence", "exact"), [
    ("kl", lambda c, q: (c * (c / q).log()).sum(-1)),
    ("reverse_kl", lambda c, q: (q * (q / c).log()).sum(-1)),
])  # fmt: skip
def test_a_ball_lies_at_its_radius(divergence, exact):
    centre = torch.tensor([0.5, 0.3, 0.2]).double()
    edge = figures.ball(centre, 0.05, divergence)
    assert torch.allclose(exact(centre, edge), torch.full((181,), 0.05).double(), atol=1e-9)
    assert torch.allclose(edge.sum(-1), torch.ones(181).double()) and torch.allclose(edge[0], edge[-1])
    seen = figures.place(edge) - figures.place(centre)
    turns = torch.atan2(seen[:, 1], seen[:, 0])
    assert torch.allclose(turns[:90].diff(), torch.full((89,), math.pi / 90).double(), atol=1e-9)  # even all the way round


def test_a_ball_that_is_too_large_ends_at_the_edge():
    centre = torch.tensor([1.0, 1.0, 1.0]) / 3
    edge = figures.ball(centre, 2.0, "total_variation")
    assert torch.allclose(edge.amin(-1), torch.zeros(181).double(), atol=1e-9)
    with pytest.raises(LabError, match="radius above 0"):
        figures.ball(centre, 0.0)


def test_simplex_path_places_policies_and_says_where_they_end():
    path = torch.tensor([[1 / 3, 1 / 3, 1 / 3], [0.5, 0.25, 0.25], [0.2, 0.2, 0.6]])
    fig = figures.simplex_path(path, ("left", "stay", "right"), radii=(0.1,), moving=True)
    line = next(t for t in fig.data if t.mode == "lines" and t.line.color == theme.COLOURS[0])
    assert line.x == pytest.approx([0.5, 0.375, 0.5], abs=1e-6)
    assert line.y == pytest.approx([0.75**0.5 * share for share in (1 / 3, 1 / 4, 0.6)], abs=1e-6)
    drift = (path[0] * (path[0] / path[2]).log()).sum()
    assert f"ends at left 0.20, stay 0.20, right 0.60, kl {drift:.3g} from the centre" in figures.alt(fig)
    assert fig.frames[1].data[0].x == pytest.approx([0.375], abs=1e-6)
    with pytest.raises(LabError, match="3 actions"):
        figures.simplex_path(torch.rand(3, 4), ("a", "b", "c"))


# maps


def test_scaling_reproduces_distances_of_points_in_a_plane():
    points = torch.rand(9, 2, generator=torch.Generator().manual_seed(1)).double()
    distances = torch.cdist(points, points)
    places, kept = figures.scale(distances)
    assert torch.allclose(torch.cdist(places, places), distances, atol=1e-9) and kept == pytest.approx(1)
    _, less = figures.scale(torch.cdist(torch.eye(4).double(), torch.eye(4).double()))
    assert less == pytest.approx(2 / 3)  # a regular tetrahedron, seen flat


def test_js_distances_are_those_of_the_definition():
    policies = torch.tensor([[[0.5, 0.5], [1.0, 0.0]], [[0.9, 0.1], [0.0, 1.0]]]).double()
    weights = torch.tensor([0.75, 0.25])
    middle = policies.mean(0)
    halves = [0.5 * torch.where(p > 0, p * (p / middle).log(), 0).sum(-1) for p in policies]
    want = ((halves[0] + halves[1]) @ weights.double()).sqrt()
    distances = figures.js_distances(policies, weights)
    assert distances[0, 1].item() == pytest.approx(want.item()) and distances.diagonal().tolist() == [0, 0]


def test_policy_map_joins_snapshots_of_one_seed():
    rec = walked()
    fig = figures.policy_map(rec, seed=1)
    ends = figures.js_distances(rec.fields["policy"][:, 1])
    apart = math.dist(*zip(fig.data[0].x, fig.data[0].y, strict=True))
    assert apart == pytest.approx(ends[0, 1].item(), rel=1e-5) and f"ppo {ends[0, 1]:.2f}" in figures.alt(fig)


# showing


def test_show_displays_the_figure_and_its_words(monkeypatch):
    shown = []
    monkeypatch.setattr(frame, "display", shown.append)
    fig = figures.figure([], "Return 3 < 4.")
    figures.show(fig)
    assert shown[0] is fig and "Figure: Return 3 &lt; 4." in shown[1].data
    with pytest.raises(LabError, match="no text alternative"):
        figures.alt(figures.figure([], "").update_layout(meta=None))


def test_watch_keeps_policies_and_occupancies_that_sum_to_one():
    from labkit.on_policy.family import ppo
    from labkit.record import record as run

    world = make("grid.empty", size=5, layout_seed=0)
    rec = run(ppo, world, Lanes((0, 1)), steps=1024, fields=figures.watch(world))
    assert torch.allclose(rec.fields["policy"].sum(-1), torch.ones(()), atol=1e-5)
    assert torch.allclose(rec.fields["occupancy"].sum(-1), torch.ones(()), atol=1e-5)
    with pytest.raises(LabError, match="cannot be listed"):
        figures.watch(make("control.cartpole"))
