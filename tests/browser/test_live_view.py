"""In JupyterLab a live run grows, pauses, steps, is scrubbed and forked, while the kernel answers."""
import nbformat
import pytest

CELLS = (
    """
from labkit import worlds
from labkit.lanes import Lanes
from labkit.on_policy.family import ppo
from labkit.studio.live import LiveRun
from labkit.studio.widgets import LiveView
view = LiveView(LiveRun(ppo, worlds.make("control.cartpole"), Lanes((0, 1, 2)), updates=400), sliders=("eps",))
view
""",
    "print('the kernel answers', view.run.state, view.run.moments > 0)",
    "print('forked at', view.run.origin.step, 'with', view.run.lanes.points)",
)


@pytest.fixture
def notebook(jupyter_home):
    cells = [nbformat.v4.new_code_cell(source.strip()) for source in CELLS]
    path = jupyter_home / "live.ipynb"
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata={"kernelspec": {"name": "python3", "display_name": "Python 3"}}), path)
    return path.name


def run_cell(page, number):
    page.locator(".jp-Notebook .jp-CodeCell").nth(number).locator(".cm-content").click()
    page.keyboard.press("Control+Enter")


def test_a_live_run_in_a_notebook(page, jupyter, notebook):
    page.open_notebook(f"{jupyter}/lab/tree/{notebook}")
    run_cell(page, 0)
    page.locator("[data-state=idle]").wait_for()

    page.get_by_role("button", name="Train").click()
    page.until(lambda: page.updates() >= 3)
    run_cell(page, 1)
    page.get_by_text("the kernel answers running True").wait_for(timeout=15_000)

    page.get_by_role("button", name="Pause").click()
    page.locator("[data-state=paused]").wait_for()
    page.wait_for_timeout(1000)
    stood = page.updates()
    page.wait_for_timeout(1500)
    assert page.updates() == stood, "a paused run moves"
    page.get_by_role("button", name="Step").click()
    page.until(lambda: page.updates() == stood + 1)

    canvas = page.locator("canvas.lab-curves")
    page.until(lambda: int(canvas.get_attribute("data-time")) == stood)
    at_the_end = canvas.get_attribute("data-values")
    page.get_by_role("slider", name="step").focus()
    page.keyboard.press("Home")
    page.until(lambda: canvas.get_attribute("data-time") == "0")
    page.keyboard.press("ArrowRight")
    page.until(lambda: canvas.get_attribute("data-time") == "1")
    assert canvas.get_attribute("data-values") != at_the_end

    page.wait_for_timeout(500)  # the scrubber tells the kernel where it stands once it rests
    page.locator(".widget-hslider", has_text="eps").locator(".noUi-handle").focus()
    page.keyboard.press("ArrowRight")
    page.get_by_role("button", name="Fork").click()
    page.locator("[data-state=running]").wait_for()
    page.get_by_role("button", name="Stop").click()
    page.locator("[data-state=stopped]").wait_for()
    run_cell(page, 2)
    said = page.locator("[data-mime-type='application/vnd.jupyter.stdout']", has_text="forked at")
    said.wait_for(timeout=15_000)
    assert said.inner_text().strip() == "forked at 2048 with [{'eps': 0.25}]"
    assert page.errors == []
