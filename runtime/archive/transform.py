"""The transform of the archive codec: leading patterns, modes in cells and details, and a cosine transform in time.

Analysis is ordinary floating point. Synthesis is integer arithmetic, done in float64 whose sums stay below 2**53: they
are exact in any order, so that decoded values do not depend on the machine, the threads or the batch.
"""

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from fsae.runtime.arrays import F64, Floating
from fsae.runtime.errors import DataError
from fsae.runtime.sphere.healpix import coarsen, surroundings

from .tables import OCTAVE, PATTERN_ONE, STENCIL_ONE, CodecTables

WAVE_ONE = 1 << 16  # unit of the cosine transform
FINE = 16  # parts of a step that coefficients are rounded to after the transform in time
FINER = 64  # parts of a step that pixels are rounded to
BLOCK = 1024  # parents refined at once
EXACT = float(1 << 53)
# Rows: the three differences between four children, orthonormal and without mean.
HAAR = np.array([[1, -1, 1, -1], [1, 1, -1, -1], [1, -1, -1, 1]], dtype=np.float64)  # times 1/2


@lru_cache(maxsize=8)
def cosines(steps: int) -> F64:
    """Cosine transform DCT-II (frequency, time) of that length, orthonormal, in integers of 1 / WAVE_ONE."""
    frequency, time = np.arange(steps)[:, None], np.arange(steps)
    waves = np.cos(np.pi * frequency * (2 * time + 1) / (2 * steps)) * np.sqrt(2 / steps)
    waves[0] /= np.sqrt(2)
    whole: F64 = np.round(waves * WAVE_ONE)
    return whole


def step_of(exponent: int) -> float:
    """The quantisation step 2**(exponent / OCTAVE), the same on every machine."""
    octave, part = divmod(exponent, OCTAVE)
    return float(np.ldexp(round(2 ** (part / OCTAVE) * (1 << 20)) / (1 << 20), octave))


def analyse(tables: CodecTables, anomalies: Floating) -> F64:
    """Coefficients (frequency, coefficient) of anomalies (time, pixel), in their units."""
    steps = len(anomalies)
    fields = [anomalies.astype(np.float64)]
    for _ in range(tables.levels):
        fields.append(coarsen(fields[-1]).astype(np.float64))
    base, *finer = fields[::-1]
    size = float(1 << tables.levels)  # a pixel of the base zoom stands for size**2 pixels of the fields
    inverse, modes = tables.analysis
    patterns = base @ inverse
    rest = base - patterns @ (tables.synthesis[0] / PATTERN_ONE)
    cells = rest.reshape(steps, len(modes), -1).transpose(1, 0, 2) @ modes  # (cell, time, mode)
    found = [patterns * size, cells.transpose(1, 0, 2).reshape(steps, -1) * size]
    coarse = base
    for level, fine in enumerate(finer):
        size /= 2
        predicted = _refined(tables, coarse, level) / STENCIL_ONE
        differences = (fine.reshape(steps, -1, 4) - predicted) @ (HAAR.T / 2)  # (time, parent, 3)
        found.append(differences.reshape(steps, -1) * size)
        coarse = fine
    return cosines(steps) @ np.concatenate(found, axis=1) / WAVE_ONE


def synthesise(tables: CodecTables, symbols: NDArray[np.integer]) -> F64:
    """Anomalies (time, pixel) of symbols (frequency, coefficient): integers, in 1 / FINER of the step.

    DataError if a sum could leave the integers that float64 holds.
    """
    steps = len(symbols)
    alive = symbols.any(axis=0)
    fine = np.zeros(symbols.shape)
    fine[:, alive] = _rounded(cosines(steps).T @ symbols[:, alive].astype(np.float64), WAVE_ONE // FINE)
    patterns, modes = tables.synthesis
    leading, local, *details = (fine[:, part] for part in tables.parts)
    if np.abs(fine).max(initial=0) * PATTERN_ONE * np.sqrt(patterns.size) > EXACT:
        raise DataError("found values too large for this step of the archive codec", advice="ask for a larger error")
    base = leading @ patterns
    cells = local.reshape(steps, len(modes), -1).transpose(1, 0, 2) @ modes  # (cell, time, pixel)
    base += cells.transpose(1, 0, 2).reshape(steps, -1)
    size = 1 << tables.levels
    field = _rounded(base, PATTERN_ONE * FINE * size // FINER)
    for level, detail in enumerate(details):
        size //= 2
        children = _refined(tables, field, level)
        differences = detail.reshape(steps, -1, 3) @ HAAR  # (time, parent, child), twice the value
        children += differences * (STENCIL_ONE * FINER // FINE / (2 * size))
        field = _rounded(children, STENCIL_ONE).reshape(steps, -1)
    return field


def _refined(tables: CodecTables, parents: F64, level: int) -> F64:
    """Children (time, parent, 4) of parents (time, parent), times STENCIL_ONE: each by its own weights (kriging)."""
    around = surroundings(tables.base_zoom + level)  # (parent, 25)
    rows = np.ascontiguousarray(parents.T)
    children = np.empty((len(parents), len(rows), 4))
    for first in range(0, len(rows), BLOCK):
        block = slice(first, first + BLOCK)
        weights = tables.stencil[level][np.arange(len(rows))[block] >> 2 * level].astype(np.float64)
        changes = weights @ rows[around[block]]  # (parent, child, time)
        changes -= changes.mean(axis=1, keepdims=True)  # a quarter of an integer, so still exact
        children[:, block] = changes.transpose(2, 0, 1) + parents[:, block, None] * STENCIL_ONE
    return children


def _rounded(values: F64, unit: float) -> F64:
    return np.floor(values / unit + 0.5)
