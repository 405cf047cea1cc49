"""What all pages of the server share: their look, the header with its navigation, and the switch between light and dark."""
from pathlib import Path
from typing import Any

import panel as pn
from jinja2 import Template

PAGES = {"/": "Drift Explorer", "/moving": "Moving worlds", "/microscope": "GRPO microscope", "/ledger": "Ledger"}  # address -> title
SWITCH = """
const d = document.documentElement.dataset;
d.theme = d.theme === "dark" ? "light" : "dark";
localStorage.setItem("theme", d.theme);
told.value = d.theme;
"""
_files = Path(__file__).parent / "page"
HTML, NOTICE, MARK, CSS, CARD, TEXT, INPUT = (
    (_files / name).read_text()
    for name in ("page.html", "notice.html", "mark.svg", "page.css", "card.css", "text.css", "input.css")
)
WIDE: dict[str, Any] = {"sizing_mode": "stretch_width"}
FIELD: dict[str, Any] = WIDE | {"stylesheets": [INPUT], "margin": (4, 6, 6, 0)}
BARE: dict[str, Any] = WIDE | {"margin": 0}


def prose(words: str = "") -> pn.pane.HTML:
    """Words on a page, as HTML."""
    return pn.pane.HTML(words, stylesheets=[TEXT], **WIDE, margin=(4, 0))


def box(*parts: Any) -> pn.Column:
    """A card on a page."""
    return pn.Column(*parts, stylesheets=[CARD], **WIDE, margin=(0, 16, 16, 0))


def page(title: str, lead: str, view: Any, controls: Any = None) -> pn.Template:
    """A page under the common header: `view`, and `controls` to the left of it where there are any. `lead` is a sentence."""
    template = pn.Template(HTML, location=True)
    for name, value in {"css": CSS, "mark": MARK, "pages": PAGES, "title": title, "lead": lead, "controlled": controls is not None}.items():
        template.add_variable(name, value)
    parts = {"switch": _theme_switch(), "view": view} | ({} if controls is None else {"controls": controls})
    for name, part in parts.items():
        template.add_panel(name, part)
    return template


def notice(title: str, words: str, form: str = "", retry: int | None = None) -> str:
    """A page that says one thing, in HTML, with a link or a form below; it asks again after `retry` seconds."""
    return Template(NOTICE).render(css=CSS, mark=MARK, title=title, words=words, form=form, retry=retry)


def _theme_switch() -> pn.Row:
    """The page switches its theme by itself, and says so through a field that is not shown, for its link."""
    told = pn.widgets.TextInput(visible=False)
    if location := pn.state.location:  # once the page is there: what is set before then is not shown in its address
        pn.state.onload(lambda: location.sync(told, {"value": "theme"}))
    switch = pn.widgets.Button(name="Light / dark", stylesheets=[INPUT], margin=0)
    switch.js_on_click(args={"told": told}, code=SWITCH)
    return pn.Row(switch, told, margin=0)
