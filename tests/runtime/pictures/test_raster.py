"""Fields as pictures: what stands where, and coastlines beside known capes."""

import numpy as np
import pytest

from fsae.runtime.pictures.coastlines import FILE, all_projected, coastlines, projected
from fsae.runtime.pictures.projections import KINDS, make_projection
from fsae.runtime.pictures.raster import drawn, nearest_cells
from fsae.runtime.sphere.grids import Grid, HealpixGrid, LatLonGrid, regular_grid
from fsae.runtime.sphere.healpix import pixel_centres, ring_to_nested

GRIDS: dict[str, Grid] = {
    "nested": HealpixGrid(zoom=6, order="nested"),
    "ring": HealpixGrid(zoom=6, order="ring"),
    "lat-lon": regular_grid("181x360"),
    "south first, westward from 100": LatLonGrid(
        lat_deg=np.linspace(89.5, -89.5, 180)[::-1], lon_deg=(100 - np.arange(360.0)) % 360
    ),
}
CELL_DEG = 1.0  # no point is further from the centre of its cell


def points_of(grid: Grid) -> tuple[np.ndarray, np.ndarray]:
    """Latitude and longitude of each point of a grid, flattened."""
    if isinstance(grid, LatLonGrid):
        lat, lon = np.meshgrid(grid.lat_deg, grid.lon_deg, indexing="ij")
        return lat.ravel(), lon.ravel()
    lat, lon = pixel_centres(grid.zoom)
    order = np.argsort(ring_to_nested(grid.zoom)) if grid.order == "ring" else slice(None)
    return lat[order], lon[order]


@pytest.mark.parametrize("name", GRIDS)
def test_each_point_is_in_its_own_cell(name: str) -> None:  # oracle: the numbers of the points
    lat, lon = points_of(GRIDS[name])
    off = lon + np.where(np.abs(lat) < 80, 0.2, 0.0)
    np.testing.assert_array_equal(nearest_cells(GRIDS[name], np.clip(lat, -89.99, 89.99), off), np.arange(lat.size))


@pytest.mark.parametrize("name", GRIDS)
def test_places_of_a_picture_show_their_values(name: str) -> None:  # oracle: sine of the latitude, closed form
    lat, lon = points_of(GRIDS[name])
    steepest = np.radians(CELL_DEG)

    plate = drawn(np.sin(np.radians(lat)), GRIDS[name], make_projection("plate-carree", "77"), 180)
    rows = np.radians(90 - 2 * (np.arange(90) + 0.5))
    np.testing.assert_allclose(plate, np.broadcast_to(np.sin(rows)[:, None], (90, 180)), atol=steepest)

    globe = drawn(np.sin(np.radians(lat)), GRIDS[name], make_projection("orthographic", "30,40"), 401)
    assert globe.shape == (401, 401)
    assert np.isnan(globe[[0, 0, -1, -1], [0, -1, 0, -1]]).all()
    assert globe[200, 200] == pytest.approx(np.sin(np.radians(40)), abs=steepest)
    north = 200 - round(200.5 * np.cos(np.radians(40)))
    assert globe[north, 200] == pytest.approx(1, abs=steepest)

    robinson = drawn(np.cos(np.radians(lon)), GRIDS[name], make_projection("robinson"), 401)
    middle = robinson[robinson.shape[0] // 2]
    np.testing.assert_allclose(middle, np.cos(np.pi * (2 * np.arange(401) + 1 - 401) / 401), atol=2 * steepest)


def test_missing_values_stay_missing() -> None:  # oracle: a hemisphere without values
    grid = regular_grid("36x72")
    lat, _ = points_of(grid)
    picture = drawn(np.where(lat > 0, np.nan, 1.0), grid, make_projection("plate-carree"), 72)
    assert np.isnan(picture[:18]).all()
    assert (picture[18:] == 1).all()


CAPES = {
    "Agulhas": (-34.83, 20.0),
    "Horn": (-55.98, -67.27),
    "Comorin": (8.08, 77.55),
    "North Cape": (71.17, 25.78),
    "Finisterre": (42.88, -9.27),
    "Verde": (14.74, -17.5),
    "South East Cape": (-43.64, 146.83),
    "Sao Roque": (-5.48, -35.26),
    "San Lucas": (22.88, -109.91),
    "Baku": (40.35, 50.0),
}


def test_coastlines_pass_known_capes() -> None:  # oracle: their places in a gazetteer
    lat, lon = (np.concatenate(part) for part in zip(*coastlines(), strict=True))
    assert FILE.stat().st_size <= 150_000
    assert np.abs(lat).max() <= 90
    for name, (cape_lat, cape_lon) in CAPES.items():
        near = np.hypot(lat - cape_lat, (lon - cape_lon) * np.cos(np.radians(cape_lat)))
        assert near.min() < 0.6, name


@pytest.mark.parametrize("name", KINDS)
def test_no_line_crosses_the_map(name: str) -> None:  # oracle: steps along a coast are short
    projection = make_projection(name, "150")
    x, y = all_projected(coastlines(), projection)
    assert np.nanmax(np.hypot(np.diff(x), np.diff(y))) < 0.2
    around = projected(np.zeros(721), np.linspace(-180, 180, 721), projection)  # the equator
    assert np.nanmax(np.hypot(*np.diff(around, axis=1))) < 0.02
