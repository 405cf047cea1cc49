"""What the pages share on which runs are trained: controls joined to a link, runs that are looked at, pictures drawn beside them."""
import html
import io
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, ClassVar

import panel as pn
import param
import plotly.graph_objects as go
import plotly.io

from labkit import store
from labkit.errors import LabError
from labkit.knobs import read_knobs, write_knobs
from labkit.lanes import Knob
from labkit.paper import discover
from labkit.record import Record
from labkit.studio import figures, study
from labkit.studio.gallery import Gallery
from labkit.studio.limits import Limits
from labkit.studio.pages import BARE, FIELD, INPUT, TEXT, WIDE, box, prose
from labkit.studio.study import Settings
from labkit.studio.worker import LIMITS, LINE, WorkerRun

RATE = 8  # looks at the run a second
CAMERA = {"displaylogo": False, "responsive": True, "toImageButtonOptions": {"format": "png", "scale": 2, "filename": "drift"},
          "modeBarButtonsToRemove": ["lasso2d", "select2d", "zoomIn2d", "zoomOut2d", "autoScale2d"]}  # fmt: skip

DRAWERS = ThreadPoolExecutor(1, "drawing")

pn.extension("plotly", notifications=False)


class Whole(param.Integer):
    """A whole number; -1, none in particular, is 'none' in a link, where it would come back as -1.0."""

    @classmethod
    def serialize(cls, value: int) -> str:
        return "none" if value == -1 else str(value)

    @classmethod
    def deserialize(cls, value: Any) -> int:
        return -1 if value == "none" else int(value)


