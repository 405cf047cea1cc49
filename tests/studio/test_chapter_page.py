"""A chapter's page shows the stored notebook: text, code, figures that draw themselves, and nothing from outside."""
import json
import re

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output
from tornado.testing import AsyncHTTPTestCase
from tornado.web import Application

from labkit.studio.chapter_page import PLOTLY, ROUTES, chapter


@pytest.fixture
def path(tmp_path):
    """A notebook with a figure and its words."""
    figure = {"data": [{"x": [1, 2], "name": "</script>"}], "layout": {}, "frames": []}
    outputs = [new_output("display_data", {PLOTLY: figure, "text/plain": "Figure()"}), new_output("stream", text="PASS")]
    cells = [new_markdown_cell("# Drift\n\nIt is $x^2$."), new_code_cell("print(1)", outputs=outputs)]
    nbformat.write(new_notebook(cells=cells), tmp_path / "07_some_drift.ipynb")
    return tmp_path / "07_some_drift.ipynb"


def test_a_page_holds_text_code_output_and_figure(path):
    page = chapter(path, 0.0)
    assert "<title>07 some drift</title>" in page and "It is $x^2$." in page and "PASS" in page and "Figure()" not in page
    told = re.search(r"const told = (\{.*?\});Plotly", page)[1]
    assert json.loads(told)["data"] == [{"x": [1, 2], "name": "</script>"}] and "</script>" not in told


def test_all_that_a_page_loads_comes_from_the_server(path):
    page = chapter(path, 0.0)
    sources = re.findall(r'src="([^"]+)"', page)
    assert len(sources) == 3 and all(source.startswith("../static/") for source in sources) and "http" not in page


def test_a_page_follows_its_notebook(path):
    before = chapter(path, 0.0)
    path.write_text(path.read_text().replace("Drift", "Shift"))
    assert "Shift" in chapter(path, 1.0) and "Shift" not in before


class TestAddress(AsyncHTTPTestCase):
    """What the server answers, as it does without a login."""

    def get_app(self):
        app = Application(ROUTES)
        nobody = type("", (), {"get_user": None, "get_user_async": None, "get_login_url": None, "login_url": "/login"})
        app.auth_provider, app.prefix = nobody, ""
        return app

    def test_a_written_chapter_is_found(self):
        answer = self.fetch("/chapter/00")
        assert answer.code == 200 and "<title>00 start here</title>" in answer.body.decode()

    def test_others_are_told_in_a_sentence(self):
        planned, none = self.fetch("/chapter/44"), self.fetch("/chapter/99")
        assert planned.code == none.code == 404
        assert planned.body.decode() == "Chapter 44 has no notebook yet; `labkit build 44` makes one."
        assert "There is no chapter '99'" in none.body.decode()


class TestLogin(AsyncHTTPTestCase):
    """Where the server asks for a login, chapters do, too."""

    def get_app(self):
        app = Application(ROUTES, login_url="/login")
        stranger = type("", (), {"get_user": lambda handler: None, "get_user_async": None, "get_login_url": None, "login_url": "/login"})
        app.auth_provider, app.prefix = stranger, ""
        return app

    def test_a_stranger_is_sent_to_the_login(self):
        answer = self.fetch("/chapter/00", follow_redirects=False)
        assert answer.code == 302 and answer.headers["Location"].startswith("/login")
