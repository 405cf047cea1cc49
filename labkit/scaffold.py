"""`labkit new`: a paper's file, its test and its chapter entry, which run as written and wait for the change."""
import importlib
import inspect
import keyword
import re
from pathlib import Path

from labkit.course.syllabus import Chapter, load
from labkit.errors import LabError
from labkit.files import ROOT, write_whole
from labkit.paper import Algorithm, discover, module_of, slots

PAPER = '''"""{key}: say in a line what it changes, and where the paper says so."""
from dataclasses import replace

from {home} import {base}
from labkit.paper import Paper


def {change}({signature}):
    """What {key} does in place of the {slot} of {base}: give its equation and the shapes."""
    return {base}.{slot}({arguments})


{key} = replace(
    {base},
    {slot}={change},
    paper=Paper(
        key="{key}",
        title="Title of the paper",
        year=2024,
        url="https://doi.org/",
        claim="What the miniature checks, in a sentence.",
        lesson="What a reader should remember, in a sentence.",
        lost="What the miniature leaves out.",
        base="{base_key}",
        chapter={chapter},
    ),
)
'''

TEST = '''"""{key} changes the {slot} of {base} and nothing else."""
from {home} import {base}
from labkit.{family}.{key} import {key}
from labkit.paper import changed, discover


def test_it_changes_one_slot():
    assert changed({key}, {base}) == ["{slot}"]


def test_it_is_found_under_its_key():
    assert discover()["{key}"] is {key}
    assert {key}.paper.base == "{base_key}"
'''

ENTRY = """## {key}: say what it changes

Say why {base} needs the change, then show it.

```{{code-cell}} python
# %load -s {change} labkit/{family}/{key}.py
```

```{{code-cell}} python
from labkit.{family}.{key} import {key}
from labkit.paper import changed
from {home} import {base}

changed({key}, {base})
```
"""

CHAPTER = """---
kernelspec:
  display_name: Python 3
  language: python
  name: python3
---

# {title}

{minutes} minutes. After this chapter you can:

{objectives}

```{{code-cell}} python
from {home} import {base}
```
"""


def new(family: str, key: str, base: str | None = None, slot: str | None = None, chapter: str | None = None) -> list[Path]:
    """Write the three files and give their paths. LabError for a name that is taken or cannot be a Python name, and for an
    unknown family, base, slot or chapter; nothing is written then."""
    found = discover()
    _check_names(family, key, found)
    parent = _base(family, base, found)
    slot = _slot(parent, slot)
    entry = _chapter(key, chapter)
    home = module_of(parent)
    parameters = inspect.signature(slots(parent)[slot]).parameters
    words = {
        "family": family,
        "key": key,
        "home": home,
        "base": _variable(home, parent),
        "base_key": parent.paper.key,
        "slot": slot,
        "change": f"{key}_{slot}",
        "signature": ", ".join(parameters),
        "arguments": ", ".join(parameters),
        "chapter": int(entry.number),
    }
    texts = {
        ROOT / "labkit" / family / f"{key}.py": PAPER.format(**words),
        ROOT / "tests" / family / f"test_{key}.py": TEST.format(**words),
        entry.source: _with_entry(entry, words),
    }
    for path, text in texts.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, text)
    return list(texts)


def _check_names(family: str, key: str, found: dict[str, Algorithm]) -> None:
    families = sorted(p.parent.name for p in (ROOT / "labkit").glob("*/family.py"))
    if family not in families:
        raise LabError(f"There is no family {family!r}; known: {', '.join(families)}.")
    if not re.fullmatch(r"[a-z][a-z0-9_]*", key) or keyword.iskeyword(key):
        raise LabError(f"{key!r} cannot name a paper; use lower-case letters, digits and _, beginning with a letter, such as fixpo.")
    if key in found or (ROOT / "labkit" / family / f"{key}.py").exists():
        raise LabError(f"The name {key!r} is taken; `labkit papers` lists the names in use.")


def _base(family: str, base: str | None, found: dict[str, Algorithm]) -> Algorithm:
    members = {k: a for k, a in found.items() if type(a).__module__ == f"labkit.{family}.family"}
    if base is None:
        return next(a for a in members.values() if not a.paper.base)
    if base not in members:
        raise LabError(f"Family {family} has no method {base!r} to begin from; known: {', '.join(members)}.")
    return members[base]


def _slot(parent: Algorithm, slot: str | None) -> str:
    names = list(slots(parent))
    if slot is not None and slot not in names:
        raise LabError(f"{parent.paper.key} has no slot {slot!r}; its slots: {', '.join(names)}.")
    return slot or names[-1]


def _chapter(key: str, number: str | None) -> Chapter:
    course = load()
    chapter = course[number.zfill(2)] if number else course.chapter_of(key)
    if chapter is None:
        raise LabError(f"The syllabus does not say where {key!r} is taught; add --chapter NN.")
    return chapter


def _variable(home: str, algorithm: Algorithm) -> str:
    """The name that a module gives to an algorithm."""
    module = importlib.import_module(home)
    return next(name for name, value in vars(module).items() if value is algorithm)


def _with_entry(chapter: Chapter, words: dict) -> str:
    """The chapter's text with the paper's section before its exercises, summary or end."""
    objectives = "\n".join(f"- {o}" for o in chapter.objectives)
    about = {"title": chapter.title, "minutes": chapter.minutes, "objectives": objectives}
    text = chapter.source.read_text(encoding="utf-8") if chapter.source.exists() else CHAPTER.format(**about, **words)
    tail = re.search(r"^## (Exercises|Summary)", text, re.M)
    at = tail.start() if tail else len(text)
    return (text[:at].rstrip("\n") + "\n\n" + ENTRY.format(**words) + "\n" + text[at:]).rstrip("\n") + "\n"
