"""Which grid a variable is on, as files of many makers write it."""

from typing import Any

import numpy as np
import pytest
import xarray as xr

from fsae.runtime.errors import DataError
from fsae.runtime.input.grid_detection import find_grid, locate
from fsae.runtime.sphere.grids import HealpixGrid, LatLonGrid, is_same, supported_zoom

LAT = np.linspace(90, -90, 37)
LON = np.arange(72) * 5.0


def lat_lon(lat: np.ndarray = LAT, lon: np.ndarray = LON, names: tuple[str, str] = ("lat", "lon"), **attrs: Any) -> Any:
    """A data set with `tas` on those axes; `attrs` go to the axes as y=..., x=..."""
    coords = {names[0]: (names[0], lat, attrs.get("y", {})), names[1]: (names[1], lon, attrs.get("x", {}))}
    return xr.Dataset({"tas": (names, np.zeros((lat.size, lon.size)))}, coords)


def cells(count: int, dim: str = "cell", attrs: dict[str, Any] | None = None, crs: dict[str, Any] | None = None) -> Any:
    """A data set with `tas` on `count` cells, with attributes of its own and of a grid mapping."""
    dataset = xr.Dataset({"tas": (("time", dim), np.zeros((1, count)), dict(attrs or {}))})
    if crs is not None:
        dataset["crs"] = ((), 0, crs)
        dataset["tas"].attrs["grid_mapping"] = "crs"
    return dataset


@pytest.mark.parametrize(
    "dataset",
    [
        lat_lon(),
        lat_lon(names=("latitude", "longitude")),
        lat_lon(names=("j", "i"), y={"standard_name": "latitude"}, x={"standard_name": "longitude"}),
        lat_lon(names=("j", "i"), y={"units": "degrees_north"}, x={"units": "degree_E"}),
        lat_lon(names=("j", "i"), y={"axis": "Y"}, x={"axis": "X", "units": "degrees"}),
        lat_lon(names=("y", "x")),
        lat_lon(lon=np.append(LON, 360.0)),  # a repeated cyclic column
    ],
)
def test_axes_are_found(dataset: xr.Dataset) -> None:
    grid, dims = locate(dataset["tas"], dataset)
    assert isinstance(grid, LatLonGrid)
    assert dims == dataset["tas"].dims
    np.testing.assert_array_equal(grid.lat_deg, LAT)
    np.testing.assert_array_equal(grid.lon_deg, LON)


@pytest.mark.parametrize("lon", [LON - 180, (LON + 180) % 360 - 180, LON[::-1], (LON + 2.5).astype(np.float32)])
def test_longitudes_any_way_round(lon: np.ndarray) -> None:
    dataset = lat_lon(lat=LAT[::-1], lon=lon)
    grid = find_grid(dataset["tas"], dataset)
    assert isinstance(grid, LatLonGrid)
    np.testing.assert_array_equal(grid.lon_deg, lon)
    assert grid.lat_deg[0] == -90


def test_gaussian_latitudes() -> None:
    gaussian = np.degrees(np.arcsin(np.polynomial.legendre.leggauss(64)[0]))
    dataset = lat_lon(lat=gaussian, lon=np.arange(128) * 2.8125)
    assert supported_zoom(find_grid(dataset["tas"], dataset)) == 4


@pytest.mark.parametrize(
    ("rows", "columns", "zoom"), [(73, 144, 5), (64, 128, 4), (96, 192, 5), (241, 480, 6), (90, 180, 5), (12, 4, 1)]
)
def test_supported_zoom(rows: int, columns: int, zoom: int) -> None:  # oracle: 12 * 4**zoom <= 1.25 * points
    lon = np.arange(columns) * 360 / columns
    assert supported_zoom(LatLonGrid(lat_deg=np.linspace(90, -90, rows), lon_deg=lon)) == zoom
    assert 12 * 4**zoom <= 1.25 * rows * columns < 12 * 4 ** (zoom + 1)


CF = {"grid_mapping_name": "healpix", "refinement_level": 2, "indexing_scheme": "nested"}


