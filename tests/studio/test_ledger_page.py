"""The Ledger lists every paper as it stands, filters, shows one in full, and reruns claims for the reader alone."""
import html
import re

import pytest

from labkit.claims import ledger
from labkit.paper import discover
from labkit.studio import ledger_page, rerun
from labkit.studio.ledger_page import Ledger, chapter_address, history, own_folder
from labkit.studio.verdicts import UNCHECKED, UNJUDGED
from labkit.verdict import together
from tests.made_up import FAILED, entry, estimate, own

FIXPO = own("fixpo", together(estimate(2, what="share outside"), estimate(0.1)))


@pytest.fixture
def book(tmp_path, monkeypatch):
    """A ledger with a verdict on ppo, a stale one on fixpo, and one that was counted on a2c."""
    read, latest = ledger.entries, ledger.latest
    monkeypatch.setattr(ledger, "entries", lambda key=None, folder=tmp_path: read(key, folder))
    monkeypatch.setattr(ledger, "latest", lambda key: latest(key, tmp_path))
    for e in (own("ppo", estimate(3), code=ledger.code_of("ppo")), FIXPO, own("a2c", FAILED)):
        ledger.append(e, tmp_path)
    return tmp_path


@pytest.fixture
def page(book):
    return Ledger()


def looking_at(key):
    page = Ledger()
    page.paper = key
    return page


