"""Deterministic samplers of the EDM probability flow (Karras et al. 2022, "EDM") over any denoiser.

A denoiser takes (noisy, sigma) with the state (batch, ...) in float32 and one noise level, and gives the expected clean
state. The loop runs in NumPy on the host: the graph holds one denoising step.
"""

from collections.abc import Callable
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from fsae.runtime.arrays import F32

Denoiser = Callable[[F32, float], F32]
NOISE_FEATURES = 16


def noise_features(sigma: NDArray[np.floating]) -> NDArray[np.float32]:
    """Fourier features of ln(sigma): (batch,) -> (batch, 16), eight cosines, then eight sines.

    Feature i is the cosine or sine of 2**(i / 2) / 4 * ln(sigma), i = 0 ... 7: ln(sigma) spans about -7 ... 5, so the
    slowest turns once over the whole range and the fastest separates levels 20 % apart.

    >>> noise_features(np.array([1.0]))[0, :8].tolist()
    [1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0]
    """
    frequencies = 0.25 * 2.0 ** (np.arange(NOISE_FEATURES // 2) / 2)
    angle = np.log(np.asarray(sigma, dtype=np.float64))[:, None] * frequencies
    return np.concatenate([np.cos(angle), np.sin(angle)], axis=1).astype(np.float32)


def noise_levels(steps: int, sigma_min: float, sigma_max: float, rho: float) -> NDArray[np.float64]:
    """Falling noise levels, `steps` of them and a final zero (EDM eq. 5).

    >>> noise_levels(3, 1.0, 9.0, 2.0).tolist()
    [9.0, 4.0, 1.0, 0.0]
    """
    ramp = np.linspace(0, 1, steps) if steps > 1 else np.zeros(1)
    levels = (sigma_max ** (1 / rho) + ramp * (sigma_min ** (1 / rho) - sigma_max ** (1 / rho))) ** rho
    return np.append(levels, 0.0)


def euler(denoise: Denoiser, noise: F32, levels: NDArray[np.float64]) -> F32:
    """Clean state by Euler's method (DDIM, Song et al. 2021, eq. 13): first order, one call a step.

    The sampler of a distilled denoiser, which learned to go in each of these steps as far as in many.
    """
    state = noise * np.float32(levels[0])
    for now, after in pairwise(levels):
        ratio = np.float32(after / now)
        state = ratio * state + (1 - ratio) * denoise(state, float(now))
    return state


def heun(denoise: Denoiser, noise: F32, levels: NDArray[np.float64]) -> F32:
    """Clean state from unit `noise` by Heun's method (EDM algorithm 1): second order, two calls a step but the last."""
    state = noise * np.float32(levels[0])
    for now, after in pairwise(levels):
        slope = (state - denoise(state, float(now))) / np.float32(now)
        trial = state + np.float32(after - now) * slope
        if after > 0:
            slope = (slope + (trial - denoise(trial, float(after))) / np.float32(after)) / 2
            trial = state + np.float32(after - now) * slope
        state = trial
    return state


def dpm_solver_2m(denoise: Denoiser, noise: F32, levels: NDArray[np.float64]) -> F32:
    """Clean state by DPM-Solver++(2M) (Lu et al. 2022, algorithm 2): second order, one call a step.

    With alpha = 1 and lambda = -ln(sigma) a step of h is x <- (s'/s) x - (e^-h - 1) D, where D extrapolates the
    last two denoised states; the first step and the last one, to zero noise, use the newest alone.
    """
    state = noise * np.float32(levels[0])
    older, older_step = None, 0.0
    for now, after in pairwise(levels):
        newest = denoise(state, float(now))
        if after == 0:
            return newest
        step = float(np.log(now / after))
        target = newest
        if older is not None:
            target = newest + np.float32(step / (2 * older_step)) * (newest - older)
        ratio = np.float32(after / now)
        state = ratio * state + (1 - ratio) * target
        older, older_step = newest, step
    return state


SAMPLERS = {"dpm2m": dpm_solver_2m, "euler": euler, "heun": heun}


def denoiser_calls(name: str, steps: int) -> int:
    """Calls of the denoiser that a sampler makes for a window.

    >>> denoiser_calls("heun", 8), denoiser_calls("dpm2m", 8)
    (15, 8)
    """
    return 2 * steps - 1 if name == "heun" else steps
