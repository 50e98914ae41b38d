"""The parameter, grid, time and member of a field as keys of ecCodes, for GRIB edition 2: WMO FM 92, tables 3 to 5.

Every key is set, so that no default of a version of ecCodes shows in the bytes; None is a missing value.
"""

from dataclasses import dataclass

import cftime
import numpy as np

from fsae.runtime.arrays import F64
from fsae.runtime.climate.calendar import Date, time_method
from fsae.runtime.errors import UsageError
from fsae.runtime.output.layout import Layout
from fsae.runtime.output.times import REFERENCE

from .grids import Keys, grid_keys
from .parameters import OTHER_OUTPUT, parameter_of
from .statistics import OVER_MEMBERS, UNKNOWN_NUMBER, name_without_statistic, statistic_keys

CALENDARS = ("standard", "proleptic_gregorian")  # section 1 has the Gregorian calendar
GREGORIAN = (1582, 10, 15)  # the first day on which the two are one
TABLES = 28  # version of the code tables, of 2021: old enough for the readers in use
MISSING_CENTRE, MOST_MEMBERS = 65535, 254  # octets that are all one say missing
UNITS = ((3600, 1), (60, 0), (1, 13))  # seconds, and code table 4.4: hour, minute, second
PERTURBED, ALL_MEMBERS, NO_ENSEMBLE = 4, 5, 255  # code table 1.4: perturbed forecasts, control and perturbed ones
TEMPLATES = {NO_ENSEMBLE: (0, 8), PERTURBED: (1, 11), ALL_MEMBERS: (2, 12)}  # of instants, and of means over time
BITS = 24  # of a value: those of the significand of float32


@dataclass(frozen=True, kw_only=True)
class Times:
    """The reference time of a series, and each step's beginning and end, which are the same for instants."""

    reference: Date
    steps: tuple[tuple[Date, Date], ...]


def field_keys(layout: Layout, name: str) -> Keys:
    """The keys that all fields of a variable share; UsageError if GRIB cannot hold it."""
    attributes = layout.variables[name]
    found = parameter_of(name_without_statistic(name, str(attributes.get("cell_methods", ""))), attributes)
    statistic = statistic_keys(layout)
    kind = ALL_MEMBERS if statistic else PERTURBED if numbers(layout) else NO_ENSEMBLE
    return {
        "discipline": 0,
        "centre": MISSING_CENTRE,
        "subCentre": 0,
        "tablesVersion": TABLES,
        "localTablesVersion": 0,
        "significanceOfReferenceTime": 1,  # start of forecast
        "productionStatusOfProcessedData": 2,  # research
        "typeOfProcessedData": kind,
        **grid_keys(layout.grid),
        "productDefinitionTemplateNumber": TEMPLATES[kind][holds_means(layout)],
        "parameterCategory": found.category,
        "parameterNumber": found.number,
        "typeOfGeneratingProcess": 255 if kind == NO_ENSEMBLE else 4,  # ensemble forecast
        "backgroundProcess": 255,
        "generatingProcessIdentifier": 255,
        "hoursAfterDataCutoff": None,
        "minutesAfterDataCutoff": None,
        "typeOfFirstFixedSurface": found.surface,
        "scaleFactorOfFirstFixedSurface": None if found.level is None else 0,
        "scaledValueOfFirstFixedSurface": found.level,
        "typeOfSecondFixedSurface": 255,
        "scaleFactorOfSecondFixedSurface": None,
        "scaledValueOfSecondFixedSurface": None,
        **statistic,
        "packingType": "grid_simple",
        "bitsPerValue": BITS,
    }


def holds_means(layout: Layout) -> bool:
    """True if the fields are means over periods, False if they are instants; UsageError if they are neither."""
    texts = [str(attributes.get("cell_methods", "")) for attributes in layout.variables.values()]
    methods = {time_method(text.partition(OVER_MEMBERS)[0]) for text in texts}
    if methods == {"mean"} and layout.time.bounds is not None:
        return True
    if methods <= {"", "point"}:
        return False
    what = "a mean without the bounds of its period" if methods == {"mean"} else " and ".join(sorted(methods))
    raise UsageError(f"found {what} in time for GRIB", "means over known periods, or instants", OTHER_OUTPUT)


