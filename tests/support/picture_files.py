"""Files of random fields to draw, on lat-lon grids and HEALPix."""

from pathlib import Path

import numpy as np
import xarray as xr

MEMBERS, STEPS = 5, 30  # more steps than one block of the tests that make blocks small
LABELS = ("r1i1p1f1", "r2i1p1f1", "r3i1p1f1", "r4i1p1f1", "r7i1p1f1")


def lat_lon_dataset() -> xr.Dataset:
    """Monthly temperatures [K] of five members from 2001-01 on, and a mask without times, on 18 x 36 points."""
    draw = np.random.default_rng(7)
    lat = np.linspace(85, -85, 18)
    warm = 288 - 40 * np.sin(np.radians(lat))[:, None] ** 2
    values = warm + draw.normal(size=(MEMBERS, STEPS, 18, 36)) * 3
    edges = [np.datetime64("2001-01", "M") + month for month in range(STEPS + 1)]
    days = np.array([(edge.astype("datetime64[D]") - np.datetime64("2001-01-01")).astype(int) for edge in edges])
    return xr.Dataset(
        {
            "tas": (
                ("member", "time", "lat", "lon"),
                values.astype(np.float32),
                {"units": "K", "long_name": "near-surface air temperature"},
            ),
            "mask": (("lat", "lon"), (warm > 270).astype(np.float32) * np.ones((18, 36), np.float32), {"units": "1"}),
        },
        coords={
            "member": ("member", list(LABELS)),
            "time": ("time", (days[:-1] + days[1:]) / 2, {"units": "days since 2001-01-01", "calendar": "standard"}),
            "lat": ("lat", lat, {"units": "degrees_north"}),
            "lon": ("lon", np.arange(36) * 10.0, {"units": "degrees_east"}),
        },
    )


def write(dataset: xr.Dataset, path: Path) -> Path:
    """The path of a file with the dataset, of another program: not of fsae. Zarr has no texts: members count from 0."""
    if path.suffix == ".zarr":
        dataset.drop_vars("member").to_zarr(path, encoding={"tas": {"chunks": (1, 1, 18, 36)}}, consolidated=False)
    else:
        dataset.to_netcdf(path, engine="h5netcdf")
    return path
