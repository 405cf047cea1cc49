"""The performative loop's page without a kernel: sliders by keyboard, what it says, and that nothing goes wrong in the browser."""
import pytest

from labkit.lanes import Lanes
from labkit.record import record
from labkit.studio import figures
from labkit.studio.loop import Loop
from labkit.tabular.performative_rl import performative_rl
from labkit.worlds.performative import performative


@pytest.fixture(scope="module")
def loop():
    world = performative(seed=12)
    lanes = Lanes((0, 1), {"beta": (2.0, 50.0), "lam": (0.5, 2.0)})
    return Loop(record(performative_rl, world, lanes, steps=25, fields=figures.watch_flow()), figures.floor(world), setting=2)


def test_a_larger_lam_turns_a_cycle_into_a_point_and_keys_move_every_slider(page, loop):
    page.set_content(f"<body style='background:#fff'>{loop.to_html()}</body>")
    page.wait_for_selector("canvas[data-values]", state="attached")
    said = page.locator("[aria-live]")
    page.wait_for_function("() => document.querySelector('[aria-live]').textContent.includes('lam=0.5, round 25')")
    assert "start 1 moves by up to" in said.text_content() and "start 2 moves by up to" in said.text_content()
    page.get_by_role("slider", name="lam").press("ArrowRight")
    page.wait_for_function("() => document.querySelector('[aria-live]').textContent.includes('lam=2, round 25')")
    assert said.text_content() == "beta=50, lam=2, round 25. In the last 10 rounds start 1 rests; start 2 rests."
    for name, key, part in (("beta", "Home", "beta=2, "), ("round", "Home", "round 1."), ("start", "End", "1 rounds start 2")):
        page.get_by_role("slider", name=name).press(key)
        page.wait_for_function("part => document.querySelector('[aria-live]').textContent.includes(part)", arg=part)
    assert page.errors == []
