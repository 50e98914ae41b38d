"""The forcing of an ensemble: a scenario or the calendar year of its steps, a constant, or a series from a file.

A bundle with scenarios knows an effective radiative forcing year by year; the first one is that of its training data.

A series holds its values at its dates, or in the middle of their bounds if a NetCDF file or Zarr store has some, and is
linear in time between them. A date in another calendar is the same part of the same month in the bundle's. Where a
bundle has scenarios, a series is a forcing like theirs, and what the climate has responded to is taken.
"""

import csv
import datetime
import hashlib
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import cftime
import numpy as np

from fsae.runtime.arguments import real
from fsae.runtime.arrays import F32, F64
from fsae.runtime.bundle.manifest import Forcing, Manifest
from fsae.runtime.climate.calendar import Date, centres, decimal_year, parse_start, step_bounds
from fsae.runtime.climate.scenarios import Scenarios, responded
from fsae.runtime.climate.units import conversion
from fsae.runtime.errors import DataError, UsageError
from fsae.runtime.input.dates import find_dates
from fsae.runtime.input.sources import READ_ERRORS, open_source, path_of, reason
from fsae.runtime.output.store import Attribute, Coordinate

from .members import parts_of

if TYPE_CHECKING:
    import xarray as xr


CALENDAR_YEAR = "calendar year"
# Times the width of the training range: further outside the emulator says nothing about the climate, at the last state
# of the calendar years or with a response that is carried on.
FAR, FAR_RESPONSE = 3.0, 5.0
YEAR = 1000.0  # a constant from here on is a year, where the forcing has another unit
ROUNDING_DAYS = 1e-5  # a second: dates of two calendars meet to rounding


@dataclass(frozen=True, kw_only=True, eq=False)
class Series:
    """A forcing over time, in the units of the manifest: values (date) at rising dates of one calendar."""

    dates: tuple[Date, ...]
    values: F64
    name: str

    def __post_init__(self) -> None:
        if not self.dates:
            raise DataError(
                f"{self.name} holds no values of the forcing",
                "one or more dates with a value each",
                "check that it is the right file",
            )
        bad = np.flatnonzero(~np.isfinite(self.values))
        if bad.size:
            when = self.dates[bad[0]].isoformat()
            raise DataError(
                f"{self.name} holds {self.values[bad[0]]} at {when}",
                "finite values of the forcing",
                "correct that value, or leave it out",
            )


@dataclass(frozen=True, kw_only=True, eq=False)
class Named:
    """One of the bundle's scenarios."""

    name: str
    scenarios: Scenarios


Choice = float | Series | Named | None  # None: the calendar year of the steps


def default_forcing(scenarios: Scenarios | None) -> Named | None:
    """The forcing that an ensemble follows unless another is asked for: that of the training data."""
    return None if scenarios is None else Named(name=scenarios.names[0], scenarios=scenarios)


def read_forcing(
    given: "float | str | os.PathLike[str] | xr.Dataset | None",
    known: Forcing,
    calendar: str,
    scenarios: Scenarios | None = None,
) -> Choice:
    """The forcing that a number, its text, a name, the path of a file or a dataset stands for.

    None is the first of the bundle's scenarios; without any it stays the calendar year. A text that reads as a number,
    or as the name of a scenario, is one; a file of that name is given as ./2000. UsageError for a number that is not
    finite, DataError for anything that cannot be read.
    """
    names = [] if scenarios is None else scenarios.names
    if given is None:
        return default_forcing(scenarios)
    if scenarios is not None and isinstance(given, str) and given in names:
        return Named(name=given, scenarios=scenarios)
    if isinstance(given, int | float | np.number):
        return _constant(real("forcing", given), known, scenarios)
    number = _number(given) if isinstance(given, str) else None
    if number is not None:
        return _constant(number, known, scenarios)
    if not isinstance(given, str | os.PathLike):
        return _read_dataset(given, known)
    path = path_of(given)
    if not path.exists():
        named = f"one of {', '.join(names)}, " if names else ""
        raise DataError(
            f"found the forcing {str(given)!r}",
            f"{named}a number in the unit {known.units!r} or the path of a NetCDF file, Zarr store or CSV file that "
            "exists",
            "check the path",
        )
    text = _text(path)
    return _read_dataset(path, known) if text is None else _responded(_read_csv(text, path.name, calendar), known)


def _responded(series: Series, known: Forcing) -> Series:
    """The series as far as the climate has responded to it, for a bundle that knows how fast it does."""
    if not known.response_years:
        return series
    years = decimal_year(series.dates, None, "time: point")
    return replace(series, values=responded(years, series.values, known.response_years))


