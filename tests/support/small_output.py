"""A small layout with values, and its file written unit by unit."""

import itertools
from pathlib import Path

import cftime
import numpy as np

from fsae.runtime.output.layout import Cells, Layout, Unit, open_output
from fsae.runtime.output.times import encode_times
from fsae.runtime.sphere.grids import LatLonGrid

COARSE = LatLonGrid(lat_deg=np.array([60.0, 0.0, -60.0]), lon_deg=np.arange(4) * 90.0)
ATTRIBUTES = {"standard_name": "air_temperature", "units": "K", "cell_methods": "time: mean"}


def healpix_mapping(zoom: int, netcdf: bool = False) -> dict[str, str | int]:
    """The grid mapping of HEALPix cells: CF 1.13, appendix F, and in NetCDF the older attributes."""
    found: dict[str, str | int] = {
        "grid_mapping_name": "healpix",
        "refinement_level": zoom,
        "indexing_scheme": "nested",
    }
    return found | ({"healpix_nside": 2**zoom, "healpix_order": "nest"} if netcdf else {})


def month_axis(
    calendar: str, count: int = 4
) -> tuple[list[cftime.datetime], list[tuple[cftime.datetime, cftime.datetime]]]:
    edges = [cftime.datetime(2000 + m // 12, m % 12 + 1, 1, calendar=calendar) for m in range(count + 1)]
    bounds = list(itertools.pairwise(edges))
    return [a + (b - a) / 2 for a, b in bounds], bounds


def layout_of(calendar: str = "standard", members: tuple[int, ...] | None = (0, 5), zoom: int | None = 1) -> Layout:
    times, bounds = month_axis(calendar)
    return Layout(
        variables={"tas": ATTRIBUTES, "ts": ATTRIBUTES},
        attributes={"source": "test", "fsae_seed": 3},
        time=encode_times(times, bounds, calendar),
        grid=COARSE if zoom is None else Cells(zoom=zoom),
        members=members,
        time_chunk=3,
    )


def values_of(layout: Layout) -> np.ndarray:
    shape = (len(layout.members or (0,)), layout.time.values.size, 2, layout.points)
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


def write_in_units(path: Path, layout: Layout, values: np.ndarray, overwrite: bool = False) -> None:
    with open_output(path, layout, overwrite) as write:
        for member in range(values.shape[0]):
            for first in range(0, values.shape[1], 3):
                times = slice(first, min(first + 3, values.shape[1]))
                part = values[member : member + 1, times]
                write(Unit(members=slice(member, member + 1), times=times, values=part))
