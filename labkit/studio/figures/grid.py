"""A policy on its floor: arrows where it goes, heat where it is, and gains and losses cell by cell."""
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import plotly.graph_objects as go
import torch
from torch import Tensor

from labkit.errors import LabError
from labkit.occupancy import listing
from labkit.record import Record
from labkit.snapshot import Snapshot
from labkit.studio.figures.curves import setting_name
from labkit.studio.figures.frame import animate, figure
from labkit.studio.theme import COLOURS, HEAT, INK, SPLIT
from labkit.worlds.finite import FiniteWorld
from labkit.worlds.grid import GridWorld, enumerate_states
from labkit.worlds.world import World

WAYS = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0], [0.0, -1.0]])  # MiniGrid's directions: right, down, left, up
FORWARD = 2
REACH = 0.8  # length of the longest arrow, in cells


@dataclass(frozen=True)
class Floor:
    """Where states lie and where actions lead, for worlds whose states lie on cells. x goes right, y goes down.

    cell (S,) int64: y * width + x. heading (S, A, 2): the step (x, y) that an action tries, of length 1, or 0 where it
    does not move. things: what stands on cells, name -> (n, 2) columns x and y.
    """

    width: int
    height: int
    cell: Tensor
    heading: Tensor
    things: dict[str, Tensor]


def floor(world: World) -> Floor:
    """The floor of a grid of fixed layout, or of a finite world with cells. LabError for worlds that have none."""
    if isinstance(world, GridWorld):
        place = enumerate_states(world).place
        heading = torch.zeros(len(place), 7, 2)
        heading[:, FORWARD] = WAYS[place[:, 2]]
        return Floor(world.width, world.height, place[:, 1] * world.width + place[:, 0], heading, world.cells)
    if isinstance(world, FiniteWorld) and world.mdp.cells:
        at = torch.tensor(world.mdp.cells).flip(1)  # (S, 2): x, y
        width, height = (at.amax(0) + 1).tolist()
        steps = (at[world.table.next[0]] - at[:, None, None]).clamp(-1, 1) * world.table.prob[0][..., None]
        kinds = {"G": "goal", "H": "hole", "C": "cliff", "X": "hazard"}
        things = {kind: at[[label == letter for label in world.mdp.labels]] for letter, kind in kinds.items() if letter in world.mdp.labels}
        return Floor(width, height, at[:, 1] * width + at[:, 0], steps.sum(2).float(), things)
    raise LabError(f"{world.key} has no floor to draw on; take a grid with layout_seed=0, or a finite world with cells.")


def flux(policy: Tensor, occupancy: Tensor, floor: Floor) -> tuple[Tensor, Tensor]:
    """Where a policy goes and where it is: arrows (..., C, 2) and heat (..., C), C = height * width cells, row by row.

    policy (..., S, A), occupancy (..., S), which need not sum to 1. The flux out of a cell is the sum over its states s
    (the directions that the agent may face) and actions a of occupancy(s) * policy(a | s) * heading(s, a). An arrow
    points along it, and its length is |flux| over the same sum of lengths |heading|: 1 where all movement out of the
    cell agrees, 0 where it cancels out. The heat is the share of the occupancy that lies in the cell.
    """
    if policy.shape[-2:] != floor.heading.shape[:2] or occupancy.shape != policy.shape[:-1]:
        raise LabError(
            f"This floor takes policies (..., {floor.heading.shape[0]}, {floor.heading.shape[1]}) with occupancies (..., "
            f"{floor.heading.shape[0]}); got {tuple(policy.shape)} and {tuple(occupancy.shape)}."
        )
    return directions(_masses(policy, occupancy, floor))


def _masses(policy: Tensor, occupancy: Tensor, floor: Floor) -> Tensor:
    """What adds up over lanes, (..., C, 4) float64: flux x and y, moving mass, occupancy; the last sums to 1."""
    heading, where = floor.heading.double(), occupancy.double()
    where = where / where.sum(-1, keepdim=True).clamp_min(1e-300)
    mass = policy.double() * where[..., None]
    going = torch.einsum("...sa,sad->...sd", mass, torch.cat([heading, heading.norm(dim=-1, keepdim=True)], -1))
    cells = mass.new_zeros(*where.shape[:-1], floor.width * floor.height, 4)
    return cells.index_add(-2, floor.cell, torch.cat([going, where[..., None]], -1))


def directions(masses: Tensor) -> tuple[Tensor, Tensor]:
    """Arrows (..., C, 2) and heat (..., C) of masses (..., C, 4), as `flux` defines them."""
    return masses[..., :2] / masses[..., 2:3].clamp_min(1e-300), masses[..., 3]


