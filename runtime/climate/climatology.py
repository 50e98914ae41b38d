"""Harmonic climatology: per pixel a mean and K pairs of cosine and sine of the phase of the year.

mu(p, phi) = c0 + sum over k of a_k cos(2 pi k phi) + b_k sin(2 pi k phi), coefficients in the order of `season` with
the mean first: (variable, 1 + 2K, pixel). Anomalies are divided by one number per variable, never one per pixel, so
that cell means stay cell means.
"""

import numpy as np

from fsae.runtime.arrays import F32, F64, Floating
from fsae.runtime.errors import DataError

from .steps import MOST_HARMONICS

# Beyond this a fit amplifies noise: even coverage of the year gives 1.4, six harmonics from monthly means give 49.
MAX_CONDITION = 30.0
BLOCK = 64  # time steps worked on at once, in float64


def season(phase: Floating, harmonics: int) -> F32:
    """Season features (..., 2K) of phases (...): cosine and sine of 2 pi k phase side by side, k = 1 ... K.

    >>> season(np.array([0.25]), 2).round(6).tolist() == [[0.0, 1.0, -1.0, 0.0]]
    True
    """
    return _waves(phase, harmonics).astype(np.float32)


def _waves(phase: Floating, harmonics: int) -> F64:
    angle = 2 * np.pi * np.asarray(phase, dtype=np.float64)[..., None] * np.arange(1, harmonics + 1)
    waves: F64 = np.stack([np.cos(angle), np.sin(angle)], axis=-1)  # (..., k, 2)
    return waves.reshape(*angle.shape[:-1], 2 * harmonics)


def projection(phase: Floating, harmonics: int) -> F64:
    """The matrix (1 + 2K, time) that maps fields to their least-squares coefficients.

    The fit is linear, so long series can be fitted in parts: the sum of `projection[:, part] @ fields[part]`.
    """
    phase = np.asarray(phase, dtype=np.float64)
    if not 0 <= harmonics <= MOST_HARMONICS:
        raise DataError(f"found {harmonics} harmonics", f"0 to {MOST_HARMONICS}", "give fewer")
    design = np.concatenate([np.ones((phase.size, 1)), _waves(phase, harmonics)], axis=1)  # (time, 1 + 2K)
    few = phase.size < design.shape[1]
    if few or np.linalg.cond(design) > MAX_CONDITION:
        phases = np.unique(np.round(phase % 1.0, 2)).size
        raise DataError(
            f"found {phase.size} steps at about {phases} times of the year, too few for {harmonics} harmonics "
            f"({design.shape[1]} coefficients)",
            advice="take fewer harmonics (at most 5 for monthly data) or more data",
        )
    solver: F64 = np.linalg.pinv(design)
    return solver


def affordable_harmonics(phase: Floating, members: int, wanted: int) -> int:
    """The number of harmonics, at most `wanted`, that steps at `phase` of that many members determine.

    There are fewer coefficients than times of the year, and at most half as many as fields.
    """
    coefficients = min(np.unique(np.round(phase % 1.0, 2)).size - 1, members * len(phase) // 2)
    for harmonics in range(min(wanted, (coefficients - 1) // 2), 0, -1):
        try:
            projection(phase, harmonics)
        except DataError:
            continue
        return harmonics
    projection(phase, 0)
    return 0


def fit(fields: Floating, phase: Floating, harmonics: int) -> F32:
    """Coefficients (variable, 1 + 2K, pixel) of physical fields (time, variable, pixel) by least squares in float64.

    DataError if values are missing or infinite, or if the steps do not cover the year well enough for K.
    """
    if fields.ndim != 3 or len(fields) != len(phase):
        raise DataError(
            f"found fields of shape {fields.shape} and {len(phase)} phases",
            "(time, variable, pixel)",
            "give one phase of the year for each step",
        )
    solver = projection(phase, harmonics)
    total = np.zeros((solver.shape[0], *fields.shape[1:]))  # (coefficient, variable, pixel)
    for first in range(0, len(fields), BLOCK):
        part = fields[first : first + BLOCK].astype(np.float64)
        total += np.tensordot(solver[:, first : first + BLOCK], part, axes=1)
    bad = int(np.count_nonzero(~np.isfinite(total[0])))
    if bad:
        raise DataError(
            f"found missing or infinite values in {bad} pixels",
            "none in a climatology's fields",
            "fill them, or leave out these steps",
        )
    return np.ascontiguousarray(total.transpose(1, 0, 2), dtype=np.float32)


def evaluate(climatology: Floating, features: Floating) -> F32:
    """Climatology fields (..., variable, pixel) of season features (..., 2K), in the units of the coefficients.

    >>> evaluate(np.array([[[280.0], [10.0], [0.0]]]), season(np.array([0.5]), 1)).tolist()
    [[[270.0]]]
    """
    if features.shape[-1] + 1 != climatology.shape[1]:
        raise DataError(
            f"found {features.shape[-1]} season features",
            f"{climatology.shape[1] - 1} for this climatology",
            "compute them with the harmonics of the climatology",
        )
    coefficients = climatology.astype(np.float32)
    waves = np.einsum("...k,vkp->...vp", features.astype(np.float32), coefficients[:, 1:], optimize=True)
    return np.asarray(coefficients[:, 0] + waves, dtype=np.float32)
