"""Whatever a user can get wrong gets one sentence that names the thing, its value and the remedy; nothing is lost by it."""
import math
import re
from collections.abc import Callable
from dataclasses import replace
from functools import cache

import gymnasium
import pytest
import torch

from labkit import cli, divergence, files, stats, worlds
from labkit import knobs as words
from labkit.course import build, progress, syllabus
from labkit.errors import LabError
from labkit.lanes import Lanes
from labkit.meter import DriftMeter, States, evaluate, probe
from labkit.on_policy.family import Shape, ppo
from labkit.on_policy.recipes import tuned
from labkit.policy import Categorical, Gaussian
from labkit.record import Recorder, record
from labkit.studio import figures, study
from labkit.studio.explorer import Explorer
from labkit.studio.live import LiveRun
from labkit.studio.microscope_page import Microscope
from labkit.studio.moving_page import MovingWorlds
from labkit.studio.scrubber import Scrubber
from labkit.studio.session import Session
from labkit.studio.study import Settings
from labkit.studio.widgets import LiveView
from labkit.tabular.family import npg
from labkit.worlds import finite, from_gymnasium

TINY = replace(ppo, shape=Shape(envs=2, steps=8, width=8, minibatches=2))
CARTPOLE, CLIFF = worlds.make("control.cartpole"), worlds.make("finite.cliff")
TWO = torch.zeros(2, 4)  # two states of CartPole
NAN = math.nan


def first(algorithm, world, lanes=None, start=None):
    return next(algorithm.run(world, lanes or Lanes((0, 1)), start))


@cache
def snapshot():
    return first(TINY, CARTPOLE)


@cache
def cliff_record():
    return record(TINY, CLIFF, Lanes((0, 1)), 32, fields=figures.watch(CLIFF))


def knobs(**grid):
    return lambda: Lanes((0,), grid).knobs(ppo.knobs)


def start_in(key):
    return lambda: first(TINY, worlds.make(key), start=snapshot().learner)


def shaped(**sizes):
    return lambda: first(replace(ppo, shape=Shape(**sizes)), CARTPOLE)


def paid(reward):
    world = worlds.make("control.cartpole")
    step = world.step
    world.step = lambda *given: (*(out := step(*given))[:1], out[1] * reward, *out[2:])
    return world


def mdp(**parts):
    sound = {"P": torch.full((1, 2, 2, 2), 0.5), "r": torch.zeros(1, 2, 2), "mu": torch.full((1, 2), 0.5), "gamma": torch.tensor([0.9])}
    return lambda: finite.MDP(**{name: x.double() for name, x in (sound | parts).items()})


