"""The syllabus: complete, consistent with the papers found, and readable as a map and as text."""
import pytest

from labkit.course import syllabus
from labkit.errors import LabError
from labkit.paper import discover

SMALL = """
[[part]]
number = "I"
title = "One"

[[chapter]]
number = "00"
name = "zero"
title = "Zero"
part = "I"
prerequisites = []
minutes = 5
objectives = ["Count.", "Stop."]
papers = ["a"]

[[chapter]]
number = "01"
name = "one"
title = "One"
part = "I"
prerequisites = ["00"]
minutes = 5
objectives = ["Count.", "Stop."]
papers = ["b"]
"""


def test_the_whole_reading_list_is_placed_once():
    papers = [key for c in syllabus.load().chapters for key in c.papers]
    assert len(papers) == len(set(papers)) == 205


def test_the_course_has_its_planned_shape():
    course = syllabus.load()
    assert [c.number for c in course.chapters] == [f"{n:02d}" for n in range(49)]
    assert [len(course.of_part(p)) for p in course.parts] == [6, 5, 9, 10, 3, 6, 5, 3, 2]
    assert course["03"].papers[:2] == ("fixpo", "discovered_po") and course["03"].notebook.name == "03_trust_regions.ipynb"
    assert all(c.objectives and 10 <= c.minutes <= 120 for c in course.chapters)


def test_papers_found_stand_in_the_chapter_that_lists_them():
    course = syllabus.load()
    for key, algorithm in discover().items():
        if chapter := course.chapter_of(key):
            assert algorithm.paper.chapter == int(chapter.number), key


def test_every_chapter_text_is_in_the_syllabus():
    sources = {c.source for c in syllabus.load().chapters}
    assert set((syllabus.ROOT / "course" / "chapters").glob("*.md")) <= sources


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ('number = "01"', 'number = "02"', "chapter 02 stands at place 01"),
        ('part = "I"', 'part = "X"', "names part 'X'"),
        ('["00"]', '["01"]', "builds on '01', which is no earlier chapter"),
        ('["Count.", "Stop."]', '["Count."]', "has 1 objectives"),
        ('["b"]', '["a"]', "paper 'a' is listed 2 times"),
        ("minutes = 5\n", "", "does not read as a syllabus"),
        ("[[part]]", "[[part", "does not read as a syllabus"),
    ],
)
def test_a_fault_is_named(tmp_path, old, new, says):
    path = tmp_path / "syllabus.toml"
    path.write_text(SMALL)
    assert len(syllabus.load(path).chapters) == 2
    bad = tmp_path / "bad.toml"
    bad.write_text(SMALL.replace(old, new))
    with pytest.raises(LabError, match=says):
        syllabus.load(bad)


def test_an_unknown_chapter_is_refused():
    with pytest.raises(LabError, match="no chapter '77'; chapters run from 00 to 48"):
        syllabus.load()["77"]


@pytest.fixture
def two_written(tmp_path, monkeypatch):
    monkeypatch.setattr(syllabus, "ROOT", tmp_path)
    (tmp_path / "course" / "chapters").mkdir(parents=True)
    for name in ("00_start_here", "01_how_far", "02_policy_gradients"):
        (tmp_path / "course" / "chapters" / f"{name}.md").touch()
    return {"00": (3, 3), "01": (1, 4)}


def test_states_follow_the_texts_and_the_exercises(two_written):
    course = syllabus.load()
    assert [course[n].state(two_written) for n in ("00", "01", "02", "03")] == ["done", "begun", "written", "planned"]


def test_the_map_shows_every_chapter_in_its_colour(two_written):
    figure = syllabus.course_map(two_written)
    nodes = {trace.name: trace for trace in figure.data}
    assert {name: len(nodes[name].x) for name in syllabus.STATES} == {"done": 1, "begun": 1, "written": 1, "planned": 46}
    assert nodes["done"].text == ("<b>00</b> ✓",) and nodes["begun"].marker.color == syllabus.STATES["begun"]
    assert "1 of 4 exercises, begun" in nodes["begun"].hovertext[0]
    places = [(x, y) for name in syllabus.STATES for x, y in zip(nodes[name].x, nodes[name].y, strict=True)]
    assert len(set(places)) == 49
    lines = nodes["builds on"]
    course = syllabus.load()
    assert len(lines.x) == 3 * sum(course[p].part == c.part for c in course.chapters for p in c.prerequisites)
    cards = {card[3:5]: card for trace in nodes.values() for card in trace.hovertext or ()}
    assert all(f"builds on {', '.join(c.prerequisites)}" in cards[c.number] for c in course.chapters if c.prerequisites)
    assert figure.layout.paper_bgcolor == "rgba(0,0,0,0)" and not figure.layout.template.layout.to_plotly_json()


def test_the_text_says_what_the_map_says(two_written):
    lines = syllabus.course_text(two_written).splitlines()
    assert len(lines) == 49 + 9 and lines[0] == "Part I: What moves"
    assert lines[2] == "  01 How far has a policy moved?: begun, 60 minutes, builds on 00, 1 of 4 exercises"
    assert syllabus.course_map(two_written).layout.meta["alt"].splitlines() == lines
