"""The same seed gives the same numbers: in another process, with another hash seed, whatever global generators did, among 64 lanes;
and those that it gave before."""
import json
import os
import random
import subprocess
import sys

import numpy as np
import pytest
import torch

from labkit.claims.ledger import machine
from labkit.files import ROOT
from tests import goldens
from tests.methods import CASES, everywhere


@pytest.fixture(scope="module")
def elsewhere():
    """Digests by another process, with another hash seed, after use of the global generators, of one lane among 64."""
    env = os.environ | {"PYTHONHASHSEED": "12345", "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-m", "tests.goldens", "--print"], cwd=ROOT, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def here():
    """Digests by this process, of one lane alone."""
    return goldens.digests()


@everywhere
def test_another_process_among_other_lanes_gives_the_same_bits(elsewhere, here, key, world):
    assert elsewhere[f"{key} in {world}"] == here[f"{key} in {world}"]


@everywhere
def test_on_a_known_machine_the_bits_are_those_of_before(here, key, world):
    known = goldens.stored()["digests"]
    if machine() not in known:
        pytest.skip(f"goldens.json holds no digests from this machine ({machine()}); `python -m tests.goldens` writes them")
    assert known[machine()].get(f"{key} in {world}") == here[f"{key} in {world}"]


@everywhere
def test_on_any_machine_one_update_gives_the_numbers_of_before(key, world):
    assert goldens.sizes(key, world) == pytest.approx(goldens.stored()["sizes"][f"{key} in {world}"], rel=1e-5, abs=1e-7)


def test_every_golden_belongs_to_a_method():
    cases = {f"{key} in {world}" for key, world in CASES}
    assert all(set(part) == cases for part in (goldens.stored()["sizes"], *goldens.stored()["digests"].values()))


def test_a_digest_notices_the_last_bit():
    one = goldens.numbers(*CASES[0], 1)
    name = next(name for name, t in one.items() if t.is_floating_point() and t.dim())
    other = one | {name: torch.nextafter(one[name], one[name] + 1)}
    assert goldens.digest(one) == goldens.digest(dict(one)) != goldens.digest(other)


def test_the_global_generators_are_left_alone():
    before = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()
    for key, world in CASES:
        goldens.numbers(key, world, 1)
    assert torch.equal(before[0], torch.get_rng_state()) and before[1:] == (random.getstate(), np.random.get_state()[1].tolist())
