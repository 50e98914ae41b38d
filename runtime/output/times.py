"""Encoded CF times of output: one series of steps, or several forecasts side by side."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import cftime
import numpy as np
from numpy.typing import NDArray

from .store import Attribute, Coordinate

REFERENCE, LEAD = "forecast_reference_time", "lead_time"  # dimensions of several forecasts
REFERENCE_DATE = "1850-01-01 00:00:00"
EIGHTH_OF_A_DAY_S = 10_800  # multiples of it are exact as binary fractions of a day


@dataclass(frozen=True, kw_only=True)
class TimeAxis:
    """An encoded CF time axis: values (time) and bounds (time, 2) or None, in `units` of `calendar`.

    Of several forecasts side by side, values (forecast, time) and bounds (forecast, time, 2).
    """

    values: NDArray[np.float64]
    bounds: NDArray[np.float64] | None
    units: str
    calendar: str


@dataclass(frozen=True, kw_only=True)
class ReferenceTimes:
    """The axes of several forecasts side by side: encoded reference times (forecast), and lead times (time)."""

    times: TimeAxis
    leads: NDArray[np.float64]
    lead_units: str


def encode_times(
    times: Sequence[cftime.datetime], bounds: Sequence[tuple[cftime.datetime, cftime.datetime]] | None, calendar: str
) -> TimeAxis:
    """The CF encoding of dates: days if those are exact in binary, else seconds.

    >>> encode_times([cftime.datetime(1850, 3, 1, calendar="noleap")], None, "noleap").values.tolist()
    [59.0]
    """
    reference = f"since {REFERENCE_DATE}"
    calendar = str(cftime.datetime(1, 1, 1, calendar=calendar).calendar)  # CF's name: standard, not gregorian
    given = [*times, *(date for pair in bounds or () for date in pair)]
    # the same dates in the calendar asked for: dates from datetime64 are proleptic Gregorian
    flat = [cftime.datetime(*d.timetuple()[:6], d.microsecond, calendar=calendar) for d in given]
    seconds = np.asarray(cftime.date2num(flat, f"seconds {reference}", calendar=calendar), dtype=np.float64)
    in_days = bool(np.all(seconds % EIGHTH_OF_A_DAY_S == 0))
    values = seconds / 86_400 if in_days else seconds
    return TimeAxis(
        values=values[: len(times)],
        bounds=values[len(times) :].reshape(-1, 2) if bounds is not None else None,
        units=f"{'days' if in_days else 'seconds'} {reference}",
        calendar=calendar,
    )


def encode_series(
    times: Sequence[Sequence[cftime.datetime]],
    bounds: Sequence[Sequence[tuple[cftime.datetime, cftime.datetime]] | None],
    calendar: str,
    reference_times: ReferenceTimes | None,
) -> TimeAxis:
    """The times of one series, or of several forecasts (forecast, time) encoded together; bounds if all have them."""
    if reference_times is None:
        return encode_times(times[0], bounds[0], calendar)
    whole = [pair for own in bounds for pair in own or ()] if all(own is not None for own in bounds) else None
    axis = encode_times([date for own in times for date in own], whole, calendar)
    return dataclasses.replace(
        axis,
        values=axis.values.reshape(len(times), -1),
        bounds=None if axis.bounds is None else axis.bounds.reshape(len(times), -1, 2),
    )


def reference_coordinates(reference_times: ReferenceTimes) -> list[Coordinate]:
    """Reference times and lead times of several forecasts."""
    axis = reference_times.times
    reference: dict[str, Attribute] = {"standard_name": "forecast_reference_time", "long_name": "start of the forecast"}
    reference |= {"units": axis.units, "calendar": axis.calendar}
    lead: dict[str, Attribute] = {"standard_name": "forecast_period", "long_name": "time since the start"}
    return [
        Coordinate(name=REFERENCE, dims=(REFERENCE,), values=axis.values, attributes=reference),
        Coordinate(
            name=LEAD,
            dims=(LEAD,),
            values=reference_times.leads,
            attributes=lead | {"units": reference_times.lead_units},
        ),
    ]
