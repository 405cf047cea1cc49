"""A chapter as a page: the stored notebook with its results, for readers who have no JupyterLab at hand."""
import json
from functools import cache
from pathlib import Path

import nbformat
from bokeh.server.views.auth_request_handler import AuthRequestHandler
from jinja2 import Template
from nbconvert import HTMLExporter
from nbformat import NotebookNode
from panel.models.katex import KaTeX
from panel.models.plotly import PlotlyPlot
from pygments.formatters import HtmlFormatter
from tornado.ioloop import IOLoop
from tornado.web import authenticated

from labkit.course import syllabus
from labkit.errors import LabError
from labkit.studio.pages import CSS

PLOTLY = "application/vnd.plotly.v1+json"
_files = Path(__file__).parent / "page"
PAGE = Template((_files / "chapter.html").read_text(), autoescape=False)
LOOK = CSS + (_files / "chapter.css").read_text()


class ChapterPage(AuthRequestHandler):
    """Answers chapter/03. Behind a login where the server's other pages are."""

    @authenticated
    async def get(self, number: str) -> None:
        try:
            path = syllabus.load()[number].notebook
            changed = path.stat().st_mtime
        except (LabError, OSError) as error:
            unbuilt = f"Chapter {number} has no notebook yet; `labkit build {number}` makes one."
            self.set_status(404)
            self.set_header("Content-Type", "text/plain; charset=utf-8")
            self.finish(str(error) if isinstance(error, LabError) else unbuilt)
            return
        self.finish(await IOLoop.current().run_in_executor(None, chapter, path, changed))  # takes seconds: not in the server's own thread


ROUTES = [(r"/chapter/(\d\d)", ChapterPage)]


@cache
def chapter(path: Path, changed: float) -> str:
    """The page of a notebook as it was when the file `changed`."""
    notebook = nbformat.read(path, 4)
    plots = 0
    for output in (o for cell in notebook.cells for o in cell.get("outputs", []) if PLOTLY in o.get("data", {})):
        output.data, plots = NotebookNode({"text/html": _plot(output.data[PLOTLY], plots)}), plots + 1
    body, _ = HTMLExporter(template_name="basic").from_notebook_node(notebook)
    scripts = [*PlotlyPlot.__javascript__, *KaTeX.__javascript__]
    return PAGE.render(title=path.stem.replace("_", " ").capitalize(), body=body, scripts=scripts, css=LOOK + _colours())


def _plot(figure: dict, number: int) -> str:
    """A figure that draws itself, its data kept from ending the script that holds it."""
    told = json.dumps(figure).replace("</", "<\\/")
    return (
        f"<div id=plot{number} class=plot></div><script>{{ const told = {told};"
        f"Plotly.newPlot('plot{number}', told).then((plot) => told.frames && Plotly.addFrames(plot, told.frames)); }}</script>"
    )


def _colours() -> str:
    """Of code, in both themes."""
    light, dark = HtmlFormatter(style="default"), HtmlFormatter(style="github-dark")
    return light.get_style_defs(":root .highlight") + dark.get_style_defs(":root[data-theme=dark] .highlight")
