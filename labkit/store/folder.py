"""The files of a run: meta.json, the journal and the parts that its lines vouch for. What each means is said in `labkit.store`."""
import hashlib
import json
import os
import re
import stat
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from labkit.errors import LabError
from labkit.files import write_whole

FORMAT, VERSION = "driftlab", 2
META, JOURNAL, LOCK, HOLDER = "meta.json", "journal.jsonl", ".lock", ".holder.json"
KINDS = {"learner": "safetensors", "metrics": "parquet", "fields": "safetensors"}
PART = re.compile(rf"({'|'.join(KINDS)})-(\d{{8}})\.({'|'.join(sorted(set(KINDS.values())))})")
SCRATCH = re.compile(r"\..+\.part")
LIMITS = {META: 1 << 20, JOURNAL: 1 << 26, HOLDER: 1 << 12}  # bytes
LARGEST = 1 << 31  # bytes of a part


class Damage(Exception):
    """What is wrong with a file, in words that fit into a sentence."""


@dataclass(frozen=True)
class Entry:
    """A line of the journal: what was stored after an update."""

    update: int
    step: int  # environment steps per lane
    notes: tuple[str, ...]  # which lanes stopped, and why
    parts: dict[str, tuple[str, int]]  # kind -> SHA-256 and bytes of its file
    check: str  # SHA-256 of this line and, through the line before, of all that stands above it


def part_name(kind: str, update: int) -> str:
    """The file of a part: no name is ever read from a file, so that no path leads out of the folder."""
    return f"{kind}-{update:08d}.{KINDS[kind]}"


# ---- reading -----------------------------------------------------------------------------------------------------


def read(path: Path, limit: int = LARGEST) -> bytes:
    """The bytes of a plain file. Damage where it is none, or larger than `limit`."""
    try:
        found = path.lstat()
        if not stat.S_ISREG(found.st_mode):
            raise Damage(f"{path.name} is a link or a folder, no file of a run")
        if found.st_size > limit:
            raise Damage(f"{path.name} has {found.st_size:,} bytes, more than {limit:,}")
        return path.read_bytes()
    except OSError as error:
        raise Damage(f"{path.name} cannot be read: {error.strerror}") from error


def read_part(folder: Path, entry: Entry, kind: str) -> bytes:
    """A part as it was written. Damage where a bit of it has changed."""
    name, (digest, size) = part_name(kind, entry.update), entry.parts[kind]
    data = read(folder / name, min(size, LARGEST))
    if hashlib.sha256(data).hexdigest() != digest:
        raise Damage(f"{name} has changed since it was written")
    return data


def seal(content: dict[str, Any], above: str = "") -> dict[str, Any]:
    """The content with its "check", the SHA-256 of it and of the check above it."""
    text = json.dumps(content, sort_keys=True)
    return content | {"check": hashlib.sha256(f"{above}{text}".encode()).hexdigest()}


def parse(data: bytes) -> dict[str, Any]:
    """A JSON object. Damage where the bytes are something else."""
    try:
        content = json.loads(data)
    except (ValueError, RecursionError):
        content = None
    if not isinstance(content, dict):
        raise Damage("it holds no JSON object")
    return content


def unseal(content: dict[str, Any], above: str = "") -> dict[str, Any]:
    """A sealed object, itself. Damage where it is not as it was when it was sealed."""
    try:
        sound = seal({name: value for name, value in content.items() if name != "check"}, above) == content
    except (ValueError, RecursionError):  # numbers of thousands of digits, lone surrogates
        sound = False
    if not sound:
        raise Damage("it has changed since it was written")
    return content


def read_meta(folder: Path) -> dict[str, Any]:
    """meta.json, unchanged and of this version. LabError in a sentence where it is not."""
    try:
        meta = parse(read(folder / META, LIMITS[META]))
        if meta.get("format") != FORMAT:
            raise LabError(f"{folder} is no run of Drift Lab: its meta.json was written by another program; name another folder.")
        if meta.get("version") != VERSION:
            raise LabError(f"Run {folder.name} has format {meta.get('version')!r}, this labkit reads {VERSION}; use the one that wrote it.")
        return unseal(meta)
    except Damage as why:
        gone = not (folder / META).exists()
        raise LabError(
            f"{folder} is no run of Drift Lab; `labkit runs` lists those that there are."
            if gone
            else f"Run {folder.name} is damaged: its meta.json cannot be trusted ({why}); restore a copy or delete it."
        ) from why


def read_journal(folder: Path, above: str) -> tuple[list[Entry], int, str]:
    """Entries whose parts are all as they were written, the journal's length up to there, and what is damaged after them, or "".

    A torn last line was being written when the process ended: it is not there.
    """
    listed = written(folder)  # before the journal is read: a writer at work may add to both
    entries: list[Entry] = []
    length = 0
    try:
        for line in read(folder / JOURNAL, LIMITS[JOURNAL]).split(b"\n")[:-1]:
            entry = _entry(line, entries[-1] if entries else None, above)
            for kind in entry.parts:
                read_part(folder, entry, kind)
            entries.append(entry)
            above, length = entry.check, length + len(line) + 1
        last = entries[-1].update if entries else -1
        if len({update for _, update in listed if update > last}) > 1:  # a crash leaves the parts of one line without it
            raise Damage("journal.jsonl has been cut short")
    except Damage as why:
        return entries, length, str(why)
    return entries, length, ""


