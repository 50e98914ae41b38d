"""Simple baselines: interpolation of block means, ridge regression, EOFs, and generators of EOF noise.

Everything works on anomalies about the training climatology, in any unit, and is fitted on training years only.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import healpy
import numpy as np
from scipy import linalg
from sklearn.linear_model import RidgeCV
from sklearn.model_selection import KFold

from fsae.runtime.arrays import F32, F64, Floating
from fsae.runtime.errors import DataError
from fsae.runtime.sphere.healpix import npix, zoom_of

PENALTIES = tuple(float(p) for p in np.logspace(-3.5, 0.5, 9))  # in units of the mean square of a step's features
MODES = 20  # leading ones, which see each other in the linear inverse model
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


def fit_ridge(features: Floating, targets: Floating, penalties: Sequence[float] = PENALTIES) -> RidgeCV:
    """Ridge regression of targets (time, target), or of a single one (time,), on features (time, feature).

    Without intercept, for all of them are anomalies. The penalty is the one of least mean square error in a cross
    validation over `FOLDS` contiguous parts of the training time (Hoerl and Kennard 1970); `penalties` are in units of
    the mean square length of a step's features.
    """
    alphas = np.array(penalties) * np.mean(np.sum(np.square(features, dtype=np.float64), axis=1))
    ridge = RidgeCV(alphas, fit_intercept=False, cv=KFold(FOLDS), scoring="neg_mean_squared_error")
    return ridge.fit(features, targets)


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


@dataclass(frozen=True, kw_only=True)
class InverseModel:
    """A linear inverse model (Penland and Sardeshmukh 1995, J. Climate 8, 1999) of EOF coefficients.

    The leading modes follow x' = step x + noise, each of the others an autoregression of its own. x are coefficients
    less their `line` (2, mode), value at `middle_year` and slope a year.
    """

    line: F64
    middle_year: float
    covariance: F64  # (leading mode, leading mode)
    step: F64  # (leading mode, leading mode)
    noise_root: F64  # (leading mode, leading mode): noise = root @ unit noise
    variance: F64  # (other mode,)
    memory: F64  # (other mode,)

    def line_at(self, time_years: Floating) -> F64:
        """The line (time, mode) at decimal years (time,)."""
        return np.asarray(self.line[0] + (np.asarray(time_years)[:, None] - self.middle_year) * self.line[1])

    def after(self, now: F64, noise: F64) -> F64:
        """The departures (member, mode) one step after those of `now`, with unit `noise` (member, mode)."""
        leading = len(self.step)
        head = now[:, :leading] @ self.step.T + noise[:, :leading] @ self.noise_root.T
        other_noise = np.sqrt(self.variance * (1 - self.memory**2)) * noise[:, leading:]
        return np.concatenate([head, self.memory * now[:, leading:] + other_noise], axis=1)


def fit_inverse_model(eofs: Eofs, *, modes: int = MODES, trend: bool = False) -> InverseModel:
    """The linear inverse model of the training years, with the trend of each coefficient over them or without."""
    middle = float(eofs.time_years.mean())
    design = np.stack([np.ones_like(eofs.time_years), eofs.time_years - middle], axis=1)
    line: F64 = np.zeros((2, len(eofs.patterns)))
    if trend:
        line = np.linalg.lstsq(design, eofs.coefficients, rcond=None)[0].astype(np.float64)
    series = eofs.coefficients - design @ line
    head, tail = series[:, :modes], series[:, modes:]
    covariance = head.T @ head / len(head)
    lagged = head[1:].T @ head[:-1] / (len(head) - 1)
    step = linalg.solve(covariance, lagged.T, assume_a="pos").T  # C(1) C(0)^-1
    values, vectors = linalg.eigh(covariance - step @ covariance @ step.T)
    variance = np.mean(tail**2, axis=0)
    memory = np.mean(tail[1:] * tail[:-1], axis=0) / variance  # within -1 ... 1 up to the ends of the series
    return InverseModel(
        line=line,
        middle_year=middle,
        covariance=covariance,
        step=step,
        noise_root=vectors * np.sqrt(np.maximum(values, 0)),  # sampling error can leave a slightly negative variance
        variance=variance,
        memory=np.clip(memory, -1, 1),
    )


def linear_inverse_generator(
    eofs: Eofs, members: int, time_years: Floating, seed: int, *, modes: int = MODES, trend: bool = False
) -> F32:
    """Ensemble (member, time, feature) of the linear inverse model, whose first state is drawn from the climate.

    With `trend` the linear trend over the training years is carried on to `time_years`, which must be spaced as the
    training steps are. DataError if the leading modes do not decay.
    """
    model = fit_inverse_model(eofs, modes=modes, trend=trend)
    leading, others = len(model.step), len(model.memory)
    if np.abs(linalg.eigvals(model.step)).max() >= 1:
        raise DataError(
            f"found an autoregression of {leading} modes that does not decay, expected one", advice="use fewer modes"
        )
    generator = np.random.default_rng(seed)
    noise = np.concatenate(
        [generator.standard_normal((members, len(time_years), count)) for count in (leading, others)], axis=-1
    )
    first_root = linalg.cholesky(model.covariance, lower=True)
    spread = np.sqrt(model.variance)
    drawn = [np.concatenate([noise[:, 0, :leading] @ first_root.T, noise[:, 0, leading:] * spread], axis=1)]
    for time in range(1, len(time_years)):
        drawn.append(model.after(drawn[-1], noise[:, time]))
    return _to_fields(eofs, np.stack(drawn, axis=1) + model.line_at(time_years))


def _to_fields(eofs: Eofs, coefficients: F64) -> F32:
    """(member, time, feature) of coefficients (member, time, mode)."""
    fields: F32 = coefficients.astype(np.float32) @ eofs.patterns
    return fields
