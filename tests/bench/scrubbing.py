"""The scrubber in a real Chromium: from the move of a slider to the picture, and pictures per second while it is dragged."""
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from harness import Row, missing

from labkit.lanes import Lanes
from labkit.record import Record
from labkit.studio.scrubber import Scrubber

MOVES = 50
CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium")
LATENCY = """async moves => {
  const slider = document.querySelector("input[aria-label=step]"), canvas = document.querySelector("canvas.lab-curves"), times = []
  for (let i = 0; i < moves; i++) {
    const drawn = canvas.dataset.drawn, begin = performance.now()
    slider.value = i % 2 ? 10 + i : 60 - i
    slider.dispatchEvent(new Event("input"))
    while (canvas.dataset.drawn === drawn) await new Promise(requestAnimationFrame)
    times.push(performance.now() - begin)
  }
  return times
}"""
FRAMES = """async seconds => {
  const slider = document.querySelector("input[aria-label=step]"), canvas = document.querySelector("canvas.lab-curves")
  const first = +canvas.dataset.drawn, begin = performance.now()
  for (let i = 0; performance.now() - begin < 1000 * seconds; i++) {
    slider.value = i % 100
    slider.dispatchEvent(new Event("input"))
    await new Promise(requestAnimationFrame)
  }
  return (+canvas.dataset.drawn - first) / (performance.now() - begin) * 1000
}"""


def page_html() -> str:
    """100 moments of 30 lanes."""
    lanes = Lanes(tuple(range(10)), {"eps": (0.1, 0.2, 0.4)})
    steps = torch.arange(1, 101)
    record = Record("ppo", "two", lanes, 1000 * steps, {"return": steps[:, None] * lanes.rand(1, 100).T}, {})
    return f"<!doctype html><meta charset=utf-8><body>{Scrubber(record, None, curves=('return',)).to_html()}</body>"


@contextmanager
def open_page(width: int, height: int) -> Iterator[Any]:
    """A page of the browser."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as tools:
        browser = tools.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        yield browser.new_page(viewport={"width": width, "height": height})
        browser.close()


def rows(repeats: int, share: float) -> list[Row]:
    what = "scrubber in Chromium"
    if gap := missing(what, "ms", "labkit", "playwright"):
        return [gap]
    if not CHROMIUM:
        return [Row(what, "ms", "labkit", note="skipped: no Chromium; install one or name it in the variable CHROMIUM")]
    with open_page(1280, 900) as page:
        page.set_content(page_html())
        page.wait_for_selector("canvas[data-drawn]", state="attached")
        times = sorted(page.evaluate(LATENCY, MOVES))
        rates = tuple(page.evaluate(FRAMES, 2) for _ in range(repeats))
    late = f"95% of {MOVES} moves within {times[int(0.95 * MOVES) - 1]:.0f} ms"
    return [
        Row(f"{what}: slider to picture", "ms, wall", "labkit", tuple(times), note=late),
        Row(f"{what}: dragged", "pictures/s", "labkit", rates),
    ]
