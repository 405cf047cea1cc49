"""The Drift Explorer without a browser: runs in words, drift from a record, the session that a page shows."""
import io
import re
import zipfile
from dataclasses import replace

import pytest
import torch

from labkit import store, worlds
from labkit.divergence import DIVERGENCES
from labkit.errors import LabError
from labkit.lanes import Knob
from labkit.meter import DriftMeter, States
from labkit.on_policy.family import ppo
from labkit.paper import discover
from labkit.record import record
from labkit.studio import gallery, serve, study
from labkit.studio.explorer import LINK, NEW, Explorer
from labkit.studio.gallery import Gallery, View
from labkit.studio.study import EVERYWHERE, PROBED, VISITED, Settings, with_drift
from tests.studio.looking import look

CLIFF = Settings("finite.cliff", "policy_iteration", {}, 2, 3)


def done(settings):
    run = settings.begin()
    run.start()
    assert run.wait(60) and run.state == "done", run.error
    return run


# ---- runs in words -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "settings, text",
    [
        (Settings(), "ppo control.cartpole seeds=5 updates=60"),
        (Settings("grid.empty", "a2c", {"lr": (0.001, 0.01)}, 2, 9, -1), "a2c grid.empty seeds=2 updates=9 layout=-1 lr=0.001,0.01"),
    ],
)
def test_settings_can_be_written_and_read(settings, text):
    assert str(settings) == text and Settings.read(text) == settings


@pytest.mark.parametrize("text", ["", "ppo", "ppo control.cartpole seeds=many", "ppo control.cartpole eps"])
def test_what_is_no_run_is_told(text):
    with pytest.raises(LabError, match="does not describe a run"):
        Settings.read(text)


@pytest.mark.parametrize(
    "settings, message",
    [
        (Settings(seeds=65), "1 to 64 seeds; got 65"),
        (Settings(algorithm="pop"), "no method 'pop' for control.cartpole; choose one of a2c"),
        (Settings(algorithm="policy_iteration"), "no method 'policy_iteration' for control.cartpole"),
        (Settings(world="control.cartpol"), "did you mean 'control.cartpole'"),
        (Settings(knobs={"eps": (7.0,)}), "eps=7 is out of range"),
        (Settings("grid.fourrooms", seeds=64, updates=2000), "would keep 4046 MiB, more than 128"),
    ],
)
def test_what_cannot_be_run_is_told(settings, message):
    with pytest.raises(LabError, match=message):
        settings.begin()


def test_the_size_of_fields_is_known_before_the_run():
    for key in ("control.cartpole", "control.pendulum", "finite.cliff", "grid.empty"):
        settings = Settings(key, "ppo", {}, 2, 1)
        fields = done(settings).record().fields.values()
        assert study.field_bytes(key, 0) * 2 == sum(f.nbytes for f in fields)


def test_methods_fit_worlds_that_have_what_they_need():
    everywhere = set(study.fitting("control.pendulum", 0))
    assert {"ppo", "reinforce"} <= everywhere and "policy_iteration" not in everywhere
    assert everywhere < set(study.fitting("finite.chain", 0)) <= set(discover())


def test_equal_settings_give_equal_runs():
    settings = Settings("finite.cliff", "ppo", {"eps": (0.1, 0.4)}, 2, 2)
    one, two = done(settings), done(Settings.read(str(settings)))
    assert one.learners[1].nets["pi"].theta.equal(two.learners[1].nets["pi"].theta) and len(one.lanes) == 4


@pytest.mark.parametrize(
    "knob, some",
    [
        (Knob(4, 1, 16, ""), list(range(1, 17))),
        (Knob(0.2, 0.02, 1.0, ""), [0.02, 0.025, 0.03, 0.1, 0.2, 0.25, 1.0]),
        (Knob(0.95, 0.0, 1.0, ""), [0.0, 0.02, 0.5, 0.95, 1.0]),
        (Knob(0.003, 0.0001, 0.03, ""), [0.0001, 0.00012, 0.001, 0.003, 0.03]),
    ],
)
def test_notches_are_round_and_hold_ends_and_default(knob, some):
    places = study.notches(knob)
    assert set(some) <= set(places) and places == sorted(set(places)) and len(places) <= 60
    assert (places[0], places[-1]) == (knob.low, knob.high)


