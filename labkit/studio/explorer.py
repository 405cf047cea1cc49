"""The Drift Explorer: choose a world, a method and its knobs; train live; scrub through time; compare; share a link."""
from contextlib import suppress
from typing import Any

import panel as pn
import param
import plotly.graph_objects as go

from labkit import worlds
from labkit.divergence import DIVERGENCES
from labkit.errors import LabError
from labkit.knobs import read_knobs
from labkit.studio import study
from labkit.studio.gallery import View
from labkit.studio.pages import BARE, box, prose
from labkit.studio.session import Session, Whole
from labkit.studio.study import Settings
from labkit.studio.worker import WorkerRun

NEW = "Choose what to train, then press Train. Equal settings give equal runs, seed by seed."
KEEP = 8  # runs that a session keeps
LINK = ["world", "layout", "algorithm", "knobs", "seeds", "updates", "setting", "seed", "moment",
        "reference", "divergence", "states", "versus"]  # fmt: skip

LAYOUTS = {"another one every episode": -1} | {f"fixed, number {i}": i for i in range(10)}
TITLES = {"return": "Return", "drift": "Drift", "floor": "Where the policy goes", "floor B": "Where the policy of B goes",
          "frontier": "What the return costs in drift"}  # fmt: skip
REFERENCES = {"the start": "start", "the policy before": "previous", "the end": "end"}


