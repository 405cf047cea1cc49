"""The planned course: parts and chapters from course/syllabus.toml, checked, as a map and as text."""
import textwrap
import tomllib
from collections import Counter
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from labkit.errors import LabError
from labkit.files import ROOT

if TYPE_CHECKING:
    import plotly.graph_objects as go

Progress = dict[str, tuple[int, int]]  # chapter number -> exercises (passed, in all)

STATES = {"done": "#009E73", "begun": "#E69F00", "written": "#56B4E9", "planned": "rgba(0,0,0,0)"}  # colour-blind safe
INK = "#777777"  # readable on white and on black


@dataclass(frozen=True)
class Part:
    number: str  # "III"
    title: str


@dataclass(frozen=True)
class Chapter:
    number: str  # "03"
    name: str  # "trust_regions"
    title: str
    part: str
    prerequisites: tuple[str, ...]  # chapter numbers
    minutes: int
    objectives: tuple[str, ...]
    papers: tuple[str, ...]  # keys

    @property
    def source(self) -> Path:
        """Its text, course/chapters/03_trust_regions.md; the chapter is written once this exists."""
        return ROOT / "course" / "chapters" / f"{self.number}_{self.name}.md"

    @property
    def notebook(self) -> Path:
        """What is built from its text, notebooks/03_trust_regions.ipynb."""
        return ROOT / "notebooks" / f"{self.number}_{self.name}.ipynb"

    def state(self, progress: Progress) -> str:
        """planned, written, begun or done."""
        passed, total = progress.get(self.number, (0, 0))
        if not self.source.exists():
            return "planned"
        return "done" if passed == total > 0 else "begun" if passed else "written"


@dataclass(frozen=True)
class Syllabus:
    parts: tuple[Part, ...]
    chapters: tuple[Chapter, ...]

    def __getitem__(self, number: str) -> Chapter:
        for chapter in self.chapters:
            if chapter.number == number:
                return chapter
        raise LabError(f"There is no chapter {number!r}; chapters run from {self.chapters[0].number} to {self.chapters[-1].number}.")

    def of_part(self, part: Part) -> list[Chapter]:
        return [c for c in self.chapters if c.part == part.number]

    def chapter_of(self, paper: str) -> Chapter | None:
        """The chapter that teaches a paper, by the paper's key."""
        return next((c for c in self.chapters if paper in c.papers), None)


@cache
def load(path: Path = ROOT / "course" / "syllabus.toml") -> Syllabus:
    """The syllabus, checked. LabError naming the first entry that is wrong."""
    if not path.is_file():
        raise LabError(f"There is no syllabus at {path}; run labkit from a clone of Drift Lab.")
    try:
        raw = tomllib.loads(path.read_text(encoding="utf-8"))
        parts = tuple(Part(**p) for p in raw["part"])
        chapters = tuple(_chapter(**c) for c in raw["chapter"])
    except (tomllib.TOMLDecodeError, KeyError, TypeError) as error:
        raise LabError(f"{path.name} does not read as a syllabus: {error}.") from error
    for fault in _faults(parts, chapters):
        raise LabError(f"{path.name}: {fault}.")
    return Syllabus(parts, chapters)


def _chapter(prerequisites: list[str], objectives: list[str], papers: list[str], **rest) -> Chapter:
    return Chapter(prerequisites=tuple(prerequisites), objectives=tuple(objectives), papers=tuple(papers), **rest)


def _faults(parts: tuple[Part, ...], chapters: tuple[Chapter, ...]):
    """What is wrong with a syllabus, one clause at a time."""
    for i, c in enumerate(chapters):
        if c.number != f"{i:02d}":
            yield f"chapter {c.number} stands at place {i:02d}; number chapters in order from 00"
        if c.part not in {p.number for p in parts}:
            yield f"chapter {c.number} names part {c.part!r}, which no [[part]] defines"
        for p in c.prerequisites:
            if p not in {earlier.number for earlier in chapters[:i]}:
                yield f"chapter {c.number} builds on {p!r}, which is no earlier chapter"
        if not 2 <= len(c.objectives) <= 4:
            yield f"chapter {c.number} has {len(c.objectives)} objectives; give it 2 to 4"
    for key, times in Counter(k for c in chapters for k in c.papers).items():
        if times > 1:
            yield f"paper {key!r} is listed {times} times; list it in the chapter that teaches it"


