"""Samplers against a Gaussian, whose ideal denoiser and probability flow are known."""

import numpy as np
import pytest

from fsae.runtime.diffusion.sampler import SAMPLERS, Denoiser, denoiser_calls, noise_features, noise_levels

STD = 0.7  # of the clean Gaussian
START, END, RHO = 40.0, 0.02, 7.0


def ideal(state: np.ndarray, sigma: float) -> np.ndarray:
    """E[clean | noisy] of N(0, STD^2) plus noise of standard deviation sigma."""
    return np.asarray(state * (STD**2 / (STD**2 + sigma**2)))


def order(name: str, mean: float, std: float) -> float:
    """Slope of log(largest error) against log(steps) at END for a Gaussian, in float64 so that rounding is small.

    The closed form of the flow: x - mean grows as sqrt(std^2 + sigma^2). The step from END to zero, which every
    schedule adds, is left out: it takes the denoised state for the clean one, an error of END^2 / (2 std^2) of the
    anomaly that no number of steps makes smaller.
    """

    def denoise(state: np.ndarray, sigma: float) -> np.ndarray:
        return np.asarray(mean + std**2 / (std**2 + sigma**2) * (state - mean))

    denoiser: Denoiser = denoise  # type: ignore[assignment]  # the same function in float64
    noise = np.random.default_rng(0).normal(size=(1, 50))
    true = mean + (START * noise - mean) * np.sqrt((std**2 + END**2) / (std**2 + START**2))
    counts = np.array([64, 128, 256])
    errors = []
    for count in counts:
        levels = noise_levels(int(count), END, START, RHO)[:-1]
        reached = SAMPLERS[name](denoiser, noise, levels)  # type: ignore[arg-type]
        errors.append(abs(reached - true).max())
    return float(np.polyfit(np.log(counts - 1), np.log(errors), 1)[0])  # counts levels are counts - 1 steps


@pytest.mark.parametrize("std", [0.2, 0.7, 1.0, 5.0])
@pytest.mark.parametrize(("name", "expected"), [("heun", -2), ("dpm2m", -2), ("euler", -1)])
def test_order_of_convergence(name: str, expected: float, std: float) -> None:  # oracle: closed form of the flow
    np.testing.assert_allclose(order(name, 1.5, std), expected, atol=0.15)  # the next order's share at 64 steps


@pytest.mark.parametrize("name", ["dpm2m", "heun"])
def test_last_step_leaves_the_documented_error(name: str) -> None:  # oracle: closed form of flow and denoiser
    noise = np.random.default_rng(0).normal(size=(1, 50))
    denoiser: Denoiser = ideal  # type: ignore[assignment]
    drawn = SAMPLERS[name](denoiser, noise, noise_levels(512, 0.1, START, RHO))  # type: ignore[arg-type]
    exact = noise * START * STD / np.sqrt(STD**2 + START**2)
    np.testing.assert_allclose(drawn / exact, 1 - 0.1**2 / (2 * STD**2), atol=3e-4)  # its next term, 1.6e-4; 512 steps


@pytest.mark.parametrize("name", ["dpm2m", "heun"])
def test_sampled_spread(name: str) -> None:  # oracle: the Gaussian's own standard deviation
    noise = np.random.default_rng(1).normal(size=(200, 100)).astype(np.float32)
    denoiser: Denoiser = ideal  # type: ignore[assignment]
    drawn = SAMPLERS[name](denoiser, noise, noise_levels(32, 0.02, 40.0, 7.0))
    assert drawn.dtype == np.float32
    np.testing.assert_allclose(drawn.std(), STD, rtol=0.02)  # chance: 1 / sqrt(2 * 20000) = 0.5 %; 32 steps: 0.9 %


def test_euler_step_by_hand() -> None:  # oracle: DDIM by hand, from level 4 by way of 1 to zero
    noise = np.full((1, 1), 0.5, dtype=np.float32)
    drawn = SAMPLERS["euler"](lambda state, sigma: state / np.float32(sigma), noise, np.array([4.0, 1.0, 0.0]))
    assert drawn.dtype == np.float32
    np.testing.assert_allclose(drawn, 0.25 * 2 + 0.75 * 0.5, rtol=1e-6)  # from 2, denoised 0.5; the last step keeps D


@pytest.mark.parametrize("name", sorted(SAMPLERS))
@pytest.mark.parametrize("steps", [1, 2, 9])
def test_denoiser_calls(name: str, steps: int) -> None:  # oracle: the calls, counted
    called = []

    def denoise(state: np.ndarray, sigma: float) -> np.ndarray:
        called.append(sigma)
        return state

    SAMPLERS[name](denoise, np.zeros((1, 1), dtype=np.float32), noise_levels(steps, 0.02, 40.0, 7.0))
    assert denoiser_calls(name, steps) == len(called)


def test_noise_levels() -> None:  # oracle: Karras et al. 2022, eq. 5 by hand for rho = 2
    np.testing.assert_allclose(noise_levels(3, 1.0, 9.0, 2.0), [9, 4, 1, 0])
    np.testing.assert_allclose(noise_levels(1, 1.0, 9.0, 2.0), [9, 0])


def test_noise_features_are_the_documented_formula() -> None:  # oracle: the formula by hand
    features = noise_features(np.array([np.exp(2.0)]))
    np.testing.assert_allclose(features[0, [0, 2, 8]], [np.cos(0.5), np.cos(1.0), np.sin(0.5)], rtol=1e-6)