class Explorer(Session):
    """The session of a visitor of the Drift Explorer. `runs` are by str(Settings), the latest last; `versus` is such a text."""

    link, titles, new = LINK, TITLES, NEW

    world = param.String("control.cartpole")
    layout = Whole(0)
    algorithm = param.String("ppo")
    reference = param.String("start")
    divergence = param.String("kl")
    states = param.String("")

    # ---- parts ---------------------------------------------------------------------------------------------------

    def _build_controls(self) -> None:
        self._knob_tables()
        self.menus = {
            "world": self._select("world", "World", worlds.names()),
            "layout": self._select("layout", "Layout of the grid", LAYOUTS),
            "algorithm": self._select("algorithm", "Method", [self.algorithm]),
        }
        self.controls = pn.Column(
            prose("<h3>World</h3>"), self.menus["world"], self.menus["layout"],
            prose("<h3>Method</h3>"), self.menus["algorithm"], self.lessons["knobs"], *self._run_controls(),
            prose("<h3>Knobs</h3><p class=soft>Several values, such as 0.1, 0.2, are trained side by side.</p>"), self.knob_boxes["knobs"],
            **BARE,
        )  # fmt: skip

    def _build_view(self) -> None:
        self._panes(dict.fromkeys(("return", "drift", "frontier"), 330))
        self.menus |= {
            "setting": self._select("setting", "Setting", {"all": -1}),
            "seed": self._select("seed", "Picture of", {"all seeds": -1}),
            "reference": self._select("reference", "Drift from", REFERENCES),
            "divergence": self._select("divergence", "measured by", list(DIVERGENCES)),
            "states": self._select("states", "over", [self.states]),
            "versus": self._select("versus", "Compare with", {"nothing": ""}),
        }
        again = self.again = self._button("Run it again", self.train_versus, visible=False)
        menus = [self.menus[name] for name in ("reference", "divergence", "states", "setting", "seed", "versus")]
        self.view = pn.Column(
            box(pn.Row(self.slider, self.when, **BARE), pn.Row(*menus, again, **BARE)),
            pn.Row(self.cards["return"], self.cards["drift"], **BARE),
            pn.Row(self.cards["floor"], self.cards["floor B"], **BARE),
            self.cards["frontier"],
            self._downloads(),
            **BARE,
        )  # fmt: skip

    # ---- settings ------------------------------------------------------------------------------------------------

    @property
    def settings(self) -> Settings:
        """What the controls say. LabError where they cannot be read."""
        return Settings(self.world, self.algorithm, read_knobs(self.knobs), self.seeds, self.updates, self.layout)

    @property
    def current(self) -> WorkerRun | None:
        """The run of these settings, where there is one."""
        with suppress(LabError):  # of words that are no settings there is none
            return self.runs.get(str(self.settings))
        return None

    def _changed(self, *events: Any) -> None:
        """Settings changed, here or in the link: bring menus and knobs in step, and show the run if there is one."""
        changed = {event.name for event in events} or set(LINK)
        self.menus["layout"].visible = self.world.startswith("grid.")
        if changed & {"world", "layout"}:
            self._fit()
        if changed & {"world", "layout", "algorithm"} or ("knobs" in changed and not self.edited):
            self._lay_out_knobs("knobs")
        self.shown = self.runs.get(str(self.settings), self.shown)
        self._list_runs()
        self.said = (NEW, False)

    def _fit(self) -> None:
        """Offer the methods and the states that go with the world."""
        fitting, states = study.fitting(self.world, self.layout), study.state_choices(self.world, self.layout)
        self.menus["algorithm"].options, self.menus["states"].options = fitting, states
        self.algorithm = self.algorithm if self.algorithm in fitting else "ppo" if "ppo" in fitting else fitting[0]
        self.states = self.states if self.states in states else states[0]

    def _list_runs(self) -> None:
        """Bring the menus of settings, seeds and runs in step with the run that is shown."""
        self._list_lanes()
        self._offer("versus", {"nothing": ""} | {text: text for text in reversed(self.runs)})

    # ---- training ------------------------------------------------------------------------------------------------

    def train(self) -> None:
        """Begin a run of these settings, or go on with it."""
        text = str(self.settings)
        run = self.runs.get(text)
        if run is None or run.over:
            run = self._begin(self.settings)
        self.shown, self.moment = run, -1
        run.start()
        self._list_runs()

    def _begin(self, settings: Settings) -> WorkerRun:
        run = WorkerRun(settings, self.limits, self.spend)
        self.runs.pop(str(settings), None)
        for other in self.runs.values():
            other.pause()
        going = [other for other in self.runs.values() if not other.over]
        for other in going[: max(0, len(going) + 1 - self.limits.open)]:
            other.stop(f"Stopped, because a page may have {self.limits.open} runs that can go on; Train begins it anew.")
        self.runs[str(settings)] = run
        for text in [t for t, r in self.runs.items() if r is not self.shown and t != self.versus][: max(0, len(self.runs) - KEEP)]:
            self.runs.pop(text).stop()
        return run

    def step(self) -> None:
        """Exactly one update."""
        if self.shown is None or self.current is None or self.shown.over:
            self.shown = self._begin(self.settings)
            self._list_runs()
        self.moment = -1
        self.shown.step()

    def train_versus(self) -> None:
        """Run again what the link compares with."""
        self._begin(Settings.read(self.versus)).start()
        self._list_runs()

    # ---- looking -------------------------------------------------------------------------------------------------

    @property
    def view_now(self) -> View:
        """What is looked at."""
        return View(self.setting, self.seed, self.moment, self.reference, self.divergence, self.states)

    def pictures(self) -> dict[str, go.Figure]:
        """All figures of the shown run as it stands now. LabError where there is none."""
        if self.shown is None or not self.shown.moments:
            raise LabError("There is nothing to show yet; press Train first.")
        text = next(text for text, run in self.runs.items() if run is self.shown)
        other = (Settings.read(self.versus), self.runs[self.versus]) if self.versus in self.runs else None
        return self.gallery.pictures((Settings.read(text), self.shown), self.view_now, other)

    def _report(self) -> None:
        super()._report()
        self.again.visible = bool(self.versus) and self.versus not in self.runs

    def _wanted(self) -> tuple:
        """All that decides the pictures; how far they have grown comes last."""
        run, other = self.shown, self.runs.get(self.versus)
        return run, other, self.view_now, run and run.moments, other and other.moments