def numbers(layout: Layout) -> tuple[int, ...]:
    """The numbers of the members of a layout; empty if it has none."""
    alone = [int(item.values) for item in layout.extra if item.name == "realization" and not item.dims]
    return layout.members or tuple(alone)


def member_keys(layout: Layout, row: int) -> Keys:
    """The keys of a member, by its row; none without members. UsageError if it is beyond those that GRIB counts."""
    known = numbers(layout)
    if not known:
        return {}
    if len(known) > MOST_MEMBERS or not all(0 <= number <= MOST_MEMBERS for number in known):
        raise UsageError(
            f"found {len(known)} members with the numbers {min(known)} to {max(known)} for GRIB",
            f"{MOST_MEMBERS} at most, with numbers from 0 to {MOST_MEMBERS}",
            "give fewer members, or name the output .nc or .zarr",
        )
    starts = layout.rows // len(layout.members or (0,))
    return {
        "typeOfEnsembleForecast": 255,
        "perturbationNumber": known[row // starts],
        "numberOfForecastsInEnsemble": len(known) if layout.members is not None else UNKNOWN_NUMBER,
    }


def times_of(layout: Layout) -> list[Times]:
    """The times of each series of a layout, one for each reference time; UsageError if GRIB cannot tell them.

    Without a reference time that is the beginning of the first step.
    """
    axis, several = layout.time, layout.reference_times
    if axis.calendar not in CALENDARS:
        what = f"found the calendar {axis.calendar} for GRIB, whose dates are Gregorian"
        raise UsageError(what, " or ".join(CALENDARS), OTHER_OUTPUT)
    starts = 1 if several is None else len(axis.values)
    instants = np.stack([axis.values, axis.values], axis=-1)
    edges = axis.bounds if holds_means(layout) and axis.bounds is not None else instants
    given = [item for item in layout.extra if item.name == REFERENCE]
    found = []
    for start, pairs in enumerate(edges.reshape(starts, -1, 2)):
        steps = [(first, last) for first, last in _dates(pairs, axis.units, axis.calendar).reshape(-1, 2)]
        reference = steps[0][0]
        if several is not None:
            reference = _dates(several.times.values[start], several.times.units, several.times.calendar).item()
        elif given:
            facts = given[0].attributes
            reference = _dates(given[0].values, str(facts["units"]), str(facts["calendar"])).item()
        found.append(Times(reference=reference, steps=tuple(steps)))
    for date in (date for times in found for date in (times.reference, times.steps[0][0])):
        if date.timetuple()[:3] < GREGORIAN:
            raise UsageError(f"found {date.isoformat()} for GRIB", "dates of the Gregorian calendar", OTHER_OUTPUT)
    return found


def _dates(values: F64, units: str, calendar: str) -> np.ndarray:
    return np.asarray(cftime.num2date(values, units, calendar))


def time_keys(layout: Layout, times: Times, step: int) -> Keys:
    """The keys of a step: reference time, lead time and, of a mean, its period."""
    begin, end = times.steps[step]
    lead_s, length_s = (round(span.total_seconds()) for span in (begin - times.reference, end - begin))
    second, unit = next(pair for pair in UNITS if lead_s % pair[0] == length_s % pair[0] == 0)
    found: dict[str, int | str | None] = dict(zip(CLOCK, times.reference.timetuple()[:6], strict=True))
    found |= {"indicatorOfUnitForForecastTime": unit, "forecastTime": lead_s // second}
    if not holds_means(layout):
        return found
    ends = (f"{name}OfEndOfOverallTimeInterval" for name in CLOCK)
    return {
        **found,
        **dict(zip(ends, end.timetuple()[:6], strict=True)),
        "numberOfTimeRanges": 1,
        "numberOfMissingInStatisticalProcess": 0,
        "typeOfStatisticalProcessing": 0,  # average
        "typeOfTimeIncrement": 2,  # the forecast time grows
        "indicatorOfUnitForTimeRange": unit,
        "lengthOfTimeRange": length_s // second,
        "indicatorOfUnitForTimeIncrement": 255,
        "timeIncrement": 0,
    }


CLOCK = ("year", "month", "day", "hour", "minute", "second")
