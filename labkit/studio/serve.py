"""Serve the pages: a session per visitor, everything it needs from this machine, and no more for anyone than the limits grant."""
import errno
import hmac
import os
import secrets
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from html import escape
from pathlib import Path
from typing import Any

import panel as pn
import torch
from bokeh.document import Document
from jinja2 import Template
from panel.auth import BasicAuthProvider, BasicLoginHandler
from panel.io.location import Location
from tornado.ioloop import PeriodicCallback

from labkit.errors import LabError
from labkit.studio import ledger_page, worker
from labkit.studio.chapter_page import ROUTES
from labkit.studio.explorer import Explorer
from labkit.studio.limits import Account, Limits, for_class
from labkit.studio.microscope_page import Microscope
from labkit.studio.moving_page import MovingWorlds
from labkit.studio.pages import PAGES, notice, page
from labkit.studio.session import RATE, Session

LOCAL = ("localhost", "127.0.0.1", "::1")
PASSWORD = "DRIFTLAB_PASSWORD"  # the variable that may hold it
GONE = 15_000  # ms after which a session without a browser is ended: a slow one may take that long to come
LOOK = 5_000  # ms from one search for them to the next
RETRY = 15  # s
AGAIN = '<a class="act" href="./">Open it again</a><script>document.querySelector("a").href = "./" + location.search</script>'
FORM = """<form method="post">
  {% if errormessage %}<p class="bad" role="alert">The password is another one; ask who gave you this address.</p>{% endif %}
  <label>Your name<input name="username" autocomplete="username" autocapitalize="off" required autofocus></label>
  <label>Password<input name="password" type="password" autocomplete="current-password" required></label>
  <button class="act" type="submit">Come in</button>
</form>"""


@dataclass(frozen=True)
class Visit:
    """An open page: whose it is, and where it trains, the session that is to be kept in step."""

    user: str
    location: Location | None
    session: Session | None = None


class Sessions:
    """Who is there: a page for each visitor as long as there are seats, and an end for pages that nobody touches."""

    def __init__(self, limits: Limits) -> None:
        self.limits, self.account = limits, Account(limits)
        self.open: dict[Document, Visit] = {}
        self.due: set[Document] = set()

    def seated(self, make: Callable[[Visit], tuple[Visit, pn.Template]]) -> Callable[[], pn.Template]:
        """A factory of sessions: what `make` gives where there is a seat, and what to do about it where there is none."""

        def session() -> pn.Template:
            visit, doc = Visit(pn.state.user or "", pn.state.location), pn.state.curdoc
            if why := self.refusal(visit.user):
                return full(why)
            assert doc
            self.open[doc], template = make(visit)
            pn.state.on_session_destroyed(lambda context: self.leave(doc))
            return template

        return session

    def refusal(self, user: str) -> str:
        """Why there is no seat for one more page of this user; else nothing."""
        if len(self.open) >= self.limits.sessions:
            return f"All {self.limits.sessions} pages that this server gives out are open."
        mine = [visit.user for visit in self.open.values()].count(user)
        return f"{user or 'You'} already has {mine} pages open, all that one may have; close one." if mine >= self.limits.pages else ""

    def leave(self, doc: Document) -> None:
        """A session has ended, and its runs with it."""
        self.due.discard(doc)
        if (visit := self.open.pop(doc, None)) and visit.session:
            visit.session.close()

    def training(self, kind: type[Session], address: str, lead: str, visit: Visit) -> tuple[Visit, pn.Template]:
        """A visitor's page of this kind: restored from its link."""
        session, location = kind(self.limits, lambda steps: self.account.spend(visit.user, steps)), visit.location
        if location:  # once the page is there: what is set before then is not shown in its address
            pn.state.onload(lambda: location.sync(session, list(session.link), on_error=session.misread))
        return replace(visit, session=session), page(PAGES[address], lead, session.view, session.controls)

    def tick(self) -> None:
        """Wake the pages that have something to show: an idle page costs nothing."""
        for doc, visit in list(self.open.items()):
            if visit.session and doc not in self.due and (visit.session.stale or self.idle(visit.session)):
                self.due.add(doc)
                doc.add_next_tick_callback(partial(self.look, doc))

    def look(self, doc: Document) -> None:
        """Bring a page in step, or send it to rest."""
        self.due.discard(doc)
        visit = self.open.get(doc)
        if not visit or not visit.session:
            return
        if self.idle(visit.session) and visit.location:
            visit.location.param.update(reload=True, pathname=f"{(visit.location.pathname or '').rstrip('/')}/rest")
        visit.session.look()

    def idle(self, session: Session) -> bool:
        """Has nobody touched it for long, and does nothing train?"""
        return not session.busy and time.monotonic() - session.touched > self.limits.idle


def full(why: str) -> pn.Template:
    """Instead of a page: why there is none; it asks again by itself."""
    words = f"{escape(why)} This page tries again every {RETRY} seconds."
    return pn.Template(notice("No free seat", words, '<a class="act" href="">Try now</a>', RETRY))


