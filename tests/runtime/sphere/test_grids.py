"""Which grid a variable is on, as files of many makers write it."""

import json
from typing import Any

import numpy as np
import pytest
import xarray as xr

from fsae.runtime.errors import DataError
from fsae.runtime.input.grid_detection import find_grid, locate
from fsae.runtime.sphere.grids import HealpixGrid, LatLonGrid, is_same, supported_zoom
from fsae.runtime.sphere.healpix import face_orders, pixel_centres, ring_to_nested

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
    place = locate(dataset["tas"], dataset)
    grid, dims = place.grid, place.dims
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


@pytest.mark.parametrize(
    ("lon", "whole"), [(LON - 180, True), (LON[::-1], True), (LON**2 / 360, False), (LON / 2, False)]
)
def test_global_grids_are_evenly_spaced(lon: np.ndarray, whole: bool) -> None:
    assert LatLonGrid(lat_deg=LAT, lon_deg=lon).is_global == whole


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
    place = locate(dataset["tas"], dataset)
    grid, dims = place.grid, place.dims
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


# The order of points, by coordinates. Oracle: a field that is a function of the place alone, whatever the order.


def smooth(lat_deg: np.ndarray, lon_deg: np.ndarray) -> np.ndarray:
    """A field without symmetries, of latitudes and longitudes [degrees]."""
    lat, lon = np.radians(lat_deg), np.radians(lon_deg)
    return np.cos(lat) * np.cos(lon - 0.3) + 0.5 * np.sin(lat) + 0.2 * np.cos(lat) ** 2 * np.sin(2 * lon)


def on_grid(dataset: xr.Dataset) -> tuple[np.ndarray, np.ndarray]:
    """What the reader makes of `tas`, and what it should be, in the order of the grid that it found."""
    place = locate(dataset["tas"], dataset)
    found = place.points(dataset["tas"].transpose(..., *place.dims).values)
    if isinstance(place.grid, LatLonGrid):
        lat, lon = np.meshgrid(place.grid.lat_deg, place.grid.lon_deg, indexing="ij")
        return found, smooth(lat, lon).ravel()
    lat, lon = pixel_centres(place.grid.zoom)
    nested = smooth(lat, lon)
    return found, nested if place.grid.order == "nested" else nested[np.argsort(ring_to_nested(place.grid.zoom))]


NESTED = smooth(*pixel_centres(2))
RING = np.argsort(ring_to_nested(2))  # nested pixels along the rings
SHUFFLED = np.random.default_rng(5).permutation(192)
XDGGS = {"grid_name": "healpix", "level": 2, "indexing_scheme": "nested"}
DGGS = {"name": "healpix", "refinement_level": 2, "indexing_scheme": "nested", "spatial_dimension": "n"}


def numbered(numbers: np.ndarray, attrs: dict[str, Any], values: np.ndarray, name: str = "cell_ids") -> xr.Dataset:
    """A data set with `tas` on cells of these numbers."""
    return xr.Dataset({"tas": (("n",), values)}, {name: (("n",), numbers, attrs)})


def placed(cells: np.ndarray, unit: str = "degrees", attrs: dict[str, Any] | None = None) -> xr.Dataset:
    """A data set with `tas` on nested cells that have latitudes and longitudes."""
    lat, lon = (centres[cells] for centres in pixel_centres(2))
    scale = np.pi / 180 if unit == "radian" else 1.0
    coords = {
        "clat": (("ncells",), lat * scale, {"standard_name": "latitude", "units": unit}),
        "clon": (("ncells",), lon * scale, {"standard_name": "longitude", "units": unit}),
    }
    return xr.Dataset({"tas": (("ncells",), NESTED[cells], attrs or {})}, coords)


