"""Change points on one axis of time: how the world really moves, what the detectors believe, what is forgotten, what it costs."""
from collections.abc import Callable, Sequence

import numpy as np
import plotly.graph_objects as go
from torch import Tensor

from labkit.errors import LabError
from labkit.occupancy import discounted
from labkit.record import Record
from labkit.snapshot import Snapshot
from labkit.studio.figures.curves import STEPS, setting_name
from labkit.studio.figures.frame import animate, figure
from labkit.studio.figures.moving import DRIFT, EQUAL, with_distance
from labkit.studio.theme import HEAT, INK, style
from labkit.tabular import changepoint
from labkit.worlds.finite import MDP
from labkit.worlds.moving import MovingWorld

PANELS = ((0.82, 1.0), (0.5, 0.76), (0.26, 0.44), (0.0, 0.2))  # from above: truth, belief, regret, drift


def watch_changes(world: MovingWorld) -> dict[str, Callable[[Snapshot], Tensor]]:
    """What `record(fields=watch_changes(world))` must keep of rbocpd_ucrl2 for `change_points`.

    "policy" (L, S, A), its discounted "occupancy" (L, S), "best" (L, S, A), 1 for the actions that are optimal in the world as it
    stands, and "run" (L, S, A), how many visits each pair's detector believes to have passed since the pair last changed.
    """

    def now(snapshot: Snapshot) -> MDP:
        return world.at(snapshot.learner.memory["clock"] - 1)  # that of the last step

    def policy(snapshot: Snapshot) -> Tensor:
        return snapshot.learner.memory["log_pi"].exp()

    def best(snapshot: Snapshot) -> Tensor:
        q = now(snapshot).best.q
        top = q.amax(-1, keepdim=True)
        return (q >= top - EQUAL * top.abs()).float()

    def run(snapshot: Snapshot) -> Tensor:
        chance, length = changepoint.belief(snapshot.learner.memory["watch"])
        return (chance * length).sum(-1).float()

    return {
        "policy": lambda snapshot: policy(snapshot).float(),
        "occupancy": lambda snapshot: discounted(now(snapshot))(policy(snapshot)).float(),
        "best": best,
        "run": run,
    }


def change_points(record: Record, world: MovingWorld, seed: int = 0) -> go.Figure:
    """One seed of a record with `watch_changes`, its settings side by side; a slider moves a cursor along the time.

    From above: the true chance that each action leads onward from the middle state; the run lengths that the detectors of the last
    setting believe in, a row for each state and action, and their restarts; regret; and the exact distance from the policy that is
    now best. LabError for a record without these fields.
    """
    if "run" not in record.fields:
        raise LabError("This record lacks the field 'run'; record rbocpd_ucrl2 with fields=watch_changes(world).")
    record, steps = with_distance(record), record.steps.numpy()
    points, seeds = range(len(record.lanes.points)), len(record.lanes.seeds)
    onward, restarts = _onward(record, world, seed), _restarts(record, seed)
    curves = {name: record.curves[name].view(len(steps), -1, seeds)[..., seed].numpy() for name in ("regret", DRIFT)}
    names = [setting_name(record, p) for p in points]
    data = [
        *(_line(steps, y, a, "y", f"action {a} leads onward") for a, y in enumerate(onward.T)),
        _beliefs(record, seed),
        go.Scatter(x=restarts, y=np.full(len(restarts), -1), yaxis="y2", mode="markers", name="restart", showlegend=False,
                   marker={"symbol": "triangle-up", "size": 8, "color": INK}, hovertemplate="restart before step %{x}<extra></extra>"),
        *(_line(steps, curves["regret"][:, p], p + 2, "y3", names[p]) for p in points),
        *(_line(steps, curves[DRIFT][:, p], p + 2, "y4", names[p], False) for p in points),
    ]  # fmt: skip
    spans = [(0, 1), (-2, onward.shape[1] * world.mdp.states), (0, curves["regret"].max()), (0, curves[DRIFT].max())]
    frames = [_cursor(step, spans) for step in steps]
    fig = figure([*data, *frames[-1]], _told(record, world, seed, restarts, curves, names), height=720, showlegend=True,
                 legend={"orientation": "h", "y": 1.02, "yanchor": "bottom"}, margin={"l": 70, "r": 90, "t": 10, "b": 110},
                 xaxis={"title": {"text": STEPS}, "anchor": "y4"})  # fmt: skip
    titles = ("chance to<br>get on", "state, action", "regret", "nats from<br>now-best")
    for i, (title, domain, span) in enumerate(zip(titles, PANELS, spans, strict=True), 1):
        fig.update_layout({f"yaxis{i if i > 1 else ''}": {"title": {"text": title}, "domain": domain, "range": [span[0], 1.05 * span[1]]}})
    pairs = [f"{s}, {a}" for s in range(world.mdp.states) for a in range(world.mdp.actions)]
    fig.update_layout(yaxis2={"tickvals": list(range(0, len(pairs), 2)), "ticktext": pairs[::2]})
    return animate(fig, frames, [f"{step:,}" for step in steps], range(len(data), len(data) + len(spans)))