API: dict[str, tuple[Callable[[], object], str]] = {
    # seeds, knobs, devices, shapes
    "no seed": (lambda: Lanes(()), r"at least one seed.*\(\)"),
    "a seed twice": (lambda: Lanes((1, 1)), r"each once.*\(1, 1\)"),
    "seeds in words": (lambda: Lanes("ab"), r"whole numbers, such as range\(10\); got 'ab'"),
    "half a seed": (lambda: Lanes((0.5,)), r"whole numbers.*\(0\.5,\)"),
    "one number for seeds": (lambda: Lanes(5), "whole numbers.*got 5"),
    "a seed beyond 64 bits": (lambda: Lanes((2**80,)), "within 64 bits"),
    "an unknown device": (lambda: Lanes((0,), device="gpu"), "no device 'gpu' here; give 'cpu'"),
    "a knob that is one number": (knobs(eps=0.2), r"'eps' takes a list of numbers.*got 0\.2"),
    "a knob without values": (knobs(eps=()), r"'eps' takes a list of numbers.*got \(\)"),
    "a knob in words": (knobs(eps=("low",)), r"'eps' takes a list.*'low'"),
    "a knob that is nothing": (knobs(eps=(None,)), "'eps' takes a list.*None"),
    "a knob that is not a number": (knobs(eps=(NAN,)), "eps=nan is out of range; it goes from 0.02 to 1"),
    "an infinite knob": (knobs(eps=(math.inf,)), "eps=inf is out of range"),
    "a knob out of range": (knobs(eps=(9,)), "eps=9 is out of range; it goes from 0.02 to 1"),
    "an unknown knob": (knobs(epz=(0.1,)), "no knob 'epz' here; the knobs are lr, .*eps"),
    "no environment": (shaped(envs=0), "whole numbers from 1 up; got envs=0"),
    "no step": (shaped(steps=0), "got steps=0"),
    "a width in words": (shaped(width="wide"), "got width='wide'"),
    "more minibatches than steps": (shaped(envs=1, steps=2, minibatches=8), "1 x 2 steps cannot be cut into 8 minibatches; take fewer"),
    # what a method runs on, and from where
    "a world's name for a world": (lambda: first(TINY, "control.cartpole"), "needs a World, such as worlds.make.*control.cartpole"),
    "a number for lanes": (lambda: first(TINY, CARTPOLE, 3), r"needs Lanes, such as Lanes\(range\(10\)\); got 'int'"),
    "a snapshot for a learner": (lambda: first(TINY, CARTPOLE, start=snapshot()), "such as snapshot.learner; got 'Snapshot'"),
    "a start from other seeds": (lambda: first(TINY, CARTPOLE, Lanes((0, 2)), snapshot().learner), r"seeds \(0, 1\)"),
    "a start from more lanes": (lambda: first(TINY, CARTPOLE, Lanes((0, 1, 2)), snapshot().learner), "start it with as many, not 3"),
    "a start in another world": (start_in("control.acrobot"), "not trained here.*6 numbers to 3"),
    "a start with other actions": (start_in("control.pendulum"), "not trained here.*gaussian"),
    "a start from another family": (lambda: first(npg, CLIFF, start=snapshot().learner), "48 states and 4 actions"),
    "a reward that is no number": (lambda: first(TINY, paid(NAN)), r"control.cartpole gave a reward that is not finite to lane 0"),
    "an infinite reward": (lambda: first(TINY, paid(math.inf)), "not finite.*mend the world"),
    "planning without a model": (lambda: first(npg, CARTPOLE), "control.cartpole has no exact model; take a finite"),
    "an unknown recipe": (lambda: tuned(ppo, "finite.chain"), "no recipe for 'finite.chain'; there is one for control.cartpole"),
    # worlds
    "an unknown world": (lambda: worlds.make("grid.fourroom"), "no world 'grid.fourroom'; did you mean 'grid.fourrooms'"),
    "an unknown option of a world": (lambda: worlds.make("grid.fourrooms", sise=9), "no option 'sise'; it takes size, view"),
    "a world of no size": (lambda: worlds.make("grid.fourrooms", size=0), "odd size of at least 7; got size=0"),
    "a size in words": (lambda: worlds.make("grid.fourrooms", size="9"), "'grid.fourrooms' does not take these options"),
    "an unknown view": (lambda: worlds.make("grid.fourrooms", view="top"), "partial, full and state; got view='top'"),
    "a chain of nothing": (lambda: worlds.make("finite.chain", n=0), "n is 0; it must be at least 1"),
    "a discount above 1": (lambda: worlds.make("finite.chain", gamma=1.5), r"gamma is \[1\.5\]; a discount lies in \[0, 1\)"),
    "too many branches": (lambda: worlds.make("finite.garnet", branching=99), "branching is 99; it must lie between 1 and the 10 states"),
    "a lake that is not frozen": (lambda: worlds.make("finite.frozenlake", size=5), "size 5; sizes are 4, 8"),
    "an unknown Gymnasium environment": (lambda: from_gymnasium("CartPole-v9"), "no environment 'CartPole-v9'; did you mean 'CartPole-v1'"),
    "an unknown Gymnasium option": (lambda: from_gymnasium("CartPole-v1", foo=3), r"CartPole-v1.*options \{'foo': 3\}"),
    "an action out of the box": (lambda: gymnasium.make("DriftLab/control.cartpole").unwrapped.step(2), "whole actions 0 to 1; got"),
    "a model whose chances do not sum": (mdp(P=torch.ones(1, 2, 2, 2)), "state 0, action 0 sums to 2"),
    "a model whose reward is no number": (mdp(r=torch.full((1, 2, 2), NAN)), "reward of state 0, action 0.*nan"),
    "a model that begins nowhere": (mdp(mu=torch.zeros(1, 2)), "mu is not a distribution over the 2 states"),
    "a policy of another shape": (lambda: finite.values(CLIFF.mdp, torch.ones(1, 2, 2)), r"48, 4.*got \(1, 2, 2\)"),
    # drift
    "an unknown divergence": (lambda: DriftMeter(States(TWO), "klm"), "no divergence 'klm'; choose one of kl,"),
    "an unknown reference": (lambda: DriftMeter(States(TWO), "kl", "begin"), "no reference 'begin'; give 'start', 'previous' or a Learner"),
    "no state": (lambda: States(TWO[:0]), r"N at least 1; got shape \(0, 4\)"),
    "a state that is no number": (lambda: States(TWO * NAN), "finite numbers"),
    "weights that are no distribution": (lambda: States(TWO, torch.ones(2)), "sum to 1 over the 2 states"),
    "weights of other states": (lambda: States(TWO, torch.full((3,), 1 / 3)), r"2 states; got shape \(3,\)"),
    "states of another world": (lambda: DriftMeter(States(torch.zeros(2, 5)))(snapshot()), "sees 4 numbers; got observations of shape"),
    "a probe of nothing": (lambda: probe(CARTPOLE, snapshot().learner.rand, snapshot().learner.policy, 0), "at least 1 state; got n=0"),
    "no episode": (lambda: evaluate(CARTPOLE, snapshot().learner, 0), "at least 1 episode; got episodes=0"),
    "policies of two kinds": (lambda: divergence.kl(Categorical(TWO), Gaussian(TWO, TWO)), "got Categorical and Gaussian"),
    "policies of two shapes": (lambda: divergence.kl(Categorical(TWO), Categorical(TWO[:, :3])), r"\(\(2, 4\),\) and \(\(2, 3\),\)"),
    # records and numbers
    "a record of no step": (lambda: record(TINY, CARTPOLE, Lanes(), 0), "at least 1 step.*got steps=0"),
    "a record of every 0th": (lambda: record(TINY, CARTPOLE, Lanes(), 32, every=0), "every=0"),
    "an empty record": (lambda: Recorder(TINY, CARTPOLE, Lanes()).record(), "add at least one snapshot"),
    "an interval of NaN": (lambda: stats.iqm(torch.tensor([1.0, NAN])), "Seed number 1 is nan.*leave it out"),
    "an interval of nothing": (lambda: stats.iqm(torch.zeros(0)), r"seeds on the last axis; got shape \(0,\)"),
    # course
    "an unknown chapter": (lambda: syllabus.load()["77"], "no chapter '77'; chapters run from 00 to 48"),
    "a chapter without text": (lambda: build.sources(["77"]), "no chapter 77 in course/chapters; there are 00"),
    "an unknown exercise": (lambda: progress.check("03.99", 1), "no exercise '03.99'; known: 03.1"),
    "a hint to nothing": (lambda: progress.hint("99.1"), "no exercise '99.1'"),
    # figures, widgets, live runs
    "an unknown curve": (lambda: Scrubber(cliff_record(), curves=("fame",)), "no curve 'fame'; it has return"),
    "an unknown setting": (lambda: Scrubber(cliff_record(), curves=("return",), setting=7), "setting 7 is not in this record"),
    "a floor without floor": (lambda: figures.floor(CARTPOLE), "control.cartpole has no floor to draw on; take a grid"),
    "a floor that was not recorded": (
        lambda: Scrubber(record(TINY, CLIFF, Lanes(), 32), figures.floor(CLIFF), ("return",)), "lacks the field.*fields=watch"),
    "a slider for no knob": (lambda: LiveView(LiveRun(TINY, CARTPOLE, Lanes()), sliders=("beta",)), "ppo has no knob 'beta'; it has lr"),
    "a fork too early": (lambda: LiveView(LiveRun(TINY, CARTPOLE, Lanes())).fork(), "nothing to fork yet; press Train first"),
    "a live run of nothing": (lambda: LiveRun(TINY, CARTPOLE, Lanes(), updates=0), "at least 1 update.*updates=0"),
    "a live run of no time": (lambda: LiveRun(TINY, CARTPOLE, Lanes(), seconds=NAN), "some time.*seconds=nan"),
    "a fork from nowhere": (lambda: LiveRun(TINY, CARTPOLE, Lanes()).fork(3, {}), "moment 3 is not at hand; train first"),
    "settings in other words": (lambda: Settings.read("nonsense"), "'nonsense' does not describe a run; one looks like 'ppo"),
    "settings with words for numbers": (lambda: Settings.read("ppo control.cartpole seeds=many"), "seeds=many"),
    "knobs in other words": (lambda: words.read_knobs("eps=a"), "'eps=a' cannot be read; write them like"),
    "a drift from nowhere": (lambda: study.with_drift(cliff_record(), "begin", "kl", study.VISITED), "no 'begin'.*start, previous, end"),
}  # fmt: skip