def watch(world: World) -> dict[str, Callable[[Snapshot], Tensor]]:
    """What `record(fields=watch(world))` must keep for pictures on the floor, exactly, where states can be listed.

    "policy" (L, S, A) and "occupancy" (L, S), which sums to 1, as `listing` says. LabError where states cannot be listed.
    """
    model = world.mdp if isinstance(world, FiniteWorld) else enumerate_states(world) if isinstance(world, GridWorld) else world
    obs, where = listing(model)  # type: ignore[arg-type]

    @torch.no_grad()
    def policy(snapshot: Snapshot) -> Tensor:
        return snapshot.learner.policy(obs).probs  # type: ignore[attr-defined]

    return {"policy": policy, "occupancy": lambda snapshot: where(policy(snapshot).double()).float()}


def moments(record: Record, most: int) -> Tensor:
    """Numbers of at most `most` moments of a record, evenly chosen, the first and the last among them."""
    return torch.linspace(0, len(record.steps) - 1, min(most, len(record.steps))).round().long()


def masses(record: Record, floor: Floor, point: int, times: Tensor) -> Tensor:
    """What the seeds of one setting do at the moments `times` (T',): (T', seeds, C, 4), averages of which have `directions`."""
    setting_name(record, point)
    if missing := {"policy", "occupancy"} - record.fields.keys():
        raise LabError(f"This record lacks the field {min(missing)!r}; record it with fields=watch(world).")
    policy, where = (record.fields[name][times, record.setting(point)] for name in ("policy", "occupancy"))
    return _masses(policy, where, floor)


def grid_arrows(record: Record, floor: Floor, point: int = 0, seed: int | None = None, most: int = 20) -> go.Figure:
    """Where the policy is (heat) and where it goes (arrows, see `flux`) on its floor, with a time slider.

    point: which setting. seed: its number in the record; None: all seeds, which count alike. most: so many moments.
    """
    times = moments(record, most)
    each = masses(record, floor, point, times)
    arrows, heat = directions(each.mean(1) if seed is None else each[:, seed])
    steps = [f"{s}" for s in record.steps[times].tolist()]
    cells, top = floor.cell.unique(), float(heat.max())
    frames = [[_heat(floor, h, top), _needles(floor, cells, a, h, top)] for a, h in zip(arrows, heat, strict=True)]
    busy = int(heat[-1].argmax())
    agree = (arrows.norm(dim=-1) * heat).sum(-1)
    whose = f"{len(record.lanes.seeds)} seeds" if seed is None else f"seed {record.lanes.seeds[seed]}"
    text = (f"Policy of {record.algorithm} ({setting_name(record, point)}, {whose}) on {record.world} at step {steps[-1]}: most time, "
            f"{heat[-1, busy]:.1%}, is spent in column {busy % floor.width}, row {busy // floor.width}; {agree[-1]:.0%} of movement agrees "
            f"on a direction, at step {steps[0]} it was {agree[0]:.0%}.")  # fmt: skip
    fig = figure([*frames[-1], *_things(floor)], text, **_plan(floor))
    return animate(fig, frames, steps, (0, 1), below=8) if len(frames) > 1 else fig


def difference_map(split: Tensor, floor: Floor, names: Sequence[str] = ()) -> go.Figure:
    """Where a change of policy gained and lost return: split (S,) by state, as `performance_difference` gives it.

    Or (T, S), with the `names` of the T moments for a time slider. Cells sum their states, and all cells sum to the change.
    """
    if split.shape[-1] != len(floor.cell):
        raise LabError(f"This floor has {len(floor.cell)} states; the split is of {split.shape[-1]}.")
    rows = split.reshape(-1, split.shape[-1]).double()
    cells = rows.new_zeros(len(rows), floor.width * floor.height).index_add(-1, floor.cell, rows)
    most = max(float(cells.abs().max()), 1e-12)
    frames = [[_split(floor, row, most)] for row in cells]
    up, down, final = int(cells[-1].argmax()), int(cells[-1].argmin()), cells[-1]
    text = (f"Change of return cell by cell, {final.sum():+.3g} in all. Largest gain {final[up]:+.3g} in column {up % floor.width}, row "
            f"{up // floor.width}; largest loss {final[down]:+.3g} in column {down % floor.width}, row {down // floor.width}.")  # fmt: skip
    fig = figure([*frames[-1], *_things(floor)], text, **_plan(floor))
    return animate(fig, frames, names, [0], below=8) if len(frames) > 1 else fig


def _square(floor: Floor, cells: Tensor) -> np.ndarray:
    """(C,) -> (height, width) float32"""
    return _single(cells.view(floor.height, floor.width))


def _single(x: Tensor) -> np.ndarray:
    return x.numpy().astype(np.float32)


def _bar(name: str, ticks: list[float], words: list[str]) -> dict:
    return {"title": {"text": name, "side": "right"}, "tickvals": ticks, "ticktext": words, "outlinewidth": 0, "thickness": 10, "len": 0.8}


