"""What every figure shares: its template, its text alternative, its time slider, and how it is shown."""
import html
from collections.abc import Sequence
from typing import Any

import plotly.graph_objects as go
from IPython.display import HTML, display

from labkit.errors import LabError
from labkit.studio.theme import COLOURS, FOLLOW, INK, rgba, template

_HIDDEN = "position:absolute;width:1px;height:1px;overflow:hidden;clip-path:inset(50%);white-space:nowrap"


def figure(data: Sequence[Any], alternative: str, **layout: Any) -> go.Figure:
    """A figure in the lab's template; `alternative` is what it shows, in a sentence or two with the numbers that matter."""
    return go.Figure(data, {"template": template, "meta": {"alt": alternative}, **layout})


def alt(fig: go.Figure) -> str:
    """The text alternative of a figure. LabError where it has none."""
    meta = fig.layout.meta
    if not isinstance(meta, dict) or "alt" not in meta:
        raise LabError("This figure has no text alternative; set fig.layout.meta = {'alt': '...'}.")
    return meta["alt"]


def show(fig: go.Figure) -> None:
    """Display a figure, its text alternative for screen readers, and the rule that makes its text follow the page's theme."""
    text = f'<p role="note" style="{_HIDDEN}">Figure: {html.escape(alt(fig))}</p>'
    display(fig)
    display(HTML(text + FOLLOW))


def animate(fig: go.Figure, moments: Sequence[Sequence[Any]], names: Sequence[str], traces: Sequence[int],
            below: int = 50) -> go.Figure:  # fmt: skip
    """Add a time slider and a play button: moments[t] replaces `traces` (their numbers), names[t] is how moment t is called.

    below: pixels between plot and slider. The figure starts at its last moment. It moves without a kernel, in static pages too.
    """
    fig.frames = [go.Frame(data=list(m), traces=list(traces), name=name) for m, name in zip(moments, names, strict=True)]
    jump = {"mode": "immediate", "frame": {"duration": 0, "redraw": True}, "transition": {"duration": 0}}
    play = {"fromcurrent": True, "frame": {"duration": 120, "redraw": True}, "transition": {"duration": 0}}
    steps = [{"method": "animate", "label": name, "args": [[name], jump]} for name in names]
    slider = {"steps": steps, "active": len(names) - 1, "currentvalue": {"prefix": "step ", "font": {"color": INK}}, "x": 0, "len": 1,
              "y": 0, "pad": {"t": below, "l": 100}, "ticklen": 0, "minorticklen": 0, "font": {"color": "rgba(0,0,0,0)"},
              "bgcolor": rgba(INK, 0.4), "activebgcolor": COLOURS[0], "bordercolor": INK}  # fmt: skip
    buttons = {"type": "buttons", "direction": "left", "showactive": False, "x": 0, "y": 0, "xanchor": "left", "yanchor": "top",
               "pad": {"t": below + 16}, "bgcolor": rgba(INK, 0.15), "bordercolor": INK,
               "buttons": [{"label": "▶", "method": "animate", "args": [None, play]},
                           {"label": "❚❚", "method": "animate", "args": [[None], jump]}]}  # fmt: skip
    return fig.update_layout(sliders=[slider], updatemenus=[buttons])
