"""Responses of a language model, read token by token, and what an update makes of the probabilities of tokens."""
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from functools import partial
from html import escape
from pathlib import Path

import plotly.graph_objects as go
import torch
from IPython.display import HTML
from torch import Tensor

from labkit.errors import LabError
from labkit.grpo.family import Grpo
from labkit.grpo.inside import Inside, inside
from labkit.record import Record
from labkit.snapshot import Snapshot
from labkit.studio.figures.frame import animate, figure
from labkit.studio.theme import COLOURS, INK
from labkit.worlds.tokens.world import TokenWorld

CSS = (Path(__file__).parents[1] / "page" / "responses.css").read_text()
FULL = 0.6  # opacity of the strongest colour: the page's text stays legible on it, in light and dark
USUAL = 0.98  # share of a batch's tokens whose value the colours tell apart; of those beyond all have the strongest
RARE = 1e-3  # probability where the scatter's axes begin; rarer tokens are drawn there


@dataclass(frozen=True)
class Colour:
    """What tokens are coloured by: value(inside) (L, P, G, T), what that is in words, and how a value is written."""

    value: Callable[[Inside], Tensor]
    words: str
    write: Callable[[float], str] = "{:.2g}".format
    signed: bool = False  # from blue above 0 to orange below it; else from nothing to blue
    top: float = 0.0  # value of the strongest colour; 0: the largest that is usual in the batch


def signed(value: float) -> str:
    """With its sign, and no minus before nothing."""
    return f"{value + 0.0:+.2g}"


COLOUR = {
    "probability": Colour(lambda i: i.before.exp(), "probability before the update", top=1.0),
    "entropy": Colour(lambda i: i.entropy, "entropy of the policy where it chose the token (nats)"),
    "advantage": Colour(lambda i: i.adv, "advantage", signed, signed=True),
    "ratio": Colour(lambda i: i.after - i.old, "ratio of new to old probability, after the update", lambda v: f"{math.exp(v):.2f}", True),
    "kl": Colour(lambda i: i.kl, "KL from the reference where it chose the token (nats)"),
    "weight": Colour(lambda i: i.weight, "how hard the update lifts the token", signed, signed=True),
}


def watch_inside(method: Grpo, world: TokenWorld) -> dict[str, Callable[[Snapshot], Tensor]]:
    """What `record(fields=watch_inside(method, world))` must keep for these figures: of each moment the update that follows it."""
    latest: list[tuple[Snapshot, Inside]] = []

    def look(name: str, snapshot: Snapshot) -> Tensor:
        if not latest or latest[0][0] is not snapshot:
            latest[:] = [(snapshot, inside(method, world, snapshot.learner))]  # once for all fields
        return getattr(latest[0][1], name)

    return {f.name: partial(look, f.name) for f in fields(Inside)}


def update_at(record: Record, moment: int) -> Inside:
    """The update that follows a moment of a record with the fields of `watch_inside`. LabError where it has none."""
    names = [f.name for f in fields(Inside)]
    if not set(names) <= record.fields.keys():
        raise LabError("This record lacks what is seen inside its updates; record with fields=figures.watch_inside(method, world).")
    return Inside(**{name: record.fields[name][moment] for name in names})


def responses(world: TokenWorld, update: Inside, prompt: int = 0, colour: str = "probability", lane: int = 0) -> HTML:
    """The group of one prompt: its responses token by token, right or wrong, coloured by one of COLOUR, with the number below each token.

    Marks say which tokens the update clipped, gave no weight or dropped; pointing at a token tells all that is known of it. HTML that
    needs nothing else. LabError for another colour, or a prompt or lane that is not there.
    """
    if colour not in COLOUR:
        raise LabError(f"Tokens have no {colour!r} to be coloured by; choose one of {', '.join(COLOUR)}.")
    for what, number, size in (("prompt", prompt, update.token.shape[1]), ("lane", lane, len(update.token))):
        if not 0 <= number < size:
            raise LabError(f"This update has no {what} {number}; its {what}s go from 0 to {size - 1}.")
    group = Group(world, update, lane, prompt, colour)
    rows = "".join(_row(group, response) for response in range(update.token.shape[2]))
    heads = "".join(f"<th scope=col>{name}</th>" for name in ("Right?", "Response", "Reward", "Advantage"))
    table = f"<table><thead><tr>{heads}</tr></thead><tbody>{rows}</tbody></table>"
    return HTML(f"<div class=responses><style>{CSS}</style>{_asked(group)}{table}{_legend(group)}</div>")