def _constant(number: float, known: Forcing, scenarios: Scenarios | None) -> float:
    """The number, or the training data's forcing in the year it names; UsageError if it is not finite."""
    if scenarios is not None and number >= YEAR and math.isfinite(number):
        return float(scenarios.of_training(np.array(number)))
    if not math.isfinite(number):
        raise UsageError(
            f"found the forcing {number}",
            f"a finite number in the unit {known.units!r}",
            "give one, or leave it out for the bundle's own",
        )
    return number


def _number(text: str) -> float | None:
    """Parse a number; None if the text is not a number."""
    try:
        return float(text)
    except ValueError:
        return None


def _text(path: Path) -> str | None:
    """Read a text file; None for a folder or a binary file such as NetCDF."""
    if path.is_dir():
        return None
    try:
        with path.open("rb") as file:
            if b"\0" in file.read(512):  # every binary format that holds a series has one there
                return None
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        return None
    except OSError as error:
        raise DataError(f"cannot read {path}: {reason(error)}", advice="check that you may read it") from None


def _read_csv(text: str, name: str, calendar: str) -> Series:
    """The series of lines `date,value`, dates as in --start; the first line may name the columns."""
    rows = [(number, row) for number, row in enumerate(csv.reader(text.splitlines()), 1) if any(map(str.strip, row))]
    if rows and _is_header(rows[0][1]):
        rows = rows[1:]
    dates: list[Date] = []
    values: list[float] = []
    for number, row in rows:
        value = _number(row[-1].strip())
        if len(row) != 2 or value is None:
            raise DataError(
                f"{name} holds {','.join(row)!r} in line {number}",
                "date,value as in 2005-01-16,2.5",
                "correct that line, or leave it out",
            )
        try:
            date = parse_start(row[0], calendar)
        except (UsageError, DataError) as error:
            raise DataError(f"{name}, line {number}: {error.reason}", advice=error.advice) from None
        if dates and date <= dates[-1]:
            raise DataError(
                f"{name} has {row[0].strip()} after {dates[-1].isoformat()}",
                "dates that rise",
                "sort the lines by date, with each date once",
            )
        dates.append(date)
        values.append(value)
    return Series(dates=tuple(dates), values=np.array(values), name=name)


def _is_header(row: Sequence[str]) -> bool:
    """True if a line of a CSV file names columns: no entry begins with a digit, a sign or a point."""
    return len(row) == 2 and not any(entry.strip()[:1] in "+-.0123456789" for entry in row)


def _read_dataset(source: "str | os.PathLike[str] | xr.Dataset", known: Forcing) -> Series:
    """The series of the one variable over time alone, or of the one that is called like the forcing."""
    with open_source(source) as (dataset, where):
        array = _choose(dataset, known, where)
        found = find_dates(array, dataset, where)
        units = array.attrs.get("units")
        try:
            factor, offset = (1.0, 0.0) if units is None else conversion(str(units), known.units)
        except DataError:
            raise DataError(
                f"{array.name} in {where} has the units {units!r}",
                f"those of the forcing, {known.units!r}",
                "convert it first",
            ) from None
        try:
            values = np.asarray(array.values, dtype=np.float64)
        except READ_ERRORS as error:
            raise DataError(
                f"cannot read {array.name} in {where}: {reason(error)}",
                advice="copy it again, as it may be damaged or incomplete",
            ) from None
        dates = tuple(centres(found.stamps, bounds=found.bounds))
        series = Series(dates=dates, values=values * factor + offset, name=where)
        is_own = array.attrs.get("long_name") == _label(known)  # of an ensemble: the climate has responded already
        return series if is_own else _responded(series, known)


def _choose(dataset: "xr.Dataset", known: Forcing, where: str) -> "xr.DataArray":
    """The variable that holds the forcing: a data variable, or the coordinate that the output of `generate` has."""
    own = [name for name, array in dataset.coords.items() if array.attrs.get("long_name") == _label(known)]
    held: dict[str, xr.DataArray] = {str(name): dataset[name] for name in (*dataset.data_vars, *own)}
    lines = [name for name, array in held.items() if array.ndim == 1]
    same = [name for name in lines if name.lower().replace("_", " ") == known.name.lower().replace("_", " ")]
    chosen = same or lines
    if len(chosen) == 1:
        return held[chosen[0]]
    there = ", ".join(f"{name} ({', '.join(map(str, array.dims))})" for name, array in held.items())
    raise DataError(
        f"{where} holds {there or 'no variables'}",
        f"one variable over time alone, or one of them called {known.name.replace(' ', '_')!r}",
        "give a file that holds only the forcing, or rename the variable",
    )


