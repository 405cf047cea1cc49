"""What a language model's training does to its answers, exactly: the frontier of drift and success, the tree of one prompt, pass@k."""
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import plotly.graph_objects as go
import torch
from torch import Tensor

from labkit import stats
from labkit.errors import LabError
from labkit.grpo.outcome import exact, policy_at
from labkit.record import Record
from labkit.snapshot import Snapshot
from labkit.studio.figures.curves import curve_of, setting_name, summary, title
from labkit.studio.figures.frame import animate, figure
from labkit.studio.theme import COLOURS, INK, rgba, style
from labkit.worlds.tokens import truth
from labkit.worlds.tokens.world import TokenWorld

KS = (1, 2, 4, 8, 16, 32, 64)
THICK = 2.0  # of a ribbon that carries all mass, where neighbouring nodes are 1 apart
THIN = 3e-3  # mass below which a ribbon is not drawn
LEGEND = {"orientation": "h", "y": 1.0, "yanchor": "bottom"}
RIGHT, WRONG = COLOURS[0], COLOURS[1]

Watch = dict[str, Callable[[Snapshot], Tensor]]


# ---- what a record must keep ------------------------------------------------------------------------------------


def watch_passes(world: TokenWorld, problems: Tensor | None = None) -> Watch:
    """"pass" (L, 7): exact pass@k for k in KS, the mean over `problems` (n,), those to train on if none are given."""

    def passes(snapshot: Snapshot) -> Tensor:
        success = exact(world, snapshot.learner)["success"][:, world.pool if problems is None else problems]
        return torch.stack([truth.pass_at(success, k).mean(1) for k in KS], 1).float()

    return {"pass": passes}


def watch_tree(world: TokenWorld, problem: int) -> Watch:
    """"tree" (L, n, V): the chance of each token at each unfinished node of a problem's `Tree`."""
    tree = Tree.of(world, problem)
    return {"tree": lambda snapshot: policy_at(world, snapshot.learner).probs[:, world.graph.row[tree.writing]].float()}


@dataclass(frozen=True)
class Tree:
    """All that can be written in response to a problem. Texts after which the verifier needs to know the same are one node.

    nodes (n + m,): their numbers in the world's graph, from the start to the finished; the first n are unfinished. depth (n + m,): how
    many tokens may have been written, from 0 up. follows (n, V): the places in `nodes` of the nodes after each token.
    """

    nodes: Tensor
    depth: Tensor
    follows: Tensor

    @classmethod
    def of(cls, world: TokenWorld, problem: int) -> "Tree":
        graph, start = world.graph, int(world.start[problem])
        found, left = {start}, [start]
        while left:
            more = set(graph.next[left.pop()].tolist()) - found
            found |= more
            left += more
        nodes = torch.tensor(sorted(found, reverse=True))  # higher numbers have more before them
        height = torch.bucketize(nodes, torch.tensor([beyond for _, beyond in graph.layers]), right=True)
        writing = nodes[nodes >= graph.finished]
        return cls(nodes, height[0] - height, len(nodes) - 1 - torch.searchsorted(nodes.flip(0), graph.next[writing]))

    @property
    def writing(self) -> Tensor:
        """The unfinished nodes."""
        return self.nodes[: len(self.follows)]

    def flows(self, chances: Tensor, reward: Tensor) -> tuple[Tensor, Tensor]:
        """chances (n, V) of tokens, reward (S,) -> the mass along each of these edges (n, V), and how much of it will be rewarded."""
        value, mass = reward[self.nodes].double(), torch.zeros(len(self.nodes), dtype=torch.float64)
        mass[0] = 1.0
        for i in range(len(self.follows)):
            mass.index_add_(0, self.follows[i], mass[i] * chances[i])
        for i in reversed(range(len(self.follows))):
            value[i] = (chances[i] * value[self.follows[i]]).sum()
        flow = mass[: len(self.follows), None] * chances
        return flow, flow * value[self.follows]


# ---- the frontier ------------------------------------------------------------------------------------------------


