"""Which code a number rests on, told from the sources alone: a fingerprint that changes when that code does.

A module counts where it is imported, or where a package has a name from it that is used. Of a package itself its own code counts,
and not what it merely passes on. So a world counts for those who use its module, or give its key to `worlds.make`; all worlds
count for those who give `make` anything but a constant, or hand the whole package on. Comments, docstrings, formatting and the
wording of cards count nowhere.
"""
import ast
import hashlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from labkit.files import ROOT

CARD = {"key", "claim", "base"}  # what a card says that is more than wording
WORLDS = "labkit.worlds"
MAKE = {f"{WORLDS}.make", f"{WORLDS}.registry.make", f"{WORLDS}.registry"}
ALL = ".*"  # after a package: all that it offers


@dataclass(frozen=True)
class Facts:
    """What a module's text tells."""

    code: str  # digest
    names: frozenset[str]  # dotted, of what it imports and uses
    keys: frozenset[str]  # of the worlds that it makes
    offers: dict[str, str]  # the names that it has from elsewhere -> their dotted names there
    words: frozenset[str]  # its string constants


def fingerprint(modules: Iterable[str], root: Path = ROOT) -> str:
    """Of the code in `modules` and all that they rest on, as the sources under `root` have it: 16 hexadecimal digits.

    The same for every Python: it reads the syntax tree, not the text.
    """
    code = {name: _facts(path).code for name, path in rests_on(modules, root).items()}
    return hashlib.sha256(json.dumps(sorted(code.items())).encode()).hexdigest()[:16]


def rests_on(modules: Iterable[str], root: Path = ROOT) -> dict[str, Path]:
    """The modules of labkit and of the course that `modules` rest on, themselves included, and their files."""
    found: dict[str, Path] = {}
    queue, known = list(modules), set[str]()
    while queue:
        name = queue.pop()
        if name in known:
            continue
        known.add(name)
        for module, path in _origins(name, root):
            if module not in found:
                found[module] = path
                queue += _facts(path).names
                queue += [holder for key in _facts(path).keys for holder in holders(key, root)]
    return found


def holders(key: str, root: Path = ROOT) -> list[str]:
    """The modules of worlds in which a world's key stands; all worlds where it stands in none."""
    found = [path for path in sorted((root / "labkit" / "worlds").rglob("*.py")) if key in _facts(path).words]
    return [".".join(path.relative_to(root).with_suffix("").parts).removesuffix(".__init__") for path in found] or [WORLDS + ALL]


def _origins(name: str, root: Path) -> Iterator[tuple[str, Path]]:
    """The modules that a dotted name comes from: the packages around it, its module, and the one that a package has it from."""
    parts = name.split(".")
    if parts[0] not in ("labkit", "course"):
        return
    path, end = None, 0
    for i in range(1, len(parts) + 1):
        if here := _file(root.joinpath(*parts[:i])):
            path, end = here, i
            yield ".".join(parts[:i]), here
    if path and path.name == "__init__.py" and parts[end:]:
        first, *rest = parts[end:]
        offers = _facts(path).offers
        for origin in offers.values() if first == "*" else [offers[first]] if first in offers else []:
            yield from _origins(".".join([origin, *rest]), root)


def _file(path: Path) -> Path | None:
    """The file of the module that would lie there, if there is one."""
    return next((p for p in (path.with_suffix(".py"), path / "__init__.py") if p.is_file()), None)


def _facts(path: Path) -> Facts:
    return _told(path.read_text(encoding="utf-8"), path.name == "__init__.py")


@cache
def _told(source: str, package: bool) -> Facts:
    tree = ast.parse(source)
    offers, imported = dict[str, str](), set[str]()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            offers |= {a.asname or a.name.partition(".")[0]: a.name if a.asname else a.name.partition(".")[0] for a in node.names}
            imported |= {a.name for a in node.names}
        elif isinstance(node, ast.ImportFrom):
            offers |= {a.asname or a.name: f"{node.module}.{a.name}" for a in node.names}
            imported |= {f"{node.module}.{a.name}" for a in node.names}
    if package:  # what it passes on is looked up in `offers`
        tree.body, imported = [node for node in tree.body if not _passes_on(node)], set()
    words = frozenset(n.value for n in ast.walk(tree) if isinstance(n, ast.Constant) and isinstance(n.value, str))
    used, keys = _used(tree, offers)
    return Facts(hashlib.sha256(json.dumps(_shape(tree)).encode()).hexdigest(), frozenset(imported | used), keys, offers, words)


def _used(tree: ast.AST, offers: dict[str, str]) -> tuple[set[str], frozenset[str]]:
    """The imported names that are used, dotted as far as they go, and the keys of the worlds that are made."""
    used, keys, within = set[str](), set[str](), set[ast.AST]()
    for node in ast.walk(tree):  # outer nodes come first
        if isinstance(node, ast.Attribute):
            within.add(node.value)
        if isinstance(node, ast.Call) and _dotted(node.func, offers) in MAKE:
            match node.args:
                case [ast.Constant(str(key)), *_]:
                    keys.add(key)
                    within.add(node.func)
        if node not in within and (name := _dotted(node, offers)):
            used.add((WORLDS if name in MAKE else name) + ALL)
    return used, frozenset(keys)


def _dotted(node: ast.AST, offers: dict[str, str]) -> str:
    """`worlds.make` -> "labkit.worlds.make"; nothing for what is not imported."""
    if isinstance(node, ast.Attribute):
        return (head := _dotted(node.value, offers)) and f"{head}.{node.attr}"
    return offers.get(node.id, "") if isinstance(node, ast.Name) else ""


def _passes_on(node: ast.stmt) -> bool:
    """Is this a package's import, or the list of what it offers?"""
    named = isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__"
    return named or isinstance(node, ast.Import | ast.ImportFrom)


def _shape(node: Any) -> Any:
    """A syntax tree as nested lists, without what is empty (which differs between Pythons) and without words."""
    if isinstance(node, list):
        return [_shape(part) for part in node if not _is_text(part)]
    if not isinstance(node, ast.AST):
        return repr(node)
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "Paper":
        node.keywords = [word for word in node.keywords if word.arg in CARD]
    parts = [(name, _shape(value)) for name, value in ast.iter_fields(node) if value is not None and value != []]
    return [type(node).__name__, *parts]


def _is_text(node: Any) -> bool:
    """A docstring, or a string that stands alone like one."""
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
