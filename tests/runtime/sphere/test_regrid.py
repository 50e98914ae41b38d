"""Regridding weights against closed forms, healpy and SciPy."""

import shutil
import subprocess
from pathlib import Path

import healpy
import numpy as np
import pytest
import xarray as xr
from scipy.interpolate import RegularGridInterpolator

from fsae.runtime.errors import DataError
from fsae.runtime.sphere.grids import LatLonGrid
from fsae.runtime.sphere.healpix import npix, pixel_centres
from fsae.runtime.sphere.regrid import (
    bilinear_weights,
    cell_areas,
    cell_edges,
    choose_method,
    conservative_weights,
    interpolation_weights,
    make_weights,
)
from fsae.runtime.sphere.weights import Weights, apply

GAUSSIAN = np.degrees(np.arcsin(np.polynomial.legendre.leggauss(32)[0]))[::-1]
REGULAR = LatLonGrid(lat_deg=np.linspace(90, -90, 37), lon_deg=np.arange(72) * 5.0)
POINT_LAT, POINT_LON = np.random.default_rng(0).uniform([[-1], [-360]], [[1], [720]], (2, 3000))
POINT_LAT = np.concatenate([[90, -90, 89.99, -89.99, 0, 85], np.degrees(np.arcsin(POINT_LAT))])
POINT_LON = np.concatenate([[0, 360, -180, 359.999, 180, 2.5], POINT_LON])

EAST = {"units": "degrees_east"}
GRIDS = {
    "regular": REGULAR,
    "south first": LatLonGrid(lat_deg=REGULAR.lat_deg[::-1], lon_deg=REGULAR.lon_deg),
    "from -180": LatLonGrid(lat_deg=REGULAR.lat_deg, lon_deg=REGULAR.lon_deg - 180),
    "westward": LatLonGrid(lat_deg=REGULAR.lat_deg, lon_deg=REGULAR.lon_deg[::-1]),
    "cell centres": LatLonGrid(lat_deg=np.arange(-88, 90, 4.0), lon_deg=np.arange(90) * 4 + 2.0),
    "Gaussian": LatLonGrid(lat_deg=GAUSSIAN, lon_deg=np.arange(64) * 5.625),
}


def noise(*shape: int) -> np.ndarray:
    """White noise, the same in every test."""
    return np.random.default_rng(1).normal(size=shape)


def sample(grid: LatLonGrid, function: object) -> np.ndarray:
    """A function of (lat_deg, lon_deg) on the grid, flattened."""
    lat, lon = np.meshgrid(grid.lat_deg, grid.lon_deg, indexing="ij")
    return np.asarray(function(lat, lon % 360)).reshape(-1)  # type: ignore[operator]


@pytest.mark.parametrize("name", GRIDS)
def test_bilinear_is_scipys(name: str) -> None:  # oracle: scipy on an axis padded by hand
    grid = GRIDS[name]
    field = noise(*grid.shape)
    rows, columns = np.argsort(grid.lat_deg), np.argsort(grid.lon_deg % 360)
    lat, lon = grid.lat_deg[rows], (grid.lon_deg % 360)[columns]
    tidy = field[rows][:, columns]
    tidy = np.concatenate([tidy[:, -1:], tidy, tidy[:, :1]], axis=1)
    lon = np.concatenate([lon[-1:] - 360, lon, lon[:1] + 360])
    if lat[-1] < 90:  # the mean of the last row stands at the pole
        tidy = np.concatenate(
            [np.full_like(tidy[:1], tidy[0, 1:-1].mean()), tidy, tidy[-1:] * 0 + tidy[-1, 1:-1].mean()]
        )
        lat = np.concatenate([[-90], lat, [90]])
    expected = RegularGridInterpolator((lat, lon), tidy)(np.stack([POINT_LAT, POINT_LON % 360], axis=-1))
    found = apply(bilinear_weights(grid, POINT_LAT, POINT_LON), field.reshape(-1))
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-11)  # rounding of longitudes modulo 360


