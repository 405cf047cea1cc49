"""Runs on disk: round trips, damage, foreign files."""
import json
from dataclasses import replace

import pytest
import torch

from labkit import store, worlds
from labkit.errors import LabError
from labkit.lanes import Lanes
from labkit.on_policy.family import Shape, ppo
from labkit.record import Record, record

TINY = replace(ppo, shape=Shape(envs=4, steps=8, width=8, minibatches=2))
WORLD = worlds.make("control.cartpole")
LANES = Lanes((0, 1), {"eps": (0.1, 0.3)})


def test_a_stored_learner_continues_bit_for_bit(tmp_path):
    run = TINY.run(WORLD, LANES)
    early, late = [next(run) for _ in range(4)][1::2]
    back = store.load(store.save(early.learner, tmp_path / "run"))
    resumed = TINY.run(WORLD, LANES, start=back)
    again = [next(resumed) for _ in range(2)][-1]
    assert again.step == late.step
    tensors, plain = late.learner.pack()
    others, rest = again.learner.pack()
    assert plain == rest
    assert all(torch.equal(tensors[name].nan_to_num(7), others[name].nan_to_num(7)) for name in tensors) and tensors.keys() == others.keys()


def test_a_record_comes_back_whole(tmp_path):
    made = record(TINY, WORLD, LANES, 96, fields={"theta": lambda s: s.learner.nets["pi"].theta})
    back = store.load(store.save(made, tmp_path / "r"))
    assert isinstance(back, Record) and back.lanes == made.lanes and torch.equal(back.steps, made.steps)
    assert torch.equal(back.fields["theta"], made.fields["theta"])


def test_saving_again_leaves_one_file_of_tensors(tmp_path):
    run = TINY.run(WORLD, LANES)
    for _ in range(2):
        store.save(next(run).learner, tmp_path / "r")
    assert sorted(p.suffix for p in (tmp_path / "r").iterdir()) == [".json", ".safetensors"]


@pytest.mark.parametrize("damage", ["missing", "truncated", "foreign", "newer", "not json", "short"])
def test_damage_gets_one_sentence(tmp_path, damage):
    folder = store.save(record(TINY, WORLD, LANES, 64), tmp_path / "r")
    tensors, meta = next(folder.glob("*.safetensors")), folder / "meta.json"
    content = json.loads(meta.read_text())
    match damage:
        case "missing":
            tensors.unlink()
        case "truncated":
            tensors.write_bytes(tensors.read_bytes()[:-9])
        case "foreign":
            meta.write_text("[1, 2]")
        case "newer":
            meta.write_text(json.dumps(content | {"format": "driftlab-99"}))
        case "not json":
            meta.write_bytes(b"\xff\x00")
        case "short":
            meta.write_text(json.dumps(content | {"lanes": {"seeds": [0], "grid": {}}}))
    with pytest.raises(LabError) as error:
        store.load(folder)
    assert str(folder) in str(error.value) and "\n" not in str(error.value)


def test_a_path_in_meta_cannot_lead_out_of_the_folder(tmp_path):
    folder = store.save(record(TINY, WORLD, LANES, 64), tmp_path / "inner")
    tensors = next(folder.glob("*.safetensors"))
    tensors.rename(tmp_path / tensors.name)
    meta = json.loads((folder / "meta.json").read_text())
    (folder / "meta.json").write_text(json.dumps(meta | {"tensors": f"../{tensors.name}"}))
    with pytest.raises(LabError, match="incomplete"):
        store.load(folder)
