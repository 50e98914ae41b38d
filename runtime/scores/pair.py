"""An ensemble and its reference, opened, on one grid: read step by step, with all members."""

import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from fsae.runtime.arrays import F32, F64, Floating, Ints
from fsae.runtime.errors import DataError, UsageError
from fsae.runtime.input.fields import Fields, Wanted, converter
from fsae.runtime.input.grid_detection import find_grid
from fsae.runtime.input.joining import join_opened
from fsae.runtime.input.sources import Source
from fsae.runtime.sphere.grids import Grid, HealpixGrid, LatLonGrid, is_same, supported_zoom
from fsae.runtime.sphere.regrid import make_weights

from .steps import Run
from .variables import EnsembleVariable, without_members

SAME_DEG = 1e-3  # between the points of two grids that are the same
Convert = Callable[[Floating], Floating]


@dataclass(frozen=True, kw_only=True)
class Part:
    """One of the two: its fields on their own grid, and the way of their points (..., point) to the common one."""

    fields: Fields
    convert: Convert
    how: str  # that way in words

    @property
    def way(self) -> str:
        """The grid, and how it comes to the common one, in words."""
        return f"{self.fields.way}{self.how}"

    def read(self, times: slice, member: int | None = None) -> F32:
        """Values (time, point) of one member on the common grid."""
        values: F32 = self.convert(self.fields.read(times, member)[0, :, 0]).astype(np.float32)
        return values


@dataclass(frozen=True, kw_only=True)
class Pair:
    """A variable of an ensemble and of its reference on one grid, not in memory."""

    ensemble: Part
    reference: Part
    grid: Grid

    @property
    def members(self) -> int:
        """Number of members."""
        return len(self.ensemble.fields.members or (0,))

    @property
    def values_of_a_step(self) -> int:
        """Values that are in memory while a step is read."""
        return max(self.members * self.grid.size, self.ensemble.fields.grid.size, self.reference.fields.grid.size)

    def read(self, run: Run) -> tuple[F32, F32]:
        """Members (member, time, point) and reference (time, point) at steps that follow each other."""
        values = np.empty((self.members, run.length, self.grid.size), dtype=np.float32)
        for member in range(self.members):  # one at a time, as they are stored
            values[member] = self.ensemble.read(slice(run.ensemble, run.ensemble + run.length), member)
        return values, self.reference.read(slice(run.reference, run.reference + run.length))


@contextlib.contextmanager
def open_pair(
    ensemble: Source, reference: Source, variable: EnsembleVariable, zoom: int | None, names: Mapping[str, str]
) -> Iterator[Pair]:
    """A variable of an ensemble and of its reference, on one grid.

    On the same lat-lon grid they stay there, unless a `zoom` is asked for; else both come to HEALPix, by default at the
    finest zoom that both support. DataError for all that does not fit.
    """
    with contextlib.ExitStack() as closing:
        own = _open(ensemble, Wanted(variables=[variable], own_grid=True), closing)
        if len(own.members or ()) < 2:
            raise without_members(variable.name, ensemble.name, len(own.members or ()))
        known = {name: names[name] for name in names if name == variable.name}
        units = {name: said for name, said in reference.units.items() if name == variable.name}
        other = _open(reference, Wanted(variables=[variable], names=known, units=units, own_grid=True), closing)
        if len(other.members or (0,)) > 1:
            raise DataError(
                f"{variable.name} in {reference.name} has {len(other.members or ())} members",
                "one, as a reference has",
                "select one of them first, or take their mean",
            )
        yield _on_one_grid(own, other, zoom)


def _open(source: Source, wanted: Wanted, closing: contextlib.ExitStack) -> Fields:
    """The fields wanted of a source on their own grid, which must be that of all its files."""
    opened = source.open(closing)
    holding = [file for file in opened if wanted.held(file.dataset)[0]]
    grids = [find_grid(wanted.find(file.dataset, file.name)[0], file.dataset) for file in holding]
    for file, grid in zip(holding, grids, strict=True):
        if not is_same(grid, grids[0]):
            raise DataError(
                f"the files of {source.name} are on different grids: {grid} in {file.name}, {grids[0]} in "
                f"{holding[0].name}",
                advice="bring them to one grid first",
            )
    return join_opened(source.name, opened, wanted)


def _on_one_grid(ensemble: Fields, reference: Fields, zoom: int | None) -> Pair:
    """Both on one grid."""
    one, other = ensemble.grid, reference.grid
    if zoom is None and isinstance(one, LatLonGrid) and isinstance(other, LatLonGrid):
        places = _places(other, one)
        if places is not None:
            there = Part(fields=reference, convert=lambda values: values[..., places], how="")
            return Pair(
                ensemble=Part(fields=ensemble, convert=lambda values: values, how=""), reference=there, grid=one
            )
    finest = min(supported_zoom(one), supported_zoom(other))
    if zoom is not None and not 0 <= zoom <= finest:
        raise UsageError(
            f"found --zoom {zoom} for the {one} of {ensemble.name} and the {other} of {reference.name}",
            f"0 to {finest}, which both support",
            "leave --zoom out for the finest",
        )
    common = finest if zoom is None else zoom
    parts = [
        Part(fields=fields, convert=convert, how=how)
        for fields, (convert, how) in (
            (fields, converter(fields.grid, common, "auto", make_weights)) for fields in (ensemble, reference)
        )
    ]
    return Pair(ensemble=parts[0], reference=parts[1], grid=HealpixGrid(zoom=common, order="nested"))


def _places(grid: LatLonGrid, wanted: LatLonGrid) -> Ints | None:
    """For each point of one lat-lon grid its place in another one, flattened; None if it has other points.

    >>> lon = np.array([0.0, 180.0])
    >>> north, south = (LatLonGrid(lat_deg=np.array([60.0, -60.0]) * sign, lon_deg=lon) for sign in (1, -1))
    >>> _places(north, south).tolist()
    [2, 3, 0, 1]
    """
    if grid.shape != wanted.shape:
        return None
    rows, columns = (
        _matched(*axes) for axes in ((grid.lat_deg, wanted.lat_deg), (_turned(grid.lon_deg), _turned(wanted.lon_deg)))
    )
    if rows is None or columns is None:
        return None
    return (rows[:, None] * grid.shape[1] + columns).ravel()


def _turned(lon_deg: F64) -> F64:
    """Longitudes from 0 on, one that rounding puts just below 360 as well."""
    return (np.asarray(lon_deg) + SAME_DEG) % 360.0


def _matched(axis: F64, wanted: F64) -> Ints | None:
    """For each point of an axis its place in another one; None if it has other points."""
    order, place = np.argsort(axis), np.argsort(wanted)
    if not np.allclose(axis[order], wanted[place], rtol=0, atol=SAME_DEG):
        return None
    found = np.empty_like(order)
    found[place] = order
    return found
