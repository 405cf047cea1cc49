"""Scrubber: slide through settings, time and seeds of a record, drawn in the browser without asking the kernel."""
import base64
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import anywidget
import numpy as np
import plotly.graph_objects as go
import torch
import traitlets as tr

from labkit import stats
from labkit.errors import LabError
from labkit.record import Record
from labkit.studio.figures.curves import curve_of, learning_curve, setting_name, summary, title
from labkit.studio.figures.frame import alt
from labkit.studio.figures.grid import Floor, directions, grid_arrows, masses, moments

_CODE = Path(__file__).with_suffix(".js")
_PAGE = """<div id="{name}"></div>
<script type="module">
{code}
const plain = {data};
const raw = (text) => new DataView(Uint8Array.from(atob(text), (c) => c.charCodeAt(0)).buffer);
const state = {{ ...plain, curves: raw(plain.curves), arrows: raw(plain.arrows) }}, heard = {{}};
const model = {{
  get: (name) => state[name],
  set: (name, value) => {{ state[name] = value; (heard["change:" + name] || []).forEach((f) => f()); }},
  on: (event, f) => (heard[event] ||= []).push(f),
  off: () => {{}},
  save_changes: () => {{}},
}};
render({{ model, el: document.getElementById("{name}") }});
</script>
"""


class Scrubber(anywidget.AnyWidget):
    """Left, curves of the chosen setting (the others faint); right, where its policy is and goes at the chosen time.

    record: with fields "policy" and "occupancy" (`figures.watch`) where a `floor` is given. curves: what to plot, one
    below the other. most: so many moments at most. Synced traits, to be read, set, observed, jslinked:
    `setting`, number of the setting; `time`, number of the moment in `steps`; `seed`, number of the seed or -1 for all.
    """

    _esm: Path | str = _CODE
    about = tr.Dict().tag(sync=True)
    curves = tr.Bytes().tag(sync=True)  # float32: (K, P, 3, T) centre, low, high; then (K, P, N, T) the seeds
    arrows = tr.Bytes().tag(sync=True)  # uint8 (P, N + 1, T, cells, 3): heat, direction, length; all seeds, then each
    setting = tr.Int(0).tag(sync=True)
    time = tr.Int(0).tag(sync=True)
    seed = tr.Int(-1).tag(sync=True)

    def __init__(
        self,
        record: Record,
        floor: Floor | None = None,
        curves: Sequence[str] = ("return", "kl from start"),
        setting: int = 0,
        most: int = 60,
    ) -> None:
        times = moments(record, most)
        heat, arrows = pack_arrows(record, floor, times) if floor else ({}, b"")
        self.record, self.floor, self.curve_names = record, floor, tuple(curves)
        about, packed = described(record, floor, curves, times) | heat, pack_curves(record, curves, times)
        super().__init__(about=about, curves=packed, arrows=arrows, setting=setting, time=len(times) - 1)

    @property
    def steps(self) -> list[int]:
        """Environment steps at each value of `time`."""
        return self.about["steps"]

    @tr.validate("setting", "time", "seed")
    def _within(self, proposal: dict[str, Any]) -> int:
        name, value = proposal["trait"].name, proposal["value"]
        low, high = {"setting": (0, len(self.about["names"])), "time": (0, len(self.steps)), "seed": (-1, len(self.about["seeds"]))}[name]
        if not low <= value < high:
            raise LabError(f"{name} {value} is not in this record; it goes from {low} to {high - 1}.")
        return value

    def figure(self) -> go.Figure:
        """The same record as a small plotly figure, for pages that keep no widgets."""
        if self.floor is None:
            return learning_curve(self.record, self.setting, self.curve_names[0])
        return grid_arrows(self.record, self.floor, self.setting, most=12)

    @classmethod
    def _code(cls) -> str:
        return _CODE.read_text()

    def to_html(self) -> str:
        """A fragment of HTML that works by itself: same code, same data, no kernel, nothing fetched."""
        raw = {name: base64.b64encode(getattr(self, name)).decode() for name in ("curves", "arrows")}
        state = {name: getattr(self, name) for name in ("about", "setting", "time", "seed")}
        data = json.dumps(state | raw).replace("<", "\\u003c")
        name = "scrubber-" + hashlib.sha256(data.encode()).hexdigest()[:12]
        return _PAGE.format(name=name, code=self._code().replace("export default { render };", ""), data=data)

    def _repr_mimebundle_(self, **kwargs: Any) -> tuple[dict, dict] | None:
        """The widget; beside it, for readers of the stored notebook, the small figure and its text."""
        bundle = super()._repr_mimebundle_(**kwargs)
        if bundle is None:
            return None
        fig = self.figure()
        still = {"application/vnd.plotly.v1+json": json.loads(fig.to_json()), "text/plain": alt(fig)}
        return bundle[0] | still, bundle[1]


def described(record: Record, floor: Floor | None, curves: Sequence[str], times: torch.Tensor) -> dict[str, Any]:
    """What the numbers mean: names, steps, seeds, and the plan of the floor."""
    plan = None
    if floor:
        things = {name: (at[:, 1] * floor.width + at[:, 0]).tolist() for name, at in floor.things.items()}
        plan = {"width": floor.width, "height": floor.height, "cells": floor.cell.unique().tolist(), "things": things}
    return {
        "steps": record.steps[times].tolist(),
        "knobs": [{"name": name, "values": list(values)} for name, values in record.lanes.grid.items()],
        "names": [setting_name(record, p) for p in range(len(record.lanes.points))],
        "seeds": list(record.lanes.seeds),
        "curves": [title(name) for name in curves],
        "band": len(record.lanes.seeds) >= stats.FEW,
        "floor": plan,
    }


def pack_curves(record: Record, curves: Sequence[str], times: torch.Tensor) -> bytes:
    """(K, P, 3, T) IQM, low and high, then (K, P, N, T) every seed, little-endian float32."""
    points = range(len(record.lanes.points))
    middle = np.array([[summary(record, name, p, times) for p in points] for name in curves])
    seeds = np.array([[curve_of(record, name)[times, record.setting(p)].T.float().numpy() for p in points] for name in curves])
    return middle.astype("<f4").tobytes() + seeds.astype("<f4").tobytes()


def pack_arrows(record: Record, floor: Floor, times: torch.Tensor) -> tuple[dict[str, float], bytes]:
    """The greatest heat `most`, the heat of `full` colour, and (P, N + 1, T, cells, 3) uint8; all seeds joined, then each.

    Cells are those that have states. Full colour is the hottest cell of the median picture. Heat is most * (b / 255)^2,
    direction a turn of b / 256 from right towards down, length b / 255.
    """
    cells = floor.cell.unique()
    each = torch.stack([masses(record, floor, p, times)[:, :, cells] for p in range(len(record.lanes.points))])
    arrows, heat = directions(torch.cat([each.mean(2, keepdim=True), each], 2).transpose(1, 2))
    most = float(heat.max())
    turn = torch.atan2(arrows[..., 1], arrows[..., 0]) / (2 * torch.pi) * 256
    levels = [(heat / most).sqrt() * 255, turn.round() % 256, arrows.norm(dim=-1) * 255]
    return {"most": most, "full": float(heat.amax(-1).median())}, torch.stack(levels, -1).round().byte().numpy().tobytes()
