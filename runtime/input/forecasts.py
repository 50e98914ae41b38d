"""Forecasts by reference time and lead time, as weather centres write them, brought onto one axis of valid times.

The dimensions are (realization, reference time, lead time, ...) under many names. One of reference time and lead time
may have several entries; the dates of the other dimension are then those that fields are valid at.
"""

import contextlib
import datetime
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from fsae.runtime.climate.calendar import Date
from fsae.runtime.climate.units import conversion
from fsae.runtime.errors import DataError

from .dates import decode_dates, is_time
from .sources import Paths, open_source, paths_of
from .variables import standard

if TYPE_CHECKING:
    import xarray as xr


LEADS = ("step", "lead_time", "leadtime", "lead", "prediction_timedelta", "forecast_period")

REFERENCES = ("forecast_reference_time", "init_time", "initial_time", "reference_time", "base_time", "init", "time")

VALID = "valid_time"

FROM_TIME = ("step", "prediction_timedelta")  # makers of these call the reference time `time`


def on_valid_times(dataset: "xr.Dataset", where: str) -> "xr.Dataset":
    """A dataset whose fields lie along the dates they are valid at: the same one where it is no forecast.

    DataError for several reference times with several lead times each, and for lead times without a reference time.
    """
    lead = lead_of(dataset)
    if lead is None:
        return dataset
    reference = reference_of(dataset, lead)
    long = []
    for name in filter(None, (reference, lead)):
        if dataset[name].ndim and dataset.sizes[name] == 1:
            dataset = dataset.isel({name: 0})
        long += [name] if dataset[name].ndim else []
    if len(long) == 2:
        raise DataError(
            f"{where} holds {dataset.sizes[long[0]]} reference times ({long[0]}) of {dataset.sizes[lead]} lead times "
            f"({lead}) each, expected one reference time or one lead time: select one first, as in "
            f"dataset.isel({long[0]}=0)"
        )
    dims = tuple(long)
    known = [str(n) for n, v in dataset.variables.items() if v.dims == dims and str(n) not in long]
    known = [name for name in known if _is_valid_time(dataset.variables[name], name)]
    if not known and reference is None:
        raise DataError(
            f"{where} has the lead times {lead} and no reference time that they count from: add one, with the standard "
            "name forecast_reference_time"
        )
    if not known:
        start, after = dataset.variables[reference], dataset.variables[lead]
        starts = decode_dates(start, start, f"the times of {where}")
        dates = np.empty(dataset.sizes[dims[0]] if dims else 1, dtype=object)
        dates[:] = [date + period for date in starts for period in _durations(after)]
        dataset = dataset.assign_coords({VALID: (dims, dates.reshape([dates.size] if dims else []))})
        known = [VALID]
    if dims:
        return dataset.swap_dims({dims[0]: known[0]})
    others = [name for name in ("time", reference) if name not in (None, known[0]) and name in dataset.coords]
    dataset = dataset.drop_vars(others)
    return (
        dataset if known[0] == "time" else dataset.rename({known[0]: "time"})
    )  # as the time of a single field is found


def lead_of(dataset: "xr.Dataset") -> str | None:
    """The coordinate of lead times: a dimension, or a single lead where the times are known to be those of starts."""
    found = [str(n) for n, v in dataset.variables.items() if v.ndim < 2 and _is_lead(v, str(n))]
    along = [name for name in found if dataset.variables[name].dims == (name,)]
    if along:
        return along[0]
    axes = [str(n) for n, v in dataset.variables.items() if v.dims == (n,) and is_time(v)]
    for name in (name for name in found if not dataset.variables[name].ndim):
        start = reference_of(dataset, name)
        if start is None or (axes and axes != [start]):
            continue
        said = standard(dataset[start])
        if start != "time" or said == "forecast_reference_time" or (name.lower() in FROM_TIME and not said):
            return name
    return None


def _is_lead(variable: "xr.Variable", name: str) -> bool:
    if is_time(variable) or (standard(variable) != "forecast_period" and name.lower() not in LEADS):
        return False
    return variable.dtype.kind == "m" or _seconds(variable) is not None


def _seconds(variable: "xr.Variable") -> float | None:
    """Seconds in a variable's unit; None where that is no time."""
    try:
        return conversion(str(variable.attrs.get("units", "")), "s")[0]
    except DataError:
        return None