def course_map(progress: Progress | None = None) -> "go.Figure":
    """The course as a plotly figure: a row per part, a node per chapter, a line to what it builds on, colour for progress."""
    import plotly.graph_objects as go

    course, progress = load(), progress or {}
    at = {c.number: (x, -y) for y, part in enumerate(course.parts) for x, c in enumerate(course.of_part(part))}
    figure = go.Figure(_lines(course, at))
    for state, colour in STATES.items():
        group = [c for c in course.chapters if c.state(progress) == state]
        figure.add_scatter(
            x=[at[c.number][0] for c in group],
            y=[at[c.number][1] for c in group],
            mode="markers+text",
            name=state,
            text=[f"<b>{c.number}</b>{' ✓' if state == 'done' else ''}" for c in group],
            hovertext=[_card(c, progress) for c in group],
            hoverinfo="text",
            textfont={"color": INK if state == "planned" else "#111111", "size": 12},
            marker={"symbol": "square", "size": 30, "color": colour, "line": {"color": INK, "width": 1}},
        )
    for c in course.chapters:
        x, y = at[c.number]
        title = "<br>".join(textwrap.wrap(c.title, 17))
        figure.add_annotation(x=x, y=y - 0.2, text=title, showarrow=False, yanchor="top", font={"size": 10, "color": INK})
    for y, part in enumerate(course.parts):
        heading = f"<b>{part.number}</b> {part.title}"
        figure.add_annotation(x=-0.45, y=0.38 - y, text=heading, showarrow=False, xanchor="left", font={"size": 12, "color": INK})
    figure.update_layout(
        template="none",
        height=60 + 145 * len(course.parts),
        margin={"l": 5, "r": 5, "t": 35, "b": 5},
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        font={"color": INK},
        legend={"orientation": "h", "y": 1, "yanchor": "bottom"},
        xaxis={"visible": False, "range": [-0.5, max(x for x, _ in at.values()) + 0.5]},
        yaxis={"visible": False, "range": [-len(course.parts) + 0.25, 0.5]},
        meta={"alt": course_text(progress)},
    )
    return figure


def _lines(course: Syllabus, at: dict[str, tuple[int, int]]) -> "go.Scatter":
    """One trace for the prerequisites within a part, broken by gaps; those across parts would hide the titles, and stand in the cards."""
    import plotly.graph_objects as go

    ends = [(at[p], at[c.number]) for c in course.chapters for p in c.prerequisites if course[p].part == c.part]
    xs = [x for a, b in ends for x in (a[0], b[0], None)]
    ys = [y for a, b in ends for y in (a[1], b[1], None)]
    line = {"color": "rgba(119,119,119,0.25)", "width": 1}
    return go.Scatter(x=xs, y=ys, mode="lines", line=line, hoverinfo="skip", name="builds on")


def _card(c: Chapter, progress: Progress) -> str:
    passed, total = progress.get(c.number, (0, 0))
    exercises = f", {passed} of {total} exercises" if total else ""
    facts = f"{c.minutes} minutes, {len(c.papers)} papers{exercises}, {c.state(progress)}"
    after = f"builds on {', '.join(c.prerequisites)}" if c.prerequisites else "builds on nothing"
    return "<br>".join([f"<b>{c.number} {c.title}</b>", facts, after, *("· " + o for o in c.objectives)])


def course_text(progress: Progress | None = None) -> str:
    """The same map as text, for readers who cannot see the figure."""
    course, progress = load(), progress or {}
    lines = []
    for part in course.parts:
        lines.append(f"Part {part.number}: {part.title}")
        for c in course.of_part(part):
            after = f", builds on {', '.join(c.prerequisites)}" if c.prerequisites else ""
            passed, total = progress.get(c.number, (0, 0))
            exercises = f", {passed} of {total} exercises" if total else ""
            lines.append(f"  {c.number} {c.title}: {c.state(progress)}, {c.minutes} minutes{after}{exercises}")
    return "\n".join(lines)
