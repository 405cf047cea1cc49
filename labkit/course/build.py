"""Chapters in MyST text -> notebooks with the code they talk about, executed, the same bytes every time.

A chapter, course/chapters/NN_name.md, begins with

    ---
    kernelspec:
      display_name: Python 3
      language: python
      name: python3
    ---

and holds its code in cells: a fence of three backticks with `{code-cell} python`, a line `:tags: [name, ...]` where one
is needed. A line `# %load -s name[,name] path` in a cell shows top-level definitions, or a `Class.method`, from a file
of the repository; the rest of the cell follows them.

Tests run every notebook again and compare what it prints: round numbers, print shapes, or `PASS` after an assertion
with a tolerance. The tag `nbval-ignore-output` is for figures, widgets and timings: at most 40% of a notebook's code
cells may carry it. A chapter that writes to stderr or prints a memory address is not built. Cells run in notebooks/,
with one thread and a progress file of their own.
"""
import ast
import hashlib
import os
import re
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path

import jupytext
import nbformat
import torch
from jupyter_client.kernelspec import KernelSpecManager
from jupyter_client.manager import AsyncKernelManager
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError
from nbformat import NotebookNode

from labkit.course import glossary, recordings
from labkit.errors import LabError
from labkit.files import ROOT, write_whole

LOAD = re.compile(r"^# %load -s (\S+) (\S+)$", re.M)
ADDRESS = re.compile(r"\b0x[0-9a-fA-F]{6,}\b")
GLOSSARY = Path("course/glossary.md")
UNSTORED = {"application/vnd.jupyter.widget-view+json", "application/vnd.holoviews_load.v0+json", "application/vnd.holoviews_exec.v0+json"}
METADATA = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}


def sources(numbers: Iterable[str] = ()) -> list[Path]:
    """The chapter texts, in order; only those with these numbers if any are given. LabError for a number without a text."""
    found = sorted((ROOT / "course" / "chapters").glob("[0-9][0-9]_*.md"))
    wanted = {str(n).zfill(2) for n in numbers}
    missing = sorted(wanted - {p.name[:2] for p in found})
    if missing:
        raise LabError(f"There is no chapter {missing[0]} in course/chapters; there are {', '.join(p.name[:2] for p in found) or 'none'}.")
    return [p for p in found if not wanted or p.name[:2] in wanted]


def target(source: Path) -> Path:
    """The notebook that is built from a chapter text."""
    return ROOT / "notebooks" / f"{source.stem}.ipynb"


# the code that a chapter shows


def definition(code: str, name: str) -> str:
    """The source of a top-level function, class or assignment, or of a `Class.method`, with decorators and the comment above.

    KeyError if the code does not define it.
    """
    body, lines = ast.parse(code).body, code.splitlines()
    *outer, last = name.split(".")
    for scope in outer:
        body = next((n.body for n in body if isinstance(n, ast.ClassDef) and n.name == scope), [])
    for node in body:
        if last in _names(node):
            first = min([node.lineno, *(d.lineno for d in getattr(node, "decorator_list", []))]) - 1
            while first and lines[first - 1].lstrip().startswith("#"):
                first -= 1
            return "\n".join(lines[first : node.end_lineno])
    raise KeyError(name)


def _names(node: ast.stmt) -> set[str]:
    """What a statement defines."""
    if isinstance(node, ast.Assign):
        return {n.id for t in node.targets for n in ast.walk(t) if isinstance(n, ast.Name)}
    if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
        return {node.target.id}
    return {getattr(node, "name", "")}


def expand(cell: str) -> str:
    """Write under each line `# %load -s name[,name] path` the definitions it names, read from the clone. LabError if there are none."""

    def definitions(match: re.Match[str]) -> str:
        path = (ROOT / match[2]).resolve()
        if not path.is_relative_to(ROOT) or not path.is_file():
            raise LabError(f"`{match[0]}` names no file of the repository; give a path from its root.")
        code = path.read_text(encoding="utf-8")
        try:
            return "\n".join([match[0], "\n\n\n".join(definition(code, n) for n in match[1].split(","))])
        except KeyError as error:
            raise LabError(f"`{match[0]}`: {match[2]} defines no {error.args[0]!r} at its top level.") from error

    return LOAD.sub(definitions, cell)


# notebooks


def draft(source: Path) -> NotebookNode:
    """The notebook of a chapter, expanded and not yet executed, with ids that depend only on what a cell says."""
    try:
        notebook = jupytext.read(source, fmt="md:myst")
    except nbformat.ValidationError as error:
        raise LabError(f"{source.name} does not read as a notebook: {error.message}; begin it as the other chapters do.") from error
    seen: set[str] = set()
    for cell in notebook.cells:
        try:
            cell.source = expand(cell.source) if cell.cell_type == "code" else cell.source
        except LabError as error:
            raise LabError(f"{source.name}: {error}") from error
        cell.metadata = NotebookNode({"tags": sorted(cell.metadata["tags"])} if cell.metadata.get("tags") else {})
        cell.id = _identity(cell, seen)
    notebook.metadata = nbformat.from_dict(METADATA)
    notebook.nbformat, notebook.nbformat_minor = 4, 5
    return notebook


