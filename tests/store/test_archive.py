"""Runs as zip files: there and back, and what is not unpacked."""
import io
import stat
import struct
import zipfile

import pytest

from labkit import store
from labkit.errors import LabError
from labkit.store import archive
from labkit.store import folder as disk


@pytest.fixture
def zipped(folder, tmp_path):
    """The zip of a run, and the names of its files with their content."""
    path = store.export("first", tmp_path / "run.zip")
    with zipfile.ZipFile(path) as file:
        return path, {info.filename: file.read(info) for info in file.infolist()}


def write(path, members, kind=zipfile.ZIP_DEFLATED):
    with zipfile.ZipFile(path, "w", kind) as file:
        for name, content in members:
            file.writestr(name, content)
    return path


def refused(path, says):
    """It is refused in a sentence, and nothing is left of it."""
    before = sorted(p.name for p in store.root().iterdir())
    with pytest.raises(LabError, match=says) as error:
        store.bring(path, "theirs")
    assert "\n" not in str(error.value) and str(error.value).endswith(".")
    assert sorted(p.name for p in store.root().iterdir()) == before


def test_a_run_goes_into_a_zip_and_comes_back(zipped, folder):
    path, members = zipped
    assert {name.split("/")[0] for name in members} == {"first"} and not any(".lock" in name for name in members)
    run = store.bring(path, "theirs")
    assert run.entries == store.find("first").entries and run.meta == store.find("first").meta
    with store.find("theirs", write=True) as again:
        assert not again.denied
    with pytest.raises(LabError, match="is in use; choose another name"):
        store.bring(path)
    store.delete("first")
    assert store.bring(path).name == "first"


def test_of_a_damaged_run_the_intact_part_is_packed(folder, tmp_path):
    (folder / disk.part_name("learner", 9)).write_bytes(b"")
    run = store.bring(store.export("first", tmp_path / "run.zip"), "rest")
    assert run.updates == 6 and run.damage == ""
    (folder / disk.part_name("learner", 3)).write_bytes(b"")
    with pytest.raises(LabError, match="no snapshot is intact"):
        store.export("first", tmp_path / "run.zip")


@pytest.mark.parametrize(
    "name", ["../escape", "/etc/passwd", "first/../../x", "first/learner-00000003.safetensors/x", "first/notes.txt", "first/.lock",
             "first/", "other/learner-00000099.safetensors", "first\\..\\x", "first/evil.pkl", "first/sub/meta.json"],
)  # fmt: skip
def test_what_no_run_has_is_not_unpacked(zipped, tmp_path, name):
    refused(write(tmp_path / "evil.zip", [*zipped[1].items(), (name, b"x")]), "which no run has")
    assert not (tmp_path / "escape").exists()


def test_links_duplicates_and_passwords_are_refused(zipped, tmp_path):
    path, members = zipped
    link = zipfile.ZipInfo("first/learner-00000099.safetensors")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    refused(write(tmp_path / "link.zip", [*members.items(), (link, "/etc/passwd")]), "twice, as a link or under a password")
    with pytest.warns(UserWarning, match="Duplicate name"):
        refused(write(tmp_path / "twice.zip", [*members.items(), ("first/meta.json", b"{}")]), "twice, as a link")
    data = bytearray(path.read_bytes())
    at = data.find(b"PK\1\2")
    data[at + 8] |= 1
    (tmp_path / "secret.zip").write_bytes(data)
    refused(tmp_path / "secret.zip", "under a password")


def test_bombs_are_refused_before_they_are_unpacked(zipped, tmp_path, monkeypatch):
    path, members = zipped
    evil = write(tmp_path / "ratio.zip", [*members.items(), ("first/learner-00000099.safetensors", bytes(1 << 26))])
    for where, name, limit, source, says in (
        (archive, "FREE", 1 << 20, evil, "'first/learner-00000099.safetensors' unpacks to more"),
        (archive, "UNPACKED", 1 << 10, path, "unpacks to more"),
        (archive, "MEMBERS", 5, path, "it holds 10 files, more than 5"),
        (archive, "INDEX", 100, path, "index is missing or too large"),
        (disk, "LARGEST", 1 << 10, path, "unpacks to more than a run takes"),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(where, name, limit)
            refused(source, says)


def test_a_size_that_lies_is_found(zipped, tmp_path):
    data = bytearray(zipped[0].read_bytes())
    at = data.find(b"PK\1\2")
    struct.pack_into("<I", data, at + 24, 10)  # meta.json is said to unpack to ten bytes
    (tmp_path / "lie.zip").write_bytes(data)
    refused(tmp_path / "lie.zip", "is no zip of a run, or it is damaged")


@pytest.mark.parametrize("content", [b"", b"no zip", b"PK\5\6" + bytes(18), bytes(10_000)])
def test_what_is_no_zip_is_told(folder, tmp_path, content):
    (tmp_path / "x.zip").write_bytes(content)
    refused(tmp_path / "x.zip", "is no zip of a run")
    refused(tmp_path / "gone.zip", "cannot be unpacked")


def test_a_zip_cut_or_changed_anywhere_gives_the_run_or_a_sentence(zipped, tmp_path, folder):
    data = zipped[0].read_bytes()
    entries = store.find("first").entries
    for place in range(0, len(data), len(data) // 40):
        for changed in (data[:place], data[:place] + bytes([data[place] ^ 16]) + data[place + 1 :]):
            (tmp_path / "x.zip").write_bytes(changed)
            try:
                assert store.bring(tmp_path / "x.zip", "theirs").entries == entries
                store.delete("theirs")
            except LabError:
                assert store.names() == ["first"]


def test_a_run_that_does_not_agree_with_its_journal_is_refused(zipped, tmp_path):
    members = zipped[1]
    part = f"first/{disk.part_name('metrics', 6)}"
    told = "run theirs: damaged after step 96; the first snapshot is intact"
    refused(write(tmp_path / "x.zip", (members | {part: b"other"}).items()), told)
    refused(write(tmp_path / "x.zip", [(n, c) for n, c in members.items() if "meta" not in n]), "its meta.json or its journal is missing")
    refused(write(tmp_path / "x.zip", (members | {"first/meta.json": b"{}"}).items()), "was written by another program")


def test_packing_goes_into_any_stream(folder):
    data = io.BytesIO()
    store.pack(store.find("first"), data)
    assert zipfile.ZipFile(data).testzip() is None


def test_a_zip_that_cannot_be_written_is_told(folder, tmp_path):
    with pytest.raises(LabError, match="cannot be written"):
        store.export("first", tmp_path / "no" / "such" / "folder.zip")
