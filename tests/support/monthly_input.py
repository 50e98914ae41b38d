"""Two years of monthly means as a user's data, whole or in several files."""

from pathlib import Path

import cftime
import numpy as np
import xarray as xr
from tiny_bundle import VARIABLES, tiny_grid, tiny_manifest

SPECS = tiny_manifest().variables
MONTHS = 24


def series(calendar: str = "noleap") -> xr.Dataset:
    """Two years of monthly means of both variables on the tiny bundle's grid, times as numbers."""
    grid = tiny_grid()
    values = np.random.default_rng(2).normal(size=(VARIABLES, MONTHS, *grid.shape))
    stamps = [cftime.datetime(2001 + m // 12, m % 12 + 1, 16, calendar=calendar) for m in range(MONTHS)]
    days = cftime.date2num(stamps, "days since 2000-01-01", calendar)
    dims = ("time", "lat", "lon")
    return xr.Dataset(
        {
            "tas": (dims, values[0] + 280, {"units": "K", "standard_name": "air_temperature"}),
            "uas": (dims, values[1], {"units": "m s-1", "standard_name": "eastward_wind"}),
        },
        {
            "time": ("time", days, {"units": "days since 2000-01-01", "calendar": calendar, "standard_name": "time"}),
            "lat": grid.lat_deg,
            "lon": grid.lon_deg,
        },
    )


def write(folder: Path, whole: xr.Dataset, edges: list[tuple[int, int]], name: str = "part") -> list[Path]:
    """Files of the steps between edges, whose names are in the order of time."""
    paths = [folder / f"{name}_{first:02d}.nc" for first, _ in edges]
    for path, (first, end) in zip(paths, edges, strict=True):
        whole.isel(time=slice(first, end)).to_netcdf(path, engine="h5netcdf")
    return paths


THIRDS = [(0, 7), (7, 8), (8, MONTHS)]  # one of them of a single step
