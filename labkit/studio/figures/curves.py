"""Curves of a record over time: learning, drift, one against the other, and the ratios that a clip sees."""
from collections.abc import Sequence

import numpy as np
import plotly.graph_objects as go
import torch
from torch import Tensor

from labkit import stats
from labkit.errors import LabError
from labkit.record import Record
from labkit.studio.figures.frame import animate, figure
from labkit.studio.theme import INK, rgba, style

STEPS = "environment steps per seed"
NATS = ("kl", "js", "renyi", "entropy")
DOTS = 60  # moments at which single seeds are drawn, at most


def curve_of(record: Record, name: str) -> Tensor:
    """A record's curve (T, L). LabError names the ones there are."""
    if name not in record.curves:
        raise LabError(f"This record has no curve {name!r}; it has {', '.join(record.curves)}.")
    return record.curves[name]


def title(name: str) -> str:
    """A curve's name with its unit: 'kl from start' -> 'kl from start (nats)'."""
    return f"{name} (nats)" if name.lower().startswith(NATS) else name


def setting_name(record: Record, point: int) -> str:
    """'eps=0.2', or the algorithm's name where nothing varies. LabError for a setting that is not there."""
    points = record.lanes.points
    if not 0 <= point < len(points):
        raise LabError(f"There is no setting {point}; this record has settings 0 to {len(points) - 1}.")
    return ", ".join(f"{k}={v:g}" for k, v in points[point].items()) or record.algorithm


