"""What a sceptic would try first: block means, interpolation, ridge regression, EOFs, and EOF noise generators.

Everything works on anomalies about the training climatology, in any unit, and is fitted on training years only.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import healpy
import numpy as np
from numpy.typing import NDArray
from scipy import linalg

from fsae.runtime.arrays import F32, F64, Floating
from fsae.runtime.errors import DataError
from fsae.runtime.sphere.healpix import npix, zoom_of

PENALTIES = tuple(float(p) for p in np.logspace(-3.5, 0.5, 9))  # in units of the mean kernel diagonal

FOLDS = 6  # contiguous stretches of years: shuffled months would leak through their autocorrelation


def bilinear(coarse: Floating, zoom: int) -> F32:
    """Fields (..., pixel) on the finer `zoom`, interpolated from the four nearest pixel centres (healpy)."""
    coarse_zoom = zoom_of(coarse.shape[-1])
    lon_deg, lat_deg = healpy.pix2ang(1 << zoom, np.arange(npix(zoom)), nest=True, lonlat=True)
    pixels, weights = healpy.get_interp_weights(1 << coarse_zoom, lon_deg, lat_deg, nest=True, lonlat=True)
    fine = np.zeros((*coarse.shape[:-1], npix(zoom)), dtype=np.float32)
    for corner in range(4):  # one corner at a time: all four at once are a copy of four times the output
        fine += coarse[..., pixels[corner]] * weights[corner].astype(np.float32)
    return fine


@dataclass(frozen=True, kw_only=True)
class Ridge:
    """A fitted ridge regression in its dual form: prediction = (features @ training features') @ dual."""

    features: F64  # (training time, feature)
    dual: F32  # (training time, target)
    penalty: float  # chosen by cross validation, in units of the mean kernel diagonal


def fit_ridge(features: Floating, targets: Floating, penalties: Sequence[float] = PENALTIES) -> Ridge:
    """Ridge regression of targets (time, target) on features (time, feature), without intercept: both are anomalies.

    The penalty is the one of least mean square error in a cross validation over `FOLDS` contiguous parts of the
    training time (Hoerl and Kennard 1970; dual form: Saunders et al. 1998).
    """
    x = features.astype(np.float64)
    y = targets.astype(np.float32)
    kernel = x @ x.T
    unit = float(np.trace(kernel)) / len(kernel)
    if len(penalties) > 1:
        errors = sum(
            _fold_errors(kernel, y, part, penalties, unit) for part in np.array_split(np.arange(len(x)), FOLDS)
        )
        penalty = penalties[int(np.argmin(errors))]
    else:
        penalty = penalties[0]
    dual = linalg.solve(kernel + penalty * unit * np.eye(len(x)), y, assume_a="pos")
    return Ridge(features=x, dual=dual.astype(np.float32), penalty=penalty)


def _fold_errors(
    kernel: F64, targets: F32, left_out: NDArray[np.int64], penalties: Sequence[float], unit: float
) -> F64:
    """Sum of squared errors on the rows `left_out` for each penalty, fitted on the other rows."""
    kept = np.setdiff1d(np.arange(len(kernel)), left_out)
    values, vectors = linalg.eigh(kernel[np.ix_(kept, kept)])  # one factorisation serves every penalty
    projected = vectors.T.astype(np.float32) @ targets[kept]
    towards = kernel[np.ix_(left_out, kept)] @ vectors
    errors = []
    for penalty in penalties:
        predicted = (towards / (np.maximum(values, 0) + penalty * unit)).astype(np.float32) @ projected
        errors.append(float(np.sum((predicted - targets[left_out]) ** 2, dtype=np.float64)))
    return np.array(errors)


def predict(ridge: Ridge, features: Floating) -> F32:
    """Targets (time, target) of features (time, feature)."""
    predicted: F32 = (features.astype(np.float64) @ ridge.features.T).astype(np.float32) @ ridge.dual
    return predicted


@dataclass(frozen=True, kw_only=True)
class Eofs:
    """Empirical orthogonal functions about zero of the training anomalies."""

    patterns: F32  # (mode, feature), orthonormal
    coefficients: F64  # (time, mode) of the training steps
    time_years: F64  # (time,) decimal years of the training steps


def fit_eofs(anomalies: Floating, time_years: Floating) -> Eofs:
    """All EOFs of (time, feature), by singular value decomposition; modes below rounding are dropped.

    The mean is not removed once more: the climatology has been, and every mode but one costs a coefficient per step.
    """
    left, singular, patterns = linalg.svd(anomalies.astype(np.float64), full_matrices=False, check_finite=False)
    # float32 anomalies carry rounding noise of 1e-7 of the largest: modes below that are not of the data
    rank = int(np.sum(singular > singular[0] * max(anomalies.shape) ** 0.5 * np.finfo(np.float32).eps))
    return Eofs(
        patterns=patterns[:rank].astype(np.float32),
        coefficients=left[:, :rank] * singular[:rank],
        time_years=np.asarray(time_years, dtype=np.float64),
    )


def truncate(eofs: Eofs, anomalies: Floating, modes: int) -> F32:
    """Anomalies (time, feature) rebuilt from their coefficients on the leading `modes` patterns."""
    leading = eofs.patterns[:modes]
    return np.asarray((anomalies.astype(np.float32) @ leading.T) @ leading, dtype=np.float32)


def gaussian_generator(eofs: Eofs, members: int, steps: int, seed: int) -> F32:
    """Ensemble (member, time, feature) of independent Gaussian coefficients with the training variances: no memory."""
    std = np.sqrt(np.mean(eofs.coefficients**2, axis=0))
    noise = np.random.default_rng(seed).standard_normal((members, steps, len(std)))
    return _to_fields(eofs, noise * std)


def linear_inverse_generator(
    eofs: Eofs, members: int, time_years: Floating, seed: int, *, modes: int = 20, trend: bool = False
) -> F32:
    """Ensemble (member, time, feature) of a linear inverse model (Penland and Sardeshmukh 1995, J. Climate 8, 1999).

    The leading `modes` coefficients follow the first-order vector autoregression, VAR(1), of the training years, the
    others one of their own each. With `trend` each coefficient's linear trend over the training years is removed before
    the fit and carried on to the wanted `time_years`, which must be spaced as the training steps are.
    """
    design = np.stack([np.ones_like(eofs.time_years), eofs.time_years - eofs.time_years.mean()], axis=1)
    line = np.linalg.lstsq(design, eofs.coefficients, rcond=None)[0] if trend else np.zeros((2, eofs.patterns.shape[0]))
    departures = eofs.coefficients - design @ line
    head, tail = departures[:, :modes], departures[:, modes:]
    generator = np.random.default_rng(seed)
    steps = len(time_years)
    drawn = np.concatenate(
        [_draw_vector(head, members, steps, generator), _draw_each(tail, members, steps, generator)], -1
    )
    later = np.stack([np.ones(steps), np.asarray(time_years) - eofs.time_years.mean()], axis=1)
    return _to_fields(eofs, drawn + later @ line)


def _draw_vector(series: F64, members: int, steps: int, generator: np.random.Generator) -> F64:
    """(member, time, mode) of x_{t+1} = A x_t + e, with A and the covariance of e from the series (time, mode)."""
    covariance = series.T @ series / len(series)
    lagged = series[1:].T @ series[:-1] / (len(series) - 1)
    step = linalg.solve(covariance, lagged.T, assume_a="pos").T  # A = C(1) C(0)^-1
    if np.abs(linalg.eigvals(step)).max() >= 1:
        raise DataError(
            f"found an autoregression of {len(covariance)} modes that does not decay, expected one: use fewer modes"
        )
    values, vectors = linalg.eigh(covariance - step @ covariance @ step.T)
    noise_root = vectors * np.sqrt(np.maximum(values, 0))  # sampling error can leave a slightly negative variance
    first_root = linalg.cholesky(covariance, lower=True)  # the first state is drawn from the climate
    noise = generator.standard_normal((members, steps, series.shape[1]))
    out = np.empty_like(noise)
    out[:, 0] = noise[:, 0] @ first_root.T
    for time in range(1, steps):
        out[:, time] = out[:, time - 1] @ step.T + noise[:, time] @ noise_root.T
    return out


def _draw_each(series: F64, members: int, steps: int, generator: np.random.Generator) -> F64:
    """(member, time, mode) with one first-order autoregression per mode of the series (time, mode)."""
    variance = np.mean(series**2, axis=0)
    memory = np.mean(series[1:] * series[:-1], axis=0) / variance  # within -1 ... 1 up to the ends of the series
    memory = np.clip(memory, -1, 1)
    out: F64 = generator.standard_normal((members, steps, series.shape[1])) * np.sqrt(variance)
    for time in range(1, steps):
        out[:, time] = memory * out[:, time - 1] + np.sqrt(1 - memory**2) * out[:, time]
    return out


def _to_fields(eofs: Eofs, coefficients: F64) -> F32:
    """(member, time, feature) of coefficients (member, time, mode)."""
    fields: F32 = coefficients.astype(np.float32) @ eofs.patterns
    return fields
