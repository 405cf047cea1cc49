"""Petals: what several methods are worth on a few scales at once, as flowers side by side."""
from collections.abc import Mapping, Sequence

import plotly.graph_objects as go
import torch
from torch import Tensor

from labkit.errors import LabError
from labkit.studio.figures.frame import animate, figure
from labkit.studio.theme import COLOURS, FAINT, INK, rgba


def petals(worth: Mapping[str, Mapping[str, Tensor]], names: Sequence[str]) -> go.Figure:
    """worth: situation -> scale -> (methods, seeds), larger is better. A flower per method; a slider over situations.

    A petal's length is the mean over seeds, from 0 for the worst to 1 for the best of all methods and situations. Each scale has
    its colour and its place. LabError where `names` are not as many as the methods.
    """
    scales = list(next(iter(worth.values())))
    means = torch.stack([torch.stack([found[name].double().mean(1) for name in scales], -1) for found in worth.values()])
    if means.shape[1] != len(names):
        raise LabError(f"There are {means.shape[1]} methods and {len(names)} names; give one for each.")
    low, high = means.amin((0, 1)), means.amax((0, 1))
    length = (means - low) / torch.where(high > low, high - low, 1)  # (situations, methods, scales)
    frames = [[_flower(i, *petal, scales) for i, petal in enumerate(zip(*each, strict=True))] for each in zip(length, means, strict=True)]
    longest = [", ".join(f"{scale} {names[i]}" for scale, i in zip(scales, each.argmax(0).tolist(), strict=True)) for each in length]
    said = "; ".join(f"{situation}: {words}" for situation, words in zip(worth, longest, strict=True))
    fig = figure(frames[-1], f"Flowers of {', '.join(names)} with petals for {', '.join(scales)}. Longest petals: {said}.", height=330,
                 margin={"l": 30, "r": 30, "t": 50, "b": 90}, annotations=_titles(names), **_beds(len(names), scales))  # fmt: skip
    fig = animate(fig, frames, list(worth), range(len(names)), below=20)
    fig.layout.sliders[0].currentvalue.prefix = ""
    return fig


def _flower(i: int, lengths: Tensor, values: Tensor, scales: Sequence[str]) -> go.Barpolar:
    """A stub is left of the shortest petal, so that it is seen to be one."""
    marks = {"color": [rgba(COLOURS[s], 0.75) for s in range(len(scales))], "line": {"color": INK, "width": 1}}
    return go.Barpolar(r=(0.04 + 0.96 * lengths).tolist(), theta=list(scales), width=[0.8] * len(scales), marker=marks,
                       subplot=f"polar{i + 1 if i else ''}", customdata=values.tolist(),
                       hovertemplate="%{theta}: %{customdata:.3g}<extra></extra>")  # fmt: skip


def _beds(count: int, scales: Sequence[str]) -> dict:
    """Where the flowers stand, and their axes, turned so that words beside one another do not meet."""
    radial = {"range": [0, 1], "showticklabels": False, "ticks": "", "gridcolor": FAINT, "showline": False}
    angular = {"categoryarray": list(scales), "categoryorder": "array", "gridcolor": FAINT, "linecolor": FAINT, "rotation": 45,
               "tickfont": {"size": 9}}  # fmt: skip
    look = {"bgcolor": "rgba(0,0,0,0)", "radialaxis": radial, "angularaxis": angular}
    return {f"polar{i + 1 if i else ''}": look | {"domain": {"x": [(i + 0.2) / count, (i + 0.8) / count]}} for i in range(count)}


def _titles(names: Sequence[str]) -> list[dict]:
    where = {"y": 1.16, "xref": "paper", "yref": "paper", "xanchor": "center", "showarrow": False}
    return [where | {"text": name, "x": (i + 0.5) / len(names)} for i, name in enumerate(names)]