def frontier_by_setting(record: Record, drift: str = "kl", curve: str = "return") -> go.Figure:
    """A trail per setting through (drift, success), IQM over seeds, the ends joined; a slider over settings shows one with its seeds."""
    points = range(len(record.lanes.points))
    xs, ys = (np.stack([summary(record, name, p)[0] for p in points]) for name in (drift, curve))
    trails = [_trail(record, p, x, y, 0.35) for p, (x, y) in enumerate(zip(xs, ys, strict=True))]
    ends = go.Scatter(x=xs[:, -1], y=ys[:, -1], mode="lines", line={"color": INK, "width": 1.5, "dash": "dot"}, hoverinfo="skip")
    frames = [[_trail(record, p, xs[p], ys[p], 1.0), *_end(record, p, drift, curve)] for p in points]
    said = "; ".join(f"{setting_name(record, p)}: {curve} {y[-1]:.3f} at {x[-1]:.2f} nats" for p, x, y in zip(points, xs, ys, strict=True))
    fig = figure([*trails, ends, *frames[-1]],
                 f"Exact {curve} against exact {drift} from the start, a trail per setting from {record.steps[0]:,} to "
                 f"{record.steps[-1]:,} responses, their ends joined by a dotted line. {said}.",
                 xaxis={"title": {"text": title(drift)}, "range": _span(curve_of(record, drift), xs)},
                 yaxis={"title": {"text": curve}, "range": _span(curve_of(record, curve), ys)}, height=460)  # fmt: skip
    names = [setting_name(record, p) for p in points]
    fig = animate(fig, frames, names, range(len(trails) + 1, len(fig.data)))
    fig.layout.sliders[0].update(currentvalue={"prefix": ""})
    return fig


def _span(seeds: Tensor, middle: np.ndarray) -> list[float]:
    """A range that holds the trails and the ends of all seeds, with a margin."""
    low, high = min(float(seeds[-1].min()), float(middle.min())), max(float(seeds[-1].max()), float(middle.max()))
    return [low - 0.03 * (high - low), high + 0.08 * (high - low)]


def _trail(record: Record, point: int, x: np.ndarray, y: np.ndarray, strength: float) -> go.Scatter:
    look, name = style(point), setting_name(record, point)
    return go.Scatter(x=x, y=y, mode="lines", line={"color": look["color"], "dash": look["dash"], "width": 1.5 + 1.5 * strength},
                      opacity=strength, hovertemplate=f"{name}: %{{x:.2f}} nats, %{{y:.3f}}<extra></extra>")  # fmt: skip


def _end(record: Record, point: int, drift: str, curve: str) -> list[go.Scatter]:
    """Where the seeds of a setting end, and the IQM with its 95% intervals."""
    x, y = (curve_of(record, name)[-1, record.setting(point)] for name in (drift, curve))
    (x0, xl, xh), (y0, yl, yh) = (tuple(float(v) for v in stats.interval(z)) for z in (x, y))
    look = style(point)
    bars = [{"type": "data", "symmetric": False, "array": [high - mid], "arrayminus": [mid - low], "color": look["color"]}
            for low, mid, high in ((xl, x0, xh), (yl, y0, yh))]  # fmt: skip
    seeds = go.Scatter(x=x.numpy(), y=y.numpy(), mode="markers", marker={"color": rgba(look["color"], 0.45), "size": 7},
                       hovertemplate="a seed: %{x:.2f} nats, %{y:.3f}<extra></extra>")  # fmt: skip
    words = {"text": [f"  {setting_name(record, point)}"], "textposition": "top right", "cliponaxis": False, "hoverinfo": "skip"}
    mark = {"color": look["color"], "symbol": look["symbol"], "size": 13}
    return [seeds, go.Scatter(x=[x0], y=[y0], error_x=bars[0], error_y=bars[1], mode="markers+text", marker=mark, **words)]


# ---- the tree of answers -----------------------------------------------------------------------------------------