@pytest.mark.parametrize(
    "dataset",
    [
        cells(192, dim="n", crs=CF).drop_vars("tas").assign(tas=(("n",), NESTED[SHUFFLED], {"grid_mapping": "crs"}))
        .assign_coords(i=(("n",), SHUFFLED, {"standard_name": "healpix_index"})),  # CF, auxiliary
        cells(192, dim="n", crs=CF).drop_vars("tas").assign(tas=(("n",), NESTED[SHUFFLED], {"grid_mapping": "crs"}))
        .assign_coords(n=(("n",), SHUFFLED)),  # a dimension coordinate without attributes
        numbered(SHUFFLED, XDGGS, NESTED[SHUFFLED]),
        numbered(np.arange(192), XDGGS, NESTED),
        numbered(SHUFFLED, XDGGS | {"indexing_scheme": "ring"}, NESTED[RING][SHUFFLED]),
        numbered(SHUFFLED, {"grid_name": "healpix", "refinement_level": 2, "nest": True}, NESTED[SHUFFLED]),
        numbered(SHUFFLED, {}, NESTED[SHUFFLED], "ids").assign_attrs(dggs=DGGS | {"coordinate": "ids"}),
        xr.Dataset({"tas": (("n",), NESTED)}, attrs={"dggs": DGGS}),
        xr.Dataset({"tas": (("n",), NESTED[RING], {"dggs": json.dumps(DGGS | {"indexing_scheme": "ring"})})}),
        placed(SHUFFLED),  # nothing but the places
        placed(SHUFFLED, "radian"),  # as ICON writes them
        placed(np.arange(192), attrs={"healpix_nside": 4, "healpix_order": "nested"}),
        placed(RING, attrs={"healpix_nside": 4, "healpix_order": "ring"}),
        placed(RING, attrs={"healpix_nside": 4}),
    ],
)  # fmt: skip
def test_healpix_cells_are_put_where_their_coordinates_say(dataset: xr.Dataset) -> None:
    found, expected = on_grid(dataset)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", face_orders(3))
@pytest.mark.parametrize("with_places", [False, True])
def test_the_order_of_cells_in_faces_is_found(name: str, with_places: bool) -> None:
    centres = pixel_centres(3)
    orders, dims = face_orders(3)[name], ("face", "height", "width")
    values = smooth(*centres)[orders].reshape(1, 12, 8, 8)
    dataset = xr.Dataset({"tas": (("time", *dims), values)})
    if with_places:
        lat, lon = (centre[orders].reshape(12, 8, 8) for centre in centres)
        dataset = dataset.assign_coords(lat=(dims, lat), lon=(dims, lon))
        dataset["tas"] = dataset["tas"] * 0  # nothing to see in the field
    place = locate(dataset["tas"], dataset)
    assert f"faces in {name} order" in str(place)
    np.testing.assert_array_equal(place.points(orders.reshape(12, 8, 8)), np.arange(768))
    assert place.grid == HealpixGrid(zoom=3, order="nested")


def test_the_faces_of_earth2grid() -> None:
    """Oracle: earth2grid's index arithmetic, by hand for nside 2: HEALPIX_PAD_XY begins at the northern corner."""
    lat, lon = (centre[face_orders(1)["N, clockwise"]].reshape(12, 2, 2) for centre in pixel_centres(1))
    assert (lat[:, 0, 0] == lat.max(axis=(1, 2))).all()  # row 0, column 0 north
    assert (lat[:, 1, 1] == lat.min(axis=(1, 2))).all()
    east = (lon[4:8, 0, 1] - lon[4:8, 1, 0] + 180) % 360 - 180  # clockwise from above: columns run eastward
    assert (east > 0).all()


def two_d(lat: np.ndarray = LAT, lon: np.ndarray = LON, dims: tuple[str, str] = ("y", "x")) -> xr.Dataset:
    """A data set with `tas` and the latitude and longitude of each of its points."""
    lat_2d, lon_2d = np.meshgrid(lat, lon, indexing="ij")
    return xr.Dataset({"tas": (dims, smooth(lat_2d, lon_2d))}, {"nav_lat": (dims, lat_2d), "nav_lon": (dims, lon_2d)})


