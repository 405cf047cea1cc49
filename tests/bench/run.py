"""`make bench`: speed, latency and memory of the lab beside its peers, in one run on one core; told in RESULTS.md and in a picture."""
import argparse
import time
from datetime import UTC, datetime
from pathlib import Path

import gpu
import growing
import learning
import picture
import scrubbing
import solving
import starting
import stepping
import torch
from harness import Row, machine, slower, table

from labkit.files import write_whole

PARTS = {"ppo": learning, "grid": stepping, "solver": solving, "growth": growing, "start": starting, "browser": scrubbing, "cuda": gpu}
RESULTS = Path(__file__).with_name("RESULTS.md")


def report(found: dict[str, list[Row]], repeats: int) -> str:
    """The whole page."""
    head = f"# Measured\n\n{datetime.now(UTC):%Y-%m-%d}, {machine()}, one thread, {repeats} repeats.\n"
    return head + "".join(f"\n## {name}\n\n{table(rows)}\n" for name, rows in found.items())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"{', '.join(PARTS)} (default: all, which also writes {RESULTS.name})")
    parser.add_argument("--repeats", type=int, default=5, help="runs of each")
    parser.add_argument("--share", type=float, default=0.1, help="share of 100,000 training steps to run and scale up")
    arguments = parser.parse_args()
    if unknown := set(arguments.parts) - PARTS.keys():
        parser.error(f"there is no part {min(unknown)!r}; parts are {', '.join(PARTS)}")
    torch.set_num_threads(1)
    found = {}
    for name in arguments.parts or PARTS:
        begin = time.perf_counter()
        found[name] = PARTS[name].rows(arguments.repeats, arguments.share)
        print(f"\n{name}, {time.perf_counter() - begin:.0f} s\n\n{table(found[name])}", flush=True)
    if not arguments.parts:
        write_whole(RESULTS, report(found, arguments.repeats))
        picture.write(found)
    if behind := slower(row for rows in found.values() for row in rows):
        raise SystemExit("\n".join(behind))


if __name__ == "__main__":
    main()
