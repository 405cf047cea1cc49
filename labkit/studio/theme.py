"""One small plotly template, and colours that hold on light and dark pages and for colour-blind readers."""
import plotly.graph_objects as go

INK = "#797979"  # equally far from white and from #111: 4.3 to 1, the most that one colour can be from both
FAINT = "rgba(128,128,128,0.28)"  # grid lines and what stands back

# Okabe and Ito (2008): blue, vermillion, green and purple; their orange and light blue, darkened to 3 to 1 on white.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#AA7700", "#3F8FC4")
DASHES = ("solid", "dash", "dot", "dashdot", "longdash", "longdashdot")
MARKERS = ("circle", "square", "diamond", "triangle-up", "cross", "x")

HEAT = [[0, "rgba(0,114,178,0)"], [1, "rgba(0,114,178,1)"]]  # the page shines through where there is nothing
SPLIT = [[0, "rgba(213,94,0,1)"], [0.5, "rgba(213,94,0,0)"], [0.5, "rgba(0,114,178,0)"], [1, "rgba(0,114,178,1)"]]  # losses, gains

_axis = {"gridcolor": FAINT, "linecolor": INK, "zeroline": False, "ticks": "outside", "tickcolor": INK, "ticklen": 4,
         "title": {"standoff": 8}, "automargin": True}

template = go.layout.Template(layout={
    "font": {"color": INK, "size": 13, "family": "system-ui, sans-serif"},
    "paper_bgcolor": "rgba(0,0,0,0)",
    "plot_bgcolor": "rgba(0,0,0,0)",
    "colorway": COLOURS,
    "xaxis": _axis,
    "yaxis": _axis,
    "margin": {"l": 60, "r": 20, "t": 16, "b": 50},
    "height": 400,
    "showlegend": False,
    "hovermode": "closest",
})  # fmt: skip

# Plotly writes the colour of text into the figure, where it cannot follow the page. In Jupyter this makes it follow.
FOLLOW = "<style>.js-plotly-plot text{fill:var(--jp-content-font-color1,#797979)!important}</style>"


def style(i: int) -> dict[str, str]:
    """Colour, dash and marker number i: no two of the first six share any, and colour is never the only difference."""
    return {"color": COLOURS[i % 6], "dash": DASHES[i % 6], "symbol": MARKERS[i % 6]}


def rgba(colour: str, alpha: float) -> str:
    """'#0072B2', 0.2 -> 'rgba(0,114,178,0.2)'"""
    red, green, blue = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    return f"rgba({red},{green},{blue},{alpha:g})"
