"""Loop: slide through response strength, regularisation, rounds and starts of the performative loop, in the browser alone."""
from functools import reduce
from pathlib import Path

import plotly.graph_objects as go

from labkit.record import Record
from labkit.studio.figures import Floor, performative_loop
from labkit.studio.figures.performative import orbit
from labkit.studio.scrubber import Scrubber

_CHANGES = {  # what the scrubber draws -> what is drawn here
    "drawCurves(left,": "drawTrail(left,",
    "drawFloor(right,": "drawRounds(right,",
    "const text = words(d, at)": "const text = told(d, at)",
    'slider("step"': 'slider("round"',
    'slider("seed"': 'slider("start"',
    '? "all" : String(d.seeds[v])': '? "all" : String(v + 1)',
    "export default { render };": Path(__file__).with_name("loop.js").read_text() + "export default { render };",
}


_SCRIPT = reduce(lambda code, change: code.replace(*change), _CHANGES.items(), Scrubber._code())


class Loop(Scrubber):
    """Left, the flow's trail on a plane and its change per round; right, where the policy went in the last rounds, over one another.

    record: of performative_rl on one grid, kept with fields=watch_flow(); its seeds are starts. Synced traits as the Scrubber's.
    """

    _esm = _SCRIPT

    def __init__(self, record: Record, floor: Floor, setting: int = 0) -> None:
        record, self.kept = orbit(record)
        super().__init__(record, floor, ("across", "up", "change"), setting, most=len(record.steps))

    @classmethod
    def _code(cls) -> str:
        return _SCRIPT

    def figure(self) -> go.Figure:
        """The same record as a plotly figure, for pages that keep no widgets."""
        assert self.floor
        return performative_loop(self.record, self.floor, self.setting)
