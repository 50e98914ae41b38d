"""Regridding from a lat-lon grid to HEALPix: weights beside CDO's, products beside rows, and its share of `compress`.

CPU time of one thread, the fastest of a few calls that take turns. CDO gets the corners of the pixels (healpy), and its
time includes reading them. The field that is compressed is made up: time does not depend on its values.

    python tests/bench/regridding.py [--rows 721] [--zoom 5] [--steps 48] [--json regridding.json]
"""

import contextlib
import cProfile
import json
import os
import pstats
import resource
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import healpy
import numpy as np
import xarray as xr
from timing import take_turns

import fsae.runtime
from fsae.runtime.sphere.grids import LatLonGrid
from fsae.runtime.sphere.healpix import npix, pixel_centres
from fsae.runtime.sphere.regrid import bilinear_weights, conservative_weights, make_weights
from fsae.runtime.sphere.weights import Weights, apply

ROUNDS = 2
SHARES = {  # functions of `compress`, by what they do
    "reading": ("reader.py", "read_points"),
    "checking": ("reader.py", "_check"),
    "regridding": ("weights.py", "apply"),
    "sessions": ("onnx.py", "encode"),
}


def grid_of(rows: int) -> LatLonGrid:
    """A grid with points on the poles."""
    columns = 2 * (rows - 1)
    return LatLonGrid(lat_deg=np.linspace(90, -90, rows), lon_deg=np.arange(columns) * 360 / columns)


def fields(grid: LatLonGrid, steps: int) -> xr.DataArray:
    """Made-up temperatures (time, lat, lon) [K], each day's in float32."""
    noise = np.random.default_rng(0).normal(0, 1, (steps, *grid.shape)).astype(np.float32)
    mean = 245 + 45 * np.cos(np.radians(grid.lat_deg, dtype=np.float32))[:, None]
    coords = {
        "time": ("time", np.arange(steps) + 0.5, {"units": "days since 2001-01-01"}),
        "lat": ("lat", grid.lat_deg, {"units": "degrees_north"}),
        "lon": ("lon", grid.lon_deg, {"units": "degrees_east"}),
    }
    attrs = {"units": "K", "standard_name": "air_temperature"}
    return xr.DataArray(mean + noise, coords, ("time", "lat", "lon"), "tas", attrs)


def cdo_seconds(grid: LatLonGrid, zoom: int, folder: Path) -> float | None:
    """CPU seconds of `cdo gencon` on one thread; None without CDO."""
    if shutil.which("cdo") is None:
        return None
    fields(grid, 1).to_netcdf(folder / "grid.nc", engine="h5netcdf")
    lat, lon = pixel_centres(zoom)
    corners = healpy.boundaries(1 << zoom, np.arange(npix(zoom)), nest=True)
    corner_lon, corner_lat = healpy.vec2ang(np.moveaxis(corners, 1, -1).reshape(-1, 3), lonlat=True)
    variables = {
        "lat": ("cell", lat, {"units": "degrees_north", "bounds": "lat_bnds"}),
        "lon": ("cell", lon, {"units": "degrees_east", "bounds": "lon_bnds"}),
        "lat_bnds": (("cell", "corner"), corner_lat.reshape(lat.size, -1)),
        "lon_bnds": (("cell", "corner"), corner_lon.reshape(lat.size, -1)),
    }
    field = {"f": ("cell", lat, {"coordinates": "lat lon"})}
    xr.Dataset(field, variables).to_netcdf(folder / "pixels.nc", engine="h5netcdf")
    before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
    command = ["cdo", "-s", "-P", "1", f"-gencon,{folder / 'pixels.nc'}", folder / "grid.nc", folder / "weights.nc"]
    subprocess.run(command, check=True, capture_output=True)
    return resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime - before


def by_rows(weights: Weights, field: np.ndarray) -> np.ndarray:
    """The product as one gather and one reduction over all entries."""
    products = field[weights.index].astype(np.float64) * weights.weight
    return np.add.reduceat(products, weights.indptr[:-1]).astype(field.dtype)


