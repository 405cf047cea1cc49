"""A live run obeys its controls, equals a plain run bit for bit, and says in a sentence why it failed."""
import itertools
import subprocess
import sys
import time
from dataclasses import replace

import pytest
import torch

from labkit import worlds
from labkit.errors import LabError
from labkit.lanes import Lanes
from labkit.meter import DriftMeter, States
from labkit.on_policy.family import Shape, ppo
from labkit.record import record
from labkit.studio import live
from labkit.studio.live import LiveRun

TINY = replace(ppo, shape=Shape(envs=2, steps=8, width=8, minibatches=2))  # 16 steps an update
LANES = Lanes((0, 1), {"eps": (0.1, 0.4)})
WORLD = worlds.make("control.cartpole")
PROBE = States(torch.linspace(-0.2, 0.2, 20).view(5, 4))


def run(updates=10, **options):
    return LiveRun(TINY, WORLD, LANES, updates, **options)


def finished(live_run, seconds=30):
    assert live_run.wait(seconds), f"still {live_run.state} after {seconds} s"
    return live_run


def last_of(count, lanes=LANES, start=None):
    """The learner after `count` updates of an uninterrupted run."""
    return next(itertools.islice(TINY.run(WORLD, lanes, start), count - 1, None)).learner


def test_a_whole_run_equals_record():
    one = run(meters={"kl": DriftMeter(PROBE)}, fields={"v": lambda s: s.learner.value(PROBE.obs)})
    assert one.state == "idle" and one.progress == (0, 10)
    one.start()
    ours = finished(one).record()
    theirs = record(TINY, WORLD, LANES, 160, meters={"kl": DriftMeter(PROBE)}, fields={"v": lambda s: s.learner.value(PROBE.obs)})
    assert one.state == "done" and one.progress == (10, 10)
    assert ours.steps.equal(theirs.steps) and ours.fields["v"].equal(theirs.fields["v"]) and ours.curves["kl"].equal(theirs.curves["kl"])
    assert ours.curves["return"].nan_to_num(-1).equal(theirs.curves["return"].nan_to_num(-1))


def test_pausing_and_resuming_changes_nothing():
    one = run()
    one.start()
    for moments in (2, 5):
        one.wait(30, moments)
        one.pause()
        assert one.wait(30) and one.state == "paused" and one.moments >= moments
        one.resume()
    assert finished(one).learners[9].nets["pi"].theta.equal(last_of(10).nets["pi"].theta)


def test_pause_really_pauses_and_keeps_the_clock():
    one = run(10**9, seconds=1000)
    one.start()
    assert one.wait(30, moments=1)
    begun = time.perf_counter()
    one.pause()
    assert time.perf_counter() - begun < 0.05 and one.state == "paused", "pause must not wait for the update"
    assert one.wait(30)
    before = one.moments, one.version, one.spent
    time.sleep(0.2)
    assert (one.moments, one.version, one.spent) == before
    one.stop()
    one.thread.join(10)
    assert not one.thread.is_alive() and one.state == "stopped" and one.moments == before[0]


def test_a_step_is_exactly_one_snapshot():
    one = run(10**6)
    for count in (1, 2):
        one.step()
        assert one.wait(30) and one.moments == count and one.state == "paused"
    one.step()
    one.step()
    assert one.wait(30) and one.moments == 4
    one.stop()


def test_every_change_shows_in_the_version():
    one = run()
    seen = [one.version]
    for act in (one.step, one.step, one.stop):
        act()
        one.wait(30)
        seen.append(one.version)
    assert seen == sorted(set(seen))


def test_controls_are_without_effect_once_it_is_over():
    one = run(1)
    one.start()
    finished(one)
    for act in (one.start, one.pause, one.step, one.stop):
        act()
        assert one.state == "done" and one.moments == 1