def plain(pane):
    """The words of a pane, without tags."""
    return html.unescape(re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", pane.object))).replace(" ,", ",").strip()


def keys(page):
    return [row["key"] for row in page.table.rows]


def drawn(page):
    return {key for trace in page.forest.object.data if trace.mode == "text" for key in trace.customdata}


# all papers


def test_every_paper_is_listed_as_it_stands(page):
    rows = {row["key"]: row for row in page.table.rows}
    assert rows.keys() == discover().keys() and drawn(page) == {"ppo", "fixpo", "a2c"}
    assert (rows["ppo"]["verdict"], rows["ppo"]["stale"], rows["ppo"]["seeds"]) == ("held", False, "20")
    assert (rows["fixpo"]["verdict"], rows["fixpo"]["stale"], rows["fixpo"]["judged"]) == ("inconclusive", True, "2026-01-02")
    assert rows["a2c"]["verdict"] == "not held" and rows["a2c"]["effect"] == "0.4"
    assert rows["trpo"]["verdict"] == UNJUDGED and rows["trpo"]["effect"] == ""
    assert f"● held: 1 ■ not held: 1 ◇ inconclusive: 1 · {UNJUDGED}: {len(rows) - 3}" in plain(page.counts)


def test_a_paper_without_a_check_says_so(book, monkeypatch):
    monkeypatch.setattr(ledger, "check_of", lambda key: None)
    page = looking_at("trpo")
    assert {row["verdict"] for row in page.table.rows if row["key"] == "trpo"} == {UNCHECKED} and not page.again.visible


def test_filters_and_search_narrow_table_picture_and_counts(page):
    page.family = "tabular"
    assert keys(page) and all(row["family"] == "tabular" for row in page.table.rows) and not page.overview.visible
    page.family, page.verdict = "all", "held"
    assert keys(page) == ["ppo"] == list(drawn(page)) and page.overview.visible and plain(page.counts) == "● held: 1"
    page.verdict, page.search = "all", "guaranteed TRUST"
    assert keys(page) == ["fixpo"]
    page.search = "no such thing"
    assert keys(page) == [] and plain(page.counts) == "No paper fits."


def test_a_link_sets_all_at_once(page):
    page.param.update(family="on_policy", verdict="all", search="trust", paper="fixpo")
    assert "fixpo" in keys(page) and page.detail.visible and not page.counts.object.startswith("<p role=status class=bad")


def test_a_link_that_cannot_be_read_is_told(page):
    page.misread({"family": "<b>"})
    assert "The link's family=&lt;b&gt; cannot be read" in page.counts.object


# one paper


def test_a_paper_is_chosen_in_the_table_and_in_the_picture(page):
    assert not page.detail.visible
    page.table.chosen = "fixpo"
    assert page.paper == "fixpo" and page.detail.visible
    page.forest.click_data = {"points": [{"customdata": "ppo"}]}
    assert page.paper == page.table.chosen == "ppo"
    page.paper = ""
    assert not page.detail.visible


def test_the_rule_is_shown_part_by_part_with_its_grounds(page):
    page.paper = "fixpo"
    words = plain(page.about)
    for part in FIXPO.parts:
        assert f"{part.rule} above 0 {part.value:.3g} [{part.low:.3g}, {part.high:.3g}]" in words
    assert "stale: the code that it rests on has changed since" in words and "Not yet tried on other seeds" in words
    assert "steps=40000; 12 CPU seconds; torch 2; some machine; code 0000000000000000" in words


def test_replications_stand_beside_the_verdict(book):
    ledger.append(replica(range(50, 70), 2.0), own_folder())
    ledger.append(replica(range(10, 30), 2.0), own_folder())  # shares seeds with the verdict: no replication
    page = looking_at("fixpo")
    assert "On other seeds: held 1." in plain(page.about)
    assert "seeds 50 to 69, rerun here" in page.picture_words.object and "seeds 0 to 19" in page.picture_words.object
    assert plain(page.past).count("rerun here") == 2 and plain(page.past).count("the ledger") == 1
    assert page.first.value == 70  # the first that no one has tried


def replica(seeds, middle):
    """fixpo's claim on other seeds."""
    verdict = together(estimate(2, what="share outside"), estimate(middle))
    return entry("fixpo", verdict, seeds, "2026-02-02T00:00:00+00:00", **FIXPO.settings)


def test_what_was_only_counted_has_no_picture(book, monkeypatch):
    ledger.append(own("trpo", FAILED.parts[1]), book)
    page = looking_at("trpo")
    assert not page.picture.visible and page.detail.visible


# reruns


class Fake:
    """A rerun that a test ends."""

    def __init__(self, key, seeds, folder):
        self.key, self.seeds, self.folder, self.state, self.seconds, self.error = key, tuple(seeds), folder, "running", 5.0, ""

    def look(self):
        return self.state

    def stop(self):
        self.state = "stopped"


@pytest.fixture
def chosen(page, monkeypatch):
    monkeypatch.setattr(ledger_page, "Rerun", Fake)
    page.paper = "fixpo"
    return page


def press(button):
    button.clicks += 1


def test_a_rerun_shows_how_far_it_is_and_then_its_result(chosen):
    chosen.first.value = 100
    press(chosen.go)
    assert chosen.rerun.seeds == tuple(range(100, 120)) and chosen.rerun.folder == own_folder()
    assert "aria-valuenow=40" in chosen.status.object and chosen.go.disabled and not chosen.halt.disabled
    ledger.append(replica(range(100, 120), -2.0), own_folder())
    chosen.rerun.state = "done"
    chosen.look()
    assert "Done: fixpo on seeds 100 to 119" in plain(chosen.status) and "seeds 100 to 119, rerun here" in chosen.picture_words.object
    assert "On other seeds: not held 1." in plain(chosen.about) and not chosen.go.disabled and chosen.first.value == 120


def test_a_rerun_can_be_stopped_and_ends_with_the_session(chosen):
    press(chosen.go)
    press(chosen.halt)
    assert chosen.rerun.state == "stopped" and "Nothing was added" in plain(chosen.status) and chosen.halt.disabled
    press(chosen.go)
    chosen.close()
    assert chosen.rerun.state == "stopped"


@pytest.mark.parametrize(
    ("first", "number", "words"),
    [(5, 20, "Seed 5 has been tried already; a replication needs fresh ones, from 20 on."), (100, 9, "10 seeds or more; got 9")],
)
def test_seeds_that_replicate_nothing_are_refused(chosen, first, number, words):
    chosen.first.value = first
    chosen.number.param.update(start=1, value=number)
    press(chosen.go)
    assert chosen.rerun is None and words in plain(chosen.status) and "bad" in chosen.status.object


def test_one_rerun_at_a_time(chosen):
    press(chosen.go)
    chosen.paper = "ppo"
    press(chosen.go)
    assert "Your rerun of fixpo is under way" in plain(chosen.status) and chosen.rerun.key == "fixpo"


def test_a_failure_is_told(chosen):
    press(chosen.go)
    chosen.rerun.state, chosen.rerun.error = "failed", "The check of fixpo failed."
    chosen.look()
    assert plain(chosen.status) == "The check of fixpo failed." and "bad" in chosen.status.object


def test_a_process_judges_and_writes_to_the_readers_folder(tmp_path):
    run = rerun.Rerun("value_iteration", range(50, 60), tmp_path)
    assert run.look() == "running"
    run._process.join(240)
    assert run.look() == "done" and run.error == "" and run.seconds > 0
    [found] = ledger.entries(folder=tmp_path)
    assert found.key == "value_iteration" and found.seeds == tuple(range(50, 60)) and found.held == "held"
    assert ledger.latest("value_iteration") not in [found] and (found, True) not in history("value_iteration")


def test_a_process_that_is_stopped_adds_nothing(tmp_path):
    run = rerun.Rerun("value_iteration", range(50, 60), tmp_path)
    run.stop()
    assert run.look() == "stopped" and ledger.entries(folder=tmp_path) == []


def test_a_process_that_dies_or_fails_is_told(tmp_path):
    run = rerun.Rerun("value_iteration", range(50, 60), tmp_path)
    run._process.kill()
    run._process.join()
    assert run.look() == "failed" and "ended from outside" in run.error


def test_a_server_has_a_limit(tmp_path, monkeypatch):
    monkeypatch.setattr(rerun, "AT_ONCE", 0)
    with pytest.raises(rerun.LabError, match="0 reruns are under way"):
        rerun.Rerun("value_iteration", range(50, 60), tmp_path)


# links


def test_a_chapter_opens_where_it_can_be_read(monkeypatch):
    assert chapter_address(3) == "chapter/03" and chapter_address(44) == chapter_address(None) == ""
    monkeypatch.setattr(type(ledger_page.pn.state), "headers", {"X-Forwarded-Context": "/user/ann/drift"})
    assert chapter_address(3) == "/user/ann/lab/tree/notebooks/03_trust_regions.ipynb"
