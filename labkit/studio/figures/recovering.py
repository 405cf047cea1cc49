"""Recovering arms: what each has regained in every round, and who harvests it when."""
from collections.abc import Sequence
from typing import Any

import plotly.graph_objects as go
from torch import Tensor

from labkit.errors import LabError
from labkit.studio.figures.frame import animate, figure
from labkit.studio.theme import COLOURS, FAINT, HEAT, INK

GAP = 0.08  # between the policies, as a share of the width


def harvest(curve: Tensor, idle: Tensor) -> tuple[Tensor, Tensor]:
    """What each arm would pay in each round and what was taken of it, (..., T, N) each, of curve (N, D) and idle (..., T + 1, N).

    An arm whose idle time is 1 in the next round has been pulled in this one. LabError where the shapes do not go together.
    """
    if curve.dim() != 2 or idle.shape[-1] != len(curve) or idle.shape[-2] < 2 or idle.min() < 1 or idle.max() > curve.shape[1]:
        shapes = f"{tuple(curve.shape)} and {tuple(idle.shape)}"
        raise LabError(f"A harvest takes curves (N, D) and idle times (..., T + 1, N) from 1 to D; got {shapes}.")
    worth = curve.expand(*idle.shape[:-1], -1, -1).gather(-1, idle[..., None] - 1)[..., :-1, :, 0]
    return worth, worth * (idle[..., 1:, :] == 1)


def recovering_arms(curve: Tensor, idle: Tensor, names: Sequence[str], bound: float) -> go.Figure:
    """P policies side by side on the same N arms, with a slider over T rounds: above, a bar for what each arm would pay now, against
    the most that it pays; below, what was taken in every round.

    curve (N, D): pay after 1 .. D idle rounds. idle (P, T + 1, N): idle times before each round and after the last. bound: of the mean
    reward of a round.
    """
    if len(names) != len(idle):
        raise LabError(f"There are {len(idle)} policies and {len(names)} names; give one for each.")
    worth, taken = harvest(curve, idle)
    mean = taken.sum(-1).mean(-1)
    said = "; ".join(f"{name}: {m:.2f} a round, {m / bound:.0%} of the bound" for name, m in zip(names, mean.tolist(), strict=True))
    text = f"What {len(curve)} arms have regained, and what policies take of it in {worth.shape[1]} rounds. {said}."
    still = [trace for p in range(len(names)) for trace in (_most(curve, p), _rows(taken[p], p))]
    moments = [[t for p in range(len(names)) for t in _moment(worth[p], taken[p], names[p], p, now)] for now in range(worth.shape[1])]
    axes = _axes(len(names), worth.shape[1], len(curve), float(curve.max()))
    fig = figure([*still, *moments[-1]], text, height=520, barmode="overlay", bargap=0.25, **axes)
    fig = animate(fig, moments, [str(now + 1) for now in range(len(moments))], range(len(still), len(fig.data)), below=45)
    fig.layout.sliders[0].currentvalue.prefix = "round "
    return fig


def _place(p: int, row: int) -> dict[str, str]:
    """The axes of policy p: row 0 is above, row 1 below."""
    number = 2 * p + row + 1
    return {"xaxis": f"x{number}", "yaxis": f"y{number}"}


def _axes(policies: int, rounds: int, arms: int, most: float) -> dict[str, dict[str, Any]]:
    """Two rows of axes, policies beside each other; the arms have names on the left alone."""
    wide, out = (1 - GAP * (policies - 1)) / policies, dict[str, dict[str, Any]]()
    rows = (("would pay now", [0, 1.08 * most], -1.7, [0.53, 1.0]), ("round", [0.5, rounds + 0.5], -0.5, [0.0, 0.37]))
    for p in range(policies):
        across = [p * (wide + GAP), p * (wide + GAP) + wide]
        for row, (label, span, top, high) in enumerate(rows):
            end = "" if p == row == 0 else str(2 * p + row + 1)
            out[f"xaxis{end}"] = {"domain": across, "anchor": f"y{end}", "range": span, "title": {"text": label}}
            arm: dict[str, Any] = {"range": [arms - 0.5, top], "tickvals": list(range(arms)), "title": {"text": "" if p else "arm"}}
            out[f"yaxis{end}"] = {"domain": high, "anchor": f"x{end}", "showgrid": False, "showticklabels": p == 0, "ticks": "", **arm}
    return out


def _most(curve: Tensor, p: int) -> go.Scatter:
    """What each arm pays once it is rested."""
    mark = {"symbol": "line-ns", "size": 13, "line": {"color": INK, "width": 2}}
    return go.Scatter(x=curve[:, -1].tolist(), y=list(range(len(curve))), mode="markers", marker=mark, hoverinfo="skip", **_place(p, 0))


def _rows(taken: Tensor, p: int) -> go.Heatmap:
    """What was taken of every arm in every round."""
    said = "round %{x}, arm %{y}: %{z:.2f} taken<extra></extra>"
    return go.Heatmap(x=list(range(1, len(taken) + 1)), y=list(range(taken.shape[1])), z=taken.T.numpy().round(3), colorscale=HEAT, zmin=0,
                      zmax=1, xgap=1, ygap=1, showscale=False, hovertemplate=said, **_place(p, 1))  # fmt: skip


def _moment(worth: Tensor, taken: Tensor, name: str, p: int, now: int) -> list:
    """Bars, those of pulled arms in another colour and marked, the policy's mean so far, and where the rows stand."""
    pulled, arms = (taken[now] > 0).nonzero()[:, 0].tolist(), list(range(worth.shape[1]))
    look = {"color": [COLOURS[1] if arm in pulled else FAINT for arm in arms], "line": {"color": INK, "width": 1}}
    dots = {"symbol": "diamond", "size": 9, "color": COLOURS[1]}
    said = f"<b>{name}</b>: {taken[: now + 1].sum(-1).mean():.2f} a round so far"
    above, below, quiet = _place(p, 0), _place(p, 1), {"hoverinfo": "skip"}
    hover = "arm %{y}: %{x:.2f}<extra></extra>"
    return [
        go.Bar(x=worth[now].numpy().round(3), y=arms, orientation="h", marker=look, hovertemplate=hover, **above),
        go.Scatter(x=worth[now, pulled].tolist(), y=pulled, mode="markers", marker=dots, **quiet, **above),
        go.Scatter(x=[0], y=[-1.1], mode="text", text=[said], textposition="middle right", **quiet, **above),
        go.Scatter(x=[now + 1] * 2, y=[-0.5, len(arms) - 0.5], mode="lines", line={"color": INK, "width": 2}, **quiet, **below),
    ]