def _identity(cell: NotebookNode, seen: set[str]) -> str:
    """A digest of the cell, told apart from equal cells above it."""
    for copy in range(1000):
        digest = hashlib.sha256(f"{cell.cell_type}\n{cell.source}\n{copy}".encode()).hexdigest()[:12]
        if digest not in seen:
            break
    seen.add(digest)
    return digest


def execute(notebook: NotebookNode, name: str, folder: Path) -> None:
    """Run every cell in a fresh kernel of this interpreter, in `folder`, and keep only outputs that are the same next time.

    LabError naming the cell that fails, writes to stderr or prints a memory address.
    """
    with tempfile.TemporaryDirectory() as home:
        env = os.environ | {"DRIFTLAB_HOME": home, "OMP_NUM_THREADS": "1", "PLOTLY_RENDERER": "plotly_mimetype"}
        manager = AsyncKernelManager(kernel_name="python3", kernel_spec_manager=KernelSpecManager(kernel_dirs=[]))
        client = NotebookClient(
            notebook, km=manager, timeout=300, record_timing=False, store_widget_state=False, resources={"metadata": {"path": str(folder)}}
        )
        try:
            client.execute(env=env, cleanup_kc=True)
        except (CellExecutionError, CellTimeoutError, DeadKernelError) as error:
            raise LabError(f"{name} does not run to its end: {str(error).strip()}") from error
    notebook.metadata = nbformat.from_dict(METADATA)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs = [_stored(output, f"{name}, cell {cell.execution_count}") for output in cell.outputs]


def _stored(output: NotebookNode, place: str) -> NotebookNode:
    """An output without what changes from run to run."""
    if output.get("name") == "stderr":
        raise LabError(f"{place} writes to stderr ({output.text.strip().splitlines()[-1]!r}); silence its cause.")
    for kind in UNSTORED & set(output.get("data", {})):
        del output.data[kind]
    text = output.get("text", "") + output.get("data", {}).get("text/plain", "")
    if match := ADDRESS.search(text):
        raise LabError(f"{place} prints the memory address {match[0]}, which changes from run to run; print something else.")
    return output


def build(source: Path) -> Path:
    """Write a chapter's notebook, executed. LabError if the chapter does not run cleanly."""
    notebook, path = draft(source), target(source)
    path.parent.mkdir(exist_ok=True)
    execute(notebook, source.name, path.parent)
    nbformat.validate(notebook)
    write_whole(path, nbformat.writes(notebook).rstrip("\n") + "\n")
    return path


def stale(source: Path) -> str | None:
    """What is out of step between a chapter, the code it shows and its stored notebook; None if nothing is. Executes nothing."""
    path = target(source)
    if not path.exists():
        return f"{path.name} has not been built"
    stored, fresh = nbformat.read(path, 4), draft(source)
    for i, (old, new) in enumerate(zip(stored.cells, fresh.cells, strict=False), 1):
        if _shown(old) != _shown(new):
            begins = (new.source.strip().splitlines() or [""])[0]
            return f"{path.name}, cell {i} ({begins!r}) differs from {source.name} or the code it shows"
        if new.cell_type == "code" and new.source.strip() and old.execution_count is None:
            return f"{path.name}, cell {i} was never executed"
    if len(stored.cells) != len(fresh.cells):
        return f"{path.name} has {len(stored.cells)} cells, {source.name} has {len(fresh.cells)}"
    return None


def _shown(cell: NotebookNode) -> tuple[object, ...]:
    return cell.id, cell.cell_type, cell.source, cell.metadata.get("tags", [])


def orphans() -> list[str]:
    """Notebooks that no chapter text makes."""
    made = {target(s).name for s in sources()}
    return [f"{p.name} has no source in course/chapters" for p in sorted((ROOT / "notebooks").glob("*.ipynb")) if p.name not in made]


def record(names: Iterable[str]) -> None:
    """Train these recordings anew, or all that are missing or out of step if none is named. One thread: small networks gain by no more."""
    torch.set_num_threads(1)
    wanted, known = list(names), recordings.names()
    if unknown := [name for name in wanted if name not in known]:
        chapters = ", ".join(sorted({name.partition("/")[0] for name in known}))
        raise LabError(f"There is no recipe for the recording {unknown[0]!r}; course/recordings has some for chapters {chapters}.")
    for name in wanted or [n for n in known if recordings.stale(n)]:
        path = recordings.build(name)
        told = recordings.about(name)
        print(f"recorded {name}: {path.stat().st_size:,} bytes, {told['seconds']:g} CPU seconds")


def main(numbers: list[str], check: bool, named: list[str] | None = None) -> int:
    """Build chapters, or recordings where these are `named`, or with `check` say which are out of step. The exit code: 1 if some are."""
    if named is not None:
        record(named)
        return 0
    if not check:
        for source in sources(numbers):
            print(f"built {build(source).relative_to(ROOT)}")
        write_whole(ROOT / GLOSSARY, glossary.text(sources()))
        return 0
    faults = [f for f in map(stale, sources(numbers)) if f] + orphans()
    if not (ROOT / GLOSSARY).is_file() or (ROOT / GLOSSARY).read_text(encoding="utf-8") != glossary.text(sources()):
        faults.append(f"{GLOSSARY} is out of step with the chapters")
    sentences = [f"{fault}; run `labkit build`." for fault in faults] + recordings.faults()
    for sentence in sentences:
        print(sentence, file=sys.stderr)
    return int(bool(sentences))
