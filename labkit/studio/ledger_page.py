"""The Ledger: what became of every paper's claim, how sure that is, and whether it holds on other seeds."""
import html
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, get_args

import panel as pn
import param
import plotly.graph_objects as go

from labkit.claims import ledger
from labkit.claims.ledger import Entry
from labkit.course import syllabus
from labkit.errors import LabError
from labkit.files import home
from labkit.paper import Paper, discover
from labkit.stats import FEW
from labkit.studio import figures
from labkit.studio.figures.forest import SYMBOLS, asked, counted, numbers
from labkit.studio.pages import BARE, FIELD, TEXT, WIDE, box, page, prose
from labkit.studio.rerun import Rerun
from labkit.studio.verdicts import UNCHECKED, UNJUDGED
from labkit.verdict import Held, weakest

LINK = ["family", "verdict", "paper", "search"]
ALL = "all"
VERDICTS = [*get_args(Held), UNJUDGED, UNCHECKED]
MOST = 100  # seeds of a rerun
PERIOD = 500  # milliseconds between two looks at a rerun
LEAD = "What became of each paper's claim, and how sure that is."
WORDS = """<p class=soft>Each claim has a check: a world, arms, 20 seeds and a rule, written before the numbers were known.
<b>Held</b>: the whole 95% interval lies on the rule's side of its bound. <b>Not held</b>: none of it does, or what was counted falls
short. <b>Inconclusive</b>: it holds values on both sides. A claim of several parts is as good as its weakest.
<b>Stale</b>: the code that the verdict rests on has changed since.</p>"""
UNITS = """Effects differ in their units, so each interval is drawn in half-widths of its own. What can be compared is on which side
of its bound it lies, and how far from it; lengths cannot. The numbers are as they were found."""
_files = Path(__file__).parent
TABLE = (_files / "page" / "table.css").read_text()
PLOT: dict[str, Any] = BARE | {"config": {"displayModeBar": False, "responsive": True}}

pn.extension("plotly", notifications=False)


@dataclass(frozen=True)
class Standing:
    """How a paper's claim stands: held, not held, inconclusive, UNJUDGED or UNCHECKED."""

    paper: Paper
    family: str
    verdict: str
    entry: Entry | None
    stale: bool

    def fits(self, search: str) -> bool:
        """Is every word of the search in its card?"""
        card = f"{self.paper.key} {self.paper.title} {self.paper.claim} {self.paper.year}".lower()
        return all(word in card for word in search.lower().split())


def standings() -> list[Standing]:
    """All discovered papers, by family and key."""
    found = [_standing(algorithm.paper, type(algorithm).__module__.split(".")[1]) for algorithm in discover().values()]
    return sorted(found, key=lambda s: (s.family, s.paper.key))


def _standing(paper: Paper, family: str) -> Standing:
    entry = ledger.latest(paper.key)
    verdict = entry.held if entry else UNJUDGED if ledger.check_of(paper.key) else UNCHECKED
    return Standing(paper, family, verdict, entry, entry is not None and ledger.stale(entry))


def own_folder() -> Path:
    """Where the reader's own reruns go."""
    return home() / "ledger"


def history(key: str) -> list[tuple[Entry, bool]]:
    """All entries on a paper, oldest first, and whether each was rerun here."""
    both = [(e, False) for e in ledger.entries(key)] + [(e, True) for e in ledger.entries(key, own_folder())]
    return sorted(both, key=lambda pair: pair[0].time)


def seeds_of(entry: Entry) -> str:
    """'0 to 19', or '20 in all' where they do not follow one another."""
    first, last = entry.seeds[0], entry.seeds[-1]
    return f"{first} to {last}" if entry.seeds == tuple(range(first, last + 1)) else f"{len(entry.seeds)} in all"


def _rich() -> pn.pane.HTML:
    """Words with tables and verdicts in them."""
    return pn.pane.HTML("", stylesheets=[TEXT, TABLE], **WIDE, margin=(4, 0))


class Table(pn.custom.JSComponent):
    """The papers as a table; `chosen` is the key of the one whose name was pressed."""

    rows = param.List(doc="dictionaries of the words to show")
    chosen = param.String()
    _esm = _files / "ledger_table.js"
    _stylesheets: ClassVar = [TABLE]