def test_a_fork_goes_on_from_a_moment():
    one = run()
    one.start()
    finished(one)
    fork = one.fork(4, {"eps": (0.2, 0.9)})
    fork.start()
    lanes = Lanes((0, 1), {"eps": (0.2, 0.9)})
    theirs = record(TINY, WORLD, lanes, 80 + 160, start=one.learners[4])
    ours = finished(fork).record()
    assert fork.progress == (10, 10) and ours.steps.tolist()[0] == 96 and ours.steps.equal(theirs.steps)
    assert ours.curves["return"].nan_to_num(-1).equal(theirs.curves["return"].nan_to_num(-1))
    assert fork.learners[9].nets["v"].theta.equal(last_of(10, lanes, one.learners[4]).nets["v"].theta)


def test_a_fork_of_the_same_knobs_is_the_same_run():
    one = run()
    one.start()
    fork = finished(one).fork(6, LANES.grid)
    for _ in range(3):
        fork.step()
    assert fork.wait(30) and fork.learners[2].nets["pi"].theta.equal(one.learners[9].nets["pi"].theta)
    assert not fork.learners[1].nets["pi"].theta.equal(one.learners[9].nets["pi"].theta)
    fork.stop()


def test_a_run_anew_begins_with_fresh_meters():
    one = run(3, meters={"kl": DriftMeter(PROBE)})
    one.start()
    two = finished(one).anew({"eps": (0.1,)})
    two.start()
    ours, theirs = finished(two).record(), one.record()
    assert ours.lanes.grid == {"eps": (0.1,)} and ours.curves["kl"].equal(theirs.curves["kl"][:, :2])
    fork = one.fork(1, LANES.grid)
    fork.step()
    assert fork.wait(30) and fork.record().curves["kl"].abs().max() < 1e-6, "its first snapshot is its start"
    with pytest.raises(LabError, match="goes on from 4 lanes, and cannot begin anew with 2"):
        fork.anew({"eps": (0.1,)})
    fork.stop()


def test_one_setting_may_fork_into_many():
    one = run()
    one.start()
    fork = finished(one).fork(9, {"eps": (0.02, 0.4, 0.5)}, setting=1)
    fork.step()
    assert fork.wait(30) and len(fork.lanes) == 6
    same = one.fork(9, LANES.grid)  # its lanes 2 and 3 have eps = 0.4, as have the fork's
    same.step()
    same.wait(30)
    assert fork.learners[0].nets["pi"].theta[2:4].equal(same.learners[0].nets["pi"].theta[2:])
    assert fork.learners[0].nets["pi"].moments[:, 2:4].equal(same.learners[0].nets["pi"].moments[:, 2:])
    assert not fork.learners[0].nets["pi"].theta[:2].equal(fork.learners[0].nets["pi"].theta[2:4])


def test_forking_is_told_what_is_wrong():
    one = run()
    with pytest.raises(LabError, match="moment 0 is not at hand; train first"):
        one.fork(0, {})
    one.step()
    one.wait(30)
    with pytest.raises(LabError, match="moment 7 is not at hand; the nearest that can be forked is 0"):
        one.fork(7, {})
    with pytest.raises(LabError, match="has 2 settings, the fork 1"):
        one.fork(0, {"eps": (0.1,)})
    with pytest.raises(LabError, match="eps=7 is out of range"):
        one.fork(0, {"eps": (7.0, 0.1)})
    one.stop()


def test_learners_are_thinned_out_evenly(monkeypatch):
    monkeypatch.setattr(live, "KEPT", 4)
    one = run(21)
    one.start()
    assert sorted(finished(one).learners) == [0, 8, 16, 20]
    monkeypatch.setattr(live, "KEPT_BYTES", 1)
    two = run(5)
    two.start()
    assert sorted(finished(two).learners) == [0, 4]


def test_time_is_capped():
    one = run(10**9, seconds=0.05)
    one.start()
    assert finished(one, 10).state == "done" and one.progress[0] < 10**9 and one.spent >= 0.05


def test_one_thread_for_arithmetic():
    seen = []
    one = run(1, fields={"x": lambda s: seen.append(torch.get_num_threads()) or torch.zeros(4)})
    one.start()
    finished(one)
    assert seen == [1]


