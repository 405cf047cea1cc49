"""The Ledger in a browser: filter, choose by keyboard, a link that restores the view, two themes, and on to the chapter."""
from urllib.parse import urlsplit

from labkit.paper import discover


def test_filter_choose_share_and_read_on(page, explorer):
    asked = []
    page.on("request", lambda request: asked.append(request.url))
    page.goto(f"{explorer}/ledger?theme=light")
    table = page.get_by_role("region", name="All papers")
    table.get_by_role("button").first.wait_for()

    def names(on=table):
        return on.get_by_role("button").all_inner_texts()

    assert sorted(names()) == sorted(discover())
    page.until(lambda: "family=all" in page.url)
    page.get_by_label("Family", exact=True).select_option("tabular")
    page.until(lambda: "ppo" not in names() and "npg" in names())
    page.get_by_label("Search", exact=True).fill("markovian decision")
    page.keyboard.press("Enter")
    page.until(lambda: names() == ["value_iteration"])
    title = page.get_by_role("heading", name="value_iteration", exact=True)

    def choose():
        """By keyboard; again where the table was drawn anew between focus and key."""
        table.get_by_role("button", name="value_iteration").press("Enter")
        page.wait_for_timeout(1000)
        return title.is_visible()

    page.until(choose)
    page.until(lambda: table.get_by_role("button").get_attribute("aria-current") == "true")
    assert page.get_by_role("button", name="Rerun with these seeds").is_enabled()

    page.until(lambda: "paper=value_iteration" in page.url and "search=" in page.url)
    shared = page.context.new_page()
    shared.goto(page.url)
    shared.get_by_role("heading", name="value_iteration", exact=True).wait_for()
    page.until(lambda: names(shared.get_by_role("region", name="All papers")) == ["value_iteration"])
    assert shared.get_by_label("Family", exact=True).input_value() == "tabular"
    assert shared.get_by_label("Search", exact=True).input_value() == "markovian decision"
    shared.close()

    look = "e => [getComputedStyle(e).color, getComputedStyle(document.body).backgroundColor]"
    light = title.evaluate(look)
    page.get_by_role("button", name="Light / dark").click()
    page.until(lambda: "theme=dark" in page.url)
    dark = title.evaluate(look)
    assert light[0] != dark[0] and light[1] != dark[1]

    with page.expect_popup() as opened:
        table.get_by_role("link", name="01").click()
    chapter = opened.value
    chapter.on("request", lambda request: asked.append(request.url))
    chapter.locator("math").first.wait_for()
    chapter.locator(".js-plotly-plot").first.wait_for(state="attached")
    assert chapter.evaluate("document.documentElement.dataset.theme") == "dark"
    assert page.errors == []
    outside = [url for url in asked if urlsplit(url).hostname not in (None, "localhost", "127.0.0.1")]
    assert outside == [], "assets come from this machine"
