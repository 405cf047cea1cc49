"""Runs on disk: what goes in comes out, one writes and others read, forks, deletions, comparisons."""
import json
import os
import subprocess
import sys
from dataclasses import replace
from itertools import islice

import pyarrow.parquet as pq
import pytest
import torch

from labkit import store, worlds
from labkit.errors import LabError
from labkit.grpo.family import grpo
from labkit.lanes import Lanes
from labkit.on_policy.family import ppo
from labkit.record import Record, record
from labkit.store import folder as disk
from labkit.studio.figures import learning_curve
from tests.methods import assert_same
from tests.store.conftest import LANES, TINY, UPDATE

WORLD = worlds.make("control.cartpole")


def everything(learner):
    return learner.pack()[0] | {"plain": torch.tensor(list(json.dumps(learner.pack()[1]).encode()))}


def test_a_run_gives_back_what_was_trained(folder):
    run, plain = store.find("first"), list(islice(TINY.run(WORLD, LANES), 12))
    assert (run.updates, run.step, run.goal, run.kept, run.damage) == (12, 12 * UPDATE, 12 * UPDATE, [3, 6, 9, 12], "")
    for update in run.kept:
        assert_same(everything(run.learner(update)), everything(plain[update - 1].learner))
    assert_same(everything(run.learner()), everything(plain[-1].learner))
    made = run.record()
    assert made.steps.tolist() == [s.step for s in plain] and made.lanes == LANES and (made.algorithm, made.world) == ("ppo", WORLD.key)
    assert_same(made.curves, {name: torch.stack([s.metrics[name] for s in plain]) for name in plain[0].metrics})


def test_a_person_and_any_tool_can_read_it(folder):
    meta = json.loads((folder / "meta.json").read_text())
    assert (meta["algorithm"], meta["world"], meta["seeds"], meta["grid"]) == ("ppo", "control.cartpole", [0, 1], {"eps": [0.1, 0.3]})
    assert meta["training"]["shape"]["envs"] == 4 and meta["training"]["knobs"]["lr"] == ppo.knobs["lr"].default
    table = pq.read_table(folder / "metrics-00000003.parquet").to_pydict()
    assert table["step"] == [s for t in (1, 2, 3) for s in [t * UPDATE] * 4] and table["lane"] == [0, 1, 2, 3] * 3 and "return" in table


def test_a_resumed_run_equals_the_uninterrupted_one(folder, original):
    with store.begin(TINY, "control.cartpole", LANES, steps=12 * UPDATE, every=3, name="halves") as run:
        for snapshot in store.train(run):
            if snapshot.step == 7 * UPDATE:  # one update after the last stored learner
                break
    with store.find("halves", write=True) as run:
        assert run.updates == 6
        assert [s.step // UPDATE for s in store.train(run)] == list(range(7, 13))
        assert list(store.train(run)) == []
    assert_same(everything(run.learner()), everything(store.find("first").learner()))
    assert_same(run.record().curves, store.find("first").record().curves)
    names = [p.name for p in original.iterdir() if p.suffix in (".parquet", ".safetensors")]
    assert all((run.folder / name).read_bytes() == (original / name).read_bytes() for name in names)


def test_flushing_keeps_the_updates_since_the_last_learner():
    with store.begin(TINY, "control.cartpole", LANES, steps=9 * UPDATE, every=4) as run:
        assert run.name == "cartpole-ppo-1"
        for _ in islice(store.train(run), 6):
            pass
        run.flush()
        run.flush()
    run = store.find("cartpole-ppo-1")
    assert run.kept == [4, 6] and len(run.record().steps) == 6
    with store.find(run.name, write=True) as run:
        assert [s.step // UPDATE for s in store.train(run)] == [7, 8, 9] and run.kept == [4, 6, 8, 9]


def test_a_run_keeps_about_as_many_learners_as_it_should():
    with store.begin(TINY, "control.cartpole", Lanes(), steps=1000 * UPDATE) as run:
        assert run.meta["training"]["every"] == 16  # 1000 / 64, rounded up


def test_all_that_decides_a_run_is_in_its_folder(tmp_path):
    tuned = replace(ppo, knobs=ppo.knobs | {"lr": replace(ppo.knobs["lr"], default=0.02)}, shape=replace(TINY.shape, width=6))
    with store.begin(tuned, "grid.empty", Lanes((3,)), UPDATE, {"layout_seed": 2, "view": "state"}, every=1) as run:
        one = next(iter(store.train(run)))
    again = store.find(run.name)
    assert again.algorithm().knobs["lr"].default == 0.02 and again.algorithm().shape == tuned.shape
    assert again.world().obs_size == worlds.make("grid.empty", layout_seed=2, view="state").obs_size
    start = tuned.run(worlds.make("grid.empty", layout_seed=2, view="state"), Lanes((3,)), one.learner)
    assert_same(everything(next(again.snapshots()).learner), everything(next(start).learner))


def test_a_shape_may_hold_a_share():
    """As grpo's does: the level at which its warm start ends."""
    small = store.shaped(grpo, {"warm": 0.25, "prompts": 2, "group": 2, "width": 4})
    with store.begin(small, "tokens.chain", Lanes((0,)), 4, name="writing") as run:
        for _ in store.train(run):
            pass
    assert store.find("writing").algorithm().shape == small.shape and small.shape.warm == 0.25
    assert store.shaped(grpo, {"warm": 0}).shape.warm == 0
    for shape, says in (({"group": 2.5}, "group=2.5; it takes whole numbers of 1 or more for prompts, .*, and a number for warm"),
                        ({"warm": "half"}, "warm=half"), ({"warm": 1.5}, "got warm=1.5")):  # fmt: skip
        with pytest.raises(LabError, match=says):
            store.shaped(grpo, shape)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"algorithm": replace(TINY, surrogate=lambda ratio, adv, k: ratio)}, "'ppo' has slots of its own: surrogate"),
        ({"algorithm": replace(TINY, paper=replace(ppo.paper, key="mine"))}, "there is no 'mine'"),
        ({"steps": 0}, "at least 1 step"),
        ({"every": -1}, "every=-1"),
        ({"world": "control.cartpol"}, "did you mean 'control.cartpole'"),
        ({"options": {"colour": 3}}, "options|option"),
        ({"lanes": Lanes((0,), {"nonsense": (1,)})}, "no knob 'nonsense'"),
        ({"name": "../escape"}, "cannot name a run"),
        ({"name": "UPPER"}, "cannot name a run"),
        ({"name": ""}, "cannot name a run"),
    ],
)
def test_what_cannot_be_begun_is_told_and_leaves_nothing(change, says):
    given = {"algorithm": TINY, "world": "control.cartpole", "lanes": Lanes(), "steps": 100} | change
    with pytest.raises(LabError, match=says) as error:
        store.begin(**given)
    assert str(error.value).endswith((".", "?")) and "\n" not in str(error.value) and not store.root().exists()


