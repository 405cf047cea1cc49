"""A process that trains to disk is killed at any moment; the run goes on, and ends as if nothing had happened, bit for bit."""
import os
import random
import shutil
import signal
import time
import traceback
from itertools import count, islice

import pytest

from labkit import store, worlds
from labkit.errors import LabError
from labkit.lanes import Lanes
from labkit.store.parts import pack_learner
from tests.methods import METHODS, family, small

KILLS = 100  # at random moments, of each family
LANES = Lanes((0, 1))
BASES = {family(method): key for key, method in reversed(METHODS.items()) if not method.paper.base}
BOUNDARIES = ("write", "fsync", "replace", "ftruncate", "unlink")  # what a kill can fall between

each_family = pytest.mark.parametrize("key", BASES.values(), ids=BASES)


def fits(method, world):
    try:
        next(method.run(worlds.make(world), LANES))
    except LabError:
        return False
    return True


class Task:
    """So many updates of a family's first method, in the shortest world that it takes, with every learner stored."""

    def __init__(self, key, updates):
        self.method = small(METHODS[key])
        self.world = next(world for world in sorted(worlds.names(), key=lambda name: worlds.make(name).horizon) if fits(self.method, world))
        self.plain = list(islice(self.method.run(worlds.make(self.world), LANES), updates))  # nothing is stored here
        self.train()  # once here, so that no child spends its time on what is only done once
        shutil.rmtree(store.root())

    def open(self):
        """The run called "run", begun where it is not there yet."""
        if store.names():
            run = store.find("run", write=True)
            assert not run.damage and not run.denied
            return run
        return store.begin(self.method, self.world, LANES, self.plain[-1].step, every=1, name="run")

    def train(self):
        """Take the run to its end, from wherever it is."""
        with self.open() as run:
            for _ in store.train(run):
                pass

    def write(self):
        """The same without the work of training: only what is written, and how."""
        with self.open() as run:
            for snapshot in self.plain[run.updates :]:
                run.append(snapshot)

    def check(self, whole=False):
        """What is stored is what was trained, as far as it goes."""
        if not whole and not store.names():
            return
        run = store.find("run")
        assert run.damage == ""
        assert run.updates == len(self.plain) or not whole
        for update in run.kept[-1:]:
            assert pack_learner(run.learner()) == pack_learner(self.plain[update - 1].learner)
        if whole:
            curves = run.record().curves
            assert all(x[t].nan_to_num(7).equal(s.metrics[n].nan_to_num(7)) for n, x in curves.items() for t, s in enumerate(self.plain))
            assert len(list(run.folder.iterdir())) == 3 + 2 * len(self.plain), "nothing is left over"


def forked(act):
    """The id of a process that does this and nothing else. It must not come from a process with threads."""
    pid = os.fork()
    if pid == 0:
        try:
            act()
            os._exit(0)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
    return pid


def ended(pid):
    """Wait for it; was it killed? It must not have failed."""
    _, status = os.waitpid(pid, 0)
    assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0
    return os.WIFSIGNALED(status)


@each_family
def test_a_run_survives_kills_at_random_moments(key):
    task, rng, kills = Task(key, 3), random.Random(key), 0
    begun = time.perf_counter()
    assert not ended(forked(task.train))
    usual = time.perf_counter() - begun
    while kills < KILLS:
        shutil.rmtree(store.root())
        for attempt in count(1):
            pid = forked(task.train)
            time.sleep(rng.uniform(0, usual * (1 + attempt / 5)))
            os.kill(pid, signal.SIGKILL)
            if not ended(pid):
                break
            kills += 1
            task.check()
        task.check(whole=True)


def suicidal(act, at, half=False):
    """`act`, in a process that dies at its boundary number `at`, before it or having written half; without `at` it lists them all."""
    passed = []

    def guard(name, call):
        def guarded(*args, **options):
            passed.append(name)
            if len(passed) - 1 == at:
                if half:
                    call(args[0], args[1][: len(args[1]) // 2])
                os.kill(os.getpid(), signal.SIGKILL)
            return call(*args, **options)

        return guarded

    def acting():
        for name in BOUNDARIES:
            setattr(os, name, guard(name, getattr(os, name)))
        act()
        (store.root() / "boundaries").write_text(" ".join(passed))

    return acting


@each_family
def test_a_run_survives_a_kill_at_every_boundary_of_its_writing(key):
    task = Task(key, 2)
    assert not ended(forked(suicidal(task.write, None)))
    task.check(whole=True)
    boundaries = (store.root() / "boundaries").read_text().split()
    assert len(boundaries) > 30 and set(boundaries) == set(BOUNDARIES)
    for at, name in enumerate(boundaries):
        for half in (False, True) if name == "write" else (False,):
            shutil.rmtree(store.root())
            assert ended(forked(suicidal(task.write, at, half)))
            task.check()
            assert not ended(forked(task.write))
            task.check(whole=True)
