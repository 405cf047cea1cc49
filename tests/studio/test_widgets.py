"""LiveView without a browser: its buttons drive the run, its traits hold the run's picture."""
import time
from dataclasses import replace

import numpy as np
import pytest

from labkit import worlds
from labkit.errors import LabError
from labkit.lanes import Lanes
from labkit.on_policy.family import Shape, ppo
from labkit.studio.figures import floor, watch
from labkit.studio.live import LiveRun
from labkit.studio.widgets import LiveView

TINY = replace(ppo, shape=Shape(envs=2, steps=8, width=8, minibatches=2))
WORLD = worlds.make("finite.cliff")


@pytest.fixture
def view():
    run = LiveRun(TINY, WORLD, Lanes((0, 1), {"eps": (0.1, 0.4)}), updates=40, fields=watch(WORLD))
    view = LiveView(run, floor=floor(WORLD), sliders=("eps", "lr"))
    yield view
    view.close()


def settle(view, moments):
    """Until the picture holds so many moments."""
    assert view.run.wait(30)
    until(lambda: len(view.view.times) == moments)


def until(true):
    for _ in range(1500):
        if true():
            return
        time.sleep(0.02)
    raise AssertionError("half a minute was not enough")


def press(view, name):
    assert not view.buttons[name].disabled, f"{name} cannot be pressed"
    view.buttons[name].click()


def test_steps_are_drawn_one_by_one(view):
    assert [name for name, button in view.buttons.items() if button.disabled] == ["Pause", "Stop", "Fork"]
    for count in (1, 2, 3):
        press(view, "Step")
        settle(view, count)
    about = view.view.about
    assert about["steps"] == [16, 32, 48] and about["names"] == ["eps=0.1", "eps=0.4"] and view.view.time == 2
    curves = np.frombuffer(view.view.curves, "<f4").reshape(-1, 3)  # summaries (1, 2, 3, T), then seeds (1, 2, 2, T)
    assert np.allclose(curves[6:].reshape(2, 2, 3), view.run.record().curves["return"].T.view(2, 2, 3), equal_nan=True)
    assert len(view.view.arrows) == 2 * 3 * 3 * len(about["floor"]["cells"]) * 3
    assert "update 3 of 40, 48 steps per seed" in view.status.value


def test_words_are_never_behind_the_picture(view, monkeypatch):
    told = []
    monkeypatch.setattr(view.view, "show", lambda record, *_: told.append((len(record.steps), view.status.value)))
    press(view, "Train")
    until(lambda: told and told[-1][0] == 40)
    assert all(int(words.split("update ")[1].split()[0]) >= moments for moments, words in told)


def test_the_scrubber_stays_where_it_was_put(view):
    for count in (1, 2, 3, 4):
        press(view, "Step")
        settle(view, count)
        if count == 2:
            view.view.time, view.view.setting = 0, 1
    assert (view.view.time, view.view.setting) == (0, 1)
    view.view.time = 3
    press(view, "Step")
    settle(view, 5)
    assert view.view.time == 4


def test_training_to_the_end_and_anew(view):
    press(view, "Train")
    settle(view, 40)
    first = view.run
    assert first.state == "done" and not view.buttons["Train"].disabled
    press(view, "Train")
    settle(view, 40)
    assert view.run is not first and view.run.learners[39].nets["pi"].theta.equal(first.learners[39].nets["pi"].theta)


def test_a_fork_takes_the_knobs_as_they_stand(view):
    for count in (1, 2, 3):
        press(view, "Step")
        settle(view, count)
    old = view.run
    view.view.time, view.view.setting = 1, 1
    view.knobs["lr"].value = 0.001
    assert "A knob was moved" in view.status.value
    view.knobs["eps"].value = 0.5
    press(view, "Fork")
    view.pause()
    assert old.state == "stopped" and view.run.lanes.grid == {"eps": (0.5,), "lr": (0.001,)} and view.run.origin.step == 32
    assert view.run.origin.nets["pi"].theta.equal(old.learners[1].nets["pi"].theta[2:])


def test_a_moved_knob_begins_anew(view):
    press(view, "Step")
    settle(view, 1)
    view.knobs["eps"].value = 0.5
    old = view.run
    press(view, "Train")
    view.pause()
    assert view.run is not old and view.run.origin is None and view.run.lanes.grid == {"eps": (0.5,)}


def test_what_goes_wrong_is_told(view):
    with pytest.raises(LabError, match="ppo has no knob 'beta'"):
        LiveView(view.run, sliders=("beta",))
    other = LiveView(LiveRun(TINY, WORLD, Lanes(), updates=1), curves=("fame",))
    press(other, "Train")
    other.run.wait(30)
    until(lambda: "no curve" in other.status.value)
    assert "This record has no curve &#x27;fame&#x27;" in other.status.value
    other.close()


def test_closing_ends_the_run(view):
    press(view, "Train")
    view.close()
    view.run.thread.join(10)
    assert view.run.state == "stopped" and not view.run.thread.is_alive()