@pytest.mark.parametrize("name", GRIDS)
def test_bilinear_is_exact_for_linear_fields(name: str) -> None:  # oracle: the field itself
    grid = GRIDS[name]
    inside = np.abs(POINT_LAT) <= np.abs(grid.lat_deg).max()
    lat, lon = POINT_LAT[inside], POINT_LON[inside] % 360
    weights = bilinear_weights(grid, lat, lon)
    np.testing.assert_allclose(apply(weights, sample(grid, lambda lat, lon: 3 * lat - 7)), 3 * lat - 7, atol=1e-11)
    axis = np.sort(grid.lon_deg % 360)
    between = (lon >= axis[0]) & (lon <= axis[-1])  # away from the jump of the longitude itself
    found = apply(weights, sample(grid, lambda lat, lon: lon))
    np.testing.assert_allclose(found[between], lon[between], atol=1e-11)


@pytest.mark.parametrize("name", GRIDS)
@pytest.mark.parametrize("zoom", [0, 1, 2, 3])
def test_conservative_keeps_areas(
    name: str, zoom: int
) -> None:  # oracle: equal areas of the pixels, areas of the cells
    grid = GRIDS[name]
    weights = conservative_weights(grid, zoom)
    given = np.bincount(weights.index, weights.weight, grid.size) / npix(zoom)
    np.testing.assert_allclose(given, cell_areas(grid), rtol=1e-11)
    np.testing.assert_allclose(np.add.reduceat(weights.weight, weights.indptr[:-1]), 1, rtol=1e-11)
    assert weights.weight.min() > 0
    field = noise(grid.size) + 280
    np.testing.assert_allclose(apply(weights, field).mean(), field @ cell_areas(grid), rtol=1e-11)


def test_cell_areas() -> None:  # oracle: areas of spherical bands
    lat, lon = cell_edges(REGULAR)
    assert (lat.min(), lat.max()) == (-90, 90)
    areas = cell_areas(REGULAR).reshape(REGULAR.shape)
    np.testing.assert_allclose(areas[0], (1 - np.sin(np.radians(87.5))) / 2 / 72, rtol=1e-12)
    np.testing.assert_allclose(areas.sum(), 1, rtol=1e-12)
    np.testing.assert_allclose(lon[:, 1] - lon[:, 0], 5, rtol=1e-12)


def test_conservative_keeps_areas_of_cells_as_small_as_pixels() -> None:  # oracle: the same
    zoom, grid = 7, LatLonGrid(lat_deg=np.linspace(90, -90, 361), lon_deg=np.arange(720) * 0.5)
    weights = conservative_weights(grid, zoom)
    given = np.bincount(weights.index, weights.weight, grid.size) / npix(zoom)
    np.testing.assert_allclose(given, cell_areas(grid), rtol=1e-10)  # the sines of latitudes near a pole lose digits
    np.testing.assert_allclose(np.add.reduceat(weights.weight, weights.indptr[:-1]), 1, rtol=1e-11)