def fastest(calls: dict[str, Callable[[], Any]]) -> dict[str, float]:
    """The fewest CPU seconds of each call."""
    return {name: min(seconds) for name, seconds in take_turns(calls, ROUNDS).items()}


def weights_and_products(grid: LatLonGrid, zoom: int, folder: Path) -> list[dict[str, Any]]:
    """For each method the seconds that weights take, made, read and made by CDO, and milliseconds a field."""
    field = np.random.default_rng(0).normal(280, 10, grid.size).astype(np.float32)
    makers = {
        "bilinear": lambda: bilinear_weights(grid, *pixel_centres(zoom)),
        "conservative": lambda: conservative_weights(grid, zoom),
    }
    rows = []
    for method, make in makers.items():
        weights = make()
        calls = {"made": make, "read": lambda method=method: make_weights(grid, zoom, method)}
        products = {"rows": lambda w=weights: by_rows(w, field), "product": lambda w=weights: apply(w, field)}
        times = {**fastest(calls), **{name: 1e3 * seconds for name, seconds in fastest(products).items()}}
        cdo = cdo_seconds(grid, zoom, folder) if method == "conservative" else None
        rows.append({"zoom": zoom, "method": method, "cdo": cdo, **times})
    return rows


def compress(grid: LatLonGrid, steps: int, folder: Path) -> dict[str, float]:
    """MB of source a second of one core, after a first run, and the shares of its CPU time."""
    fields(grid, steps).to_netcdf(folder / "in.nc", engine="h5netcdf")
    emulator = fsae.runtime.load(device="cpu", threads=1)
    profile = cProfile.Profile(time.process_time)
    for run in (contextlib.nullcontext(), profile, contextlib.nullcontext()):
        began = time.process_time()
        with run:
            emulator.compress_file(
                folder / "in.nc",
                folder / "out.zarr",
                climatology="training",
                writing=fsae.runtime.Writing(overwrite=True, force=True),
            )
        seconds = time.process_time() - began
    found = pstats.Stats(profile)
    whole = found.total_tt  # type: ignore[attr-defined]
    shares = {
        name: sum(
            stat[3]
            for (file, _, function), stat in found.stats.items()  # type: ignore[attr-defined]
            if (Path(file).name, function) == place
        )
        / whole
        for name, place in SHARES.items()
    }
    return {"MB/s": 4e-6 * grid.size * steps / seconds, "seconds": seconds, **shares}


@click.command()
@click.option("--rows", default=721)
@click.option("--zoom", "zooms", multiple=True, type=int, default=(5, 8))
@click.option("--steps", default=48)
@click.option("--json", "out", type=click.Path(path_type=Path))
def main(rows: int, zooms: tuple[int, ...], steps: int, out: Path | None) -> None:
    """Print both tables, and write them as JSON."""
    grid = grid_of(rows)
    with tempfile.TemporaryDirectory() as name:
        os.environ["FSAE_CACHE"] = f"{name}/cache"
        found = [row for zoom in zooms for row in weights_and_products(grid, zoom, Path(name))]
        for row in found:
            cdo = "" if row["cdo"] is None else f", CDO {row['cdo']:.1f} s"
            print(
                f"zoom {row['zoom']} {row['method']}: weights {row['made']:.2f} s, read {row['read']:.2f} s{cdo}; "
                f"a field {row['product']:.1f} ms, by rows {row['rows']:.1f} ms"
            )
        whole = compress(grid, steps, Path(name))
        shares = ", ".join(f"{name} {100 * whole[name]:.0f} %" for name in SHARES)
        print(f"compress: {whole['MB/s']:.0f} MB/s in {whole['seconds']:.1f} s; {shares}")
    if out is not None:
        out.write_text(json.dumps({"weights": found, "compress": whole}, indent=2))


if __name__ == "__main__":
    main()
