"""labkit claims: each verdict is written down once, whatever ends early; what cannot be judged is told in a sentence."""
import os
import signal
import subprocess
import sys
import time
from functools import partial

import psutil
import pytest
import torch
from dask.distributed import Client, LocalCluster

from labkit import cli
from labkit.claims import judging, ledger
from labkit.errors import LabError
from labkit.verdict import above, exactly

SHORT = ["soft_policy_iteration", "exact_pg", "value_iteration"]  # the first ends well before the others


def quick(seeds=range(20), steps: int = 3):
    """A check that needs no time."""
    return above(torch.tensor([float(seed) for seed in seeds]), -1, "seed")


def judged(folder):
    return [entry.key for entry in ledger.entries(folder=folder)]


@pytest.fixture
def checks(monkeypatch):
    """Quick checks in place of the papers' own: a dictionary to change. One process, so that they are seen."""
    table = dict.fromkeys(("ppo", "trpo", "npg"), quick)
    monkeypatch.setattr(ledger, "check_of", lambda key: table.get(key))
    return table


def judge(folder, *keys, **options):
    return judging.judge(keys, folder=folder, jobs=1, **options)


def test_an_entry_says_all_there_is_to_say(checks, tmp_path):
    entry = judge(tmp_path, "ppo")[0]
    assert (entry.key, entry.held, entry.value, entry.seeds, entry.settings) == ("ppo", "held", 9.5, tuple(range(20)), {"steps": 3})
    assert entry.low < 9.5 < entry.high and entry.rule == entry.parts[0].rule and entry.parts[0].bound == -1
    assert entry.code == ledger.code_of("ppo") and entry.machine == ledger.machine() and entry.versions["torch"] == torch.__version__
    assert entry.seconds >= 0 and entry.time.endswith("+00:00")
    assert ledger.entries(folder=tmp_path) == [entry] and ledger.latest("ppo", tmp_path) == entry


def test_only_what_is_missing_or_stale_is_judged_unless_named(checks, tmp_path, monkeypatch):
    told = []
    assert [e.key for e in judge(tmp_path, tell=told.append)] == [e.key for e in told] == ["ppo", "trpo", "npg"]
    assert judge(tmp_path) == [] and [e.key for e in judge(tmp_path, "trpo")] == ["trpo"]
    monkeypatch.setattr(ledger, "code_of", lambda key: "another" if key == "npg" else ledger.latest(key, tmp_path).code)
    assert list(judging.plan(folder=tmp_path)) == ["npg"]
    assert list(judging.plan(every=True, folder=tmp_path)) == ["ppo", "trpo", "npg"]


def test_other_seeds_are_judged_beside_the_checks_own(checks, tmp_path):
    checks["props"] = lambda seeds=range(100, 120), steps=3: quick(seeds)
    assert judge(tmp_path, "props", seeds=30)[0].seeds == tuple(range(100, 130))
    assert judge(tmp_path, "ppo", seeds=12, first=40)[0].seeds == tuple(range(40, 52))
    assert "ppo" in judging.plan(folder=tmp_path) and "ppo" not in judging.plan(seeds=12, first=40, folder=tmp_path)


@pytest.mark.parametrize(("keys", "options", "says"), [
    (("nonsense",), {}, "There is no paper 'nonsense'"),
    (("fixpo",), {}, "fixpo has no check yet"),
    (("ppo",), {"seeds": 9}, "10 seeds or more, from 0 up; got 9 from 0"),
    (("ppo",), {"first": -1}, "got 20 from -1"),
    (("ppo",), {"jobs": 0}, "got --jobs 0, take 1 or more"),
    (("ppo",), {"scheduler": "tcp://127.0.0.1:9"}, "No Dask scheduler with a worker answers at 'tcp://127.0.0.1:9'"),
    (("ppo",), {"scheduler": "nonsense://x"}, "No Dask scheduler with a worker answers at 'nonsense://x'"),
])  # fmt: skip
def test_what_cannot_be_judged_is_told_in_a_sentence(keys, options, says, tmp_path, monkeypatch):
    known = ledger.check_of
    monkeypatch.setattr(ledger, "check_of", lambda key: None if key == "fixpo" else known(key))
    monkeypatch.setattr(judging, "PATIENCE", 1)
    with pytest.raises(LabError, match=says) as error:
        judging.judge(keys, folder=tmp_path, **options)
    assert str(error.value).endswith(".") and "\n" not in str(error.value) and judged(tmp_path) == []


def test_a_cluster_without_workers_is_told(tmp_path, monkeypatch):
    monkeypatch.setattr(judging, "PATIENCE", 1)
    with LocalCluster(n_workers=0, dashboard_address=None) as cluster, pytest.raises(LabError, match="No Dask scheduler with a worker"):
        judging.judge(["ppo"], scheduler=cluster.scheduler_address, folder=tmp_path)