def assert_one_sentence(text: str) -> None:
    """Capital or code first, one line, one full stop at the end, no trace of Python's own."""
    assert "\n" not in text and len(text) < 500, text
    assert text.endswith((".", "?")) and not re.search(r"Traceback|<[a-z_.]+ object at|0x[0-9a-f]{6}", text), text


@pytest.mark.parametrize("what", API)
def test_code(what):
    act, says = API[what]
    with pytest.raises(LabError, match=says) as error:
        act()
    assert_one_sentence(str(error.value))


CLI: dict[str, tuple[str, str]] = {
    "a chapter that is not there": ("build 97", "no chapter 97 in course/chapters; there are 00"),
    "a recording that is not there": ("build --recordings 99/nothing", "99/nothing"),
    "a claim of no paper": ("claims nobody", "no paper 'nobody'; `labkit papers` lists them"),
    "a claim on three seeds": ("claims ppo --seeds 3", "10 seeds or more, from 0 up; got 3"),
    "a claim on negative seeds": ("claims ppo --first -1", "from 0 up; got 20 from -1"),
    "a claim without a process": ("claims ppo --jobs 0", "--jobs 0, take 1 or more"),
    "a cluster that is no address": ("claims ppo --scheduler nowhere:x", "No Dask scheduler with a worker answers at 'nowhere:x'"),
    "a cluster that is not there": ("claims ppo --scheduler tcp://127.0.0.1:1", "No Dask scheduler with a worker answers at 'tcp://127.0.0.1:1'"),
    "training nothing": ("train", "needs a METHOD and a WORLD, such as"),
    "training an unknown method": ("train pop control.cartpole", "no method 'pop'"),
    "training in an unknown world": ("train ppo control.cartpol", "did you mean 'control.cartpole'"),
    "training without a model": ("train npg control.cartpole", "control.cartpole has no exact model"),
    "training with an unknown knob": ("train ppo control.cartpole --knobs epz=1", "no knob 'epz' here"),
    "training with a knob in words": ("train ppo control.cartpole --knobs eps=low", "'eps=low' cannot be read"),
    "training with a knob out of range": ("train ppo control.cartpole --knobs eps=9", "eps=9 is out of range"),
    "training with an unknown option": ("train ppo grid.empty --options sise=9", "no option 'sise'; it takes size"),
    "training with an unknown shape": ("train ppo control.cartpole --shape rooms=4", "shape rooms=4; it takes"),
    "training on no seed": ("train ppo control.cartpole --seeds 0", r"at least one seed.*\(\)"),
    "training for no step": ("train ppo control.cartpole --steps 0", "at least 1 step"),
    "training under a path": ("train ppo control.cartpole --name ../up", "'../up' cannot name a run"),
    "going on with nothing": ("train --resume nothing", "no run 'nothing'; begin one with `labkit train`"),
    "showing nothing": ("runs show nothing", "no run 'nothing'"),
    "comparing nothing": ("runs compare nothing", "no run 'nothing'"),
    "forking nothing": ("runs fork nothing", "no run 'nothing'"),
    "deleting nothing": ("runs delete nothing", "no run 'nothing'"),
    "deleting a path": ("runs delete ../../etc", "cannot name a run"),
    "exporting nothing": ("runs export nothing out.zip", "no run 'nothing'"),
    "importing what is not there": ("runs import gone.zip", "gone.zip"),
    "importing what is no zip": ("runs import {text}", "note.txt"),
    "a paper in no family": ("new nowhere x", "no family 'nowhere'; known: "),
    "a paper with a bad name": ("new on_policy Bad-Name", "'Bad-Name' cannot name a paper"),
    "progress from nowhere": ("progress --import gone.json", "gone.json cannot be read"),
    "progress from another file": ("progress --import {text}", "note.txt is not a progress file"),
    "progress into nowhere": ("progress --export no/such/folder/p.json", "cannot be written"),
    "serving others without a password": ("serve --no-show --address 0.0.0.0", "without a password; give one with --password-file"),
    "a password that is not there": ("serve --no-show --password-file gone", "password file gone cannot be read"),
    "a password of nothing": ("serve --no-show --password-file {empty}", "is empty; write the password into it"),
    "a class of nobody": ("serve --no-show --class 0", "1 to 200 seats; got 0"),
    "an address of another machine": ("serve --no-show --no-password --address 192.0.2.1 --port 5999", "192.0.2.1:5999 cannot be served"),
    "a port that is none": ("serve --no-show --port 99999", "no port 99999; take one from 0 to 65535"),
}  # fmt: skip


