"""Daily means of a general circulation model, for configs/gcm-daily.toml: JAX-GCM with the SPEEDY physics.

The model has its resolution as a parameter, so the truth at a high resolution can be run again and again, and a low one
costs a sixth of it a day. The boundary values are the climatology of the package with observed anomalies of the sea
surface temperature added, both from the package (Apache-2.0). Needs an environment of its own, as fsae does not depend
on the model:

    python3 -m venv gcm && gcm/bin/pip install jcm==3.0.0 netCDF4
    gcm/bin/python simulate_gcm.py 31 1990-01-01 1888 gcm-t31-day-19900304-19950303.nc
    gcm/bin/python simulate_gcm.py 63 1995-01-01 370 gcm-t63-day-19950304-19960105.nc

On one core a day takes 0.8 s at T31 and 4 to 6 s at T63, half an hour for either file. The first 62 of the days are
left out: they are the way from an atmosphere at rest to the climate.
"""

import argparse
import pathlib

import jcm
import numpy as np
import xarray as xr
from jcm.forcing import ForcingData
from jcm.model import Model
from jcm.physics.speedy.speedy_coords import get_speedy_coords
from jcm.terrain import TerrainData

GRAVITY = 9.81  # [m s-2], of the model's geopotential
REFERENCE_PRESSURE = 1e5  # [Pa]
LEVELS = 8
SOURCE = f"JAX-GCM (PyPI jcm 3.0.0, Apache-2.0), SPEEDY physics, {LEVELS} levels; observed monthly SST anomalies"
SPIN_UP_DAYS = 62
STEP_DAYS = 10  # of one call, which bounds the memory
MARGIN_DAYS = 93  # of boundary values before and after the run, which are interpolated in time
LARGEST_ANOMALY = 15.0  # [K]; what is larger in the observed file are edges of the ice
BOUNDARY = pathlib.Path(jcm.__file__).parent / "data" / "bc"
DAY = np.timedelta64(1, "D")

# Standard name, units and long name, then offset and step of the integers of 16 bits in the file.
VARIABLES = {
    "tas": ("air_temperature", "K", "temperature of the lowest model level, daily mean", 256.95, 0.05),
    "pr": ("lwe_precipitation_rate", "mm day-1", "precipitation, daily mean", 0.0, 0.05),
    "ps": ("surface_air_pressure", "Pa", "surface air pressure, daily mean", 81700.0, 10.0),
    "zg500": ("geopotential_height", "m", "height of 500 hPa, daily mean", 5397.0, 0.5),
    "uas": ("eastward_wind", "m s-1", "eastward wind of the lowest model level, daily mean", 0.0, 0.05),
    "vas": ("northward_wind", "m s-1", "northward wind of the lowest model level, daily mean", 0.0, 0.05),
}


def boundary_file(truncation: int, name: str) -> pathlib.Path:
    """A boundary file of the package: that of the T30 grid up to T31, else that of T63."""
    return BOUNDARY / ("t30/clim" if truncation <= 31 else "t63") / name


def boundary_values(truncation: int, start: np.datetime64, days: int) -> xr.Dataset:
    """Monthly boundary values of the run: the climatology, its sea surface temperatures with the observed anomalies."""
    observed = xr.open_dataset(BOUNDARY / "t30/anom/sea_surface_temperature_anomaly.nc").ssta
    observed = observed.sortby("lat").transpose("lon", "lat", "time")
    months = np.datetime64("1979-01") + np.arange(observed.sizes["time"])
    dates = months.astype("datetime64[ns]")
    chosen = (dates >= start - MARGIN_DAYS * DAY) & (dates <= start + (days + MARGIN_DAYS) * DAY)
    values = observed.values[..., chosen]
    values = np.where(np.abs(values) > LARGEST_ANOMALY, 0.0, np.nan_to_num(values))  # [K]
    climate = xr.open_dataset(boundary_file(truncation, "forcing.nc")).sortby("lat")
    if truncation > 31:
        values = on_grid(
            xr.DataArray(values, dims=observed.dims, coords={"lon": observed.lon, "lat": observed.lat}), climate
        )
    of_year = xr.DataArray(months[chosen].astype(int) % 12, dims="time")  # 0 is January
    found = {}
    for name, variable in climate.data_vars.items():
        if "time" in variable.dims:
            monthly = variable.isel(time=of_year).transpose("lon", "lat", "time").assign_coords(time=dates[chosen])
            found[name] = (monthly + values if name == "sst" else monthly).astype("f4")
        else:
            found[name] = variable.astype("f4")
    return xr.Dataset(found)


def on_grid(coarse: xr.DataArray, grid: xr.Dataset) -> np.ndarray:
    """Values (lon, lat, time) on the longitudes and latitudes of `grid`: bilinear, zero beyond the last latitude."""
    first = coarse.isel(lon=[0]).assign_coords(lon=[float(coarse.lon[0]) + 360])
    fine = xr.concat([coarse, first], "lon").interp(
        lon=grid.lon.values, lat=grid.lat.values, kwargs={"fill_value": 0.0}
    )
    return fine.transpose("lon", "lat", "time").values


