"""Baselines against closed forms and processes whose parameters are known."""

import healpy
import numpy as np
import pytest

from fsae.runtime.errors import DataError
from fsae.runtime.sphere.healpix import npix, pixel_centres
from fsae.training.metrics import baselines

RNG_SEED = 11


def test_bilinear_is_a_weighted_mean_and_follows_a_smooth_field() -> None:
    # oracle: weights add up to one; sin(latitude) at the centres, interpolated with an error of second order
    assert np.abs(baselines.bilinear(np.full((2, npix(2)), 7.5), 4) - 7.5).max() < 1e-5
    errors = []
    for zoom in (2, 3):
        coarse, fine = (np.sin(np.radians(pixel_centres(z)[0])) for z in (zoom, zoom + 2))
        error = baselines.bilinear(coarse, zoom + 2) - fine
        errors.append(np.sqrt(np.mean(error**2)))
    assert errors[0] < 0.02
    assert errors[1] < errors[0] / 3
    # oracle: healpy's own interpolation of the same field at the same points
    coarse = np.random.default_rng(RNG_SEED).normal(size=npix(1))
    lat, lon = pixel_centres(3)
    expected = healpy.get_interp_val(coarse, lon, lat, nest=True, lonlat=True)
    np.testing.assert_allclose(baselines.bilinear(coarse, 3), expected, atol=1e-6)  # float32


def test_ridge_is_the_primal_solution() -> None:
    # oracle: (X'X + p I)^-1 X'Y, the textbook form
    rng = np.random.default_rng(RNG_SEED)
    x, y = rng.normal(size=(40, 6)), rng.normal(size=(40, 3))
    penalty = 0.3
    absolute = penalty * np.trace(x @ x.T) / 40
    expected = x @ np.linalg.solve(x.T @ x + absolute * np.eye(6), x.T @ y)
    fitted = baselines.fit_ridge(x, y, [penalty])
    np.testing.assert_allclose(fitted.predict(x), expected, atol=2e-6)


def test_cross_validation_trusts_a_law_and_distrusts_noise() -> None:
    rng = np.random.default_rng(RNG_SEED)
    x = rng.normal(size=(120, 30))
    law = baselines.fit_ridge(x, x @ rng.normal(size=(30, 50)))
    noise = baselines.fit_ridge(x, rng.normal(size=(120, 50)))
    unit = np.mean(np.sum(x**2, axis=1))
    assert law.alpha_ == pytest.approx(min(baselines.PENALTIES) * unit)
    assert noise.alpha_ == pytest.approx(max(baselines.PENALTIES) * unit)


def test_eofs_of_a_rank_two_field_rebuild_it() -> None:
    # oracle: two modes hold everything; one leaves the second singular value
    rng = np.random.default_rng(RNG_SEED)
    left = np.linalg.qr(rng.normal(size=(24, 2)))[0]
    right = np.linalg.qr(rng.normal(size=(96, 2)))[0]
    fields = (left * [8.0, 3.0]) @ right.T
    eofs = baselines.fit_eofs(fields, np.arange(24.0))
    assert eofs.patterns.shape == (2, 96)
    np.testing.assert_allclose(baselines.truncate(eofs, fields, 2), fields, atol=1e-5)
    assert np.linalg.norm(fields - baselines.truncate(eofs, fields, 1)) == pytest.approx(3.0, rel=1e-5)
    np.testing.assert_allclose(np.sqrt(np.sum(eofs.coefficients**2, axis=0)), [8.0, 3.0], rtol=1e-9)


def test_gaussian_generator_has_the_training_variance_and_no_memory() -> None:
    # oracle: the training covariance, within sampling error of 4000 independent draws (4 standard errors)
    rng = np.random.default_rng(RNG_SEED)
    fields = rng.normal(size=(60, 5)) * [3.0, 1.0, 1.0, 0.5, 0.2]
    drawn = baselines.gaussian_generator(baselines.fit_eofs(fields, np.arange(60.0)), 100, 40, seed=1)
    np.testing.assert_allclose(np.mean(drawn**2, axis=(0, 1)), np.mean(fields**2, axis=0), rtol=4 * np.sqrt(2 / 4000))
    memory = np.mean(drawn[:, 1:] * drawn[:, :-1], axis=(0, 1)) / np.mean(drawn**2, axis=(0, 1))
    assert np.abs(memory).max() < 4 / np.sqrt(3900)


def rotating_process(steps: int) -> np.ndarray:
    """Two coupled coefficients that turn into each other, and a third one with a memory of its own."""
    step = np.array([[0.7, -0.4, 0.0], [0.4, 0.7, 0.0], [0.0, 0.0, 0.5]])
    rng = np.random.default_rng(RNG_SEED)
    states = np.zeros((steps, 3))
    for time in range(1, steps):
        states[time] = step @ states[time - 1] + rng.normal(size=3) * [1.0, 1.0, 0.2]
    return states


def test_linear_inverse_model_has_covariance_and_lagged_covariance_of_the_training_series() -> None:
    # oracle: a stationary first-order process is known by both; they leave the coupling, of opposite signs, visible
    series = rotating_process(3000)
    eofs = baselines.fit_eofs(series, np.arange(3000.0))
    drawn = baselines.linear_inverse_generator(eofs, 200, np.arange(60.0), seed=2, modes=2).astype(np.float64)
    covariance = np.einsum("mti,mtj->ij", drawn, drawn) / (200 * 60)
    lagged = np.einsum("mti,mtj->ij", drawn[:, 1:], drawn[:, :-1]) / (200 * 59)
    # atol: five standard errors of 12,000 correlated draws of variance 3
    np.testing.assert_allclose(covariance, series.T @ series / 3000, atol=0.3)
    np.testing.assert_allclose(lagged, series[1:].T @ series[:-1] / 2999, atol=0.3)
    assert lagged[1, 0] > 0.8
    assert lagged[0, 1] < -0.8
    memory = lagged[2, 2] / covariance[2, 2]
    assert memory == pytest.approx(0.5, abs=0.08)
    assert covariance[2, 2] == pytest.approx(np.mean(series[:, 2] ** 2), rel=0.08)


def test_linear_inverse_model_carries_the_trend_on() -> None:
    # oracle: the line the training series was made from, extended by two spans
    years = np.linspace(1950, 2000, 600)
    pattern = np.array([1.0, 2.0, -1.0])
    series = rotating_process(600) * 0.1 + 0.05 * (years - years.mean())[:, None] * pattern
    later = np.linspace(2040, 2050, 120)
    eofs = baselines.fit_eofs(series, years)
    with_trend = baselines.linear_inverse_generator(eofs, 50, later, seed=3, modes=3, trend=True).mean(axis=(0, 1))
    np.testing.assert_allclose(with_trend, 0.05 * (later.mean() - years.mean()) * pattern, atol=0.15)
    without = baselines.linear_inverse_generator(eofs, 50, later, seed=3, modes=3).mean(axis=(0, 1))
    assert np.abs(without).max() < 1.0


def test_an_autoregression_that_does_not_decay_is_refused() -> None:
    # oracle: lagged covariance (0.9 + 0.9) / 2 over variance (0.81 + 1 + 0.81) / 3 is 1.03
    series = np.array([0.9, 1.0, 0.9])[:, None] * np.array([[1.0, 0.5]])
    with pytest.raises(DataError, match="fewer modes"):
        baselines.linear_inverse_generator(baselines.fit_eofs(series, np.arange(3.0)), 2, np.arange(4.0), seed=0)
