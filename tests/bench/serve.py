"""How a served page bears a full class: python tests/bench/serve.py [--sessions 60] [--training 4] [--cycles 500]

Opens so many pages over real websockets, trains in some of them, and moves a knob's slider in the others: the round trip lasts
until the patch that shows its new value has come back. Then opens and closes pages, and watches the server's memory.
"""
import argparse
import asyncio
import json
import os
import re
import resource
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from html import unescape
from pathlib import Path
from typing import Any

from tornado.httpclient import AsyncHTTPClient, HTTPRequest
from tornado.websocket import WebSocketClientConnection, websocket_connect

WAIT = 300.0  # seconds that anything may take
REST = 22.0  # seconds after which the server has forgotten pages that were closed
ROUND = 50  # cycles from one look at the memory to the next


class Page:
    """A browser's end of a page: the part of Bokeh's protocol that a slider and a button need."""

    def __init__(self, socket: WebSocketClientConnection) -> None:
        self.socket = socket
        self.models: dict[str, dict] = {}
        self.updates = 0  # of the run that it trains

    @classmethod
    async def open(cls, url: str, origin: str | None = None) -> "Page":
        """Fetch the page and open its socket, as if it came from `origin`."""
        got = await AsyncHTTPClient().fetch(url, request_timeout=WAIT)
        token = re.search(r'"token":\s*"([^"]+)"', unescape(got.body.decode()))
        assert token, "the page has no session"
        request = HTTPRequest(f"{url.replace('http', 'ws', 1)}ws", headers={"Origin": origin or url.rstrip("/")}, request_timeout=WAIT)
        page = cls(await websocket_connect(request, subprotocols=["bokeh", token[1]], max_message_size=2**28))
        await page.receive()  # ACK
        await page.send("PULL-DOC-REQ", {})
        page.models = {m["id"]: m for m in _models((await page.until("PULL-DOC-REPLY"))["doc"])}
        await page._event("document_ready")
        return page

    async def send(self, kind: str, content: dict[str, Any]) -> None:
        """Send a message."""
        for part in ({"msgid": os.urandom(8).hex(), "msgtype": kind}, {}, content):
            await self.socket.write_message(json.dumps(part))

    async def receive(self) -> tuple[str, dict[str, Any]]:
        """The next message: its kind and content; its buffers are left out. ConnectionError where the server has hung up."""
        header, _, content = [json.loads(await self._part()) for _ in range(3)]
        for _ in range(2 * header.get("num_buffers", 0)):
            await self._part()
        return header["msgtype"], content

    async def _part(self) -> str | bytes:
        part = await asyncio.wait_for(self.socket.read_message(), WAIT)
        if part is None:
            raise ConnectionError(f"the server closed the socket: {self.socket.close_reason}")
        return part

    async def until(self, kind: str, having: str = "") -> dict[str, Any]:
        """The next message of this kind whose content holds this text."""
        while True:
            got, content = await self.receive()
            if got == kind and having in json.dumps(content):
                return content

    async def _event(self, name: str, *entries: list) -> None:
        data = {"type": "event", "name": name, "values": {"type": "map", "entries": list(entries)}}
        await self.send("PATCH-DOC", {"events": [{"kind": "MessageSent", "msg_type": "bokeh_event", "msg_data": data}]})

    def find(self, kind: str, **attributes: Any) -> list[str]:
        """Ids of the models of this kind with these attributes."""
        return [
            i
            for i, m in self.models.items()
            if m["name"].split(".")[-1] == kind and attributes.items() <= m.get("attributes", {}).items()
        ]

    async def press(self, label: str) -> None:
        """Press a button."""
        await self._event("button_click", ["model", {"id": self.find("Button", label=label)[0]}])

    async def set(self, model: str, attribute: str, value: Any) -> None:
        """Change a model as the browser does."""
        await self.send("PATCH-DOC", {"events": [{"kind": "ModelChanged", "model": {"id": model}, "attr": attribute, "new": value}]})

    async def slide(self, place: int) -> float:
        """Move the first knob's slider; seconds until the field beside it shows the new value."""
        slider = next(i for i in self.find("Slider", start=0) if "title" not in self.models[i]["attributes"])
        field = self.find("TextInput", title="values")[0]
        begun = time.perf_counter()
        await self.set(slider, "value", place)
        await self.until("PATCH-DOC", f'"{field}"')
        return time.perf_counter() - begun


def _models(tree: Any) -> Iterator[dict]:
    if isinstance(tree, dict):
        if tree.get("type") == "object" and "id" in tree:
            yield tree
        tree = list(tree.values())
    if isinstance(tree, list):
        for branch in tree:
            yield from _models(branch)


