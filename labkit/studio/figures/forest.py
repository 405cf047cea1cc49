"""Forest plots of claims: intervals beside the bounds that their rules set.

Effects of different claims have different units. `forest` measures each in half-widths of its own interval: how far an
interval lies from its bound decides a claim, and nothing else can be compared. `replications` are of one claim and keep its units.
"""
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass

import plotly.graph_objects as go

from labkit.claims.ledger import Entry
from labkit.errors import LabError
from labkit.studio.figures.frame import figure
from labkit.studio.theme import COLOURS, INK
from labkit.verdict import Held, Verdict, weakest

EDGE = 6.0  # half-widths; what lies further from its bound is drawn here, with its distance beside it
ROW, AXIS = 46, 78  # pixels of a row, and of the axis with its title
LOOKS: dict[Held, tuple[str, str]] = {"held": (COLOURS[0], "circle"), "inconclusive": (COLOURS[4], "diamond-open"),
                                      "not held": (COLOURS[1], "square")}  # fmt: skip
SYMBOLS: dict[str, str] = {"held": "●", "inconclusive": "◇", "not held": "■"}  # the same in words
LEGEND = {"orientation": "h", "x": 0, "yanchor": "bottom", "yref": "paper", "itemclick": False, "itemdoubleclick": False}


@dataclass(frozen=True)
class Row:
    """A part of a claim as it is drawn: words above, the interval in the axis' units, and a note beside it."""

    key: str
    words: str
    part: Verdict
    ends: tuple[float, float, float] | None  # low, value, high; None where nothing can be placed
    note: str = ""


def numbers(part: Verdict) -> str:
    """'48 [-41, 116]', or the number alone where it was counted."""
    return f"{part.value:.3g}" if counted(part) else f"{part.value:.3g} [{part.low:.3g}, {part.high:.3g}]"


def asked(part: Verdict) -> str:
    """'above -25', or 'counted', or 'see its rule' where no number is the bound."""
    return "counted" if counted(part) else "see its rule" if part.bound is None else f"{part.side} {part.bound:g}"


def counted(part: Verdict) -> bool:
    """Is it a number without an interval?"""
    return part.low == part.high


def forest(entries: Sequence[Entry]) -> go.Figure:
    """A row per claim, by the part that decided it: half-widths between its interval and its bound, to the right where it holds.

    A part that was counted has no interval, so only its side is told. LabError without entries.
    """
    if not entries:
        raise LabError("There is no verdict to draw yet; `labkit claims` judges the claims.")
    rows = [_standing(entry.key, weakest(entry.parts)) for entry in entries]
    said = "; ".join(f"{row.key} {row.part.held}, {numbers(row.part)}, {asked(row.part)}" for row in rows)
    fig = figure([], f"Where the 95% interval of each claim lies from the bound of its rule. {said}.").set_subplots(1, 1)
    _panel(fig, 1, rows, (-EDGE - 0.7, EDGE + 0.7), 0.0, "half-widths of the interval from the bound")
    for words, anchor, shift in (("◂ does not hold", "right", -8), ("holds ▸", "left", 8)):
        fig.add_annotation(text=words, x=0, y=1, yref="paper", xanchor=anchor, yanchor="bottom", xshift=shift, showarrow=False)
    return _stacked(fig, len(rows), 1, top=56)


def _standing(key: str, part: Verdict) -> Row:
    """A claim's interval in half-widths from its bound, within the edges."""
    words = f"<b>{key}</b>  {numbers(part)}  {asked(part)}"
    if counted(part) or part.bound is None:
        return Row(key, words, part, None)
    half = (part.high - part.low) / (2 if part.side == "above" else -2)
    low, value, high = sorted((x - part.bound) / half for x in (part.low, part.value, part.high))
    note = "" if abs(value) <= EDGE else f"{value:.0f} ▸" if value > 0 else f"◂ {value:.0f}"
    return Row(key, words, part, (_within(low), _within(value), _within(high)), note)


def _within(x: float) -> float:
    return max(-EDGE, min(EDGE, x))


def replications(entries: Sequence[Entry], names: Sequence[str]) -> go.Figure:
    """One claim on several seeds, in its own units: a panel per estimated part of the newest entry, a row per entry, the newest first.

    names: how each entry is called. Entries whose rule set other bounds are left out. LabError where nothing was estimated.
    """
    newest = entries[-1]
    alike = [(e, name) for e, name in zip(entries, names, strict=True) if _bounds(e) == _bounds(newest)]
    shown = [i for i, part in enumerate(newest.parts) if not counted(part)]
    if not shown:
        raise LabError(f"Every part of the claim of {newest.key} was counted; there is no interval to draw.")
    fig, said = figure([], "").set_subplots(len(shown), 1), []
    for place, i in enumerate(shown, 1):
        part, rows = newest.parts[i], [_plain(name, e.key, e.parts[i]) for e, name in reversed(alike)]
        _panel(fig, place, rows, _span(rows, part.bound), part.bound, _wrapped(part.rule))
        said.append(f"{part.rule}: {'; '.join(f'{name}, {numbers(e.parts[i])}, {e.parts[i].held}' for e, name in reversed(alike))}.")
    return _stacked(fig, len(alike), len(shown), top=40).update_layout(meta={"alt": " ".join(said)})


