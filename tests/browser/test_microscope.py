"""The microscope in a browser: train, scrub, open a prompt with the keyboard, read its group, and get the same from the link."""
from tests.browser.test_explorer import chosen, query, select


def group(page):
    """What is read of the open prompt, without the words in its tooltips."""
    return page.locator(".responses").inner_text()


def titles(page):
    return [token.get_attribute("title") for token in page.locator(".responses td .token").all()]


def train(page):
    page.get_by_role("button", name="Train", exact=True).click()
    page.locator("[data-state=done]").wait_for(timeout=240_000)
    page.get_by_text("The update after this moment learns from").wait_for()


def test_a_group_is_read_token_by_token_and_the_link_gives_it_again(page, explorer):
    page.goto(f"{explorer}/microscope?algorithm=dapo&seeds=2&updates=4")
    page.get_by_role("button", name="Train", exact=True).wait_for()
    page.until(lambda: query(page).get("updates") == "4")
    train(page)
    page.until(lambda: page.get_by_text("After update 4").count() == 1)
    page.locator(".bk-input-group", has_text="Moment").locator(".noUi-handle").focus()
    page.keyboard.press("Home")
    page.get_by_text("After update 1", exact=True).wait_for()
    menu = page.get_by_label("Prompt", exact=True)
    menu.focus()
    page.keyboard.press("End")
    page.until(lambda: query(page).get("prompt") == "15")
    asked = chosen(page, "Prompt").removeprefix("16: ").split(" =")[0]
    page.until(lambda: group(page).startswith(asked))
    select(page, "Tokens coloured by", "weight")
    page.until(lambda: "how hard the update lifts the token" in group(page))
    assert "✓ right" in group(page) or "✗ wrong" in group(page)
    assert all("probability" in title and "advantage" in title and "ratio" in title for title in titles(page)) and titles(page)
    page.until(lambda: query(page).get("moment") == "0" and query(page).get("colour") == "weight")

    shared = page.context.new_page()
    shared.goto(page.url)
    shared.get_by_role("button", name="Train", exact=True).wait_for()
    page.until(lambda: chosen(shared, "Tokens coloured by") == "weight")
    train(shared)
    shared.locator(".bk-input-group", has_text="Moment").locator(".noUi-handle").focus()
    shared.keyboard.press("Home")
    shared.get_by_text("After update 1", exact=True).wait_for()
    page.until(lambda: group(shared) == group(page) and titles(shared) == titles(page))
    shared.close()
    assert page.errors == []


def test_a_world_without_text_is_told(page, explorer):
    page.goto(f"{explorer}/microscope?world=finite.cliff")
    page.get_by_text("There is no world of text 'finite.cliff'").wait_for()
    assert page.errors == []
