"""Where the clone is, and how its files are written."""
import os
from pathlib import Path

from platformdirs import user_data_path

ROOT = Path(__file__).resolve().parents[1]  # course/ and notebooks/ lie beside labkit/


def home() -> Path:
    """The user's data folder: progress, runs, verdicts of one's own. The environment variable DRIFTLAB_HOME names another."""
    told = os.environ.get("DRIFTLAB_HOME")
    return Path(told).expanduser() if told else user_data_path("drift-lab", appauthor=False)


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
