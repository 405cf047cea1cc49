"""A forest plot shows where intervals lie from their bounds, never one claim's units against another's."""
import pytest

from labkit.errors import LabError
from labkit.studio.figures import alt, forest, replications
from labkit.studio.figures.forest import EDGE
from labkit.verdict import above, below, together
from tests.made_up import SPREAD, entry, estimate, part_counted


def drawn(fig):
    """(verdict, key, low, value, high) of each interval, from the left."""
    found = [
        (trace.name, key, x - reach_down, x, x + reach_up)
        for trace in fig.data
        if trace.mode == "markers"
        for key, x, reach_down, reach_up in zip(trace.customdata, trace.x, trace.error_x.arrayminus, trace.error_x.array, strict=True)
    ]
    return sorted(found, key=lambda row: row[3])


def said(fig):
    return [text for trace in fig.data if trace.mode == "text" for text in trace.text]


def test_an_interval_is_placed_in_its_own_half_widths_from_its_bound():
    v = above(SPREAD + 0.5, 0.3, "x")
    [(held, key, low, value, high)] = drawn(forest([entry("ppo", v)]))
    half = (v.high - v.low) / 2
    assert (held, key) == ("inconclusive", "ppo")
    assert (low, value, high) == pytest.approx(((v.low - 0.3) / half, (v.value - 0.3) / half, (v.high - 0.3) / half))
    assert high - low == pytest.approx(2) and low < 0 < high


def test_units_do_not_matter_and_what_holds_lies_to_the_right():
    up, mirrored, scaled = above(SPREAD + 1, 0.2, "x"), below(-SPREAD - 1, -0.2, "x"), above(1000 * (SPREAD + 1), 200, "x")
    places = [drawn(forest([entry("ppo", v)]))[0] for v in (up, mirrored, scaled)]
    assert {place[0] for place in places} == {"held"} and all(place[2] > 0 for place in places)
    assert places[1][2:] == pytest.approx(places[0][2:], rel=1e-4) and places[2][2:] == pytest.approx(places[0][2:], rel=1e-4)


def test_what_lies_far_out_stands_at_the_edge_with_its_distance():
    fig = forest([entry("ppo", estimate(50)), entry("trpo", estimate(-50))])
    assert [row[2:] for row in drawn(fig)] == [(-EDGE,) * 3, (EDGE,) * 3]
    distance = round(50 / ((estimate(50).high - estimate(50).low) / 2))
    assert any(f"{distance} ▸" in text for text in said(fig)) and any(f"◂ {-distance}" in text for text in said(fig))


def test_the_deciding_part_is_drawn_and_a_counted_one_has_no_interval():
    weak, strong = estimate(0.1), estimate(3, what="another")
    assert drawn(forest([entry("ppo", together(strong, weak))]))[0][3] == drawn(forest([entry("ppo", weak)]))[0][3]
    fig = forest([entry("a2c", together(strong, part_counted(False)))])
    assert drawn(fig) == [] and any("not held" in text for text in said(fig)) and "a2c not held, 0.4, counted" in alt(fig)
    note = fig.data[-1]
    assert note.x[0] == 0 and note.textposition[0] == "middle left"  # its side is known, its distance is not


def test_raw_numbers_are_printed_and_said():
    v = estimate(0.5, bound=-0.25)
    fig = forest([entry("fixpo", v)])
    numbers = f"{v.value:.3g} [{v.low:.3g}, {v.high:.3g}]"
    assert f"<b>fixpo</b>  {numbers}  above -0.25" in said(fig) and f"fixpo held, {numbers}, above -0.25" in alt(fig)


def test_every_verdict_has_its_own_shape_and_colour():
    entries = [entry("ppo", estimate(2)), entry("trpo", estimate(0)), entry("a2c", estimate(-2))]
    markers = [trace.marker for trace in forest(entries).data if trace.mode == "markers"]
    assert len({m.symbol for m in markers}) == len({m.color for m in markers}) == 3


def test_replications_keep_their_units_and_leave_other_rules_out():
    v, w = (together(estimate(x), part_counted(True), estimate(x + 1, 0.5, "another")) for x in (0.2, 2.0))
    older = entry("ppo", together(estimate(1, bound=0.9), part_counted(True), estimate(1, 0.5, "another")))
    fig = replications([older, entry("ppo", v), entry("ppo", w)], ["older", "first", "second"])
    parts = sorted((p.low, p.value, p.high) for x in (v, w) for p in x.parts if p.low < p.high)
    assert sum((row[2:] for row in drawn(fig)), ()) == pytest.approx(sum(parts, ()))
    assert len([shape for shape in fig.layout.shapes if shape.x0 in (0.0, 0.5)]) == 2
    assert "second" in alt(fig) and "older" not in alt(fig) and alt(fig).index("second") < alt(fig).index("first")


def test_without_numbers_there_is_no_picture():
    with pytest.raises(LabError, match="no verdict to draw yet"):
        forest([])
    with pytest.raises(LabError, match="there is no interval to draw"):
        replications([entry("ppo", part_counted(True))], ["first"])
