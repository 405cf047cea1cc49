"""The server: who may come in and from where, how many, and what each may use."""
import asyncio
import importlib.util
import urllib.error
import urllib.parse
import urllib.request
from dataclasses import replace
from http.cookiejar import CookieJar

import pytest
from tornado.httpclient import HTTPClientError

from labkit.errors import LabError
from labkit.files import ROOT
from labkit.studio import serve
from labkit.studio.limits import HOUR, Account, Limits, for_class
from labkit.studio.serve import Login, Sessions, Visit, options, origins, read_password

_spec = importlib.util.spec_from_file_location("bench_serve", ROOT / "tests" / "bench" / "serve.py")
bench = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(bench)


# ---- limits ------------------------------------------------------------------------------------------------------


def test_a_class_shares_the_cores_evenly():
    ten, twenty = for_class(10, 2), for_class(20, 2)
    assert ten.hour == 2 * twenty.hour == 100_000 * 3600 * 2 // 10 and ten.run * 4 == ten.hour
    assert (ten.sessions, twenty.sessions, ten.pages) == (24, 44, 2)
    for seats in (0, 201):
        with pytest.raises(LabError, match=f"1 to 200 seats; got {seats}"):
            for_class(seats, 2)


def test_an_account_counts_the_last_hour_of_each_user():
    now = [0.0]
    account = Account(Limits(hour=100), lambda: now[0])
    account.spend("ada", 60)
    account.spend("bob", 99)
    now[0] = 1200
    with pytest.raises(LabError, match="trained 100 environment steps within the hour, all that you may; resume in 40 minutes"):
        account.spend("ada", 40)
    now[0] = HOUR + 1
    account.spend("ada", 59)


# ---- who may come in ---------------------------------------------------------------------------------------------


def test_other_machines_need_a_password():
    with pytest.raises(LabError, match=r"Others could reach 0\.0\.0\.0 without a password; give one with"):
        serve.main(address="0.0.0.0", show=False)


def test_the_password_comes_from_a_file_or_the_environment(tmp_path):
    file = tmp_path / "secret"
    file.write_text("open sesame\n")
    assert read_password(file, {"DRIFTLAB_PASSWORD": "other"}) == "open sesame"
    assert read_password(None, {"DRIFTLAB_PASSWORD": "other"}) == "other" and read_password(None, {}) == ""
    file.write_text("\n")
    with pytest.raises(LabError, match="is empty; write the password into it"):
        read_password(file)
    with pytest.raises(LabError, match="cannot be read"):
        read_password(tmp_path / "gone")


@pytest.mark.parametrize("name, password, fine", [("ada", "sesame", True), ("ada", "sesam", False), (" ", "sesame", False)])
def test_a_login_needs_a_name_and_the_password(name, password, fine):
    login = object.__new__(type("Login", (Login,), {"password": "sesame"}))
    assert login._validate(name, password) is fine


def test_the_secret_of_cookies_is_another_one_at_every_start():
    one, two = (options("sesame", Limits())["cookie_secret"] for _ in range(2))
    assert one != two and len(one) == 64 and "cookie_secret" not in options("", Limits())


def test_pages_come_from_this_machine_and_from_where_is_said():
    assert origins("localhost", 5006) == ["localhost:5006", "127.0.0.1:5006"]
    assert origins("localhost", 1, ["lab.example:80"])[-1] == "lab.example:80"
    assert "*" not in "".join(origins("0.0.0.0", 5006))


def test_seats_are_counted():
    sessions = Sessions(Limits(sessions=3, pages=2))
    sessions.open = {i: Visit(user, None) for i, user in enumerate(["ada", "ada"])}
    assert sessions.refusal("bob") == "" and sessions.refusal("ada").startswith("ada already has 2 pages open")
    sessions.open[2] = Visit("bob", None)
    assert sessions.refusal("eve") == "All 3 pages that this server gives out are open."
    sessions.leave(2)
    assert sessions.refusal("eve") == ""


def test_a_page_that_nobody_touches_is_sent_to_rest_unless_it_trains():
    explorer = serve.Explorer(limits=replace(Limits(), idle=10.0))
    sessions = Sessions(explorer.limits)
    assert not sessions.idle(explorer)
    explorer.touched -= 11
    assert sessions.idle(explorer)
    explorer._guard(lambda: None)()
    assert not sessions.idle(explorer), "a press of a button is a touch"
    explorer.close()


# ---- a server ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def open_server():
    with bench.server() as (url, pid):
        yield url, pid


def test_a_few_pages_are_moved_while_one_trains(open_server):
    url, _ = open_server
    trips, updates = asyncio.run(bench.load(url, 3, 1, 2))
    assert len(trips) == 4 and len(updates) == 1


def test_pages_come_and_go(open_server):
    url, pid = open_server
    assert len(asyncio.run(bench.cycles(url, pid, 4))) == 2


def test_a_foreign_page_gets_no_socket(open_server):
    with pytest.raises(HTTPClientError, match="403"):
        asyncio.run(bench.Page.open(open_server[0], origin="http://elsewhere.example"))


def test_a_message_that_is_too_long_ends_the_socket(open_server):
    async def shout():
        page = await bench.Page.open(open_server[0])
        await page.set("p1", "value", "x" * (Limits().message + 1))
        await page.until("PATCH-DOC", "never said")

    with pytest.raises(ConnectionError, match=r"closed the socket"):
        asyncio.run(shout())


def test_a_class_logs_in(tmp_path):
    (tmp_path / "secret").write_text("sesame")
    with bench.server("--class", "1", "--password-file", str(tmp_path / "secret")) as (url, _):
        cookies = CookieJar()
        visitor = urllib.request.build_opener(urllib.request.HTTPCookieProcessor(cookies))
        asked = visitor.open(url).read().decode()
        assert 'name="password"' in asked and "Drift Lab" in asked and "<style>" in asked

        def log_in(password):
            form = urllib.parse.urlencode({"username": "ada", "password": password}).encode()
            return visitor.open(f"{url}login", form).read().decode()

        assert "The password is another one" in log_in("open") and not [c for c in cookies if c.name == "user"]
        assert "Drift Explorer" in log_in("sesame")
        visitor.open(url).read()
        refused = visitor.open(url).read().decode()
        assert "ada already has 2 pages open" in refused and 'http-equiv="refresh"' in refused
