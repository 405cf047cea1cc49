"""Moving worlds: change the world while an agent learns, and watch how it follows."""
import html
from contextlib import suppress
from dataclasses import replace
from functools import cache, partial
from typing import Any, ClassVar

import panel as pn
import param
import plotly.graph_objects as go

from labkit import worlds
from labkit.errors import LabError
from labkit.knobs import read_knobs
from labkit.record import Record
from labkit.studio import figures, study
from labkit.studio.figures.moving import DRIFT
from labkit.studio.gallery import View, beside, pick, place, plain
from labkit.studio.pages import BARE, box, prose
from labkit.studio.session import Session, Whole
from labkit.studio.study import STEERED, Settings
from labkit.studio.theme import INK
from labkit.studio.worker import WorkerRun, steer
from labkit.worlds.steered import KINDS, Event, Events, SteeredWorld, read_events, write_events

LINK = ["algorithm", "knobs", "versus", "versus_knobs", "seeds", "updates", "events", "speed", "setting", "seed", "moment"]
TITLES = {"regret": "Regret so far", "gap": "Gap to the policy that is best now", "drift": "Drift from the policy that is best now",
          "floor": "The world at this moment, and what was learnt", "belief": "What the detectors believe",
          "floor B": "The same world, and what B has learnt", "belief B": "What the detectors of B believe"}  # fmt: skip
CURVES = {"regret": "regret", "gap": "gap", "drift": DRIFT}
BUTTONS = {"jump": "Jump", "drift": "Slow drift", "recur": "Recurring", "respond": "Responsive", "still": "Still"}
SPEEDS = {"1 update a second": 1, "3 a second": 3, "10 a second": 10, "as fast as it can": 0}
MARGINS = {"l": 70, "r": 120, "t": 44}  # the same everywhere, so that equal times stand below each other
NEW = "Press Train, then change the world. Every press becomes part of the link, which gives this very run again."


