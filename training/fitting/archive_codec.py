"""Tables of the archive codec, fitted to the anomalies of training fields.

The leading patterns are those of the covariance at the base zoom, localised (Schur product with a function of distance,
Houtekamer and Mitchell 2001) and mixed with that of fields moved by a pixel, so that few fields do not stand for
correlations between far places. What they leave is transformed in cells by patterns of its own, and finer levels are
predicted from their surroundings by ridge regression.
"""

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr

from fsae.runtime.archive.tables import (
    CELL_ZOOM,
    CLASSES,
    ESCAPE,
    FREQUENCIES,
    LARGEST,
    LOWEST,
    OCTAVE,
    PATTERN_ONE,
    PER_CLASS,
    PERSISTENCES,
    STENCIL_ONE,
    TYPES,
    CodecTables,
    make_codec_tables,
)
from fsae.runtime.archive.transform import analyse, cosines
from fsae.runtime.archive.trials import Trials
from fsae.runtime.arrays import F64, Floating
from fsae.runtime.sphere.healpix import coarsen, npix, surroundings, zoom_of
from fsae.training.networks.localisation import localised_covariance

BASE_ZOOM = 4  # finest zoom of the global patterns
LOCAL, GLOBAL_SHARE = 0.4, 0.1  # radius [radian] of the localisation, and the share that is not localised
MOVED_SHARE = 0.3  # of the covariance that is taken of fields moved by a pixel: 1.5 % less error at 64 times
RIDGE = 1e-3  # of the regressions, relative to the mean variance of their predictors
PRIOR_STEPS = 60.0  # that all places together count beside the steps of a place, in its regressions
TINY = 1e-30  # variance of a place where nothing varies
MODEL_SHARE = 0.5  # of the covariance in a variance; the rest is what training fields have
LONGEST = 120  # steps of the series that the spectra and frequencies are learned from
MOST_PERSISTENCE = 0.97
COST = 0.11  # of a bit, in squared steps; about the slope of a uniform quantiser's error


def _bytes(rows: F64) -> tuple[NDArray[np.int8], NDArray[np.int32]]:
    """Rows (..., pixel) as bytes and the integer scale of each."""
    scale = np.maximum(np.round(np.abs(rows).max(-1) * PATTERN_ONE / 127), 1)
    return np.round(rows * PATTERN_ONE / scale[..., None]).clip(-127, 127).astype(np.int8), scale.astype(np.int32)


def _stencil(parents: Floating, children: Floating, level: int, base_pixels: int) -> NDArray[np.int8]:
    """Weights (base pixel, child, neighbour) of the differences between children and their parent.

    Few steps say too little of 25 weights at one place, so all places together count as some steps of each.
    """
    around = surroundings(zoom_of(parents.shape[1]))
    same = 4**level  # parents that share their weights
    squares = np.zeros((base_pixels, around.shape[1], around.shape[1]))
    products = np.zeros((base_pixels, around.shape[1], 4))
    values = parents.astype(np.float64)
    for pixel in range(base_pixels):
        own = np.arange(pixel * same, (pixel + 1) * same)
        predictors = values[:, around[own]].reshape(-1, around.shape[1])
        wanted = children[:, own[0] * 4 : (own[-1] + 1) * 4].reshape(len(values), same, 4) - values[:, own, None]
        squares[pixel] = predictors.T @ predictors / len(predictors)
        products[pixel] = predictors.T @ wanted.reshape(-1, 4) / len(predictors)
    variance = np.maximum(np.trace(squares, axis1=1, axis2=2)[:, None, None] / around.shape[1], TINY)
    share = PRIOR_STEPS / (PRIOR_STEPS + len(values) * same)
    squares = (1 - share) * squares + share * variance * (squares / variance).mean(0)
    products = (1 - share) * products + share * variance * (products / variance).mean(0)
    weights = np.linalg.solve(squares + RIDGE * variance * np.eye(around.shape[1]), products).transpose(0, 2, 1)
    return np.round(weights * STENCIL_ONE).clip(-127, 127).astype(np.int8)


def _spectrum() -> NDArray[np.int16]:
    """Log2 of the share of each frequency in the standard deviation of an AR(1) series, for each persistence."""
    steps = FREQUENCIES
    lag = np.abs(np.subtract.outer(np.arange(steps), np.arange(steps)))
    waves = cosines(steps) / (1 << 16)
    shares = [np.einsum("ft,ts,fs->f", waves, rho**lag, waves) for rho in persistences()]
    found: NDArray[np.int16] = np.round(0.5 * np.log2(np.array(shares)) * OCTAVE).astype(np.int16)
    return found


def persistences() -> F64:
    """Lag-one correlations that the rows of the spectrum stand for."""
    return np.linspace(-0.2, MOST_PERSISTENCE, PERSISTENCES)


def _gaussian_frequencies() -> F64:
    """Shares (class, symbol) of a normal distribution, quantised with a dead zone."""
    edge = np.arange(LARGEST + 1) + 0.58
    shares = np.zeros((CLASSES, ESCAPE + 1))
    for kind in range(CLASSES):
        deviation = 2.0 ** ((LOWEST + (kind + 0.5) * PER_CLASS) / OCTAVE)
        upper = 1 - ndtr(edge / deviation)
        shares[kind, LARGEST] = 1 - 2 * upper[0]
        shares[kind, LARGEST + 1 : ESCAPE] = upper[:-1] - upper[1:]
        shares[kind, :LARGEST] = (upper[:-1] - upper[1:])[::-1]
        shares[kind, ESCAPE] = 2 * upper[-1]
    return shares