@pytest.mark.parametrize(
    ("dataset", "order"),
    [
        (cells(192, crs=CF), "nested"),
        (cells(192, dim="i", crs=CF), "nested"),
        (cells(192, crs=CF | {"indexing_scheme": "ring"}), "ring"),
        (cells(192, attrs={"healpix_nside": 4, "healpix_order": "nest"}), "nested"),
        (cells(192, dim="values", crs={"healpix_nside": np.int64(4), "healpix_order": "RING"}), "ring"),
        (cells(192, attrs={"healpix_order": "nested"}), "nested"),
        (cells(192).assign_attrs(healpix_nside=4, healpix_order="ring"), "ring"),
        (cells(192).assign(crs=((), 0, CF)), "nested"),  # not named by the variable
    ],
)
def test_healpix_is_found(dataset: xr.Dataset, order: str) -> None:
    grid, dims = locate(dataset["tas"], dataset)
    assert grid == HealpixGrid(zoom=2, order=order)
    assert dims == (dataset["tas"].dims[-1],)


def test_healpix_attributes_of_the_data_set_do_not_hide_a_lat_lon_variable() -> None:
    dataset = lat_lon().assign_attrs(healpix_nside=4, healpix_order="nested")
    assert isinstance(find_grid(dataset["tas"], dataset), LatLonGrid)


def curvilinear() -> xr.Dataset:
    two_d = {"lat": (("y", "x"), np.zeros((4, 5))), "lon": (("y", "x"), np.zeros((4, 5)))}
    return xr.Dataset({"tas": (("y", "x"), np.zeros((4, 5)))}, two_d)


def unstructured() -> xr.Dataset:
    points = {"lat": ("ncells", np.zeros(100)), "lon": ("ncells", np.zeros(100))}
    return xr.Dataset({"tas": (("ncells",), np.zeros(100))}, points)


def rotated() -> xr.Dataset:
    dataset = lat_lon(names=("rlat", "rlon")).assign(rotated_pole=((), 0))
    dataset["rotated_pole"].attrs["grid_mapping_name"] = "rotated_latitude_longitude"
    dataset["tas"].attrs["grid_mapping"] = "rotated_pole"
    return dataset


@pytest.mark.parametrize(
    ("dataset", "sentence"),
    [
        (lat_lon(lon=np.arange(-20, 45, 1.0)), "tas covers longitudes -20 to 44 only, expected a global field"),
        (lat_lon(lat=np.arange(30, 75, 1.0)), "tas covers latitudes 30 to 74 only, expected a global field"),
        (lat_lon(lon=np.array([0, 10, 30, 180, 270.0])), "not evenly spaced once around"),
        (lat_lon(lat=np.array([0, 10, 5, -90.0])), "are not 4 or more rising or falling numbers"),
        (lat_lon(lat=np.linspace(-100, 100, 41)), "reach -100, expected -90 to 90"),
        (curvilinear(), "a two-dimensional latitude: a curvilinear grid"),
        (unstructured(), "a latitude for each point: an unstructured or reduced grid"),
        (rotated(), "on a 'rotated_latitude_longitude' grid, expected lat-lon or HEALPix"),
        (xr.Dataset({"tas": (("time", "station"), np.zeros((2, 7)))}), "none of which is a latitude"),
        (cells(192), "does not say its order of HEALPix cells, expected nested or ring"),
        (cells(192, crs={k: v for k, v in CF.items() if k != "indexing_scheme"}), "does not say its order"),
        (cells(192, crs=CF | {"indexing_scheme": "nuniq"}), "has 'nuniq' as its order"),
        (cells(191, crs=CF), "has 191 cells along .*, expected 192 cells for zoom 2: the whole sphere"),
        (cells(768, crs=CF), "has 768 cells along"),
        (cells(108, attrs={"healpix_nside": 3, "healpix_order": "ring"}), "nside 3, expected a power of two"),
        (cells(192, attrs={"healpix_nside": "four", "healpix_order": "ring"}), "are not numbers"),
    ],
)
def test_what_is_refused(dataset: xr.Dataset, sentence: str) -> None:
    with pytest.raises(DataError, match=sentence):
        find_grid(dataset["tas"], dataset)


def test_is_same() -> None:
    grid = LatLonGrid(lat_deg=LAT, lon_deg=LON)
    assert is_same(grid, LatLonGrid(lat_deg=LAT.copy(), lon_deg=LON.copy()))
    assert not is_same(grid, LatLonGrid(lat_deg=LAT[::-1], lon_deg=LON))
    assert not is_same(grid, HealpixGrid(zoom=1, order="ring"))
    assert is_same(HealpixGrid(zoom=1, order="ring"), HealpixGrid(zoom=1, order="ring"))
