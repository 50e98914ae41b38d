"""Dates of the numbers on a time axis: CF units and calendars, and those units that CF leaves to each tool.

`months since` and `years since` count calendar months and years, as CDO and the makers of such files mean them: the
month of UDUNITS, 30.44 days, drifts through the calendar. `day as %Y%m%d.%f` is the absolute time of CDO.
"""

import datetime
import re
from collections.abc import Callable, Sequence
from typing import Any

import cftime
import numpy as np
from numpy.typing import NDArray

from .calendar import Date

SINCE = re.compile(
    r"\s*([a-z_]+)\s+since\s+([+-]?\d{1,5})(?:-(\d{1,2})(?:-(\d{1,2}))?)?"
    r"(?:[t\s]+(\d{1,2})(?::(\d{1,2})(?::(\d{1,2})(\.\d*)?)?)?(?![\d:]))?\s*(.*?)\s*",
    re.IGNORECASE,
)
ZONE = re.compile(r"(?:z|utc|gmt)?|([+-])(\d{1,2}):?(\d{2})?", re.IGNORECASE)
ABSOLUTE = re.compile(r"\s*(day|month|year)s?\s+as\s+%y(%m)?(%d)?(?:\.%f)?\s*", re.IGNORECASE)
CALENDAR_UNITS = {"month": 1, "months": 1, "year": 12, "years": 12, "yr": 12, "yrs": 12}  # [months]


def dates_of(values: NDArray[Any], units: str, calendar: str) -> Sequence[Date]:
    """The dates that finite numbers stand for.

    ValueError or OverflowError for units, calendars and numbers that stand for none.

    >>> [str(date)[:10] for date in dates_of(np.array([540, 541]), "months since 1960-01-01", "standard")]
    ['2005-01-01', '2005-02-01']
    >>> str(dates_of(np.array([20050116.5]), "day as %Y%m%d.%f", "proleptic_gregorian")[0])
    '2005-01-16 12:00:00'
    >>> str(dates_of(np.array([0]), "days since 2005-01-01 00:00:00 -6", "noleap")[0])
    '2005-01-01 06:00:00'
    """
    absolute = ABSOLUTE.fullmatch(units)
    if absolute is not None:
        return [_absolute(float(value), absolute[1].lower(), calendar) for value in values]
    found = SINCE.fullmatch(units)
    zone = ZONE.fullmatch(found[9]) if found is not None else None
    if found is None or zone is None:
        raise ValueError(f"the units are {units[:100]!r}, expected such as 'days since 1950-01-01 00:00:00'")
    unit, year, month, day = found[1].lower(), int(found[2]), int(found[3] or 1), int(found[4] or 1)
    clock = (int(found[5] or 0), int(found[6] or 0), int(found[7] or 0))
    if unit in CALENDAR_UNITS:
        first = cftime.datetime(year, month, day, *clock, calendar=calendar)
        return [_later(first, float(value) * CALENDAR_UNITS[unit]) - _offset(zone) for value in values]
    if unit in ("nanosecond", "nanoseconds", "ns"):  # what xarray writes, and cftime does not know
        unit, values = "microseconds", values // 1000
    reference = f"{year}-{month}-{day} {clock[0]}:{clock[1]}:{clock[2]}{found[8] or ''}"
    dates = np.atleast_1d(
        cftime.num2date(values, f"{unit} since {reference}", calendar, only_use_cftime_datetimes=True)
    )
    return [date - _offset(zone) for date in dates]


def _offset(zone: re.Match[str]) -> datetime.timedelta:
    """The time that a zone is ahead of UTC."""
    if zone[1] is None:
        return datetime.timedelta()
    return int(f"{zone[1]}1") * datetime.timedelta(hours=int(zone[2]), minutes=int(zone[3] or 0))


def _later(first: Date, months: float) -> Date:
    """A date some calendar months later; a fraction is one of the month that it falls in."""
    whole = int(np.floor(months))
    return _inside(lambda count: _shift(first, whole + count), months - whole)


def _shift(first: Date, months: int) -> Date:
    """A date whole calendar months later, on the last day of a month that is too short."""
    number = 12 * first.year + first.month - 1 + months
    begin = first.replace(year=number // 12, month=number % 12 + 1, day=1)
    return begin.replace(day=min(first.day, begin.daysinmonth))


def _absolute(value: float, unit: str, calendar: str) -> Date:
    """The date of YYYYMMDD, YYYYMM or YYYY with a fraction of that day, month or year."""
    whole = int(np.floor(abs(value)))
    fraction, sign = abs(value) - whole, -1 if value < 0 else 1
    digits = {"day": 10_000, "month": 100, "year": 1}[unit]
    year, rest = sign * (whole // digits), whole % digits
    month, day = {"day": (rest // 100, rest % 100), "month": (rest, 1), "year": (1, 1)}[unit]
    first = cftime.datetime(year, month, day, calendar=calendar)
    if unit == "day":
        return _inside(lambda count: first + datetime.timedelta(days=count), fraction)
    return _inside(lambda count: _shift(first, count * (12 if unit == "year" else 1)), fraction)


def _inside(edge: Callable[[int], Date], fraction: float) -> Date:
    """The date at a fraction of a period between edges 0 and 1, to the second: the numbers hold no more."""
    first = edge(0)
    if not fraction:
        return first
    return first + datetime.timedelta(seconds=round(fraction * (edge(1) - first).total_seconds()))