@pytest.mark.parametrize("name", ["from -180", "Gaussian"])
@pytest.mark.parametrize("zoom", [0, 3])
def test_conservative_is_the_mean_over_the_pixel(name: str, zoom: int) -> None:  # oracle: healpy's descendants
    grid, extra = GRIDS[name], 8 - zoom
    lon, lat = healpy.pix2ang(1 << 8, np.arange(npix(8)), nest=True, lonlat=True)
    edges, west = cell_edges(grid)
    row = np.argsort(grid.lat_deg)[np.clip(np.searchsorted(np.sort(edges[:, 0]), lat, "right") - 1, 0, None)]
    order = np.argsort(grid.lon_deg % 360)
    first = west[order[0], 0]
    column = order[((lon - first) % 360 // (360 / grid.lon_deg.size)).astype(int)]
    field = noise(grid.size)
    expected = field[row * grid.lon_deg.size + column].reshape(npix(zoom), 4**extra).mean(-1)
    # Counting descendants on a boundary for one of its sides leaves an error of their share of the pixel's boundary.
    error = apply(conservative_weights(grid, zoom), field) - expected
    assert np.abs(error).max() < 4 / 2**extra
    assert error.std() < 1 / 2**extra


@pytest.mark.skipif(shutil.which("cdo") is None, reason="needs CDO")
def test_conservative_is_cdos(tmp_path: Path) -> None:  # oracle: CDO's first order conservative remapping
    zoom, grid = 2, GRIDS["cell centres"]
    field = noise(*grid.shape).astype(np.float32)
    degrees = {"lat": ("lat", grid.lat_deg, {"units": "degrees_north"}), "lon": ("lon", grid.lon_deg, EAST)}
    xr.Dataset({"f": (("lat", "lon"), field)}, degrees).to_netcdf(tmp_path / "in.nc", engine="h5netcdf")
    # CDO joins corners by great circles, of which 32 are close to the side of a pixel
    corners = healpy.boundaries(1 << zoom, np.arange(npix(zoom)), step=32, nest=True)
    corner_lon, corner_lat = healpy.vec2ang(np.moveaxis(corners, 1, -1).reshape(-1, 3), lonlat=True)
    lat, lon = pixel_centres(zoom)
    pixels = xr.Dataset(
        {"f": ("cell", lat, {"coordinates": "lat lon"})},
        {
            "lat": ("cell", lat, {"units": "degrees_north", "bounds": "lat_bnds"}),
            "lon": ("cell", lon, {**EAST, "bounds": "lon_bnds"}),
            "lat_bnds": (("cell", "corner"), corner_lat.reshape(lat.size, -1)),
            "lon_bnds": (("cell", "corner"), corner_lon.reshape(lat.size, -1)),
        },
    )
    pixels.to_netcdf(tmp_path / "pixels.nc", engine="h5netcdf")
    command = ["cdo", "-s", "-b", "F64", f"-remapcon,{tmp_path / 'pixels.nc'}", tmp_path / "in.nc", tmp_path / "out.nc"]
    subprocess.run(command, check=True, capture_output=True)
    with xr.open_dataset(tmp_path / "out.nc", engine="h5netcdf") as out:
        expected = out["f"].values
    found = apply(conservative_weights(grid, zoom), field.reshape(-1).astype(np.float64))
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-3)  # the means vary by 0.4


def test_methods() -> None:
    assert choose_method(REGULAR, 3) == "conservative"  # 2664 points, 768 pixels
    assert choose_method(REGULAR, 4) == "bilinear"
    np.testing.assert_array_equal(make_weights(REGULAR, 3).weight, conservative_weights(REGULAR, 3).weight)
    by_name = make_weights(REGULAR, 3, "bilinear")
    np.testing.assert_array_equal(by_name.weight, bilinear_weights(REGULAR, *pixel_centres(3)).weight)
    with pytest.raises(DataError, match="method 'nearest', expected one of auto, bilinear, conservative"):
        make_weights(REGULAR, 3, "nearest")


@pytest.mark.parametrize("zoom", [0, 1, 2, 3, 5])
def test_healpix_to_points(zoom: int) -> None:  # oracle: healpy
    field = noise(2, npix(zoom))
    weights = interpolation_weights(zoom, POINT_LAT, POINT_LON)
    expected = [healpy.get_interp_val(f, POINT_LON, POINT_LAT, nest=True, lonlat=True) for f in field]
    np.testing.assert_allclose(apply(weights, field), expected, rtol=0, atol=1e-11)
    np.testing.assert_allclose(
        apply(interpolation_weights(zoom, *pixel_centres(zoom)), field), field, rtol=0, atol=1e-11
    )


def test_missing_values() -> None:  # oracle: closed form
    weights = Weights(
        indptr=np.array([0, 2, 2, 5, 5]),
        index=np.array([0, 1, 1, 2, 3]),
        weight=np.array([0.4, 0.6, 0.5, 0.25, 0.25]),
        source_size=4,
    )
    whole = apply(weights, np.array([1.0, 2.0, 4.0, 8.0]))
    np.testing.assert_allclose(whole, [1.6, np.nan, 4.0, np.nan])
    holes = apply(weights, np.array([1.0, np.nan, 4.0, 8.0], dtype=np.float32))
    assert holes.dtype == np.float32
    np.testing.assert_allclose(holes, [np.nan, np.nan, 6.0, np.nan])  # 0.4 is too little, 0.5 is enough
    np.testing.assert_array_equal(apply(weights, np.full((2, 4), np.nan)), np.full((2, 4), np.nan))
    assert apply(weights, np.zeros((0, 3, 4))).shape == (0, 3, 4)
    with pytest.raises(DataError, match="found fields of 5 points, expected 4"):
        apply(weights, np.zeros(5))


def test_missing_values_leave_a_constant_constant() -> None:  # oracle: invariant
    field = np.where(noise(REGULAR.size) < -0.5, np.nan, 280.0)
    out = apply(make_weights(REGULAR, 3), field)
    assert np.isfinite(out).mean() > 0.7
    np.testing.assert_allclose(out[np.isfinite(out)], 280, rtol=1e-12)