def _integers(shares: F64) -> NDArray[np.uint32]:
    whole: NDArray[np.uint32] = np.maximum(np.round(shares / shares.sum(1, keepdims=True) * (1 << 20)), 1).astype(
        np.uint32
    )
    return whole


def _learn_frequencies(tables: CodecTables, chunks: list[F64], exponents: Iterable[int]) -> F64:
    """Counts (class, symbol) of what the codec writes for these coefficients at steps 2**(exponent / OCTAVE)."""
    counts = np.zeros((CLASSES, ESCAPE + 1))
    every = [Trials(tables, coefficients, cells=coefficients.size, left=0.0) for coefficients in chunks]
    for exponent in exponents:
        for trials in every:
            trial = trials.trial(exponent, COST)
            classes, symbols = trials.classes(trial), trials.symbols(trial)
            alive = classes >= 0
            symbol = np.where(np.abs(symbols) > LARGEST, ESCAPE, symbols + LARGEST)[alive]
            key = classes[alive].astype(np.int64) * (ESCAPE + 1) + symbol
            counts += np.bincount(key, minlength=counts.size).reshape(counts.shape)
    counts[:, :ESCAPE] = (counts[:, :ESCAPE] + counts[:, ESCAPE - 1 :: -1]) / 2  # both signs alike
    return counts


def fit_codec(anomalies: Floating, patterns: int) -> CodecTables:
    """Tables of the codec for anomalies (time, pixel) on a HEALPix sphere, with that many global patterns."""
    zoom = zoom_of(anomalies.shape[1])
    fields = [anomalies.astype(np.float32)]
    for _ in range(max(zoom - BASE_ZOOM, 0)):
        fields.append(coarsen(fields[-1]))
    base, *finer = fields[::-1]
    pixels, cells = base.shape[1], npix(CELL_ZOOM)
    covariance = localised_covariance(base, LOCAL, GLOBAL_SHARE, MOVED_SHARE)
    values, vectors = np.linalg.eigh(covariance)
    leading, pattern_scale = _bytes(vectors[:, ::-1][:, :patterns].T)
    exact = leading * pattern_scale[:, None] / PATTERN_ONE
    left = np.eye(pixels) - exact.T @ np.linalg.solve(exact @ exact.T, exact)
    rest = left @ covariance @ left.T
    own = pixels // cells
    modes, mode_values = np.empty((cells, own, own)), np.empty((cells, own))
    for cell in range(cells):
        block = slice(cell * own, (cell + 1) * own)
        found, basis = np.linalg.eigh(rest[block, block])
        modes[cell], mode_values[cell] = basis[:, ::-1].T, found[::-1]
    small_modes, mode_scale = _bytes(modes)
    levels = len(finer)
    stencil = np.zeros((levels, pixels, 4, 25), np.int8)
    for level, fine in enumerate(finer):
        stencil[level] = _stencil(fields[::-1][level], fine, level, pixels)
    known = patterns + pixels * (1 + 3 * levels)
    draft: dict[str, NDArray[np.integer]] = {
        "patterns": leading,
        "pattern_scale": pattern_scale,
        "modes": small_modes,
        "mode_scale": mode_scale,
        "stencil": stencil,
        "deviation": np.zeros(known, np.int16),
        "persistence": np.zeros(known, np.uint8),
        "spectrum": _spectrum(),
        "frequency": _integers(_gaussian_frequencies()),
    }
    tables = make_codec_tables(draft, "the fit")
    modelled = np.concatenate([values[::-1][:patterns], mode_values.ravel()]) * 4.0**levels
    draft |= _spreads(tables, anomalies, modelled)
    tables = make_codec_tables(draft, "the fit")
    chunks = [analyse(tables, part) for part in _parts(anomalies)]
    typical = int(np.round(np.log2(np.sqrt(np.mean(np.square(anomalies, dtype=np.float64)))) * OCTAVE))
    counts = _learn_frequencies(tables, chunks, range(typical - 4 * OCTAVE, typical + 3 * OCTAVE, OCTAVE // 2))
    shares = counts + 300 * _gaussian_frequencies()
    return make_codec_tables({**draft, "frequency": _integers(shares)}, "the fit")


def _spreads(tables: CodecTables, anomalies: Floating, modelled: F64) -> dict[str, NDArray[np.integer]]:
    """Deviations and persistences: of each pattern and mode, and of details one per base pixel."""
    series = np.concatenate([cosines(len(part)).T @ analyse(tables, part) / (1 << 16) for part in _parts(anomalies)])
    entries, known = tables.entries, len(tables.deviation)
    size = np.bincount(entries, minlength=known).astype(np.float64)
    mean = np.bincount(entries, weights=np.square(series).mean(0), minlength=known) / size
    lagged = np.bincount(entries, weights=(series[1:] * series[:-1]).mean(0), minlength=known) / size
    rho = lagged / np.maximum(mean, 1e-12)
    mean[: len(modelled)] = (1 - MODEL_SHARE) * mean[: len(modelled)] + MODEL_SHARE * np.maximum(modelled, 0)
    floor = max(float(mean.max()) * 1e-9, 1e-30)
    row = np.abs(rho[:, None] - persistences()).argmin(1)
    log2 = np.round(0.5 * np.log2(np.maximum(mean, floor)) * OCTAVE)
    return {"deviation": log2.astype(np.int16), "persistence": row.astype(np.uint8)}


def _parts(anomalies: Floating) -> list[Floating]:
    return [anomalies[first : first + LONGEST] for first in range(0, len(anomalies), LONGEST)]


def codec_arrays(tables: CodecTables) -> dict[str, NDArray[np.integer]]:
    """The arrays to write, by name."""
    return {name: getattr(tables, name) for name in TYPES}
