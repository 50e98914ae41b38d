"""Forecasts by reference time and lead time, as weather centres write them, brought onto one axis of valid times.

The dimensions are (realization, reference time, lead time, ...) under many names. One of reference time and lead time
may have several entries; the dates of the other dimension are then those that fields are valid at.
"""

import datetime
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from fsae.runtime.climate.calendar import Date
from fsae.runtime.climate.units import conversion
from fsae.runtime.errors import DataError

from .dates import decode_dates, is_time
from .sources import Opened
from .variables import standard

if TYPE_CHECKING:
    import xarray as xr


LEADS = ("step", "lead_time", "leadtime", "lead", "prediction_timedelta", "forecast_period")
REFERENCES = ("forecast_reference_time", "init_time", "initial_time", "reference_time", "base_time", "init", "time")
VALID = "valid_time"
MARKS = ("realization", "forecast_reference_time", "forecast_period")  # standard names of coordinates
FROM_TIME = ("step", "prediction_timedelta")  # leads beside which the reference time is called `time`


def on_valid_times(dataset: "xr.Dataset", where: str) -> "xr.Dataset":
    """The dataset on its valid times; unchanged if it is not a forecast.

    DataError for several reference times with several lead times each, and for lead times without a reference time.
    """
    dataset = _with_axes(dataset, where)
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
            f"({lead}) each",
            "one reference time or one lead time",
            f"select one first, as in dataset.isel({long[0]}=0)",
        )
    dims = tuple(long)
    known = [str(n) for n, v in dataset.variables.items() if v.dims == dims and str(n) not in long]
    known = [name for name in known if _is_valid_time(dataset.variables[name], name)]
    if not known and reference is None:
        raise DataError(
            f"{where} has the lead times {lead} and no reference time that they count from",
            advice="add one, with the standard name forecast_reference_time",
        )
    if not known:
        axis, after = dataset.variables[reference], dataset.variables[lead]
        references = decode_dates(axis, axis, f"the times of {where}")
        dates = np.empty(dataset.sizes[dims[0]] if dims else 1, dtype=object)
        dates[:] = [date + period for date in references for period in _durations(after)]
        dataset = dataset.assign_coords({VALID: (dims, dates.reshape([dates.size] if dims else []))})
        known = [VALID]
    if dims:
        return dataset.swap_dims({dims[0]: known[0]})
    others = [name for name in ("time", reference) if name not in (None, known[0]) and name in dataset.coords]
    dataset = dataset.drop_vars(others)
    # the name by which the time of a single field is found
    return dataset if known[0] == "time" else dataset.rename({known[0]: "time"})


def _with_axes(dataset: "xr.Dataset", where: str) -> "xr.Dataset":
    """The dataset with members, reference and lead times as coordinates, on dimensions of their own.

    Lead times called `time`, with a unit and no reference in it, become `lead_time`. Reference times along samples
    become their dimension, or a single one if all are equal. Both along one dimension become the dates along that.
    """
    marked = [n for n, v in dataset.data_vars.items() if v.ndim < 2 and standard(v) in MARKS]
    dataset = dataset.set_coords(marked) if marked else dataset
    time = dataset.variables.get("time")
    starts = [str(n) for n, v in dataset.variables.items() if n != "time" and v.ndim < 2 and _is_reference(v, str(n))]
    if time is not None and time.dims == ("time",) and starts and not is_time(time) and _is_duration(time):
        dataset = dataset.rename(time="lead_time")
    for name in starts:
        if dataset.variables[name].dims not in ((), (name,)):
            dataset = _along_samples(dataset, name, where)
    return dataset


def _along_samples(dataset: "xr.Dataset", name: str, where: str) -> "xr.Dataset":
    """The dataset with the reference times `name`, which stand along another dimension, in a place of their own."""
    reference = dataset.variables[name]
    (dim,) = map(str, reference.dims)
    beside = {str(n): v for n, v in dataset.variables.items() if v.dims == (dim,)}
    leads = [n for n, v in beside.items() if _is_lead(v, n)]
    if leads and any(_is_valid_time(v, n) for n, v in beside.items()):
        return dataset
    if leads:
        starts = decode_dates(reference, reference, f"the reference times of {where}")
        periods = _durations(beside[leads[0]])
        dates = np.empty(reference.size, dtype=object)
        dates[:] = [date + period for date, period in zip(starts, periods, strict=True)]
        valid = VALID if "time" in dataset.variables else "time"
        return dataset.drop_vars([name, leads[0]]).assign_coords({valid: ((dim,), dates)})
    if dataset.sizes[dim] == 1:
        return dataset.isel({dim: 0})
    if len(set(reference.values.tolist())) > 1:
        return dataset.swap_dims({dim: name})
    alike = [str(n) for n, v in dataset.variables.items() if n == name or (dim in v.dims and _is_valid_time(v, str(n)))]
    return dataset.assign_coords({one: dataset[one].isel({dim: 0}, drop=True).variable for one in alike})


