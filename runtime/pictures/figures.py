"""The numbers in a picture: statistics over members, global means of all steps, angular power."""

from dataclasses import dataclass

import numpy as np

from fsae.runtime.arrays import F64
from fsae.runtime.progress import Progress
from fsae.runtime.sphere.regrid import areas
from fsae.runtime.sphere.spectrum import power_spectrum

from .field import Field

QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
MOST_SPECTRA = 50  # members whose power is shown, fewer of a fine grid
SPECTRUM_VALUES = 1 << 22


@dataclass(frozen=True, kw_only=True)
class Moments:
    """Mean and standard deviation (point,) of the members at one step, as `generate --statistics` has them."""

    mean: F64
    std: F64  # of these members, not an estimate for others


def moments(field: Field) -> Moments:
    """Mean and standard deviation over the members at the step shown, block by block (Chan et al. 1979)."""
    count, mean, squares = 0, np.zeros(field.place.grid.size), np.zeros(field.place.grid.size)
    for _, _, values in field.blocks(slice(0, field.count[0]), slice(field.time, field.time + 1)):
        own, more = values[:, 0].mean(axis=0), len(values)
        squares += ((values[:, 0] - own) ** 2).sum(axis=0) + (own - mean) ** 2 * count * more / (count + more)
        mean = mean + (own - mean) * more / (count + more)
        count += more
    return Moments(mean=mean, std=np.sqrt(squares / count))


def global_means(field: Field, progress: Progress) -> F64:
    """Means over the globe (member, step), weighted by area; missing values are left out."""
    members, steps = field.count
    area = areas(field.place.grid)
    found, done = np.full((members, steps), np.nan), 0
    for some, times, values in field.blocks(slice(0, members), slice(0, steps)):
        there = np.isfinite(values)
        weight = there @ area
        total = np.where(there, values, 0.0) @ area
        found[some, times] = np.where(weight > 0, total / np.where(weight > 0, weight, 1.0), np.nan)
        done += weight.size
        progress(done, members * steps)
    return found


def spectra(field: Field) -> F64:
    """Power C_l (member, l) at the step shown, of the member shown and, after it, of the first members.

    Members with missing values are left out: they have none.
    """
    grid = field.place.grid
    most = max(1, min(MOST_SPECTRA, field.count[0], SPECTRUM_VALUES // grid.size))
    given = [field.shown_values()[None]]
    if most > 1:
        step = slice(field.time, field.time + 1)
        given += [values[:, 0] for _, _, values in field.blocks(slice(0, most), step)]
    maps = np.concatenate(given)
    return power_spectrum(maps[np.isfinite(maps).all(axis=1)], grid)
