"""Importing the package, the first curve after pressing Train, and the memory that each chapter takes."""
import subprocess
import sys
import time

import nbformat
from harness import Row
from nbclient import NotebookClient

from labkit import worlds
from labkit.files import ROOT
from labkit.lanes import Lanes
from labkit.on_policy.family import ppo

PEAK = """import pathlib, re, resource, sys
status = pathlib.Path("/proc/self/status")  # where there is none: this process may have inherited its parent's peak
told = re.search(r"VmHWM:\\s+(\\d+)", status.read_text()) if status.exists() else None
print(int(told[1]) * 1024 if told else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024))"""


def importing(module: str, repeats: int) -> Row:
    """In a fresh interpreter; CPU seconds of the import alone."""
    code = f"import time; t = time.process_time(); import {module}; print(time.process_time() - t)"
    command = [sys.executable, "-c", code]
    times = [float(subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT).stdout) for _ in range(repeats)]
    return Row(f"import {module}", "CPU-s", "labkit" if module.startswith("labkit") else module, tuple(times))


def first_curve(repeats: int) -> Row:
    """From pressing Train to the first snapshot of 30 lanes."""
    times = []
    for _ in range(repeats):
        begin = time.perf_counter()
        next(ppo.run(worlds.make("control.cartpole"), Lanes(tuple(range(10)), {"eps": (0.1, 0.2, 0.3)})))
        times.append(time.perf_counter() - begin)
    return Row("first curve of 30 lanes", "s, wall", "labkit", tuple(times))


def chapters() -> list[Row]:
    """Peak memory of a chapter's kernel, run from the top."""
    found = []
    for path in sorted((ROOT / "notebooks").glob("*.ipynb")):
        notebook = nbformat.read(path, 4)
        notebook.cells.append(nbformat.v4.new_code_cell(PEAK))
        NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(path.parent)}}).execute()
        found.append(Row(f"chapter {path.stem}", "MB, peak", "labkit", (int(notebook.cells[-1].outputs[0].text) / 1e6,)))
    return found


def rows(repeats: int, share: float) -> list[Row]:
    return [importing("labkit.on_policy.family", repeats), importing("torch", repeats), first_curve(repeats), *chapters()]
