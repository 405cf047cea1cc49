"""Files that are cut, changed, foreign, newer, linked or made to harm: refused in a sentence, or read up to the damage; never run."""
import hashlib
import json
import os
import shutil
import sys
import tempfile
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from labkit import store
from labkit.errors import LabError
from labkit.store import folder as disk
from labkit.store.parts import unpack_fields, unpack_learner, unpack_metrics
from tests.store.conftest import LANES, UPDATE

FORBIDDEN = {"exec", "pickle.find_class", "subprocess.Popen", "os.system", "os.exec", "os.posix_spawn"}
executed, watching = [], [False]


def watch(event, args):
    """Take note of what is executed, but for the modules that Python itself imports."""
    if watching[0] and event in FORBIDDEN and not (event == "exec" and args[0].co_name == "<module>"):
        executed.append(event)


sys.addaudithook(watch)  # it stays for good


@pytest.fixture(scope="module")
def truth(original):
    """The files of a run, its record and its learners."""
    run = store.Run(original)
    run.record(), run.learner()  # whatever is imported upon first use is imported now
    files = {p.name: p.read_bytes() for p in original.iterdir() if not p.name.startswith(".")}
    return files, run.record(), {u: run.learner(u).pack()[0] for u in run.kept}


def read_all(folder, truth):
    """Read whatever can be read; all of it is as it was written. How many snapshots, and what is said of the damage."""
    _, record, learners = truth
    watching[0] = True
    try:
        run = store.Run(folder)
        for update in run.kept:
            assert all(t.equal(learners[update][name]) for name, t in run.learner(update).pack()[0].items())
        if run.entries:
            mine = run.record()
            assert mine.lanes == record.lanes and mine.steps.equal(record.steps[: len(mine.steps)])
            assert all(y.nan_to_num(7).equal(record.curves[name][: len(y)].nan_to_num(7)) for name, y in mine.curves.items())
            assert not run.damage or run.damage in mine.notes
        return len(run.entries), run.damage
    finally:
        watching[0] = False
        assert not executed


def one_sentence(text):
    return "\n" not in text and text.endswith(".") and text.count(". ") == 0


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_whatever_happens_to_a_file_no_wrong_number_is_read(truth, data):
    files, _, _ = truth
    name = data.draw(st.sampled_from(sorted(files)))
    content = bytearray(files[name])
    place = data.draw(st.integers(0, len(content) - 1))
    match data.draw(st.sampled_from(["flip", "cut", "zeros", "more"])):
        case "flip":
            content[place] ^= 1 << data.draw(st.integers(0, 7))
        case "cut":
            del content[place:]
        case "zeros":
            content[place : place + 512] = bytes(len(content[place : place + 512]))
        case "more":
            content += data.draw(st.binary(min_size=1, max_size=64))
    with tempfile.TemporaryDirectory() as home:
        folder = Path(home) / "run"
        folder.mkdir()
        for other, old in files.items():
            (folder / other).write_bytes(bytes(content) if other == name else old)
        try:
            count, damage = read_all(folder, truth)
        except LabError as error:
            assert name == disk.META and one_sentence(str(error))
            return
        if bytes(content) != files[name] and name != disk.META and not (name == disk.JOURNAL and content.startswith(files[name])):
            torn = name == disk.JOURNAL and not content.endswith(b"\n") and count == 3  # as if its last line had not been written
            assert (count < 4 and one_sentence(damage)) or torn


@pytest.mark.parametrize(("update", "count"), [(3, 0), (9, 2), (12, 3)])
@pytest.mark.parametrize("kind", ["learner", "metrics"])
def test_a_damaged_run_says_what_is_intact_and_is_not_written(folder, truth, update, count, kind):
    part = folder / disk.part_name(kind, update)
    part.write_bytes(part.read_bytes()[:-1])
    found, damage = read_all(folder, truth)
    assert found == count
    if count:
        assert damage.startswith(f"run first: damaged after step {count * 3 * UPDATE:,}; the first {count} snapshots are intact (")
        assert len(store.load(folder).steps) == 3 * count
        with store.fork("first") as branch:
            assert branch.step == count * 3 * UPDATE
    else:
        assert "no snapshot is intact" in damage
        with pytest.raises(LabError, match="no snapshot is intact"):
            store.load(folder)
    before = sorted(p.name for p in folder.iterdir())
    run = store.find("first", write=True)
    assert run.denied == damage and one_sentence(damage)
    assert [name for name in sorted(p.name for p in folder.iterdir()) if name != disk.LOCK] == [n for n in before if n != disk.LOCK]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda meta: meta | {"format": "elsewhere"}, "was written by another program"),
        (lambda meta: {"hello": 1}, "was written by another program"),
        (lambda meta: [1, 2], "cannot be trusted (it holds no JSON object)"),
        (lambda meta: disk.seal(meta | {"version": 99}), "has format 99, this labkit reads 2"),
        (lambda meta: meta | {"seeds": [0, 2]}, "cannot be trusted (it has changed since it was written)"),
    ],
)
def test_a_foreign_newer_or_changed_meta_is_refused(folder, change, says):
    (folder / disk.META).write_text(json.dumps(change(json.loads((folder / disk.META).read_text()))))
    with pytest.raises(LabError) as error:
        store.find("first")
    assert says in str(error.value) and one_sentence(str(error.value).replace("meta.json", ""))


def resealed(meta, **change):
    """The meta with a change, and a check that agrees."""
    return disk.seal({name: value for name, value in (meta | change).items() if name != "check"})