@pytest.mark.parametrize("what", CLI)
def test_command_line(what, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    text, empty = tmp_path / "note.txt", tmp_path / "empty.txt"
    text.write_text("a note")
    empty.write_text("\n")
    line, says = CLI[what]
    assert cli.main([word.format(text=text, empty=empty) for word in line.split()]) == 2
    out, err = capsys.readouterr()
    assert err.startswith("labkit: ") and re.search(says, err) and out == "", err
    assert_one_sentence(err.removeprefix("labkit: ").rstrip("\n"))
    assert text.read_text() == "a note" and sorted(tmp_path.iterdir()) == [empty, text]
    assert not (files.home() / "runs").exists() or not list((files.home() / "runs").iterdir())


Link = tuple[dict[str, object], str, str]  # what a link sets, what is pressed then, what is said
EXPLORER: dict[str, Link] = {
    "a link to no world": ({"world": "control.cartpol"}, "train", "did you mean 'control.cartpole'"),
    "a link to no method": ({"algorithm": "pop"}, "train", "no method 'pop'"),
    "a link with knobs in words": ({"algorithm": "ppo", "knobs": "eps=low"}, "train", "'eps=low' cannot be read"),
    "a link with a knob out of range": ({"algorithm": "ppo", "knobs": "eps=7"}, "train", "eps=7 is out of range"),
    "a link with no seed": ({"seeds": 0}, "train", "1 to 64 seeds; got 0"),
    "a link with too many seeds": ({"seeds": 10**9}, "train", "1 to 64 seeds; got 1000000000"),
    "a link with no update": ({"updates": 0}, "train", "at least 1 update"),
    "a link with too many updates": ({"updates": 10**9}, "train", "take fewer seeds, values or updates"),
    "a link to no divergence": ({"divergence": "klm"}, "pictures", "no 'klm' to measure drift with"),
    "a link to no reference": ({"reference": "begin"}, "pictures", "no 'begin' to measure drift with"),
    "a link to compare with nothing": ({"versus": "nonsense"}, "train_versus", "'nonsense' does not describe a run"),
}
MOVING: dict[str, Link] = {
    "a link to no method": ({"algorithm": "pop"}, "train", "no method 'pop'"),
    "a link to a method that plans": ({"algorithm": "policy_iteration"}, "train", "no method 'policy_iteration' for finite.steered"),
    "a link to an event that is none": ({"events": "leap@3"}, "train", "event 'leap@3' cannot be read"),
    "a link to an event at no time": ({"events": "jump@soon"}, "train", "event 'jump@soon' cannot be read"),
    "a link with knobs in words": ({"knobs": "alpha=low"}, "train", "'alpha=low' cannot be read"),
    "a link with a knob out of range": ({"knobs": "alpha=7"}, "train", "alpha=7 is out of range"),
    "a link to compare with no method": ({"versus": "pop"}, "train", "no method 'pop'"),
    "a link with a knob of B out of range": ({"versus": "q_learning", "versus_knobs": "alpha=7"}, "train", "alpha=7 is out of range"),
    "a link with no seed": ({"seeds": 0}, "train", "1 to 64 seeds; got 0"),
    "a link with no update": ({"updates": 0}, "train", "at least 1 update"),
    "a link with too many updates": ({"updates": 10**7}, "train", "take fewer seeds, values, updates or events"),
}
MICROSCOPE: dict[str, Link] = {
    "a link to no world": ({"world": "tokens.chian"}, "train", "no world of text 'tokens.chian'; choose one of tokens.chain"),
    "a link to a world without text": ({"world": "finite.cliff"}, "train", "no world of text 'finite.cliff'; choose one of"),
    "a link to no reader": ({"reads": "minds"}, "train", "cannot read 'minds'; choose one of nodes, text"),
    "a link to no method": ({"algorithm": "pop"}, "train", "no method 'pop'"),
    "a link to a method of another family": ({"algorithm": "ppo"}, "train", "no method 'ppo' for tokens.chain; choose one of"),
    "a link with knobs in words": ({"knobs": "beta=low"}, "train", "'beta=low' cannot be read"),
    "a link with a knob out of range": ({"knobs": "beta=7"}, "train", "beta=7 is out of range; it goes from 0 to"),
    "a link with no seed": ({"seeds": 0}, "train", "1 to 64 seeds; got 0"),
    "a link with no update": ({"updates": 0}, "train", "at least 1 update"),
    "a link with too many updates": ({"updates": 10**9}, "train", "take fewer seeds, values or updates"),
    "a link to no prompt": ({"prompt": 99}, "pictures_page", "no prompt 99; its prompts go from 0 to 15"),
    "a link to no colour": ({"colour": "mood"}, "pictures_page", "no 'mood' to be coloured by; choose one of probability"),
    "a link to tokens of nothing": ({"tokens": "few"}, "pictures", "tokens cannot be 'few'; choose one of batch, prompt"),
}
PAGES: dict[str, tuple[Callable[[], Session], dict[str, Link]]] = {
    "explorer": (lambda: Explorer(world="finite.cliff", algorithm="policy_iteration", seeds=2, updates=2), EXPLORER),
    "moving": (lambda: MovingWorlds(algorithm="q_learning", seeds=2, updates=2, speed=0), MOVING),
    "microscope": (lambda: Microscope(seeds=2, updates=2), MICROSCOPE),
}


@pytest.fixture(scope="module")
def trained():
    """From its name a page whose run is over, trained once."""
    made: dict[str, Session] = {}

    def page(name: str) -> Session:
        if name not in made:
            made[name] = PAGES[name][0]()
            made[name].train()
            assert made[name].shown.wait(300)
        return made[name]

    yield page
    for session in made.values():
        session.close()


@pytest.mark.parametrize(("name", "what"), [(name, what) for name, (_, links) in PAGES.items() for what in links])
def test_pages(trained, name, what):
    """A sentence on the page, and the run that was there is still there."""
    page, (link, press, says) = trained(name), PAGES[name][1][what]
    kept, held = page.shown, {name: getattr(page, name) for name in page.link}
    page.param.update(**link)
    page._guard(getattr(page, press))()
    (said, bad), shown = page.said, page.shown
    page.param.update(**held)
    assert bad and re.search(says, said), said
    assert_one_sentence(said)
    assert shown is kept and kept in page.runs.values() and kept.moments == 2
    assert not page.said[1], "what was right is right again"