class Group:
    """The responses to one prompt in one lane: what is said of them, (G, ...), and how strong their colour is."""

    def __init__(self, world: TokenWorld, update: Inside, lane: int, prompt: int, colour: str) -> None:
        mine = update.take(lane)
        values = {name: look.value(mine)[0] for name, look in COLOUR.items()}
        self.world, self.problem, self.colour, self.look = world, int(mine.problem[0, prompt]), colour, COLOUR[colour]
        size = values[colour][mine.shown[0]].abs()
        self.most = self.look.top or float(size.max()) or 1.0
        self.top = self.look.top or float(size.quantile(USUAL, interpolation="higher")) or self.most
        self.values = {name: x[prompt].tolist() for name, x in values.items()}
        self.after = mine.after[0, prompt].exp().tolist()
        self.token, self.length = mine.token[0, prompt], mine.shown[0, prompt].sum(-1).tolist()
        self.real, self.right, self.reward, self.adv = (x[0, prompt] for x in (mine.real, mine.right, mine.reward, mine.adv))
        self.clipped, self.idle = mine.clipped[0, prompt], mine.weight[0, prompt] == 0

    def state(self, response: int, t: int) -> str:
        """What the update made of a token, where it is not lifted or lowered as any other."""
        if not self.real[response]:
            return "dropped"
        return "clipped" if self.clipped[response, t] else "no weight" if self.idle[response, t] else ""


def _asked(group: Group) -> str:
    """The prompt, and a right response to it."""
    world = group.world
    asked, right = (escape(" ".join(world.words(text[group.problem]))) for text in (world.prompt, world.solution))
    between = f"level {int(world.level[group.problem])}; " + ("right would be" if right else "no response is right")
    return f"<p><b class=sign>{asked}</b> <span class=soft>{between}</span> <b class=sign>{right}</b></p>"


def _row(group: Group, response: int) -> str:
    length = group.length[response]
    tokens = " ".join(_token(group, response, t) for t in range(length))  # legible without its styles, too
    adv = group.adv[response, : max(1, length)]
    said = f"{adv[0]:+.2f}" if bool((adv == adv[0]).all()) else f"{adv.min():+.2f} to {adv.max():+.2f}"
    kept = (f"{group.reward[response]:.2g}", said) if group.real[response] else ("dropped", "none")
    numbers = "".join(f"<td class=number>{value}</td>" for value in kept)
    verdict = "✓ right" if group.right[response] else "✗ wrong"
    return f"<tr><th scope=row class=verdict>{verdict}</th><td class=written>{tokens}</td>{numbers}</tr>"


def _token(group: Group, response: int, t: int) -> str:
    values, state = {name: rows[response][t] for name, rows in group.values.items()}, group.state(response, t)
    told = [*(f"{name} {COLOUR[name].write(value)}" for name, value in values.items()), f"probability after {group.after[response][t]:.2g}"]
    title, sign = escape("; ".join([*told, state] if state else told)), escape(group.world.signs[int(group.token[response, t])])
    value = values[group.colour]
    paint = f"background:rgba(var(--{'down' if value < 0 else 'up'}),{FULL * min(1.0, abs(value) / group.top):.2f})"
    number = f"<small>{group.look.write(value)}</small>"
    return f'<span class="token {state.replace(" ", "")}" style="{paint}" title="{title}">{sign} {number}</span>'