def reference_of(dataset: "xr.Dataset", lead: str) -> str | None:
    """The coordinate of reference times: a dimension or a single one."""
    found = [
        str(n) for n, v in dataset.variables.items() if n not in (lead, VALID) and v.dims in ((), (n,)) and is_time(v)
    ]
    found = [n for n in found if standard(dataset[n]) == "forecast_reference_time"] or [
        n for n in REFERENCES if n in found
    ]
    return found[0] if found else None


def _is_valid_time(variable: "xr.Variable", name: str) -> bool:
    """Whether a time is the one that fields are valid at."""
    return is_time(variable) and (standard(variable) == "time" or name == VALID)


def _durations(variable: "xr.Variable") -> list[datetime.timedelta]:
    """Lead times as differences of dates."""
    values = np.asarray(variable.values).reshape(-1)
    if values.dtype.kind == "m":
        return list(values.astype("timedelta64[us]").astype(datetime.timedelta))
    size = _seconds(variable) or 1.0
    return [datetime.timedelta(seconds=float(value) * size) for value in values]


# Forecasts from several reference times side by side, such as hindcasts: one series of lead times for each start.


@dataclass(frozen=True, kw_only=True)
class Start:
    """A forecast from one reference time; `where` names its source."""

    reference: Date
    leads: NDArray[np.float64]  # in `lead_units`
    lead_units: str
    dataset: "xr.Dataset"
    where: str


@dataclass(frozen=True, kw_only=True)
class Forecasts:
    """Two starts or more with the same lead times, by reference time; `close` closes the files opened for them."""

    starts: tuple[Start, ...]
    close: Callable[[], None]


def find_starts(source: "Paths | xr.Dataset", holds: "Callable[[xr.Dataset], bool]") -> Forecasts | None:
    """The starts of a dataset, of a file, or of files that each hold one or more with several lead times.

    None where there are fewer than two, and where a file does not hold what is asked for. DataError where starts differ
    in their lead times, or where one comes twice.
    """
    import xarray as xr  # start-up time

    given: Sequence[xr.Dataset | Path] = [source] if isinstance(source, xr.Dataset) else paths_of(source)
    with contextlib.ExitStack() as opened:
        starts: list[Start] = []
        for one in given:
            dataset, where = open_source(one)
            if dataset is not one:
                opened.callback(dataset.close)
            own = list(_starts_of(dataset, where)) if holds(dataset) else []
            if not own:
                return None
            starts += own
        if len(starts) < 2:
            return None
        starts.sort(key=lambda start: start.reference)
        for before, after in pairwise(starts):
            _check(before, after)
        return Forecasts(starts=tuple(starts), close=opened.pop_all().close)


def _starts_of(dataset: "xr.Dataset", where: str) -> Iterator[Start]:
    """The starts of a dataset; none where it has no lead times, or only one."""
    lead = lead_of(dataset)
    reference = None if lead is None or dataset.sizes.get(lead, 1) < 2 else reference_of(dataset, lead)
    if lead is None or reference is None:
        return
    axis, leads = dataset.variables[reference], dataset.variables[lead]
    if leads.dtype.kind == "m":
        values, units = leads.values / np.timedelta64(1, "D"), "day"
    else:
        values, units = leads.values.astype(np.float64), str(leads.attrs["units"])
    for place, date in enumerate(decode_dates(axis, axis, f"the reference times of {where}")):
        own = dataset.isel({reference: place}) if axis.ndim else dataset
        yield Start(reference=date, leads=values, lead_units=units, dataset=own, where=where)


def _check(before: Start, after: Start) -> None:
    """Nothing; DataError where two starts that follow each other are one, or differ in their lead times."""
    if before.reference == after.reference:
        files = " and ".join(dict.fromkeys((before.where, after.where)))
        raise DataError(f"found the reference time {after.reference} twice, in {files}: leave one of them out")
    if before.lead_units != after.lead_units or not np.array_equal(before.leads, after.leads):
        raise DataError(
            f"the forecasts from {before.reference} ({before.where}) and {after.reference} ({after.where}) have "
            "different lead times: select those that all have, or give them in separate runs"
        )
