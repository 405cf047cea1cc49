"""Moving worlds without a browser: events pressed while runs go on, their link, two methods through the same events."""
import re
import zipfile
from dataclasses import replace

import pytest
import torch

from labkit import store
from labkit.divergence import kl
from labkit.errors import LabError
from labkit.lanes import Lanes
from labkit.policy import Categorical
from labkit.record import Record
from labkit.studio import figures, study
from labkit.studio.figures.moving import DRIFT, TREMBLE
from labkit.studio.limits import Limits
from labkit.studio.moving_page import LINK, NEW, MovingWorlds
from labkit.studio.study import STEERED, Settings
from labkit.studio.worker import WorkerRun, steer
from labkit.worlds.steered import Event, read_events
from tests.studio.looking import look

JUMP = Settings(STEERED, "q_learning", {}, 2, 4, events=(Event("jump", 200),))
MANY = ",".join(f"drift@{3000 * n}" for n in range(60))


@pytest.fixture
def session():
    page = MovingWorlds(algorithm="q_learning", seeds=2, updates=4, speed=0)
    yield page
    page.close()
    for run in page.runs.values():
        if run.thread:
            run.thread.join(300)


@pytest.fixture(scope="module")
def trained():
    """A session whose run is over."""
    page = MovingWorlds(algorithm="q_learning", seeds=2, updates=4, speed=0)
    page.train()
    yield rested(page)
    page.close()


def rested(page):
    for run in page.runs.values():
        assert run.wait(300)
    return page


def status(page):
    return re.sub("<[^>]*>", "", page.status.object)


def assert_same(one, other):
    assert one.steps.equal(other.steps) and one.curves.keys() == other.curves.keys() and one.fields.keys() == other.fields.keys()
    for name, rows in (one.curves | one.fields).items():
        assert rows.equal((other.curves | other.fields)[name]), name


# ---- runs --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("events, word", [((), "events="), ((Event("jump", 3), Event("drift", 9)), "events=jump@3,drift@9")])
def test_settings_with_events_can_be_written_and_read(events, word):
    settings = replace(JUMP, events=events, knobs={"alpha": (0.1, 0.5)})
    assert word in str(settings).split() and Settings.read(str(settings)) == settings


@pytest.mark.parametrize(
    "settings, message",
    [
        (replace(JUMP, algorithm="policy_iteration"), "no method 'policy_iteration' for finite.steered; choose one of q_learning"),
        (replace(JUMP, seeds=64, updates=2000, events=read_events(MANY)), "would keep .* take fewer seeds, values, updates or events"),
    ],
)
def test_what_cannot_be_run_is_told(settings, message):
    with pytest.raises(LabError, match=message):
        settings.check()


def test_each_seed_has_a_world_of_its_own_whatever_stands_beside_it():
    both = replace(JUMP, knobs={"alpha": (0.1, 0.5)}).parts()[1]
    assert both.models.P[:2].equal(both.models.P[4:6]) and not both.models.P[0].equal(both.models.P[2])


def test_the_distance_is_to_the_nearest_of_the_best_policies():
    """Two states, two actions. In state 0 both are best; in state 1 only the first."""
    pi = torch.tensor([[0.3, 0.7], [0.0, 1.0]])
    fields = {"policy": pi, "best": torch.tensor([[1.0, 1.0], [1.0, 0.0]]), "occupancy": torch.tensor([0.25, 0.75])}
    record = Record("q_learning", STEERED, Lanes(), torch.tensor([1]), {}, {name: x[None, None] for name, x in fields.items()})
    low, high = torch.tensor(TREMBLE / 2).double(), torch.tensor(1 - TREMBLE / 2).double()
    wrong = high * (high / low).log() + low * (low / high).log()
    assert torch.allclose(figures.with_distance(record).curves[DRIFT], 0.75 * wrong)
    assert torch.allclose(wrong, kl(*(Categorical(torch.stack(x).log()) for x in ((low, high), (high, low)))))


def test_runs_are_steered_at_an_update_that_none_of_them_has_begun():
    runs = [WorkerRun(replace(JUMP, events=()), Limits()) for _ in range(2)]
    runs[1].asked = 3
    steer(runs, lambda settings, begun: replace(settings, events=(Event("jump", 100 * begun),)))
    assert [str(run.settings) for run in runs] == [str(replace(JUMP, events=(Event("jump", 300),)))] * 2


def test_an_update_takes_as_long_as_the_pace_says_and_a_pause_ends_the_wait():
    run = WorkerRun(replace(JUMP, updates=50))
    run.pace = 1000.0
    run.start()
    assert run.wait(300, moments=1)
    run.pause()
    assert run.wait(60) and run.moments == 1 and not run.line.busy
    run.step()
    assert run.wait(300) and run.moments == 2, "a step need not wait"
    run.stop()
    run.thread.join(300)


# ---- a session ---------------------------------------------------------------------------------------------------