def _heat(floor: Floor, heat: Tensor, most: float) -> go.Heatmap:
    """Occupancy; colour grows with its square root, so that rarely visited cells still show."""
    ticks = [most * f for f in (0, 0.1, 0.4, 1)]
    return go.Heatmap(z=_square(floor, heat.sqrt()), zmin=0, zmax=most**0.5, colorscale=HEAT, xgap=1, ygap=1,
                      customdata=_square(floor, heat), hovertemplate="column %{x}, row %{y}: %{customdata:.2%} of the time<extra></extra>",
                      colorbar=_bar("share of time", [t**0.5 for t in ticks], [f"{t:.1%}" for t in ticks]))  # fmt: skip


def _needles(floor: Floor, cells: Tensor, arrows: Tensor, heat: Tensor, most: float) -> go.Scatter:
    """One arrow per cell: direction and length are the flux, faint where the policy seldom is."""
    x, y = arrows[cells].unbind(-1)
    length = REACH * torch.hypot(x, y)
    turn = torch.rad2deg(torch.atan2(x, -y))  # clockwise from up
    strength = (heat[cells] / most).sqrt().clamp(0.35, 1) * (length > 0.05)
    look = {"symbol": "arrow", "angle": turn.short().numpy(), "size": _single(_pixels(floor) * length), "opacity": _single(strength),
            "color": "white", "line": {"color": "#222", "width": 1}}  # fmt: skip
    tip = cells % floor.width + REACH / 2 * x, cells // floor.width + REACH / 2 * y
    return go.Scatter(x=_single(tip[0]), y=_single(tip[1]), mode="markers", marker=look, hoverinfo="skip")


def _split(floor: Floor, cells: Tensor, most: float) -> go.Heatmap:
    """Signed values; colour grows with the square root of their size, and the larger ones carry their sign."""
    root, end = cells.sign() * cells.abs().sqrt(), most**0.5
    signs = [["+" if v > most / 50 else "−" if v < -most / 50 else "" for v in row] for row in _square(floor, cells).tolist()]
    return go.Heatmap(z=_square(floor, root), zmin=-end, zmax=end, colorscale=SPLIT, xgap=1, ygap=1,
                      text=signs, texttemplate="%{text}", textfont={"color": INK, "size": 16},
                      customdata=_square(floor, cells), hovertemplate="column %{x}, row %{y}: %{customdata:+.3g}<extra></extra>",
                      colorbar=_bar("change of return", [-end, 0, end], [f"−{most:.2g}", "0", f"+{most:.2g}"]))  # fmt: skip


LOOKS = {
    "wall": (INK, "square", ""),
    "goal": (COLOURS[2], "star", "goal"),
    "win": (COLOURS[2], "circle-open", "goal"),
    "lose": (COLOURS[1], "x", "wrong end"),
    "lava": (COLOURS[1], "square", "lava"),
    "cliff": (COLOURS[1], "square", "cliff"),
    "hole": (INK, "circle", "hole"),
    "hazard": (COLOURS[1], "x", "hazard"),
    "key": (COLOURS[4], "diamond", "key"),
    "door": (COLOURS[4], "square-open", "door"),
    "ball": (COLOURS[5], "circle", "ball"),
}  # colour, marker, word


def _things(floor: Floor) -> list[go.Scatter]:
    """What stands on the floor, drawn over it; the first of a kind is named."""
    out = []
    for name, at in floor.things.items():
        if not len(at):
            continue
        colour, symbol, word = LOOKS[name]
        size = _pixels(floor) * (1 if symbol == "square" else 0.6)
        marks = {"color": colour, "symbol": symbol, "size": size, "opacity": 0.8 if word else 0.4}
        x, y = at.T.numpy()
        words = [word] + [""] * (len(at) - 1)
        out.append(go.Scatter(x=x, y=y, mode="markers+text", text=words, textposition="top center", marker=marks, hoverinfo="skip"))
    return out


def _pixels(floor: Floor) -> float:
    """Width of a cell on screen."""
    return min(48.0, 400 / max(floor.width, floor.height))


def _plan(floor: Floor) -> dict:
    """Layout of a floor: square cells, row 0 on top, no axes."""
    bare = {"showgrid": False, "showticklabels": False, "ticks": "", "fixedrange": True, "zeroline": False}
    cell = _pixels(floor)
    return {"xaxis": bare | {"range": [-0.5, floor.width - 0.5], "constrain": "domain"},
            "yaxis": bare | {"range": [floor.height - 0.5, -0.5], "scaleanchor": "x", "constrain": "domain"},
            "width": cell * floor.width + 120, "height": cell * floor.height + 90,
            "margin": {"l": 10, "r": 110, "t": 10, "b": 80}}  # fmt: skip