def test_a_name_is_given_once(folder):
    before = (folder / "meta.json").read_bytes()
    with pytest.raises(LabError, match="is in use; choose another name"):
        store.begin(TINY, "control.cartpole", Lanes(), 100, name="first")
    (store.root() / "notes").mkdir()
    (store.root() / "notes" / "mine.txt").write_text("keep me")
    with pytest.raises(LabError, match="is in use; choose another name"):
        store.begin(TINY, "control.cartpole", Lanes(), 100, name="notes")
    assert (folder / "meta.json").read_bytes() == before and len(store.find("first").entries) == 4
    assert (store.root() / "notes" / "mine.txt").read_text() == "keep me"


def test_what_is_not_there_is_told(folder):
    with pytest.raises(LabError, match="no run 'second'; there are first"):
        store.find("second")
    with pytest.raises(LabError, match="keeps no learner of update 4; it keeps those of updates 3, 6, 9, 12"):
        store.find("first").learner(4)
    with pytest.raises(LabError, match="is no run of Drift Lab; `labkit runs` lists"):
        store.load(store.root())
    assert not (store.root() / "second").exists()


# ---- one writes, others read -------------------------------------------------------------------------------------


def test_the_second_writer_is_told_who_holds_the_run_and_reads_it(folder):
    with store.find("first", write=True) as one:
        two = store.find("first", write=True)
        assert f"Run first is held by process {os.getpid()} since 20" in two.denied
        assert two.denied.endswith("UTC; until that one ends it can only be read.")
        snapshot = next(two.snapshots())
        with pytest.raises(LabError, match="is held by process"):
            two.append(snapshot)
        assert len(two.record().steps) == 12 and not one.denied
        with pytest.raises(LabError, match="is held by process"):
            store.delete("first")
    with store.find("first", write=True) as three:
        assert not three.denied
    with pytest.raises(LabError, match="was closed; open it again"):
        three.append(snapshot)
    with pytest.raises(LabError, match="open for reading only"):
        store.find("first").append(snapshot)


def test_a_dead_process_holds_nothing(folder):
    code = "import os; from labkit.store import find; r = find('first', write=True); print(r.denied, flush=True); os.kill(os.getpid(), 9)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (-9, "\n"), done.stderr
    assert (folder / disk.HOLDER).exists()
    with store.find("first", write=True) as run:
        assert not run.denied and str(os.getpid()) in disk.holder(folder)
    assert not (folder / disk.HOLDER).exists()


@pytest.mark.parametrize("told", [b"", b"[]", b'{"pid": "x", "since": "y"}', b'{"pid": 1}', b"\xff" * 99, b"{" * 5000])
def test_a_holder_that_cannot_be_read_is_another_process(folder, told):
    (folder / disk.HOLDER).write_bytes(told)
    assert disk.holder(folder) == "another process"


# ---- forks, deletions, records -----------------------------------------------------------------------------------


