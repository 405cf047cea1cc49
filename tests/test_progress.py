"""Exercises and progress: verdicts, hints, and a file that survives restarts, damage and rivals."""
import json
import subprocess
import sys

import pytest

from labkit.course import progress
from labkit.errors import LabError

EXERCISES = '''
from labkit.course.progress import Exercise

def double(x):
    ...

def double_solution(x):
    return 2 * x

def check_double(answer):
    assert answer(3) is not None, "double returns nothing yet."
    assert answer(3) == 6, "Three doubled is six."

def check_five(answer):
    assert answer == 5

EXERCISES = [
    Exercise("07.1", "Double.", check_double, double_solution, {"squares": lambda x: x * x}, ("Add.", "x + x"), double),
    Exercise("07.2", "Name it.", check_five, 5, {"four": 4}, ("Up.", "5")),
]
'''


@pytest.fixture(autouse=True)
def course(tmp_path, monkeypatch):
    monkeypatch.setattr(progress, "ROOT", tmp_path)
    (tmp_path / "course" / "exercises").mkdir(parents=True)
    (tmp_path / "course" / "exercises" / "07.py").write_text(EXERCISES)
    progress.exercises.cache_clear()
    yield tmp_path
    progress.exercises.cache_clear()


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (lambda x: x + x, "PASS 07.1"),
        (lambda x: None, "NOT YET 07.1: double returns nothing yet."),
        (lambda x: x * x, "NOT YET 07.1: Three doubled is six."),
        (lambda x: x / 0, "NOT YET 07.1: your answer raised ZeroDivisionError: division by zero"),
        (7, "NOT YET 07.1: your answer raised TypeError: 'int' object is not callable"),
    ],
)
def test_check_prints_a_verdict_and_never_raises(answer, says, capsys):
    progress.check("07.1", answer)
    assert capsys.readouterr().out == says + "\n"


def test_check_without_advice_still_says_something(capsys):
    progress.check("07.2", 4)
    assert capsys.readouterr().out == "NOT YET 07.2: not the expected answer.\n"


def test_results_add_up_and_a_pass_stays(capsys):
    for answer in (4, 5, 4):
        progress.check("07.2", answer)
    assert progress.load() == {"07.2": {"attempts": 3, "hints": 0, "passed": True}}
    assert progress.chapters() == {"07": (1, 2)}
    assert progress.report() == "chapter 07  #.  1 of 2 exercises"


def test_hints_come_in_order_and_the_last_stays(capsys):
    for _ in range(3):
        progress.hint("07.1")
    assert capsys.readouterr().out == "HINT 07.1: Add.\nHINT 07.1: x + x\nHINT 07.1: x + x\n"
    assert progress.load()["07.1"]["hints"] == 2


def test_solution_shows_source_or_value(capsys):
    progress.solution("07.1")
    progress.solution("07.2")
    assert capsys.readouterr().out == "def double_solution(x):\n    return 2 * x\n\n5\n"


def test_unknown_exercises_are_refused(course):
    with pytest.raises(LabError, match=r"no exercise '07\.9'; known: 07\.1, 07\.2"):
        progress.check("07.9", 1)
    with pytest.raises(LabError, match=r"no exercise '08\.1'; known: none in that chapter"):
        progress.hint("08.1")
    (course / "course" / "exercises" / "09.py").write_text("x = 1\n")
    with pytest.raises(LabError, match=r"09\.py .* defines no list EXERCISES"):
        progress.check("09.1", 1)


HALF = '{"exercises": {"07.1": {"attempts": 1}}}'
WORDS = '{"exercises": {"07.1": {"attempts": "1", "hints": 0, "passed": true}}}'


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", HALF, WORDS])
def test_a_damaged_file_is_set_aside_and_never_fatal(text, capsys):
    for n in (1, 2):
        progress.file().write_text(text)
        assert progress.load() == {}
        aside = progress.file().with_name(f"progress.damaged-{n}.json")
        assert aside.read_text() == text and not progress.file().exists()
        assert capsys.readouterr().out == f"The progress file was damaged and is now {aside}; a new one begins.\n"
    progress.check("07.2", 5)
    assert progress.load()["07.2"]["passed"]


def test_a_home_that_cannot_be_written_costs_only_the_record(tmp_path, monkeypatch, capsys):
    (tmp_path / "taken").write_text("a file, not a folder")
    monkeypatch.setenv("DRIFTLAB_HOME", str(tmp_path / "taken"))
    progress.check("07.2", 5)
    assert capsys.readouterr().out.startswith("PASS 07.2\nThe progress could not be stored in ")


def test_export_and_import_keep_the_better_of_both(tmp_path, monkeypatch):
    progress.check("07.2", 5)
    progress.hint("07.1")
    exported = progress.export_to(tmp_path / "mine.json")
    assert json.loads(exported.read_text())["version"] == 1
    monkeypatch.setenv("DRIFTLAB_HOME", str(tmp_path / "elsewhere"))
    for answer in (1, 2):
        progress.check("07.2", answer)
    assert progress.import_from(exported) == {
        "07.1": {"attempts": 0, "hints": 1, "passed": False},
        "07.2": {"attempts": 2, "hints": 0, "passed": True},
    }
    assert progress.load()["07.2"]["passed"]
    with pytest.raises(LabError, match="cannot be read"):
        progress.import_from(tmp_path / "gone.json")
    (tmp_path / "not.json").write_text("{}")
    with pytest.raises(LabError, match="is not a progress file"):
        progress.import_from(tmp_path / "not.json")
    with pytest.raises(LabError, match="cannot be written"):
        progress.export_to(tmp_path / "no" / "folder.json")


def test_rivals_lose_no_record():
    record = "from labkit.course import progress\nfor _ in range(20): progress._record('07.1', attempts=1)"
    rivals = [subprocess.Popen([sys.executable, "-c", record]) for _ in range(3)]
    assert [r.wait() for r in rivals] == [0, 0, 0]
    assert progress.load()["07.1"]["attempts"] == 60
    assert sorted(p.name for p in progress.file().parent.iterdir()) in (["progress.json"], ["progress.json", "progress.lock"])