def rest() -> pn.Template:
    """Where a page goes that nobody touches."""
    return pn.Template(notice("This page has gone to sleep", "Nobody touched it for long, so its runs were ended.", AGAIN))


class Login(BasicLoginHandler):
    """Any name, and the one password."""

    password = ""

    def _validate(self, username: str, password: str) -> bool:
        return bool(username.strip()) and hmac.compare_digest(password.encode(), self.password.encode())


class Provider(BasicAuthProvider):
    """Panel's login with names and one password, on a page like ours."""

    def __init__(self, password: str) -> None:
        form = notice("Drift Lab", "Your runs are kept apart by your name.", FORM)
        self.handler = type("Login", (Login,), {"password": password, "_login_template": Template(form, autoescape=True)})
        super().__init__()  # which looks at the handler

    @property
    def login_handler(self) -> type[Login]:
        """What answers at /login."""
        return self.handler


def read_password(file: Path | str | None, environment: Mapping[str, str] = os.environ) -> str:
    """From the file, else from the environment, else "". LabError where the file cannot be read, or there is nothing in it."""
    if file is None:
        return environment.get(PASSWORD, "")
    try:
        password = Path(file).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise LabError(f"The password file {file} cannot be read ({error}); name a text file with the password in it.") from error
    if not password:
        raise LabError(f"The password file {file} is empty; write the password into it.")
    return password


def origins(address: str, port: int, more: Sequence[str] = ()) -> list[str]:
    """Hosts from which a browser may open a page's socket: this machine by the names that `address` gives it, and `more`."""
    names = [address, "localhost", "127.0.0.1"]
    if address in ("0.0.0.0", "::", ""):
        names += [socket.gethostname(), socket.getfqdn(), *(str(a[4][0]) for a in socket.getaddrinfo(socket.gethostname(), None))]
    return [*dict.fromkeys(f"{name}:{port}" for name in names), *more]


def options(password: str, limits: Limits) -> dict[str, Any]:
    """What Panel's server is told, beside its pages and addresses."""
    told: dict[str, Any] = {
        "websocket_max_message_size": limits.message,
        "check_unused_sessions_milliseconds": LOOK,
        "unused_session_lifetime_milliseconds": GONE,
    }
    # The secret is never written down: cookies of an earlier start, or of another server, are worth nothing.
    login = {"auth_provider": Provider(password), "cookie_secret": secrets.token_hex(32)} if password else {}
    return told | login


def main(
    port: int = 5006,
    address: str = "localhost",
    allow_origin: Sequence[str] | None = None,
    show: bool = True,
    password_file: Path | str | None = None,
    no_password: bool = False,
    seats: int | None = None,
) -> None:
    """Serve until interrupted. Pages from hosts other than `address` and `allow_origin` are turned away.

    seats: for a class of so many. LabError where the port is taken, the address is not this machine's, or it can be reached
    from other machines and there is no password.
    """
    if not 0 <= port <= 65535:
        raise LabError(f"There is no port {port}; take one from 0 to 65535.")
    torch.set_num_threads(1)  # the page's pictures must not compete with training for cores
    password = read_password(password_file)
    limits = Limits() if seats is None else for_class(seats, worker.CORES)
    if seats is not None and not (password or no_password):
        password = secrets.token_urlsafe(6)
        print(f"Password of this class: {password}")
    if address not in LOCAL and not (password or no_password):
        raise LabError(f"Others could reach {address} without a password; give one with --password-file, or say --no-password.")
    if seats is not None:
        print(f"{seats} seats on {worker.CORES} cores, at http://{address}:{port}/. {limits.told()}")
    sessions = Sessions(limits)
    ledger = sessions.seated(lambda visit: (visit, ledger_page.session()))
    apps = {
        address: sessions.seated(partial(sessions.training, kind, address, lead))
        for address, (kind, lead) in {
            "/": (Explorer, "Train a policy, and watch how far it moves."),
            "/moving": (MovingWorlds, "Change the world while an agent learns."),
            "/microscope": (Microscope, "Train a language model small enough to see, and look inside its updates."),
        }.items()
    }
    apps |= {"/ledger": ledger, "/rest": rest}
    worker.warm_up()
    ticker = PeriodicCallback(sessions.tick, 1000 / RATE)
    ticker.start()
    try:
        pn.serve(
            apps, port=port, address=address, websocket_origin=origins(address, port, allow_origin or ()), show=show,
            title=PAGES | {"/rest": "Drift Lab"}, extra_patterns=ROUTES, **options(password, limits),
        )  # fmt: skip
    except OSError as error:
        taken = error.errno == errno.EADDRINUSE
        reason = "is taken; choose another with --port" if taken else f"cannot be served ({error.strerror}); see --address"
        raise LabError(f"{address}:{port} {reason}.") from error
    finally:
        ticker.stop()
