"""Maps of a report: fields on HEALPix cells in the Robinson projection, with coastlines."""

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from fsae.runtime.arrays import F64
from fsae.runtime.pictures.colours import Scale, field_scale, spread_scale
from fsae.runtime.pictures.layout import Box
from fsae.runtime.pictures.panels import MapPanel, draw_map
from fsae.runtime.pictures.projections import make_projection
from fsae.runtime.sphere.grids import HealpixGrid

from .drawing import WIDTH, Picture
from .results import Results

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

GAP, TITLE, BAR, BELOW = 0.3, 0.3, 0.09, 0.5  # [inches]
RATIO = make_projection("robinson").height / make_projection("robinson").width


def map_size(columns: int) -> tuple[float, float]:
    """Width of a map, and height of it with title and colour bar [inches]."""
    width = (WIDTH - (columns - 1) * GAP) / columns
    return width, TITLE + width * RATIO + 0.08 + BAR + BELOW


def draw_maps(figure: "Figure", maps: Sequence[MapPanel], zoom: int, columns: int = 2) -> None:
    """Draw maps row by row from the top of a figure."""
    width, height = map_size(columns)
    for place, panel in enumerate(maps):
        row, column = divmod(place, columns)
        left = column * (width + GAP)
        bottom = figure.get_size_inches()[1] - (row + 1) * height
        bar = Box(left=left + 0.15 * width, bottom=bottom + BELOW, width=0.7 * width, height=BAR)
        place_of_map = Box(left=left, bottom=bottom + BELOW + BAR + 0.08, width=width, height=width * RATIO)
        _draw(place_of_map.on(figure), bar.on(figure), panel, zoom)


def months(found: Results) -> list[MapPanel]:
    """A generated field and the real one of the same step, in the same colours."""
    real, label = found.arrays["real"], f"{found.name}, departure from the climatology [{found.units}]"
    scale = field_scale(real, found.units, is_difference=True)
    titles = {"generated": f"generated, member 0, {found.middle}", "real": f"real, {found.middle}"}
    return [
        MapPanel(title=title, values=found.arrays[key], scale=_seen(scale, found.arrays[key]), label=label)
        for key, title in titles.items()
    ]


def rebuilt(found: Results) -> Picture:
    """The error of fields that were encoded and decoded."""
    error = found.arrays["rebuilt_error"]
    panel = MapPanel(
        title=f"RMSE of encoding and decoding, {found.evaluation}",
        values=error,
        scale=spread_scale(error),
        label=f"RMSE of {found.name} [{found.units}]",
    )
    highest = f"{error.max():.2f} {found.units}"
    return Picture(
        name="rebuilt",
        caption=f"Root mean square error of {found.name} over {found.evaluation} at each cell (HEALPix zoom "
        f"{found.zoom}), after encoding to zoom {found.latent_zoom} and decoding, against the real fields. Largest: "
        f"{highest}.",
        alt=f"World map of the reconstruction error of {found.name}, at most {highest}.",
        height=map_size(1)[1] * 0.72,
        draw=lambda figure: _one(figure, panel, found.zoom),
    )


def bias_and_variability(found: Results) -> Picture:
    """The bias of the generated climate, and its standard deviation beside that of the truth."""
    arrays, units = found.arrays, found.units
    ratio = 100 * (arrays["member_std"] / arrays["std"] - 1)
    deviation = spread_scale(arrays["std"])
    said = f"standard deviation [{units}]"
    panels = [
        MapPanel(
            title="bias: generated mean − real mean",
            values=arrays["bias"],
            scale=field_scale(arrays["bias"], units, is_difference=True),
            label=f"bias of {found.name} [{units}]",
        ),
        MapPanel(
            title="standard deviation: generated against real",
            values=ratio,
            scale=field_scale(ratio, "%", is_difference=True),
            label="generated / real − 1 [%]",
        ),
        MapPanel(
            title="standard deviation, generated",
            values=arrays["member_std"],
            scale=_seen(deviation, arrays["member_std"]),
            label=said,
        ),
        MapPanel(title="standard deviation, real", values=arrays["std"], scale=deviation, label=said),
    ]
    mean = found.climate[0].bias
    return Picture(
        name="climate",
        caption=f"{found.members} generated members (seed {found.seed}) against the real {found.evaluation}, both as "
        f"departures from the climatology of {found.training}. Bias: mean over members and steps minus the real mean; "
        f"its global mean is {mean:+.3f} {units}. Standard deviation: over the steps of each member about its own "
        "mean, averaged over members.",
        alt=f"Four world maps of {found.name}: bias of the generated climate, global mean {mean:+.3f} {units}; "
        "relative difference of the standard deviation; standard deviation generated; standard deviation real.",
        height=2 * map_size(2)[1],
        draw=lambda figure: draw_maps(figure, panels, found.zoom),
    )


def spread_and_error(found: Results) -> Picture:
    """The spread of the members of one time, the error of their mean, and one over the other."""
    arrays, units = found.arrays, found.units
    ratio = 100 * (arrays["spread"] / arrays["error"] - 1)
    scale = spread_scale(arrays["error"])
    panels = [
        MapPanel(
            title="spread of the members",
            values=arrays["spread"],
            scale=_seen(scale, arrays["spread"]),
            label=f"spread [{units}]",
        ),
        MapPanel(title="error of their mean", values=arrays["error"], scale=scale, label=f"RMSE [{units}]"),
        MapPanel(
            title="spread against error",
            values=ratio,
            scale=field_scale(ratio, "%", is_difference=True),
            label="spread / error − 1 [%]",
        ),
    ]
    overall = float(np.sqrt(np.mean(arrays["spread"] ** 2) / np.mean(arrays["error"] ** 2)))
    return Picture(
        name="spread",
        caption=f"{found.members} generated members (seed {found.seed}), which forecast no dates, and the real "
        f"{found.evaluation} step by step. Spread: root of the mean variance between members of the same step, with "
        "the factor for their number; error: root mean square error of their mean. Where the real fields could be "
        f"another member both are equal; on average over the sphere spread / error is {overall:.2f}.",
        alt=f"Three world maps of {found.name}: spread of the generated members, error of their mean, and the relative "
        f"difference of both; spread over error is {overall:.2f} on average.",
        height=map_size(3)[1],
        draw=lambda figure: draw_maps(figure, panels, found.zoom, columns=3),
    )


def _seen(scale: Scale, values: F64) -> Scale:
    """A scale of other values, for these ones: which ends of its colour bar are pointed."""
    return replace(scale, below=bool((values < scale.low).any()), above=bool((values > scale.high).any()))


def _one(figure: "Figure", panel: MapPanel, zoom: int) -> None:
    """Draw one map in the middle."""
    height = figure.get_size_inches()[1]
    high = height - TITLE - 0.08 - BAR - BELOW
    wide = high / RATIO
    left = (WIDTH - wide) / 2
    bar = Box(left=left + 0.2 * wide, bottom=BELOW, width=0.6 * wide, height=BAR)
    axes = Box(left=left, bottom=BELOW + BAR + 0.08, width=wide, height=high).on(figure)
    _draw(axes, bar.on(figure), panel, zoom)


def _draw(axes: "Axes", bar: "Axes", panel: MapPanel, zoom: int) -> None:
    draw_map(axes, bar, panel, HealpixGrid(zoom=zoom, order="nested"), make_projection("robinson"))
    bar.tick_params(labelsize=7.5, width=0.5, length=2)
