"""Where the clone is, and how its files are written."""
import os
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]  # course/ and notebooks/ lie beside labkit/


def write_whole(path: Path, content: str | bytes) -> None:
    """Write a file whole or not at all: a temporary file, synced, then renamed. OSError if the disk refuses."""
    scratch = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with scratch.open("wb") as f:
            f.write(content.encode() if isinstance(content, str) else content)
            f.flush()
            os.fsync(f.fileno())
        scratch.replace(path)
    finally:
        scratch.unlink(missing_ok=True)