def _bounds(entry: Entry) -> list[tuple[float | None, str]]:
    return [(part.bound, part.side) for part in entry.parts]


def _plain(name: str, key: str, part: Verdict) -> Row:
    return Row(key, f"{name}  {numbers(part)}", part, (part.low, part.value, part.high))


def _span(rows: Sequence[Row], bound: float | None) -> tuple[float, float]:
    """The axis that shows all intervals and the bound, with some room."""
    ends = [x for row in rows if row.ends for x in row.ends] + ([] if bound is None else [bound])
    room = 0.06 * (max(ends) - min(ends))
    return min(ends) - room, max(ends) + room


def _wrapped(words: str) -> str:
    return "<br>".join(textwrap.wrap(words, 56))


# ---- panels of rows ------------------------------------------------------------------------------------------------


def _panel(fig: go.Figure, place: int, rows: Sequence[Row], span: tuple[float, float], bound: float | None, title: str) -> None:
    """Rows below one another over an axis, and the line of the bound."""
    fig.add_traces([_words(rows, span[0]), *_intervals(rows), _notes(rows)], rows=place, cols=1)
    fig.update_xaxes(range=span, title={"text": title, "font": {"size": 13}}, row=place, col=1)
    fig.update_yaxes(visible=False, range=[0.4 - len(rows), 0.8], row=place, col=1)
    if bound is not None:
        fig.add_vline(bound, layer="below", line={"color": INK, "width": 1.5}, row=place, col=1)


def _words(rows: Sequence[Row], left: float) -> go.Scatter:
    """What is said above each interval. A press on it names the row's key."""
    return go.Scatter(x=[left] * len(rows), y=[0.42 - i for i in range(len(rows))], mode="text", text=[row.words for row in rows],
                      textposition="middle right", customdata=[row.key for row in rows], hoverinfo="skip")  # fmt: skip


def _intervals(rows: Sequence[Row]) -> list[go.Scatter]:
    """A trace per verdict, so that shape and colour stand in the legend."""
    placed = [(-i, row, row.ends) for i, row in enumerate(rows) if row.ends]
    return [_trace(held, [p for p in placed if p[1].part.held == held]) for held in LOOKS]


def _trace(held: Held, placed: Sequence[tuple[int, Row, tuple[float, float, float]]]) -> go.Scatter:
    """The intervals with this verdict: the height, the row and its ends, of each."""
    colour, symbol = LOOKS[held]
    ends = [ends for *_, ends in placed]
    reach = {"array": [high - value for _, value, high in ends], "arrayminus": [value - low for low, value, _ in ends], "symmetric": False}
    words = [f"{row.key}: {held}<br>{_wrapped(row.part.rule)}<br>{numbers(row.part)}" for _, row, _ in placed]
    return go.Scatter(x=[value for _, value, _ in ends], y=[y for y, *_ in placed], mode="markers", name=held,
                      error_x=reach | {"color": colour, "thickness": 2.4, "width": 5},
                      marker={"color": colour, "symbol": symbol, "size": 11, "line": {"width": 2, "color": colour}},
                      customdata=[row.key for _, row, _ in placed], hovertext=words, hoverinfo="text", cliponaxis=False)  # fmt: skip


def _notes(rows: Sequence[Row]) -> go.Scatter:
    """Beside an interval at the edge, its distance; on its side of the bound, a verdict without an interval."""
    xs, texts, sides = zip(*map(_note, rows), strict=True)
    return go.Scatter(x=xs, y=[-i for i in range(len(rows))], mode="text", textposition=[f"middle {side}" for side in sides],
                      text=[f"\u2003{text}\u2003" for text in texts], customdata=[row.key for row in rows], hoverinfo="skip")  # fmt: skip


def _note(row: Row) -> tuple[float, str, str]:
    """Where a row's note stands, what it says, and to which side it runs."""
    if row.ends:
        return row.ends[1], row.note, "left" if row.ends[1] > 0 else "right"
    held = row.part.held
    return 0.0, f"<span style='color:{LOOKS[held][0]}'>{SYMBOLS[held]}</span> {held}", "left" if held == "not held" else "right"


def _stacked(fig: go.Figure, rows: int, panels: int, top: int) -> go.Figure:
    """Panels of so many rows below one another, each above its own axis, and one legend for all."""
    named: set[str | None] = {None}
    for trace in fig.data:
        trace.update(legendgroup=trace.name or "", showlegend=trace.name not in named and len(trace.x) > 0)
        named |= {trace.name} if trace.showlegend else set()
    inner = ROW * rows
    whole = panels * (inner + AXIS) - AXIS
    for i in range(panels):
        start = i * (inner + AXIS)
        fig.update_yaxes(domain=[max(0, 1 - (start + inner) / whole), 1 - start / whole], row=i + 1, col=1)
    legend = LEGEND | {"y": 1 + (top - 36) / whole}
    return fig.update_layout(height=whole + top + AXIS, margin={"l": 8, "r": 12, "t": top, "b": AXIS}, showlegend=True, legend=legend)