def _legend(group: Group) -> str:
    look, top = group.look, group.top
    low, left = (-top, f"rgba(var(--down),{FULL}),transparent") if look.signed else (0.0, "transparent")
    bar = f'<i style="background:linear-gradient(90deg,{left},rgba(var(--up),{FULL}))"></i>'
    beyond = group.most > top
    ends = ("≤ " * (beyond and look.signed) + look.write(low), "≥ " * beyond + look.write(top))
    scale = f"<span class=scale>{ends[0]} {bar} {ends[1]}</span>"
    marks = " ".join(f'<span class="token {state.replace(" ", "")}">{state}</span>' for state in ("clipped", "no weight", "dropped"))
    return f"<p class=legend><span>{look.words}</span> {scale} {marks}</p>"


def groups(world: TokenWorld, update: Inside, opened: int | None = None, lane: int = 0) -> go.Figure:
    """All responses of an update, a row for each prompt: right, wrong or dropped, and faint where no token has an advantage.

    opened: the prompt that is marked.
    """
    mine = update.take(lane)
    right, real = mine.right[0], mine.real[0]
    told = (mine.adv[0] * mine.shown[0] != 0).any(-1) & real
    data = [_signs(real & right, told, "right", "circle", COLOURS[0]), _signs(real & ~right, told, "wrong", "x", COLOURS[1]),
            _signs(~real, told, "dropped", "line-ew-open", INK)]  # fmt: skip
    asked = [" ".join(world.words(text)) for text in world.prompt[mine.problem[0]]]
    names = [f"<b>▸ {text}</b>" if i == opened else text for i, text in enumerate(asked)]
    good, every, silent, gone = (int(x.sum()) for x in (right & real, real, ~told.any(-1), ~real))
    said = (f"{good} of {every} responses to {len(right)} prompts are right (circles; wrong ones are crosses). {silent} groups have no "
            f"advantage (faint); {gone} responses are dropped (dashes).")  # fmt: skip
    across = {"visible": False, "range": [-0.6, right.shape[1] - 0.4]}
    down = {"range": [len(right) - 0.5, -0.5], "tickvals": [*range(len(right))], "ticktext": names, "ticks": "", "showgrid": False,
            "showline": False}  # fmt: skip
    margin = {"t": 30, "b": 10, "l": 10, "r": 10}
    return figure(data, said, height=60 + 24 * len(right), margin=margin, xaxis=across, yaxis=down)


def _signs(where: Tensor, told: Tensor, name: str, symbol: str, colour: str) -> go.Scatter:
    y, x = where.nonzero().T
    look = {"symbol": symbol, "color": colour, "size": 10, "opacity": torch.where(told, 1.0, 0.35)[where].tolist(), "line": {"width": 1.5}}
    return go.Scatter(x=x.tolist(), y=y.tolist(), mode="markers", name=name, marker=look, hoverinfo="name")


# ---- before and after ----------------------------------------------------------------------------------------------

SIGNS = (
    (1, "advantage > 0", {"symbol": "triangle-up", "color": COLOURS[0]}),
    (-1, "advantage < 0", {"symbol": "triangle-down", "color": COLOURS[1]}),
    (0, "advantage 0", {"symbol": "circle", "color": INK}),
)
LEGEND = {"orientation": "h", "x": 0, "y": 1.02, "yanchor": "bottom", "font": {"size": 12}, "entrywidth": 95}


