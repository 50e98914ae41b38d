"""Dates of any CF calendar: the step of an axis, the phase of the year, and the stamps of output.

The phase is the fraction of the year that has passed at the middle of the averaging period. Monthly means are stamped
on the first, in the middle or anywhere else in their month, so the stamp alone could be half a month off the season.
"""

import datetime
import itertools
import re
from collections.abc import Sequence
from typing import Any, TypeAlias

import cftime
import numpy as np
from numpy.typing import NDArray

from fsae.runtime.errors import DataError, UsageError

from .steps import MONTHS, SECONDS, format_step, parse_step

Date: TypeAlias = cftime.datetime
Bounds: TypeAlias = Sequence[tuple[Date, Date]]
UNITS = ("year", "month", "day", "hour", "minute", "second")  # the parts of a date
START = re.compile(r"(\d{4})(?:-(\d{1,2})(?:-(\d{1,2})(?:[T ](\d{1,2})(?::(\d{2}))?(?::(\d{2}))?Z?)?)?)?")

# Stamps of monthly means wander by this much around whole months: 28 days of February, 15th against 16th.
MONTH_JITTER_DAYS = 4.0


def as_dates(times: Sequence[Any] | NDArray[Any]) -> list[Date]:
    """cftime dates of datetime64 values or cftime dates; datetime64 is proleptic Gregorian, to the microsecond."""
    values = np.asarray(times).reshape(-1)
    if values.dtype.kind == "M":
        if np.isnat(values).any():
            raise DataError(
                f"found {int(np.isnat(values).sum())} missing times",
                "a date for each step",
                "fill the missing ones, or select the others first",
            )
        plain = values.astype("datetime64[us]").astype(datetime.datetime)
        fields = ((*d.timetuple()[:6], d.microsecond) for d in plain)
        return [cftime.datetime(*f, calendar="proleptic_gregorian") for f in fields]
    dates = list(values)
    if not all(isinstance(date, cftime.datetime) for date in dates):
        raise DataError(f"found times of type {values.dtype}", "dates", "does the time axis have CF units?")
    return dates


def _month_index(date: Date) -> int:
    return int(12 * date.year + date.month - 1)