def test_pressed_live_is_replayed_from_the_link(session, tmp_path):
    session.look()
    assert status(session) == NEW
    session.algorithm, session.updates = "rbocpd_ucrl2", 5
    session.step()
    rested(session).press("jump")
    session.step()
    rested(session).press("respond")
    session.train()
    look(session)
    assert session.events == "jump@100,respond@200" and status(session).startswith("Done: update 5 of 5, 500 steps per seed, 2 lanes.")
    other = MovingWorlds(**{name: getattr(session, name) for name in LINK})
    other.train()
    look(other)
    assert_same(session.shown.record(), other.shown.record())
    plain = replace(session.settings, events=()).begin()
    plain.start()
    assert plain.wait(300)
    assert not plain.record().curves["regret"].equal(session.shown.record().curves["regret"]), "the events make a difference"
    assert plain.record().curves["regret"][0].equal(session.shown.record().curves["regret"][0]), "but not before they happen"
    with zipfile.ZipFile(session.zipped()) as archive:
        archive.extractall(tmp_path)
    kept = store.load(tmp_path / "run")
    assert_same(kept, session.shown.record())
    assert kept.notes[-1] == "the world was steered: jump@100,respond@200"
    pictures = session.pictures()
    assert set(pictures) == {"regret", "gap", "drift", "belief", "floor"}
    heat, bars = pictures["belief"].data
    assert torch.allclose(torch.tensor(heat.z).T, kept.fields["belief"].amax(-1).mean(1)) and kept.fields["belief"].max() > 0
    assert torch.allclose(torch.tensor(bars.y).cumsum(0), kept.curves["restarts"].mean(1))
    other.close()


def test_two_methods_live_through_the_same_events(session):
    session.versus = "ucrl2"
    assert session.second.visible
    session.step()
    rested(session).press("drift")
    assert [str(run.settings).split()[-1] for run in session.runs.values()] == ["events=drift@100"] * 2
    session.train()
    look(session)
    alone = replace(session.settings, algorithm="ucrl2").begin()
    alone.start()
    assert alone.wait(300)
    assert_same(session.runs["B"].record(), alone.record())
    assert {name for name, card in session.cards.items() if card.visible} == {"regret", "gap", "drift", "floor", "floor B"}
    assert any(t.text == ("  B: ucrl2",) for t in session.panes["regret"].object.data)


def test_the_moment_is_one_for_all_pictures(session):
    session.press("jump")
    assert session.events == "jump@0", "before there is a run the world changes at its beginning"
    session.train()
    look(session)
    session.slider.value = 1
    look(session)
    assert session.moment == 1 and "at step 200 and the policy" in session.panes["floor"].object.layout.meta["alt"]
    for name in ("regret", "gap", "drift"):
        fig = session.panes[name].object
        assert [shape.x0 for shape in fig.layout.shapes] == [0, 200] and "jump" in [note.text for note in fig.layout.annotations]
        assert tuple(fig.layout.xaxis.range) == (0, 400)


def test_the_small_world_shows_what_is_best_and_what_was_learnt(session):
    session.train()
    look(session)
    record, world = session.shown.record(), session.settings.parts()[1]
    fig = session.panes["floor"].object
    stars, best = (next(t for t in fig.data if t.name == name) for name in ("goal", "best now"))
    goal = int(world.models.r[0].amax(-1).argmax())
    assert (stars.x[0], stars.y[0]) == (goal % 4, goal // 4)
    tied = record.fields["best"][-1, 0]
    assert len(best.x) == int(tied.sum()) - 4, "an arrow for every best action outside the goal"
    right = tied.gather(1, record.fields["policy"][-1, 0].argmax(-1, keepdim=True)).sum().item()
    assert f"In {right:.0f} of 12 states" in fig.layout.meta["alt"]


def test_a_run_that_is_over_is_begun_anew_and_cannot_be_steered(session):
    session.train()
    rested(session)
    first = session.shown
    session._guard(lambda: session.press("jump"))()
    look(session)
    assert status(session).startswith("This run is over; take more updates") and session.events == "" and session.shown is first
    session.forget()
    session.train()
    assert session.shown is not first and first.over


@pytest.mark.parametrize(
    "link, message",
    [
        ({"events": "leap@3"}, "The event 'leap@3' cannot be read; write it like 'jump@2000', the kind one of jump, drift"),
        ({"algorithm": "pop"}, "There is no method 'pop'"),
        ({"algorithm": "ppo"}, "There is no method 'ppo' for finite.steered; choose one of q_learning"),
        ({"versus": "pop"}, "There is no method 'pop'"),
        ({"knobs": "alpha=wide"}, "The knobs 'alpha=wide' cannot be read"),
        ({"knobs": "alpha=7"}, "alpha=7 is out of range"),
        ({"seeds": 0}, "1 to 64 seeds; got 0"),
    ],
)
def test_a_bad_link_is_told_in_a_sentence_and_nothing_is_lost(trained, link, message):
    session, kept = trained, trained.shown
    session.param.update(algorithm="q_learning", knobs="", versus="", events="", seeds=2)
    session.param.update(**link)
    session._guard(session.train)()
    said, bad = session.said
    assert bad and message in said and "\n" not in said and said.endswith(".")
    assert session.shown is kept and kept.moments == 4
    session.look()
    assert message in status(session).replace("&#x27;", "'")


def test_where_a_page_may_have_one_run_two_are_not_begun():
    page = MovingWorlds(limits=Limits(open=1), algorithm="q_learning", versus="ucrl2", seeds=1, updates=1)
    page._guard(page.train)()
    assert page.said == ("A page here may have 1 run that can go on; compare with nothing.", True) and not page.runs


def test_steered_methods_are_found():
    assert {"q_learning", "ucrl2", "rbocpd_ucrl2"} <= set(study.steered_methods())