def summary(record: Record, name: str, point: int, times: Tensor | None = None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """IQM over seeds of one setting's curve and its 95% interval: centre, low, high, each (T,) float32.

    times: only at these moments. NaN at moments when some seed has no value yet, such as a return before the first episode has ended.
    """
    values = curve_of(record, name)[slice(None) if times is None else times, record.setting(point)]
    known = values.isfinite().all(1)
    out = np.full((3, len(values)), np.nan, np.float32)
    if known.any():
        out[:, known.numpy()] = torch.stack(stats.interval(values[known])).numpy()
    return out[0], out[1], out[2]


def _named(words: str) -> dict:
    return {"title": {"text": words}}


def last(values: np.ndarray) -> int:
    """The last moment with a value; LabError where there is none."""
    known = np.isfinite(values).nonzero()[0]
    if not len(known):
        raise LabError("This curve has no finite value yet; record more steps.")
    return int(known[-1])


def learning_curve(record: Record, point: int | None = None, curve: str = "return") -> go.Figure:
    """A curve over time: IQM over seeds, with its 95% interval from 10 seeds on, else with a dot for every seed.

    point: one setting, the others standing back; None: all settings alike.
    """
    points = range(len(record.lanes.points)) if point is None else [point]
    faint = [] if point is None else [p for p in range(len(record.lanes.points)) if p != point]
    data = [_line(record, curve, p, faint=True) for p in faint]
    said, ends = [], []
    for p in points:
        name = setting_name(record, p)
        centre, low, high = summary(record, curve, p)
        data += [*_spread(record, curve, p, low, high), _line(record, curve, p)]
        t = last(centre)
        ends.append((p, t, centre))
        said.append(f"{name}: {centre[t]:.3g}, {_spread_in_words(record, curve, p, t, low, high)}")
    whose = f"{record.algorithm} in {record.world} over {len(record.lanes.seeds)} seeds"
    text = f"{title(curve)} of {whose}, at its end. {'; '.join(said)}."
    return figure(data + _ends(record, ends), text, xaxis=_named(STEPS), yaxis=_named(title(curve)), margin={"r": 110})


def _line(record: Record, curve: str, p: int, faint: bool = False) -> go.Scatter:
    look = style(p)
    line = {"color": rgba("#808080", 0.55) if faint else look["color"], "dash": look["dash"], "width": 1.2 if faint else 2.2}
    return go.Scatter(x=record.steps.numpy(), y=summary(record, curve, p)[0], mode="lines", line=line, name=setting_name(record, p))


def _spread(record: Record, curve: str, p: int, low: np.ndarray, high: np.ndarray) -> list[go.Scatter]:
    """The interval as a band, or a dot per seed where there are too few seeds for one."""
    steps, colour = record.steps.numpy(), style(p)["color"]
    quiet = {"hoverinfo": "skip", "name": setting_name(record, p)}
    if len(record.lanes.seeds) < stats.FEW:
        every = -(-len(steps) // DOTS)
        seeds = curve_of(record, curve)[:, record.setting(p)].float().numpy()[::-every]
        x, y = np.repeat(steps[::-every], seeds.shape[1]), seeds.flatten()
        return [go.Scatter(x=x, y=y, mode="markers", marker={"color": rgba(colour, 0.5), "size": 4}, **quiet)]
    known = np.isfinite(low)
    x, y = np.concatenate([steps[known], steps[known][::-1]]), np.concatenate([high[known], low[known][::-1]])
    return [go.Scatter(x=x, y=y, fill="toself", fillcolor=rgba(colour, 0.15), mode="none", **quiet)]


def _spread_in_words(record: Record, curve: str, p: int, t: int, low: np.ndarray, high: np.ndarray) -> str:
    """The interval at moment t, or the seeds' range where there are too few for one."""
    if len(record.lanes.seeds) < stats.FEW:
        seeds = curve_of(record, curve)[t, record.setting(p)]
        return f"seeds from {seeds.min():.3g} to {seeds.max():.3g}"
    return f"95% interval {low[t]:.3g} to {high[t]:.3g}"


def _ends(record: Record, ends: list[tuple[int, int, np.ndarray]]) -> list[go.Scatter]:
    """The ends of lines, marked, and named to the right: (setting, last moment, values (T,)) of each."""
    x = [record.steps[t].item() for _, t, _ in ends]
    y = [float(values[t]) for _, t, values in ends]
    looks = [style(p) for p, _, _ in ends]
    marks = {"color": [look["color"] for look in looks], "symbol": [look["symbol"] for look in looks], "size": 8}
    span = np.nanmax([values for *_, values in ends]) - np.nanmin([values for *_, values in ends])
    names = {"text": [f"  {setting_name(record, p)}" for p, _, _ in ends], "textposition": "middle right"}
    quiet = {"cliponaxis": False, "hoverinfo": "skip"}
    return [go.Scatter(x=x, y=y, mode="markers", marker=marks, **quiet),
            go.Scatter(x=x, y=apart(y, 0.05 * float(span)), mode="text", **names, **quiet)]  # fmt: skip


def apart(places: Sequence[float], gap: float) -> list[float]:
    """The same places pushed apart until neighbours are at least `gap` from each other, their order and mean kept."""
    order = np.argsort(places, kind="stable")
    groups: list[tuple[float, int]] = []  # mean and size of runs of labels that touch
    for place in np.asarray(places, float)[order]:
        mean, size = place, 1
        while groups and mean - (size - 1) * gap / 2 < groups[-1][0] + (groups[-1][1] + 1) * gap / 2:
            other, more = groups.pop()
            mean, size = (other * more + mean * size) / (more + size), more + size
        groups.append((mean, size))
    out = np.empty(len(order))
    out[order] = np.concatenate([mean + gap * (np.arange(size) - (size - 1) / 2) for mean, size in groups])
    return out.tolist()


def drift_over_time(record: Record, curves: Sequence[str], point: int | None = None) -> go.Figure:
    """Drift curves below one another, time in common: each is a triple (reference, divergence, states) that a meter read."""
    fig = figure([], "").set_subplots(len(curves), 1, shared_xaxes=True, vertical_spacing=0.08)
    said = []
    for row, name in enumerate(curves, 1):
        part = learning_curve(record, point, name)
        fig.add_traces(part.data, rows=row, cols=1)
        fig.update_yaxes(title_text=title(name).replace(" (", "<br>("), row=row, col=1)
        said.append(part.layout.meta["alt"])
    fig.update_xaxes(title_text=STEPS, row=len(curves), col=1)
    return fig.update_layout(meta={"alt": " ".join(said)}, margin={"r": 110}, height=80 + 190 * len(curves))


def frontier(record: Record, drift: str = "kl from start", curve: str = "return", moving: bool = False) -> go.Figure:
    """What each setting pays in drift for its return: a trail per setting through time, IQM over seeds.

    moving: with a time slider that draws the trails up to its moment.
    """
    xs, ys = (np.stack([summary(record, name, p)[0] for p in range(len(record.lanes.points))]) for name in (drift, curve))
    known = (np.isfinite(xs) & np.isfinite(ys)).all(0).nonzero()[0]
    if not len(known):
        raise LabError(f"There is no moment at which every setting has both {drift!r} and {curve!r}; record more steps.")
    xs, ys = xs[:, known], ys[:, known]
    names = [setting_name(record, p) for p in range(len(xs))]
    said = "; ".join(f"{name}: {curve} {y[-1]:.3g} at drift {x[-1]:.3g}" for name, x, y in zip(names, xs, ys, strict=True))
    trails = [_trail(p, name, x, y) for p, (name, x, y) in enumerate(zip(names, xs, ys, strict=True))]
    moments = [_heads(names, xs[:, t], ys[:, t]) for t in range(len(known))]
    fig = figure([*trails, *moments[-1]], f"{curve} against {title(drift)}, one trail per setting, at the end. {said}.",
                 xaxis=_named(title(drift)), yaxis=_named(title(curve)), margin={"r": 110})  # fmt: skip
    steps, heads = [str(s) for s in record.steps[known].tolist()], range(len(trails), len(fig.data))
    return animate(fig, moments, steps, heads) if moving else fig


def _trail(p: int, name: str, x: np.ndarray, y: np.ndarray) -> go.Scatter:
    look = style(p)
    return go.Scatter(x=x, y=y, mode="lines", name=name, line={"color": look["color"], "dash": look["dash"], "width": 1.6})


def _heads(names: Sequence[str], x: np.ndarray, y: np.ndarray) -> list[go.Scatter]:
    """Where every setting stands at one moment."""
    looks = [style(p) for p in range(len(x))]
    marks = {"color": [look["color"] for look in looks], "symbol": [look["symbol"] for look in looks], "size": 11}
    words = [f" {name}" for name in names]
    return [go.Scatter(x=x, y=y, mode="markers+text", marker=marks, text=words, textposition="middle right", cliponaxis=False)]


def ratio_histogram(ratios: Tensor, eps: float, names: Sequence[str] = ()) -> go.Figure:
    """How new and old probabilities relate, ratio = new / old, around the clip range 1 - eps .. 1 + eps.

    ratios (B,), or (T, B) with `names` of the T moments for a time slider. The share outside is written in.
    The outermost bars count everything that lies further out.
    """
    if eps <= 0 or bool((ratios < 0).any()) or not bool(ratios.isfinite().all()):
        raise LabError(f"Ratios are finite and at least 0, and eps is above 0; got eps={eps:g} and ratios from {ratios.min():g} on.")
    rows = ratios.reshape(-1, ratios.shape[-1]).double().numpy()
    edges = _edges(rows, eps)
    counts = np.stack([np.histogram(np.clip(row, edges[0], edges[-1]), edges)[0] for row in rows]) / rows.shape[1]
    outside = (np.abs(rows - 1) > eps).mean(1)
    moments = [_bars(edges, c, share, eps, counts.max()) for c, share in zip(counts, outside, strict=True)]
    text = (f"Ratios of new to old probability: {outside[-1]:.1%} of {rows.shape[1]} lie outside the clip range {1 - eps:g} to "
            f"{1 + eps:g}; the largest is {rows[-1].max():.3g}, the least {rows[-1].min():.3g}.")  # fmt: skip
    fig = figure(moments[-1], text, bargap=0.05, xaxis=_named("new probability / old probability"),
                 yaxis=_named("share of samples") | {"tickformat": ".0%", "range": [0, 1.18 * counts.max()]})  # fmt: skip
    for edge in (1 - eps, 1 + eps):
        fig.add_shape(type="line", x0=edge, x1=edge, y0=0, y1=1.06 * counts.max(), line={"color": INK, "dash": "dash", "width": 1.5})
    return animate(fig, moments, names, range(len(moments[0]))) if len(rows) > 1 else fig


def _edges(rows: np.ndarray, eps: float) -> np.ndarray:
    """Edges of about 50 equal bars over nearly all ratios; 1 - eps and 1 + eps are among them."""
    low, high = min(1 - eps, float(np.quantile(rows, 0.001))), max(1 + eps, float(np.quantile(rows, 0.999)))
    width = 2 * eps / np.ceil(50 * 2 * eps / (high - low))
    return 1 - eps + width * np.arange(np.floor((low - 1 + eps) / width), np.ceil((high - 1 + eps) / width) + 1)


def _bars(edges: np.ndarray, counts: np.ndarray, share: float, eps: float, top: float) -> list[go.Bar | go.Scatter]:
    """Bars inside and outside the clip range (hatched), and the words above them."""
    middle = (edges[1:] + edges[:-1]) / 2
    inside = np.abs(middle - 1) < eps
    bars = [
        go.Bar(x=middle[mask], y=counts[mask], width=edges[1] - edges[0], marker={"color": style(i)["color"], "pattern": {"shape": shape}})
        for i, (mask, shape) in enumerate(((inside, ""), (~inside, "/")))
    ]
    words, places = [f"{1 - share:.1%} inside", f"{share:.1%} outside the clip"], ["middle center", "middle right"]
    return [*bars, go.Scatter(x=[1, 1 + eps], y=[1.12 * top, 1.02 * top], mode="text", text=words, textposition=places)]
