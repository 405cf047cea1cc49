"""The glossary, gathered from the section `## Terms` of each chapter: `**term** meaning`, a dot or a middle dot, the next."""
import re
from pathlib import Path

ENTRY = re.compile(r"\*\*(.+?)\*\*:?\s+(.+?)(?=\s*·?\s*\*\*|\s*\Z)", re.S)


def terms(chapter: Path) -> dict[str, str]:
    """The terms that a chapter's text introduces and what they mean; none where it has no such section."""
    section = re.search(r"^## Terms\n(.*?)(?=^#|\Z)", chapter.read_text(encoding="utf-8"), re.M | re.S)
    found = ENTRY.findall(section[1]) if section else []
    return {_named(_plain(term)): _plain(meaning) for term, meaning in found}


def text(chapters: list[Path]) -> str:
    """The glossary of these chapters, in alphabetical order, each term with the chapter that introduces it."""
    entries: dict[str, tuple[str, str]] = {}
    for chapter in sorted(chapters):
        for term, meaning in terms(chapter).items():
            entries.setdefault(term, (meaning, chapter.name[:2]))
    lines = [f"- **{term}** ({number}): {meaning}" for term, (meaning, number) in sorted(entries.items(), key=lambda e: _order(e[0]))]
    head = "Every term of the course, with the chapter that introduces it. `labkit build` writes this page."
    return "\n".join(["# Glossary", "", head, "", *lines, ""])


def _plain(words: str) -> str:
    """One line without a final dot."""
    return " ".join(words.split()).rstrip(" .;·")


def _named(term: str) -> str:
    """Small letters at the start, but for acronyms and people's names."""
    return term[0].lower() + term[1:] if re.match(r"(?!Fisher|Pinsker|Garnet|Bellman|Gauss)[A-Z][a-z-]", term) else term


def _order(term: str) -> str:
    return re.sub(r"[^a-z0-9 ]", "", term.lower())
