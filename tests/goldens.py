"""Numbers that runs must give again, and how they are written anew: `python -m tests.goldens`, after a change that is meant to change them.

goldens.json holds digests of all state after two updates, for each machine that wrote some: they decide whether results are still
the same bit for bit, and mean nothing elsewhere. It also holds sizes of all tensors after one update, which other machines must meet
to a relative 1e-5. Run as `python -m tests.goldens --print` it writes nothing and prints the digests of one lane among 64.
"""
import hashlib
import json
import random
import sys
from pathlib import Path

import numpy as np
import torch

from labkit.claims.ledger import machine
from labkit.files import write_whole
from labkit.lanes import Lanes
from tests.methods import CASES, after, lane

PATH = Path(__file__).with_name("goldens.json")
SEED = 7


def numbers(key, world, updates, seeds=(SEED,)):
    """All numbers of the lane with seed SEED after some updates."""
    return lane(after(key, world, Lanes(seeds), updates)[-1], seeds.index(SEED))


def digest(numbers):
    """SHA-256 of named tensors."""
    total = hashlib.sha256()
    for name in sorted(numbers):
        total.update(f"{name} {numbers[name].dtype} {tuple(numbers[name].shape)}".encode())
        total.update(numbers[name].contiguous().numpy().tobytes())
    return total.hexdigest()


def sizes(key, world):
    """The norm of every tensor of floating-point numbers after one update."""
    floats = {name: t.double() for name, t in numbers(key, world, 1).items() if t.is_floating_point()}
    return {name: t.nan_to_num(0).norm().item() for name, t in floats.items()}


def stored():
    """What goldens.json holds."""
    return json.loads(PATH.read_text()) if PATH.exists() else {"digests": {}, "sizes": {}}


def digests(seeds=(SEED,)):
    """Of every method in its worlds."""
    return {f"{key} in {world}": digest(numbers(key, world, 2, seeds)) for key, world in CASES}


def rewrite():
    """Where this machine's digests have changed, those of others are dropped: they stand for the numbers before the change."""
    mine, known = digests(), stored()["digests"]
    others = known if known.get(machine(), mine) == mine else {}
    found = {"digests": others | {machine(): mine}, "sizes": {f"{key} in {world}": sizes(key, world) for key, world in CASES}}
    write_whole(PATH, json.dumps(found, indent=1) + "\n")


def disturb():
    """Use every global generator."""
    random.seed(3), np.random.seed(4), torch.manual_seed(5)
    random.random(), np.random.rand(3), torch.rand(3)


if __name__ == "__main__":
    torch.set_num_threads(1)
    if sys.argv[1:] == ["--print"]:
        disturb()
        print(json.dumps(digests(tuple(range(64)))))
    else:
        rewrite()