class Ledger(pn.viewable.Viewer):
    """One visitor's session. What LINK names is all that a link carries."""

    family: Any = param.Selector(default=ALL, objects=[ALL])
    verdict: Any = param.Selector(default=ALL, objects=[ALL, *VERDICTS])
    paper: Any = param.Selector(default="", objects=[""], doc="the key of the one that is looked at")
    search = param.String("")

    def __init__(self) -> None:
        super().__init__()
        self.standings = standings()
        self.param.family.objects = [ALL, *sorted({s.family for s in self.standings})]
        self.param.paper.objects = ["", *(s.paper.key for s in self.standings)]
        self.rerun: Rerun | None = None
        self.shown = ""  # the rerun's state when the page was last brought in step
        self._build_controls()
        self._build_overview()
        self._build_detail()
        self.view = pn.Column(self.detail, self.overview, self.papers, **BARE)
        self.param.watch(lambda *events: self._list(), ["family", "verdict", "search"])
        self.param.watch(lambda *events: self._choose(), "paper")
        self._list()
        self._choose()

    # ---- parts ---------------------------------------------------------------------------------------------------

    def _build_controls(self) -> None:
        self.counts = _rich()
        self.controls = pn.Column(
            prose("<h3>Which papers</h3>"),
            pn.widgets.TextInput.from_param(self.param.search, name="Search", placeholder="a word of its key, title or claim", **FIELD),
            pn.widgets.Select.from_param(self.param.family, name="Family", **FIELD),
            pn.widgets.Select.from_param(self.param.verdict, name="Verdict", **FIELD),
            prose("<h3>How they stand</h3>"), self.counts, prose(WORDS),
            **BARE,
        )  # fmt: skip

    def _build_overview(self) -> None:
        self.forest, self.forest_words = pn.pane.Plotly(None, **PLOT), prose()
        self.forest.param.watch(self._pressed, "click_data")
        self.overview = box(prose(f"<h2>Every claim beside its bound</h2><p class=soft>{UNITS}</p>"), self.forest, self.forest_words)
        self.table = Table(**WIDE)
        self.table.link(self, chosen="paper", bidirectional=True)
        self.papers = box(prose("<h2>Papers</h2>"), self.table)

    def _build_detail(self) -> None:
        self.about, self.past = _rich(), _rich()
        self.picture, self.picture_words = pn.pane.Plotly(None, **PLOT), prose()
        self.first = pn.widgets.IntInput(name="First seed", value=0, start=0, end=10**6, **FIELD)
        self.number = pn.widgets.IntInput(name="How many seeds", value=20, start=FEW, end=MOST, **FIELD)
        self.go = self._button("Rerun with these seeds", self.begin, button_type="primary")
        self.halt = self._button("Stop", self.stop)
        self.status = prose()
        self.again = pn.Column(prose("<h3>Rerun with other seeds</h3>"), pn.Row(self.first, self.number, **BARE),
                               pn.Row(self.go, self.halt, **BARE), self.status, **BARE)  # fmt: skip
        close = self._button("Close", lambda: setattr(self, "paper", ""))
        self.detail = box(self.about, self.picture, self.picture_words, self.past, self.again, close)

    def _button(self, name: str, act: Callable[[], None], **more: Any) -> pn.widgets.Button:
        button = pn.widgets.Button(name=name, **FIELD, **more)
        button.on_click(lambda event: act())
        return button

    # ---- all papers ----------------------------------------------------------------------------------------------

    def _list(self) -> None:
        """Show the papers that the filters leave."""
        shown = [s for s in self.standings if self.family in (ALL, s.family) and self.verdict in (ALL, s.verdict) and s.fits(self.search)]
        counts = Counter(s.verdict for s in shown)
        lines = [f"{_mark(verdict)}: {counts[verdict]}" for verdict in VERDICTS if counts[verdict]]
        self.counts.object = f"<p role=status>{'<br>'.join(lines) or 'No paper fits.'}</p>"
        self.table.rows = [_table_row(s) for s in shown]
        judged = [s.entry for s in shown if s.entry]
        _put(figures.forest(judged) if judged else None, self.forest, self.forest_words)
        self.overview.visible = bool(judged)

    def _pressed(self, event: param.parameterized.Event) -> None:
        """A row of the forest plot was pressed."""
        if event.new:
            self.paper = event.new["points"][0]["customdata"]

    # ---- one paper -----------------------------------------------------------------------------------------------

    def _choose(self) -> None:
        """Show the chosen paper, or none."""
        self.detail.visible = bool(self.paper)
        if self.paper:
            standing = next(s for s in self.standings if s.paper.key == self.paper)
            past = history(self.paper)
            self.about.object, self.past.object = _about(standing, past), _past(past)
            self._draw(past)
            self.again.visible = standing.verdict != UNCHECKED
            self.first.value = 1 + max(self._taken(past), default=-1)
        self.look()

    def _draw(self, past: Sequence[tuple[Entry, bool]]) -> None:
        """All results on the chosen paper beside one another."""
        drawable = past and not all(map(counted, past[-1][0].parts))
        names = [f"seeds {seeds_of(entry)}{', rerun here' if mine else ''}" for entry, mine in past]
        _put(figures.replications([entry for entry, _ in past], names) if drawable else None, self.picture, self.picture_words)

    def _taken(self, past: Sequence[tuple[Entry, bool]]) -> set[int]:
        """The seeds that the chosen paper's check has seen, its own among them."""
        check = ledger.check_of(self.paper)
        return {seed for entry, _ in past for seed in entry.seeds} | set(ledger.defaults(check)[0] if check else ())

    # ---- reruns --------------------------------------------------------------------------------------------------

    def begin(self) -> None:
        """Put the chosen claim to the test on the seeds that the fields say."""
        first, number = (int(field.value or 0) for field in (self.first, self.number))
        seeds = range(first, first + number)
        try:
            if number < FEW:
                raise LabError(f"A claim is judged on {FEW} seeds or more; got {number}.")
            if taken := sorted(self._taken(history(self.paper)) & set(seeds)):
                raise LabError(f"Seed {taken[0]} has been tried already; a replication needs fresh ones, from {1 + taken[-1]} on.")
            if self.rerun and self.rerun.look() == "running":
                raise LabError(f"Your rerun of {self.rerun.key} is under way; stop it before you start another.")
            self.rerun = Rerun(self.paper, seeds, own_folder())
        except LabError as error:
            self._say(str(error), bad=True)
        else:
            self.look()

    def stop(self) -> None:
        """End the rerun."""
        if self.rerun:
            self.rerun.stop()
        self.look()

    def look(self) -> None:
        """Bring the page in step with the rerun; called every PERIOD."""
        rerun, was = self.rerun, self.shown
        self.shown = rerun.look() if rerun else ""
        running = self.shown == "running"
        self.go.disabled, self.halt.disabled = running, not running
        if rerun and (running or self.shown != was):
            self._say(*_progress(rerun, ledger.latest(rerun.key)))
        if rerun and was == "running" and self.shown == "done" and rerun.key == self.paper:
            self._choose()

    def _say(self, words: str, bad: bool = False, done: float | None = None) -> None:
        """The status line, and how far the rerun has come."""
        line = f'<p role=status class="soft{" bad" * bad}">{html.escape(words)}</p>'
        self.status.object = line if done is None else _bar(done) + line

    def misread(self, values: dict[str, Any]) -> None:
        """What to say where a link cannot be read."""
        told = ", ".join(f"{name}={value}" for name, value in values.items())
        self.counts.object = f"<p role=status class=bad>The link's {html.escape(told)} cannot be read; all papers are shown instead.</p>"

    def close(self) -> None:
        """End what runs for this session."""
        if self.rerun:
            self.rerun.stop()


