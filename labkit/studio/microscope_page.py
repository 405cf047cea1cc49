"""GRPO microscope: train a method of the grpo family, stop at any moment, and look inside the update that follows it."""
import html
import io
from contextlib import suppress
from typing import Any

import panel as pn
import param
import plotly.graph_objects as go

from labkit.errors import LabError
from labkit.grpo.inside import Inside
from labkit.knobs import read_knobs
from labkit.record import Record
from labkit.studio import figures, study
from labkit.studio.figures.responses import COLOUR
from labkit.studio.gallery import View, pick, place, plain
from labkit.studio.pages import BARE, box, prose
from labkit.studio.session import Session, Whole
from labkit.studio.study import Settings
from labkit.studio.theme import INK
from labkit.studio.worker import WorkerRun
from labkit.worlds.tokens.world import TokenWorld

LINK = ["world", "reads", "algorithm", "knobs", "seeds", "updates", "setting", "seed", "moment", "prompt", "colour", "tokens"]
TITLES = {"batch": "The batch", "mass": "Where probability went", "return": "Return", "kl": "KL from the reference (nats)",
          "entropy": "Entropy of a token (nats)"}  # fmt: skip
CURVES = ("return", "kl", "entropy")
READS = {"what its verifier knows: a small network": "nodes", "the text: a transformer": "text"}
TOKENS = {"of the whole batch": "batch", "of this prompt": "prompt"}
STEPS = "responses per seed"
NEW = "Choose a method and a world of text, then press Train. Equal settings give equal runs, seed by seed."


