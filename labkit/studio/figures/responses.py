"""Responses of a language model, read token by token, and what an update makes of the probabilities of tokens."""
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

import plotly.graph_objects as go
import torch
from IPython.display import HTML
from torch import Tensor

from labkit.errors import LabError
from labkit.grpo.inside import Inside
from labkit.studio.figures.frame import animate, figure
from labkit.studio.theme import COLOURS, INK
from labkit.worlds.tokens.world import TokenWorld

CSS = (Path(__file__).parents[1] / "page" / "responses.css").read_text()
FULL = 0.6  # opacity of the strongest colour: the page's text stays legible on it, in light and dark
RARE = 1e-3  # probability where the scatter's axes begin; rarer tokens are drawn there


@dataclass(frozen=True)
class Colour:
    """What tokens are coloured by: value(inside) (L, P, G, T), what that is in words, and how a value is written."""

    value: Callable[[Inside], Tensor]
    words: str
    write: Callable[[float], str] = "{:.2g}".format
    signed: bool = False  # from blue above 0 to orange below it; else from nothing to blue
    top: float = 0.0  # value of the strongest colour; 0: the largest of the batch


def signed(value: float) -> str:
    """With its sign, and no minus before nothing."""
    return f"{value + 0.0:+.2g}"


COLOUR = {
    "probability": Colour(lambda i: i.before.exp(), "probability before the update", top=1.0),
    "entropy": Colour(lambda i: i.entropy, "entropy of the policy where it chose the token (nats)"),
    "advantage": Colour(lambda i: i.adv, "advantage", signed, signed=True),
    "ratio": Colour(lambda i: i.after - i.old, "probability after the update / when it was written", lambda v: f"{math.exp(v):.2f}", True),
    "kl": Colour(lambda i: i.kl, "KL from the reference where it chose the token (nats)"),
    "weight": Colour(lambda i: i.weight, "how hard the update lifts the token", signed, signed=True),
}


def responses(world: TokenWorld, inside: Inside, prompt: int = 0, colour: str = "probability", lane: int = 0) -> HTML:
    """The group of one prompt: its responses token by token, right or wrong, coloured by one of COLOUR, with the number below each token.

    Marks say which tokens the update clipped, gave no weight or dropped; pointing at a token tells all that is known of it. HTML that
    needs nothing else. LabError for another colour, or a prompt or lane that is not there.
    """
    if colour not in COLOUR:
        raise LabError(f"Tokens have no {colour!r} to be coloured by; choose one of {', '.join(COLOUR)}.")
    for what, number, size in (("prompt", prompt, inside.token.shape[1]), ("lane", lane, len(inside.token))):
        if not 0 <= number < size:
            raise LabError(f"This update has no {what} {number}; its {what}s go from 0 to {size - 1}.")
    inside, look = inside.take(lane), COLOUR[colour]
    top = look.top or float((look.value(inside).abs() * inside.shown).max()) or 1.0
    rows = "".join(_row(world, inside, prompt, response, look, top) for response in range(inside.token.shape[2]))
    heads = "".join(f"<th scope=col>{name}</th>" for name in ("Right?", "Response", "Reward", "Advantage"))
    table = f"<table><thead><tr>{heads}</tr></thead><tbody>{rows}</tbody></table>"
    return HTML(f"<div class=responses><style>{CSS}</style>{_asked(world, inside, prompt)}{table}{_legend(look, top)}</div>")


def _asked(world: TokenWorld, inside: Inside, prompt: int) -> str:
    """The prompt, and a right response to it."""
    number = int(inside.problem[0, prompt])
    asked, right = (escape(" ".join(world.words(text[number]))) for text in (world.prompt, world.solution))
    between = f"level {int(world.level[number])}; right would be"
    return f"<p><b class=sign>{asked}</b> <span class=soft>{between}</span> <b class=sign>{right}</b></p>"


def _row(world: TokenWorld, inside: Inside, prompt: int, response: int, look: Colour, top: float) -> str:
    at = (0, prompt, response)
    length = int(inside.shown[at].sum())
    tokens = "".join(_token(world, inside, (*at, t), look, top) for t in range(length))
    verdict = "✓ right" if inside.right[at] else "✗ wrong"
    adv = inside.adv[at][:length] if length else torch.zeros(1)
    said = f"{adv[0]:+.2f}" if bool((adv == adv[0]).all()) else f"{adv.min():+.2f} to {adv.max():+.2f}"
    kept = (f"{inside.reward[at]:.2g}", said) if inside.real[at] else ("dropped", "none")
    numbers = "".join(f"<td class=number>{value}</td>" for value in kept)
    return f"<tr><th scope=row class=verdict>{verdict}</th><td class=written>{tokens}</td>{numbers}</tr>"


def _token(world: TokenWorld, inside: Inside, at: tuple[int, ...], look: Colour, top: float) -> str:
    value, state = float(look.value(inside)[at]), _state(inside, at)
    strength = FULL * min(1.0, abs(value) / top)
    told = [f"{name} {other.write(float(other.value(inside)[at]))}" for name, other in COLOUR.items()]
    told.append(f"probability after the update {math.exp(inside.after[at]):.2g}")
    title, sign = escape("; ".join([*told, state]).rstrip("; ")), escape(world.signs[int(inside.token[at])])
    paint = f"background:rgba(var(--{'down' if value < 0 else 'up'}),{strength:.2f})"
    return f'<span class="token {state.replace(" ", "")}" style="{paint}" title="{title}">{sign}<small>{look.write(value)}</small></span>'


