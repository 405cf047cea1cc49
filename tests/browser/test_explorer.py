"""The Drift Explorer in a browser: train, pause, scrub, and a link that restores the view. Nothing is fetched from outside."""
import json
from urllib.parse import parse_qs, urlsplit


def drawn(page):
    """The data of every figure on the page, by the number of its place: what plotly holds, through shadow trees."""
    return json.loads(
        page.evaluate(
            """() => {
              const found = [];
              const walk = (node) => {
                for (const e of node.querySelectorAll("*")) {
                  if (e.classList.contains("js-plotly-plot")) found.push([e.data, e.layout.shapes || []]);
                  if (e.shadowRoot) walk(e.shadowRoot);
                }
              };
              walk(document);
              return JSON.stringify(found, (k, v) => (ArrayBuffer.isView(v) ? Array.from(v) : v));
            }"""
        )
    )


def curve(page):
    """How many moments the first figure's curve holds; fewer than ten seeds are dots beside it."""
    return next(len(trace["y"]) for trace in drawn(page)[0][0] if trace["mode"] == "lines")


def query(page):
    return {name: values[0] for name, values in parse_qs(urlsplit(page.url).query).items()}


def select(page, label, option):
    page.get_by_label(label, exact=True).select_option(label=option)


def chosen(page, label):
    return page.get_by_label(label, exact=True).evaluate("e => e.selectedOptions[0].label")


def test_train_pause_scrub_and_share(page, explorer):
    asked = []
    page.on("request", lambda request: asked.append(request.url))
    page.goto(f"{explorer}/?seeds=3&updates=40")
    train = page.get_by_role("button", name="Train", exact=True)
    train.wait_for()
    page.until(lambda: query(page).get("world") == "control.cartpole")
    select(page, "Drift from", "the policy before")
    train.click()
    page.until(lambda: page.updates() >= 3)

    page.get_by_role("button", name="Pause", exact=True).click()
    page.locator("[data-state=paused]").wait_for()
    page.wait_for_timeout(1500)
    stood = page.updates()
    page.wait_for_timeout(2000)
    assert page.updates() == stood < 40, "a paused run moves"
    page.get_by_role("button", name="Step", exact=True).click()
    page.until(lambda: page.updates() == stood + 1)
    page.until(lambda: len(drawn(page)) >= 3 and curve(page) == stood + 1)

    before = drawn(page)
    assert before[0][1][0]["x0"] == 1024 * (stood + 1)
    page.locator(".bk-input-group", has_text="Moment").locator(".noUi-handle").focus()
    page.keyboard.press("Home")
    page.until(lambda: drawn(page)[0][1][0]["x0"] == 1024)
    page.keyboard.press("ArrowRight")
    page.until(lambda: drawn(page)[0][1][0]["x0"] == 2048)
    frontier = drawn(page)[-1][0]
    assert frontier != before[-1][0], "the frontier ends where the scrubber stands"

    page.until(lambda: query(page).get("moment") == "1")
    shared = page.context.new_page()
    shared.goto(page.url)
    shared.get_by_role("button", name="Train", exact=True).wait_for()
    page.until(lambda: chosen(shared, "Drift from") == "the policy before")
    assert query(shared) == query(page) and query(page)["reference"] == "previous"
    assert shared.get_by_label("Seeds").input_value() == "3" and shared.get_by_label("Updates").input_value() == "40"
    shared.close()
    page.get_by_role("button", name="Stop", exact=True).click()
    page.locator("[data-state=stopped]").wait_for()
    assert page.errors == []
    outside = [url for url in asked if urlsplit(url).hostname not in (None, "localhost", "127.0.0.1")]
    assert outside == [], "assets come from this machine"


def test_mistakes_are_told_in_a_sentence(page, explorer):
    page.goto(f"{explorer}/?knobs=eps%3Dwide")
    page.get_by_text("The knobs 'eps=wide' cannot be read").wait_for()
    assert page.errors == []
