"""Where panels stand on a picture: maps in a row with their colour bars, curves in a row below, all in inches."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


MAP, MAP_ALONE = 5.0, 8.5  # width of a map, and of one without others beside it
HIGH, HIGH_ALONE = 3.4, 5.5  # and their heights, at most
GAP, MARGIN = 0.35, 0.2
TITLE, PANEL_TITLE = 0.6, 0.32  # heights
BAR, BAR_ABOVE, BAR_BELOW, BAR_SHARE = 0.13, 0.12, 0.55, 0.84  # colour bar: height, space, share of the map's width
CURVE, CURVE_LEFT, CURVE_BELOW = 2.7, 0.8, 0.55


@dataclass(frozen=True, kw_only=True)
class Box:
    """A rectangle [inches] from the lower left corner of the picture."""

    left: float
    bottom: float
    width: float
    height: float

    def on(self, figure: "Figure") -> "Axes":
        """Axes that fill the rectangle."""
        width, height = figure.get_size_inches()
        return figure.add_axes((self.left / width, self.bottom / height, self.width / width, self.height / height))


@dataclass(frozen=True, kw_only=True)
class Layout:
    """The size of a picture [inches], the boxes of its panels by their names, and of colour bars those of maps."""

    size: tuple[float, float]
    panels: dict[str, Box]
    bars: dict[str, Box]


def make_layout(maps: Sequence[str], curves: Sequence[str], ratio: float) -> Layout:
    """The places of maps, whose height is `ratio` times their width, and of curves."""
    each = min(MAP, HIGH / ratio) if len(maps) > 1 else min(MAP_ALONE, HIGH_ALONE / ratio)
    together = len(maps) * each + max(len(maps) - 1, 0) * GAP
    inner = max(together, MAP_ALONE)
    below = CURVE_BELOW + CURVE + PANEL_TITLE if curves else 0.0
    above = BAR_BELOW + BAR + BAR_ABOVE + each * ratio + PANEL_TITLE if maps else 0.0
    panels, bars = {}, {}
    for place, name in enumerate(maps):
        left, bar_width = MARGIN + (inner - together) / 2 + place * (each + GAP), BAR_SHARE * each
        bars[name] = Box(left=left + (each - bar_width) / 2, bottom=below + BAR_BELOW, width=bar_width, height=BAR)
        bottom = below + BAR_BELOW + BAR + BAR_ABOVE
        panels[name] = Box(left=left, bottom=bottom, width=each, height=each * ratio)
    share = (inner + GAP) / max(len(curves), 1)
    for place, name in enumerate(curves):
        width = share - GAP - CURVE_LEFT
        panels[name] = Box(left=MARGIN + place * share + CURVE_LEFT, bottom=CURVE_BELOW, width=width, height=CURVE)
    return Layout(size=(inner + 2 * MARGIN, below + above + TITLE), panels=panels, bars=bars)
