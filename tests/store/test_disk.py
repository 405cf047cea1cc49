"""A disk that is full, or on which nothing may be written: a sentence, the last snapshot intact, and the run goes on after."""
import errno
import os
import resource
import signal
import subprocess
from contextlib import contextmanager
from itertools import islice

import pytest

from labkit import store, worlds
from labkit.errors import LabError
from labkit.lanes import Lanes
from tests.methods import assert_same
from tests.store.conftest import TINY, UPDATE
from tests.test_resume import BOUNDARIES, ended, forked

STEPS = 6 * UPDATE


@pytest.fixture(scope="module")
def plain():
    """The run of six updates, trained in memory."""
    return list(islice(TINY.run(worlds.make("control.cartpole"), Lanes((0, 1))), 6))


def begin():
    return store.begin(TINY, "control.cartpole", Lanes((0, 1)), STEPS, every=1, name="run")


def train_on(run, snapshots):
    """Append snapshots; what is refused is told in a sentence, and leaves what was stored."""
    for snapshot in snapshots:
        try:
            run.append(snapshot)
        except LabError as error:
            said = str(error)
            assert "could not store step" in said and "is intact: free some space or make its folder yours, then go on." in said
            return said
    return ""


def check(plain):
    """What is stored is intact; how many updates."""
    run = store.find("run")
    assert run.damage == ""
    if run.updates:
        assert_same(run.learner().pack()[0], plain[run.updates - 1].learner.pack()[0])
    return run.updates


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS, errno.EDQUOT, errno.EIO])
@pytest.mark.parametrize("call", BOUNDARIES)
def test_a_refusal_anywhere_leaves_the_last_snapshot_and_the_same_one_may_be_given_again(plain, monkeypatch, call, code):
    with begin() as run:
        assert not train_on(run, plain[:2])
        with monkeypatch.context() as patch:
            patch.setattr(os, call, lambda *args, **options: (_ for _ in ()).throw(OSError(code, os.strerror(code))))
            assert os.strerror(code) in train_on(run, plain[2:3])
        assert check(plain) == 2
        assert not train_on(run, plain[2:])
    assert check(plain) == 6


@contextmanager
def small_disk(kilobytes):
    """A disk of so many kilobytes under the user's runs."""
    root = store.root()
    root.mkdir(parents=True)
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={kilobytes}k", "tmpfs", str(root)], capture_output=True)
    if done.returncode:
        pytest.skip("only an administrator may mount a disk")
    try:
        yield root
    finally:
        subprocess.run(["umount", "-l", str(root)], check=True)


def test_a_full_disk_pauses_and_freed_space_lets_go_on(plain):
    with small_disk(160) as root:
        run = begin()
        (root / "ballast").write_bytes(bytes(112 * 1024))
        said = train_on(run, plain)
        stored = check(plain)
        assert "No space left on device" in said and 0 < stored < 6
        (root / "ballast").unlink()
        assert not train_on(run, plain[stored:])
        run.close()
        assert check(plain) == 6


def test_a_disk_that_has_become_read_only_can_still_be_read(plain):
    with small_disk(400) as root:
        run = begin()
        assert not train_on(run, plain[:3])
        run.close()
        subprocess.run(["mount", "-o", "remount,ro", str(root)], check=True)
        run = store.find("run", write=True)
        assert "Run run cannot be written (Read-only file system)" in run.denied and check(plain) == 3
        with pytest.raises(LabError, match="cannot be written"):
            run.append(plain[3])
        with pytest.raises(LabError, match="cannot be written"):
            store.begin(TINY, "control.cartpole", Lanes(), STEPS, name="other")
        with pytest.raises(LabError, match="cannot be written"):
            store.delete("run")


def test_a_limit_on_the_size_of_files_is_a_full_disk(plain):
    """Without any right to mount: writes are cut short in the middle, as on a full disk."""
    with begin() as run:
        assert not train_on(run, plain[:2])

    def limited():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        run = store.find("run", write=True)
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
        assert "File too large" in train_on(run, plain[2:])

    assert not ended(forked(limited))
    assert check(plain) == 2
    with store.find("run", write=True) as run:
        assert not train_on(run, plain[2:])
    assert check(plain) == 6
