"""What every bench shares: CPU seconds of repeated runs, rows of a table, peers that may be missing, and the machine."""
import gc
import os
import platform
import statistics
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from importlib.util import find_spec

from labkit.claims import ledger


@dataclass(frozen=True)
class Row:
    """One line: what was measured, in which unit, every repeat of it, how often ours goes into the peer's median, and how often it must."""

    what: str
    unit: str
    who: str
    times: tuple[float, ...] = ()
    ratio: float | None = None
    note: str = ""
    least: float | None = None

    @property
    def median(self) -> float:
        return statistics.median(self.times)


def cpu(work: Callable[[], object], repeats: int, scale: float = 1.0) -> tuple[float, ...]:
    """CPU seconds of each run of `work`, times `scale`."""
    times = []
    for _ in range(repeats):
        gc.collect()
        begin = time.process_time()
        work()
        times.append((time.process_time() - begin) * scale)
    return tuple(times)


def against(ours: Row, *peers: Row) -> list[Row]:
    """Ours and its peers, each peer with the ratio of its median to ours."""
    return [ours, *(replace(p, ratio=p.median / ours.median) if p.times else p for p in peers)]


def slower(rows: Iterable[Row]) -> list[str]:
    """In words, the peers that we are not so many times faster than as we should be."""
    behind = [r for r in rows if r.ratio and r.least and r.ratio < r.least]
    return [f"{r.what}: {r.who} takes {r.ratio:.1f} times our CPU time, and should take {r.least:g} times." for r in behind]


def missing(what: str, unit: str, who: str, *modules: str) -> Row | None:
    """A row that says why a peer is not measured; None where all its modules are installed."""
    lacking = [m for m in modules if find_spec(m) is None]
    return Row(what, unit, who, note=f"skipped: {', '.join(lacking)} not installed") if lacking else None


def machine() -> str:
    """Processor, cores and versions; no host name."""
    return f"{ledger.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}"


def table(rows: list[Row]) -> str:
    """As Markdown: median with least and greatest, and how many times ours is faster."""
    lines = ["| what | unit | who | median | least | greatest | peer / labkit | |", "|---|---|---|---|---|---|---|---|"]
    for r in rows:
        numbers = [f"{x:.3g}" for x in (r.median, min(r.times), max(r.times))] if r.times else ["", "", ""]
        lines.append("| " + " | ".join([r.what, r.unit, r.who, *numbers, f"{r.ratio:.1f}" if r.ratio else "", r.note]) + " |")
    return "\n".join(lines)
