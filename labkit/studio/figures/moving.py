"""A world that moves and a learner that follows: what is recorded of them, and the pictures that stand on one axis of time."""
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import plotly.graph_objects as go
import torch
from torch import Tensor

from labkit.divergence import kl
from labkit.errors import LabError
from labkit.occupancy import discounted
from labkit.paper import Algorithm
from labkit.policy import Categorical
from labkit.record import Record
from labkit.snapshot import Snapshot
from labkit.studio.figures.curves import STEPS, setting_name
from labkit.studio.figures.frame import figure
from labkit.studio.theme import COLOURS, HEAT, INK
from labkit.tabular import changepoint
from labkit.tabular.family import Tabular, unsuspecting
from labkit.worlds.finite import MDP
from labkit.worlds.steered import Event, SteeredWorld

EQUAL = 1e-8  # actions whose exact values differ by less, relative to the state's largest, are equally good
TREMBLE = 0.01  # chance with which a policy is taken to do anything alike, so that the divergence of two sure ones is finite
DRIFT = "kl from best"


def watch_moving(method: Algorithm, world: SteeredWorld) -> dict[str, Callable[[Snapshot], Tensor]]:
    """What `record(fields=watch_moving(method, world))` must keep of a method whose world responds by `steer`.

    "policy" (L, S, A) and its discounted "occupancy" (L, S); "best" (L, S, A), 1 for the actions that are optimal in the world as it
    stands; and of a method with detectors "belief" (L, S, A), the chance that the pair has changed since its detector's last restart.
    """

    def now(snapshot: Snapshot) -> MDP:
        memory = snapshot.learner.memory
        return world.facing(memory["clock"] - 1, memory["deployed"])  # that of the last step

    def policy(snapshot: Snapshot) -> Tensor:
        return snapshot.learner.memory["log_pi"].exp()

    def best(snapshot: Snapshot) -> Tensor:
        q = now(snapshot).best.q
        top = q.amax(-1, keepdim=True)
        return (q >= top - EQUAL * top.abs()).float()

    fields: dict[str, Callable[[Snapshot], Tensor]] = {
        "policy": lambda snapshot: policy(snapshot).float(),
        "occupancy": lambda snapshot: discounted(now(snapshot))(policy(snapshot)).float(),
        "best": best,
    }
    if isinstance(method, Tabular) and method.detect is not unsuspecting:
        fields["belief"] = lambda snapshot: 1 - changepoint.belief(snapshot.learner.memory["watch"])[0][..., 0].float()
    return fields


def with_distance(record: Record) -> Record:
    """The record with the curve DRIFT: how far each policy is from the nearest of those that are optimal in the world as it stands.

    The mean over its own occupancy of KL(policy || nearest) in nats, both with a TREMBLE.
    """
    pi, best, where = (record.fields[name].double() for name in ("policy", "best", "occupancy"))
    near = pi * best
    kept = near.sum(-1, keepdim=True)
    near = torch.where(kept > 0, near / kept.clamp_min(1e-300), best / best.sum(-1, keepdim=True))
    own, other = (Categorical(((1 - TREMBLE) * p + TREMBLE / p.shape[-1]).log()) for p in (pi, near))
    away = (kl(own, other) * where).sum(-1) / where.sum(-1)
    return replace(record, curves=record.curves | {DRIFT: away})


def mark_events(fig: go.Figure, events: Sequence[Event], end: int) -> None:
    """Draw a line where each event happened before step `end`, with its kind above."""
    for event in events:
        if event.step <= end:
            fig.add_vline(event.step, line={"color": COLOURS[1], "width": 1.2, "dash": "dash"})
            fig.add_annotation(x=event.step, y=1, yref="paper", yanchor="bottom", text=event.kind, showarrow=False, textangle=-30,
                               xanchor="left", font={"size": 11, "color": INK})  # fmt: skip


