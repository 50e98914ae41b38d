"""Normalised anomalies: their climatology and scale, fitted in parts, and reading from disk if memory is short.

y = (t(x) - mu(p, phase)) / (s s_p): t is the variable's transform (runtime/climate/transforms.py), mu its climatology
or, as in the papers, its mean alone, s its scale and s_p, if asked for, the deviation of each pixel divided by s.
"""

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fsae.runtime.arrays import F32, F64
from fsae.runtime.climate import climatology
from fsae.runtime.climate.transforms import Transform, forward
from fsae.runtime.errors import DataError
from fsae.runtime.input.fields import Fields
from fsae.training.config import Config, DataConfig

from .seasonal_bias import seasonal_bias

log = logging.getLogger("fsae.training")
HELD_VALUES = 1 << 23  # values worked on at once: 64 MiB in float64

# Least scale of a pixel, in scales of its variable: if a field hardly varies, division would make signal of noise.
PIXEL_FLOOR = 0.05


@dataclass(frozen=True, kw_only=True)
class Anomalies:
    """Normalised anomalies (time, variable, pixel) that are read from the prepared fields on access.

    They are indexed like the array: a[3] is (variable, pixel), a[2:5] and a[[7, 1]] are (time, variable, pixel).
    """

    fields: Fields
    part: slice  # which steps of `fields`
    season: F32  # (time, 2K) of these steps
    statistics: Mapping[str, F32]
    transforms: tuple[Transform, ...]

    @property
    def shape(self) -> tuple[int, int, int]:
        """(time, variable, pixel)."""
        return len(self.season), *self.fields.shape[2:]

    def __len__(self) -> int:
        return len(self.season)

    def __getitem__(self, chosen: "int | slice | Sequence[int] | NDArray[np.integer]") -> F32:
        if isinstance(chosen, slice):
            first, last, stride = chosen.indices(len(self))
            if stride != 1:
                return self[list(range(len(self))[chosen])]
            return self._read(first, max(first, last))
        if isinstance(chosen, int | np.integer):
            step = range(len(self))[chosen]
            field: F32 = self._read(step, step + 1)[0]
            return field
        values = np.empty((len(chosen), *self.shape[1:]), dtype=np.float32)
        for place, step in enumerate(chosen):
            values[place] = self[int(step)]
        return values

    def _read(self, first: int, last: int) -> F32:
        values = self.fields.read(slice(self.part.start + first, self.part.start + last))[0]
        return normalise(values, self.season[first:last], self.statistics, self.transforms)


Series = F32 | Anomalies  # normalised anomalies (time, variable, pixel), in memory or on disk


def fit_statistics(config: DataConfig, fields: Fields, part: slice, waves: F64 | None = None) -> dict[str, F32]:
    """`climatology` (V, 1 + 2K, N), `scale` (V,) and, for a scale of each pixel, `pixel_scale` (V, N) of a period.

    With normalisation "mean_std" the harmonics are zero. All are of transformed values, and summed in float64 over
    parts of the period, so that no more than `HELD_VALUES` are in memory. DataError if a variable does not vary.

    With the harmonics `waves` (2K, V, N) of another source (cycle.py) the mean is fitted to what they leave, and as
    much of a first harmonic as is no chance (seasonal_bias.py).
    """
    phase = fields.phase[part]
    harmonics = config.harmonics if config.normalisation == "climatology" and waves is None else 0
    solver = climatology.projection(phase, harmonics)
    variables, pixels = fields.shape[2:]
    total = np.zeros((1 + 2 * config.harmonics, variables, pixels))
    for steps, values in _parts(config, fields, part):
        total[: len(solver)] += np.tensordot(solver[:, steps], values.astype(np.float64), axes=1)
    season = climatology.season(phase, config.harmonics)
    if waves is not None:
        total[1:] = waves
        total[1:3] += seasonal_bias(lambda: _departures(config, fields, part, waves), phase)
        total[0] -= np.tensordot(season.mean(axis=0, dtype=np.float64), total[1:], axes=1)
    coefficients = _rounded(total.transpose(1, 0, 2))
    square = np.zeros((variables, pixels))
    for steps, values in _parts(config, fields, part):
        anomaly = values.astype(np.float64) - climatology.evaluate(coefficients, season[steps])
        square += np.einsum("tvp,tvp->vp", anomaly, anomaly)
    deviation = np.sqrt(square / len(phase))  # (variable, pixel)
    scale = np.sqrt(np.square(deviation).mean(axis=1))
    if not (np.isfinite(scale).all() and (scale > 0).all()):
        raise DataError(
            f"found anomaly scales {scale.tolist()}",
            "finite numbers above 0 for every variable",
            "check the data: a variable that never varies has the scale 0",
        )
    found = {"climatology": coefficients, "scale": scale.astype(np.float32)}
    if config.scale == "pixel":
        found["pixel_scale"] = np.maximum(deviation / scale[:, None], PIXEL_FLOOR).astype(np.float32)
    return found


