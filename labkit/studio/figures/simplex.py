"""Policies over three actions as points of a triangle: paths, and how far a trust region reaches."""
from collections.abc import Sequence

import numpy as np
import plotly.graph_objects as go
import torch
from torch import Tensor

from labkit.divergence import DIVERGENCES
from labkit.errors import LabError
from labkit.policy import Categorical
from labkit.studio.figures.frame import animate, figure
from labkit.studio.theme import INK, style

CORNERS = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.5, 0.75**0.5]], dtype=torch.float64)


def place(p: Tensor) -> Tensor:
    """Probabilities (..., 3) as points of an equilateral triangle of side 1, (..., 2); actions 0, 1, 2 at left, right, top."""
    return p.double() @ CORNERS


def ball(centre: Tensor, radius: float, divergence: str = "kl", points: int = 181) -> Tensor:
    """The policies at distance `radius` from `centre` (3,): a closed line (points, 3), float64.

    Distance is DIVERGENCES[divergence](centre, policy), which grows along every ray from the centre. Where a ray
    leaves the simplex before it is that far, the point is that of the edge.
    """
    if divergence not in DIVERGENCES or radius <= 0 or bool((centre <= 0).any()):
        raise LabError(f"A ball takes a divergence among {', '.join(DIVERGENCES)}, a radius above 0 and a centre inside the simplex.")
    centre = _policies(centre)
    angle = torch.linspace(0, 2 * torch.pi, points, dtype=torch.float64)
    ray = torch.stack([angle.cos(), angle.sin()], 1) @ torch.linalg.pinv(CORNERS - CORNERS.mean(0))  # (points, 3), rows sum to 0
    edge = torch.where(ray < 0, -centre / ray, torch.inf).amin(1)
    low, high = torch.zeros_like(edge), edge
    for _ in range(60):
        middle = (low + high) / 2
        far = _distance(divergence, centre, centre + middle[:, None] * ray) > radius
        low, high = torch.where(far, low, middle), torch.where(far, middle, high)
    return (centre + high[:, None] * ray).clamp_min(0)


def _policies(p: Tensor) -> Tensor:
    """Float64 probabilities over three actions; LabError where they are not."""
    if p.shape[-1] != 3 or bool((p < 0).any()) or not bool(((p.double().sum(-1) - 1).abs() < 1e-5).all()):
        raise LabError(f"A simplex picture takes probabilities of 3 actions, each row summing to 1; got shape {tuple(p.shape)}.")
    return p.double() / p.double().sum(-1, keepdim=True)


def _distance(divergence: str, centre: Tensor, p: Tensor) -> Tensor:
    q = p.clamp_min(0)
    return DIVERGENCES[divergence](Categorical(centre.log().expand_as(q)), Categorical(q.log()))


def simplex_path(
    policies: Tensor,
    actions: Sequence[str],
    names: Sequence[str] = ("policy",),
    centre: Tensor | None = None,
    radii: Sequence[float] = (0.01, 0.1, 0.5),
    divergence: str = "kl",
    moving: bool = False,
) -> go.Figure:
    """Paths of policies at one state, (T, 3) or (P, T, 3), with balls of `radii` around `centre` (3,), the first policy if None.

    moving: with a time slider.
    """
    paths = _policies(policies.reshape(-1, *policies.shape[-2:]))
    if len(names) != len(paths):
        raise LabError(f"There are {len(paths)} paths and {len(names)} names; give one for each.")
    centre = paths[0, 0] if centre is None else _policies(centre)
    far = _distance(divergence, centre, paths)
    ends = [", ".join(f"{a} {v:.2f}" for a, v in zip(actions, path[-1].tolist(), strict=True)) for path in paths]
    said = "; ".join(f"{n}: ends at {end}, {divergence} {d[-1]:.3g} from the centre" for n, end, d in zip(names, ends, far, strict=True))
    moments = [_heads(paths[:, t], names) for t in range(paths.shape[1])]
    data = [_triangle(), *(_ring(centre, r, divergence) for r in radii), *(_path(p, path) for p, path in enumerate(paths)), _dot(centre)]
    fig = figure([*data, _corners(actions), *moments[-1]], f"Policies over {', '.join(actions)} in the simplex. {said}.", **_TRIANGLE)
    steps = [str(t) for t in range(len(moments))]
    return animate(fig, moments, steps, range(len(data) + 1, len(fig.data)), below=8) if moving else fig


_BARE = {"showgrid": False, "showticklabels": False, "ticks": "", "zeroline": False, "fixedrange": True}
_TRIANGLE = {"xaxis": _BARE | {"range": [-0.12, 1.18]}, "yaxis": _BARE | {"range": [-0.09, 0.95], "scaleanchor": "x"},
             "width": 560, "height": 540, "margin": {"l": 10, "r": 10, "t": 10, "b": 80}}  # fmt: skip


def _triangle() -> go.Scatter:
    x, y = CORNERS[[0, 1, 2, 0]].T.numpy()
    return go.Scatter(x=x, y=y, mode="lines", line={"color": INK, "width": 1.5}, hoverinfo="skip")


def _corners(actions: Sequence[str]) -> go.Scatter:
    middle = CORNERS.mean(0)
    x, y = (middle + 1.06 * (CORNERS - middle)).T.numpy()
    return go.Scatter(x=x, y=y, mode="text", text=list(actions), hoverinfo="skip",
                      textposition="middle center")  # fmt: skip


def _ring(centre: Tensor, radius: float, divergence: str) -> go.Scatter:
    """A ball's edge, named at its top."""
    x, y = place(ball(centre, radius, divergence)).T.numpy()
    words = np.where(np.arange(len(y)) == y.argmax(), f"{divergence} {radius:g}", "")
    return go.Scatter(x=x, y=y, mode="lines+text", text=words.tolist(), textposition="top center", hoverinfo="skip", fill="toself",
                      fillcolor="rgba(128,128,128,0.08)", line={"color": INK, "width": 1, "dash": "dot"})  # fmt: skip


def _path(p: int, path: Tensor) -> go.Scatter:
    x, y = place(path).T.numpy()
    return go.Scatter(x=x, y=y, mode="lines", line={"color": style(p)["color"], "dash": style(p)["dash"], "width": 2.2})


def _dot(centre: Tensor) -> go.Scatter:
    x, y = place(centre).tolist()
    cross = {"symbol": "cross-thin", "size": 10, "line": {"color": INK, "width": 2}}
    return go.Scatter(x=[x], y=[y], mode="markers", marker=cross, hoverinfo="skip")


def _heads(now: Tensor, names: Sequence[str]) -> list[go.Scatter]:
    """Where every path stands, (P, 3)."""
    x, y = place(now).T.numpy()
    looks = [style(p) for p in range(len(now))]
    marks = {"color": [look["color"] for look in looks], "symbol": [look["symbol"] for look in looks], "size": 12}
    return [go.Scatter(x=x, y=y, mode="markers+text", text=[f" {name}" for name in names], textposition="middle right", marker=marks)]
