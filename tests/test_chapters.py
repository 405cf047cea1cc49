"""Every exercise has teeth, and every chapter uses the exercises it has."""
import re

import nbformat
import pytest

from labkit.course import progress
from labkit.course.syllabus import load
from labkit.files import ROOT
from labkit.paper import discover
from labkit.studio.verdicts import taught, verdicts

WRITTEN = [c for c in load().chapters if c.source.exists()]
EXERCISES = [e for path in sorted((ROOT / "course" / "exercises").glob("*.py")) for e in progress.exercises(path.stem).values()]


def each(exercises):
    return pytest.mark.parametrize("exercise", exercises, ids=lambda e: e.key)


@each(EXERCISES)
def test_the_check_accepts_the_solution(exercise):
    assert exercise.verdict(exercise.solution) is None


@each(EXERCISES)
def test_the_check_rejects_the_stub_with_advice(exercise):
    advice = exercise.verdict(exercise.stub)
    assert advice is not None and advice != "not the expected answer."


@pytest.mark.parametrize(("exercise", "mistake"), [(e, m) for e in EXERCISES for m in e.wrong], ids=lambda x: getattr(x, "key", x))
def test_the_check_rejects_a_common_mistake(exercise, mistake):
    assert exercise.verdict(exercise.wrong[mistake]) is not None


@each(EXERCISES)
def test_an_exercise_is_complete(exercise):
    assert re.fullmatch(r"\d\d\.[1-9]", exercise.key)
    assert exercise.prompt and len(exercise.hints) == len(set(exercise.hints)) == 2 and exercise.wrong


@pytest.mark.parametrize("path", sorted((ROOT / "course" / "exercises").glob("*.py")), ids=lambda p: p.stem)
def test_keys_count_up_within_their_chapter(path):
    assert list(progress.exercises(path.stem)) == [f"{path.stem}.{i}" for i in range(1, len(progress.exercises(path.stem)) + 1)]
    assert load()[path.stem].source.exists()


@pytest.mark.parametrize("chapter", WRITTEN, ids=lambda c: c.number)
def test_a_chapter_checks_all_its_exercises_and_no_others(chapter):
    checked = re.findall(r"""^check\(\s*["']([^"']+)["']""", chapter.source.read_text(encoding="utf-8"), re.M)
    assert checked == list(progress.exercises(chapter.number))
    assert chapter.number == "00" or 3 <= len(checked) <= 9


@pytest.mark.parametrize("chapter", WRITTEN, ids=lambda c: c.number)
def test_a_chapter_has_its_title_and_names_its_methods(chapter):
    text = chapter.source.read_text(encoding="utf-8")
    assert re.search(rf"^# .*{re.escape(chapter.title)}$", text, re.M)
    assert [key for key, a in discover().items() if a.paper.chapter == int(chapter.number) and not re.search(rf"\b{key}\b", text)] == []


TEACHING = [c for c in WRITTEN if taught(c.number)]


@pytest.mark.parametrize("chapter", WRITTEN, ids=lambda c: c.number)
def test_a_chapter_shows_the_verdicts_on_its_papers_and_states_none_by_hand(chapter):
    text = chapter.source.read_text(encoding="utf-8")
    assert re.findall(r"^verdicts\((.*)\)$", text, re.M) == [f'"{chapter.number}"' for c in TEACHING if c == chapter]
    assert not re.search(r"\|\W*(held|not held|inconclusive)\W*\|", text)


@pytest.mark.parametrize("chapter", TEACHING, ids=lambda c: c.number)
def test_a_notebooks_stored_verdicts_are_the_ledgers(chapter):
    cells = [cell for cell in nbformat.read(chapter.notebook, 4).cells if re.search(r"^verdicts\(", cell.source, re.M)]
    assert [output.data["text/markdown"] for cell in cells for output in cell.outputs] == [verdicts(chapter.number).text]
