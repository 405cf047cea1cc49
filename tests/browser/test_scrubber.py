"""The Scrubber's page without a kernel: its sliders move what is drawn, by keyboard too, in light and dark."""
import math

import pytest
import torch

from labkit.lanes import Lanes
from labkit.record import Record
from labkit.studio.figures import Floor
from labkit.studio.scrubber import Scrubber

RETURNS = torch.arange(3.0)[:, None] + torch.tensor([0.0, 1, 100, 101, 200, 201, 300, 301])  # moments x (4 settings x 2 seeds)


def scrubber(floor: bool) -> Scrubber:
    ground = Floor(2, 1, torch.tensor([0, 1]), torch.tensor([[[1.0, 0.0]], [[-1.0, 0.0]]]), {})
    here = torch.tensor([0.2, 0.5, 0.9])[:, None].expand(3, 8)
    fields = {"policy": torch.ones(3, 8, 2, 1), "occupancy": torch.stack([here, 1 - here], -1)}
    lanes = Lanes((4, 5), {"lr": (1.0, 2.0), "eps": (0.1, 0.3)})
    record = Record("ppo", "two", lanes, torch.tensor([10, 20, 30]), {"return": RETURNS}, fields)
    return Scrubber(record, ground if floor else None, curves=("return",))


def visit(page, widget: Scrubber, background: str):
    page.set_content(f"<body style='background:{background}'>{widget.to_html()}</body>")
    page.wait_for_selector("canvas[data-values]", state="attached")
    return page.locator("canvas.lab-curves")


def dataset(canvas) -> dict:
    return canvas.evaluate("c => ({...c.dataset})")


def press(page, name: str, key: str):
    """Press a key on a slider; then wait until the picture has been drawn again."""
    drawn = page.locator("canvas.lab-curves").get_attribute("data-drawn")
    page.get_by_role("slider", name=name).press(key)
    page.wait_for_function("n => document.querySelector('canvas.lab-curves').dataset.drawn > n", arg=int(drawn))


def test_keys_on_the_sliders_change_the_numbers_drawn(page):
    canvas = visit(page, scrubber(floor=True), "#fff")
    assert {"setting": "0", "time": "2", "seed": "-1", "values": "2.5"}.items() <= dataset(canvas).items()
    press(page, "eps", "ArrowRight")
    press(page, "step", "Home")
    press(page, "seed", "End")
    assert {"setting": "1", "time": "0", "seed": "1", "values": "101"}.items() <= dataset(canvas).items()
    press(page, "lr", "ArrowRight")
    assert {"setting": "3", "values": "301"}.items() <= dataset(canvas).items()
    heat = [float(v) for v in dataset(page.locator("canvas.lab-floor"))["heat"].split()]
    assert math.isclose(heat[0], 0.2, abs_tol=0.005) and math.isclose(heat[1], 0.8, abs_tol=0.005)
    assert page.get_by_role("slider", name="seed").get_attribute("aria-valuetext") == "5"


def test_jupyterlab_leaves_the_keys_to_the_controls(page):
    visit(page, scrubber(floor=True), "#fff")
    assert page.locator("input, button").count() == 5
    assert page.locator(":is(input, button):not([data-lm-suppress-shortcuts])").count() == 0


def test_the_state_is_told_in_words(page):
    visit(page, scrubber(floor=True), "#fff")
    press(page, "step", "ArrowLeft")
    page.wait_for_function("() => document.querySelector('[aria-live]').textContent.includes('step 20')")
    words = page.locator("[aria-live]").text_content()
    assert words == "lr=1, eps=0.1, all 2 seeds, step 20: return 1.5. Most time, 50%, in column 0, row 0."
    assert words in page.get_by_role("img", name="Curves").get_attribute("aria-label")


def test_play_runs_and_pauses(page):
    canvas = visit(page, scrubber(floor=False), "#fff")
    page.get_by_role("button", name="play").click()
    page.wait_for_function("() => document.querySelector('canvas.lab-curves').dataset.time !== '2'")
    page.get_by_role("button", name="pause").click()
    assert page.locator("canvas.lab-floor").count() == 0 and dataset(canvas)["time"] in "01"
    assert page.get_by_role("button", name="play").count() == 1


@pytest.mark.parametrize(("background", "dark"), [("#fff", False), ("#111", True)])
def test_ink_follows_the_page(page, background, dark):
    visit(page, scrubber(floor=True), background)
    colour = page.locator(".lab-scrubber").evaluate("e => getComputedStyle(e).color.match(/\\d+/g).map(Number)")
    assert (min(colour) > 200) if dark else (max(colour) < 60)
    assert page.errors == []
