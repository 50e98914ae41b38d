"""HEALPix arithmetic against healpy."""

import healpy
import numpy as np
import pytest

from fsae.runtime.errors import DataError
from fsae.runtime.sphere.healpix import (
    coarsen,
    npix,
    pixel_centres,
    pixel_of,
    refine,
    ring_to_nested,
    zoom_of,
)


@pytest.mark.parametrize("zoom", range(8))
def test_pixel_centres(zoom: int) -> None:  # oracle: healpy
    lon, lat = healpy.pix2ang(1 << zoom, np.arange(npix(zoom)), nest=True, lonlat=True)
    found_lat, found_lon = pixel_centres(zoom)
    np.testing.assert_allclose(found_lat, lat, rtol=0, atol=1e-10)  # the arc sine loses a few digits towards the poles
    np.testing.assert_allclose(found_lon, lon, rtol=0, atol=1e-11)
    assert 0 <= found_lon.min() <= found_lon.max() < 360


@pytest.mark.parametrize("zoom", range(8))
def test_ring_order(zoom: int) -> None:  # oracle: healpy
    np.testing.assert_array_equal(ring_to_nested(zoom), healpy.nest2ring(1 << zoom, np.arange(npix(zoom))))


@pytest.mark.parametrize("zoom", [0, 1, 3, 5, 9])
def test_pixel_of_points(zoom: int) -> None:  # oracle: healpy
    random = np.random.default_rng(zoom)
    lat = np.degrees(np.arcsin(random.uniform(-1, 1, 50_000)))
    lon = random.uniform(-360, 720, lat.size)
    lat[:4] = [90, -90, 89.999999, -89.999999]
    np.testing.assert_array_equal(pixel_of(zoom, lat, lon), healpy.ang2pix(1 << zoom, lon, lat, nest=True, lonlat=True))
    np.testing.assert_array_equal(pixel_of(zoom, *pixel_centres(zoom)), np.arange(npix(zoom)))


def test_coarsen_is_the_mean_of_the_children() -> None:  # oracle: healpy.ud_grade; closed form for refine
    field = np.random.default_rng(0).normal(size=npix(4))
    coarse = healpy.ud_grade(field, 4, order_in="NESTED", order_out="NESTED")
    np.testing.assert_allclose(coarsen(field, 2), coarse, rtol=0, atol=1e-14)  # order of the sum
    np.testing.assert_array_equal(coarsen(refine(field, 2), 2), field)


def test_sizes() -> None:
    assert [zoom_of(npix(zoom)) for zoom in range(10)] == list(range(10))
    with pytest.raises(DataError, match="found 100 cells, expected a whole HEALPix sphere"):
        zoom_of(100)
    with pytest.raises(DataError, match="cannot coarsen 12 cells"):
        coarsen(np.zeros(12))
