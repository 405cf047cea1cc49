"""Serve the pages: a session per visitor, everything it needs from this machine."""
import errno
from collections.abc import Callable, Sequence

import panel as pn
import torch

from labkit.errors import LabError
from labkit.studio.explorer import LINK, RATE, Explorer
from labkit.studio.pages import PAGES, page


def explorer_session() -> pn.Template:
    """A visitor's Explorer: restored from its link, kept in step with its runs, which end with it."""
    explorer, location = Explorer(), pn.state.location
    if location:  # once the page is there: what is set before then is not shown in its address
        pn.state.onload(lambda: location.sync(explorer, LINK, on_error=explorer.misread))
    pn.state.add_periodic_callback(explorer.look, period=1000 // RATE)
    pn.state.on_session_destroyed(lambda context: explorer.close())
    return page(PAGES["/"], "Train a policy, and watch how far it moves.", explorer.view, explorer.controls)


SESSIONS: dict[str, Callable[[], pn.Template]] = {"/": explorer_session}


def main(port: int = 5006, address: str = "localhost", allow_origin: Sequence[str] | None = None, show: bool = True) -> None:
    """Serve until interrupted. Pages from hosts other than `address` and `allow_origin` are turned away.

    LabError where the port is taken or the address is not this machine's.
    """
    torch.set_num_threads(1)  # the page's pictures must not compete with training for cores
    origins = [f"{address}:{port}", f"localhost:{port}", f"127.0.0.1:{port}", *(allow_origin or [])]
    try:
        pn.serve(SESSIONS, port=port, address=address, websocket_origin=origins, show=show, title=PAGES)
    except OSError as error:
        taken = error.errno == errno.EADDRINUSE
        reason = "is taken; choose another with --port" if taken else f"cannot be served ({error.strerror}); see --address"
        raise LabError(f"{address}:{port} {reason}.") from error
