"""Runs in processes of their own: equal to runs here, in turn, and survived by their page and by nothing else."""
import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from labkit.errors import LabError
from labkit.studio import worker
from labkit.studio.limits import Limits
from labkit.studio.study import Settings
from labkit.studio.worker import Line, WorkerRun

CLIFF = Settings("finite.cliff", "ppo", {"eps": (0.1, 0.4)}, 2, 4)
LONG = Settings("finite.cliff", "ppo", {}, 2, 2000)


@pytest.fixture
def runs():
    """Makes runs that end with the test."""
    made = []

    def make(settings=CLIFF, **options):
        made.append(WorkerRun(settings, **options))
        return made[-1]

    yield make
    for run in made:
        run.stop()
    for run in made:
        if run.thread:
            run.thread.join(300)
            assert not run.thread.is_alive() and not (run.process and run.process.is_alive()), "a child was left behind"


def rests(run):
    assert run.wait(300), f"still {run.state}"
    return run


def test_a_run_in_another_process_is_the_run_in_this_one(runs):
    ours, theirs = runs(), CLIFF.begin()
    for run in (ours, theirs):
        run.start()
    ours, theirs = rests(ours), rests(theirs).record()
    ours.thread.join(300)
    assert ours.state == "done" and ours.spent > 0 and not ours.process.is_alive()
    ours = ours.record()
    assert ours.steps.equal(theirs.steps) and ours.lanes == theirs.lanes and ours.notes == theirs.notes
    assert ours.curves.keys() == theirs.curves.keys() and ours.fields.keys() == theirs.fields.keys() == {"policy", "occupancy"}
    for name, rows in (theirs.curves | theirs.fields).items():
        assert (ours.curves | ours.fields)[name].nan_to_num(-1).equal(rows.nan_to_num(-1)), name


def test_it_steps_pauses_and_goes_on(runs):
    run = runs(LONG)
    run.step()
    assert rests(run).moments == 1 and run.state == "paused"
    run.start()
    assert run.wait(300, moments=4)
    run.pause()
    stood = rests(run).moments
    assert run.state == "paused" and not run.line.busy, "a paused run keeps no core"
    child = run.process.pid
    run.step()
    assert rests(run).moments == stood + 1 and run.process.pid == child
    assert os.getpriority(os.PRIO_PROCESS, child) == os.getpriority(os.PRIO_PROCESS, 0) + worker.NICE


def test_a_killed_child_is_told_and_what_it_recorded_stays(runs):
    run = runs(LONG)
    run.start()
    assert run.wait(300, moments=2)
    run.process.kill()
    assert rests(run).state == "failed" and len(run.record().steps) == run.moments >= 2
    said = f"The process of ppo on finite.cliff ended after {run.moments} updates (exit code -9)"
    assert run.error == f"{said}; what it recorded is kept, and Train begins it anew."


def test_a_failure_in_the_child_is_told_in_a_sentence(runs):
    run = runs(Settings("finite.cliff", "ppo", {}, 2, 2))
    object.__setattr__(run.settings, "world", "finite.nowhere")  # as if the child could not make what the server could
    run.start()
    assert rests(run).state == "failed" and run.error.startswith("There is no world 'finite.nowhere'")


def test_what_cannot_be_run_is_told_before_there_is_a_process():
    with pytest.raises(LabError, match="1 to 64 seeds; got 0"):
        WorkerRun(Settings(seeds=0))


def test_a_run_that_would_take_too_much_is_refused_after_its_first_update(runs):
    run = runs(CLIFF, limits=Limits(run=4 * 4 * 1024 - 1))
    run.start()
    assert rests(run).state == "failed" and run.moments == 1
    assert run.error == "This run would take 16,384 steps over all lanes, more than 16,383; take fewer updates."
    just = runs(CLIFF, limits=Limits(run=4 * 4 * 1024))
    just.start()
    assert rests(just).state == "done"


def test_who_has_nothing_left_is_paused_and_may_go_on_later(runs):
    told = []

    def spend(steps):
        told.append(steps)
        if len(told) == 2:
            raise LabError("You have nothing left; resume in 5 minutes.")

    run = runs(CLIFF, spend=spend)
    run.start()
    assert rests(run).state == "paused" and run.error == "You have nothing left; resume in 5 minutes." and run.moments == 2
    run.resume()
    assert rests(run).state == "done" and told == [4 * 1024] * 4


def test_computing_time_is_capped(runs):
    run = runs(LONG, limits=Limits(seconds=1e-3))
    run.start()
    assert rests(run).state == "done" and run.moments == 1


# ---- the line ----------------------------------------------------------------------------------------------------


def test_runs_wait_in_line_for_a_core(runs):
    line = Line(1)
    first, second, third = (runs(LONG, line=line) for _ in range(3))
    first.start()
    assert first.wait(300, moments=1)
    second.start()
    wait_for(lambda: line.before(second) == 0)
    third.start()
    wait_for(lambda: line.before(third) == 1)
    assert second.moments == third.moments == 0 and line.busy == 3 and line.before(first) is None
    second.stop()
    wait_for(lambda: line.before(third) == 0)
    first.pause()
    assert third.wait(300, moments=1) and second.moments == 0


def test_a_turn_ends_where_others_wait(runs, monkeypatch):
    monkeypatch.setattr(worker, "TURN", 0.0)
    line = Line(1)
    one, two = runs(LONG, line=line), runs(LONG, line=line)
    one.start()
    two.start()
    assert one.wait(300, moments=3) and two.wait(300, moments=3), "neither keeps the core for itself"


def test_a_turn_is_kept_where_nobody_waits():
    line = Line(1)
    assert line.take("a", lambda: True) and line.take("a", lambda: True)
    line.give("a", turn=True)
    assert line.busy == 1
    assert not line.take("b", lambda: False), "who wants nothing leaves the line"
    line.give("a")
    assert line.busy == 0 and line.take("b", lambda: True)


def wait_for(condition, seconds=300):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


# ---- the server's end --------------------------------------------------------------------------------------------


def test_children_end_with_a_server_that_is_killed():
    code = """
import sys, time
from labkit.studio.study import Settings
from labkit.studio.worker import WorkerRun
if __name__ == "__main__":
    runs = [WorkerRun(Settings("finite.cliff", "ppo", {}, 2, 2000)) for _ in range(2)]
    for run in runs:
        run.start()
        assert run.wait(300, moments=1)
    runs[1].pause()
    print(*(run.process.pid for run in runs), flush=True)
    time.sleep(600)
"""
    server = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    reader = threading.Timer(900, server.kill)  # so that a server that never speaks ends the test
    reader.start()
    children = [int(word) for word in server.stdout.readline().split()]
    reader.cancel()
    assert len(children) == 2 and all(map(alive, children))
    server.send_signal(signal.SIGKILL)
    server.wait()
    wait_for(lambda: not any(map(alive, children)))


def alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True