class MovingWorlds(Session):
    """A visitor's session. `runs` are "A", which is shown, and "B", which lives through the same events.

    versus: the method of B, or nothing. events: as `write_events` writes them.
    """

    link, titles, new = LINK, TITLES, NEW
    tables: ClassVar[dict[str, str]] = {"knobs": "algorithm", "versus_knobs": "versus"}

    algorithm = param.String("rbocpd_ucrl2")
    versus_knobs = param.String("")
    seeds = Whole(10)
    updates = Whole(200)
    events = param.String("")
    speed = Whole(10, doc="updates a second; 0: as fast as it can")

    # ---- parts ---------------------------------------------------------------------------------------------------

    def _build_controls(self) -> None:
        self._knob_tables()
        methods = study.steered_methods()
        self.menus = {
            "algorithm": self._select("algorithm", "Method", methods),
            "versus": self._select("versus", "Compare with", {"nothing": ""} | {name: name for name in methods}),
            "speed": self._select("speed", "Speed", SPEEDS),
        }
        knobs = "<h3>Knobs{}</h3><p class=soft>Several values, such as 0.1, 0.2, are trained side by side.</p>"
        self.second = pn.Column(self.lessons["versus_knobs"], prose(knobs.format(" of B")), self.knob_boxes["versus_knobs"], **BARE)
        self.controls = pn.Column(
            prose("<h3>Method</h3>"), self.menus["algorithm"], self.lessons["knobs"], *self._run_controls(), self.menus["speed"],
            prose(knobs.format("")), self.knob_boxes["knobs"],
            prose("<h3>B, in the same world</h3>"), self.menus["versus"], self.second, **BARE,
        )  # fmt: skip

    def _build_view(self) -> None:
        self._panes({"regret": 300, "gap": 280, "drift": 320, "belief": 320, "belief B": 320, "floor": 370, "floor B": 370})
        self.menus |= {
            "setting": self._select("setting", "Setting", {"all": -1}),
            "seed": self._select("seed", "World and beliefs of", {"all seeds": -1}),
        }
        look: dict[str, Any] = {"sizing_mode": "fixed", "width": 124}
        for card in self.cards.values():
            card.visible = False  # there is nothing to see yet
        self.presses = {
            kind: self._button(name, partial(self.press, kind), description=KINDS[kind], **look) for kind, name in BUTTONS.items()
        }
        self.story = prose()
        self.clear = self._button("Forget all events", self.forget, **look | {"width": 160})
        side = BARE | {"styles": {"flex": "1 1 380px", "min-width": "min(100%, 300px)"}}  # one below the other where there is little room
        left, right = (pn.Column(*(self.cards[name] for name in TITLES if (name in CURVES) == curved), **side) for curved in (True, False))
        self.view = pn.Column(
            box(prose("<h2>Change the world</h2>"), pn.FlexBox(*self.presses.values(), self.clear, **BARE), self.story),
            box(pn.Row(self.slider, self.when, **BARE), pn.Row(self.menus["setting"], self.menus["seed"], **BARE)),
            pn.FlexBox(left, right, **BARE),
            self._downloads(),
            **BARE,
        )  # fmt: skip

    # ---- settings ------------------------------------------------------------------------------------------------

    @property
    def settings(self) -> Settings:
        return Settings(STEERED, self.algorithm, read_knobs(self.knobs), self.seeds, self.updates, events=read_events(self.events))

    @property
    def both(self) -> dict[str, Settings]:
        """The settings of A, and of B where there is one."""
        mine = self.settings
        other = replace(mine, algorithm=self.versus, knobs=read_knobs(self.versus_knobs))
        return {"A": mine} | ({"B": other} if self.versus else {})

    @property
    def current(self) -> WorkerRun | None:
        with suppress(LabError):
            return self.shown if self.shown and self._standing == self.both else None
        return None

    @property
    def _standing(self) -> dict[str, Settings]:
        """The settings of the runs that there are."""
        return {name: run.settings for name, run in self.runs.items()}

    def _changed(self, *events: Any) -> None:
        """Settings changed, here or in the link: bring menus, knobs and the story in step."""
        changed = {event.name for event in events} or set(LINK)
        for table, method in self.tables.items():
            if method in changed or (table in changed and self.edited != table):
                self._lay_out_knobs(table)
        self.second.visible = bool(self.versus)
        if "speed" in changed:
            self._set_pace()
        self._list_lanes()
        self.said = (NEW, False)
        self._tell()

    def _lay_out_knobs(self, table: str) -> None:
        if getattr(self, self.tables[table]):
            super()._lay_out_knobs(table)

    def _set_pace(self) -> None:
        for run in self.runs.values():
            run.pace = 1 / self.speed if self.speed > 0 else 0.0

    def _tell(self) -> None:
        """The events in words, and which buttons do something."""
        events = read_events(self.events)
        told = [f"<b>{event.kind}</b> at step {event.step:,}" for event in events]
        words = ", ".join(told) if told else "Nothing has happened to the world."
        self.story.object = f"<p class=soft data-events='{html.escape(self.events)}'>{words}</p>"
        self.clear.disabled = not events
        holds = events[-1].kind if events else "still"
        for kind, button in self.presses.items():
            button.button_type = "primary" if kind == holds else "default"

    # ---- training ------------------------------------------------------------------------------------------------

    def train(self) -> None:
        """Begin runs of these settings, or go on with them."""
        if self.current is None or self.current.over:
            self._begin()
        self.moment = -1
        for run in self.together:
            run.start()

    def step(self) -> None:
        if self.current is None or self.current.over:
            self._begin()
        self.moment = -1
        for run in self.together:
            run.step()

    def _begin(self) -> None:
        """New runs in place of the old ones. LabError, and nothing is lost, where they cannot be begun."""
        if len(self.both) > self.limits.open:
            raise LabError(f"A page here may have {self.limits.open} run that can go on; compare with nothing.")
        fresh = {name: WorkerRun(settings, self.limits, self.spend) for name, settings in self.both.items()}
        self.close()
        self.runs, self.shown = fresh, fresh["A"]
        self._set_pace()
        self._list_lanes()

    @property
    def together(self) -> list[WorkerRun]:
        return list(self.runs.values())

    def press(self, kind: str) -> None:
        """Change the world: from the next update on that no run has begun, or where there is none, from the start."""
        going = [run for run in self.runs.values() if not run.over] if self.current else []
        if self.current and self.current.over:
            raise LabError("This run is over; take more updates, or press Train to live through its events again.")
        if not going:
            self.events = self._with(read_events(self.events), Event(kind, 0))
            return
        stride, known = self.settings.life // self.updates, read_events(self.events)

        def change(settings: Settings, begun: int) -> Settings:
            later = replace(settings, events=read_events(self._with(known, Event(kind, begun * stride))))
            later.check()
            return later

        steer(going, change)
        self.events = write_events(going[0].settings.events or ())

    @staticmethod
    def _with(events: Events, event: Event) -> str:
        return write_events(tuple(sorted([*events, event], key=lambda e: e.step)))

    def forget(self) -> None:
        """No events; the next run lives in a world that stays as it is."""
        self.events = ""

    # ---- looking -------------------------------------------------------------------------------------------------

    def record(self) -> Record:
        kept = super().record()
        story = f"the world was steered: {write_events(self.runs['A'].settings.events or ()) or 'no events'}"
        return replace(kept, notes=(*kept.notes, story))

    def pictures(self) -> dict[str, go.Figure]:
        if self.shown is None or not self.shown.moments:
            raise LabError("There is nothing to show yet; press Train first.")
        records = {name: self._measured(run.record()) for name, run in self.runs.items() if run.moments}
        view, mine = View(self.setting, self.seed, self.moment), records["A"]
        events, last = self._standing["A"].events or (), max(int(record.steps[-1]) for record in records.values())
        step = int(mine.steps[place(mine, view)])
        out = {name: go.Figure(self._curve(records, view, curve)) for name, curve in CURVES.items()}
        for name, record in records.items():
            tail = "" if name == "A" else " B"
            if "belief" in record.fields:
                out[f"belief{tail}"] = plain(figures.detector, record, pick(record, view), None if self.seed < 0 else self.seed)
            out[f"floor{tail}"] = self._floor(record, view, step, events)
        for name, fig in out.items():
            if "floor" not in name:
                figures.mark_events(fig, events, last)
                fig.add_vline(step, line={"color": INK, "width": 1, "dash": "dot"})
                fig.update_layout(margin=MARGINS, xaxis_range=[0, last])
        return out

    def _measured(self, record: Record) -> Record:
        return self.gallery.keep((id(record), DRIFT), lambda: (figures.with_distance(record), record))[0]

    def _curve(self, records: dict[str, Record], view: View, curve: str) -> go.Figure:
        """A curve of A, and of B beside it; it does not change from one moment to the next, so it is kept."""

        def draw() -> tuple[go.Figure, dict[str, Record]]:
            fig = plain(figures.learning_curve, records["A"], None if view.setting < 0 else view.setting, curve)
            if "B" in records:
                beside(fig, records["B"], pick(records["B"], view), curve)
            return fig, records

        return self.gallery.keep((curve, view.setting, *map(id, records.values())), draw)[0]

    def _floor(self, record: Record, view: View, step: int, events: Events) -> go.Figure:
        at = min(int((record.steps < step).sum()), len(record.steps) - 1)
        seed, life = max(view.seed, 0), self._standing["A"].life
        world = small(write_events(events), record.lanes.seeds[seed], life)
        return figures.small_world(record, world, at, pick(record, view), seed)

    def _wanted(self) -> tuple:
        a, b = self.runs.get("A"), self.runs.get("B")
        return a, b, (self.setting, self.seed, self.moment, self.events), a and a.moments, b and b.moments


@cache
def small(events: str, seed: int, life: int) -> SteeredWorld:
    """The world of one seed."""
    return worlds.make(STEERED, events=events, seed=seed, life=life)  # type: ignore[return-value]