# ---- words on the page -----------------------------------------------------------------------------------------------


def _put(fig: go.Figure | None, pane: pn.pane.Plotly, words: pn.pane.HTML) -> None:
    """Show a figure at its own height with its text alternative, or nothing."""
    pane.param.update(object=fig, visible=fig is not None, **({"height": fig.layout.height} if fig else {}))
    words.object = f"<details class=soft><summary>The figure in words</summary>{html.escape(figures.alt(fig))}</details>" if fig else ""


def _mark(verdict: str) -> str:
    """A verdict with its symbol."""
    return f"<span class={verdict.replace(' ', '-')}>{SYMBOLS.get(verdict, '·')}</span> {verdict}"


def _table_row(s: Standing) -> dict[str, Any]:
    entry, number = s.entry, s.paper.chapter
    words = {"effect": numbers(weakest(entry.parts)), "seeds": str(len(entry.seeds)), "judged": entry.time[:10]} if entry else {}
    return {
        "key": s.paper.key, "title": s.paper.title, "family": s.family, "verdict": s.verdict, "mark": SYMBOLS.get(s.verdict, "·"),
        "stale": s.stale, "chapter": "" if number is None else f"{number:02d}", "address": chapter_address(number),
        "effect": "", "seeds": "", "judged": "",
    } | words  # fmt: skip


def _about(s: Standing, past: Sequence[tuple[Entry, bool]]) -> str:
    """What the claim is, what became of it, part by part, and how it fared on other seeds."""
    card, escape = s.paper, html.escape
    links = [f'<a href="{escape(card.url)}" target=_blank rel=noopener>the paper</a>']
    if address := chapter_address(card.chapter):
        links.append(f'<a href="{escape(address)}" target=_blank>chapter {card.chapter:02d}</a>')
    head = f"<h2>{escape(card.key)}</h2><p>{escape(card.title)} ({card.year}): {', '.join(links)}</p><p>{escape(card.claim)}</p>"
    stale = ", stale: the code that it rests on has changed since" if s.stale else ""
    verdict = f"<p><b>{_mark(s.verdict)}</b>{stale}. {_elsewhere(s.entry, past)}</p>"
    return head + verdict + (_parts(s.entry) + _grounds(s.entry) if s.entry else "")