def _onward(record: Record, world: MovingWorld, seed: int) -> np.ndarray:
    """The true chances (T, A) that each action leads from the middle state to the next one, in the world of one seed."""
    middle = world.mdp.states // 2
    rows = seed * world.modes + world.schedule[seed, record.steps.clamp_max(world.schedule.shape[1]) - 1]
    return world.models.P[rows, middle, :, middle + 1].numpy()


def _restarts(record: Record, seed: int) -> np.ndarray:
    """The moments (n,) before which a detector of the last setting restarted."""
    total = record.curves["restarts"][:, record.setting(len(record.lanes.points) - 1)][:, seed]
    return record.steps[total.diff(prepend=total.new_zeros(1)) > 0].numpy()


def _line(x: np.ndarray, y: np.ndarray, number: int, axis: str, name: str, legend: bool = True) -> go.Scatter:
    look = {"color": style(number)["color"], "dash": style(number)["dash"], "width": 2}
    return go.Scatter(x=x, y=y, yaxis=axis, mode="lines", name=name, showlegend=legend, line=look,
                      hovertemplate=f"{name}: %{{y:.3g}} at step %{{x}}<extra></extra>")  # fmt: skip


def _beliefs(record: Record, seed: int) -> go.Heatmap:
    """Run lengths of every pair, (S A) rows over time; colour grows with their logarithm."""
    run = record.fields["run"][:, record.setting(len(record.lanes.points) - 1)][:, seed].flatten(1).T
    ticks = (0, 10, 100, 1000)
    return go.Heatmap(x=record.steps.numpy(), y=np.arange(len(run)), z=run.log1p().numpy(), customdata=run.numpy(), yaxis="y2",
                      colorscale=HEAT, zmin=0, hovertemplate="%{customdata:.0f} visits since the last change, at step %{x}<extra></extra>",
                      colorbar={"title": {"text": "visits since<br>a change"}, "len": 0.3, "y": 0.63, "thickness": 10, "outlinewidth": 0,
                                "tickvals": [float(np.log1p(t)) for t in ticks], "ticktext": [str(t) for t in ticks]})  # fmt: skip


def _cursor(step: int, spans: Sequence[tuple[float, float]]) -> list[go.Scatter]:
    """A line through all panels at a step."""
    look = {"mode": "lines", "line": {"color": INK, "width": 1.5}, "showlegend": False, "hoverinfo": "skip"}
    axes = ("y", *(f"y{i}" for i in range(2, len(spans) + 1)))
    return [go.Scatter(x=[step, step], y=[low, 1.05 * high], yaxis=axis, **look) for axis, (low, high) in zip(axes, spans, strict=True)]


def _told(record: Record, world: MovingWorld, seed: int, restarts: np.ndarray, curves: dict[str, np.ndarray], names: list[str]) -> str:
    """The picture in words."""
    turns = ((world.schedule[seed].diff() != 0).nonzero()[:, 0] + 1).tolist()
    late = [float(min(restarts[restarts >= turn], default=np.nan)) - turn for turn in turns]
    ends = "; ".join(f"{name} {curves['regret'][-1, p]:.0f}, {curves[DRIFT][:, p].mean():.2f} nats" for p, name in enumerate(names))
    return (f"Seed {record.lanes.seeds[seed]} of {record.algorithm} in {record.world}. The world turns at steps "
            f"{', '.join(map(str, turns))}; the next restart is seen {', '.join(f'{x:.0f}' for x in late)} steps later. Regret at the end "
            f"and mean distance from the policy that is now best: {ends}.")  # fmt: skip