@contextmanager
def server(*options: str) -> Iterator[tuple[str, int]]:
    """A server of our own: its address and process id."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    command = [sys.executable, "-m", "labkit.cli", "serve", "--no-show", "--port", str(port), *options]
    process = subprocess.Popen(command, env=os.environ | {"OMP_NUM_THREADS": "1"}, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        _answers(port, process)
        yield f"http://localhost:{port}/", process.pid
    finally:
        process.terminate()
        process.wait(WAIT)


def _answers(port: int, process: subprocess.Popen) -> None:
    deadline = time.monotonic() + WAIT
    while True:
        assert process.poll() is None and time.monotonic() < deadline, "the server did not start"
        with suppress(OSError), socket.create_connection(("localhost", port), 1):
            return
        time.sleep(0.2)


def memory(pid: int) -> float:
    """Resident memory of a process, MiB."""
    return int(re.search(r"VmRSS:\s+(\d+)", Path(f"/proc/{pid}/status").read_text())[1]) / 1024  # type: ignore[index]


def cpu(pid: int) -> float:
    """CPU seconds of a process."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return sum(map(int, fields[11:13])) / os.sysconf("SC_CLK_TCK")


async def load(url: str, sessions: int, training: int, moves: int) -> tuple[list[float], list[int]]:
    """Round trips while `training` of the pages train, and what those say at the end."""
    busy = [await Page.open(f"{url}") for _ in range(training)]
    idle = [await Page.open(url) for _ in range(sessions - training)]
    readers = []
    for page in busy:
        await page.press("Train")
        readers.append(asyncio.create_task(_read(page)))
    async with asyncio.timeout(WAIT):
        while not all(page.updates for page in busy):  # until then they only get ready
            await asyncio.sleep(0.1)
    trips = []
    for move in range(moves):
        for page in idle:
            trips.append(await page.slide(4 + move % 2))
        print(f"  {len(trips)} moves, p95 {statistics.quantiles(trips, n=20)[18]:.3f} s", flush=True)
    for reader in readers:
        reader.cancel()
    for page in [*busy, *idle]:
        page.socket.close()
    return trips, [page.updates for page in busy]


async def _read(page: Page) -> None:
    """Take what a training page is sent, and keep count of its updates."""
    while True:
        _, content = await page.receive()
        if found := re.findall(r"data-updates=(\d+)", json.dumps(content)):
            page.updates = int(found[-1])


async def cycles(url: str, pid: int, count: int) -> list[float]:
    """Memory before, and after each round of pages that were opened and closed."""
    kept = [memory(pid)]
    for cycle in range(1, count + 1):
        page = await Page.open(url)
        page.socket.close()
        if cycle % min(ROUND, count) == 0:
            await asyncio.sleep(REST)
            kept.append(memory(pid))
            print(f"  {cycle} cycles, {kept[-1]:.0f} MiB", flush=True)
    return kept


def main() -> None:
    """Measure, and print a table."""
    options = argparse.ArgumentParser(description=__doc__)
    for name, default in {"sessions": 60, "training": 4, "moves": 5, "cycles": 500}.items():
        options.add_argument(f"--{name}", type=int, default=default)
    args = options.parse_args()
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(4096, resource.getrlimit(resource.RLIMIT_NOFILE)[1]),) * 2)
    rows: list[tuple[str, str]] = [("cores, load before", f"{len(os.sched_getaffinity(0))}, {os.getloadavg()[0]:.1f}")]
    with server() as (url, pid):
        begun, used = time.monotonic(), cpu(pid)
        trips, said = asyncio.run(load(url, args.sessions, args.training, args.moves))
        p50, p95 = statistics.median(trips), statistics.quantiles(trips, n=20)[18]
        rows.append((f"round trip, {args.sessions} sessions, {args.training} training", f"p50 {p50:.3f} s, p95 {p95:.3f} s"))
        rows.append(("updates of those that trained", ", ".join(map(str, said))))
        rows.append(("server, CPU seconds of wall seconds", f"{cpu(pid) - used:.0f} of {time.monotonic() - begun:.0f}"))
        rows.append((f"memory with {args.sessions} sessions", f"{memory(pid):.0f} MiB"))
    if args.cycles:
        with server() as (url, pid):
            kept = asyncio.run(cycles(url, pid, args.cycles))
        half = kept[1 + len(kept) // 2 - 1 :]
        rows.append((f"memory over {args.cycles} cycles", " ".join(f"{m:.0f}" for m in kept) + " MiB"))
        rows.append(("growth over the second half", f"{100 * (half[-1] / half[0] - 1):.1f}%"))
    width = max(len(name) for name, _ in rows)
    print("\n".join(f"{name.ljust(width)}  {value}" for name, value in rows))


if __name__ == "__main__":
    main()
