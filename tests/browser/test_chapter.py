"""Chapter 3 in JupyterLab: run it all, scrub its picture with the keyboard, then train beside it."""


def test_chapter_three_runs_and_moves(page, jupyter):
    page.goto(f"{jupyter}/lab/tree/notebooks/03_trust_regions.ipynb?reset")
    idle = page.locator(".jp-Notebook-ExecutionIndicator[data-status=idle]")
    idle.wait_for()
    page.get_by_role("menuitem", name="Run", exact=True).click()
    page.get_by_role("menuitem", name="Run All Cells", exact=True).click()
    page.locator(".jp-Notebook-ExecutionIndicator[data-status=busy]").wait_for()
    idle.wait_for(timeout=240_000)
    assert page.locator(".jp-RenderedText[data-mime-type='application/vnd.jupyter.error']").count() == 0

    scrubber = page.locator(".lab-scrubber").first
    curves, rooms = scrubber.locator("canvas.lab-curves"), scrubber.locator("canvas.lab-floor")
    curves.scroll_into_view_if_needed()
    before = curves.get_attribute("data-values"), rooms.get_attribute("data-heat")
    knob = scrubber.get_by_role("slider", name="eps")
    knob.focus()
    page.keyboard.press("End")
    page.until(lambda: curves.get_attribute("data-values") != before[0] and rooms.get_attribute("data-heat") != before[1])
    now = curves.get_attribute("data-values")
    scrubber.get_by_role("slider", name="step").focus()
    page.keyboard.press("Home")
    page.until(lambda: curves.get_attribute("data-time") == "0" and curves.get_attribute("data-values") != now)

    page.get_by_role("button", name="Train", exact=True).click()
    page.until(lambda: page.updates() >= 2)
    page.get_by_role("button", name="Pause", exact=True).click()
    page.locator("[data-state=paused]").wait_for()
    page.wait_for_timeout(1500)
    stood = page.updates()
    page.wait_for_timeout(1500)
    assert page.updates() == stood
    live = page.locator(".lab-scrubber").last.locator("canvas.lab-floor")
    page.until(lambda: live.get_attribute("data-time") == str(stood - 1))
    page.get_by_role("button", name="Stop", exact=True).click()
    assert page.errors == []
