"""Ensembles and references in files, to be scored."""

from pathlib import Path

import cftime
import numpy as np
import xarray as xr

TEMPERATURE = {"standard_name": "air_temperature", "units": "K", "cell_methods": "time: mean"}
HEALPIX = {"grid_mapping_name": "healpix", "refinement_level": 2, "indexing_scheme": "nested"}


def months(count: int, first: int = 2005, calendar: str = "standard", day: int = 16) -> list[cftime.datetime]:
    """Stamps on a day of consecutive months."""
    return [cftime.datetime(first + m // 12, m % 12 + 1, day, calendar=calendar) for m in range(count)]


def on_healpix(
    values: np.ndarray, times: list[cftime.datetime], order: str = "nested", **attributes: str
) -> xr.Dataset:
    """Temperatures (member, time, cell) or (time, cell) on all cells of zoom 2 in an order."""
    dims = ("realization", "time", "cell")[3 - values.ndim :]
    mapping = {**HEALPIX, "indexing_scheme": order}
    attributes = {**TEMPERATURE, "grid_mapping": "crs", **attributes}
    return xr.Dataset({"tas": (dims, values, attributes), "crs": ((), 0, mapping)}, coords={"time": times})


def on_lat_lon(
    values: np.ndarray, times: list[cftime.datetime], lat: np.ndarray, lon: np.ndarray, **attributes: str
) -> xr.Dataset:
    """Temperatures (member, time, lat, lon) or (time, lat, lon)."""
    dims = ("number", "time", "lat", "lon")[4 - values.ndim :]
    axes = {"lat": ("lat", lat, {"units": "degrees_north"}), "lon": ("lon", lon, {"units": "degrees_east"})}
    return xr.Dataset({"tas": (dims, values, {**TEMPERATURE, **attributes})}, coords={"time": times, **axes})


def write(dataset: xr.Dataset, path: Path) -> Path:
    """The path of a NetCDF file with the dataset."""
    dataset.to_netcdf(path, engine="h5netcdf")
    return path