def _shift(date: Date, count: int, unit: str) -> Date:
    """`date` moved by whole steps; months keep day and hour, so the date must be early in its month."""
    if unit in MONTHS:
        moved = _month_index(date) + count * MONTHS[unit]
        return date.replace(year=moved // 12, month=moved % 12 + 1)
    return date + datetime.timedelta(seconds=count * SECONDS[unit])


def _floor(date: Date, count: int, unit: str) -> Date:
    """Start of the calendar month, year, day or whole step of hours that holds `date`."""
    if unit in MONTHS:
        return cftime.datetime(date.year, 1 if unit == "year" else date.month, 1, calendar=date.calendar)
    midnight = cftime.datetime(date.year, date.month, date.day, calendar=date.calendar)
    if unit == "day":
        return midnight
    length = count * SECONDS[unit]
    if SECONDS["day"] % length:  # steps that do not divide the day start at whole hours or minutes
        length = SECONDS[unit]
    return midnight + datetime.timedelta(seconds=int((date - midnight).total_seconds()) // length * length)


def infer_step(times: Sequence[Date], bounds: Bounds | None = None) -> str | None:
    """Step of rising stamps such as "1 month", gaps allowed; None for uneven steps and for one stamp without bounds.

    >>> infer_step([cftime.datetime(2005, m, d, calendar="noleap") for m, d in ((1, 16), (2, 15), (3, 16))])
    '1 month'
    """
    if len(times) == 1 and bounds is not None:
        times = [bounds[0][0], bounds[0][1]]
    if len(times) < 2:
        return None
    pairs = list(itertools.pairwise(times))
    gaps = np.array([(after - before).total_seconds() for before, after in pairs])
    if gaps.min() <= 0:
        return None
    months = np.array([_month_index(after) - _month_index(before) for before, after in pairs])
    month_days = 30.0 if times[0].calendar == "360_day" else 30.4375
    step = int(months.min())
    if step >= 1 and not (months % step).any():
        jitter = np.abs(gaps / SECONDS["day"] - months * month_days)
        if jitter.max() <= MONTH_JITTER_DAYS:
            return format_step(step // 12, "year") if step % 12 == 0 else format_step(step, "month")
    seconds = round(float(gaps.min()))
    if seconds == 0 or np.abs(gaps / seconds - np.round(gaps / seconds)).max() > 1e-3:
        return None
    for unit in ("day", "hour", "minute"):
        if seconds % SECONDS[unit] == 0:
            return format_step(seconds // SECONDS[unit], unit)
    return None


def time_method(cell_methods: str) -> str:
    """The method along time in `cell_methods` ("mean", "point", ...), empty if it names none.

    >>> time_method("area: mean time: point"), time_method("lat: lon: mean"), time_method("time: lat: sum")
    ('point', '', 'sum')
    """
    found = re.search(r"\btime:\s*(?:\w+:\s*)*(\w+)", cell_methods)
    return found[1] if found else ""


def centres(
    times: Sequence[Date], step: str | None = None, cell_methods: str = "", bounds: Bounds | None = None
) -> list[Date]:
    """Middle of the averaging period of each stamp.

    From `bounds` if there are any; for instantaneous values (`time: point`) the stamp. Otherwise the middle of the
    stamp's calendar month or year for steps of one of them, of its calendar day for daily values with a method along
    time in `cell_methods`, of longer steps of months that begin at the stamp; in all other cases the stamp itself.
    """
    known = averaging_periods(times, step, cell_methods) if bounds is None else bounds
    return list(times) if known is None else [start + (end - start) / 2 for start, end in known]


def averaging_periods(
    times: Sequence[Date], step: str | None = None, cell_methods: str = ""
) -> list[tuple[Date, Date]] | None:
    """Beginning and end of the averaging period of each stamp, as `centres` takes it; None if it is not known.

    >>> stamps = [cftime.datetime(2005, 2, 1, calendar="noleap")]
    >>> [str(date)[:10] for date in averaging_periods(stamps, "1 month")[0]]
    ['2005-02-01', '2005-03-01']
    """
    method = time_method(cell_methods)
    if step is None or method == "point":
        return None
    count, unit = parse_step(step)
    if unit not in MONTHS and (step != "1 day" or not method):
        return None
    starts = [_floor(stamp, count, unit) for stamp in times]
    if count > 1 and starts != list(times):
        return None
    return [(start, _shift(start, count, unit)) for start in starts]


def _year_fraction(date: Date) -> float:
    start = cftime.datetime(date.year, 1, 1, calendar=date.calendar)
    return float((date - start) / (start.replace(year=date.year + 1) - start))


def year_phase(
    times: Sequence[Date], step: str | None = None, cell_methods: str = "", bounds: Bounds | None = None
) -> NDArray[np.float64]:
    """Fraction of the year, 0 to 1, at the middle of each averaging period (see `centres`), in that calendar's year.

    >>> year_phase([cftime.datetime(1, 12, 1, calendar="360_day")], "1 month").round(4).tolist()
    [0.9583]
    """
    return np.array([_year_fraction(date) for date in centres(times, step, cell_methods, bounds)])


def decimal_year(
    times: Sequence[Date], step: str | None = None, cell_methods: str = "", bounds: Bounds | None = None
) -> NDArray[np.float64]:
    """Calendar year and fraction of it at the middle of each averaging period.

    >>> decimal_year([cftime.datetime(1990, 7, 1, calendar="360_day")], "1 month").round(4).tolist()
    [1990.5417]
    """
    return np.array([date.year + _year_fraction(date) for date in centres(times, step, cell_methods, bounds)])


def steps(start: Date, count: int, step: str, calendar: str) -> list[Date]:
    """`count` stamps at the beginning of consecutive steps, the first of them the step that holds `start`.

    >>> [str(d)[:10] for d in steps(cftime.datetime(2004, 12, 9, calendar="noleap"), 2, "1 month", "noleap")]
    ['2004-12-01', '2005-01-01']
    """
    if start.calendar != cftime.datetime(1, 1, 1, calendar=calendar).calendar:  # gregorian is standard, 365_day noleap
        raise DataError(
            f"found a start in the calendar {start.calendar!r}", repr(calendar), "give the start in that calendar"
        )
    length, unit = parse_step(step)
    first = _floor(start, length, unit)
    return [_shift(first, i * length, unit) for i in range(count)]


def steps_between(first: Date, end: Date, step: str) -> int:
    """Number of steps from the one that holds `first` to the last that begins before `end`.

    >>> steps_between(cftime.datetime(2005, 3, 9), cftime.datetime(2006, 1, 2), "1 month")
    11
    """
    length, unit = parse_step(step)
    begin = _floor(first, length, unit)
    if unit in MONTHS:
        months = _month_index(end) - _month_index(begin) + (end > end.replace(day=1, hour=0, minute=0, second=0))
        return -int(-months // (length * MONTHS[unit]))
    return -int((begin - end) // datetime.timedelta(seconds=length * SECONDS[unit]))


def step_bounds(times: Sequence[Date], step: str) -> list[tuple[Date, Date]]:
    """Beginning and end of the step that holds each stamp: its calendar month, year or day, or hours of the day.

    >>> [str(d)[:10] for d in step_bounds([cftime.datetime(2005, 2, 15, calendar="noleap")], "1 month")[0]]
    ['2005-02-01', '2005-03-01']
    """
    count, unit = parse_step(step)
    starts = [_floor(stamp, count, unit) for stamp in times]
    return [(start, _shift(start, count, unit)) for start in starts]


def time_index(time: Date, step: str) -> int:
    """Number of a step, wherever a series begins: 12 * year + month - 1 for months, else steps since 0001-01-01.

    >>> time_index(cftime.datetime(2005, 1, 16, calendar="noleap"), "1 month")
    24060
    """
    count, unit = parse_step(step)
    if unit == "month":
        return _month_index(time)
    if unit == "year":
        return int(time.year - 1) // count
    origin = cftime.datetime(1, 1, 1, calendar=time.calendar)
    return int((time - origin) // datetime.timedelta(seconds=count * SECONDS[unit]))


def date_text(date: Date, step: str | None) -> str:
    """A date as people read it, in the parts that the step of its axis needs.

    >>> date_text(cftime.datetime(850, 3, 1), "1 month"), date_text(cftime.datetime(2005, 1, 16, 6), None)
    ('0850-03', '2005-01-16 06:00')
    """
    year, unit = f"{date.year:04d}", "" if step is None else step.split()[-1].rstrip("s")
    if unit == "year":
        return year
    if unit == "month":
        return f"{year}-{date.month:02d}"
    day = f"{year}-{date.month:02d}-{date.day:02d}"
    whole = unit == "day" or (not unit and (date.hour, date.minute) == (0, 0))
    return day if whole else f"{day} {date.hour:02d}:{date.minute:02d}"


def parse_period(text: str, calendar: str) -> tuple[Date, Date]:
    """Beginning and end of a period FIRST/LAST, dates as in `parse_start`; the whole year, month, ... LAST is in it.

    >>> [str(date)[:10] for date in parse_period("2005-03/2006", "noleap")]
    ['2005-03-01', '2007-01-01']
    """
    first, slash, last = text.partition("/")
    if not slash:
        raise UsageError(
            f"found the times {text!r}",
            "first and last date such as 2005-01/2010-12",
            "give them as in --times 2005-01/2010-12",
        )
    begin, end = parse_start(first, calendar), parse_start(last, calendar)
    named = START.fullmatch(last.strip())
    units = [unit for unit, part in zip(UNITS, named.groups() if named else (), strict=True) if part is not None]
    end = end + datetime.timedelta(seconds=1) if units[-1] == "second" else _shift(end, 1, units[-1])
    if end <= begin:
        raise UsageError(
            f"found the times {text!r}", "a last date that is not before the first", "give the earlier one first"
        )
    return begin, end


def parse_start(text: str, calendar: str) -> Date:
    """The date of a text such as 2005, 2005-01, 2005-01-31 or 2005-01-31T06:00 in `calendar`.

    UsageError for a text that is not a date, DataError for a date that the calendar does not have.

    >>> str(parse_start("2005-03", "noleap"))
    '2005-03-01 00:00:00'
    """
    found = START.fullmatch(text.strip())
    if found is None:
        raise UsageError(
            f"found the date {text!r}",
            "such as 2005, 2005-01, 2005-01-31 or 2005-01-31T06:00",
            "write the year first, in four digits",
        )
    year, month, day = int(found[1]), int(found[2] or 1), int(found[3] or 1)
    try:
        if year == 0 and not cftime.datetime(1, 1, 1, calendar=calendar).has_year_zero:
            raise ValueError  # cftime would only warn, and read it back as another year
        return cftime.datetime(
            year, month, day, int(found[4] or 0), int(found[5] or 0), int(found[6] or 0), calendar=calendar
        )
    except ValueError:
        raise DataError(
            f"the date {text!r} does not exist in the calendar {calendar!r}", advice="give another one"
        ) from None
