"""`make bench`: speed, latency and memory of the lab beside its peers, on one core; told in RESULTS.md and in a picture."""
import argparse
import re
import time
from datetime import UTC, datetime
from importlib import import_module
from pathlib import Path

import torch
from harness import Row, machine, slower, table

from labkit.files import write_whole

PARTS = {"ppo": "learning", "grpo": "writing", "grid": "stepping", "solver": "solving", "growth": "growing", "start": "starting",
         "browser": "scrubbing", "cuda": "gpu"}  # part -> its module, imported where it is asked for: not every machine has all peers
DRAWN = {"ppo", "grid", "growth"}
RESULTS = Path(__file__).with_name("RESULTS.md")


def section(name: str, rows: list[Row], repeats: int) -> str:
    """A part of the page, with when and where it was measured."""
    return f"## {name}\n\n{datetime.now(UTC):%Y-%m-%d}, {machine()}, one thread, {repeats} repeats.\n\n{table(rows)}\n"


def kept() -> dict[str, str]:
    """The page's sections as they stand."""
    text = RESULTS.read_text(encoding="utf-8") if RESULTS.exists() else ""
    return {part[3:].split("\n")[0]: part.rstrip() + "\n" for part in re.split(r"^(?=## )", text, flags=re.M)[1:]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"{', '.join(PARTS)} (default: all); {RESULTS.name} keeps the others")
    parser.add_argument("--repeats", type=int, default=5, help="runs of each")
    parser.add_argument("--share", type=float, default=0.1, help="share of 100,000 training steps to run and scale up")
    arguments = parser.parse_args()
    if unknown := set(arguments.parts) - PARTS.keys():
        parser.error(f"there is no part {min(unknown)!r}; parts are {', '.join(PARTS)}")
    torch.set_num_threads(1)
    found = {}
    for name in arguments.parts or PARTS:
        begin = time.perf_counter()
        found[name] = import_module(PARTS[name]).rows(arguments.repeats, arguments.share)
        print(f"\n{name}, {time.perf_counter() - begin:.0f} s\n\n{table(found[name])}", flush=True)
        sections = kept() | {name: section(name, found[name], arguments.repeats)}
        write_whole(RESULTS, "# Measured\n\n" + "\n".join(sections[part] for part in PARTS if part in sections))
    if found.keys() >= DRAWN:
        import_module("picture").write(found)
    if behind := slower(row for rows in found.values() for row in rows):
        raise SystemExit("\n".join(behind))


if __name__ == "__main__":
    main()