def test_a_check_that_fails_is_named_and_the_others_go_on(checks, tmp_path):
    def broken(seeds=range(20)):
        raise ZeroDivisionError("of\nnought.")

    checks |= {"ppo": broken, "trpo": lambda seeds=range(20): exactly(True, float("nan"), "share")}
    with pytest.raises(LabError) as error:
        judge(tmp_path)
    assert str(error.value) == (
        "The check of ppo failed with ZeroDivisionError: of nought; The check of trpo failed with LabError: "
        "The verdict on trpo, nan [nan, nan], or a part of it is not finite; the verdicts of the other 1 are in the ledger."
    )
    assert judged(tmp_path) == ["npg"]


def test_the_commands_tell_verdicts(checks, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(judging, "judge", partial(judging.judge, folder=tmp_path))
    monkeypatch.setattr(ledger, "latest", partial(ledger.latest, folder=tmp_path))
    assert cli.main(["claims", "ppo", "npg", "--jobs", "1"]) == 0
    assert capsys.readouterr().out.splitlines() == [f"{key}  held  9.5 [5.7, 13.2]  0 s" for key in ("ppo", "npg")]
    monkeypatch.setattr(ledger, "stale", lambda entry: entry.key == "npg")
    rows = {row["key"]: row["verdict"] for row in cli.catalogue()}
    entry = ledger.latest("ppo")
    same = {name: getattr(entry, name) for name in ("held", "value", "low", "high", "rule", "time")}
    assert rows["ppo"] == same | {"stale": False} and rows["npg"]["stale"] and rows["trpo"] is None
    assert cli.main(["papers"]) == 0
    lines = {line.split()[0]: line for line in capsys.readouterr().out.splitlines()}
    assert lines["ppo"].endswith("held         9.5 [5.7, 13.2]") and lines["npg"].endswith("held, stale  9.5 [5.7, 13.2]")
    assert lines["trpo"].endswith("-            -")
    del checks["ppo"], checks["trpo"], checks["npg"]
    assert cli.main(["claims"]) == 0 and capsys.readouterr().out.startswith("Every verdict is fresh; ")


# ---- what ends early --------------------------------------------------------------------------------------------

PROGRAM = """
import sys
from functools import partial
from pathlib import Path
from labkit import cli, paper
from labkit.claims import judging

if __name__ == "__main__":
    folder, *keys = sys.argv[1:]
    judging.discover = lambda: keys  # of all papers
    judging.judge = partial(judging.judge, folder=Path(folder))
    sys.exit(cli.main(["claims", "--jobs", "2"]))
"""


def test_an_interrupted_run_keeps_what_has_ended_and_the_next_goes_on(tmp_path, monkeypatch, at_a_terminal):
    program, folder = tmp_path / "program.py", tmp_path / "ledger"
    program.write_text(PROGRAM)
    command = [sys.executable, str(program), str(folder), *SHORT]
    run = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True)
    while run.poll() is None and not judged(folder):
        time.sleep(0.02)
    os.killpg(run.pid, signal.SIGINT)  # as a terminal does: all its processes
    _, err = run.communicate(timeout=120)
    first = judged(folder)
    assert run.returncode == 130 and err.splitlines()[-1] == "labkit: Interrupted." and "Traceback" not in err
    assert 0 < len(first) < len(SHORT)
    monkeypatch.setattr(judging, "discover", lambda: SHORT)
    again = judge(folder)
    assert sorted([*first, *(entry.key for entry in again)]) == sorted(judged(folder)) == sorted(SHORT)


def test_a_cluster_that_loses_a_worker_loses_nothing_and_counts_nothing_twice(tmp_path):
    killed = []

    def kill(entry):
        """At the first verdict: a worker that is in the middle of a check."""
        if killed:
            return
        with Client(cluster.scheduler_address, set_as_default=False) as client:
            pids, busy = client.run(os.getpid), client.processing()
        address, tasks = next((address, tasks) for address, tasks in busy.items() if tasks)
        os.kill(pids[address], signal.SIGKILL)
        killed.append(tasks)

    with LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster:
        done = judging.judge(SHORT, scheduler=cluster.scheduler_address, folder=tmp_path, tell=kill)
    assert killed and sorted(e.key for e in done) == sorted(judged(tmp_path)) == sorted(SHORT)
    here = judging.attempt("soft_policy_iteration", tuple(range(20)))
    there = ledger.latest("soft_policy_iteration", tmp_path)
    assert (here.held, here.value, here.code) == (there.held, there.value, there.code)


def test_a_process_that_dies_is_told_and_what_has_ended_is_kept(tmp_path):
    def kill(entry):
        for child in psutil.Process().children():
            if any("loky.backend.popen" in word for word in child.cmdline()):
                child.kill()

    with pytest.raises(LabError, match=r"A process that judged was lost \(TerminatedWorkerError.*; what had ended is kept, [^\n]*\.$"):
        judging.judge(SHORT, jobs=2, folder=tmp_path, tell=kill)
    assert 0 < len(judged(tmp_path)) < len(SHORT)