# ---- drift -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("divergence", DIVERGENCES)
@pytest.mark.parametrize("reference", ["start", "previous"])
def test_drift_from_a_record_is_what_a_meter_reads(divergence, reference):
    world = worlds.make("finite.cliff")
    meter = DriftMeter(States(torch.eye(world.obs_size)), divergence, reference)
    kept = record(ppo, world, study.Lanes((0, 1)), 3072, meters={"drift": meter}, fields=study.watched("finite.cliff", 0))
    drifted, name = with_drift(kept, reference, divergence, EVERYWHERE)
    assert name == f"{divergence} from {reference}" and drifted.curves[name].shape == (3, 2)
    assert torch.allclose(drifted.curves[name], kept.curves["drift"], rtol=2e-3, atol=1e-6)
    where = kept.fields["occupancy"]
    past = kept.fields["policy"][[0, 0, 1] if reference == "previous" else [0, 0, 0]]
    now = kept.fields["policy"]
    kl = (past * (past / now).log()).sum(-1)
    visited = with_drift(kept, reference, "kl", VISITED)[0].curves[f"kl from {reference}"]
    assert torch.allclose(visited, (kl * where).sum(-1) / where.sum(-1), rtol=1e-3, atol=1e-6)
    halved = replace(kept, fields=kept.fields | {"occupancy": where / 2})  # an episode that ends leaves less than 1
    assert torch.allclose(visited, with_drift(halved, reference, "kl", VISITED)[0].curves[f"kl from {reference}"])


@pytest.mark.parametrize("key", ["control.cartpole", "control.pendulum"])
def test_drift_over_probed_states(key):
    world, fields = worlds.make(key), study.watched(key, 0)
    kept = record(ppo, world, study.Lanes((0, 1)), 2048, fields=fields | {"obs": lambda s: torch.zeros(2, 1)})
    start, end = (with_drift(kept, reference, "kl", PROBED)[0].curves[f"kl from {reference}"] for reference in ("start", "end"))
    assert study.state_choices(key, 0) == [PROBED]
    assert torch.stack([start[0], end[1]]).abs().max() < 1e-7 < torch.stack([start[1], end[0]]).min()


def test_an_unknown_triple_is_told():
    kept = done(CLIFF).record()
    with pytest.raises(LabError, match="no 'future' to measure drift with; choose one of start, previous, end"):
        with_drift(kept, "future", "kl", VISITED)
    with pytest.raises(LabError, match="no 'distance' to measure drift with; choose one of kl"):
        with_drift(kept, "start", "distance", VISITED)


# ---- figures -----------------------------------------------------------------------------------------------------


def test_pictures_follow_the_moment_and_lay_a_second_run_over_the_first():
    settings = Settings("finite.cliff", "ppo", {"eps": (0.1, 0.4)}, 2, 4)
    one, two, drawn = done(settings), done(CLIFF), Gallery()
    late, early = (drawn.pictures((settings, one), View(moment=m)) for m in (-1, 1))
    assert set(late) == {"return", "drift", "frontier", "floor"}
    assert late["drift"].layout.shapes[0].x0 == 4096 and early["drift"].layout.shapes[0].x0 == 2048
    assert len(late["drift"].layout.shapes) == 1, "kept figures must not gather marks"
    assert "step 2048" in early["floor"].layout.meta["alt"] and "step 4096" in late["floor"].layout.meta["alt"]
    both = drawn.pictures((settings, one), View(setting=1), (CLIFF, two))
    assert set(both) - set(late) == {"floor B"}
    extra = both["return"].data[len(drawn.pictures((settings, one), View(setting=1))["return"].data) :]
    assert [t.text for t in extra if t.text] == [("  B: policy_iteration",)]
    theirs = next(t for t in extra if t.mode == "lines" and t.line.width > 2)
    assert torch.allclose(torch.tensor(theirs.y), two.record().curves["return"].mean(1).float()), "both seeds of an exact method agree"


def test_a_figure_that_cannot_be_drawn_says_why():
    def fails():
        raise LabError("There is no light.")

    fig = gallery.plain(fails)
    assert fig.layout.annotations[0].text == "There is no light." == fig.layout.meta["alt"]


# ---- a session ---------------------------------------------------------------------------------------------------


@pytest.fixture
def session():
    explorer = Explorer(world="finite.cliff", algorithm="policy_iteration", seeds=2, updates=3)
    yield explorer
    explorer.close()


def status(explorer):
    return re.sub("<[^>]*>", "", explorer.status.object)


def test_training_is_shown(session):
    session.look()
    assert status(session) == NEW and not session.panes["return"].object
    session.train()
    look(session)
    assert status(session) == "Done: update 3 of 3, 3 steps per seed, 2 lanes."
    assert session.moment == -1, "it follows the run"
    assert 3 in [len(t.y) for t in session.panes["return"].object.data if t.mode == "lines"]
    assert session.slider.end == 2 == session.slider.value
    assert session.notes["return"].object.startswith("<p class=soft>Return of policy_iteration in finite.cliff")


def test_scrubbing_redraws(session):
    session.train()
    look(session)
    session.slider.value = 1
    look(session)
    assert session.moment == 1 and session.panes["drift"].object.layout.shapes[0].x0 == 2
    session.slider.value = 2
    assert session.moment == -1, "at the end it follows the run"