def _rounded(coefficients: F64) -> F32:
    """Coefficients (variable, 1 + 2K, pixel) rounded to multiples of powers of two, for each variable.

    The largest harmonic is at most 2**11 of them, and the mean is rounded to a sixteenth of that; without harmonics the
    deviation of the mean is at most 2**15. Hundreds of steps do not determine a climatology as well as this rounding,
    at most 8 mK for a yearly cycle of 30 K. A graph stores such harmonics in half precision, without any loss.
    """
    mean, waves = coefficients[:, :1], coefficients[:, 1:]
    largest = np.abs(waves).max(axis=(1, 2), keepdims=True, initial=0)
    deviation = mean.std(axis=-1, keepdims=True)
    coarse = _quantum(largest, 2047)
    fine = np.where(largest > 0, coarse / 16, _quantum(np.maximum(deviation, np.finfo(np.float32).tiny), 32767))
    rounded = [np.round(mean / fine) * fine, np.round(waves / np.where(largest > 0, coarse, 1)) * coarse]
    return np.ascontiguousarray(np.concatenate(rounded, axis=1), dtype=np.float32)


def _quantum(largest: F64, steps: int) -> F64:
    """The smallest power of two of which at most `steps` make up the largest value; 0 where that is 0."""
    return np.where(largest > 0, 2.0 ** np.ceil(np.log2(np.where(largest > 0, largest, 1) / steps)), 0)


def _parts(config: DataConfig, fields: Fields, part: slice) -> Iterator[tuple[slice, F32]]:
    """Slices of the steps within `part`, one after the other, each with its transformed values (time, V, N)."""
    transforms = transforms_of(config)
    held = min(climatology.BLOCK, max(1, HELD_VALUES // int(np.prod(fields.shape[2:]))))
    for first in range(part.start, part.stop, held):
        last = min(first + held, part.stop)
        values = forward(fields.read(slice(first, last))[0], transforms)
        yield slice(first - part.start, last - part.start), values


def _departures(config: DataConfig, fields: Fields, part: slice, waves: F64) -> Iterator[tuple[slice, F64]]:
    """The `_parts` less the harmonics (2K, V, N)."""
    season = climatology.season(fields.phase[part], config.harmonics)
    for steps, values in _parts(config, fields, part):
        yield steps, values - np.tensordot(season[steps].astype(np.float64), waves, axes=1)


def transforms_of(config: DataConfig) -> tuple[Transform, ...]:
    """The transform of each variable."""
    return tuple(variable.transform for variable in config.variables)


def normalise(values: F32, season: F32, statistics: Mapping[str, F32], transforms: Sequence[Transform]) -> F32:
    """Normalised anomalies of physical fields (time, variable, pixel) with the season features (time, 2K)."""
    out = forward(values, transforms)
    scale = statistics["scale"][:, None]
    if "pixel_scale" in statistics:
        scale = scale * statistics["pixel_scale"]
    for step, features in enumerate(season):  # one by one: the bits do not depend on which steps are read together
        out[step] -= climatology.evaluate(statistics["climatology"], features)
    out /= scale
    return out


def normalised(config: Config, fields: Fields, statistics: Mapping[str, F32], part: slice) -> tuple[Series, F32]:
    """Normalised anomalies (time, variable, pixel) of the steps `part` and their season (time, 2K).

    They are in memory if they take no more than `trainer.cache_gib`, else the same values are read on access.
    """
    season = climatology.season(fields.phase[part], config.data.harmonics)
    anomalies = Anomalies(
        fields=fields, part=part, season=season, statistics=statistics, transforms=transforms_of(config.data)
    )
    size_gib = 4 * int(np.prod(anomalies.shape)) / 2**30
    if size_gib > config.trainer.cache_gib:
        log.info(
            "anomalies: %.1f GiB, read from disk as needed (trainer.cache_gib is %g)",
            size_gib,
            config.trainer.cache_gib,
        )
        return anomalies, season
    values = np.empty(anomalies.shape, dtype=np.float32)
    for first in range(0, len(values), climatology.BLOCK):
        values[first : first + climatology.BLOCK] = anomalies[first : first + climatology.BLOCK]
    return values, season
