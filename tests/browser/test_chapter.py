"""Chapter 3 in JupyterLab: run it all, scrub its picture with the keyboard, then train beside it."""

PATIENCE = 400_000  # ms: the chapter takes about 70 s on two idle cores


def test_chapter_three_runs_and_moves(page, jupyter):
    page.open_notebook(f"{jupyter}/lab/tree/notebooks/03_trust_regions.ipynb")
    page.get_by_role("menuitem", name="Run", exact=True).click()
    page.get_by_role("menuitem", name="Run All Cells", exact=True).click()
    page.locator(".jp-Notebook-ExecutionIndicator[data-status=busy]").wait_for()

    scrubber = page.locator(".lab-scrubber").first
    curves, rooms = scrubber.locator("canvas.lab-curves"), scrubber.locator("canvas.lab-floor")
    curves.wait_for(timeout=PATIENCE)
    before = curves.get_attribute("data-values"), rooms.get_attribute("data-heat")
    knob = scrubber.get_by_role("slider", name="eps")
    knob.focus()
    page.keyboard.press("End")
    page.until(lambda: curves.get_attribute("data-values") != before[0] and rooms.get_attribute("data-heat") != before[1])
    now = curves.get_attribute("data-values")
    scrubber.get_by_role("slider", name="step").focus()
    page.keyboard.press("Home")
    page.until(lambda: curves.get_attribute("data-time") == "0" and curves.get_attribute("data-values") != now)

    page.locator(".jp-Notebook-ExecutionIndicator[data-status=idle]").wait_for(timeout=PATIENCE)
    assert page.locator("[data-mime-type='application/vnd.jupyter.error']").count() == 0
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
