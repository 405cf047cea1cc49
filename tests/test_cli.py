"""The command line: every subcommand, its one-line errors, and papers that `labkit new` begins."""
import json
import os
import shutil
import subprocess
import sys
from types import SimpleNamespace

import pytest

from labkit import cli, files
from labkit.errors import LabError
from labkit.files import ROOT
from labkit.paper import discover


def test_papers_lists_what_discovery_finds(capsys):
    assert cli.main(["papers", "--json"]) == 0
    rows = {row["key"]: row for row in json.loads(capsys.readouterr().out)}
    assert set(rows) == set(discover())
    ppo = rows["ppo"]
    assert (ppo["family"], ppo["base"], ppo["changed"], ppo["chapter"]) == ("on_policy", "a2c", ["surrogate", "improve"], "03")
    assert ppo["file"] == "labkit/on_policy/family.py"
    assert all((ROOT / row["file"]).is_file() for row in rows.values())
    assert rows["reinforce"]["base"] is None and rows["reinforce"]["changed"] == []
    assert set(ppo) == {"key", "title", "family", "base", "changed", "claim", "verdict", "file", "chapter"}

    assert cli.main(["papers"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(rows) + 1
    assert [line.split()[:4] for line in lines if line.startswith("ppo ")] == [["ppo", "on_policy", "a2c", "surrogate,"]]


def test_a_lab_error_is_one_line_and_code_2(capsys):
    assert cli.main(["build", "97"]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("labkit: There is no chapter 97") and err.count("\n") == 1


def test_a_fault_of_our_own_is_told_in_a_line_and_logged_whole(monkeypatch, capsys):
    from labkit.course import progress

    monkeypatch.setattr(progress, "report", lambda: {}["gone"])
    assert cli.main(["progress"]) == 1
    err = capsys.readouterr().err
    assert err.startswith("labkit: A fault of labkit's own, KeyError; its trace is in ") and err.count("\n") == 1
    log = files.home() / "faults.log"
    assert "progress\nTraceback" in log.read_text() and "KeyError: 'gone'" in log.read_text()
    log.unlink()
    log.mkdir()
    assert cli.main(["progress"]) == 1 and "could not be kept (Is a directory)" in capsys.readouterr().err


def test_an_interrupted_command_says_so(monkeypatch, capsys):
    def interrupted() -> str:
        raise KeyboardInterrupt

    monkeypatch.setattr("labkit.course.progress.report", interrupted)
    assert cli.main(["progress"]) == 130 and capsys.readouterr().err == "labkit: Interrupted.\n"


@pytest.mark.parametrize("command", [["nonsense"], [], ["build", "--nonsense"]])
def test_a_wrong_command_line_is_refused(command, capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main(command)
    assert stop.value.code == 2 and "usage: labkit" in capsys.readouterr().err


def test_progress_goes_out_and_comes_back(tmp_path, monkeypatch, capsys):
    from labkit.course import progress

    monkeypatch.setattr(progress, "exercise", lambda key: SimpleNamespace(verdict=lambda answer: None))
    progress.check("03.1", 1)
    assert cli.main(["progress", "--export", str(tmp_path / "p.json")]) == 0
    monkeypatch.setenv("DRIFTLAB_HOME", str(tmp_path / "other"))
    assert progress.load() == {}
    assert cli.main(["progress", "--import", str(tmp_path / "p.json")]) == 0
    assert progress.load() == {"03.1": {"attempts": 1, "hints": 0, "passed": True}}
    assert cli.main(["progress", "--import", str(tmp_path / "gone.json")]) == 2


def test_serve_hands_over_its_options(monkeypatch):
    calls = []
    fake = SimpleNamespace(main=lambda **options: calls.append(options))
    monkeypatch.setitem(sys.modules, "labkit.studio", SimpleNamespace(serve=fake))
    monkeypatch.setitem(sys.modules, "labkit.studio.serve", fake)
    command = cli.behind_jupyter()["command"]
    assert command[1:3] == ["-m", "labkit.cli"]
    assert cli.main([part.format(port=7011) for part in command[3:]]) == 0
    assert cli.main(["serve"]) == 0
    assert cli.main(["serve", "--class", "--password-file", "secret"]) == 0
    assert cli.main(["serve", "--class", "12", "--no-password"]) == 0
    plain = {"port": 5006, "address": "localhost", "allow_origin": None, "show": True}
    plain |= {"password_file": None, "no_password": False, "seats": None}
    assert calls == [
        plain | {"port": 7011, "allow_origin": ["*"], "show": False},
        plain,
        plain | {"seats": 30, "password_file": "secret"},
        plain | {"seats": 12, "no_password": True},
    ]


def test_lab_starts_jupyterlab_on_the_start_page(monkeypatch):
    calls = []
    monkeypatch.setattr(os, "execv", lambda program, command: calls.append((program, command)) or 0)
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    cli.main(["lab", "--no-browser"])
    program, command = calls[0]
    assert program == sys.executable and command[:3] == [sys.executable, "-m", "jupyterlab"]
    assert {"--ip=localhost", "--allow-root", "--no-browser", f"--LabApp.default_url=/lab/tree/{cli.START}"} <= set(command)
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    cli.main(["lab"])
    assert "--allow-root" not in calls[1][1]


@pytest.fixture(scope="module")
def clone(tmp_path_factory):
    """labkit and the syllabus, with no chapter written."""
    root = tmp_path_factory.mktemp("clone")
    shutil.copytree(ROOT / "labkit", root / "labkit")
    (root / "course").mkdir()
    shutil.copy(ROOT / "course" / "syllabus.toml", root / "course")
    return root


def run(clone, *command: str) -> subprocess.CompletedProcess:
    env = os.environ | {"PYTHONPATH": str(clone), "OMP_NUM_THREADS": "1"}
    return subprocess.run([sys.executable, *command], cwd=clone, env=env, capture_output=True, text=True)


def test_new_writes_a_paper_that_already_runs(clone):
    done = run(clone, "-m", "labkit.cli", "new", "on_policy", "gentle", "--base", "ppo", "--slot", "surrogate", "--chapter", "4")
    wrote = ["labkit/on_policy/gentle.py", "tests/on_policy/test_gentle.py", "course/chapters/04_gradients_at_work.md"]
    assert done.stdout.split() == [word for path in wrote for word in ("wrote", path)], done.stderr
    assert run(clone, "-m", "ruff", "check", "--config", str(ROOT / "pyproject.toml"), *wrote[:2]).returncode == 0
    assert "2 passed" in run(clone, "-m", "pytest", "-q", "-p", "no:cacheprovider", wrote[1]).stdout
    papers = json.loads(run(clone, "-m", "labkit.cli", "papers", "--json").stdout)
    gentle = next(p for p in papers if p["key"] == "gentle")
    assert (gentle["changed"], gentle["base"], gentle["chapter"], gentle["file"]) == (["surrogate"], "ppo", "04", wrote[0])
    built = run(clone, "-m", "labkit.cli", "build", "4")
    assert built.stdout == "built notebooks/04_gradients_at_work.ipynb\n", built.stderr
    assert "['surrogate']" in (clone / "notebooks" / "04_gradients_at_work.ipynb").read_text()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("off_pollicy", "x"), "There is no family 'off_pollicy'; known: .*on_policy"),
        (("on_policy", "Bad-Name"), "'Bad-Name' cannot name a paper"),
        (("on_policy", "lambda"), "'lambda' cannot name a paper"),
        (("on_policy", "../escape"), "cannot name a paper"),
        (("on_policy", "ppo"), "'ppo' is taken"),
        (("on_policy", "brand_new"), "does not say where 'brand_new' is taught; add --chapter"),
        (("on_policy", "brand_new", "sarsa"), "no method 'sarsa' to begin from; known: .*ppo"),
        (("on_policy", "brand_new", "ppo", "teach"), "ppo has no slot 'teach'; its slots: collect, "),
        (("on_policy", "brand_new", "ppo", "improve", "88"), "no chapter '88'"),
    ],
)
def test_new_refuses_in_one_sentence_and_writes_nothing(arguments, says, monkeypatch):
    from labkit import scaffold

    monkeypatch.setattr(scaffold, "write_whole", lambda path, text: pytest.fail(f"wrote {path}"))
    with pytest.raises(LabError, match=says) as error:
        scaffold.new(*arguments)
    assert str(error.value).count(".\n") == 0