def _entry(line: bytes, before: Entry | None, above: str) -> Entry:
    """A line of the journal. Damage where it does not follow upon `before`."""
    try:
        row = unseal(parse(line), above)
    except Damage as why:
        raise Damage(f"a line of journal.jsonl cannot be trusted: {why}") from why
    try:
        parts = {kind: (str(part["sha256"]), int(part["bytes"])) for kind, part in row["parts"].items()}
        entry = Entry(int(row["update"]), int(row["step"]), tuple(map(str, row["notes"])), parts, row["check"])
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise Damage("a line of journal.jsonl lacks what a line has") from error
    ahead = (entry.update, entry.step) >= ((before.update + 1, before.step) if before else (0, 0))
    if not ahead or entry.update > 99_999_999 or not parts.keys() <= KINDS.keys():
        raise Damage("a line of journal.jsonl holds what no run writes")
    return entry


def written(folder: Path) -> list[tuple[str, int]]:
    """The files that parts may have been written to, with their update."""
    with suppress(OSError):
        return [(name, int(found[2])) for name in os.listdir(folder) if (found := PART.fullmatch(name))]
    return []


# ---- writing -----------------------------------------------------------------------------------------------------


def write_entry(folder: Path, content: dict[str, Any], parts: Mapping[str, bytes], above: str, length: int) -> tuple[Entry, int]:
    """Store parts, then the line that vouches for them, after `length` bytes of journal; gives the entry and the new length.

    Nothing counts before the line is whole. OSError if the disk refuses: then all is as it was before.
    """
    files = {folder / part_name(kind, content["update"]): data for kind, data in parts.items()}
    vouched = {kind: {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)} for kind, data in parts.items()}
    row = seal(content | {"parts": vouched}, above)
    line = json.dumps(row).encode() + b"\n"
    try:
        for path, data in files.items():
            write_whole(path, data)
        sync(folder)
        write_at(folder / JOURNAL, length, line)
    except BaseException:  # an interrupt too
        with suppress(OSError):
            write_at(folder / JOURNAL, length, b"")
            for path in files:
                path.unlink(missing_ok=True)
        raise
    return _entry(line, None, above), length + len(line)


def write_at(path: Path, length: int, data: bytes) -> None:
    """Cut a file to `length` bytes, append data, and sync."""
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0), 0o644)
    try:
        os.ftruncate(fd, length)
        os.lseek(fd, length, os.SEEK_SET)
        while data:
            data = data[os.write(fd, data) :]
        os.fsync(fd)
    finally:
        os.close(fd)


def sync(folder: Path) -> None:
    """Make the names in a folder durable, where the system can."""
    if hasattr(os, "O_DIRECTORY"):
        fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)


def make_meta(content: dict[str, Any]) -> dict[str, Any]:
    """What meta.json is to hold."""
    return seal({"format": FORMAT, "version": VERSION} | content)


def write_meta(folder: Path, meta: dict[str, Any]) -> None:
    """Write meta.json, which makes the folder a run."""
    write_whole(folder / META, json.dumps(meta, indent=1, ensure_ascii=False) + "\n")
    sync(folder)


def clear(folder: Path) -> None:
    """Make room for a new run where one was begun, or deleted, and not to the end. LabError where the folder holds anything else."""
    names = os.listdir(folder)
    if any(name not in (LOCK, HOLDER, JOURNAL) and not PART.fullmatch(name) and not SCRATCH.fullmatch(name) for name in names):
        raise LabError(f"{folder} is in use; choose another name, or delete it first.")
    sweep(folder, -1)


def sweep(folder: Path, after: int) -> None:
    """Remove what a writer that ended in the middle has left: scratch files, and parts of later updates than `after`."""
    for name in os.listdir(folder):
        part = PART.fullmatch(name)
        if SCRATCH.fullmatch(name) or (part and int(part[2]) > after):
            (folder / name).unlink(missing_ok=True)


def hold(folder: Path) -> FileLock:
    """Become the one who writes here. LabError says who else does, since when. The lock of a process that has ended is free."""
    lock = FileLock(folder / LOCK, timeout=0, thread_local=False)
    try:
        lock.acquire()
    except Timeout as error:
        raise LabError(f"Run {folder.name} is held by {holder(folder)}; until that one ends it can only be read.") from error
    except OSError as error:
        raise LabError(f"Run {folder.name} cannot be written ({error.strerror}); free some space, or make its folder yours.") from error
    with suppress(OSError):  # who holds it is a courtesy
        write_whole(folder / HOLDER, json.dumps({"pid": os.getpid(), "since": now()}))
    return lock


def release(folder: Path, lock: FileLock) -> None:
    """Let others write here."""
    with suppress(OSError):
        (folder / HOLDER).unlink(missing_ok=True)
    lock.release()


def held(folder: Path) -> bool:
    """Does someone write here?"""
    try:
        with FileLock(folder / LOCK, timeout=0):
            return False
    except Timeout:
        return True
    except OSError:  # a folder in which no one can write
        return False


def remove(folder: Path, lock: FileLock) -> None:
    """Delete a run that is held, and its folder where nothing else is in it. OSError if the disk refuses."""
    try:
        (folder / META).unlink(missing_ok=True)  # from here on it is no run
        sweep(folder, -1)
        (folder / JOURNAL).unlink(missing_ok=True)
    finally:
        release(folder, lock)
    with suppress(OSError):
        (folder / LOCK).unlink()
        folder.rmdir()


def holder(folder: Path) -> str:
    """Who writes here, where someone does, in words."""
    try:
        told = parse(read(folder / HOLDER, LIMITS[HOLDER]))
        return f"process {int(told['pid'])} since {datetime.fromisoformat(told['since']):%Y-%m-%d %H:%M:%S} UTC"
    except (Damage, KeyError, TypeError, ValueError):
        return "another process"


def now() -> str:
    """The time, ISO 8601, UTC."""
    return datetime.now(UTC).isoformat(timespec="seconds")