def test_step_and_pause(session):
    session.train()
    look(session)
    session.updates = 50
    session.step()
    assert session.shown.wait(120) and session.shown.moments == 1
    look(session)
    assert (session.slider.value, session.moment) == (0, -1), "moved by the run, it still follows the run"
    session.train()
    session.pause()
    assert session.shown.wait(120) and session.shown.state == "paused" and session.shown.moments < 50
    session.stop()
    look(session)
    assert status(session).startswith("Stopped: update ")


def test_each_world_offers_its_methods_and_each_method_its_knobs(session):
    session.world = "control.cartpole"
    assert session.algorithm == "ppo" and "policy_iteration" not in session.menus["algorithm"].options
    assert session.states == PROBED and [row[0][0].name for row in session.knob_boxes["knobs"]] == list(reversed(ppo.knobs))
    assert not session.menus["layout"].visible
    session.world = "grid.empty"
    assert session.menus["layout"].visible and session.states == VISITED


def test_a_knob_has_a_slider_and_a_field_for_several_values(session):
    session.world = "control.cartpole"
    slider, field = next(row[0] for row in session.knob_boxes["knobs"] if row[0][0].name == "eps")
    slider.value = 0.3
    assert field.value == "0.3" and session.knobs == "eps=0.3"
    field.value = "0.1, 0.3"
    assert session.settings.knobs == {"eps": (0.1, 0.3)}
    slider.value = 0.5
    assert field.value == "0.1, 0.5" and session.knobs == "eps=0.1,0.5"
    field.value = "0.2"
    assert session.knobs == "", "the default need not be said"
    field.value = "wide"
    assert "cannot be read" in status(session)
    session.knobs = "eps=0.4"
    assert next(row[0] for row in session.knob_boxes["knobs"] if row[0][0].name == "eps")[0].value == 0.4
    session.algorithm = "a2c"
    assert session.knobs == "", "a2c has no eps"


def test_runs_are_kept_and_compared(session):
    session.train()
    look(session)
    first, text = session.shown, str(session.settings)
    session.updates = 2
    session.train()
    session.versus = text
    look(session)
    assert session.shown is not first and session.cards["floor B"].visible
    assert any(t.text == ("  B: policy_iteration",) for t in session.panes["return"].object.data)
    session.updates = 3
    assert session.shown is first, "the run of these settings is at hand"


def test_a_link_restores_the_view(session):
    asked = {"moment": 1, "reference": "end", "versus": "a2c finite.cliff seeds=2 updates=2"}
    link = {name: getattr(session, name) for name in LINK} | asked
    other = Explorer(**link)
    assert {name: getattr(other, name) for name in LINK} == link
    other.look()
    assert other.again.visible
    other.train_versus()
    other.train()
    look(other)
    other.runs[link["versus"]].wait(120)
    look(other)
    assert not other.again.visible and other.gallery and other.drawn[1] is other.runs[link["versus"]]
    other.close()


@pytest.mark.parametrize(
    "link, message",
    [
        ({"world": "grid.nowhere"}, "There is no world 'grid.nowhere'"),
        ({"algorithm": "pop"}, ""),
        ({"knobs": "eps"}, "The knobs 'eps' cannot be read"),
        ({"seeds": 0}, "1 to 64 seeds; got 0"),
    ],
)
def test_a_bad_link_is_told_in_a_sentence(link, message):
    explorer = Explorer(**link)
    explorer._guard(explorer.train)()
    assert message in status(explorer).replace("&#x27;", "'")
    explorer.close()


def test_whole_numbers_survive_a_link():
    moment = Explorer.param["moment"]
    assert [moment.serialize(v) for v in (-1, 3)] == ["none", "3"] and [moment.deserialize(v) for v in ("none", 3)] == [-1, 3]


def test_the_run_can_be_downloaded(session, tmp_path):
    with pytest.raises(LabError, match="press Train first"):
        session.zipped()
    session.train()
    look(session)
    with zipfile.ZipFile(session.zipped()) as archive:
        archive.extractall(tmp_path)
    loaded, kept = store.load(tmp_path / "run"), session.shown.record()
    assert loaded.curves["return"].equal(kept.curves["return"]) and loaded.fields["policy"].equal(kept.fields["policy"])


def test_the_pictures_can_be_downloaded_as_one_page(session):
    session.train()
    look(session)
    page = session.pictures_page()
    assert isinstance(page, io.StringIO)
    words = page.read()
    assert words.count("Plotly.newPlot") == 4 and "policy_iteration finite.cliff seeds=2 updates=3" in words
    assert not re.search(r"<script[^>]+src=", words), "it needs nothing else"


def test_a_taken_port_is_told():
    import socket

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(LabError, match=f"127.0.0.1:{port} is taken; choose another with --port"):
            serve.main(port=port, address="127.0.0.1", show=False)
