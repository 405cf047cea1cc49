"""JupyterLab opens the start page, with its widgets and without pop-ups, and is cut off from the network."""
import pytest
from playwright.sync_api import Error


def test_the_start_page_opens(page, jupyter):
    page.open_notebook(f"{jupyter}/lab/tree/notebooks/00_start_here.ipynb")
    page.locator(".jp-Notebook h1").first.wait_for()
    assert "Start here" in page.locator(".jp-Notebook h1").first.inner_text()
    assert page.locator(".jp-Dialog").count() == 0
    assert page.locator(".jp-toast-button").count() == 0


def test_pages_cannot_leave_this_machine(page):
    with pytest.raises(Error, match="ERR_FAILED"):
        page.goto("http://example.org/")
