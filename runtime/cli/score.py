"""`fsae-run score`: an ensemble against a reference."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from fsae.runtime.input.sources import Source
from fsae.runtime.progress import progress_bar

from .options import Values, names_in, packed, refuse_session, resolved, units_in, with_overwrite, words

if TYPE_CHECKING:
    from fsae.runtime.scores.score import Comparison


def make_comparison(values: Values) -> "Comparison":
    """The part of an ensemble that is scored, and how."""
    from fsae.runtime.scores.score import Comparison

    return Comparison(**{**values, "variables": words(values["variables"])})


with_comparison = packed(
    "comparison",
    make_comparison,
    click.option("--variables", metavar="TAS,PR", help="Variables to score.  [default: all of ENSEMBLE with members]"),
    click.option(
        "--times", metavar="FIRST/LAST", help="First and last step, such as 2005-01/2010.  [default: all in common]"
    ),
    click.option(
        "--zoom",
        type=click.IntRange(0, 12),
        help="HEALPix zoom to compare at.  [default: the finest that both support, or their lat-lon grid if it is one]",
    ),
    names_in("REFERENCE", "ENSEMBLE"),
)


@click.command()
@click.argument("ensemble", metavar="ENSEMBLE", callback=resolved)
@click.argument("reference", metavar="REFERENCE", callback=resolved)
@units_in("REFERENCE", "ENSEMBLE")
@with_comparison
@click.option(
    "--json", "out", metavar="FILE|-", help="Write the scores as JSON too, or print them in place of a table."
)
@with_overwrite
def score(
    ensemble: Source,
    reference: Source,
    units: dict[str, str],
    comparison: "Comparison",
    out: str | None,
    overwrite: bool,
) -> None:
    """Score ENSEMBLE against REFERENCE: CRPS, error, spread, ranks, power spectra.

    Both are NetCDF, Zarr, GRIB or an archive of fsae, on a global lat-lon grid or HEALPix, or a quoted pattern of files
    to join; ENSEMBLE has members, REFERENCE none. The steps that both have count. On the same lat-lon grid points
    count by the areas of their cells, else both come to HEALPix, whose cells are equal. All scores are in the units of
    ENSEMBLE. No step but those being read is in memory, and no bundle is needed.

    \b
    Examples:
      fsae-run score ensemble.zarr era5-tas.nc
      fsae-run score "tas_member*.nc" era5-t2m.nc --name tas=t2m --times 2005/2014
      fsae-run score ensemble.zarr era5-tas.nc --variables tas --zoom 3 --json scores.json
      fsae-run score ensemble.zarr era5-tas.nc --json - | jq .variables.tas.fair_crps
    """
    from fsae.runtime.scores.report import as_table, check_json, write_json
    from fsae.runtime.scores.score import score as score_ensemble

    refuse_session()
    path = None if out in (None, "-") else Path(str(out))
    if path is not None:
        check_json(path, overwrite, {"ensemble": ensemble, "reference": reference})
    with progress_bar("score") as progress:
        found = score_ensemble(ensemble, Source.of(reference, units), comparison, progress=progress)
    click.echo(found.json() if out == "-" else as_table(found), nl=False)
    if path is not None:
        write_json(path, found, overwrite)
