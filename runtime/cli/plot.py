"""`fsae-run plot`: a picture of a file."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from fsae.runtime.errors import UsageError
from fsae.runtime.input.sources import Source
from fsae.runtime.pictures import PANELS, PROJECTIONS
from fsae.runtime.progress import progress_bar

from .options import Values, group_of, packed, refuse_session, resolved, with_overwrite
from .terminal import size_of

if TYPE_CHECKING:
    from fsae.runtime.pictures.field import Shown
    from fsae.runtime.pictures.projections import Projection


def make_shown(values: Values) -> "Shown":
    """The part of the file that is shown."""
    from fsae.runtime.pictures.field import Shown

    pairs = dict(text.partition("=")[::2] for text in values["select"])
    if not all(pairs) or not all(pairs.values()) or len(pairs) != len(values["select"]):
        raise UsageError(
            f"found --select {' '.join(values['select'])}",
            "such as plev=85000, once for a dimension",
            "give such as --select plev=85000",
        )
    return Shown(**{**values, "select": pairs})


with_shown = packed(
    "asked",
    make_shown,
    click.option("--variable", metavar="NAME", help="Variable to show.  [default: the first of most dimensions]"),
    click.option("--member", metavar="LABEL", help="Member of the map.  [default: the first]"),
    click.option("--time", metavar="DATE", help="Step of the maps, such as 2005-03.  [default: the first]"),
    click.option(
        "--select",
        metavar="PLEV=85000",
        multiple=True,
        help="Entry of another dimension, such as a level, a quantile or a reference time. May be repeated.",
    ),
    click.option("--units", metavar="UNITS", help="Units to show, such as degC.  [default: those of the file]"),
)


@dataclass(frozen=True, kw_only=True)
class Look:
    """The panels of a picture and the projection of its maps."""

    panels: tuple[str, ...]
    projection: "Projection"


def make_look(values: Values) -> Look:
    """The panels, and the projection around its centre."""
    from fsae.runtime.pictures.projections import make_projection

    return Look(panels=values["panel"], projection=make_projection(values["projection"], values["centre"]))


with_look = packed(
    "look",
    make_look,
    click.option(
        "--panel",
        type=click.Choice(PANELS),
        multiple=True,
        help="Panel to draw. May be repeated.  [default: all that FILE supports]",
    ),
    click.option(
        "--projection",
        type=click.Choice(PROJECTIONS),
        default="robinson",
        show_default=True,
        help="Projection of the maps.",
    ),
    click.option(
        "--centre",
        metavar="LON,LAT",
        help="Centre of the maps in degrees; only an orthographic one may be off the equator.  [default: 0,0]",
    ),
)


@click.command()
@click.argument("source", metavar="FILE", callback=resolved)
@click.option("--out", metavar="PICTURE", help="PNG or SVG, by its suffix.  [default: the name of FILE with .png]")
@with_shown
@with_look
@group_of("FILE")
@with_overwrite
def plot(source: Source, out: str | None, asked: "Shown", look: Look, group: str, overwrite: bool) -> None:
    """Draw a picture of FILE: maps, series and spectrum of a variable.

    FILE is NetCDF, Zarr, GRIB or an archive of fsae, on a global lat-lon grid or HEALPix, of fsae or anybody else.
    The panels are: map, one member at one step; mean and spread, mean and standard deviation over the members at that
    step; series, the global mean of all steps with quantiles over the members; spectrum, the angular power at that
    step. Colours run from the 1st to the 99th percentile of the map. Needs the extra `fsae[plot]`.

    \b
    Examples:
      fsae-run plot ensemble.zarr
      fsae-run plot ensemble.zarr --member 3 --time 2014-07 --units degC --out july.svg
      fsae-run plot era5.nc --variable psl --panel map --projection orthographic --centre 10,50 --out europe.png
      fsae-run plot levels.nc --variable ta --select plev=85000 --panel map --panel spectrum
    """
    from rich.filesize import decimal

    from fsae.runtime.pictures.picture import draw_file

    refuse_session()
    path = Path(out if out is not None else f"{Path(source.name).stem}.png")
    with progress_bar("plot") as progress:
        drawn = draw_file(
            Source.of(source, group=group),
            path,
            asked,
            panels=look.panels,
            projection=look.projection,
            overwrite=overwrite,
            progress=progress,
        )
    click.echo(f"drew {', '.join(drawn.panels)} of {drawn.variable}: {path} ({decimal(size_of(path))})")
