"""The panels of a picture, each drawn on axes of matplotlib that it is given."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from fsae.runtime.arrays import F64
from fsae.runtime.climate.calendar import date_text, decimal_year
from fsae.runtime.sphere.grids import Grid

from .coastlines import all_projected, coastlines, graticule
from .colours import Scale
from .field import Field, with_units
from .figures import QUANTILES
from .projections import Projection
from .raster import drawn

if TYPE_CHECKING:
    from matplotlib.axes import Axes


MISSING = "0.85"  # grey
LINE, FAN = "#1f4e79", "#4c8dc4"
YEARS = 3  # series that are longer have years on their axis, others dates
WIDE = 0.075  # width of a letter of a tick [inches]


@dataclass(frozen=True, kw_only=True)
class MapPanel:
    """A field (point,) as a map, with its colours and the words on them."""

    title: str
    values: F64
    scale: Scale
    label: str


def draw_map(axes: "Axes", bar_axes: "Axes", panel: MapPanel, grid: Grid, projection: Projection) -> None:
    """Draw a map with coastlines and every 30th parallel and meridian, and its colour bar."""
    from matplotlib import colormaps
    from matplotlib.colors import Normalize
    from matplotlib.patches import Polygon

    colours = colormaps[panel.scale.name].with_extremes(bad=MISSING)
    edge = Polygon(np.column_stack(projection.outline()), closed=True, facecolor=MISSING, edgecolor="none")
    axes.add_patch(edge)
    width, height = projection.width, projection.height
    picture = axes.imshow(
        drawn(panel.values, grid, projection),
        extent=(-width, width, -height, height),
        cmap=colours,
        norm=Normalize(panel.scale.low, panel.scale.high),
        zorder=1,
    )
    picture.set_clip_path(edge)
    for lines, colour, thickness, visible in ((graticule(), "0.5", 0.4, 0.5), (coastlines(), "black", 0.6, 0.9)):
        axes.plot(*all_projected(lines, projection), color=colour, linewidth=thickness, alpha=visible, zorder=2)
    axes.plot(*projection.outline(), color="0.2", linewidth=0.8, zorder=3, clip_on=False)
    axes.set(xlim=(-width, width), ylim=(-height, height), aspect="equal", title=panel.title)
    axes.axis("off")
    bar = axes.figure.colorbar(picture, cax=bar_axes, orientation="horizontal", extend=panel.scale.extend)
    bar.set_label(panel.label)


def draw_series(axes: "Axes", means: F64, field: Field, label: str) -> None:
    """Draw the global means (member, step): quantiles over the members, or one line, and the step shown."""
    place, ticks, texts = _time_axis(field, axes.get_window_extent().width / axes.figure.dpi)
    count = len(means)
    if count > 1:
        low, quarter, median, three_quarters, high = fan(means)
        axes.fill_between(place, low, high, color=FAN, alpha=0.3, linewidth=0, label="5 to 95 %")
        axes.fill_between(place, quarter, three_quarters, color=FAN, alpha=0.6, linewidth=0, label="25 to 75 %")
        axes.plot(place, median, color=LINE, linewidth=1.4, label=f"median of {count} members")
    axes.plot(
        place,
        means[field.member],
        color="black" if count > 1 else LINE,
        linewidth=0.9 if count > 1 else 1.4,
        linestyle="--" if count > 1 else "-",
        label=field.shown_member or "global mean",
    )
    axes.axvline(place[field.time], color="0.5", linewidth=0.7, linestyle=":")
    axes.set(title="global mean", ylabel=label, xlim=(place[0], place[-1]))
    if ticks is None:
        axes.set_xlabel("year")
    else:
        axes.set_xticks(ticks, texts)
    axes.grid(color="0.9")
    if count > 1:
        axes.legend(fontsize="small", framealpha=0.8)


def fan(values: F64) -> F64:
    """The `QUANTILES` over members of values (member, ...), (quantile, ...)."""
    found: F64 = np.quantile(values, QUANTILES, axis=0)
    return found


def _time_axis(field: Field, width: float) -> tuple[F64, F64 | None, Sequence[str]]:
    """Places of the steps, and those of ticks with their texts: none for decimal years, which matplotlib ticks.

    `width` [inches] is that of the axis: the texts do not touch each other.
    """
    years = decimal_year(field.times, field.step)
    if years[-1] - years[0] > YEARS:
        return years, None, ()
    first = field.times[0]
    place = np.array([(date - first).total_seconds() for date in field.times])
    texts = [date_text(date, field.step) for date in field.times]
    most = max(1, int(width / (WIDE * (max(map(len, texts)) + 2))))
    some = range(0, place.size, -(-place.size // most))
    return place, place[some], [texts[index] for index in some]


def draw_spectrum(axes: "Axes", power: F64, field: Field, units: str) -> None:
    """Draw the power (member, l), the first row that of the member shown; the others as quantiles."""
    degree = np.arange(1, power.shape[1])
    others = power[1:, 1:]
    if len(others) > 1:
        low, _, median, _, high = fan(others)
        axes.fill_between(degree, low, high, color=FAN, alpha=0.3, linewidth=0, label="5 to 95 %")
        axes.plot(degree, median, color=LINE, linewidth=1.4, label=f"median of {len(others)} members")
    axes.plot(
        degree,
        power[0, 1:],
        color="black" if len(others) > 1 else LINE,
        linewidth=0.9 if len(others) > 1 else 1.4,
        linestyle="--" if len(others) > 1 else "-",
        label=field.shown_member,
    )
    axes.set(xscale="log", yscale="log", xlabel="degree l", title="angular power spectrum", xlim=(1, degree[-1]))
    axes.set_ylabel(with_units("power C_l", squared(units) if units else ""))
    axes.grid(color="0.9")
    if len(others) > 1:
        axes.legend(fontsize="small", framealpha=0.8)


def squared(units: str) -> str:
    """The square of units, as text.

    >>> squared("K"), squared("m s-1"), squared("1")
    ('K2', '(m s-1)2', '1')
    """
    return units if units == "1" else f"{units}2" if units.isalpha() else f"({units})2"
