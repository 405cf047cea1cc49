"""The microscope without a browser: what is seen is the update that comes next, a link gives it again, and mistakes are told."""
import re
from dataclasses import replace

import pytest

from labkit.errors import LabError
from labkit.grpo.family import Grpo
from labkit.grpo.inside import inside
from labkit.paper import discover
from labkit.record import Record
from labkit.studio import figures, study
from labkit.studio.limits import Limits
from labkit.studio.microscope_page import LINK, NEW, Microscope
from labkit.studio.study import Settings
from tests.studio.looking import look

SET = {"algorithm": "dapo", "seeds": 2, "updates": 3}
DAPO = Settings("tokens.chain", "dapo", {}, 2, 3, reads="nodes")


@pytest.fixture(scope="module")
def trained():
    """A session whose run is over, and what it shows."""
    page = Microscope(**SET, knobs="eps_high=0.2,1")
    page.train()
    look(page)
    yield page
    page.close()


@pytest.fixture
def page(trained):
    """The same, as it was before a test looked around."""
    trained.param.update(**SET, knobs="eps_high=0.2,1", setting=-1, seed=0, moment=-1, prompt=-1, colour="probability", tokens="batch",
                         world="tokens.chain", reads="nodes")  # fmt: skip
    look(trained)
    return trained


def text(html):
    return re.sub("<[^>]*>", " ", re.sub("<style>.*</style>", "", html, flags=re.DOTALL))


# ---- runs --------------------------------------------------------------------------------------------------------


def test_settings_that_are_looked_into_can_be_written_and_read():
    assert str(DAPO) == "dapo tokens.chain seeds=2 updates=3 reads=nodes" and Settings.read(str(DAPO)) == DAPO
    method, world, _ = replace(DAPO, reads="text").parts()
    assert world.text and not DAPO.parts()[1].text and method.shape.updates == 1


def test_worlds_of_text_and_their_methods_are_found():
    assert {"tokens.chain", "web.form"} <= set(study.text_worlds()) and "finite.chain" not in study.text_worlds()
    assert study.reading_methods("tokens.chain", "nodes") == sorted(key for key, method in discover().items() if isinstance(method, Grpo))
    assert "grpo" in study.fitting("tokens.chain", 0) and "grpo" not in study.fitting("finite.cliff", 0)


@pytest.mark.parametrize(
    "settings, message",
    [
        (replace(DAPO, algorithm="ppo"), "no method 'ppo' for tokens.chain; choose one of"),
        (replace(DAPO, world="finite.chain"), "no world of text 'finite.chain'; choose one of tokens.chain"),
        (replace(DAPO, reads="minds"), "cannot read 'minds'; choose one of nodes, text"),
        (replace(DAPO, seeds=64, updates=200), "would keep .* MiB, more than 128; take fewer seeds, values or updates"),
    ],
)
def test_what_cannot_be_run_is_told(settings, message):
    with pytest.raises(LabError, match=message):
        settings.check()


def test_what_is_kept_of_an_update_is_not_underrated(trained):
    run, kept = trained.shown, trained.shown.record()
    size = sum(rows.nbytes for rows in kept.fields.values())
    assert run.moments * len(run.lanes) * run.settings._inside_bytes == pytest.approx(size, rel=0.1)


# ---- a session ---------------------------------------------------------------------------------------------------


def test_what_is_seen_is_the_update_that_comes_next(page):
    """Of the second setting and seed, at the first moment: as the method itself tells it."""
    page.param.update(setting=1, seed=1, moment=0, prompt=5, colour="weight")
    look(page)
    method, world, lanes = page.shown.settings.parts()
    snapshot = next(method.run(world, lanes))
    update = inside(method, world, snapshot.learner).take(3)
    assert page.group.object == figures.responses(world, update, 5, "weight").data and page.read.visible
    assert page.panes["mass"].object == figures.before_after(world, [update])
    assert page.panes["batch"].object == figures.groups(world, update, 5)
    assert page.when.object == "<p>After update 1</p>" and page.slider.value == 0
    assert [shape.x0 for name in ("return", "kl", "entropy") for shape in page.panes[name].object.layout.shapes] == [128] * 3


def test_numbers_of_the_update_are_told(page):
    update = page._update()
    counted = update.shown & update.real[..., None]
    assert f"learns from {int(counted.sum())} tokens of {int(update.real.sum())} responses" in page.story.object
    assert f"{int(update.clipped.sum())} clipped" in page.story.object and int(update.clipped.sum()) > 0
    assert f"{int(update.dropped.sum())} responses were dropped before it" in page.story.object and int(update.dropped.sum()) > 0


def test_a_prompt_is_opened_from_the_menu_or_the_picture(page):
    right = page._update().right[0]
    mixed = int((right.any(-1) & ~right.all(-1)).long().argmax())
    labels = {value: name for name, value in page.menus["prompt"].options.items()}
    assert labels[-1] == "the first with right and wrong" and len(labels) == 17
    assert f"▸ {labels[mixed].split(': ')[1].split(' =')[0]}" in page.panes["batch"].object.layout.yaxis.ticktext[mixed]
    page.panes["batch"].click_data = {"points": [{"x": 2, "y": 11}]}
    look(page)
    assert page.prompt == page.menus["prompt"].value == 11 and page.drawn[2][1] == 11
    asked = labels[11].split(": ")[1].split(" =")[0]
    assert " ".join(text(page.group.object).split()).startswith(asked)
    page.tokens = "prompt"
    look(page)
    assert page.panes["mass"].object == figures.before_after(page._world, [page._update()], 11)


def test_equal_links_give_equal_runs(page):
    other = Microscope(**{name: getattr(page, name) for name in LINK})
    other.train()
    look(other)
    mine, theirs = page.shown.record(), other.shown.record()
    assert isinstance(mine, Record) and mine.fields.keys() == theirs.fields.keys()
    assert all(rows.equal(theirs.fields[name]) for name, rows in mine.fields.items())
    assert other.group.object == page.group.object
    other.close()


def test_a_transformer_is_trained_and_looked_into():
    page = Microscope(reads="text", seeds=1, updates=1)
    page.look()
    assert NEW in page.status.object and not page.read.visible
    page.step()
    look(page)
    assert page.shown.world.text and page.shown.moments == 1 and "learns from" in page.story.object
    page.close()


def test_downloads_hold_what_was_seen(page):
    assert page.read_group() in page.pictures_page().getvalue()
    assert page.zipped().getvalue()[:2] == b"PK"


@pytest.mark.parametrize(
    "link, message",
    [
        ({"colour": "mood"}, "'mood'.*choose one of probability"),
        ({"tokens": "few"}, "The tokens cannot be 'few'; choose one of batch, prompt"),
        ({"prompt": 99}, "no prompt 99; its prompts go from 0 to 15"),
    ],
)
def test_what_cannot_be_shown_is_told(page, link, message):
    page.param.update(**link)
    page.look()
    while page.drawing:
        page.look()
    page.look()
    assert re.search(message, page.said[0]) and page.said[1]


def test_a_new_run_takes_the_place_of_the_old_one():
    page = Microscope(**SET | {"updates": 200}, limits=Limits(open=1))
    page.train()
    first = page.shown
    assert first.wait(300, moments=1)
    page.seeds = 1
    page.step()
    assert page.shown is not first and first.state == "stopped" and [*page.runs] == [str(page.settings)]
    page.close()
