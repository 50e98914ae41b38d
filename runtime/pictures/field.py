"""The variable of a file that a picture shows: found, on its grid, by members and steps, in the units to show."""

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from fsae.runtime.arrays import F64
from fsae.runtime.climate.calendar import Date, averaging_periods, date_text, infer_step, parse_period, parse_start
from fsae.runtime.climate.units import conversion
from fsae.runtime.errors import DataError, UsageError, shown
from fsae.runtime.input.dates import Dates, find_dates
from fsae.runtime.input.forecasts import on_valid_times
from fsae.runtime.input.grid_detection import locate
from fsae.runtime.input.lat_lon import Located
from fsae.runtime.input.meaning import is_temperature_difference, said_anomaly
from fsae.runtime.input.reader import read_points
from fsae.runtime.input.sources import Source, open_source
from fsae.runtime.input.variables import member_coordinate, member_dim

if TYPE_CHECKING:
    import xarray as xr


BLOCK_VALUES = 1 << 22  # read at once
MOST_LISTED = 8
MOST_LETTERS = 90  # of a name in a picture
CELSIUS = ("degC", "deg_C", "degree_Celsius", "degrees_Celsius", "celsius", "Celsius", "C")
EQUAL = 1e-6  # relative, of a number that --select names and one of a coordinate


@dataclass(frozen=True, kw_only=True)
class Shown:
    """The part of a file that a picture shows, as it is asked for; the first of what is not said."""

    variable: str | None = None
    member: str | None = None
    time: str | None = None
    units: str | None = None
    select: Mapping[str, str]  # entries of further dimensions, such as levels, by their names


