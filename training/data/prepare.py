"""Training data from any CF NetCDF or Zarr: files joined, put on nested HEALPix, written as one chunked Zarr store."""

import contextlib
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from fsae.runtime.climate.calendar import step_bounds, time_method
from fsae.runtime.errors import DataError
from fsae.runtime.input.dates import find_dates
from fsae.runtime.input.fields import Fields, Wanted
from fsae.runtime.input.grid_detection import find_grid
from fsae.runtime.input.joining import by_variable, join
from fsae.runtime.input.reader import VariableSpec
from fsae.runtime.input.sources import Source, open_source
from fsae.runtime.input.variables import standard
from fsae.runtime.output.files import check_output
from fsae.runtime.output.layout import Cells, Layout, Unit, open_output
from fsae.runtime.output.times import encode_times
from fsae.runtime.progress import Progress
from fsae.runtime.sphere.grids import Grid, is_same
from fsae.runtime.sphere.healpix import MAX_ZOOM, npix

log = logging.getLogger("fsae.training")
CHUNK_VALUES = 1 << 18  # values of a chunk of one variable: 1 MiB, as training reads single steps at random


class PreparedVariable(VariableSpec, Protocol):
    """How prepared data describes a variable."""

    @property
    def long_name(self) -> str: ...
    @property
    def cell_methods(self) -> str: ...


@dataclass(frozen=True, kw_only=True)
class DescribedVariable:
    """A variable as an input file describes it, with any range and missing values allowed."""

    name: str
    standard_name: str
    long_name: str
    units: str
    cell_methods: str
    valid_range: tuple[float, float] = (-np.inf, np.inf)
    missing: bool = True


def describe_variables(inputs: Sequence[Path], names: Sequence[str] = ()) -> list[DescribedVariable]:
    """The variables of these names in the files; without names all that have a time axis and the first one's grid."""
    found: dict[str, DescribedVariable] = {}
    first: Grid | None = None
    for path in inputs:
        with open_source(path) as (dataset, where):
            there = [name for name in names if name in dataset.variables] if names else list(dataset.data_vars)
            for name in map(str, there):
                array = dataset[name]
                try:
                    grid = find_grid(array, dataset)
                    find_dates(array, dataset, where)
                except DataError:
                    if names:
                        raise
                    continue  # bounds, masks and the like
                first = grid if first is None else first
                if names or is_same(grid, first):
                    attributes = {k: str(v) for k, v in array.attrs.items()}
                    described = DescribedVariable(
                        name=name,
                        standard_name=standard(array),
                        long_name=attributes.get("long_name", name),
                        units=attributes.get("units", "1"),
                        cell_methods=attributes.get("cell_methods", ""),
                    )
                    found.setdefault(name, described)
    lacking = [name for name in names if name not in found]
    if lacking or not found:
        what = f"variable {lacking[0]!r}" if lacking else "variable with a time axis on a lat-lon or HEALPix grid"
        raise DataError(
            f"found no {what} in {', '.join(path.name for path in inputs)}",
            advice="check that these files hold it, and its name in the configuration",
        )
    return [found[name] for name in names] if names else list(found.values())


def prepare(
    inputs: Sequence[Path],
    output: Path,
    variables: Sequence[PreparedVariable],
    *,
    zoom: int | None = None,
    method: str = "auto",
    overwrite: bool = False,
    progress: Progress | None = None,
) -> Grid:
    """Write `variables` of all `inputs` on nested HEALPix to `output`; the result is the first variable's source grid.

    Files are joined along time, in any order; a date that comes twice is refused. Steps that not all variables have
    are left out: monthly data is matched by year and month, other data by its dates. The default zoom is the finest
    that every input supports. The store gets its name when it is complete.
    """
    source = Source(paths=tuple(inputs))
    check_output(Path(output), overwrite, {"input": source})
    with contextlib.ExitStack() as closing:
        wanted = Wanted(variables=variables, zoom=zoom, finest_zoom=MAX_ZOOM, method=method)
        parts = by_variable(source.open(closing), wanted)
        fields = join(source.name, parts)
        for note in fields.notes:
            log.info("prepare: %s", note)
        layout = _layout(fields, variables, parts)
        everyone = slice(0, fields.shape[0])
        with open_output(Path(output), layout, overwrite) as write:
            for times, values in fields.chunks(layout.time_chunk):
                write(Unit(members=everyone, times=times, values=values))
                if progress is not None:
                    progress(times.stop, len(fields.times))
        return fields.grid


def _layout(fields: Fields, variables: Sequence[PreparedVariable], parts: Sequence[Sequence[Fields]]) -> Layout:
    """The output; the cell methods of a variable's first file take precedence over those of the configuration."""
    sources = "; ".join(dict.fromkeys(part.source for own in parts for part in own))
    attributes = {}
    for variable, own in zip(variables, parts, strict=True):
        texts = {
            "standard_name": variable.standard_name,
            "long_name": variable.long_name,
            "units": variable.units,
            "cell_methods": own[0].cell_methods or variable.cell_methods,
        }
        attributes[variable.name] = {key: text for key, text in texts.items() if text}
    bounds = fields.bounds
    first_method = attributes[variables[0].name].get("cell_methods", "")
    if bounds is None and fields.step in ("1 month", "1 year") and time_method(first_method) != "point":
        bounds = step_bounds(fields.times, fields.step)
    return Layout(
        variables=attributes,
        attributes={"title": "fields on nested HEALPix", "source": sources},
        time=encode_times(fields.times, bounds, fields.calendar),
        grid=Cells(zoom=fields.zoom),
        members=fields.members,
        time_chunk=max(1, min(len(fields.times), CHUNK_VALUES // npix(fields.zoom))),
    )
