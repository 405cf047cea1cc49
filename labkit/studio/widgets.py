"""LiveView: a live run in a notebook, with buttons, knobs, and curves that grow while the kernel stays free."""
import html
import threading
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import anywidget
import ipywidgets as ipw
import traitlets as tr

from labkit.errors import LabError
from labkit.record import Record
from labkit.studio.figures import Floor
from labkit.studio.figures.grid import moments
from labkit.studio.live import LiveRun
from labkit.studio.scrubber import described, pack_arrows, pack_curves
from labkit.studio.study import notches

RATE = 20  # pictures a second, at most
MOST = 60  # moments that a picture holds; a longer run is thinned out
GROW = """
// The scrubber, once there is something to show, and longer each time there is more.
function live({ model, el }) {
  const host = make("div", {}, make("p", { textContent: "Press Train." }));
  let clean = null;
  const grow = () => {
    const length = (model.get("about").steps || []).length;
    if (!length) return;
    if (clean && host.dataset.run === model.get("about").run) {
      host.querySelector('input[aria-label="step"]').max = length - 1;
      return;
    }
    if (clean) clean();
    host.replaceChildren();
    host.dataset.run = model.get("about").run;
    clean = render({ model, el: host });
  };
  el.append(host);
  model.on("change:about", grow);
  grow();
  return () => { model.off("change:about", grow); if (clean) clean(); };
}
export default { render: live };
"""


class Growing(anywidget.AnyWidget):
    """The scrubber's picture of a record that still grows: the same traits, empty at first."""

    _esm = Path(__file__).with_name("scrubber.js").read_text().replace("export default { render };", GROW)
    about = tr.Dict().tag(sync=True)
    curves = tr.Bytes().tag(sync=True)
    arrows = tr.Bytes().tag(sync=True)
    setting = tr.Int(0).tag(sync=True)
    time = tr.Int(0).tag(sync=True)
    seed = tr.Int(-1).tag(sync=True)
    times: list[int] = []  # noqa: RUF012 (replaced, never written into): which moment of the record each `time` is

    def show(self, record: Record, floor: Floor | None, curves: Sequence[str], run: str) -> None:
        """Draw a record. The scrubber stays at the end if it stood there. `run` says to which run it belongs."""
        times = moments(record, MOST)
        heat, arrows = pack_arrows(record, floor, times) if floor else ({}, b"")
        same, last = self.about.get("run") == run, len(times) - 1
        packed = pack_curves(record, curves, times)
        with self.hold_sync():
            self.time = min(self.time, last) if same and self.time < len(self.times) - 1 else last
            self.setting, self.seed = (self.setting, self.seed) if same else (0, -1)
            self.arrows, self.about = arrows, described(record, floor, curves, times) | heat | {"run": run}
            self.curves = packed  # last: with it the browser reads all of them
            self.times = times.tolist()


