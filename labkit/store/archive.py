"""Runs as zip files, for others: packed, and unpacked with suspicion."""
import os
import shutil
import stat
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from labkit.errors import LabError
from labkit.files import replacing
from labkit.store import folder as disk
from labkit.store.run import Run
from labkit.store.shelf import find, place

MEMBERS = 20_000  # files in a zip
UNPACKED = 1 << 32  # bytes of all of them
RATIO = 200  # of unpacked to packed bytes, beyond FREE unpacked ones: tables of zeros pack well
FREE = 1 << 26
INDEX = 1 << 23  # bytes of a zip's index, which is read whole
END = 22  # bytes of the record that ends a zip, before a comment


def export(name: str, target: Path | str) -> Path:
    """Write a run, as far as it is intact, into a zip file. LabError if it cannot be written."""
    target, run = Path(target).expanduser(), find(name)
    try:
        with replacing(target) as file:
            pack(run, file)
    except OSError as error:
        raise LabError(f"{target} cannot be written ({error.strerror}); name a file in a folder of yours.") from error
    return target


def pack(run: Run, file: BinaryIO) -> None:
    """Zip the intact entries of a run into a file that is open for writing. LabError where none is intact."""
    if run.damage and not run.entries:
        raise LabError(run.damage)
    journal = disk.read(run.folder / disk.JOURNAL, disk.LIMITS[disk.JOURNAL])[: run.length]
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(f"{run.name}/{disk.META}", (run.folder / disk.META).read_bytes())
        archive.writestr(f"{run.name}/{disk.JOURNAL}", journal)
        for entry in run.entries:
            for kind in entry.parts:
                part = disk.part_name(kind, entry.update)
                archive.writestr(f"{run.name}/{part}", disk.read_part(run.folder, entry, kind))


def bring(source: Path | str, name: str | None = None) -> Run:
    """Unpack the zip of a run into the user's runs, under its own name or another. LabError where it is not one, whole.

    Nothing but a run's own files is taken: no folders, links or paths, no file twice, none larger than it says or than a
    reader takes. It is a run once all has been compared with its journal.
    """
    source = Path(source).expanduser()
    try:
        with source.open("rb") as file:
            size = _modest(file)
            with zipfile.ZipFile(file) as archive:
                return _unpack(archive, size, name)
    except (disk.Damage, zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
        raise LabError(f"{source} is no zip of a run, or it is damaged ({error}); use one that `labkit runs export` wrote.") from error
    except OSError as error:
        raise LabError(f"{source} cannot be unpacked ({error.strerror}); see that it can be read and that there is space.") from error


def _modest(file: BinaryIO) -> int:
    """The size of a zip. Damage where its index, which is read whole, is larger than MEMBERS files fill."""
    size = file.seek(0, os.SEEK_END)
    file.seek(max(0, size - END - 0xFFFF))
    tail = file.read()
    end = tail.rfind(b"PK\5\6")
    if end < 0 or b"PK\6\7" in tail or int.from_bytes(tail[end + 12 : end + 16], "little") > INDEX:
        raise disk.Damage("its index is missing or too large")
    return size


def _members(archive: zipfile.ZipFile, size: int) -> Iterator[tuple[str, zipfile.ZipInfo]]:
    """The files of a zip by their names in the run. Damage where one is not to be unpacked."""
    infos, seen, total = archive.infolist(), set[str](), 0
    if len(infos) > MEMBERS:
        raise disk.Damage(f"it holds {len(infos):,} files, more than {MEMBERS:,}")
    for info in infos:
        folder, _, name = info.filename.partition("/")
        mode, total = info.external_attr >> 16, total + info.file_size
        if folder != infos[0].filename.partition("/")[0] or not (name in (disk.META, disk.JOURNAL) or disk.PART.fullmatch(name)):
            raise disk.Damage(f"it holds {info.filename!r}, which no run has")
        if name in seen or stat.S_IFMT(mode) not in (0, stat.S_IFREG) or info.flag_bits & 1:
            raise disk.Damage(f"it holds {info.filename!r} twice, as a link or under a password")
        if info.file_size > disk.LIMITS.get(name, disk.LARGEST) or total > min(UNPACKED, FREE + RATIO * size):
            raise disk.Damage(f"{info.filename!r} unpacks to more than a run takes")
        seen.add(name)
        yield name, info


def _unpack(archive: zipfile.ZipFile, size: int, name: str | None) -> Run:
    members = dict(_members(archive, size))
    if not {disk.META, disk.JOURNAL} <= members.keys():
        raise disk.Damage("its meta.json or its journal is missing")
    path = place(name or members[disk.META].filename.partition("/")[0])
    path.mkdir(parents=True, exist_ok=True)
    lock = disk.hold(path)
    try:
        disk.clear(path)
    except BaseException:
        disk.release(path, lock)
        raise
    try:
        for inner in sorted(members, key=lambda inner: inner == disk.META):  # which makes it a run, last
            with archive.open(members[inner]) as packed, replacing(path / inner) as file:
                shutil.copyfileobj(packed, file)
        disk.sync(path)
        run = Run(path)
        if run.damage:
            raise LabError(run.damage)
    except BaseException:
        disk.remove(path, lock)
        raise
    disk.release(path, lock)
    return run