def position(date: Date, calendar: str) -> float:
    """Days from 1850 on in `calendar` to the date that is the same part of the same month there.

    >>> position(cftime.datetime(1850, 2, 16, calendar="360_day"), "noleap")  # the middle of February
    45.0
    """
    origin = cftime.datetime(1850, 1, 1, calendar=calendar)
    start, end = step_bounds([date], "1 month")[0]
    here, after = step_bounds([cftime.datetime(date.year, date.month, 1, calendar=calendar)], "1 month")[0]
    day = datetime.timedelta(days=1)
    return float((here - origin) / day + (date - start) / (end - start) * ((after - here) / day))


def forcing_at(choice: Choice, stamps: Sequence[Date], step: str, cell_methods: str, count: int) -> F32:
    """The forcing (step) in the middle of the period of each step, the steps being given as in `calendar.centres`.

    A series must cover the first `count` steps, the ones asked for; steps after its end hold its last value.
    """
    if choice is None:
        return decimal_year(stamps, step, cell_methods).astype(np.float32)
    if isinstance(choice, float):
        return np.full(len(stamps), choice, dtype=np.float32)
    if isinstance(choice, Named):
        years = decimal_year(stamps, step, cell_methods)
        years[count:] = np.minimum(years[count:], years[count - 1])
        return choice.scenarios.at(choice.name, years).astype(np.float32)
    middles = centres(stamps, step, cell_methods)
    calendar = str(stamps[0].calendar)
    known = np.array([position(date, calendar) for date in choice.dates])
    wanted = np.array([position(date, calendar) for date in middles])
    if wanted[0] < known[0] - ROUNDING_DAYS or wanted[count - 1] > known[-1] + ROUNDING_DAYS:
        raise DataError(
            f"{choice.name} holds the forcing from {choice.dates[0].isoformat()} to {choice.dates[-1].isoformat()}",
            f"all from {middles[0].isoformat()} to {middles[count - 1].isoformat()}, the middle "
            "of the first and of the last step",
            "extend it, or ask for other steps",
        )
    values: F32 = np.interp(wanted, known, choice.values).astype(np.float32)
    return values


def forcing_record(choice: Choice) -> str | float | dict[str, str]:
    """The forcing as the output records it; a series by its name and a hash of its dates and values."""
    if isinstance(choice, Named):
        return choice.name
    if choice is None or isinstance(choice, float):
        return CALENDAR_YEAR if choice is None else choice
    calendar = str(choice.dates[0].calendar)
    places = np.array([position(date, calendar) for date in choice.dates])
    digest = hashlib.sha256(places.astype("<f8").tobytes() + choice.values.astype("<f8").tobytes())
    return {"name": choice.name, "values_sha256": digest.hexdigest()}


def _label(known: Forcing) -> str:
    """The name of the forcing in the output."""
    return f"forcing: {known.name}" + (", as far as the climate has responded" if known.response_years else "")


def forcing_coordinate(known: Forcing, forcing: F32) -> Coordinate:
    """The forcing (time) that was used, for the output."""
    attributes: dict[str, Attribute] = {"long_name": _label(known), "units": known.units}
    return Coordinate(name="forcing", dims=("time",), values=forcing, attributes=attributes)


def forcing_note(manifest: Manifest, forcing: F32) -> tuple[str, ...]:
    """A warning if the forcing (step) leaves the range of the training data; UsageError if it is `FAR` outside."""
    known = parts_of(manifest)[0].forcing
    low, high = known.range
    least, most = float(forcing.min()), float(forcing.max())
    if low <= least and most <= high:
        return ()
    ends = f"{least:.2f}", f"{most:.2f}"
    runs = f"is {ends[0]}" if ends[0] == ends[1] else f"runs from {ends[0]} to {ends[1]}"
    if max(low - least, most - high) > (FAR_RESPONSE if known.scenarios else FAR) * (high - low):
        raise UsageError(
            f"the forcing ({known.name}) {runs} {known.units}",
            f"values near the {low:.2f} to {high:.2f} that the model was trained on",
            f"--forcing {high:g} holds it at the end of that range",
        )
    beyond = "the mean climate follows it at the rate of the training data" if known.scenarios else ""
    return (
        f"The forcing ({known.name}) {runs} {known.units}, outside the {low:.2f} to {high:.2f} the model was trained "
        f"on: {beyond or 'the nearer end of that range is used'} there.",
    )