def answer_tree(record: Record, world: TokenWorld, problem: int, point: int = 0, seed: int = 0) -> go.Figure:
    """Where the mass of one prompt's answers goes, scrubbed over training: ribbons as wide as the chance that they are written.

    The part that ends right is blue and lies above, the part that ends wrong is red. LabError for a record without `watch_tree`.
    """
    if "tree" not in record.fields:
        raise LabError("This record lacks the field 'tree'; record it with fields=watch_tree(world, problem).")
    tree, lane = Tree.of(world, problem), point * len(record.lanes.seeds) + seed
    across, up, names = _places(tree, world, problem)
    each = [tree.flows(chances.double(), world.graph.reward) for chances in record.fields["tree"][:, lane]]
    leaves = slice(len(tree.follows), None)
    marks = ["✓" if r > 0 else "✗" for r in world.graph.reward[tree.nodes[leaves]]]
    frames = [[*_ribbons(tree, flow, right, across, up), _masses(tree, flow, across[leaves], up[leaves], names[leaves], marks)]
              for flow, right in each]  # fmt: skip
    inner = go.Scatter(x=across[: leaves.start], y=up[: leaves.start], mode="text", text=names[: leaves.start], hoverinfo="skip",
                       textposition=["middle left", *["middle center"] * (leaves.start - 1)], showlegend=False)  # fmt: skip
    start, end = (float(right[0].sum()) for _, right in (each[0], each[-1]))
    fig = figure([*frames[-1], inner],
                 f"All answers to {names[0]} as ribbons from the prompt, at the left, token by token to the finished answers; right is "
                 f"{' '.join(world.words(world.solution[problem]))}. The mass that ends right grows from "
                 f"{start:.0%} to {end:.0%}.",
                 xaxis={"visible": False, "range": [-0.6, float(across.max()) + 0.45]},
                 yaxis={"visible": False, "range": [float(up.min()) - THICK / 2, float(up.max()) + THICK / 2]},
                 showlegend=True, legend=LEGEND, height=520, margin={"l": 10, "r": 10, "t": 30, "b": 100})  # fmt: skip
    return _scrubbed(fig, frames, record, range(len(frames[0])), below=10)


def _scrubbed(fig: go.Figure, frames: Sequence[Sequence[go.Scatter]], record: Record, traces: Sequence[int], below: int = 50) -> go.Figure:
    """A slider over the moments of a record."""
    fig = animate(fig, frames, [f"{step:,} responses" for step in record.steps.tolist()], traces, below)
    fig.layout.sliders[0].update(currentvalue={"prefix": "after "})
    return fig


def _places(tree: Tree, world: TokenWorld, problem: int) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """x and y of each node, and what is written at it: the prompt, or a token that leads there."""
    last = torch.full((len(tree.nodes),), -1)
    for token in reversed(range(tree.follows.shape[1])):
        last[tree.follows[:, token]] = token
    up = torch.zeros(len(tree.nodes))
    for depth in tree.depth.unique().tolist():
        here = (tree.depth == depth).nonzero()[:, 0]
        up[here[last[here].argsort(stable=True)]] = (len(here) - 1) / 2 - torch.arange(len(here)).float()
    names = [" ".join(world.words(world.prompt[problem])), *(world.tokens[t] for t in last[1:].tolist())]
    return tree.depth.float().numpy(), up.numpy(), names


def _ribbons(tree: Tree, flow: Tensor, right: Tensor, across: np.ndarray, up: np.ndarray) -> list[go.Scatter]:
    """Two traces of polygons: what ends right, and below it in each ribbon what ends wrong."""
    shapes: tuple[list, list] = ([], [])
    for (x0, y0), (x1, y1), wide, good in _stacked(tree, flow, right, across, up):
        for shape, top, bottom in ((shapes[0], 0.0, good), (shapes[1], good, wide)):
            if bottom - top > THIN * THICK:
                shape += [(x0, y0 - top), (x1, y1 - top), (x1, y1 - bottom), (x0, y0 - bottom), (None, None)]
    return [go.Scatter(x=[p[0] for p in shape], y=[p[1] for p in shape], mode="none", fill="toself", fillcolor=rgba(colour, 0.75),
                       name=name, hoverinfo="skip")
            for shape, colour, name in zip(shapes, (RIGHT, WRONG), ("ends right", "ends wrong"), strict=True)]  # fmt: skip