class Microscope(Session):
    """A visitor's session. `runs` holds the one run that there is, by str(Settings).

    reads: one of study.READS. prompt: which of the update; -1: the first whose responses are right and wrong. colour: one of COLOUR.
    """

    link, titles, new = LINK, TITLES, NEW

    world = param.String("tokens.chain")
    reads = param.String("nodes")
    algorithm = param.String("grpo")
    seeds = Whole(10)
    seed = Whole(0)
    updates = Whole(60)
    prompt = Whole(-1)
    colour = param.String("probability")
    tokens = param.String("batch", doc="whose tokens the scatter shows: those of the whole batch, or of the prompt alone")

    # ---- parts ---------------------------------------------------------------------------------------------------

    def _build_controls(self) -> None:
        self._knob_tables()
        self.menus = {
            "algorithm": self._select("algorithm", "Method", [self.algorithm]),
            "world": self._select("world", "World", study.text_worlds()),
            "reads": self._select("reads", "The policy reads", READS),
        }
        self.controls = pn.Column(
            prose("<h3>Method</h3>"), self.menus["algorithm"], self.lessons["knobs"],
            prose("<h3>World</h3>"), self.menus["world"], self.menus["reads"], *self._run_controls(),
            prose("<h3>Knobs</h3><p class=soft>Several values, such as 0.1, 0.2, are trained side by side.</p>"), self.knob_boxes["knobs"],
            **BARE,
        )  # fmt: skip

    def _build_view(self) -> None:
        self._panes({"batch": 444, "mass": 440} | dict.fromkeys(CURVES, 280))
        self.panes["batch"].param.watch(self._guard(lambda event: self._open(event.new)), "click_data")
        self.menus |= {
            "setting": self._select("setting", "Setting", {"all": -1}),
            "seed": self._select("seed", "Responses of", {"seed 0": 0}),
            "prompt": self._select("prompt", "Prompt", {"the first with right and wrong": -1}),
            "colour": self._select("colour", "Tokens coloured by", list(COLOUR)),
            "tokens": self._select("tokens", "Probabilities of tokens", TOKENS),
        }
        self.story, self.group = prose(), prose()
        self.read = box(prose("<h2>A prompt and its group</h2>"), self.story, self.group)
        for card in (self.read, *self.cards.values()):
            card.visible = False  # there is nothing to see yet
        menus = [self.menus[name] for name in ("setting", "seed", "prompt", "colour", "tokens")]
        self.view = pn.Column(
            box(pn.Row(self.slider, self.when, **BARE), pn.FlexBox(*(pn.Column(menu, **share(150)) for menu in menus), **BARE)),
            pn.FlexBox(pn.Column(self.cards["batch"], **share(340)), pn.Column(self.read, **share(480)), **BARE),
            self.cards["mass"],
            pn.FlexBox(*(pn.Column(self.cards[name], **share(280)) for name in CURVES), **BARE),
            self._downloads(),
            **BARE,
        )  # fmt: skip

    # ---- settings ------------------------------------------------------------------------------------------------

    @property
    def settings(self) -> Settings:
        return Settings(self.world, self.algorithm, read_knobs(self.knobs), self.seeds, self.updates, reads=self.reads)

    @property
    def current(self) -> WorkerRun | None:
        with suppress(LabError):  # of words that are no settings there is none
            return self.runs.get(str(self.settings))
        return None

    def _changed(self, *events: Any) -> None:
        """Settings changed, here or in the link: bring menus and knobs in step."""
        changed = {event.name for event in events} or set(LINK)
        if changed & {"world", "reads"}:
            self.menus["algorithm"].options = study.reading_methods(self.world, self.reads)
        if "algorithm" in changed or ("knobs" in changed and not self.edited):
            self._lay_out_knobs("knobs")
        for name, known in (("colour", COLOUR), ("tokens", TOKENS.values())):
            if getattr(self, name) not in known:
                raise LabError(f"The {name} cannot be {getattr(self, name)!r}; choose one of {', '.join(known)}.")
        self._list_lanes()
        self.said = (NEW, False)

    def _list_lanes(self) -> None:
        super()._list_lanes()
        self._offer("seed", {f"seed {s}": i for i, s in enumerate(self.shown.lanes.seeds if self.shown else range(1))})

    def _open(self, click: dict[str, Any]) -> None:
        """A response was clicked: open its prompt."""
        self.prompt = int(click["points"][0]["y"])

    # ---- training ------------------------------------------------------------------------------------------------

    def train(self) -> None:
        self._ready().start()

    def step(self) -> None:
        self._ready().step()

    def _ready(self) -> WorkerRun:
        """The run of these settings, a new one in place of the old where it is over or there is none. LabError, and nothing is lost,
        where it cannot be begun."""
        run = self.current
        if run is None or run.over:
            run = WorkerRun(self.settings, self.limits, self.spend)
            self.close()
            self.runs, self.shown = {str(self.settings): run}, run
            self._list_lanes()
        self.moment = -1
        return run

    # ---- looking -------------------------------------------------------------------------------------------------

    @property
    def view_now(self) -> View:
        """What is looked at."""
        return View(self.setting, self.seed, self.moment)

    def pictures(self) -> dict[str, go.Figure]:
        if self.shown is None or not self.shown.moments:
            raise LabError("There is nothing to show yet; press Train first.")
        record, update = self._curves(), self._update()
        prompt = self._prompt(update)
        out = {"batch": figures.groups(self._world, update, prompt),
               "mass": figures.before_after(self._world, [update], prompt if self.tokens == "prompt" else None)}  # fmt: skip
        for name in CURVES:
            out[name] = go.Figure(self._curve(record, name))
            out[name].add_vline(record.steps[place(record, self.view_now)].item(), line={"color": INK, "width": 1, "dash": "dot"})
        return out

    @property
    def _world(self) -> TokenWorld:
        assert self.shown
        return self.shown.world  # type: ignore[return-value]

    def _curves(self) -> Record:
        """The record so far without what is seen inside its updates."""
        run = self.shown
        assert run
        return self.gallery.keep((id(run), run.moments), lambda: (run.part(0, run.moments, fields=False), run))[0]

    def _update(self) -> Inside:
        """What is seen inside the update after the moment, in the lane that is looked at."""
        record, run = self._curves(), self.shown
        assert run
        at, seeds = place(record, self.view_now), len(record.lanes.seeds)
        lane = pick(record, self.view_now) * seeds + min(max(self.seed, 0), seeds - 1)
        return figures.update_at(run.part(at, at + 1), 0).take(lane)

    def _curve(self, record: Record, name: str) -> go.Figure:
        """It does not change from one moment to the next, so it is kept."""

        def draw() -> tuple[go.Figure, Record]:
            fig = plain(figures.learning_curve, record, None if self.setting < 0 else pick(record, self.view_now), name)
            alone = len(record.lanes.points) == 1
            if alone:  # the line needs no name
                fig.data = [trace for trace in fig.data if trace.mode != "text"]
            axes = {"xaxis": {"title_text": STEPS, "nticks": 4, "tickformat": "~s"}, "yaxis_title_text": ""}
            return fig.update_layout(**axes, margin={"l": 40, "r": 16 if alone else 90}), record

        return self.gallery.keep((name, self.setting, id(record)), draw)[0]

    def _prompt(self, update: Inside) -> int:
        """The prompt that is open."""
        mixed = update.right.any(-1) & ~update.right.all(-1)
        return self.prompt if self.prompt >= 0 else int(mixed[0].long().argmax())

    def read_group(self) -> str:
        """The open prompt and its group, as HTML. LabError where there is none."""
        update = self._update()
        return figures.responses(self._world, update, self._prompt(update), self.colour).data or ""

    def pictures_page(self) -> io.StringIO:
        page = super().pictures_page().getvalue()
        return io.StringIO(page.replace("</h1>", f"</h1>{self.read_group()}", 1))

    def _place(self, pictures: dict[str, go.Figure], run: WorkerRun) -> None:
        super()._place(pictures, run)
        update = self._update()
        prompts = {told(self._world, update, p): p for p in range(len(update.token[0]))}
        self._offer("prompt", {"the first with right and wrong": -1} | prompts)
        self.read.visible = True
        self.story.object = f"<p class=soft>{html.escape(story(update))}</p>"
        self.group.object = self.read_group()
        self.when.object = f"<p>After update {self.put + 1}</p>"

    def _wanted(self) -> tuple:
        """All that decides the pictures; how far they have grown comes last."""
        looked = (self.view_now, self.prompt, self.colour, self.tokens)
        return self.shown, None, looked, self.shown and self.shown.moments


def share(width: int) -> dict[str, Any]:
    """How a part stands beside others where each has so many pixels, and below them where it has not."""
    return BARE | {"styles": {"flex": f"1 1 {width}px", "min-width": f"min(100%, {width}px)"}}


def told(world: TokenWorld, update: Inside, prompt: int) -> str:
    """A prompt in a menu."""
    asked = " ".join(world.words(world.prompt[update.problem[0, prompt]]))
    real, right = update.real[0, prompt], update.right[0, prompt]
    return f"{prompt + 1}: {asked} {int((right & real).sum())} of {int(real.sum())} right"


def story(update: Inside) -> str:
    """What the update does, in numbers."""
    counts = update.shown & update.real[..., None]
    idle = counts & (update.weight == 0) & ~update.clipped
    words = [f"The update after this moment learns from {int(counts.sum())} tokens of {int(update.real.sum())} responses"]
    words += [f"{int(number)} {what}" for number, what in ((update.clipped.sum(), "clipped"), (idle.sum(), "without weight"))]
    dropped = f", {int(update.dropped.sum())} responses were dropped before it" if update.dropped.any() else ""
    return f"{words[0]}: {words[1]}, {words[2]}{dropped}."
