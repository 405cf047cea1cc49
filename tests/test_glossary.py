"""The glossary is what the chapters say, in order."""
from labkit.course import glossary
from labkit.course.build import sources


def test_terms_are_read_in_both_ways_of_writing_them(tmp_path):
    chapter = tmp_path / "07_x.md"
    entries = "**lane** one setting\nwith one seed · **KL divergence** mean log ratio.\n**Score**: a gradient."
    chapter.write_text(f"# X\n\n## Terms\n\n{entries}\n\n## References\n\n**not** a term\n")
    lane = "one setting with one seed"
    assert glossary.terms(chapter) == {"lane": lane, "KL divergence": "mean log ratio", "score": "a gradient"}
    lines = glossary.text([chapter]).splitlines()[4:]
    assert lines == ["- **KL divergence** (07): mean log ratio", f"- **lane** (07): {lane}", "- **score** (07): a gradient"]


def test_the_first_chapter_to_use_a_term_owns_it(tmp_path):
    for number, meaning in (("03", "later"), ("02", "earlier")):
        (tmp_path / f"{number}_x.md").write_text(f"## Terms\n\n**ratio** {meaning}\n")
    assert "- **ratio** (02): earlier" in glossary.text(list(tmp_path.glob("*.md")))


def test_every_chapter_has_terms():
    assert all(glossary.terms(chapter) for chapter in sources())
