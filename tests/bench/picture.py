"""README's picture of the benches: how many times a peer's cost is ours, and how ours falls with the number of lanes."""
import plotly.graph_objects as go
from harness import Row, missing
from plotly.subplots import make_subplots
from scrubbing import CHROMIUM, open_page

from labkit.files import ROOT, write_whole
from labkit.studio.theme import COLOURS, INK

PATH = ROOT / "course" / "pictures" / "bench.png"


def draw(found: dict[str, list[Row]]) -> go.Figure:
    peers = [row for rows in found.values() for row in rows if row.ratio and not row.who.startswith(("labkit", "its"))]
    lanes = [row for row in found.get("growth", []) if "lanes" in row.what]
    fig = make_subplots(1, 2, column_widths=[0.55, 0.45], horizontal_spacing=0.1)
    names = [f"{row.who}<br><span style='font-size:11px'>{row.what}</span>" for row in peers]
    ratios = [row.ratio for row in peers]
    words = [f"{r:.1f}x" for r in ratios]
    fig.add_bar(x=ratios, y=names, orientation="h", text=words, textposition="outside", marker_color=COLOURS[0], row=1, col=1)
    many = [int(row.what.rpartition(" ")[2].replace(",", "")) for row in lanes]
    fig.add_scatter(x=many, y=[row.median for row in lanes], mode="lines+markers", line_color=COLOURS[1], row=1, col=2)
    fig.update_xaxes(title="a peer's CPU time over labkit's", type="log", range=[-0.7, 3.2], row=1, col=1)
    fig.update_yaxes(autorange="reversed", row=1, col=1)
    fig.update_xaxes(title="lanes trained together", type="log", dtick=1, row=1, col=2)
    fig.update_yaxes(title="CPU-s per lane and 100,000 steps", type="log", row=1, col=2)
    return fig.update_layout(width=1100, height=max(360, 120 + 45 * len(peers)), showlegend=False, font={"color": INK, "size": 13},
                             margin={"l": 10, "r": 20, "t": 20, "b": 50}, paper_bgcolor="white", plot_bgcolor="white")  # fmt: skip


def write(found: dict[str, list[Row]]) -> None:
    """Photograph it in Chromium; without one the old picture stays."""
    if missing("", "", "", "playwright") or not CHROMIUM:
        return
    fig = draw(found)
    with open_page(fig.layout.width, fig.layout.height) as page:
        page.set_content(f"<body style='margin:0'>{fig.to_html(full_html=False, config={'displayModeBar': False})}</body>")
        page.wait_for_selector(".main-svg")
        write_whole(PATH, page.screenshot())