class Session(pn.viewable.Viewer):
    """One visitor's page. What `link` names is all that a link carries; runs live in other processes and are looked at from here.

    limits, spend: what each run may use, and whom it tells what it has used, as WorkerRun has them. A page says in `pictures`,
    `train`, `step` and `_changed` what it is for, and builds `controls` and `view`.
    """

    link: ClassVar[Sequence[str]]
    titles: ClassVar[dict[str, str]]  # of its pictures; those of grids are called "floor..."
    controls: pn.Column
    view: pn.Column
    new: ClassVar[str]  # what the status line says before there is a run
    tables: ClassVar[dict[str, str]] = {"knobs": "algorithm"}  # which parameter holds the knobs of the method that another one names

    algorithm = param.String("")
    knobs = param.String("")
    seeds = Whole(5)
    updates = Whole(60)
    setting = Whole(-1, doc="which setting is looked at; -1: all")
    seed = Whole(-1, doc="whose picture is drawn; -1: all seeds together")
    moment = Whole(-1, doc="where the scrubber stands; -1: at the latest moment")
    versus = param.String("", doc="what to compare with")

    def __init__(self, limits: Limits = LIMITS, spend: Callable[[int], None] = lambda steps: None, **settings: Any) -> None:
        super().__init__(**settings)
        self.limits, self.spend, self.touched = limits, spend, time.monotonic()
        self.runs: dict[str, WorkerRun] = {}
        self.shown: WorkerRun | None = None
        self.gallery = Gallery()
        self.drawn: tuple = ()
        self.reported: tuple = ()
        self.rested = 0.0  # when a picture that only grew may be drawn again
        self.put = 0  # where `_place` has put the slider
        self.drawing: Future[tuple[dict[str, go.Figure], float]] | None = None
        self.said = (self.new, False)
        self.edited = ""  # the table of knobs whose own field is being edited
        self.menus: dict[str, pn.widgets.Select] = {}
        self._build_controls()
        self._build_view()
        self.param.watch(self._guard(self._changed), list(self.link))
        self._guard(self._changed)()

    # ---- what a page says ----------------------------------------------------------------------------------------

    @property
    def settings(self) -> Settings:
        """What the controls say. LabError where they cannot be read."""
        raise NotImplementedError

    @property
    def current(self) -> WorkerRun | None:
        """The run of these settings, where there is one."""
        raise NotImplementedError

    @property
    def together(self) -> list[WorkerRun]:
        """The runs that Pause and Stop are for, the shown one first."""
        return [self.shown] if self.shown else []

    def train(self) -> None:
        """Begin a run of these settings, or go on with it."""
        raise NotImplementedError

    def step(self) -> None:
        """Exactly one update."""
        raise NotImplementedError

    def pictures(self) -> dict[str, go.Figure]:
        """All figures of the shown run as it stands now. LabError where there is none."""
        raise NotImplementedError

    def record(self) -> Record:
        """What is downloaded of the shown run. LabError where there is none."""
        if self.shown is None:
            raise LabError("There is nothing to download yet; press Train first.")
        return self.shown.record()

    def _build_controls(self) -> None:
        raise NotImplementedError

    def _build_view(self) -> None:
        raise NotImplementedError

    def _changed(self, *events: Any) -> None:
        raise NotImplementedError

    def _wanted(self) -> tuple:
        """All that decides the pictures, in three parts, and then how far they have grown, the shown run first."""
        raise NotImplementedError

    # ---- parts ---------------------------------------------------------------------------------------------------

    def _select(self, name: str, label: str, options: Any, **more: Any) -> pn.widgets.Select:
        """A menu joined to a parameter."""
        value = getattr(self, name)
        choices = options if value in (options.values() if isinstance(options, dict) else options) else [value, *options]
        menu = pn.widgets.Select(name=label, options=choices, value=value, **FIELD, **more)
        menu.link(self, value=name, bidirectional=True)
        return menu

    def _button(self, name: str, act: Callable[[], None], **more: Any) -> pn.widgets.Button:
        button = pn.widgets.Button(name=name, **FIELD | more)
        button.on_click(lambda event: self._guard(act)())
        return button

    def _number(self, name: str, label: str, start: int, end: int) -> pn.widgets.IntInput:
        field = pn.widgets.IntInput(name=label, value=getattr(self, name), start=start, end=end, **FIELD)
        field.link(self, value=name, bidirectional=True)
        return field

    def _run_controls(self) -> tuple[Any, ...]:
        """Seeds, updates, the four buttons and the status line."""
        self.status = prose()
        self.buttons = {
            "train": self._button("Train", self.train, button_type="primary"),
            "pause": self._button("Pause", self.pause),
            "step": self._button("Step", self.step),
            "stop": self._button("Stop", self.stop),
        }
        numbers = pn.Row(self._number("seeds", "Seeds", 1, 64), self._number("updates", "Updates", 1, 2000), **BARE)
        train, *rest = self.buttons.values()
        return prose("<h3>Run</h3>"), numbers, train, pn.Row(*rest, **BARE), self.status

    def _knob_tables(self) -> None:
        """A lesson and a place for knobs for each of `tables`."""
        self.lessons = {table: prose() for table in self.tables}
        self.knob_boxes = {table: pn.Column(**BARE) for table in self.tables}

    def _panes(self, heights: dict[str, int]) -> None:
        """The scrubber, and for each of `titles` a card with its picture, of its own size or of such a height, and its text."""
        self.slider = pn.widgets.IntSlider(name="Moment", start=0, end=1, disabled=True, show_value=False, **FIELD)
        self.slider.param.watch(lambda event: self._scrub(event.new), "value")
        self.when = pn.pane.HTML("", stylesheets=[TEXT], width=140, margin=(20, 0, 0, 12))
        looks = {name: BARE | {"height": heights[name]} if name in heights else {"align": "center", "margin": 0} for name in self.titles}
        self.panes = {name: pn.pane.Plotly(None, config=CAMERA, **look) for name, look in looks.items()}
        self.notes = {name: prose() for name in self.panes}
        self.cards = {name: self._card(name, title) for name, title in self.titles.items()}

    def _downloads(self) -> pn.Row:
        save = pn.widgets.FileDownload(label="Download the run", filename="run.zip", callback=self._guard(self.zipped), **FIELD)
        draw = pn.widgets.FileDownload(label="Download the pictures", filename="drift.html", **FIELD)
        draw.callback = self._guard(self.pictures_page)
        return pn.Row(save, draw, **WIDE, margin=(0, 10, 0, 0))

    def _card(self, name: str, title: str) -> pn.Column:
        return box(prose(f"<h2>{title}</h2>"), self.panes[name], self.notes[name])

    def _knob_row(self, table: str, name: str, knob: Knob) -> pn.Column:
        """A slider that moves the last value, and a field that holds them all."""
        values = read_knobs(getattr(self, table)).get(name, (knob.default,))
        places = sorted({*study.notches(knob), values[-1]})
        slider = pn.widgets.DiscreteSlider(name=name, options={f"{v:g}": v for v in places}, value=values[-1], **FIELD)
        said = ", ".join(f"{v:g}" for v in values)
        field = pn.widgets.TextInput(name="values", value=said, width=104, stylesheets=[INPUT], margin=(2, 6, 6, 6))
        field.param.watch(self._guard(lambda event: self._turn(table, name, event.new)), "value")
        slider.param.watch(lambda event: self._slide(field, event.new), "value")
        row = pn.Row(slider, field, **BARE)
        return pn.Column(row, prose(f"<p class=soft>{html.escape(knob.doc)}</p>"), **WIDE, margin=(0, 0, 10, 0))

    @staticmethod
    def _slide(field: pn.widgets.TextInput, value: float) -> None:
        """A knob's slider was moved: it sets the last of its values."""
        field.value = ", ".join([*str(field.value).split(", ")[:-1], f"{value:g}"])

    def _turn(self, table: str, name: str, text: str) -> None:
        """A knob's field was edited."""
        values = read_knobs(f"{name}={text.replace(' ', '').strip(',')}")
        default = (discover()[getattr(self, self.tables[table])].knobs[name].default,)
        others = {k: v for k, v in read_knobs(getattr(self, table)).items() if k != name}
        self.edited = table
        setattr(self, table, write_knobs(others | ({} if values[name] == default else values)))
        self.edited = ""

    def _lay_out_knobs(self, table: str) -> None:
        """Show a method's lesson and its knobs; those that it does not have are dropped."""
        key, methods = getattr(self, self.tables[table]), discover()
        if key not in methods:
            raise LabError(f"There is no method {key!r}; choose one of {', '.join(methods)}.")
        method, given = methods[key], read_knobs(getattr(self, table))
        if unknown := given.keys() - method.knobs.keys():
            setattr(self, table, write_knobs({k: v for k, v in given.items() if k not in unknown}))
        self.lessons[table].object = f"<p class=soft>{html.escape(method.paper.lesson)}</p>"
        self.knob_boxes[table][:] = [self._knob_row(table, name, knob) for name, knob in reversed(method.knobs.items())]

    def _list_lanes(self) -> None:
        """Bring the menus of settings and seeds in step with the run that is shown."""
        lanes = self.shown.lanes if self.shown else None
        names = [", ".join(f"{k}={v:g}" for k, v in point.items()) for point in lanes.points] if lanes else []
        self._offer("setting", {"all": -1} | {name: i for i, name in enumerate(names) if name})
        self._offer("seed", {"all seeds": -1} | {f"seed {s}": i for i, s in enumerate(lanes.seeds if lanes else ())})

    def _offer(self, name: str, options: dict[str, Any]) -> None:
        """Set a menu's options; what a link asks for stays, though it is not there yet."""
        value = getattr(self, name)
        if value not in options.values():
            options = options | {f"{value}" if name == "versus" else f"number {value}": value}
        if self.menus[name].options != options:
            self.menus[name].param.update(options=options, value=value)

    # ---- training ------------------------------------------------------------------------------------------------

    def pause(self) -> None:
        """Pause the shown run, or let it go on, and what goes with it."""
        halt = self.shown is not None and self.shown.state == "running"
        for run in self.together:
            (run.pause if halt else run.resume)()

    def stop(self) -> None:
        """End the shown run, and what goes with it."""
        for run in self.together:
            run.stop()

    def close(self) -> None:
        """End all runs of the session."""
        for run in self.runs.values():
            run.stop()

    # ---- looking -------------------------------------------------------------------------------------------------

    def zipped(self) -> io.BytesIO:
        """The shown run in a zip, which `labkit runs import` takes."""
        kept, data = self.record(), io.BytesIO()
        with tempfile.TemporaryDirectory() as folder:
            store.pack(store.Run(store.save(kept, Path(folder) / "run")), data)
        data.seek(0)
        return data

    def pictures_page(self) -> io.StringIO:
        """The pictures as one page that needs nothing else."""
        parts = [
            plotly.io.to_html(fig, include_plotlyjs=i == 0, full_html=False, config=CAMERA) + f"<p>{html.escape(figures.alt(fig))}</p>"
            for i, fig in enumerate(self.pictures().values())
        ]
        look = "body { font: 15px/1.5 system-ui, sans-serif; max-width: 900px; margin: 40px auto; color: #555 }"
        head = f"<!doctype html><html lang=en><meta charset=utf-8><title>Drift</title><style>{look}</style>"
        return io.StringIO(f"{head}<h1>{html.escape(str(self.settings))}</h1>{''.join(parts)}")

    def _scrub(self, moment: int) -> None:
        """The slider was moved, by the reader or by `_place`."""
        if moment != self.put:
            self.moment = -1 if moment >= self.slider.end else moment

    def _guard(self, act: Callable[..., Any]) -> Callable[..., Any]:
        """`act`, with a LabError shown in the status line."""

        def guarded(*args: Any) -> Any:
            self.touched = time.monotonic()
            try:
                return act(*args)
            except LabError as error:
                self.said = (str(error), True)
                self._report()

        return guarded

    def misread(self, values: dict[str, Any]) -> None:
        """What to say where a link cannot be read."""
        self.said = (f"The link's {', '.join(f'{k}={v}' for k, v in values.items())} cannot be read; the defaults are shown instead.", True)

    def _report(self) -> None:
        """Status line, progress and buttons."""
        run, words, bad = self.shown, *self.said
        state = run.state if run else "idle"
        if run and not bad:
            bad, words = state == "failed", run.error or self._sentence(run)
        done = 100 * run.moments / run.updates if run else 0
        self.status.object = (
            f'<div class=bar role=progressbar aria-label=Progress aria-valuemin=0 aria-valuemax=100 aria-valuenow={done:.0f}>'
            f'<i style="width:{done:.1f}%"></i></div>'
            f'<p role=status class="soft{" bad" * bad}" data-state={state} data-updates={run.moments if run else 0}>'
            f"{html.escape(words)}</p>"
        )
        again = run is not None and run is self.current and state in ("paused", "running")
        self.buttons["train"].param.update(name="Resume" if again and state == "paused" else "Train", disabled=again and state == "running")
        idle = state not in ("running", "paused")
        self.buttons["pause"].param.update(name="Resume" if state == "paused" else "Pause", disabled=idle)
        self.buttons["stop"].disabled = idle

    def _sentence(self, run: WorkerRun) -> str:
        """Where the run stands."""
        if (before := LINE.before(run)) is not None:
            return f"Waiting for a free core, {before} before you."
        last = run.part(run.moments - 1, run.moments, fields=False) if run.moments else None
        verb = {"running": "Training", "paused": "Paused", "done": "Done", "stopped": "Stopped", "idle": "Ready"}[run.state]
        notes = "".join(f" {note[0].upper()}{note[1:]}." for note in last.notes) if last else ""
        step = last.steps.item() if last else 0
        return f"{verb}: update {run.moments} of {run.updates}, {step:,} steps per seed, {len(run.lanes)} lanes.{notes}"

    @property
    def busy(self) -> bool:
        """Is a run under way?"""
        return any(run.state == "running" for run in self.runs.values())

    @property
    def stale(self) -> bool:
        """Is there anything for `look` to do?"""
        return self.reported != self._signs() or bool(self.drawing and self.drawing.done()) or self._due()

    def _signs(self) -> tuple:
        """All that `_report` says."""
        run = self.shown
        return self.said, self.versus, list(self.runs), run and (run, run.version, LINE.before(run))

    def _due(self) -> bool:
        """Are pictures to be drawn? Of those that only grew the server draws as many as it can in half its time."""
        wanted = self._wanted()
        grown = wanted[:3] == self.drawn[:3]
        return bool(wanted[3]) and wanted != self.drawn and not self.drawing and not (grown and time.monotonic() < self.rested)

    def look(self) -> None:
        """Bring the page in step with the runs, at most RATE times a second. Figures are drawn in another thread."""
        self.reported = self._signs()
        self._report()
        if self.shown and self.drawing and self.drawing.done():
            done, self.drawing = self.drawing, None
            self._guard(lambda: self._show(done.result()))()
        if self._due():
            self.drawn, self.drawing = self._wanted(), DRAWERS.submit(self._timed)

    def _timed(self) -> tuple[dict[str, go.Figure], float]:
        begun = time.perf_counter()
        return self.pictures(), time.perf_counter() - begun

    def _show(self, drawn: tuple[dict[str, go.Figure], float]) -> None:
        begun = time.perf_counter()
        self._place(drawn[0], self.drawn[0])
        took = drawn[1] + time.perf_counter() - begun
        self.rested = time.monotonic() + took * 2 * max(1, LINE.busy)

    def _place(self, pictures: dict[str, go.Figure], run: WorkerRun) -> None:
        """Put pictures on the page, each with its text alternative, and the scrubber in step."""
        for name, pane in self.panes.items():
            fig = pictures.get(name)
            pane.object = fig
            words = figures.alt(fig) if fig else ""
            self.notes[name].object = f"<p class=soft>{html.escape(words[:1].upper() + words[1:])}</p>"
            self.cards[name].visible = fig is not None
        last = run.moments - 1
        at = last if self.moment < 0 else min(self.moment, last)
        self.put = at
        self.slider.param.update(end=max(1, last), value=at, disabled=not last)
        self.when.object = f"<p>Step {run.part(at, at + 1, fields=False).steps[0].item():,}</p>"