@pytest.mark.parametrize(
    "dataset",
    [
        two_d(),
        two_d().transpose("x", "y"),
        two_d(lat=LAT[::-1], lon=(LON + 180) % 360 - 180),
        two_d(lon=LON[::-1]),
        two_d(lon=np.append(LON, 360.0)),
        two_d(lon=np.append(LON, 359.99999)[1:]),  # single precision
        two_d().assign_coords(y=np.arange(37), x=np.arange(72)),  # indices, which are no degrees
        two_d().assign_coords(y=("y", np.arange(37), {"axis": "Y"}), x=("x", np.arange(72), {"axis": "X"})),
        two_d().stack(values=("y", "x")).reset_index("values"),  # one dimension, as GRIB messages
        two_d().stack(values=("x", "y")).reset_index("values"),
        two_d().stack(cell=("y", "x")).reset_index("cell").isel(cell=np.random.default_rng(1).permutation(37 * 72)),
        lat_lon(names=("nlat", "nlon")).drop_vars(["nlat", "nlon"])
        .assign_coords(lat=("nlat", LAT), lon=("nlon", LON)).assign(tas=two_d(dims=("nlat", "nlon"))["tas"]
        .drop_vars(["nav_lat", "nav_lon"])),
        two_d(dims=("lat", "lon")).drop_vars(["nav_lat", "nav_lon"]).assign_coords(
            lat=("lat", np.radians(LAT), {"units": "radians", "standard_name": "latitude"}), lon=("lon", LON)),
        two_d(dims=("a", "b")).drop_vars(["nav_lat", "nav_lon"]).assign_coords(
            a=("a", LAT, {"_CoordinateAxisType": "Lat"}), b=("b", LON, {"_CoordinateAxisType": "Lon"})),
    ],
)  # fmt: skip
def test_lat_lon_points_are_put_where_their_coordinates_say(dataset: xr.Dataset) -> None:
    found, expected = on_grid(dataset)
    assert found.size == 37 * 72
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6)


RING_ATTRS = {"healpix_nside": 4, "healpix_order": "ring"}


@pytest.mark.parametrize(
    ("dataset", "sentence"),
    [
        (
            placed(RING, attrs=RING_ATTRS | {"healpix_order": "nested"}),
            "tell ring order, but healpix_order of tas says n",
        ),
        (placed(np.arange(192), attrs=RING_ATTRS), "tell nested order, but healpix_order of tas says ring"),
        (placed(SHUFFLED, attrs=RING_ATTRS), "tell another order or other places, but healpix_order of tas says ring"),
        (
            cells(192, attrs={"healpix_order": "ring"}).assign_attrs(healpix_nside=4, healpix_order="nested"),
            r"contradictory: nested \(healpix_order of the file\) and ring \(healpix_order of tas\)",
        ),
        (numbered(SHUFFLED[:100], XDGGS, NESTED[:100]), "has 100 cells along .*, expected 192 cells for zoom 2"),
        (numbered(SHUFFLED + 1, XDGGS, NESTED), "run from 1 to 192, expected each of 0 to 191 once"),
        (numbered(SHUFFLED // 2, XDGGS, NESTED), "run from 0 to 95, expected each of 0 to 191 once"),
        (numbered(SHUFFLED, {"grid_name": "h3", "level": 2}, NESTED), "on a 'h3' grid, expected lat-lon or HEALPix"),
        (
            xr.Dataset({"tas": (("n",), NESTED)}, attrs={"dggs": DGGS | {"coordinate": "ids"}}),
            "should be in 'ids', which is not there",
        ),
        (
            xr.Dataset({"tas": (("n",), NESTED)}, attrs={"dggs": DGGS | {"compression": "ranges"}}),
            "are compressed .'ranges'., expected one number for each cell",
        ),
        (xr.Dataset({"tas": (("face", "y", "x"), np.zeros((12, 8, 8)))}), "does not say their order in a face"),
        (
            two_d(dims=("lat", "lon")).assign_coords(lat=LAT[::-1], lon=LON),
            "the axes lat and lon of tas and the latitudes and longitudes of its points contradict each other",
        ),
    ],
)
def test_contradictions_are_refused(dataset: xr.Dataset, sentence: str) -> None:
    with pytest.raises(DataError, match=sentence):
        find_grid(dataset["tas"], dataset)


def test_is_same() -> None:
    grid = LatLonGrid(lat_deg=LAT, lon_deg=LON)
    assert is_same(grid, LatLonGrid(lat_deg=LAT.copy(), lon_deg=LON.copy()))
    assert not is_same(grid, LatLonGrid(lat_deg=LAT[::-1], lon_deg=LON))
    assert not is_same(grid, HealpixGrid(zoom=1, order="ring"))
    assert is_same(HealpixGrid(zoom=1, order="ring"), HealpixGrid(zoom=1, order="ring"))
