"""Output of every verb from the tiny bundle, on both grids, as NetCDF and as Zarr, and how tests look at it."""

import dataclasses
import functools
import itertools
import shutil
from pathlib import Path
from typing import Any

import cftime
import msgspec
import xarray as xr
from tiny_bundle import tiny_manifest

import fsae.runtime
from fsae.runtime.bundle.files import write_manifest
from fsae.runtime.bundle.manifest import Manifest
from fsae.runtime.emulator import write_climatology
from fsae.runtime.ensemble.request import Request
from fsae.runtime.output.selection import Selection

VERBS = (
    "generate-native",
    "generate-source",
    "forecast-native",  # with --initial and --forcing
    "forecast-source",
    "hourly-native",  # instantaneous values: no bounds
    "compress",
    "compress-members",
    "decompress-native",
    "decompress-source",
    "superres-native",
    "superres-source",
    "climatology",
)
ENSEMBLES = ("generate", "forecast", "hourly", "compress-members")  # how the names of those with members begin
# Each verb, each grid and each kind of extra coordinate once.
ZARR = ("generate-native", "forecast-source", "compress", "decompress-native", "superres-source", "climatology")
# For the CF checker.
PARTS = ("part-native", "part-30", "statistics-native", "statistics-30", "starts-native", "starts-30")
NAMES = tuple(f"{verb}.nc" for verb in (*VERBS, *PARTS)) + tuple(f"{verb}.zarr" for verb in ZARR)
# Those of CF, each under one of its names.
CALENDARS = ("standard", "proleptic_gregorian", "julian", "noleap", "all_leap", "360_day")


def tiny_emulator(bundle: Path, folder: Path, manifest: Manifest) -> fsae.runtime.Emulator:
    """An emulator of a bundle's copy with another manifest."""
    shutil.copytree(bundle, folder)
    write_manifest(folder, manifest)
    return fsae.runtime.load(folder, device="cpu", threads=1)


def in_calendar(emulator: fsae.runtime.Emulator, calendar: str) -> fsae.runtime.Emulator:
    """The emulator as if its model had been trained in a calendar."""
    manifest = emulator.bundle.manifest
    changed = msgspec.structs.replace(manifest, time=msgspec.structs.replace(manifest.time, calendar=calendar))
    return fsae.runtime.Emulator(dataclasses.replace(emulator.bundle, manifest=changed), emulator.graphs)


def write_outputs(bundle: Path, folder: Path) -> None:
    """Write NAMES, the months.nc they are made from, and in-CALENDAR.nc and .zarr into the folder."""
    manifest = tiny_manifest()
    emulator = tiny_emulator(bundle, folder / "tiny", manifest)
    hours = msgspec.structs.replace(
        manifest,
        time=msgspec.structs.replace(manifest.time, step="6 hours"),
        variables=tuple(msgspec.structs.replace(v, cell_methods="time: point") for v in manifest.variables),
    )
    hourly = tiny_emulator(bundle, folder / "hourly", hours)
    data, members = folder / "months.nc", folder / "generate-native.nc"
    months = emulator.generate(Request(members=1, start="1990-01", steps=14)).isel(realization=0, drop=True)
    months.drop_vars("forcing").to_netcdf(data, engine="h5netcdf")
    asked: dict[str, Any] = {"members": [0, 7], "start": "1990-11", "steps": 4, "seed": 5}
    for name in NAMES:
        verb, _, grid = name.rpartition(".")[0].partition("-")
        path = folder / name
        match verb:
            case "generate":
                emulator.generate_file(path, Request(**asked, select=Selection(grid=grid)))
            case "part":
                select = Selection(grid=grid, bbox=(150, -60, -90, 60), variables=["uas"])
                emulator.generate_file(path, Request(**asked, select=select))
            case "statistics":
                statistics = ("mean", "std", "min", "max", "quantiles")
                emulator.generate_file(path, Request(**asked, select=Selection(grid=grid), statistics=statistics))
            case "forecast":
                known = {"initial": data, "climatology": "training", "forcing": 1970.5}
                emulator.generate_file(path, Request(members=2, steps=4, select=Selection(grid=grid), **known))
            case "hourly":
                hourly.generate_file(path, Request(members=2, start="1990-11", steps=4))
            case "compress":
                emulator.compress_file(members if grid == "members" else data, path, climatology="training")
            case "decompress":
                emulator.decompress_file(folder / "compress.nc", path, select=Selection(grid=grid))
            case "superres" | "starts":
                source = data if verb == "superres" else hindcast(months.drop_vars("forcing"))
                emulator.superres_file(source, path, zoom=1, select=Selection(grid=grid), climatology="training")
            case "climatology":
                write_climatology(data, path, model=emulator.bundle.folder)
    for calendar in CALENDARS:
        for suffix in (".nc", ".zarr"):
            path = folder / f"in-{calendar}{suffix}"
            in_calendar(emulator, calendar).generate_file(path, Request(members=1, start="1900-01", steps=3))


def hindcast(months: xr.Dataset) -> xr.Dataset:
    """Months (time, cell) as forecasts (init, lead, cell): of three months each, from the first and the fourth on."""
    parts = []
    for first in (0, 3):
        part = months.drop_vars("time_bnds", errors="ignore").isel(time=slice(first, first + 3))
        part["time"].encoding.pop("bounds", None)
        part = part.assign_coords(valid_time=part["time"], init=part["time"][0], lead=("time", [0, 1, 2]))
        part["lead"].attrs = {"standard_name": "forecast_period", "units": "days"}
        parts.append(part.swap_dims(time="lead").drop_vars("time"))
    return xr.concat(parts, "init", data_vars="minimal", coords="different", compat="equals")


def first_months(calendar: str) -> tuple[list[tuple[cftime.datetime, cftime.datetime]], list[cftime.datetime]]:
    """Bounds and middles of January to March 1900, the months of in-CALENDAR.nc."""
    starts = [cftime.datetime(1900, month, 1, calendar=calendar) for month in (1, 2, 3, 4)]
    bounds = list(itertools.pairwise(starts))
    return bounds, [start + (end - start) / 2 for start, end in bounds]


def engine(path: Path) -> str:
    """The xarray engine that opens a file."""
    return "h5netcdf" if path.suffix == ".nc" else "zarr"


def raw(path: Path) -> xr.Dataset:
    """All variables and attributes of a file, undecoded."""
    return _raw(path).copy(deep=True)


@functools.cache
def _raw(path: Path) -> xr.Dataset:
    with xr.open_dataset(path, engine=engine(path), decode_cf=False) as dataset:
        return dataset.load()
