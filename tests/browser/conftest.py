"""A real Chromium, and the servers it visits. Nothing outside this machine can be reached from its pages."""
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest
from playwright.sync_api import sync_playwright

from labkit.files import ROOT

ADVICE = "no Chromium found; install one (Debian: apt-get install chromium) or name it in the variable CHROMIUM"
NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
APPS = ("/Applications/Google Chrome.app/Contents/MacOS/Google Chrome", "/Applications/Chromium.app/Contents/MacOS/Chromium")
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"]
FLAGS += ["--disable-component-update", "--disable-sync"]
LOCAL = ("localhost", "127.0.0.1")


def find_chromium() -> str | None:
    """Its path: what CHROMIUM says, else the first one installed."""
    candidates = [os.environ.get("CHROMIUM"), *map(shutil.which, NAMES), *APPS]
    return next((c for c in candidates if c and Path(c).exists()), None)


@pytest.fixture(scope="session")
def chromium():
    """The path of a Chromium; without one the test is skipped, or fails where DRIFTLAB_REQUIRE_BROWSER is set."""
    path = find_chromium()
    if path is None:
        (pytest.fail if os.environ.get("DRIFTLAB_REQUIRE_BROWSER") else pytest.skip)(ADVICE)
    return path


def pytest_terminal_summary(terminalreporter):
    if any(ADVICE in str(report.longrepr) for report in terminalreporter.stats.get("skipped", [])):
        terminalreporter.write_line(f"Browser tests skipped: {ADVICE}.")


@pytest.fixture(scope="session")
def browser(chromium):
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture
def page(browser):
    """A fresh page, 1280 x 900, with a patience of 60 s. `page.errors` collects uncaught exceptions of its scripts.

    page.until(condition, seconds) waits; page.updates() says how many updates the live run on the page has made;
    page.open_notebook(address) opens one in JupyterLab and waits for its kernel.
    """
    context = browser.new_context(viewport={"width": 1280, "height": 900}, accept_downloads=True)
    context.set_default_timeout(60_000)
    context.route(lambda url: not any(url.split("/")[2].startswith(host) for host in LOCAL) and url.startswith("http"), lambda r: r.abort())
    page = context.new_page()
    page.errors = []
    page.on("pageerror", lambda error: page.errors.append(str(error)))
    page.until, page.updates, page.open_notebook = partial(until, page), partial(updates, page), partial(open_notebook, page)
    yield page
    context.close()


@contextmanager
def serving(command: list[str], url: str, log: Path, **environment: str):
    """Run a server until the block ends; the block begins once `url` answers. Its words go to `log`."""
    with log.open("w") as words:
        env = os.environ | {"OMP_NUM_THREADS": "1"} | environment
        server = subprocess.Popen(command, stdout=words, stderr=subprocess.STDOUT, cwd=ROOT, env=env)
    try:
        deadline = time.monotonic() + 60
        while not _answers(url):
            assert server.poll() is None, f"{command[1:4]} ended with {server.returncode}: {log.read_text()[-2000:]}"
            assert time.monotonic() < deadline, f"{url} did not answer: {log.read_text()[-2000:]}"
            time.sleep(0.2)
        yield
    finally:
        server.terminate()
        try:
            server.wait(10)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()


def _answers(url: str) -> bool:
    try:
        return urllib.request.urlopen(url, timeout=5).status < 500
    except urllib.error.HTTPError as error:
        return error.code < 500
    except OSError:
        return False


def until(page, condition, seconds=60):
    """Until condition() holds; else the test fails, with what the page says of its run."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            said = page.locator("[data-updates]").all_inner_texts()
            pytest.fail(f"did not happen within {seconds} s; the page says {said}")
        page.wait_for_timeout(100)


def open_notebook(page, address):
    """Open a notebook alone, not beside what was open before, and wait until its kernel is connected: what is run earlier is lost."""
    page.goto(f"{address}?reset")
    page.locator("#jp-main-statusbar", has_text="| Idle").wait_for()


def updates(page):
    """How many updates the live run on the page has made."""
    return int(page.locator("[data-updates]").get_attribute("data-updates"))


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


@pytest.fixture(scope="session")
def jupyter_home(tmp_path_factory):
    """The folder that JupyterLab shows, with a copy of the notebooks; a test may put its own beside them."""
    home = tmp_path_factory.mktemp("jupyter")
    shutil.copytree(ROOT / "notebooks", home / "notebooks")
    return home


@pytest.fixture(scope="session")
def jupyter(chromium, jupyter_home):
    """The address of a JupyterLab over `jupyter_home`: open f"{jupyter}/lab/tree/notebooks/03_trust_regions.ipynb"."""
    home = jupyter_home
    quiet = home / "config" / "labconfig"
    quiet.mkdir(parents=True)
    (quiet / "page_config.json").write_text('{"disabledExtensions": {"@jupyterlab/apputils-extension:announcements": true}}')
    settings = home / "settings" / "@jupyterlab" / "notebook-extension"
    settings.mkdir(parents=True)
    (settings / "tracker.jupyterlab-settings").write_text('{"windowingMode": "none"}')  # cells out of sight can be found, too
    port = free_port()
    command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", "--ip=localhost", f"--port={port}"]
    command += [f"--ServerApp.root_dir={home}", "--IdentityProvider.token=", "--ServerApp.disable_check_xsrf=True"]
    environment = {"JUPYTER_CONFIG_DIR": str(home / "config"), "JUPYTER_PREFER_ENV_PATH": "1", "PLOTLY_RENDERER": "plotly_mimetype"}
    environment |= {"JUPYTERLAB_SETTINGS_DIR": str(home / "settings"), "DRIFTLAB_HOME": str(home)}
    environment |= {"JUPYTER_DATA_DIR": str(home / "data"), "PYTHONPATH": str(ROOT)}
    with serving(command, f"http://localhost:{port}/api", home / "log", **environment):
        yield f"http://localhost:{port}"


@pytest.fixture(scope="session")
def explorer(chromium, tmp_path_factory):
    """The address of a running Drift Explorer."""
    home = tmp_path_factory.mktemp("explorer")
    port = free_port()
    command = [sys.executable, "-m", "labkit.cli", "serve", "--port", str(port), "--no-show"]
    with serving(command, f"http://localhost:{port}/", home / "log", DRIFTLAB_HOME=str(home), PYTHONPATH=str(ROOT)):
        yield f"http://localhost:{port}"
