"""What a coarser source's yearly cycle lacks, as far as training steps of some months tell it from chance.

A climate model has other seasons at another resolution, most of all at the edge of sea ice. Its first harmonic is
fitted to the departures of the training steps from the coarse cycle, and shrunk, one factor for each variable, by the
share of its squares that chance would give as well (Stein 1956): days that resemble the ones before count for fewer. Of
the days after those of training in `gcm-daily`, a factor for each pixel, or none, foretells the mean worse.
"""

from collections.abc import Callable, Iterator

import numpy as np

from fsae.runtime.arrays import F64
from fsae.runtime.climate import climatology

MOST_MEMORY = 0.95  # correlation of steps with the ones before that is reckoned with
Parts = Callable[[], Iterator[tuple[slice, F64]]]


def seasonal_bias(parts: Parts, phase: F64) -> F64:
    """Cosine and sine (2, variable, pixel) of the first harmonic of departures, shrunk.

    Zero if `phase` (time,) covers too little of the year.
    `parts` gives slices of the steps, in order, with their departures (time, variable, pixel), anew at each call.
    """
    harmonics = climatology.affordable_harmonics(phase, 1, 1)
    solver = climatology.projection(phase, harmonics)
    coefficients = np.sum([np.tensordot(solver[:, steps], values, axes=1) for steps, values in parts()], axis=0)
    if harmonics == 0:
        return np.zeros((2, *coefficients.shape[1:]))
    waves = climatology.season(phase, 1).astype(np.float64)
    square, product, before = np.zeros(()), np.zeros(()), np.zeros((0, *coefficients.shape[1:]))
    for steps, values in parts():
        rest = values - coefficients[0] - np.tensordot(waves[steps], coefficients[1:], axes=1)
        square = square + np.square(rest).sum(axis=0)
        joined = np.concatenate([before, rest])
        product = product + (joined[1:] * joined[:-1]).sum(axis=0)
        before = rest[-1:]
    memory = np.clip(product / np.maximum(square, np.finfo(np.float64).tiny), 0, MOST_MEMORY)
    noise = square / len(phase) * (1 + memory) / (1 - memory)
    chance = noise.sum(axis=-1) * np.square(solver[1:]).sum()  # of both squares, over all pixels: (variable,)
    found = np.square(coefficients[1:]).sum(axis=(0, 2))
    kept = np.clip(1 - chance / np.maximum(found, np.finfo(np.float64).tiny), 0, 1)
    return np.asarray(kept[:, None] * coefficients[1:])
