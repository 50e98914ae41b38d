"""Decode the time axis of a dataset: stamps, bounds and averaging periods of any CF calendar."""

import dataclasses
import datetime
import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING

import cftime
import numpy as np

from fsae.runtime.climate.calendar import Date, as_dates
from fsae.runtime.climate.time_units import ABSOLUTE, dates_of
from fsae.runtime.errors import DataError

from .sources import READ_ERRORS, reason
from .variables import standard

if TYPE_CHECKING:
    import xarray as xr


NOISE_US = 500  # times written as floating-point days are off by less than this
MOST_YEARS = 99_999  # years of longer axes come from damaged files
BARE = (("month as %Y%m.%f", 100_001, 1_000_000), ("day as %Y%m%d.%f", 10_000_101, 100_000_000))
BOUNDS_NAMES = ("time_bnds", "time_bounds", "time_bound", "bounds_time", "time_centered_bounds")  # named by no axis


@dataclass(frozen=True, kw_only=True)
class Dates:
    """Time axis of a variable: its dimension (None: a single time), stamps, and bounds if the file has them."""

    dim: str | None
    stamps: tuple[Date, ...]
    bounds: tuple[tuple[Date, Date], ...] | None
    notes: tuple[str, ...] = ()  # for the user, on bounds that are not as they should be


def is_time(variable: "xr.Variable") -> bool:
    """True if a variable holds dates, decoded or not."""
    if variable.dtype.kind == "M" or standard(variable) == "time":
        return True
    if variable.dtype.kind == "O":
        return variable.size > 0 and isinstance(variable.values.reshape(-1)[0], cftime.datetime)
    units = str(variable.attrs.get("units", "")).lower()
    return str(variable.attrs.get("axis", "")).upper() == "T" or " since " in units or ABSOLUTE.match(units) is not None


def find_dates(array: "xr.DataArray", dataset: "xr.Dataset", where: str) -> Dates:
    """The dates of a variable, decoded in the calendar of its time axis and strictly rising."""
    dim, axis = _time_axis(array, dataset, where)
    stamps = decode_dates(axis, axis, f"the times of {array.name} in {where}")
    if not stamps:
        raise DataError(f"{array.name} in {where} has no time steps", advice="give a file that has some")
    for step, (before, after) in enumerate(itertools.pairwise(stamps), 1):
        if after == before:
            raise DataError(
                f"{array.name} in {where} has the date {after} twice, in the steps {step} and {step + 1} of "
                f"{len(stamps)}",
                advice=f'leave one of them out, as in dataset.drop_duplicates("{dim}")',
            )
        if after < before:
            raise DataError(
                f"{array.name} in {where} has dates that do not rise ({after} after {before})",
                advice=f'sort it along time, as in dataset.sortby("{dim}")',
            )
    return _with_bounds(Dates(dim=dim, stamps=stamps, bounds=None), axis, dataset, where)


def _time_axis(array: "xr.DataArray", dataset: "xr.Dataset", where: str) -> "tuple[str | None, xr.Variable]":
    """The dimension of times (None: a single time) and the variable that holds them.

    That is the coordinate of a dimension, one beside it (`valid_time` along `step`), or a single one.
    """
    variables = dataset.variables
    along = [str(d) for d in array.dims if d in variables and variables[d].dims == (d,)]
    own = next((dim for dim in along if is_time(variables[dim])), None)
    if own is not None:
        return own, variables[own]
    beside = [(str(n), c) for n, c in array.coords.items() if c.ndim < 2 and is_time(c.variable)]
    beside.sort(key=lambda item: (item[0] != "time", standard(item[1]) != "time", -item[1].ndim))  # not reference times
    if beside:
        _, found = beside[0]
        return (str(found.dims[0]) if found.ndim else None), found.variable
    named = [dim for dim in along if dim.lower() in ("time", "date", "t", "times")]
    if named:
        raise _no_units(variables[named[0]], f"the times of {array.name} in {where}")
    raise DataError(
        f"{array.name} in {where} has no time axis with CF units among its dimensions {array.dims}",
        advice='add a coordinate with units such as "days since 1950-01-01"',
    )