def _is_reference(variable: "xr.Variable", name: str) -> bool:
    """True if a variable holds reference times."""
    marked = standard(variable) == "forecast_reference_time" or (name in REFERENCES[:-1] and not standard(variable))
    return marked and is_time(variable)


def _is_duration(variable: "xr.Variable") -> bool:
    return variable.dtype.kind == "m" or (bool(str(variable.attrs.get("units", ""))) and _seconds(variable) is not None)


def lead_of(dataset: "xr.Dataset") -> str | None:
    """The coordinate of lead times: a dimension, or a single lead if the times are known to be reference times."""
    found = [str(n) for n, v in dataset.variables.items() if v.ndim < 2 and _is_lead(v, str(n))]
    along = [name for name in found if dataset.variables[name].dims == (name,)]
    if along:
        return along[0]
    axes = [str(n) for n, v in dataset.variables.items() if v.dims == (n,) and is_time(v)]
    for name in (name for name in found if not dataset.variables[name].ndim):
        reference = reference_of(dataset, name)
        if reference is None or (axes and axes != [reference]):
            continue
        marked = standard(dataset[reference])
        if reference != "time" or marked == "forecast_reference_time" or (name.lower() in FROM_TIME and not marked):
            return name
    return None


def _is_lead(variable: "xr.Variable", name: str) -> bool:
    if is_time(variable) or (standard(variable) != "forecast_period" and name.lower() not in LEADS):
        return False
    return _is_duration(variable)


def _seconds(variable: "xr.Variable") -> float | None:
    """Seconds in a variable's unit; None if that is not a unit of time."""
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
    """True if a time is the one that fields are valid at."""
    return is_time(variable) and (standard(variable) == "time" or name == VALID)


def _durations(variable: "xr.Variable") -> list[datetime.timedelta]:
    """Lead times as differences of dates."""
    values = np.asarray(variable.values).reshape(-1)
    if values.dtype.kind == "m":
        return list(values.astype("timedelta64[us]").astype(datetime.timedelta))
    size = _seconds(variable) or 1.0
    return [datetime.timedelta(seconds=float(value) * size) for value in values]


# Forecasts from several reference times side by side, such as hindcasts: one series of lead times for each of them.


@dataclass(frozen=True, kw_only=True)
class Forecast:
    """A forecast from one reference time; `where` names the file it is in."""

    reference: Date
    leads: NDArray[np.float64]  # in `lead_units`
    lead_units: str
    dataset: "xr.Dataset"
    where: str


def find_forecasts(opened: Sequence[Opened]) -> tuple[Forecast, ...]:
    """The forecasts in datasets that each hold one or more with several lead times, by reference time.

    None if there are fewer than two, or if a dataset is not a forecast. DataError if they differ in their lead times,
    or if a reference time comes twice.
    """
    found = [list(_forecasts_in(*file)) for file in opened]
    forecasts = sorted((one for own in found for one in own), key=lambda one: one.reference)
    if len(forecasts) < 2 or not all(found):
        return ()
    for before, after in pairwise(forecasts):
        _check(before, after)
    return tuple(forecasts)


def _forecasts_in(dataset: "xr.Dataset", where: str) -> Iterator[Forecast]:
    """The forecasts in a dataset; none if it has no lead times, or only one."""
    dataset = _with_axes(dataset, where)
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
        yield Forecast(reference=date, leads=values, lead_units=units, dataset=own, where=where)


def _check(before: Forecast, after: Forecast) -> None:
    """Raise DataError if two forecasts have the same reference time, or different lead times."""
    if before.reference == after.reference:
        files = " and ".join(dict.fromkeys((before.where, after.where)))
        raise DataError(f"found the reference time {after.reference} twice, in {files}", advice="leave one of them out")
    if before.lead_units != after.lead_units or not np.array_equal(before.leads, after.leads):
        raise DataError(
            f"the forecasts from {before.reference} ({before.where}) and {after.reference} ({after.where}) have "
            "different lead times",
            advice="select those that all have, or give them in separate runs",
        )
