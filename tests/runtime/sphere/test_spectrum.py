"""Angular power: single harmonics in closed form, and the estimate of healpy."""

import healpy
import numpy as np
import pytest
from scipy.special import sph_harm_y

from fsae.runtime.sphere.grids import Grid, HealpixGrid, LatLonGrid, regular_grid
from fsae.runtime.sphere.healpix import npix, pixel_centres, ring_to_nested
from fsae.runtime.sphere.spectrum import largest_degree, legendre, power_spectrum

AMPLITUDE, MEAN = 3.0, 280.0
GRIDS: dict[str, Grid] = {
    "nested": HealpixGrid(zoom=4, order="nested"),
    "ring": HealpixGrid(zoom=4, order="ring"),
    "lat-lon": regular_grid("73x144"),
    "no poles, south first": regular_grid("48x96"),
    "westward": LatLonGrid(lat_deg=np.linspace(90, -90, 73), lon_deg=(180 - np.arange(144) * 2.5) % 360),
}


def points_of(grid: Grid) -> tuple[np.ndarray, np.ndarray]:
    """Colatitude and longitude [rad] of each point."""
    if isinstance(grid, LatLonGrid):
        lat, lon = np.meshgrid(grid.lat_deg, grid.lon_deg, indexing="ij")
    else:
        lat, lon = pixel_centres(grid.zoom)
        if grid.order == "ring":
            order = np.argsort(ring_to_nested(grid.zoom))
            lat, lon = lat[order], lon[order]
    return np.pi / 2 - np.radians(lat).ravel(), np.radians(lon).ravel()


@pytest.mark.parametrize("name", GRIDS)
@pytest.mark.parametrize(("degree", "order"), [(1, 0), (2, 2), (9, 4), (20, 13), (24, 24)])
def test_one_harmonic_has_power_at_its_degree(name: str, degree: int, order: int) -> None:
    # oracle: a Re Y_lm has |a_lm|**2 = a**2 / 4 at m and -m, or a**2 at m = 0
    grid = GRIDS[name]
    colatitude, lon = points_of(grid)
    field = MEAN + AMPLITUDE * sph_harm_y(degree, order, colatitude, lon).real
    (power,) = power_spectrum(field[None], grid)
    expected = AMPLITUDE**2 * (0.5 if order else 1.0) / (2 * degree + 1)
    assert power[1:].argmax() + 1 == degree
    assert power[degree] == pytest.approx(expected, rel=1e-5)
    assert np.delete(power, [0, degree]).max() < 1e-9 * expected
    assert power[0] == pytest.approx(4 * np.pi * MEAN**2, rel=1e-6)


def test_the_power_is_that_of_healpy() -> None:  # oracle: healpy.anafast, an independent implementation
    fields = np.random.default_rng(2).normal(size=(2, npix(4)))
    fields -= fields.mean(axis=1, keepdims=True)
    grid = HealpixGrid(zoom=4, order="ring")
    expected = [healpy.anafast(field, lmax=largest_degree(grid), pol=False) for field in fields]
    np.testing.assert_allclose(power_spectrum(fields, grid)[:, 1:], np.array(expected)[:, 1:], rtol=1e-9)


def test_legendre_functions_stay_normal_at_high_degrees() -> None:
    # oracle: the addition theorem, sum over m of |Y_lm|**2 = (2l + 1) / (4 pi)
    sine = np.sin(np.radians([-89.9, -60.0, 0.0, 33.0, 85.0]))
    for degree, functions in enumerate(legendre(sine, 512)):
        if degree in (0, 1, 100, 512):
            total = functions[0] ** 2 + 2 * (functions[1:] ** 2).sum(axis=0)
            np.testing.assert_allclose(total, (2 * degree + 1) / (4 * np.pi), rtol=1e-9)
