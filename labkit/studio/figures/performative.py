"""The performative loop: a policy moves the world that moves the policy. Flows as places on a plane, and the last rounds on the grid."""
from dataclasses import replace

import plotly.graph_objects as go
import torch
from torch import Tensor

from labkit.errors import LabError
from labkit.record import Record
from labkit.snapshot import Snapshot
from labkit.studio.figures.curves import setting_name
from labkit.studio.figures.frame import animate, figure
from labkit.studio.figures.grid import Floor, _heat, _needles, _plan, _things, directions, masses
from labkit.studio.theme import INK, style

LAST = 10  # rounds that are drawn over one another
REST = 1e-3  # a flow that moves by less than this share of itself has settled


def watch_flow() -> dict:
    """What `record(fields=watch_flow())` must keep of performative_rl: "flow" and "policy" (L, S, A), "occupancy" (L, S)."""

    def kept(name: str, change=lambda x: x):
        def field(snapshot: Snapshot) -> Tensor:
            return change(snapshot.learner.memory[name]).float()

        return field

    return {"flow": kept("d"), "policy": kept("log_pi", Tensor.exp), "occupancy": kept("d", lambda d: d.sum(-1))}


def orbit(record: Record) -> tuple[Record, float]:
    """The record with curves "across" and "up", occupancies as places on a plane, and "change", |d' - d| / |d| of flows; (T, L) each.

    The plane is that of the two principal axes of their roots, whose distances are Hellinger's times the root of 2. Also the share
    of the variance that it keeps. LabError for a record without flows.
    """
    if "flow" not in record.fields:
        raise LabError("This record lacks the field 'flow'; record performative_rl with fields=watch_flow().")
    flows, where = (record.fields[name].double().flatten(2) for name in ("flow", "occupancy"))  # (T, L, S A) and (T, L, S)
    roots = (where / where.sum(-1, keepdim=True)).sqrt()
    around = roots - roots.mean((0, 1))
    values, axes = torch.linalg.eigh(around.flatten(0, 1).T @ around.flatten(0, 1))
    axes = axes[:, [-1, -2]] * axes[:, [-1, -2]].sum(0).sign()  # an axis has no direction of its own
    across, up = (around @ axes).unbind(-1)
    moved = flows.diff(dim=0).norm(dim=-1) / flows[:-1].norm(dim=-1)
    change = torch.cat([torch.full_like(moved[:1], torch.nan), moved])
    curves = {"across": across, "up": up, "change": change}
    return replace(record, curves=record.curves | curves), float(values[-2:].sum() / values.sum())


def settled(record: Record, point: int) -> Tensor:
    """Which starts of a setting have come to rest, (seeds,): in none of the last rounds does the flow move by REST or more."""
    return (record.curves["change"][-LAST:, record.setting(point)] < REST).all(0)


def performative_loop(record: Record, floor: Floor, point: int = 0) -> go.Figure:
    """Trails of an `orbit` from every start and, on the grid, the arrows of the last rounds over one another; a slider over settings."""
    points = range(len(record.lanes.points))
    names = [setting_name(record, p) for p in points]
    frames = [[*_trails(record, p), *_rounds(record, floor, p)] for p in points]
    still = [int(settled(record, p).sum()) for p in points]
    starts = len(record.lanes.seeds)
    said = "; ".join(f"{name} {n} of {starts}" for name, n in zip(names, still, strict=True))
    plan = _plan(floor)
    sides = [_side(record.curves[name]) for name in ("across", "up")]
    fig = figure([*frames[point], *(trace.update(xaxis="x2", yaxis="y2") for trace in _things(floor))],
                 f"Occupancies of {record.algorithm} from {starts} starts over {len(record.steps)} rounds, on a plane, and the last {LAST} "
                 f"rounds on the grid. Starts that come to rest: {said}.",
                 width=760, height=500, margin={"l": 40, "r": 90, "t": 10, "b": 100},
                 xaxis={"domain": [0, 0.5], "title": {"text": "occupancy, first principal axis"}, "range": sides[0]},
                 yaxis={"range": sides[1]},
                 xaxis2=plan["xaxis"] | {"domain": [0.56, 1], "anchor": "y2"},
                 yaxis2=plan["yaxis"] | {"scaleanchor": "x2", "anchor": "x2"})  # fmt: skip
    fig = animate(fig, frames, names, range(len(frames[0])))
    fig.layout.sliders[0].update(active=point, currentvalue={"prefix": ""})
    return fig


def _side(places: Tensor) -> list[float]:
    """The range of an axis that holds all places, with a margin."""
    low, high = float(places.min()), float(places.max())
    return [low - 0.05 * (high - low), high + 0.05 * (high - low)]


def _trails(record: Record, point: int) -> list[go.Scatter]:
    """A thin line per start, and over it its last rounds; the largest mark is where it ends."""
    across, up = (record.curves[name][:, record.setting(point)].T.float().numpy() for name in ("across", "up"))
    out = []
    for n, (x, y) in enumerate(zip(across, up, strict=True)):
        colour, dash, symbol = style(n).values()
        marks = {"color": colour, "symbol": symbol, "size": [5] * (min(LAST, len(x)) - 1) + [12], "line": {"color": INK, "width": 0.5}}
        out.append(go.Scatter(x=x, y=y, mode="lines", line={"color": colour, "width": 1, "dash": dash}, opacity=0.6, hoverinfo="skip"))
        out.append(go.Scatter(x=x[-LAST:], y=y[-LAST:], mode="lines+markers", line={"color": colour, "width": 2.5}, marker=marks,
                              hovertemplate=f"start {n + 1}: %{{x:.2f}}, %{{y:.2f}}<extra></extra>"))  # fmt: skip
    return out


def _rounds(record: Record, floor: Floor, point: int) -> list:
    """The mean heat of the last rounds, and one layer of arrows for each of them, all starts alike."""
    times = torch.arange(max(0, len(record.steps) - LAST), len(record.steps))
    each = masses(record, floor, point, times).mean(1)
    arrows, heat = directions(each)
    mean, cells = heat.mean(0), floor.cell.unique()
    layers = [_needles(floor, cells, a, h, float(mean.max())).update(opacity=0.45) for a, h in zip(arrows, heat, strict=True)]
    return [trace.update(xaxis="x2", yaxis="y2") for trace in (_heat(floor, mean, float(mean.max())), *layers)]
