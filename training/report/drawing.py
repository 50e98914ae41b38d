"""Pictures of a report: drawn on a figure of matplotlib, in one style, and turned into SVG or PNG."""

import io
import re
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDTH = 8.0  # of a picture [inches]
DPI, PNG_DPI = 160, 130  # of maps within an SVG, and of a PNG
COLOURS = 96  # of a PNG: a third of the bytes
OWN, REAL, OTHER, BAND = "#1f5a94", "black", "#c8641e", "0.87"  # model, truth, a third curve, range of real stretches
SETTINGS: dict[Any, Any] = {
    "svg.fonttype": "none",  # text stays text
    "svg.hashsalt": "fsae",  # the same picture has the same bytes
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans", "Verdana", "Arial"],  # the first comes with matplotlib, which measures with it
    "font.size": 8.5,
    "axes.titlesize": 9.0,
    "axes.titleweight": "normal",
    "axes.edgecolor": "0.4",
    "axes.linewidth": 0.7,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "0.93",
    "grid.linewidth": 0.7,
    "lines.linewidth": 1.5,
    "legend.frameon": False,
    "legend.fontsize": 8.0,
    "xtick.color": "0.25",
    "ytick.color": "0.25",
}


@dataclass(frozen=True, kw_only=True)
class Picture:
    """A picture with what is said below it, and in place of it to who cannot see it."""

    name: str
    caption: str
    alt: str
    height: float  # [inches]
    draw: Callable[["Figure"], None]


def render(picture: Picture, form: str) -> bytes:
    """The bytes of a picture, "svg" or "png"; the same ones each time."""
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with matplotlib.rc_context(SETTINGS):
        figure = Figure(figsize=(WIDTH, picture.height), dpi=DPI, layout=None)
        FigureCanvasAgg(figure)
        picture.draw(figure)
        content = io.BytesIO()
        software = f"fsae {version('fsae')}"
        about = {"Creator": software, "Date": None} if form == "svg" else {"Software": software}
        dpi = DPI if form == "svg" else PNG_DPI
        figure.savefig(content, format=form, dpi=dpi, metadata={"Title": picture.name, **about})
    return shortened(content.getvalue()) if form == "svg" else _of_few_colours(content)


def _of_few_colours(png: io.BytesIO) -> bytes:
    """The bytes of a PNG with a palette, its title and software kept."""
    from PIL import Image
    from PIL.PngImagePlugin import PngInfo

    about, content = PngInfo(), io.BytesIO()
    with Image.open(png) as picture:
        for name in ("Title", "Software"):
            about.add_text(name, str(picture.info[name]))
        few = picture.convert("RGB").quantize(COLOURS, dither=Image.Dither.NONE)
    few.save(content, format="png", optimize=True, pnginfo=about)
    return content.getvalue()


def shortened(svg: bytes) -> bytes:
    """An SVG with the coordinates of its paths in tenths of a point: coastlines in full are most of a page.

    >>> shortened(b'<path d="M 1.25678 3.04 L 5 6.123456"/>')
    b'<path d="M 1.2 3.0 L 5 6.1"/>'
    """
    return re.sub(rb' d="[^"]*"', lambda path: re.sub(rb"(\.\d)\d+", rb"\1", path[0]), svg)


def panels(figure: "Figure", columns: int, rows: int = 1, *, top: float = 0.0) -> "list[Axes]":
    """Axes for curves, row by row, below `top` [inches]; a last row may remain open on the right."""
    left, right, below, gap, title = 0.62, 0.08, 0.48, 0.62, 0.34
    width, height = figure.get_size_inches()
    wide = (width - left - right - (columns - 1) * gap) / columns
    high = (height - top) / rows - below - title
    return [
        figure.add_axes(
            (
                (left + column * (wide + gap)) / width,
                (height - top - (row + 1) * (title + high + below) + below) / height,
                wide / width,
                high / height,
            )
        )
        for row in range(rows)
        for column in range(columns)
    ]