@pytest.mark.parametrize(
    "change",
    [
        {"seeds": "x"}, {"seeds": []}, {"seeds": [0, 0]}, {"seeds": [2**70]}, {"seeds": [[0]]}, {"grid": [1]}, {"grid": {"eps": []}},
        {"grid": {f"k{i}": [0] * 100 for i in range(9)}}, {"algorithm": 3}, {"training": 7}, {"training": {}}, {"parent": "x"},
        {"versions": None}, {"grid": {"eps": ["x"]}},
    ],
)  # fmt: skip
def test_a_meta_that_agrees_with_its_check_is_still_not_believed(folder, change):
    meta = resealed(json.loads((folder / disk.META).read_text()), **change)
    (folder / disk.META).write_text(json.dumps(meta))
    with pytest.raises(LabError, match=r"has a meta\.json that no run writes"):
        store.find("first")


def test_links_and_large_files_are_not_followed_or_read(folder, tmp_path, monkeypatch):
    for name in (disk.part_name("learner", 9), disk.JOURNAL, disk.META):
        outside = tmp_path / name
        shutil.move(folder / name, outside)
        (folder / name).symlink_to(outside)
    with pytest.raises(LabError, match=r"meta\.json is a link or a folder"):
        store.find("first")
    (folder / disk.META).unlink()
    shutil.copy(tmp_path / disk.META, folder)
    assert "journal.jsonl is a link or a folder" in store.find("first").damage
    (folder / disk.JOURNAL).unlink()
    shutil.copy(tmp_path / disk.JOURNAL, folder)
    assert f"{disk.part_name('learner', 9)} is a link or a folder" in store.find("first").damage and len(store.find("first").entries) == 2
    monkeypatch.setitem(disk.LIMITS, disk.META, 100)
    with pytest.raises(LabError, match=r"meta\.json has [\d,]+ bytes, more than 100"):
        store.find("first")
    shutil.move(folder, tmp_path / "away")
    (store.root() / "first").symlink_to(tmp_path / "away")
    with pytest.raises(LabError, match="is a link to another place"):
        store.find("first")


def test_a_pipe_does_not_stop_the_reader(folder):
    (folder / disk.JOURNAL).unlink()
    os.mkfifo(folder / disk.JOURNAL)
    assert "is a link or a folder" in store.find("first").damage


def test_a_journal_that_was_cut_is_found_by_the_parts_without_a_line(folder):
    journal = folder / disk.JOURNAL
    lines = journal.read_bytes().splitlines(keepends=True)
    journal.write_bytes(b"".join(lines[:2]))
    assert "has been cut short" in store.find("first").damage and store.find("first").updates == 6
    journal.write_bytes(b"".join(lines[:3]))  # a crash between the parts and their line leaves just this
    run = store.find("first", write=True)
    assert not run.damage and run.updates == 9 and not (folder / disk.part_name("learner", 12)).exists()
    run.close()


def test_what_a_dead_writer_left_is_swept_by_the_next(folder):
    (folder / ".learner-00000015.safetensors.99.part").write_bytes(b"half")
    (folder / disk.part_name("learner", 15)).write_bytes(b"whole, but no line says so")
    with (folder / disk.JOURNAL).open("ab") as journal:
        journal.write(b'{"update": 15, "st')
    assert store.find("first").damage == "" and store.find("first").updates == 12
    with store.find("first", write=True) as run:
        list(store.train(run, 15 * UPDATE))
    assert store.find("first").updates == 15 and store.find("first").damage == ""
    assert not list(folder.glob(".*.part"))


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_parts_whose_checksums_agree_are_still_not_believed(truth, data):
    """What a forger could write: any bytes near the right ones. Nothing but Damage comes of it, or a thing of the right shape."""
    files, _, _ = truth
    name = data.draw(st.sampled_from([disk.part_name("learner", 3), disk.part_name("metrics", 3)]))
    content = bytearray(files[name])
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    watching[0] = True
    try:
        if name.startswith("learner"):
            assert len(unpack_learner(bytes(content), LANES).on) == 4
        else:
            steps, curves = unpack_metrics(bytes(content), 4)
            assert all(y.shape == (len(steps), 4) for y in curves.values())
    except disk.Damage:
        pass
    finally:
        watching[0] = False
    assert not executed


def test_a_part_that_unpacks_to_more_than_its_size_is_refused():
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns = {"step": np.zeros(4_000_000, np.int64), "lane": np.zeros(4_000_000, np.int32), "x": np.zeros(4_000_000)}
    for options in ({"compression": "zstd", "use_dictionary": False}, {"compression": "none", "use_dictionary": True}):
        out = pa.BufferOutputStream()
        pq.write_table(pa.table(columns), out, **options)
        data = out.getvalue().to_pybytes()
        assert len(data) < 1e6
        with pytest.raises(disk.Damage, match="packed more tightly"):
            unpack_metrics(data, 1)


def test_fields_of_another_shape_are_refused():
    from labkit.store.parts import pack_fields

    data = pack_fields({"policy": torch.zeros(3, 4, 5)})
    assert unpack_fields(data, (3, 4))["policy"].shape == (3, 4, 5)
    with pytest.raises(disk.Damage, match="field 'policy' has shape"):
        unpack_fields(data, (4, 3))


def test_a_line_of_another_run_does_not_fit(folder):
    row = json.loads((folder / disk.JOURNAL).read_bytes().splitlines()[0])
    row["parts"]["learner"]["sha256"] = hashlib.sha256(b"other").hexdigest()
    (folder / disk.JOURNAL).write_text(json.dumps(disk.seal({k: v for k, v in row.items() if k != "check"}, "another run")) + "\n")
    assert "a line of journal.jsonl cannot be trusted" in store.find("first").damage
