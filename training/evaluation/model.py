"""What an evaluation looks at: a trained model, and the periods of real fields it is compared with."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from fsae.runtime import climatology as harmonic
from fsae.runtime.errors import DataError
from fsae.runtime.healpix import coarsen, npix, refine
from fsae.runtime.pyramid import level_mask
from fsae.runtime.transforms import Transform, forward

Fields = NDArray[np.float32]

BATCH = 16  # steps per graph call


class Codec(Protocol):
    """The two graphs of the autoencoder, as sessions and trained modules offer them."""

    def encode(self, field: Fields, season: Fields, level_mask: Fields) -> Fields:
        """Latent (batch, variable, latent pixel) of physical fields (batch, variable, pixel)."""
        ...

    def decode(self, latent: Fields, season: Fields) -> Fields:
        """Physical fields (batch, variable, pixel) of latents."""
        ...


@dataclass(frozen=True, kw_only=True)
class Period:
    """Physical fields (time, variable, pixel), the fraction of the year (time,) and the cftime stamp of each step."""

    values: Fields
    phase: NDArray[np.float64]
    times: Sequence[Any]

    def __post_init__(self) -> None:
        counts = (len(self.values), len(self.phase), len(self.times))
        if len(set(counts)) > 1:
            raise DataError("found {} fields, {} phases and {} times, expected one of each per step".format(*counts))
        if not np.isfinite(self.values).all():
            raise DataError("found missing values in the fields to evaluate with, expected none: fill them first")

    @property
    def time_years(self) -> NDArray[np.float64]:
        """Decimal year of each step: the calendar year and the fraction of it gone."""
        return np.array([time.year for time in self.times]) + self.phase

    def every(self, stride: int) -> "Period":
        """The period with every `stride`-th step only."""
        part = slice(None, None, stride)
        return Period(values=self.values[part], phase=self.phase[part], times=self.times[part])


@dataclass(frozen=True, kw_only=True)
class Subject:
    """A trained model as the evaluation sees it, from a run or from a bundle."""

    name: str
    codec: Codec
    variables: tuple[tuple[str, str], ...]  # name and units, those of the transformed variable
    zooms: tuple[int, ...]
    latent_zoom: int
    harmonics: int
    climatology: Fields  # (variable, 1 + 2 harmonics, pixel)
    scale: Fields  # (variable,)
    transforms: tuple[Transform, ...]
    step: str = "1 month"

    def __post_init__(self) -> None:
        expected = (len(self.variables), 1 + 2 * self.harmonics, npix(self.zooms[-1]))
        if self.climatology.shape != expected or self.scale.shape != expected[:1]:
            raise DataError(
                f"found climatology {self.climatology.shape} and scales {self.scale.shape}, expected {expected} and"
                f" {expected[:1]}: the tables belong to another model"
            )


def anomalies(subject: Subject, period: Period, values: Fields | None = None) -> Fields:
    """Normalised anomalies (time, variable, pixel): the climatology of the training years off, divided by the scale.

    `values` are physical fields to take in place of the period's own, (..., time, variable, pixel).
    """
    values = forward(period.values if values is None else values, subject.transforms)
    season = harmonic.season(period.phase, subject.harmonics)
    mean = harmonic.evaluate(subject.climatology, season)  # (time, variable, pixel)
    normalised: Fields = ((values - mean) / subject.scale[:, None]).astype(np.float32)
    return normalised


def rebuild(subject: Subject, period: Period, zoom: int) -> Fields:
    """Anomalies (time, variable, pixel) of the period after encoding and decoding.

    The encoder sees block means at `zoom`, repeated to its own zoom, with the finer levels masked out.
    """
    step = subject.zooms[-1] - zoom
    season = harmonic.season(period.phase, subject.harmonics).astype(np.float32)
    mask = level_mask(subject.zooms, zoom)
    decoded = np.empty_like(period.values, dtype=np.float32)
    for start in range(0, len(period.values), BATCH):
        part = slice(start, start + BATCH)
        seen = period.values[part].astype(np.float32)
        if step:
            seen = refine(coarsen(seen.astype(np.float64), step), step).astype(np.float32)
        masks = np.repeat(mask[None], len(seen), axis=0)
        latent = subject.codec.encode(seen, season[part], masks)
        decoded[part] = subject.codec.decode(latent, season[part])
    return anomalies(subject, period, decoded)
