"""Samplers against a Gaussian, whose ideal denoiser and probability flow are known."""

import numpy as np
import pytest

from fsae.runtime.sampler import SAMPLERS, Denoiser, noise_features, noise_levels

STD = 0.7  # of the clean Gaussian


def ideal(state: np.ndarray, sigma: float) -> np.ndarray:
    """E[clean | noisy] of N(0, STD^2) plus noise of standard deviation sigma."""
    return np.asarray(state * (STD**2 / (STD**2 + sigma**2)))


def flow(noise: np.ndarray, start: float, end: float) -> np.ndarray:
    """Closed form of the probability flow from `start` to `end`: x grows as sqrt(STD^2 + sigma^2)."""
    return np.asarray(noise * start * np.sqrt((STD**2 + end**2) / (STD**2 + start**2)))


def error_at(name: str, steps: int) -> float:
    noise = np.random.default_rng(0).normal(size=(1, 50))  # float64, so that rounding does not hide the order
    levels = noise_levels(steps, 0.002, 40.0, 7.0)
    denoiser: Denoiser = ideal  # type: ignore[assignment]  # the same function in float64
    return float(abs(SAMPLERS[name](denoiser, noise, levels) - flow(noise, 40.0, 0.0)).max())  # type: ignore[arg-type]


@pytest.mark.parametrize("name", sorted(SAMPLERS))
def test_second_order(name: str) -> None:  # oracle: closed form of the flow; halving the steps quarters the error
    coarse, fine = error_at(name, 32), error_at(name, 64)
    assert fine < 6e-3  # 0.2 % of the largest of 50 draws
    assert 3.0 < coarse / fine < 5.5


@pytest.mark.parametrize("name", sorted(SAMPLERS))
def test_sampled_spread(name: str) -> None:  # oracle: the Gaussian's own standard deviation
    noise = np.random.default_rng(1).normal(size=(200, 100)).astype(np.float32)
    denoiser: Denoiser = ideal  # type: ignore[assignment]
    drawn = SAMPLERS[name](denoiser, noise, noise_levels(32, 0.02, 40.0, 7.0))
    assert drawn.dtype == np.float32
    np.testing.assert_allclose(drawn.std(), STD, rtol=0.02)  # chance: 1 / sqrt(2 * 20000) = 0.5 %; 32 steps: 0.9 %


def test_noise_levels() -> None:  # oracle: Karras et al. 2022, eq. 5 by hand for rho = 2
    np.testing.assert_allclose(noise_levels(3, 1.0, 9.0, 2.0), [9, 4, 1, 0])
    np.testing.assert_allclose(noise_levels(1, 1.0, 9.0, 2.0), [9, 0])


def test_noise_features_are_the_documented_formula() -> None:  # oracle: the formula by hand
    features = noise_features(np.array([np.exp(2.0)]))
    np.testing.assert_allclose(features[0, [0, 2, 8]], [np.cos(0.5), np.cos(1.0), np.sin(0.5)], rtol=1e-6)
