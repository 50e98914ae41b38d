"""A picture of a field: its panels chosen, computed, laid out and drawn."""

import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from fsae.runtime.arrays import F64
from fsae.runtime.errors import DataError, DeviceError, UsageError, shown
from fsae.runtime.input.sources import Source
from fsae.runtime.progress import Progress

from . import CURVES, MAPS, PANELS
from .colours import field_scale, spread_scale
from .field import Field, Shown, of_differences, open_field, plain, with_units
from .figures import Moments, global_means, moments, spectra
from .layout import make_layout
from .panels import MapPanel, draw_map, draw_series, draw_spectrum
from .projections import Projection
from .written import check_picture, write_picture

DPI = 150
TITLE_LINES = ((12.0, 0.22), (9.0, 0.44))  # size [points], and distance from the upper edge [inches]
WIDE = 0.0085  # width of a letter [inches] of one point
OF_A_MEMBER = {"map", "series", "spectrum"}  # panels that show one
SETTINGS: dict[Any, Any] = {
    "svg.fonttype": "none",  # text stays text
    "svg.hashsalt": "fsae",  # the same picture has the same bytes
    "font.size": 9.0,
    "axes.titlesize": 10.0,
}


@dataclass(frozen=True, kw_only=True)
class Drawn:
    """A finished picture: its panels, and the name of its variable."""

    panels: tuple[str, ...]
    variable: str


def draw_file(
    source: Source,
    path: Path,
    asked: Shown,
    *,
    panels: Sequence[str] = (),
    projection: Projection,
    overwrite: bool = False,
    progress: Progress,
) -> Drawn:
    """Write a picture of a file, PNG or SVG by the suffix of `path`; without `panels` of all that the file supports.

    DataError for a file that cannot be read or lacks what a panel needs, UsageError for a part that is not there,
    OutputError if the picture may not be written, DeviceError without matplotlib.
    """
    check_picture(path, overwrite, {"input": source})
    check_matplotlib()
    with open_field(source, asked) as field:
        chosen = choose_panels(field, panels)
        draw = _panels(field, chosen, projection, progress, spectrum_asked="spectrum" in panels)
        drawn = render(field, draw, projection, path.suffix.lower().removeprefix("."))
        write_picture(path, drawn, overwrite)
        return Drawn(panels=tuple(draw), variable=field.name)


def check_matplotlib() -> None:
    """Raise DeviceError naming the extra if matplotlib is missing."""
    try:
        import matplotlib.figure  # noqa: F401
    except ImportError as error:
        raise DeviceError(
            f"pictures need matplotlib, which cannot be imported ({error})", advice='pip install "fsae[plot]"'
        ) from None


def choose_panels(field: Field, asked: Sequence[str]) -> tuple[str, ...]:
    """The panels asked for, or all that a field supports, in their order; UsageError for one that it does not."""
    members, steps = field.count
    lacks = {} if members > 1 else dict.fromkeys(("mean", "spread"), "two or more members")
    lacks |= {} if steps > 1 else {"series": "two or more steps"}
    wrong = next((name for name in PANELS if name in asked and name in lacks), None)
    if wrong is not None:
        has = f"{field.where}, which has {members} member{'s' * (members > 1)} and {steps} step{'s' * (steps > 1)}"
        raise UsageError(f"found --panel {wrong} for {has}", lacks[wrong], "leave it out, or give another file")
    return tuple(name for name in PANELS if name in (asked or [one for one in PANELS if one not in lacks]))


Draw = Callable[..., None]  # of the axes of a panel and, for a map, those of its colour bar


def _panels(
    field: Field, chosen: Sequence[str], projection: Projection, progress: Progress, *, spectrum_asked: bool
) -> Mapping[str, Draw]:
    """For each panel chosen what draws it: all that is read of the file is read here.

    Where values are missing the power spectrum is left out, or refused with a DataError if it was asked for.
    """
    label, short = with_units(field.long_name, field.units), with_units(field.name, field.units)
    found: dict[str, Draw] = {}
    values = field.shown_values() if set(chosen) & {"map", "mean", "spectrum"} else np.zeros(0)
    for name, panel in _map_panels(field, chosen, values, label).items():
        found[name] = partial(draw_map, panel=panel, grid=field.place.grid, projection=projection)
    if "series" in chosen:
        means = global_means(field, progress)
        found["series"] = partial(draw_series, means=means, field=field, label=short)
    if "spectrum" in chosen and np.isfinite(values).all():
        power = spectra(field)
        found["spectrum"] = partial(draw_spectrum, power=power, field=field, units=of_differences(field.units))
    elif spectrum_asked:
        count = int((~np.isfinite(values)).sum())
        raise DataError(
            f"{field.name} in {field.where} has {count} missing values",
            "none for an angular power spectrum",
            "choose another --panel",
        )
    return found


def _map_panels(field: Field, chosen: Sequence[str], values: F64, label: str) -> dict[str, MapPanel]:
    """The maps chosen; that of the mean has the colours of the field."""
    scale = field_scale(values, field.units, is_difference=field.is_difference)
    over = f"of {len(field.members)} members"
    time = f", {field.shown_time}" if field.shown_time else ""
    made: dict[str, MapPanel] = {}
    if "map" in chosen:
        title = ", ".join(filter(None, [field.shown_member, field.shown_time])) or plain(field.name)
        made["map"] = MapPanel(title=title, values=values, scale=scale, label=label)
    if {"mean", "spread"} & set(chosen):
        found: Moments = moments(field)
        if "mean" in chosen:
            made["mean"] = MapPanel(title=f"mean {over}{time}", values=found.mean, scale=scale, label=label)
        if "spread" in chosen:
            title, own = f"standard deviation {over}{time}", spread_scale(found.std)
            said = with_units("standard deviation", of_differences(field.units))
            made["spread"] = MapPanel(title=title, values=found.std, scale=own, label=said)
    return made


def render(field: Field, draw: Mapping[str, Draw], projection: Projection, form: str) -> bytes:
    """The bytes of a picture of those panels, "png" or "svg": maps in a row above the curves."""
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    title = title_of(field, tuple(draw))
    with matplotlib.rc_context(SETTINGS):
        maps, curves = ([name for name in row if name in draw] for row in (MAPS, CURVES))
        layout = make_layout(maps, curves, projection.height / projection.width)
        figure = Figure(figsize=layout.size, dpi=DPI)
        FigureCanvasAgg(figure)
        for name, box in layout.panels.items():
            bars = [layout.bars[name].on(figure)] if name in layout.bars else []
            draw[name](box.on(figure), *bars)
        for text, (size, below) in zip(title, TITLE_LINES, strict=True):
            most = int(layout.size[0] / (WIDE * size))
            figure.text(0.5, 1 - below / layout.size[1], shown(text, most), ha="center", va="center", fontsize=size)
        content = io.BytesIO()
        software = f"fsae {version('fsae')}"
        about = {"Creator": software, "Date": None} if form == "svg" else {"Software": software}
        figure.savefig(
            content, format=form, dpi=DPI, metadata={"Title": " – ".join(title).replace(r"\$", "$"), **about}
        )
    return content.getvalue()


def title_of(field: Field, panels: Sequence[str]) -> tuple[str, str]:
    """The two lines of the title: the variable; its time, member and file."""
    name, long_name = plain(field.name), plain(field.long_name)
    member = field.shown_member if OF_A_MEMBER & set(panels) else ""
    place = ", ".join(filter(None, [field.shown_time, member, plain(field.where)]))
    return (long_name if long_name == name else f"{long_name} ({name})"), place