def test_a_fork_goes_on_from_a_stored_learner_with_other_knobs(folder):
    with store.fork("first", update=6, grid={"eps": (0.2, 0.4)}, steps=9 * UPDATE) as run:
        assert (run.name, run.step, run.goal) == ("first-fork-1", 6 * UPDATE, 9 * UPDATE)
        parent = store.find("first").entries[1]
        assert run.meta["parent"] == {"run": "first", "update": 6, "step": 6 * UPDATE, "check": parent.check}
        last = list(store.train(run))[-1]
    start = store.find("first").learner(6).fork(Lanes((0, 1), {"eps": (0.2, 0.4)}))
    plain = list(islice(TINY.run(WORLD, start.lanes, start), 3))[-1]
    assert_same(everything(store.find("first-fork-1").learner()), everything(plain.learner))
    assert last.step == plain.step and len(store.find("first-fork-1").record().steps) == 3
    with store.fork("first", "wide", grid={"eps": (0.1, 0.2, 0.3)}, setting=1) as wide:
        assert len(wide.lanes) == 6 and wide.step == 12 * UPDATE


def test_what_cannot_be_forked_is_told_and_leaves_nothing(folder):
    for options, says in [
        ({"grid": {"eps": (0.1,)}}, "say from which `setting`"),
        ({"grid": {"eps": (0.1, 7.0)}}, "eps=7"),
        ({"grid": {"nonsense": (0.1, 0.2)}}, "no knob 'nonsense'"),
        ({"update": 5}, "no learner of update 5"),
        ({"new": "first"}, "is in use"),
    ]:
        with pytest.raises(LabError, match=says):
            store.fork("first", **options)
    store.save(store.find("first").record(), store.root() / "saved")
    with pytest.raises(LabError, match="keeps no learner"):
        store.fork("saved")
    with pytest.raises(LabError, match="is a saved record"):
        next(store.find("saved").snapshots())
    assert store.names() == ["first", "saved"]


def test_deleting_leaves_nothing_but_what_is_not_of_the_run(folder):
    store.delete("first")
    assert not folder.exists()
    with pytest.raises(LabError, match="no run 'first'; begin one"):
        store.delete("first")


def test_deleting_keeps_the_users_own_files(folder):
    (folder / "notes.txt").write_text("mine")
    store.delete("first")
    assert [p.name for p in folder.iterdir()] == ["notes.txt"] and store.names() == []


def test_a_record_comes_back_whole(tmp_path):
    made = record(TINY, WORLD, LANES, 96, fields={"theta": lambda s: s.learner.nets["pi"].theta})
    made = replace(made, curves=made.curves | {"wide": torch.arange(12).view(3, 4).double() / 3}, notes=("lane 1 stopped",))
    back = store.load(store.save(made, tmp_path / "r"))
    assert isinstance(back, Record) and (back.lanes, back.notes, back.algorithm, back.world) == (made.lanes, made.notes, "ppo", WORLD.key)
    assert_same(back.curves | back.fields | {"steps": back.steps}, made.curves | made.fields | {"steps": made.steps})
    assert back.curves["wide"].dtype == torch.float64
    with pytest.raises(LabError, match="is in use"):
        store.save(made, tmp_path / "r")
    with pytest.raises(LabError, match="metric called 'step'"):
        store.save(replace(made, curves={"step": made.curves["wide"]}), tmp_path / "s")


def test_records_are_laid_on_one_axis():
    steps = (torch.tensor([0, 10, 20, 30]), torch.tensor([5, 15, 25, 35]), torch.tensor([8, 16, 24, 28, 30]))
    a, b, c = (Record("ppo", "w", Lanes((0, 1)), s, {"x": torch.stack([2.0 * s, s.float() ** 0], 1)}) for s in steps)
    a.curves["x"][0] = torch.nan
    out = store.aligned([a, b, c])
    assert [r.steps.tolist() for r in out] == [[15, 25]] * 3
    for r in out:
        assert r.curves["x"].tolist() == [[30, 1], [50, 1]]
    late = replace(a, steps=a.steps + 100)
    with pytest.raises(LabError, match=r"no step in common \(ppo in w from 0 to 30; ppo in w from 100 to 130\)"):
        store.aligned([a, late])


def test_runs_of_other_seeds_and_lengths_are_compared_in_the_figures_that_there_are(folder):
    with store.begin(TINY, "control.cartpole", Lanes(range(10)), 8 * UPDATE, every=8, name="short") as run:
        list(store.train(run))
    found = store.compare(["first", "short"])
    assert [len(r.lanes) for r in found.values()] == [4, 10] and len({tuple(r.steps.tolist()) for r in found.values()}) == 1
    assert found["short"].curves["return"].nan_to_num(7).equal(run.record().curves["return"].nan_to_num(7))
    for record_ in found.values():
        fig = learning_curve(record_)
        assert max(max(trace.x) for trace in fig.data if trace.x is not None) == 8 * UPDATE
