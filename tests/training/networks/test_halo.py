"""Tables of the field-space layers, healpy being the oracle."""

import healpy
import numpy as np
import pytest

from fsae.runtime.sphere.healpix import npix, pixel_centres
from fsae.training.networks.halo import halo_size, halo_table, spherical_harmonics

PAIRS = [(0, 0), (3, 0), (4, 2), (3, 3), (5, 3)]


@pytest.mark.parametrize(("zoom", "token_zoom"), PAIRS)
def test_ring_is_the_set_of_outer_neighbours(zoom: int, token_zoom: int) -> None:  # oracle: healpy's neighbours
    table = halo_table(zoom, token_zoom)
    inside = 4 ** (zoom - token_zoom)
    assert table.dtype == np.int32
    assert table.shape == (npix(token_zoom), halo_size(zoom, token_zoom))
    lacking = 0
    for cell, ring in enumerate(table):
        own = np.arange(cell * inside, (cell + 1) * inside)
        neighbours = healpy.get_all_neighbours(1 << zoom, own, nest=True)
        expected = set(neighbours[neighbours >= 0]) - set(own)
        assert set(ring) - (set(own) if inside == 1 else set()) == expected
        lacking += len(ring) - len(expected)
    # 8 points of the sphere have three base pixels, and so three cells, around them instead of four
    if zoom > 0:
        assert lacking == 24


def test_ring_turns_counter_clockwise_from_the_south_west() -> None:  # oracle: geometry at the equator
    zoom, token_zoom = 5, 3
    lat, lon = pixel_centres(zoom)
    cell_lat, cell_lon = pixel_centres(token_zoom)
    cell = int(np.argmin(abs(cell_lat) + abs(cell_lon - 200)))
    ring = halo_table(zoom, token_zoom)[cell]
    angle = np.degrees(np.arctan2(lat[ring] - cell_lat[cell], lon[ring] - cell_lon[cell])) % 360
    turned = (angle - angle[0]) % 360
    assert 180 < angle[0] < 270
    assert (np.diff(turned) > 0).all()


def test_harmonics_are_orthonormal() -> None:  # oracle: orthogonality over the sphere, to the pixels' quadrature
    basis = spherical_harmonics(4, 25).astype(np.float64)
    np.testing.assert_allclose(basis.T @ basis / npix(4), np.eye(25), atol=0.01)
    lat = np.radians(pixel_centres(4)[0])
    np.testing.assert_allclose(basis[:, 2], np.sqrt(3) * np.sin(lat), atol=1e-3)  # l = 1, m = 0