class Broken(type(WORLD)):
    key = "control.broken"

    def step(self, state, action, u):
        if bool((state["t"] >= 12).any()):
            raise self.reason
        return super().step(state, action, u)


@pytest.mark.parametrize(
    "reason, sentence",
    [
        (RuntimeError("the pole snapped\nfar away"), "ppo on control.broken failed after 1 updates: RuntimeError the pole snapped."),
        (LabError("The pole is too short; take a longer one."), "The pole is too short; take a longer one."),
    ],
)
def test_a_failure_becomes_a_sentence(reason, sentence, caplog):
    world = Broken()
    world.reason = reason
    one = LiveRun(TINY, world, LANES, 1000)
    one.start()
    assert finished(one).state == "failed" and one.error == sentence and one.moments == 1
    assert "pole" in caplog.text, "the traceback goes to the log"
    one.thread.join(10)
    assert not one.thread.is_alive()


def test_what_the_sink_refuses_pauses_the_run_and_is_offered_again():
    taken, full = [], True

    def sink(snapshot):
        if full and len(taken) == 2:
            raise LabError("The disk is full; make room.")
        taken.append(snapshot.step)

    one = run(4, sink=sink)
    one.start()
    assert one.wait(30) and (one.state, one.error, one.moments) == ("paused", "The disk is full; make room.", 2)
    one.step()
    assert one.wait(30) and (one.state, one.error, one.moments, taken) == ("paused", "The disk is full; make room.", 2, [16, 32])
    full = False
    one.resume()
    assert finished(one).state == "done" and one.error == "" and taken == [16, 32, 48, 64]
    assert one.learners[3].nets["pi"].theta.equal(last_of(4).nets["pi"].theta), "nothing was left out or done twice"


def test_a_sink_that_breaks_fails_the_run():
    def sink(snapshot):
        raise OSError("the disk is gone")

    one = run(4, sink=sink)
    one.start()
    assert finished(one).state == "failed" and one.error.endswith("failed after 0 updates: OSError the disk is gone.")


def test_a_run_may_say_why_it_stopped():
    one = run()
    one.stop("It made room for another.")
    assert (one.state, one.error) == ("stopped", "It made room for another.")


def test_wrong_settings_are_told_at_once():
    with pytest.raises(LabError, match="no knob 'clip'"):
        LiveRun(TINY, WORLD, Lanes((0,), {"clip": (0.1,)}))
    with pytest.raises(LabError, match="at least 1 update"):
        run(0)
    with pytest.raises(LabError, match="Nothing is recorded yet"):
        run().record()


def test_reading_while_it_trains_gives_whole_rows():
    one = run(25, fields={"v": lambda s: s.learner.value(PROBE.obs)})
    one.start()
    counts = set()
    while not one.over:
        if one.moments:
            now = one.record()
            assert {len(now.steps)} == {len(rows) for rows in (now.curves | now.fields).values()}
            assert one.part(len(now.steps) - 1, len(now.steps)).fields["v"].equal(now.fields["v"][-1:])
            counts.add(len(now.steps))
        time.sleep(0.002)
    assert len(counts) > 1 and len(one.record().steps) == 25


def test_the_first_snapshot_takes_less_than_a_second_of_computing():
    for world in (WORLD, worlds.make("grid.fourrooms", layout_seed=0)):
        one = LiveRun(ppo, world, Lanes((0, 1, 2, 3, 4)))
        begun = time.process_time()
        one.start()
        assert one.wait(60, moments=1)
        seconds = time.process_time() - begun
        one.stop()
        assert seconds < 3, f"{world.key} took {seconds:.2f} s"  # 0.3 s on an idle core


def test_leaving_python_while_a_run_is_at_work_is_quiet():
    code = """
from labkit import worlds
from labkit.lanes import Lanes
from labkit.on_policy.family import ppo
from labkit.studio.live import LiveRun
for lanes in (Lanes((0,)), Lanes((1,))):
    run = LiveRun(ppo, worlds.make("control.cartpole"), lanes)
    run.start()
    assert run.wait(30, moments=1)
run.pause()
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    assert (done.returncode, done.stderr) == (0, "")