def _elsewhere(entry: Entry | None, past: Sequence[tuple[Entry, bool]]) -> str:
    """Did it hold on seeds that the verdict has not seen, with its settings?"""
    if entry is None:
        return ""
    other = Counter(e.held for e, _ in past if e.settings == entry.settings and not set(e.seeds) & set(entry.seeds))
    told = ", ".join(f"{held} {count}" for held, count in other.items())
    return f"On other seeds: {told}." if told else "Not yet tried on other seeds."


def _parts(entry: Entry) -> str:
    rows = [(html.escape(part.rule), asked(part), numbers(part), _mark(part.held)) for part in entry.parts]
    return _table("The rule, part by part", ("rule", "bound", "found [95% interval]", "verdict"), rows)


def _grounds(entry: Entry) -> str:
    """What the verdict was computed with."""
    versions = ", ".join(f"{name} {number}" for name, number in entry.versions.items())
    facts = f"Seeds {seeds_of(entry)}; settings: {_settings(entry)}; {entry.seconds:.0f} CPU seconds; {versions}; "
    facts += f"{entry.machine}; code {entry.code}."
    return f"<p class=soft>{html.escape(facts)}</p>"


def _past(past: Sequence[tuple[Entry, bool]]) -> str:
    """All results on the claim, the newest first."""
    if not past:
        return "<p class=soft>No result yet.</p>"
    rows = [_result(entry, mine) for entry, mine in reversed(past)]
    return _table("All results", ("when, UTC", "seeds", "settings", "effect [95% interval]", "verdict", "from", "code"), rows)


def _result(entry: Entry, mine: bool) -> tuple[str, ...]:
    code = "changed since" if ledger.stale(entry) else "as it is now"
    source, settings = "rerun here" if mine else "the ledger", html.escape(_settings(entry))
    return entry.time[:16].replace("T", " "), seeds_of(entry), settings, numbers(weakest(entry.parts)), _mark(entry.held), source, code


def _settings(entry: Entry) -> str:
    return ", ".join(f"{name}={value}" for name, value in entry.settings.items()) or "no others"


def _table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    head = "".join(f"<th scope=col>{name}</th>" for name in columns)
    body = "".join(f"<tr>{''.join(f'<td>{cell}</td>' for cell in row)}</tr>" for row in rows)
    frame = f'<div class=frame tabindex=0 role=region aria-label="{title}">'
    return f"<h3>{title}</h3>{frame}<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"


def _progress(rerun: Rerun, entry: Entry | None) -> tuple[str, bool, float | None]:
    """What to say of a rerun, whether it is bad news, and the share that is done by the time that the verdict took."""
    seeds = f"{rerun.key} on seeds {rerun.seeds[0]} to {rerun.seeds[-1]}"
    if rerun.state != "running":
        told = {"done": f"Done: {seeds}, added above.", "stopped": f"Stopped: {seeds}. Nothing was added.", "failed": rerun.error}
        return told[rerun.state], rerun.state == "failed", None
    if entry is None:
        return f"Running {seeds}, for {rerun.seconds:.0f} s.", False, None
    expected = entry.seconds * len(rerun.seeds) / len(entry.seeds)
    words = f"Running {seeds}, for {rerun.seconds:.0f} s; about {expected:.0f} s of computing in all."
    return words, False, min(0.98, rerun.seconds / max(1.0, expected))


def _bar(done: float) -> str:
    return (
        f"<div class=bar role=progressbar aria-label=Progress aria-valuemin=0 aria-valuemax=100 aria-valuenow={100 * done:.0f}>"
        f'<i style="width:{100 * done:.0f}%"></i></div>'
    )


def chapter_address(number: int | None) -> str:
    """Where a chapter is read: in the JupyterLab that serves this page, else as a page of this server; '' where none is written."""
    if number is None or not (chapter := syllabus.load()[f"{number:02d}"]).notebook.exists():
        return ""
    around = str(pn.state.headers.get("X-Forwarded-Context", "")).rstrip("/")  # jupyter-server-proxy's: "/user/name/drift"
    return f"{around.rpartition('/')[0]}/lab/tree/notebooks/{chapter.notebook.name}" if around else f"chapter/{chapter.number}"


def session() -> pn.Template:
    """A visitor's page: restored from its link, kept in step with its rerun, which ends with it."""
    shown, location = Ledger(), pn.state.location
    if location:  # once the page is there: what is set before then is not shown in its address
        pn.state.onload(lambda: location.sync(shown, LINK, on_error=shown.misread))
    pn.state.add_periodic_callback(shown.look, period=PERIOD)
    pn.state.on_session_destroyed(lambda context: shown.close())
    return page("Ledger", LEAD, shown.view, shown.controls)
