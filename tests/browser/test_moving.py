"""Moving worlds in a browser: train, change the world, see the regret bend, and get the same from the link."""
from tests.browser.test_explorer import drawn, query


def regret(page):
    """The curve of the regret: (steps, values)."""
    line = next(trace for trace in drawn(page)[0][0] if trace["mode"] == "lines" and trace["line"]["width"] > 2)
    return line["x"], line["y"]


def train(page):
    page.get_by_role("button", name="Train", exact=True).click()


def test_the_world_jumps_the_regret_bends_and_the_link_gives_it_again(page, explorer):
    page.goto(f"{explorer}/moving?algorithm=q_learning&seeds=3&updates=40&speed=3")
    page.get_by_role("button", name="Train", exact=True).wait_for()
    page.until(lambda: query(page).get("updates") == "40")
    train(page)
    page.until(lambda: page.updates() >= 24, 180)
    page.get_by_role("button", name="Jump", exact=True).focus()
    page.keyboard.press("Enter")
    page.until(lambda: query(page).get("events", "").startswith("jump@"))
    page.locator("[data-state=done]").wait_for(timeout=180_000)
    page.until(lambda: len(drawn(page)) >= 4 and len(regret(page)[0]) == 40)
    steps, values = regret(page)
    jump = int(query(page)["events"].partition("@")[2])
    assert jump % 100 == 0 and 2400 <= jump <= 3900
    at = steps.index(jump)
    before, after = (values[at] - values[at - 6]) / 6, (values[at + 1] - values[at])
    assert after > 1.3 * before, f"regret grows by {before:.2f} an update before the jump and by {after:.2f} after it"
    assert [shape["x0"] for shape in drawn(page)[0][1]] == [jump, 4000]

    shared = page.context.new_page()
    shared.goto(page.url.replace("speed=3", "speed=0"))
    shared.get_by_role("button", name="Train", exact=True).wait_for()
    shared.get_by_text(f"at step {jump:,}").wait_for()
    train(shared)
    shared.locator("[data-state=done]").wait_for(timeout=180_000)
    page.until(lambda: len(drawn(shared)) >= 4 and regret(shared) == (steps, values))
    shared.close()
    assert page.errors == []


def test_an_event_that_cannot_be_read_is_told(page, explorer):
    page.goto(f"{explorer}/moving?events=leap%403")
    page.get_by_text("The event 'leap@3' cannot be read").wait_for()
    assert page.errors == []