def _with_bounds(dates: Dates, axis: "xr.Variable", dataset: "xr.Dataset", where: str) -> Dates:
    """The dates with the bounds of their axis, or with those that stand in the file under another name."""
    named = str(axis.attrs.get("bounds", axis.encoding.get("bounds", "")))
    if named in dataset.variables:
        return dataclasses.replace(dates, bounds=_decode_bounds(dataset, named, axis, dates, where))
    missing = f"The time axis of {where} names the bounds {named!r}, which the file does not have: " if named else ""
    for name in map(str, dataset.variables):
        if name.lower() not in BOUNDS_NAMES or name == named:
            continue
        bounds = _decode_bounds(dataset, name, axis, dates, where)
        if bounds and all(low <= date <= high for date, (low, high) in zip(dates.stamps, bounds, strict=True)):
            note = f"{missing or f'The time axis of {where} names no bounds: '}those called {name!r} are taken."
            return dataclasses.replace(dates, bounds=bounds, notes=(note,))
    if not missing or any((date.day, date.hour, date.minute, date.second) != (1, 0, 0, 0) for date in dates.stamps):
        return dates  # a stamp inside a month, or none of a month, is clear without bounds
    note = (
        f"{missing}its stamps are at the first instant of a month, and the month that begins there is taken. If "
        "the file stamps the end of a mean, each field is read as one of the next month: correct the bounds then."
    )
    return dataclasses.replace(dates, notes=(note,))


def _decode_bounds(
    dataset: "xr.Dataset", name: str, axis: "xr.Variable", dates: Dates, where: str
) -> tuple[tuple[Date, Date], ...] | None:
    """Beginning and end of each step from a variable (time, 2); None for one of another shape, or without lengths.

    DataError if one ends before it begins.
    """
    variable = dataset.variables[name]
    if variable.shape[-1:] != (2,) or variable.size != 2 * len(dates.stamps):
        return None
    edges = decode_dates(variable, axis, f"the time bounds in {where}")
    bounds = tuple(zip(edges[::2], edges[1::2], strict=True))
    wrong = next((pair for pair in bounds if pair[1] < pair[0]), None)
    if wrong is not None:
        raise DataError(
            f"the time bounds {name} in {where} end before they begin ({wrong[0]} to {wrong[1]})",
            advice="correct them, or leave them out",
        )
    return None if all(low == high for low, high in bounds) else bounds


def decode_dates(variable: "xr.Variable", axis: "xr.Variable", what: str) -> tuple[Date, ...]:
    """Dates of a time variable, or of its bounds, flat; units and calendar are those of the axis."""
    try:
        values = np.asarray(variable.values).reshape(-1)
        if values.dtype.kind not in "iuf":
            return tuple(map(_without_noise, as_dates(values)))
        if not np.isfinite(values).all():
            raise DataError(f"{what} have missing values", "a date for each step", "leave out those without one")
        units = axis.attrs.get("units", axis.encoding.get("units"))
        calendar = axis.attrs.get("calendar", axis.encoding.get("calendar", "standard"))
        if units is None:
            raise _no_units(axis, what)
        dates = tuple(map(_without_noise, dates_of(values, str(units), str(calendar).lower())))
    except READ_ERRORS as error:
        raise DataError(f"cannot decode {what}: {reason(error)}", advice="correct the time axis") from None
    far = next((date for date in dates if abs(date.year) > MOST_YEARS), None)
    if far is not None:
        raise DataError(f"{what} reach the year {far.year}", advice="is the time axis damaged? Correct its units")
    return dates


def _no_units(axis: "xr.Variable", what: str) -> DataError:
    """The error for times that are bare numbers; if these read as dates, its advice says how to mark them."""
    values = np.asarray(axis.values).reshape(-1)
    units = "days since 1950-01-01"
    if values.dtype.kind in "iuf" and values.size and np.isfinite(values).all():
        for form, low, high in BARE:
            if ((values >= low) & (values < high)).all():
                units = form
    return DataError(f"{what} have no units", f"such as {units!r}", "set the attribute units of the time axis")


def _without_noise(date: Date) -> Date:
    """The date, rounded to a whole second if it is within rounding errors of one."""
    over = date.microsecond
    if over >= 1_000_000 - NOISE_US:
        over -= 1_000_000
    return date - datetime.timedelta(microseconds=over) if 0 < abs(over) <= NOISE_US else date