def before_after(
    world: TokenWorld, updates: Sequence[Inside], prompt: int | None = None, lane: int = 0, names: Sequence[str] = ()
) -> go.Figure:
    """The probability of each token after an update against the one that its ratio compares with, by the sign of its advantage.

    Lines show the bounds of the clip; tokens that it stopped are ringed. Where a method has no clip, before is right before the update.
    prompt: of this one alone. Several updates, with `names`, get a slider. LabError where names are not as many.
    """
    if len(names) != (len(updates) if names or len(updates) > 1 else 0):
        raise LabError(f"There are {len(updates)} updates and {len(names)} names; give one for each.")
    clip = bool(updates[-1].bounds[lane].isfinite().all())
    moments = [[*_lines(update.bounds[lane]), *_moved(world, update.take(lane), clip, prompt)] for update in updates]
    axis = {"type": "log", "range": [math.log10(RARE) - 0.05, 0.08], "tickvals": [RARE, 0.01, 0.1, 1], "tickformat": "~r"}
    names_ = {"xaxis": "old probability" if clip else "probability before the update", "yaxis": "probability after the update"}
    axes = {name: axis | {"title": {"text": words}} for name, words in names_.items()}
    was = "the old one, which its ratio compares with" if clip else "that before it"
    fig = figure(moments[-1], _said(moments[-1][-4:], was), height=440, margin={"t": 70}, showlegend=True, legend=LEGEND, **axes)
    return animate(fig, moments, names, range(len(fig.data))) if names else fig


def _lines(bounds: Tensor) -> list[go.Scatter]:
    """No change, and the bounds of the clip (2,); one that there is not has no points."""
    low, high = bounds.tolist()
    lines = [_line(1, "no change", "dot"), _line(low, "lower bound", "dash"), _line(high, f"clip {low:.3g} to {high:.3g}", "dash")]
    lines[1].showlegend = False
    return lines


def _moved(world: TokenWorld, update: Inside, clip: bool, prompt: int | None) -> list[go.Scatter]:
    """A trace for each of SIGNS, and one of rings."""
    rows = slice(None) if prompt is None else slice(prompt, prompt + 1)
    where = (update.shown & update.real[..., None])[:, rows]
    start = update.old if clip else update.before
    x, y, adv, clipped, token = (v[:, rows][where] for v in (start.exp(), update.after.exp(), update.adv, update.clipped, update.token))
    out = [_dots(world, x, y, token, adv.sign() == sign, name, look | {"size": 9, "opacity": 0.7}) for sign, name, look in SIGNS]
    return [*out, _dots(world, x, y, token, clipped, "clipped", {"symbol": "circle-open", "size": 13, "color": INK})]


def _dots(world: TokenWorld, x: Tensor, y: Tensor, token: Tensor, where: Tensor, name: str, look: dict) -> go.Scatter:
    at, told = (x[where].clamp_min(RARE), y[where].clamp_min(RARE)), torch.stack([x[where], y[where]], 1)
    return go.Scatter(x=at[0].tolist(), y=at[1].tolist(), mode="markers", name=name, marker=look, customdata=told.tolist(),
                      text=[world.signs[t] for t in token[where].tolist()],
                      hovertemplate="%{text}: %{customdata[0]:.3g} → %{customdata[1]:.3g}<extra>" + name + "</extra>")  # fmt: skip


def _line(ratio: float, name: str, dash: str) -> go.Scatter:
    """Where the probability after is `ratio` times that before; nowhere for ratios that none has."""
    ends = [RARE / min(ratio, 1), 1 / max(ratio, 1)] if 0 < ratio < math.inf else []
    look = {"color": INK, "dash": dash, "width": 1.2}
    y = [ratio * end for end in ends]
    return go.Scatter(x=ends, y=y, mode="lines", name=name, line=look, hoverinfo="skip", showlegend=bool(ends))


def _said(moved: Sequence[go.Scatter], was: str) -> str:
    *dots, rings = moved
    told = []
    for trace in dots:
        rose, fell = (sum(way * (after - before) > 0 for before, after in trace.customdata) for way in (1, -1))
        told += [f"of {len(trace.x)} with {trace.name}, {rose} rose and {fell} fell"] if trace.x else []
    return f"Probability of tokens after the update against {was}: {'; '.join(told)}; {len(rings.x)} were clipped."
