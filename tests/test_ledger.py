"""The ledger: what is appended stays, what is damaged is told, and a verdict goes stale with the code it rests on."""
import json
import multiprocessing
from dataclasses import replace

import pytest

from labkit.claims import ledger
from labkit.errors import LabError
from tests.made_up import FAILED, entry, estimate, own


def test_an_entry_comes_back_as_it_was(tmp_path):
    first, second = entry("ppo", FAILED, steps=7), entry("ppo", estimate(2), time="2026-03-01T00:00:00+00:00")
    other = entry("a2c", estimate(0), time="2026-02-01T00:00:00+00:00")
    for one in (first, second, other):
        ledger.append(one, tmp_path)
    assert ledger.entries(folder=tmp_path) == [first, other, second]  # oldest first
    assert ledger.entries("ppo", tmp_path) == [first, second]
    assert ledger.entries("trpo", tmp_path) == ledger.entries(folder=tmp_path / "nowhere") == []


def test_the_verdict_is_the_newest_on_the_checks_own_seeds_and_settings(tmp_path):
    old, new = own("ppo", FAILED), own("ppo", estimate(2), time="2026-02-01T00:00:00+00:00")
    late = "2026-03-01T00:00:00+00:00"
    for one in (new, old, own("ppo", FAILED, time=late, steps=1), entry("ppo", FAILED, range(40, 60), late, **own("ppo", FAILED).settings)):
        ledger.append(one, tmp_path)
    assert ledger.latest("ppo", tmp_path) == new
    assert ledger.latest("ppo", tmp_path, tuple(range(40, 60))).seeds[0] == 40
    assert ledger.latest("a2c", tmp_path) is None


def add(folder, name):
    for i in range(25):
        ledger.append(entry("ppo", FAILED, range(i, i + 10), writer=name), folder)


def test_processes_that_append_at_once_lose_nothing(tmp_path):
    ledger.append(entry("ppo", FAILED), tmp_path)
    before, fork = (tmp_path / "ppo.jsonl").read_bytes(), multiprocessing.get_context("fork")
    writers = [fork.Process(target=add, args=(tmp_path, i)) for i in range(4)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    found = ledger.entries("ppo", tmp_path)
    assert len(found) == 101 and (tmp_path / "ppo.jsonl").read_bytes().startswith(before)
    for i in range(4):
        assert [e.seeds[0] for e in found if e.settings == {"writer": i}] == list(range(25))


def test_a_torn_last_line_makes_room_and_the_others_stay(tmp_path, capsys):
    path = tmp_path / "ppo.jsonl"
    ledger.append(entry("ppo", FAILED), tmp_path)
    whole = path.read_bytes()
    path.write_bytes(whole + whole[:70])
    assert len(ledger.entries("ppo", tmp_path)) == 1
    assert capsys.readouterr().err == f"ppo.jsonl in {tmp_path}: line 2 is skipped: it is damaged.\n"
    ledger.append(entry("ppo", estimate(0)), tmp_path)
    assert path.read_bytes().startswith(whole) and len(ledger.entries("ppo", tmp_path)) == 2
    assert capsys.readouterr().err == ""


ROW = json.loads(ledger.line(entry("ppo", FAILED)))
WITHOUT = {name: value for name, value in ROW.items() if name != "rule"}


@pytest.mark.parametrize(("row", "says"), [
    (5, "labkit did not write it"),
    ({"a": 1}, "labkit did not write it"),
    (ROW | {"format": "csv"}, "labkit did not write it"),
    (ROW | {"format": 2}, "a newer labkit wrote it, in format 2; this one reads 1"),
    (ROW | {"key": "a2c"}, "it is about a2c"),
    (ROW | {"value": "1"}, "'1' is not what belongs there"),
    (ROW | {"value": float("nan")}, "nan is not what belongs there"),
    (ROW | {"held": "maybe"}, "'maybe' is not what belongs there"),
    (ROW | {"seeds": [0, 1.5]}, "1.5 is not what belongs there"),
    (ROW | {"seeds": [True]}, "True is not what belongs there"),
    (ROW | {"settings": []}, "[] is not what belongs there"),
    (ROW | {"parts": [{"value": 1}]}, "{'value': 1} is not what belongs there"),
    (ROW | {"extra": 1}, "is not what belongs there"),
    (WITHOUT, "is not what belongs there"),
])  # fmt: skip
def test_a_line_that_cannot_be_read_is_skipped_and_told(row, says, tmp_path, capsys):
    (tmp_path / "ppo.jsonl").write_text(json.dumps(row) + "\n" + json.dumps(ROW) + "\n")
    assert ledger.entries("ppo", tmp_path) == [entry("ppo", FAILED)]
    told = capsys.readouterr().err
    assert told.startswith(f"ppo.jsonl in {tmp_path}: line 1 is skipped: ") and told.endswith(f"{says}.\n") and told.count("\n") == 1


def test_bytes_that_are_no_text_are_skipped_and_told(tmp_path, capsys):
    (tmp_path / "ppo.jsonl").write_bytes(b"\xff\xfe\x00\n" + ledger.line(entry("ppo", FAILED)).encode() + b"\n")
    assert len(ledger.entries("ppo", tmp_path)) == 1 and "line 1 is skipped: it is damaged." in capsys.readouterr().err


def test_a_disk_that_refuses_gets_one_sentence(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(LabError, match=r"cannot be written \(File exists\); .*\.$"):
        ledger.append(entry("ppo", FAILED), tmp_path / "file")


def test_a_number_that_is_none_is_not_written(tmp_path):
    with pytest.raises(LabError, match=r"The verdict on ppo, nan \[.*\], or a part of it is not finite\."):
        ledger.append(replace(entry("ppo", FAILED), value=float("nan")), tmp_path)
    assert ledger.entries(folder=tmp_path) == []


# ---- stale ------------------------------------------------------------------------------------------------------


def test_a_verdict_is_stale_when_its_code_is_another():
    code = ledger.code_of("ppo")
    assert len(code) == 16 and code == ledger.code_of("ppo") != ledger.code_of("fixpo")
    assert not ledger.stale(entry("ppo", FAILED, code=code))
    assert ledger.stale(entry("ppo", FAILED)) and ledger.stale(entry("a_paper_that_is_gone", FAILED, code=code))


# ---- checks -----------------------------------------------------------------------------------------------------


def test_a_check_is_found_in_the_papers_file_or_in_its_familys():
    assert ledger.check_of("fixpo").__module__ == "labkit.on_policy.fixpo"
    assert ledger.check_of("npg").__name__ == "check_npg"
    with pytest.raises(LabError, match=r"There is no paper 'nonsense'; `labkit papers` lists them\."):
        ledger.check_of("nonsense")


def test_a_checks_own_seeds_and_settings():
    assert ledger.defaults(ledger.check_of("ppo")) == (tuple(range(20)), {"steps": 40_000})
    assert ledger.defaults(ledger.check_of("props"))[0] == tuple(range(100, 120))


def test_the_machine_key_names_no_host():
    import platform

    import torch

    assert torch.__version__ in ledger.machine() and platform.node() not in ledger.machine()