@dataclass(frozen=True, kw_only=True)
class Field:
    """A variable on the sphere, not in memory."""

    array: "xr.DataArray"
    place: Located
    where: str  # name of its file
    long_name: str
    units: str  # shown; empty if the file says none
    scale: tuple[float, float]  # factor, offset of values as they are shown
    is_difference: bool
    member_dim: str | None
    members: tuple[str, ...]  # labels; of a file without a dimension of members none
    time_dim: str | None
    times: tuple[Date, ...]  # of the middle of a month or the like its beginning; empty without a time axis
    step: str | None  # such as "1 month"
    member: int  # index of the one shown
    time: int

    @property
    def name(self) -> str:
        """The variable's name in its file."""
        return str(self.array.name)

    @property
    def count(self) -> tuple[int, int]:
        """Members and steps."""
        return max(len(self.members), 1), max(len(self.times), 1)

    @property
    def shown_time(self) -> str:
        """The step shown, as text; empty without a time axis."""
        return date_text(self.times[self.time], self.step) if self.times else ""

    @property
    def shown_member(self) -> str:
        """The member shown, as text; empty without members."""
        return f"member {plain(self.members[self.member])}" if self.members else ""

    def read(self, members: slice, times: slice) -> F64:
        """Values (member, step, point) of the grid in the units shown; NaN where they are missing."""
        part = self.array
        for dim, own in ((self.member_dim, members), (self.time_dim, times)):
            part = part if dim is None else part.isel({dim: own})
        values = read_points(part, (self.member_dim, self.time_dim), self.place, self.where)
        lengths = [part.sizes[dim] if dim is not None else 1 for dim in (self.member_dim, self.time_dim)]
        found: F64 = values.astype(np.float64).reshape(*lengths, -1)
        found[~np.isfinite(found)] = np.nan
        factor, offset = self.scale
        return found if self.scale == (1.0, 0.0) else found * factor + offset

    def shown_values(self) -> F64:
        """The values (point,) of the member and step shown."""
        values: F64 = self.read(slice(self.member, self.member + 1), slice(self.time, self.time + 1))[0, 0]
        return values

    def blocks(self, members: slice, times: slice) -> Iterator[tuple[slice, slice, F64]]:
        """The values of some members and steps piece by piece, as they are stored, and of which they are."""
        chunks = self.array.encoding.get("preferred_chunks", {})
        sizes = []
        most = max(1, BLOCK_VALUES // self.place.grid.size)
        for dim, own in ((self.time_dim, times), (self.member_dim, members)):
            length = own.stop - own.start
            chunk = min(max(int(chunks.get(dim, 1)), 1), length)
            sizes.append(min(length, most // chunk * chunk or most))
            most = max(1, most // sizes[-1])
        for first in range(members.start, members.stop, sizes[1]):
            some = slice(first, min(first + sizes[1], members.stop))
            for begin in range(times.start, times.stop, sizes[0]):
                steps = slice(begin, min(begin + sizes[0], times.stop))
                yield some, steps, self.read(some, steps)


def plain(text: str) -> str:
    """A text of a file as one line of a picture, in which a $ begins no formula.

    >>> plain("cost\\n[$]")
    'cost\\\\n[\\\\$]'
    """
    return shown(text, MOST_LETTERS).replace("$", r"\$")


def with_units(name: str, units: str) -> str:
    """A name and its units.

    >>> with_units("tas", "K"), with_units("index", "")
    ('tas [K]', 'index')
    """
    return f"{plain(name)} [{plain(units)}]" if units else plain(name)


def of_differences(units: str) -> str:
    """The units of differences of values in some units: of temperatures, those without a zero of their own.

    >>> of_differences("degC"), of_differences("m s-1")
    ('K', 'm s-1')
    """
    return "K" if units in CELSIUS else units


@contextlib.contextmanager
def open_field(source: Source, asked: Shown) -> Iterator[Field]:
    """The variable of a file that is asked for.

    DataError for a file, grid or time axis that is none, UsageError for a member, time or entry that is not there.
    """
    with open_source(source) as (opened, where):
        dataset = on_valid_times(_selected(opened, asked.select, where), where)
        array, place = _variable(dataset, asked.variable, where)
        member = member_dim(array)
        dates = _dates(array, dataset, {member, *place.dims}, where)
        labels = () if member is None else _labels(array, member)
        times, step = _starts(dates, str(array.attrs.get("cell_methods", ""))) if dates else ((), None)
        differs = said_anomaly(array) is not None or is_temperature_difference(array)
        units, scale = _units(array, asked.units, differs, where)
        known = {None if dates is None else dates.dim, member, *place.dims}
        array = _without_others(array, known, where)
        yield Field(
            array=array,
            place=place,
            where=where,
            long_name=str(array.attrs.get("long_name") or array.attrs.get("standard_name") or array.name),
            units=units,
            scale=scale,
            is_difference=differs,
            member_dim=member,
            members=labels,
            time_dim=None if dates is None else dates.dim,
            times=times,
            step=step,
            member=_member(labels, asked.member, where),
            time=_time(times, step, asked.time, where),
        )


def _selected(dataset: "xr.Dataset", select: Mapping[str, str], where: str) -> "xr.Dataset":
    """The dataset at the entries that --select names."""
    for dim, wanted in select.items():
        if dim not in dataset.dims:
            raise UsageError(
                f"found --select {dim}={wanted} for {where}",
                f"one of its dimensions {_listed(list(map(str, dataset.dims)))}",
                f"leave it out, or name one, as in --select {next(map(str, dataset.dims), 'plev')}=0",
            )
        values = dataset[dim].values if dim in dataset.variables else np.arange(dataset.sizes[dim])
        fitting = [place for place, value in enumerate(values.tolist()) if _is_same(value, wanted)]
        if len(fitting) != 1:
            raise UsageError(
                f"found --select {dim}={wanted}, which is not in {where}",
                f"one of {_listed(list(map(str, values.tolist())))}",
                f"give such as --select {dim}={values.tolist()[0]}",
            )
        dataset = dataset.isel({dim: fitting[0]})
    return dataset


def _is_same(value: Any, wanted: str) -> bool:
    try:
        return bool(np.isclose(float(value), float(wanted), rtol=EQUAL, atol=0))
    except (TypeError, ValueError):
        return str(value) == wanted


def _listed(names: Sequence[str]) -> str:
    """The first of some names, with the number of the others.

    >>> _listed(["tas", "uas"]), _listed(list("abcdefghij"))
    ('tas, uas', 'a, b, c, d, e, f, g, h and 2 more')
    """
    more = len(names) - MOST_LISTED
    return ", ".join(names[:MOST_LISTED]) + (f" and {more} more" if more > 0 else "")


def _variable(dataset: "xr.Dataset", name: str | None, where: str) -> "tuple[xr.DataArray, Located]":
    """The variable of a name, or the first on a grid of the globe, and where its values are."""
    numeric = [str(n) for n, v in dataset.data_vars.items() if v.ndim and v.dtype.kind in "fiu"]
    if name is not None:
        if name not in numeric:
            there = _listed(numeric) or "no variable of numbers"
            raise DataError(f"{where} has no variable {name!r} of numbers; it has {there}", advice="name one of them")
        return dataset[name], locate(dataset[name], dataset)
    refused: DataError | None = None
    for one in sorted(numeric, key=lambda one: -dataset[one].ndim):  # bounds and the like have few dimensions
        try:
            return dataset[one], locate(dataset[one], dataset)
        except DataError as error:
            refused = refused or error
    raise refused or DataError(f"{where} has no variable of numbers", advice="give a file of fields")


def _dates(array: "xr.DataArray", dataset: "xr.Dataset", known: set[str | None], where: str) -> Dates | None:
    """The times of a variable; None for one that has none, such as a height of the ground."""
    try:
        return find_dates(array, dataset, where)
    except DataError:
        if any(str(dim) not in known and array.sizes[dim] > 1 for dim in array.dims):
            raise
        return None


def _starts(dates: Dates, cell_methods: str) -> tuple[tuple[Date, ...], str | None]:
    """The dates of steps, of months and years their beginning, and the step."""
    step = infer_step(dates.stamps, dates.bounds)
    if step is None or step.split()[-1].rstrip("s") not in ("month", "year"):
        return dates.stamps, step
    periods = dates.bounds or averaging_periods(dates.stamps, step, cell_methods)
    return (dates.stamps if periods is None else tuple(begin for begin, _ in periods)), step


def _without_others(array: "xr.DataArray", known: set[str | None], where: str) -> "xr.DataArray":
    """The variable without dimensions of one entry; DataError for further ones of several."""
    others = [str(dim) for dim in array.dims if str(dim) not in known]
    long = [dim for dim in others if array.sizes[dim] > 1]
    if long:
        first = array[long[0]].values.tolist()[0] if long[0] in array.coords else 0
        listed = ", ".join(f"{dim} ({array.sizes[dim]})" for dim in long)
        raise DataError(
            f"{array.name} in {where} has the dimensions {listed} too",
            advice=f"name one entry of each, as in --select {long[0]}={first}",
        )
    return array.isel(dict.fromkeys(others, 0))


def _labels(array: "xr.DataArray", dim: str) -> tuple[str, ...]:
    """The labels of the members, or their numbers from 0."""
    beside = member_coordinate(array, dim)
    values = list(range(array.sizes[dim])) if beside is None else beside.values.tolist()
    return tuple(
        one.decode(errors="replace") if isinstance(one, bytes) else f"{one:g}" if isinstance(one, float) else str(one)
        for one in values
    )


def _member(labels: Sequence[str], wanted: str | None, where: str) -> int:
    if wanted is None:
        return 0
    if wanted in labels:
        return labels.index(wanted)
    raise UsageError(
        f"found --member {wanted} for {where}",
        f"one of its members {_listed(labels)}" if labels else "none, as it has no members",
        f"give such as --member {labels[0]}" if labels else "leave it out",
    )


def _time(times: Sequence[Date], step: str | None, wanted: str | None, where: str) -> int:
    """The step that a date names: the only one in that year, month, day, hour or minute."""
    if wanted is None:
        return 0
    if not times:
        raise UsageError(f"found --time {wanted} for {where}", "none, as it has no times", "leave it out")
    calendar = times[0].calendar
    parse_start(wanted, calendar)  # its error is about one date, not a period
    begin, end = parse_period(f"{wanted}/{wanted}", calendar)
    fitting = [place for place, date in enumerate(times) if begin <= date < end]
    if len(fitting) == 1:
        return fitting[0]
    several = [date_text(times[place], step) for place in fitting[:2]]
    raise UsageError(
        f"found --time {wanted} for {where}",
        f"the date of one step; {len(fitting)} fit, {several[0]}, {several[1]}, ..."
        if several
        else f"a date of its steps, {date_text(times[0], step)} to {date_text(times[-1], step)}",
        f"give such as --time {date_text(times[fitting[0] if fitting else 0], step).replace(' ', 'T')}",
    )


def _units(array: "xr.DataArray", wanted: str | None, differs: bool, where: str) -> tuple[str, tuple[float, float]]:
    """The units to show, and factor and offset from those of the file; of differences without the offset."""
    own = array.attrs.get("units")
    text = "" if own is None else str(own)
    if wanted is None:
        return text, (1.0, 0.0)
    if own is None:
        raise DataError(f"{array.name} in {where} has no units", f"some that convert to {wanted}", "leave --units out")
    factor, offset = conversion(text, wanted)
    return wanted, (factor, 0.0 if differs else offset)
