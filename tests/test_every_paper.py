"""What holds for every method of every family, found by discovery."""
import itertools
import json
from dataclasses import replace
from inspect import signature

import pytest
import torch

from labkit.claims import ledger
from labkit.course import syllabus
from labkit.errors import LabError
from labkit.lanes import Lanes
from labkit.paper import changed, slots
from labkit.stats import FEW
from labkit.store.parts import pack_learner, unpack_learner
from tests.methods import FAMILIES, METHODS, after, assert_same, every_method, everywhere, family, homes, lane, short, small


@every_method
def test_card_is_complete(key):
    method, chapters = METHODS[key], {int(c.number) for c in syllabus.load().chapters}
    paper = method.paper
    assert paper.key == key and key.isidentifier() and key == key.lower()
    assert all((paper.title, paper.claim, paper.lesson, paper.lost)) and 1900 < paper.year < 2100 and paper.url.startswith("https://")
    assert all(text.endswith(".") for text in (paper.claim, paper.lesson, paper.lost))
    assert not paper.base or paper.base in METHODS
    assert paper.chapter in chapters
    for name, knob in method.knobs.items():
        assert knob.low <= knob.default <= knob.high and knob.doc, name


@every_method
def test_a_paper_changes_few_slots_of_its_base(key):
    method = METHODS[key]
    if not method.paper.base:
        return
    base = METHODS[method.paper.base]
    assert slots(method).keys() == slots(base).keys()
    assert 1 <= len(changed(method, base)) <= 5


@every_method
def test_the_claim_has_a_check(key):
    check = ledger.check_of(key)
    assert check, f"write check(seeds) in {key}.py, or check_{key}(seeds) in its family's checks.py"
    seeds, settings = ledger.defaults(check)
    assert next(iter(signature(check).parameters)) == "seeds" and len(set(seeds)) >= FEW and check.__doc__
    assert json.loads(json.dumps(settings)) == settings  # or no entry of the ledger could equal them


@everywhere
def test_a_lane_is_the_same_alone_and_beside_any_neighbours(key, world):
    alone, beside, among = (lane(after(key, world, Lanes(seeds), 3)[-1], seeds.index(7)) for seeds in ((7,), (7, 1), (1, 2, 3, 7, 4)))
    assert_same(alone, beside)
    assert_same(alone, among)


@everywhere
def test_every_knob_acts_on_its_own_lane_alone_and_its_ends_stay_finite(key, world):
    for name, knob in METHODS[key].knobs.items():
        lanes = Lanes((0, 1), {name: (knob.low, knob.high)})
        last = after(key, world, lanes, 2)[-1]
        assert not last.learner.notes and bool(last.learner.on.all()), (name, last.learner.notes)
        assert all(t.isfinite().all() for t in last.learner.pack()[0].values() if t.is_floating_point()), name
        low = after(key, world, Lanes((1,), {name: (knob.low,)}), 2)[-1]  # a neighbour with the high end may take more steps
        assert_same(lane(low, 0), lane(last, 1))


@everywhere
def test_a_stored_learner_goes_on_bit_for_bit(key, world):
    lanes = Lanes((0, 1))
    run = after(key, world, lanes, 4)
    resumed = after(key, world, lanes, 2, start=unpack_learner(pack_learner(run[1].learner), lanes))[-1]
    assert resumed.step == run[3].step and resumed.learner.pack()[1] == run[3].learner.pack()[1]
    for i in range(2):
        assert_same(lane(resumed, i), lane(run[3], i))


@everywhere
def test_snapshots_are_copies(key, world):
    method = small(METHODS[key])
    run = method.run(short(world), Lanes((0,)))
    first = next(run)
    before = {name: t.clone() for name, t in lane(first, 0).items()}
    next(run)
    assert_same(before, lane(first, 0))


def sickened(method):
    """The method with a judgement that is NaN in lane 1."""
    name = FAMILIES[family(method)].judge
    piece = getattr(method, name)

    def judge(*args):
        out = piece(*args)
        for tensor in out if isinstance(out, tuple) else (out,):
            tensor[1] = torch.nan
        return out

    return replace(method, **{name: judge})


@everywhere
def test_a_sick_lane_is_stopped_and_named_and_its_neighbours_do_not_notice(key, world):
    lanes = Lanes((0, 1, 2))
    start = after(key, world, lanes, 1)[0].learner
    well = after(key, world, lanes, 2, start)[-1]
    ill = list(itertools.islice(sickened(small(METHODS[key])).run(short(world), lanes, start), 2))[-1]
    assert ill.learner.on[:, 0].tolist() == [True, False, True]
    assert len(ill.learner.notes) == 1 and ill.learner.notes[0].startswith("lane 1 (seed 1) stopped at step ")
    for i in (0, 2):
        assert_same(lane(well, i), lane(ill, i))


@every_method
def test_bad_input_gets_one_sentence(key):
    method, home = METHODS[key], FAMILIES[family(METHODS[key])]
    outside = [(name, value) for name, k in method.knobs.items() for value in (k.low - 1, k.high + 1, torch.nan)]
    trials = [(homes(key)[0], {"nonsense": (1.0,)}, "no knob 'nonsense'")]
    trials += [(homes(key)[0], {name: (value,)}, f"{name}=") for name, value in outside]
    trials += [(home.misfit, {}, home.misfit)] if home.misfit else []
    for world, grid, part in trials:
        with pytest.raises(LabError, match=part) as error:
            next(method.run(short(world), Lanes((0,), grid)))
        assert "\n" not in str(error.value) and str(error.value).endswith(".")
