"""README's pictures, made from the real thing: `python course/pictures/make.py` (needs Chromium, Playwright and Pillow)."""
import io
import os
import shutil
from pathlib import Path

import torch
from PIL import Image
from playwright.sync_api import Page, sync_playwright

from labkit import worlds
from labkit.lanes import Lanes
from labkit.meter import DriftMeter
from labkit.occupancy import exact_states
from labkit.on_policy.family import ppo
from labkit.record import Record, record
from labkit.studio import figures
from labkit.studio.scrubber import Scrubber
from labkit.worlds.grid import enumerate_states

HERE = Path(__file__).parent
WORLD = worlds.make("grid.fourrooms", size=9, layout_seed=1, view="state")


def train() -> Record:
    """The run of chapter 00 with more clips and more time."""
    meters = {"kl from start": DriftMeter(exact_states(enumerate_states(WORLD)))}
    lanes = Lanes(range(10), {"eps": (0.05, 0.1, 0.2, 0.4, 0.8)})
    return record(ppo, WORLD, lanes, 30_000, meters=meters, fields=figures.watch(WORLD))


def frames(page: Page, moments: int) -> list[Image.Image]:
    """Play through time at one clip, then through the clips at the last moment."""
    path = [("eps", 2, t) for t in range(moments)] + [("eps", p, moments - 1) for p in (2, 3, 4, 3, 2, 1, 0, 1, 2) for _ in range(3)]
    shots = []
    for _, setting, time in path:
        for name, value in (("eps", setting), ("step", time)):
            page.locator(f"input[aria-label={name}]").evaluate("(e, v) => { e.value = v; e.dispatchEvent(new Event('input')); }", value)
        page.wait_for_timeout(60)
        shots.append(Image.open(io.BytesIO(page.screenshot())).convert("P", palette=Image.Palette.ADAPTIVE, colors=64))
    return shots


def main() -> None:
    torch.set_num_threads(1)
    scrubber = Scrubber(train(), figures.floor(WORLD), setting=2)
    with sync_playwright() as tools:
        browser = tools.chromium.launch(
            executable_path=os.environ.get("CHROMIUM") or shutil.which("chromium"), args=["--no-sandbox", "--disable-gpu"]
        )
        page = browser.new_page(viewport={"width": 1000, "height": 500})
        page.set_content(f"<!doctype html><meta charset=utf-8><body style='background:#fff;margin:8px'>{scrubber.to_html()}</body>")
        page.wait_for_selector("canvas")
        shots = frames(page, len(scrubber.steps))
        shots[0].save(HERE / "lab.gif", save_all=True, append_images=shots[1:], duration=120, loop=0, optimize=True)
        browser.close()


if __name__ == "__main__":
    main()
