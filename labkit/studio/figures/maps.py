"""A map of policies: points lie as far apart as the policies differ."""
import numpy as np
import plotly.graph_objects as go
import torch
from torch import Tensor

from labkit.divergence import jensen_shannon
from labkit.errors import LabError
from labkit.policy import Categorical
from labkit.record import Record
from labkit.studio.figures.curves import setting_name
from labkit.studio.figures.frame import animate, figure
from labkit.studio.figures.grid import moments
from labkit.studio.theme import style


def js_distances(policies: Tensor, weights: Tensor | None = None) -> Tensor:
    """Distances (n, n) between policies (n, S, A): root of the Jensen-Shannon divergence averaged over states, float64.

    weights (S,) sum to 1; None: all states alike. The root is a metric (Endres and Schindelin 2003), at most sqrt(log 2).
    """
    n, states, _ = policies.shape
    weights = torch.full((states,), 1 / states, dtype=torch.float64) if weights is None else weights.double()
    logs = policies.double().log()
    rows = [jensen_shannon(Categorical(one.expand_as(logs)), Categorical(logs)) @ weights for one in logs]
    square = torch.stack(rows).clamp_min(0)
    return ((square + square.T) / 2 * (1 - torch.eye(n))).sqrt()


def scale(distances: Tensor, dimensions: int = 2) -> tuple[Tensor, float]:
    """Classical multidimensional scaling (Torgerson 1952): points (n, dimensions), and the share of variance they keep.

    Distances of points that lie in that many dimensions are reproduced exactly. Axes run by decreasing variance; each
    is turned so that its largest coordinate is positive.
    """
    n = len(distances)
    centring = torch.eye(n, dtype=torch.float64) - 1 / n
    values, vectors = torch.linalg.eigh(-0.5 * centring @ distances.double().square() @ centring)
    values, vectors = values.flip(0).clamp_min(0)[:dimensions], vectors.flip(1)[:, :dimensions]
    sign = vectors.gather(0, vectors.abs().argmax(0, keepdim=True)).sign()
    total = float((centring @ distances.double().square() @ centring).diagonal().sum() * -0.5)
    return vectors * sign * values.sqrt(), float(values.sum()) / max(total, 1e-300)


def policy_map(record: Record, seed: int = 0, most: int = 15, weights: Tensor | None = None, moving: bool = False) -> go.Figure:
    """Every setting's policy of one seed at up to `most` moments, as a trail on a map of Jensen-Shannon distances.

    weights (S,): how much each state counts. moving: with a time slider.
    """
    if "policy" not in record.fields:
        raise LabError("This record lacks the field 'policy'; record it with fields=watch(world).")
    times, points = moments(record, most), range(len(record.lanes.points))
    lanes = [record.setting(p).start + seed for p in points]
    policies = record.fields["policy"][times][:, lanes].transpose(0, 1)  # (P, T, S, A)
    distances = js_distances(policies.flatten(0, 1), weights)
    places, kept = scale(distances)
    at = places.view(*policies.shape[:2], 2).numpy()
    names = [setting_name(record, p) for p in points]
    walked = distances.view(len(at), len(times), len(at), len(times))
    said = "; ".join(f"{name} {walked[p, 0, p, -1]:.2f}" for p, name in enumerate(names))
    text = (f"Map of {record.algorithm}'s policies on {record.world}, seed {record.lanes.seeds[seed]}, which keeps {kept:.0%} of the "
            f"variance of their distances. Root Jensen-Shannon distance from start to end: {said}.")  # fmt: skip
    heads = [_heads(at[:, t], names) for t in range(len(times))]
    trails = [_trail(p, line) for p, line in enumerate(at)]
    fig = figure([*trails, *heads[-1]], text, height=460, margin={"r": 90},
                 xaxis={"title": {"text": f"root Jensen-Shannon distance; the map keeps {kept:.0%} of the variance"}},
                 yaxis={"scaleanchor": "x"})  # fmt: skip
    return animate(fig, heads, [str(s) for s in record.steps[times].tolist()], [len(trails)]) if moving else fig


def _trail(p: int, line: np.ndarray) -> go.Scatter:
    look = style(p)
    marks = {"symbol": look["symbol"], "color": look["color"], "size": 4}
    return go.Scatter(x=line[:, 0], y=line[:, 1], mode="lines+markers", marker=marks, line={"color": look["color"], "dash": look["dash"]})


def _heads(now: np.ndarray, names: list[str]) -> list[go.Scatter]:
    looks = [style(p) for p in range(len(now))]
    marks = {"color": [look["color"] for look in looks], "symbol": [look["symbol"] for look in looks], "size": 11}
    words = [f" {name}" for name in names]
    x, y = now.T
    return [go.Scatter(x=x, y=y, mode="markers+text", text=words, textposition="middle right", marker=marks, cliponaxis=False)]