def _state(inside: Inside, at: tuple[int, ...]) -> str:
    """What the update made of a token, where it is not lifted or lowered as any other."""
    if not inside.real[at[:3]]:
        return "dropped"
    return "clipped" if inside.clipped[at] else "no weight" if inside.weight[at] == 0 else ""


def _legend(look: Colour, top: float) -> str:
    low, middle = (-top, "transparent,") if look.signed else (0.0, "")
    left = f"rgba(var(--down),{FULL})," if look.signed else "transparent,"
    bar = f'<i style="background:linear-gradient(90deg,{left}{middle}rgba(var(--up),{FULL}))"></i>'
    scale = f"<span class=scale>{look.write(low)} {bar} {look.write(top)}</span>"
    marks = "".join(f'<span class="token {state.replace(" ", "")}">{state}</span>' for state in ("clipped", "no weight", "dropped"))
    return f"<p class=legend><span>{look.words}</span>{scale}{marks}</p>"


# ---- before and after ----------------------------------------------------------------------------------------------

SIGNS = (  # of the advantage
    (1, "advantage above 0", {"symbol": "triangle-up", "color": COLOURS[0]}),
    (-1, "advantage below 0", {"symbol": "triangle-down", "color": COLOURS[1]}),
    (0, "no advantage", {"symbol": "circle", "color": INK}),
)


def before_after(
    world: TokenWorld, updates: Sequence[Inside], clip: tuple[float, float] | None = None, prompt: int | None = None, lane: int = 0,
    names: Sequence[str] = (),
) -> go.Figure:  # fmt: skip
    """The probability of each token after an update against that before it, by the sign of its advantage; clipped ones are ringed.

    clip: by how much a ratio may fall and rise, drawn as lines; before is then when the token was written, for that is what a ratio
    compares with. prompt: of this one alone. Several updates, with `names`, get a slider. LabError where names are not as many.
    """
    if len(names) != (len(updates) if names or len(updates) > 1 else 0):
        raise LabError(f"There are {len(updates)} updates and {len(names)} names; give one for each.")
    moments = [_moved(world, update.take(lane), clip is not None, prompt) for update in updates]
    lines = [_line(1, "no change", "dot"), *(_line(1 + way, f"clip at {1 + way:g}", "dash") for way in (clip or ()))]
    was = "when it was written" if clip else "before the update"
    axis = {"type": "log", "range": [math.log10(RARE) - 0.05, 0.08], "tickvals": [RARE, 0.01, 0.1, 1],
            "ticktext": [f"≤ {RARE}", "0.01", "0.1", "1"]}  # fmt: skip
    axes = {name: axis | {"title": {"text": f"probability {when}"}} for name, when in (("xaxis", was), ("yaxis", "after the update"))}
    fig = figure([*lines, *moments[-1]], _said(moments[-1], was), height=440, margin={"t": 60}, showlegend=True,
                 legend={"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0}, **axes)  # fmt: skip
    return animate(fig, moments, names, range(len(lines), len(fig.data))) if names else fig


def _moved(world: TokenWorld, update: Inside, written: bool, prompt: int | None) -> list[go.Scatter]:
    """A trace for each of SIGNS, and one of rings."""
    rows = slice(None) if prompt is None else slice(prompt, prompt + 1)
    where = (update.shown & update.real[..., None])[:, rows]
    start = update.old if written else update.before
    x, y, adv, clipped, token = (v[:, rows][where] for v in (start.exp(), update.after.exp(), update.adv, update.clipped, update.token))
    out = [_dots(world, x, y, token, adv.sign() == sign, name, look | {"size": 8, "opacity": 0.6}) for sign, name, look in SIGNS]
    return [*out, _dots(world, x, y, token, clipped, "clipped", {"symbol": "circle-open", "size": 13, "color": INK})]


def _dots(world: TokenWorld, x: Tensor, y: Tensor, token: Tensor, where: Tensor, name: str, look: dict) -> go.Scatter:
    at, told = (x[where].clamp_min(RARE), y[where].clamp_min(RARE)), torch.stack([x[where], y[where]], 1)
    return go.Scatter(x=at[0].tolist(), y=at[1].tolist(), mode="markers", name=name, marker=look, customdata=told.tolist(),
                      text=[world.signs[t] for t in token[where].tolist()],
                      hovertemplate="%{text}: %{customdata[0]:.3g} → %{customdata[1]:.3g}<extra>" + name + "</extra>")  # fmt: skip


def _line(ratio: float, name: str, dash: str) -> go.Scatter:
    """Where the probability after is `ratio` times that before."""
    ends = [RARE / min(ratio, 1), 1 / max(ratio, 1)]
    look = {"color": INK, "dash": dash, "width": 1.2}
    return go.Scatter(x=ends, y=[ratio * end for end in ends], mode="lines", name=name, line=look, hoverinfo="skip")


def _said(moved: Sequence[go.Scatter], was: str) -> str:
    *dots, rings = moved
    told = []
    for trace in dots:
        rose, fell = (sum(way * (after - before) > 0 for before, after in trace.customdata) for way in (1, -1))
        told.append(f"of {len(trace.x)} with {trace.name} {rose} rose and {fell} fell")
    return f"Probability of tokens after the update against that {was}: {'; '.join(told)}; {len(rings.x)} were clipped."
