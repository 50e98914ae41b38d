"""The prepared fields of a run, the years they are used for, and their latents."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fsae.runtime.arrays import F32
from fsae.runtime.errors import DataError
from fsae.runtime.input.fields import Fields
from fsae.runtime.input.joining import read_fields
from fsae.training.config import Config, Years, days_of
from fsae.training.networks.autoencoder import Autoencoder

from .normalisation import Series, normalised

BATCH = 32  # steps encoded at once, fewer if fields are large
BATCH_VALUES = 1 << 23  # their values: 32 MiB


def read_prepared(config: Config, folder: Path) -> Fields:
    """The prepared fields of a run, opened."""
    zoom = config.autoencoder.zoom
    return read_fields(folder / "data.zarr", config.data.variables, zoom=zoom, finest_zoom=zoom)


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """The fields of a run and the tables that normalise them, read once for all of its stages.

    A period is normalised anomalies (time, variable, pixel) and their season (time, 2K).
    """

    config: Config
    fields: Fields
    statistics: Mapping[str, F32]

    @cached_property
    def training(self) -> tuple[Series, F32]:
        """The training years."""
        return self.period(self.config.data.training_years)

    @cached_property
    def validation(self) -> tuple[Series, F32] | None:
        """The years watched during training, if the configuration names some."""
        years = self.config.data.validation_years
        return None if years is None else self.period(years)

    def period(self, years: Years) -> tuple[Series, F32]:
        """Any years, read anew each time."""
        return normalised(self.config, self.fields, self.statistics, part_of(self.fields, years))


def in_years(fields: Fields, years: Years) -> NDArray[np.bool_]:
    """Mask (time,) of the steps within `years`, both included; DataError if there is none."""
    first, last = days_of(years)
    chosen = np.array([first <= (time.year, time.month, time.day) <= last for time in fields.times])
    if not chosen.any():
        dates = sorted(time.isoformat()[:10] for time in fields.times)
        raise DataError(
            f"found no data in {years[0]} to {years[1]}: the inputs cover {dates[0]} to {dates[-1]}",
            advice="change the years in the configuration, or give files that cover them",
        )
    return chosen


def part_of(fields: Fields, years: Years) -> slice:
    """The steps within `years` as a slice of the sorted time axis."""
    chosen = np.flatnonzero(in_years(fields, years))
    return slice(int(chosen[0]), int(chosen[-1]) + 1)


def in_batches(series: Series, season: F32, steps: list[int] | None = None) -> Iterator[tuple[Tensor, Tensor]]:
    """Steps of a series (time, variable, pixel) with their season (time, 2K), at most `BATCH` at a time.

    All of them, or those in `steps`: a series on the disk is read a batch at a time.
    """
    size = max(1, min(BATCH, BATCH_VALUES // int(np.prod(series.shape[1:]))))
    for first in range(0, len(series) if steps is None else len(steps), size):
        part = slice(first, first + size) if steps is None else steps[first : first + size]
        yield torch.from_numpy(series[part]), torch.from_numpy(season[part])


@torch.no_grad()
def encode_series(model: Autoencoder, anomalies: Series, season: F32) -> F32:
    """Latents (time, variable, latent pixel) of normalised anomalies."""
    device = model.scale.device
    parts = []
    for x, when in in_batches(anomalies, season):
        mask = torch.ones(len(x), len(model.config.zooms), device=device)
        parts.append(model.encode_anomaly(x.to(device), when.to(device), mask).cpu())
    return torch.cat(parts).numpy()