def detector(record: Record, point: int = 0, seed: int | None = None) -> go.Figure:
    """Over time, for each state, the largest belief among its actions that something has changed; above, how many detectors restarted.

    The mean over seeds, or of one, by its number in the record. LabError for a record of a method without detectors.
    """
    if "belief" not in record.fields:
        raise LabError(f"{record.algorithm} asks nobody whether the world has changed; rbocpd_ucrl2 does.")
    rows = slice(None) if seed is None else slice(seed, seed + 1)
    belief = record.fields["belief"][:, record.setting(point)][:, rows].amax(-1).mean(1)  # (T, S)
    total = record.curves["restarts"][:, record.setting(point)][:, rows].mean(1)
    new = total.diff(prepend=total.new_zeros(1))
    steps = record.steps.numpy()
    heat = go.Heatmap(x=steps, y=np.arange(belief.shape[1]), z=belief.T.float().numpy(), zmin=0, zmax=1, colorscale=HEAT,
                      hovertemplate="step %{x}, state %{y}: %{z:.0%}<extra></extra>",
                      colorbar={"title": {"text": "belief in a change", "side": "right"}, "tickformat": ".0%", "outlinewidth": 0,
                                "thickness": 10, "len": 0.7, "y": 0.33})  # fmt: skip
    bars = go.Bar(x=steps, y=new.numpy(), yaxis="y2", marker={"color": COLOURS[1]},
                  hovertemplate="step %{x}: %{y:.1f} restarts<extra></extra>")  # fmt: skip
    busiest = int(new.argmax())
    text = (f"Detectors of {record.algorithm} ({setting_name(record, point)}) in {record.world}: {total[-1]:.1f} restarts per seed so far, "
            f"most of them, {new[busiest]:.1f}, in the steps before {steps[busiest]:,}; the strongest belief now, in state "
            f"{int(belief[-1].argmax())}, is {belief[-1].max():.0%}.")  # fmt: skip
    return figure([heat, bars], text, xaxis={"title": {"text": STEPS}}, yaxis={"title": {"text": "state"}, "domain": [0, 0.68]},
                  yaxis2={"title": {"text": "restarts"}, "domain": [0.76, 1], "rangemode": "tozero"}, bargap=0)  # fmt: skip


# ---- the world itself --------------------------------------------------------------------------------------------


def small_world(record: Record, world: SteeredWorld, at: int, point: int = 0, seed: int = 0) -> go.Figure:
    """The grid at moment `at` of a record: goals as deep as they pay, hollow arrows for what is now best, full ones for what was learnt.

    An arrow points where its action leads by now, and reaches the further the surer that is; a dot runs into a wall. world: that of
    the one seed, which is numbered as in the record.
    """
    row, lane = record.setting(point).start + seed, int(world.mode(record.steps[at : at + 1] - 1))
    mdp = world.models
    places = torch.tensor(mdp.cells, dtype=torch.float64).flip(1)  # (S, 2): x, y
    pays, leads = mdp.r[lane].amax(-1), torch.einsum("sat,td->sad", mdp.P[lane], places) - places[:, None]
    leads = torch.where((pays > 0)[:, None, None] & (mdp.P[lane] - 1 / len(places)).abs().amax(-1, keepdim=True).lt(1e-9), 0.0, leads)
    pi, best, where = (record.fields[name][at, row].double() for name in ("policy", "best", "occupancy"))
    chosen = pi.argmax(-1)
    right = best.gather(-1, chosen[:, None])[:, 0] > 0
    own = leads.gather(1, chosen[:, None, None].expand(-1, 1, 2))[:, 0]
    matters = leads.abs().amax((1, 2)) > 0
    width, height = (int(x) + 1 for x in places.amax(0))
    amount = float((where * right).sum() / where.sum())
    said = ", ".join(f"column {int(x)}, row {int(y)} ({p:.0%})" for (x, y), p in zip(places, pays, strict=True) if p > 0)
    text = (f"The world of seed {record.lanes.seeds[seed]} at step {record.steps[at]:,} and the policy of {record.algorithm} "
            f"({setting_name(record, point)}) in it. Goals: {said}. In {int(right.sum())} of {len(right)} states, where it spends "
            f"{amount:.0%} of its time, the learnt action is one of the best. A dot: it runs into a wall.")  # fmt: skip
    side = {"showgrid": False, "showticklabels": False, "ticks": "", "zeroline": False, "fixedrange": True}
    cell = 400 / max(width, height)
    return figure(
        [_ground(where, width, height), *_goals(places, pays, cell), *_arrows(places, leads, best, cell),
         *_learnt(places[matters], own[matters], right[matters], cell)],
        text, xaxis=side | {"range": [-0.5, width - 0.5], "constrain": "domain"},
        yaxis=side | {"range": [height - 0.5, -0.5], "scaleanchor": "x", "constrain": "domain"},
        height=cell * height + 70, margin={"l": 8, "r": 8, "t": 8, "b": 60}, showlegend=True,
        legend={"orientation": "h", "x": 0, "y": -0.02, "yanchor": "top", "itemclick": False, "itemdoubleclick": False},
    )  # fmt: skip


