"""A chapter's table says what the ledger says, and the same every time."""
import pytest

from labkit.claims import ledger
from labkit.errors import LabError
from labkit.studio import verdicts as module
from labkit.studio.verdicts import UNCHECKED, UNJUDGED, taught, verdicts
from labkit.verdict import together
from tests.made_up import FAILED, estimate, own


@pytest.fixture
def book(monkeypatch):
    """A ledger of made-up entries: book[key] = entry."""
    entries = {}
    monkeypatch.setattr(module, "latest", entries.get)
    return entries


def rows(table):
    """The cells of a table in Markdown, without its head."""
    return [[cell.strip() for cell in line.strip("|").split(" |")] for line in str(table).splitlines()[2:]]


def test_a_row_tells_the_deciding_part(book):
    weak = estimate(0.1)
    book["ppo"] = own("ppo", together(estimate(3, what="another"), weak))
    numbers = f"{weak.value:.3g} [{weak.low:.3g}, {weak.high:.3g}]"
    assert rows(verdicts("ppo")) == [["`ppo`", "◇ inconclusive", weak.rule, numbers, "20", "2026-01-02"]]


def test_what_was_counted_has_no_interval(book):
    book["a2c"] = own("a2c", FAILED)
    assert rows(verdicts("a2c"))[0][1:4] == ["■ not held", "share of seeds is at least 0.8", "0.4"]


def test_a_chapter_shows_all_its_papers_the_oldest_first(book):
    book["ppo"] = own("ppo", estimate(3))
    shown = [row[0].strip("`") for row in rows(verdicts("03"))]
    assert shown == taught("03") and shown.index("trpo") < shown.index("ppo") < shown.index("fixpo")
    assert rows(verdicts("03"))[shown.index("ppo")][1] == "● held"
    assert rows(verdicts("ppo", "01"))[0][0] == "`ppo`" and len(rows(verdicts("ppo", "01"))) == 1 + len(taught("01"))


def test_what_was_not_judged_says_so(book, monkeypatch):
    assert rows(verdicts("fixpo")) == [["`fixpo`", UNJUDGED, "", "", "", ""]]
    monkeypatch.setattr(module, "check_of", lambda key: None)
    assert rows(verdicts("fixpo"))[0][1] == UNCHECKED


def test_markdown_plain_text_and_a_bar_in_a_rule(book):
    book["ppo"] = own("ppo", estimate(1, what="KL(a || b)"))
    table = verdicts("ppo")
    assert repr(table) == table._repr_markdown_() == table.text and "KL(a \\|\\| b)" in table.text


def test_what_does_not_exist_is_told():
    for name in ("04", "nobody"):
        with pytest.raises(LabError, match=f"no paper '{name}'"):
            verdicts(name)


def test_it_reads_the_ledger(tmp_path, monkeypatch):
    ledger.append(own("ppo", estimate(3)), tmp_path)
    monkeypatch.setattr(module, "latest", lambda key: ledger.latest(key, tmp_path))
    assert rows(verdicts("ppo"))[0][1] == "● held"
