"""All figures of a run as they stand at one moment, with another run laid over them for comparison."""
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import plotly.graph_objects as go

from labkit.errors import LabError
from labkit.record import Record
from labkit.studio import figures, study
from labkit.studio.figures.curves import apart, setting_name
from labkit.studio.live import Training
from labkit.studio.study import Settings
from labkit.studio.theme import INK, rgba, style

KEPT = 24  # figures at hand, so that scrubbing draws only what moves

Study = tuple[Settings, Training]


@dataclass(frozen=True)
class View:
    """What is looked at. setting, seed: -1 for all. moment: -1 for the latest. The triple is that of study.with_drift."""

    setting: int = -1
    seed: int = -1
    moment: int = -1
    reference: str = "start"
    divergence: str = "kl"
    states: str = study.VISITED


class Gallery:
    """Draws figures, and keeps those that do not change from one moment to the next."""

    def __init__(self) -> None:
        self._kept: dict[tuple, Any] = {}

    def keep(self, key: tuple, make: Callable[[], Any]) -> Any:
        """What `make` gives, made once for a key. Who takes an id into the key keeps what it is of in what is made."""
        if key not in self._kept:
            self._kept[key] = make()
            while len(self._kept) > KEPT:
                del self._kept[next(iter(self._kept))]
        return self._kept[key]

    def pictures(self, shown: Study, view: View, other: Study | None = None) -> dict[str, go.Figure]:
        """Figures "return", "drift", "frontier", and where states lie on cells "floor" (and "floor B", of the other run)."""
        record, drift = self._record(shown[1], view)
        at = place(record, view)
        out = {"return": self._curve(shown[1], view, other, "return"), "drift": self._curve(shown[1], view, other, drift)}
        for fig in out.values():
            fig.add_vline(record.steps[at].item(), line={"color": INK, "width": 1, "dash": "dot"})
        out["frontier"] = plain(figures.frontier, cut(record, 0, at + 1), drift)
        for name, study_ in (("floor", shown), ("floor B", other)):
            if study_ and study_[1].moments and (fig := self._floor(*study_, view)):
                out[name] = fig
        return out

    def _record(self, run: Training, view: View) -> tuple[Record, str]:
        """The record so far with the drift that is asked for, and that curve's name."""
        record, triple = run.record(), (view.reference, view.divergence, view.states)
        return self.keep((id(record), *triple), lambda: (*study.with_drift(record, *triple), record))[:2]

    def _curve(self, run: Training, view: View, other: Study | None, curve: str) -> go.Figure:
        record, _ = self._record(run, view)
        point = None if view.setting < 0 else view.setting
        fig = self.keep((id(record), point, curve), lambda: plain(figures.learning_curve, record, point, curve))
        fig = go.Figure(fig)
        if other and other[1].moments:
            theirs, _ = self._record(other[1], view)
            beside(fig, theirs, pick(theirs, view), curve)
        return fig

    def _floor(self, settings: Settings, run: Training, view: View) -> go.Figure | None:
        record, ground = run.record(), study.ground(settings.world, settings.layout)
        if ground is None:
            return None
        at, point = place(record, view), pick(record, view)
        fig = plain(figures.grid_arrows, cut(record, at, at + 1), ground, point, None if view.seed < 0 else view.seed)
        below = fig.layout.margin.b or 20
        return fig.update_layout(height=(fig.layout.height or 400) - below + 20, margin_b=20)  # no slider stands there


def place(record: Record, view: View) -> int:
    """Where a view stands in a record."""
    last = len(record.steps) - 1
    return last if view.moment < 0 else min(view.moment, last)


def pick(record: Record, view: View) -> int:
    """The one setting of a record that is drawn where only one can be."""
    return min(max(view.setting, 0), len(record.lanes.points) - 1)


def cut(record: Record, first: int, end: int) -> Record:
    """Moments first .. end - 1 of a record."""
    curves = {name: rows[first:end] for name, rows in record.curves.items()}
    fields = {name: rows[first:end] for name, rows in record.fields.items()}
    return replace(record, steps=record.steps[first:end], curves=curves, fields=fields)


def beside(fig: go.Figure, other: Record, point: int, curve: str) -> None:
    """Lay a curve of another run's setting over a figure of that curve, as B; all names of lines keep their distance."""
    overlay(fig, plain(figures.learning_curve, other, point, curve), point, f"B: {setting_name(other, point)}")
    names, lines = ([t for t in fig.data if t.mode == mode] for mode in ("text", "lines"))
    if lines:
        tall = max(np.nanmax(t.y) for t in lines) - min(np.nanmin(t.y) for t in lines)
        places = iter(apart([y for t in names for y in t.y], 0.12 * tall))
        for trace in names:
            trace.y = [next(places) for _ in trace.y]


def overlay(fig: go.Figure, other: go.Figure, point: int, name: str) -> None:
    """Add the lines of setting `point` of another run's figure, in a colour of their own and called `name`."""
    old, new = style(point), style(3)
    solid, clear = (rgba(look["color"], 1).rsplit(",", 1)[0] for look in (old, new))  # of any opacity

    def change(colour: str | None) -> str | None:
        return new["color"] if colour == old["color"] else colour.replace(solid, clear) if colour and colour.startswith(solid) else None

    for trace in other.data:
        if line := change(trace.line.color):
            trace.line.update(color=line, dash=new["dash"])
        elif fill := change(trace.fillcolor):
            trace.fillcolor = fill
        elif trace.mode == "markers":
            trace.marker.update(color=new["color"], symbol=new["symbol"])
        elif trace.mode == "text":
            trace.text = [f"  {name}"]
        else:
            continue  # a setting that stands back
        fig.add_trace(trace)
    fig.update_layout(meta={"alt": f"{figures.alt(fig)} Beside it B, {figures.alt(other)}"})


def plain(call: Callable[..., go.Figure], *args: Any, **options: Any) -> go.Figure:
    """A figure, or an empty one that says in a sentence why there is none."""
    try:
        return call(*args, **options)
    except LabError as error:
        note = {"text": str(error), "showarrow": False, "xref": "paper", "yref": "paper", "x": 0.5, "y": 0.5}
        bare = {"visible": False}
        return figures.figure([], str(error), annotations=[note], xaxis=bare, yaxis=bare)
