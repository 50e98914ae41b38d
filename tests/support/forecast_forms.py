"""Forecasts as several makers write them: the same days by reference time and lead time."""

import cftime
import numpy as np
import xarray as xr
from monthly_input import series

LEADS = 5
FIRST = np.datetime64("2003-02-11T00:00", "ns")


def daily(members: int = 1) -> xr.Dataset:
    """Days from FIRST on, (number, time, lat, lon): what every forecast below holds."""
    whole = series().isel(time=slice(0, LEADS)).drop_vars("time")
    whole = whole.assign_coords(time=FIRST + np.arange(LEADS) * np.timedelta64(1, "D"))
    parts = [whole + 0.25 * member for member in range(members)]
    for part in parts:
        for name in ("tas", "uas"):
            part[name].attrs = series()[name].attrs
    return xr.concat(parts, xr.Variable("number", np.arange(members) + 7)) if members > 1 else parts[0]


def ecmwf(data: xr.Dataset) -> xr.Dataset:
    """As cfgrib gives it: a scalar reference time, steps, and valid times beside them."""
    steps = np.arange(LEADS) * np.timedelta64(24, "h")
    data = data.rename(time="step").assign_coords(step=steps.astype("timedelta64[ns]"))
    reference = xr.Variable((), FIRST, {"standard_name": "forecast_reference_time"})
    valid = ("step", FIRST + steps, {"standard_name": "time"})
    return data.assign_coords(time=reference, valid_time=valid)


def cf(data: xr.Dataset) -> xr.Dataset:
    """CF names, one entry of reference time, undecoded: leads in hours, reference in days."""
    hours = {"units": "hours", "standard_name": "forecast_period"}
    data = data.rename(time="forecast_period").assign_coords(
        forecast_period=("forecast_period", np.arange(LEADS) * 24.0, hours)
    )
    since = {"units": "days since 2003-02-01", "calendar": "proleptic_gregorian"}
    since |= {"standard_name": "forecast_reference_time"}
    data = data.expand_dims("forecast_reference_time", axis=0)
    return data.assign_coords(forecast_reference_time=("forecast_reference_time", [10], since))


def benchmark(data: xr.Dataset) -> xr.Dataset:
    """As the weather benchmarks have it: time and prediction_timedelta, no attributes."""
    steps = (np.arange(LEADS) * np.timedelta64(1, "D")).astype("timedelta64[ns]")
    data = data.rename(time="prediction_timedelta").assign_coords(prediction_timedelta=steps)
    return data.expand_dims(time=[FIRST], axis=0).transpose("prediction_timedelta", ...)


def one_lead(data: xr.Dataset) -> xr.Dataset:
    """Many reference times, each with the same single lead of three days."""
    data = data.rename(time="init_time")
    data = data.assign_coords(init_time=data["init_time"] - np.timedelta64(3, "D"))
    return data.expand_dims(lead_time=[np.timedelta64(3, "D").astype("timedelta64[ns]")], axis=-1)


def scalar_lead(data: xr.Dataset) -> xr.Dataset:
    """The same as cfgrib squeezes it."""
    data = one_lead(data).isel(lead_time=0).rename(init_time="time", lead_time="step")
    data["time"].attrs["standard_name"] = "forecast_reference_time"
    return data


def noleap(data: xr.Dataset) -> xr.Dataset:
    """A reference time in another calendar, dates as objects."""
    steps = (np.arange(LEADS) * np.timedelta64(1, "D")).astype("timedelta64[ns]")
    reference = np.array(cftime.datetime(2003, 2, 11, calendar="noleap"), dtype=object)
    return data.rename(time="lead").assign_coords(lead=steps, reference_time=((), reference))
