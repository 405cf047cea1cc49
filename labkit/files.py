"""Where the clone is, and how its files are written."""
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from platformdirs import user_data_path

ROOT = Path(__file__).resolve().parents[1]  # course/ and notebooks/ lie beside labkit/


def home() -> Path:
    """The user's data folder: progress, runs, verdicts of one's own. The environment variable DRIFTLAB_HOME names another."""
    told = os.environ.get("DRIFTLAB_HOME")
    return Path(told).expanduser() if told else user_data_path("drift-lab", appauthor=False)


def write_whole(path: Path, content: str | bytes) -> None:
    """Write a file whole or not at all. OSError if the disk refuses."""
    with replacing(path) as f:
        f.write(content.encode() if isinstance(content, str) else content)


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """A file to write that takes the place of `path` once it is complete: a temporary file, synced, then renamed."""
    scratch = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with scratch.open("w+b") as f:
            yield f
            f.flush()
            os.fsync(f.fileno())
        scratch.replace(path)
    finally:
        scratch.unlink(missing_ok=True)
