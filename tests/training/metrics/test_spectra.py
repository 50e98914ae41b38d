"""Spectra against single spherical harmonics, autocorrelations against closed forms."""

import numpy as np
import pytest
from scipy.special import sph_harm_y

from fsae.runtime.sphere.healpix import npix, pixel_centres
from fsae.training.metrics.spectra import autocorrelation, power_spectrum, share_within


def harmonic(zoom: int, degree: int, order: int) -> np.ndarray:
    """sqrt(2) times the real part of Y_lm (order > 0) at the nested pixel centres: SciPy's, not healpy's."""
    lat, lon = (np.radians(angle) for angle in pixel_centres(zoom))
    return np.sqrt(2) * sph_harm_y(degree, order, np.pi / 2 - lat, lon).real


@pytest.mark.parametrize(("degree", "order"), [(2, 1), (7, 3), (20, 20)])
def test_a_single_harmonic_has_its_power_at_its_degree(degree: int, order: int) -> None:
    # oracle: the real field sqrt(2) Re Y_lm has two coefficients of modulus 1/sqrt(2), so C_l = 1 / (2 l + 1)
    expected = np.zeros(25)
    expected[degree] = 1 / (2 * degree + 1)
    found = power_spectrum(np.stack([harmonic(4, degree, order)] * 2), 24)
    np.testing.assert_allclose(found, expected, atol=1e-5 / (2 * degree + 1))  # quadrature after three iterations


def test_power_adds_up_to_the_mean_square_and_averages_over_fields() -> None:
    # oracle: Parseval, mean square = sum of (2 l + 1) C_l / (4 pi), for fields without power above lmax
    fields = np.stack([3 * harmonic(4, 5, 2) + harmonic(4, 9, 4) + 2, harmonic(4, 3, 3)])[:, None]
    power = power_spectrum(fields, 16)
    total = np.sum((2 * np.arange(17) + 1) * power) / (4 * np.pi)
    assert total == pytest.approx(float(np.mean(fields**2)), rel=1e-4)
    assert power[9] == pytest.approx(0.5 / 19, rel=1e-4)


def test_the_order_of_pixels_matters() -> None:
    # oracle: the same numbers in ring order are another field, with other power
    field = np.empty(npix(4))
    field[:] = harmonic(4, 4, 2)
    assert power_spectrum(field, 8)[4] == pytest.approx(1 / 9, rel=1e-4)
    assert power_spectrum(np.roll(field, npix(4) // 3), 8)[4] < 0.9 / 9


def test_autocorrelation_of_a_wave_and_of_many_series() -> None:
    # oracle: over whole periods the covariance at lag k is (1 - k / n) cos(2 pi k / p), up to the missing terms
    count, period = 1200, 12
    wave = 5 + np.cos(2 * np.pi * np.arange(count) / period)
    expected = np.cos(2 * np.pi * np.arange(1, 7) / period)
    np.testing.assert_allclose(autocorrelation(wave, 6), expected, atol=7 / count)
    both = autocorrelation(np.stack([wave, np.where(np.arange(count) % 2, 1.0, -1.0)]), 2)
    np.testing.assert_allclose(both[1], [-1 + 1 / count, 1 - 2 / count], rtol=1e-12)


def test_share_counts_degrees_on_both_sides() -> None:
    assert share_within(np.array([0.74, 0.76, 1.0, 1.24, 1.26]), 0.25) == pytest.approx(0.6)
