"""A claim put to the test on seeds of the reader's choice, in a process of its own that gives way to all others."""
import multiprocessing
import os
import threading
import time
from collections.abc import Sequence
from multiprocessing.connection import Connection
from pathlib import Path

from labkit.claims import judging, ledger
from labkit.claims.ledger import Entry
from labkit.errors import LabError
from labkit.studio.worker import end_with_the_server

AT_ONCE = 2  # reruns of one server, whoever asked for them
_spawn = multiprocessing.get_context("spawn")  # a fork would copy the server's threads' locks
_under_way: list["Rerun"] = []


class Rerun:
    """A check of `key` on `seeds`, which adds what it finds to the ledger in `folder`. LabError where too many are under way.

    state: running, done, stopped or failed; then `error` says why in one sentence. `seconds` counts until it ends.
    """

    def __init__(self, key: str, seeds: Sequence[int], folder: Path) -> None:
        if sum(rerun.look() == "running" for rerun in _under_way) >= AT_ONCE:
            raise LabError(f"{AT_ONCE} reruns are under way on this server; start yours when one of them has ended.")
        self.key, self.seeds, self.state, self.error = key, tuple(seeds), "running", ""
        self._begun, self._ended = time.monotonic(), 0.0
        self._told, tell = _spawn.Pipe(duplex=False)
        self._process = _spawn.Process(target=_judge, args=(key, self.seeds, folder, tell), daemon=True)
        self._process.start()
        tell.close()
        _under_way[:] = [*(rerun for rerun in _under_way if rerun.state == "running"), self]

    @property
    def seconds(self) -> float:
        """How long it has been running, or ran."""
        return (self._ended or time.monotonic()) - self._begun

    def look(self) -> str:
        """The state as it is now."""
        if self.state == "running" and not self._process.is_alive():
            try:
                self.error = self._told.recv()
            except EOFError:
                self.error = f"The check of {self.key} was ended from outside; run it again."
            self._end("failed" if self.error else "done")
        return self.state

    def stop(self) -> None:
        """End it; nothing is added to the ledger."""
        if self.look() == "running":
            self._process.terminate()
            self._process.join()
            self._end("stopped")

    def _end(self, state: str) -> None:
        self.state, self._ended = state, time.monotonic()
        self._told.close()


def _judge(key: str, seeds: tuple[int, ...], folder: Path, tell: Connection) -> None:
    """The process: judge, write it down, and tell '' or what went wrong in a sentence."""
    threading.Thread(target=end_with_the_server, daemon=True).start()
    os.nice(19)
    try:
        found = judging.attempt(key, seeds)
        if isinstance(found, Entry):
            ledger.append(found, folder)
        tell.send("" if isinstance(found, Entry) else f"{found}.")
    except LabError as error:
        tell.send(str(error))