class LiveView(ipw.VBox):
    """A LiveRun with its controls. Buttons only say what is wanted: training is in the run's thread, drawing in another.

    curves: what to plot. floor: where to draw the policy, for runs with fields=figures.watch(world). sliders: the knobs
    that can be moved; a new run (Train) or a fork from the moment that the scrubber shows (Fork) takes their values.
    `run` is the run that is shown; `view` holds the synced traits of the picture.
    """

    def __init__(self, run: LiveRun, curves: Sequence[str] = ("return",), floor: Floor | None = None, sliders: Sequence[str] = ()) -> None:
        self.run, table = run, run.algorithm.knobs
        if unknown := set(sliders) - table.keys():
            raise LabError(f"{run.algorithm.paper.key} has no knob {unknown.pop()!r}; it has {', '.join(table)}.")
        self.curve_names, self.floor, self.view = tuple(curves), floor, Growing()
        first = run.lanes.points[0]
        self.knobs = {name: self._slider(name, first.get(name, table[name].default)) for name in sliders}
        self.status, self.said = ipw.HTML(), ""
        self.moved: set[str] = set()  # knobs that differ from the run's
        self._telling = threading.Lock()
        acts = {"Train": self.train, "Pause": self.pause, "Step": self.step, "Stop": self.stop, "Fork": self.fork}
        self.buttons = {name: self._button(name, act) for name, act in acts.items()}
        self.buttons["Train"].button_style = "primary"
        for name, slider in self.knobs.items():
            slider.observe(lambda change, name=name: self._moved(name), "value")
        super().__init__([ipw.HBox(list(self.buttons.values())), *self.knobs.values(), self.status, self.view])
        self._adopt(run)

    def __repr__(self) -> str:
        return "A live run: open this notebook with a kernel, run the cell and press Train."

    def _slider(self, name: str, value: float) -> ipw.SelectionSlider:
        knob = self.run.algorithm.knobs[name]
        places = sorted({*notches(knob), value})
        options = [(f"{v:g}", v) for v in places]
        return ipw.SelectionSlider(options=options, value=value, description=name, tooltip=knob.doc, layout=ipw.Layout(width="28em"))

    def _moved(self, name: str) -> None:
        self.moved.add(name)
        self.said = "A knob was moved: Train begins anew, Fork goes on from here."
        self._report()

    def _button(self, name: str, act: Callable[[], None]) -> ipw.Button:
        button = ipw.Button(description=name, layout=ipw.Layout(width="6.5em"))
        button.on_click(lambda _: self._guarded(act))
        return button

    def _guarded(self, act: Callable[[], None]) -> None:
        """`act`, with a LabError shown in the status line."""
        try:
            act()
        except LabError as error:
            self.said = str(error)
        self._report()

    def _settings(self) -> dict[str, tuple[float, ...]]:
        """The run's own grid, with the knobs that were moved since it began set to one value each."""
        return dict(self.run.lanes.grid) | {name: (slider.value,) for name, slider in self.knobs.items() if name in self.moved}

    # ---- controls ------------------------------------------------------------------------------------------------

    def train(self) -> None:
        """Begin, or go on; anew where the run is over or a knob was moved."""
        self.said = ""
        if self.run.over or self.moved:
            self._adopt(self.run.anew(self._settings()))
        self.run.start()

    def pause(self) -> None:
        """Finish the update that is under way, then wait."""
        self.run.pause()

    def step(self) -> None:
        """Exactly one update."""
        self.run.step()

    def stop(self) -> None:
        """End the run."""
        self.run.stop()

    def fork(self) -> None:
        """Go on from the moment where the scrubber stands, or the nearest one kept, with the knobs as they are now."""
        if not self.run.learners:
            raise LabError("There is nothing to fork yet; press Train first.")
        at = self.view.times[min(self.view.time, len(self.view.times) - 1)] if self.view.times else 0
        moment = min(self.run.learners, key=lambda kept: abs(kept - at))
        grid = {name: (value,) for name, value in self.run.lanes.points[self.view.setting].items()}
        grid |= {name: (slider.value,) for name, slider in self.knobs.items()}
        old, step = self.run, self.run.learners[moment].step
        self._adopt(old.fork(moment, grid, self.view.setting))
        self.said = f"Forked at step {step:,}."
        self.run.start()

    def close(self) -> None:
        """End the run and take the view away."""
        self.run.stop()
        super().close()

    # ---- looking -------------------------------------------------------------------------------------------------

    def _adopt(self, run: LiveRun) -> None:
        """Show another run; the one before ends."""
        if run is not self.run:
            self.run.stop()
        self.run, self.moved = run, set()
        self._report()
        threading.Thread(target=self._follow, args=(run,), name="view", daemon=True).start()

    def _follow(self, run: LiveRun) -> None:
        """In a thread: draw the run whenever it has changed, at most RATE times a second, until it is over or replaced."""
        version, drawn = -1, 0
        while run is self.run and not (run.over and version == run.version):
            if not run.changed(version, 1.0):
                continue
            begun, version = time.perf_counter(), run.version
            record = run.record() if run.moments > drawn else None
            self._report()  # before it is drawn: the words are never behind the picture
            if record:
                drawn = len(record.steps)
                self._guarded(partial(self.view.show, record, self.floor, self.curve_names, f"{id(run)}"))
            took = time.perf_counter() - begun
            time.sleep(max(1 / RATE - took, took))  # drawing never takes more than half the time

    def _report(self) -> None:
        """Status line, progress and buttons. One thread at a time: else the older words might be written last."""
        with self._telling:
            self._tell()

    def _tell(self) -> None:
        run, state = self.run, self.run.state
        verb = {"running": "Training", "paused": "Paused", "done": "Done", "stopped": "Stopped", "idle": "Ready", "failed": "Failed"}[state]
        step = run.part(run.moments - 1, run.moments, fields=False).steps.item() if run.moments else 0
        words = f"{verb}: update {run.moments} of {run.updates}, {step:,} steps per seed. {self.said or run.error}"
        self.status.value = f'<span role="status" data-state="{state}" data-updates="{run.moments}">{html.escape(words)}</span>'
        over = {"Pause": state != "running", "Step": run.over, "Stop": state not in ("running", "paused"), "Fork": not run.moments}
        for name, disabled in (over | {"Train": state == "running" and not self.moved}).items():
            self.buttons[name].disabled = disabled
        self.buttons["Train"].description = "Resume" if state == "paused" and not self.moved else "Train"