def _ground(where: Tensor, width: int, height: int) -> go.Heatmap:
    """How much time is spent where: colour grows with its square root."""
    z = where.view(height, width)
    return go.Heatmap(z=z.sqrt().float().numpy(), customdata=z.float().numpy(), zmin=0, zmax=1, colorscale=HEAT, xgap=2, ygap=2,
                      showscale=False, hovertemplate="column %{x}, row %{y}: %{customdata:.1%} of the time<extra></extra>")  # fmt: skip


def _goals(places: Tensor, pays: Tensor, cell: float) -> list[go.Scatter]:
    """Stars, as opaque as the goal pays."""
    x, y = places[pays > 0].T.float().numpy()
    look = {"symbol": "star", "size": 0.5 * cell, "color": COLOURS[2], "opacity": pays[pays > 0].clamp_min(0.15).float().numpy()}
    return [go.Scatter(x=x, y=y, mode="markers", marker=look, name="goal", hoverinfo="skip")]


def _needles(at: Tensor, way: Tensor, look: dict, name: str, cell: float, reach: float) -> go.Scatter:
    """Arrows (n, 2) from places (n, 2), with their tips `reach` cells away where they are sure."""
    tip = at + reach * way
    turn = torch.rad2deg(torch.atan2(way[:, 0], -way[:, 1])).round()
    x, y = tip.T.float().numpy()
    return go.Scatter(x=x, y=y, mode="markers", name=name, hoverinfo="skip", marker={"symbol": "arrow", "angle": turn.numpy()} | look)


def _arrows(places: Tensor, leads: Tensor, best: Tensor, cell: float) -> list[go.Scatter]:
    """Hollow arrows: all actions that are now among the best."""
    s, a = ((best > 0) & (leads.norm(dim=-1) > 0.05)).nonzero().T
    look = {"size": 0.36 * cell, "color": "rgba(0,0,0,0)", "line": {"color": COLOURS[2], "width": 2}}
    return [_needles(places[s], leads[s, a], look, "best now", cell, 0.46)]


def _learnt(places: Tensor, own: Tensor, right: Tensor, cell: float) -> list[go.Scatter]:
    """Full arrows: learnt, among the best or not; dots where a wall is in the way."""
    out = []
    kinds = (True, "learnt, among the best", COLOURS[0], "arrow"), (False, "learnt, not among them", COLOURS[1], "arrow-bar-up")
    for good, name, colour, symbol in kinds:
        rows = right == good
        symbols = [symbol if far > 0.05 else "circle" for far in own[rows].norm(dim=-1).tolist()]
        look = {"size": 0.24 * cell, "color": colour, "symbol": symbols, "line": {"color": colour, "width": 1}}
        out.append(_needles(places[rows], own[rows], look, name, cell, 0.3))
    return out
