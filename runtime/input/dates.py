"""Decode the time axis of a dataset: stamps, bounds and averaging periods of any CF calendar."""

import datetime
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import cftime
import numpy as np

from fsae.runtime.climate.calendar import Date, as_dates
from fsae.runtime.errors import DataError

from .sources import READ_ERRORS, reason
from .variables import standard

if TYPE_CHECKING:
    import xarray as xr


NOISE_US = 500  # times written as floating-point days are off by less than this


@dataclass(frozen=True, kw_only=True)
class Dates:
    """Time axis of a variable: its dimension (None: a single time), stamps, and bounds if the file has them."""

    dim: str | None
    stamps: tuple[Date, ...]
    bounds: tuple[tuple[Date, Date], ...] | None


def is_time(variable: "xr.Variable") -> bool:
    """True if a variable holds dates, decoded or not."""
    if variable.dtype.kind == "M" or standard(variable) == "time":
        return True
    if variable.dtype.kind == "O":
        return variable.size > 0 and isinstance(variable.values.reshape(-1)[0], cftime.datetime)
    axis = str(variable.attrs.get("axis", "")).upper()
    return axis == "T" or " since " in str(variable.attrs.get("units", ""))


def find_dates(array: "xr.DataArray", dataset: "xr.Dataset", where: str) -> Dates:
    """The dates of a variable, decoded in the calendar of its time axis and strictly rising."""
    variables = dataset.variables
    dim = next((str(d) for d in array.dims if d in variables and is_time(variables[d])), None)
    name = dim
    if name is None:
        loose = [str(n) for n, c in array.coords.items() if c.ndim == 0 and is_time(c.variable)]
        loose.sort(key=lambda n: (n != "time", standard(variables[n]) != "time"))  # not forecast_reference_time
        name = loose[0] if loose else None
    if name is None:
        raise DataError(f"{array.name} in {where} has no time axis with CF units among its dimensions {array.dims}")
    axis = variables[name]
    stamps = decode_dates(axis, axis, f"the times of {array.name} in {where}")
    if not stamps:
        raise DataError(f"{array.name} in {where} has no time steps")
    for before, after in itertools.pairwise(stamps):
        if after <= before:
            kind = "the same date twice" if after == before else "dates that do not rise"
            raise DataError(
                f"{array.name} in {where} has {kind} ({after} after {before})", advice="sort its times first"
            )
    return Dates(dim=dim, stamps=stamps, bounds=_find_bounds(axis, dataset, len(stamps), where))


def _find_bounds(
    axis: "xr.Variable", dataset: "xr.Dataset", count: int, where: str
) -> tuple[tuple[Date, Date], ...] | None:
    """Bounds of the time axis; None if the file names none or lacks those it names."""
    name = str(axis.attrs.get("bounds", axis.encoding.get("bounds", "")))
    if name not in dataset.variables or dataset.variables[name].shape[-1:] != (2,):
        return None
    edges = decode_dates(dataset.variables[name], axis, f"the time bounds in {where}")
    if len(edges) != 2 * count:
        return None
    return tuple(zip(edges[::2], edges[1::2], strict=True))


def decode_dates(variable: "xr.Variable", axis: "xr.Variable", what: str) -> tuple[Date, ...]:
    """Dates of a time variable, or of its bounds, flat; units and calendar are those of the axis."""
    try:
        values = np.asarray(variable.values).reshape(-1)
        if values.dtype.kind not in "iuf":
            return tuple(map(_without_noise, as_dates(values)))
        if not np.isfinite(values).all():
            raise DataError(f"{what} have missing values", "a date for each step")
        units = axis.attrs.get("units", axis.encoding.get("units"))
        calendar = axis.attrs.get("calendar", axis.encoding.get("calendar", "standard"))
        if units is None:
            raise DataError(f"{what} have no units", "such as 'days since 1950-01-01'")
        dates: Sequence[Date] = np.atleast_1d(
            cftime.num2date(values, str(units), str(calendar).lower(), only_use_cftime_datetimes=True)
        ).tolist()
        return tuple(map(_without_noise, dates))
    except READ_ERRORS as error:
        raise DataError(f"cannot decode {what}: {reason(error)}") from None


def _without_noise(date: Date) -> Date:
    """The date, rounded to a whole second if it is within rounding errors of one."""
    over = date.microsecond
    if over >= 1_000_000 - NOISE_US:
        over -= 1_000_000
    return date - datetime.timedelta(microseconds=over) if 0 < abs(over) <= NOISE_US else date
