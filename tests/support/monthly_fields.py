"""Monthly fields of the tiny model: their closed form, in a layout and in a file."""

import itertools
from collections.abc import Callable
from pathlib import Path

import cftime
import numpy as np
import xarray as xr
from tiny_bundle import (
    PIXELS,
    VARIABLES,
    tiny_manifest,
    tiny_mean,
)

from fsae.runtime.climate.climatology import season
from fsae.runtime.output.layout import Cells, Layout, Unit, open_output, to_dataset
from fsae.runtime.output.times import encode_times

STEPS = 14  # more than one chunk of time


def month_axis(calendar: str) -> tuple[list[cftime.datetime], list[tuple[cftime.datetime, cftime.datetime]]]:
    edges = [cftime.datetime(2005 + m // 12, m % 12 + 1, 1, calendar=calendar) for m in range(STEPS + 1)]
    bounds = list(itertools.pairwise(edges))
    return [start + (end - start) / 2 for start, end in bounds], bounds


def field_layout(calendar: str = "standard", zoom: int = 2, members: tuple[int, ...] | None = None) -> Layout:
    times, bounds = month_axis(calendar)
    return Layout(
        variables={v.name: {"standard_name": v.standard_name, "units": v.units} for v in tiny_manifest().variables},
        attributes={},
        time=encode_times(times, bounds, calendar),
        grid=Cells(zoom=zoom),
        members=members,
    )


def phases(calendar: str = "standard") -> np.ndarray:
    """Fraction of the year at the middle of each month, counted in days."""
    times, bounds = month_axis(calendar)
    year = [cftime.datetime(t.year, 1, 1, calendar=calendar) for t in times]
    length = [(y.replace(year=y.year + 1) - y).total_seconds() for y in year]
    middle = [(b[0] - y).total_seconds() + (b[1] - b[0]).total_seconds() / 2 for b, y in zip(bounds, year, strict=True)]
    return np.array(middle) / np.array(length)


def fields(members: int = 1, calendar: str = "standard") -> np.ndarray:
    """Climatology and noise, (member, time, variable, pixel)."""
    noise = np.random.default_rng(1).normal(size=(members, STEPS, VARIABLES, PIXELS))
    return (tiny_mean(season(phases(calendar), 2)) + noise).astype(np.float32)


def write_fields(path: Path, values: np.ndarray, layout: Layout) -> Path:
    with open_output(path, layout) as write:
        write(Unit(members=slice(0, len(values)), times=slice(0, STEPS), values=values))
    return path


def values_of(path: Path) -> np.ndarray:
    """(…, time, variable, point) of a file."""
    with xr.open_dataset(path, engine="h5netcdf" if path.suffix == ".nc" else "zarr") as data:
        return np.stack([data["tas"].values, data["uas"].values], axis=-2)


def changed(path: Path, change: Callable[[xr.Dataset], xr.Dataset]) -> Path:
    """Write a dataset of monthly fields after a change, as NetCDF, and give the path."""
    change(to_dataset(field_layout(), fields())).to_netcdf(path, engine="h5netcdf")
    return path