def _stacked(tree: Tree, flow: Tensor, right: Tensor, across: np.ndarray, up: np.ndarray) -> Iterator[tuple]:
    """Of each ribbon: where its upper edge begins and ends, its width, and how much of that ends right. None crosses another at a node."""
    edges = [(i, int(j), float(f), float(r)) for i in range(len(flow)) for j, f, r in zip(tree.follows[i], flow[i], right[i], strict=True)]
    mass = np.zeros(len(up))
    for _, j, f, _ in edges:
        mass[j] += f
    mass[0] = 1.0
    leaving, coming = (up + THICK * mass / 2).tolist(), (up + THICK * mass / 2).tolist()
    entry = {}
    for n, (_, j, f, _) in sorted(enumerate(edges), key=lambda e: -up[e[1][0]]):
        entry[n] = coming[j]
        coming[j] -= THICK * f
    for n, (i, j, f, r) in sorted(enumerate(edges), key=lambda e: -up[e[1][1]]):
        yield (across[i] + 0.06, leaving[i]), (across[j] - 0.06, entry[n]), THICK * f, THICK * r
        leaving[i] -= THICK * f


def _masses(tree: Tree, flow: Tensor, x: np.ndarray, y: np.ndarray, names: Sequence[str], marks: Sequence[str]) -> go.Scatter:
    """The finished answers, right or wrong, each with its chance."""
    mass = torch.zeros(len(tree.nodes), dtype=flow.dtype).index_add_(0, tree.follows.flatten(), flow.flatten())[-len(x) :]
    words = [f"{name} {mark} {m:.0%}" for name, mark, m in zip(names, marks, mass.tolist(), strict=True)]
    return go.Scatter(x=x, y=y, mode="text", text=words, textposition="middle right", hoverinfo="skip", showlegend=False)


# ---- pass@k ------------------------------------------------------------------------------------------------------


def pass_curves(record: Record, points: Sequence[int] = (0,)) -> go.Figure:
    """Exact pass@k over k, of the first moment, dashed, and of now in some settings, with 95% intervals over seeds; scrubbed over time.

    LabError for a record without `watch_passes`.
    """
    if "pass" not in record.fields:
        raise LabError("This record lacks the field 'pass'; record it with fields=watch_passes(world).")
    start = _pass_lines(record, points[0], 0, INK, "dash", "start")
    frames = [[trace for p in points for trace in _pass_lines(record, p, t, style(p)["color"], "solid", setting_name(record, p))]
              for t in range(len(record.steps))]  # fmt: skip
    said = "; ".join(f"{name} from {a[0]:.3f} to {a[-1]:.3f}" for name, a in [("at first", _passes(record, points[0], 0)[0]),
                     *((f"at the end of {setting_name(record, p)}", _passes(record, p, -1)[0]) for p in points)])  # fmt: skip
    fig = figure([*start, *frames[-1]], f"The exact chance that one of k responses is right, k from 1 to {KS[-1]}: {said}.",
                 xaxis={"title": {"text": "k, responses to a prompt"}, "type": "log", "tickvals": KS, "ticktext": [str(k) for k in KS]},
                 yaxis={"title": {"text": "pass@k"}, "range": [0, 1.02]}, showlegend=True, legend=LEGEND,
                 margin={"t": 30})  # fmt: skip
    return _scrubbed(fig, frames, record, range(len(start), len(fig.data)))


def _passes(record: Record, point: int, t: int) -> tuple[np.ndarray, ...]:
    """IQM over seeds and its interval, (7,) each."""
    return tuple(x.numpy() for x in stats.interval(record.fields["pass"][t, record.setting(point)].T))


def _pass_lines(record: Record, point: int, t: int, colour: str, dash: str, name: str) -> list[go.Scatter]:
    """A band and a line, named at its left end."""
    middle, low, high = _passes(record, point, t)
    band = go.Scatter(x=[*KS, *KS[::-1]], y=[*high, *low[::-1]], mode="none", fill="toself", fillcolor=rgba(colour, 0.15), hoverinfo="skip",
                      showlegend=False)  # fmt: skip
    return [band, go.Scatter(x=KS, y=middle, mode="lines+markers", line={"color": colour, "dash": dash, "width": 2}, name=name,
                             marker={"symbol": style(point)["symbol"], "size": 7},
                             hovertemplate=f"{name}: pass@%{{x}} %{{y:.3f}}<extra></extra>")]  # fmt: skip