def daily_fields(output: xr.Dataset) -> xr.Dataset:
    """The variables of `VARIABLES` (time, lat, lon) in their units, from the output of the model."""
    output = output.sortby("level")  # sigma, from the top down
    pressure = (output.normalized_surface_pressure * REFERENCE_PRESSURE).transpose("time", "lat", "lon")
    lowest = output.isel(level=-1).drop_vars("level")
    order = ("level", *pressure.dims)
    height = (output.geopotential / GRAVITY).transpose(*order).values
    log_pressure = np.log(output.level * pressure).transpose(*order).values
    rain = (output["condensation.precls"] + output["convection.precnv"]) * 86.4  # g m-2 s-1 to mm day-1
    fields = {
        "tas": lowest.temperature,
        "pr": rain,
        "ps": pressure,
        "zg500": (pressure.dims, height_of(height, log_pressure, np.log(5e4))),
        "uas": lowest.u_wind,
        "vas": lowest.v_wind,
    }
    return xr.Dataset(fields).reset_coords(drop=True).transpose("time", "lat", "lon").astype("f4")


def height_of(height: np.ndarray, log_pressure: np.ndarray, wanted: float) -> np.ndarray:
    """Heights where the logarithm of the pressure is `wanted`: linear in it between two levels (level, ...)."""
    below = np.clip((log_pressure < wanted).sum(axis=0), 1, len(height) - 1)[None]
    (high, low), (far, near) = (
        (np.take_along_axis(values, below - 1, 0)[0], np.take_along_axis(values, below, 0)[0])
        for values in (height, log_pressure)
    )
    found: np.ndarray = high + (wanted - far) / (near - far) * (low - high)
    return found


def described(days: xr.Dataset, truncation: int) -> tuple[xr.Dataset, dict[str, dict[str, object]]]:
    """The days with CF metadata, and how the file packs each variable."""
    packing: dict[str, dict[str, object]] = {"time": {"units": "days since 1990-01-01", "dtype": "f8"}}
    for name, (standard_name, units, long_name, offset, step) in VARIABLES.items():
        attributes = {"standard_name": standard_name, "units": units, "long_name": long_name}
        days[name].attrs = attributes | {"cell_methods": "time: mean"}
        packing[name] = {"dtype": "i2", "add_offset": offset, "scale_factor": step, "_FillValue": -32768, "zlib": True}
    middle = days.time.values.astype("datetime64[D]") + np.timedelta64(12, "h")
    bounds = np.stack([middle - DAY / 2, middle + DAY / 2], axis=1).astype("datetime64[ns]")
    days = days.assign_coords(time=middle.astype("datetime64[ns]"))
    days["time_bnds"] = (("time", "bnds"), bounds)
    packing["time_bnds"] = packing["time"]
    days.time.attrs = {"bounds": "time_bnds", "standard_name": "time"}
    days.lat.attrs = {"units": "degrees_north", "standard_name": "latitude"}
    days.lon.attrs = {"units": "degrees_east", "standard_name": "longitude"}
    days.attrs = {
        "title": f"Daily means of a GCM at T{truncation}",
        "Conventions": "CF-1.11",
        "source": SOURCE,
        "comment": "Simulated, not observed.",
    }
    return days.sortby("lat", ascending=False), packing


def make_model(truncation: int, start: np.datetime64, days: int, boundary: pathlib.Path) -> tuple[Model, ForcingData]:
    """The model and what forces it for some days; `boundary` is a file to write the boundary values to."""
    boundary_values(truncation, start, days).to_netcdf(boundary)
    coords = get_speedy_coords(layers=LEVELS, spectral_truncation=truncation)
    terrain = TerrainData.from_file(str(boundary_file(truncation, "terrain.nc")), coords)
    forcing = ForcingData.from_file(str(boundary), coords=coords, align_mode="by_date_interp")
    return Model(coords=coords, terrain=terrain, start_time=str(start)), forcing


def simulate(truncation: int, start: np.datetime64, days: int, output: pathlib.Path) -> None:
    """Run the model for some days and write the daily means of all but the first `SPIN_UP_DAYS`."""
    boundary = output.with_suffix(".forcing.nc")
    model, forcing = make_model(truncation, start, days, boundary)
    parts = []
    for first in range(0, days, STEP_DAYS):
        run = model.resume if first else model.run
        length = float(min(STEP_DAYS, days - first))
        found = run(forcing=forcing, save_interval=1.0, total_time=length, output_averages=True)
        parts.append(daily_fields(found.to_xarray()))
        print(f"{first + int(length)} of {days} days", flush=True)
    whole, packing = described(xr.concat(parts, "time").isel(time=slice(SPIN_UP_DAYS, None)), truncation)
    whole.to_netcdf(output, encoding=packing)
    boundary.unlink()


def main() -> None:
    """Read the command line and run the model."""
    parser = argparse.ArgumentParser(description="Daily means of JAX-GCM as CF NetCDF.")
    parser.add_argument("truncation", type=int, choices=(31, 63), help="spectral truncation")
    parser.add_argument("start", type=np.datetime64, help="first day of the run, such as 1990-01-01")
    parser.add_argument("days", type=int, help=f"days of the run; the first {SPIN_UP_DAYS} are not written")
    parser.add_argument("output", type=pathlib.Path, help="file to write")
    given = parser.parse_args()
    if given.days <= SPIN_UP_DAYS:
        parser.error(f"found {given.days} days, expected more than the {SPIN_UP_DAYS} of the spin-up")
    simulate(given.truncation, given.start, given.days, given.output)


if __name__ == "__main__":
    main()
