"""Sharpening of decoded fields against healpy's spectra."""

import healpy
import numpy as np
import torch

from fsae.runtime.sphere.healpix import coarsen, npix
from fsae.training.networks.autoencoder import Autoencoder, AutoencoderConfig
from fsae.training.networks.sharpening import fit_sharpening, fit_transformed, highest_degree, laplacian, power

NSIDE = 8


def fields(seed: int, smoothing_rad: float) -> np.ndarray:
    """Nested random fields (sample, pixel) of a red spectrum, smoothed by a Gaussian of that width."""
    degrees = np.arange(3 * NSIDE)
    beam = np.exp(-0.5 * degrees * (degrees + 1) * smoothing_rad**2)
    np.random.seed(seed)  # noqa: NPY002 - what healpy draws from
    spectrum = beam**2 / (1.0 + degrees) ** 2
    maps = [healpy.synfast(spectrum, NSIDE, lmax=2 * NSIDE) for _ in range(8)]
    return np.stack([healpy.reorder(field, r2n=True) for field in maps])


def test_laplacian_of_a_linear_field_vanishes() -> None:  # oracle: the mean of neighbours of a linear function
    z = healpy.pix2vec(NSIDE, np.arange(npix(3)), nest=True)[2]
    belt = abs(z) < 0.5
    assert abs(laplacian(z)[belt]).max() < 0.02 * abs(laplacian(np.sign(np.sin(40 * z)))).max()
    np.testing.assert_allclose(laplacian(np.full(npix(3), 7.0)), 0, atol=1e-12)


def test_power_of_smoothed_fields_is_restored() -> None:  # oracle: healpy.anafast of the fields before smoothing
    sharp, smooth = fields(1, 0.0), fields(1, 0.05)  # the same seed: the same fields, smoothed
    first, second = fit_sharpening(smooth, sharp)
    restored = smooth + first * laplacian(smooth) + second * laplacian(laplacian(smooth))
    before, after = (power(found, found) / power(sharp, sharp) for found in (smooth, restored))
    assert before.min() < 0.65
    assert abs(after - 1).max() < 0.15
    assert len(after) == highest_degree(npix(3)) - 1


def test_power_of_a_fourth_root_is_restored_as_physical() -> None:
    # oracle: healpy.anafast of the physical fields before their roots were smoothed; and the linear fit
    sharp, smooth = 3 * fields(2, 0.0), 3 * fields(2, 0.05)

    def rain(roots: np.ndarray) -> np.ndarray:
        return np.maximum(roots, 0) ** 4

    def rain_power(roots: np.ndarray) -> np.ndarray:
        away = rain(roots) - rain(roots).mean(axis=0)
        return power(away, away)

    first, second = fit_transformed(smooth, sharp, rain)
    restored = smooth + first * laplacian(smooth) + second * laplacian(laplacian(smooth))
    before, after = (np.median(abs(rain_power(roots) / rain_power(sharp) - 1)) for roots in (smooth, restored))
    assert before > 0.3
    assert after < 0.1
    sharp, smooth = sharp - sharp.mean(axis=0), smooth - smooth.mean(axis=0)
    linear = fit_transformed(smooth, sharp, lambda fields: 2 * fields)
    np.testing.assert_allclose(linear, fit_sharpening(smooth, sharp), rtol=0.02, atol=0.02)


def test_the_graph_sharpens_as_fitted_and_keeps_base_cells() -> None:  # oracle: the NumPy filter, means over base cells
    config = AutoencoderConfig(
        sharpen=True, base_zoom=1, latent_zoom=2, zoom=3, fine_token_zoom=1, coarse_token_zoom=1, depths=(0, 0, 0, 0)
    )
    model = Autoencoder(config, torch.zeros(1, 3, npix(3)), torch.ones(1))
    model.sharpening.copy_(torch.tensor([[0.4, 0.3]]))
    field = np.random.default_rng(0).normal(size=(2, 1, npix(3)))
    once = laplacian(field)
    expected = field + 0.4 * once + 0.3 * laplacian(once)
    expected += np.repeat(coarsen(field - expected, 2), 16, axis=-1)
    found = model.sharpened(torch.from_numpy(field)).numpy()
    np.testing.assert_allclose(found, expected, atol=1e-6)
    np.testing.assert_allclose(coarsen(found, 2), coarsen(field, 2), atol=1e-12)
