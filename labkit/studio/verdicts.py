"""What became of the claims that a chapter teaches, read from the ledger. A chapter never states a verdict by hand."""
from dataclasses import dataclass

from labkit.claims.ledger import check_of, latest
from labkit.errors import LabError
from labkit.paper import discover
from labkit.studio.figures.forest import SYMBOLS, numbers
from labkit.verdict import weakest

COLUMNS = ("method", "verdict", "what decided", "effect [95% interval]", "seeds", "judged")
UNJUDGED, UNCHECKED = "not judged yet", "no check yet"


@dataclass(frozen=True, repr=False)
class Table:
    """A table in Markdown, which reads as plain text, too."""

    text: str

    def __repr__(self) -> str:
        return self.text

    def _repr_markdown_(self) -> str:
        return self.text


def verdicts(*wanted: str) -> Table:
    """The ledger's verdicts on papers by key, or on all papers of a chapter by its number, "03", the oldest paper first.

    Says the same for the same ledger, whatever the code is by now: whether a verdict is stale, `labkit papers` tells. LabError
    for what is neither a chapter with papers nor a paper.
    """
    rows = [COLUMNS, ("---",) * len(COLUMNS), *(_row(key) for name in wanted for key in _keys(name))]
    return Table("\n".join(f"| {' | '.join(row)} |" for row in rows))


def taught(number: str) -> list[str]:
    """The papers of a chapter, the oldest first."""
    papers = [algorithm.paper for algorithm in discover().values() if algorithm.paper.chapter is not None]
    return [paper.key for paper in sorted(papers, key=lambda p: (p.year, p.key)) if f"{paper.chapter:02d}" == number]


def _keys(name: str) -> list[str]:
    if not (found := [name] if name in discover() else taught(name)):
        raise LabError(f"There is no paper {name!r}, and no chapter of that number teaches one; `labkit papers` lists both.")
    return found


def _row(key: str) -> tuple[str, ...]:
    entry = latest(key)
    if entry is None:
        return f"`{key}`", UNJUDGED if check_of(key) else UNCHECKED, "", "", "", ""
    part = weakest(entry.parts)
    rule, seeds = part.rule.replace("|", "\\|"), str(len(entry.seeds))
    return f"`{key}`", f"{SYMBOLS[entry.held]} {entry.held}", rule, numbers(part), seeds, entry.time[:10]
