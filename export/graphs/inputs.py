"""Real fields on which exported graphs are compared with the original, and the graphs' inputs made from them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fsae.runtime.arrays import F32
from fsae.runtime.bundle.manifest import SOURCES
from fsae.runtime.climate.climatology import season as season_of
from fsae.runtime.climate.scenarios import Scenarios, forcing_in
from fsae.runtime.diffusion.sampler import noise_features
from fsae.runtime.diffusion.whitening import whiten
from fsae.runtime.ensemble.members import LatentModel, window_noise
from fsae.runtime.errors import DataError
from fsae.runtime.input.joining import read_fields
from fsae.runtime.sphere.healpix import coarsen, refine
from fsae.runtime.sphere.pyramid import level_mask
from fsae.training.config import Years
from fsae.training.data.prepared import part_of
from fsae.training.evaluation.model import TrainedModel

Inputs = dict[str, F32]
BATCH = 8  # rows computed at once, to bound the memory; no result depends on it


@dataclass(frozen=True, kw_only=True)
class Stretches:
    """Stretches of consecutive steps of real fields."""

    fields: F32  # (stretch, step, variable, pixel), physical units
    season: F32  # (stretch, step, 2K)
    year: NDArray[np.float64]  # (stretch, step), decimal


def read_stretches(store: Path, model: TrainedModel, years: Years, *, count: int, length: int) -> Stretches:
    """`count` stretches of `length` steps, spread evenly over the `years` (both included) of the prepared fields."""
    source = read_fields(store, model.variables, zoom=model.zoom, finest_zoom=model.zoom)
    try:
        inside = part_of(source, years)
        if inside.stop - inside.start < length:
            raise DataError(
                f"found {inside.stop - inside.start} steps of {years[0]} to {years[1]} in {store}",
                f"{length} or more",
                "prepare the data again with the run's configuration",
            )
        starts = np.linspace(inside.start, inside.stop - length, count).round().astype(int)
        parts = [slice(int(start), int(start) + length) for start in starts]
        fields = np.stack([source.read(part, member=0)[0] for part in parts])
        phase = np.stack([source.phase[part] for part in parts])
        year = np.stack([source.year[part] for part in parts])
    finally:
        source.close()
    return Stretches(fields=fields, season=season_of(phase, model.time.harmonics), year=year)


def encoder_inputs(stretches: Stretches, zooms: Sequence[int]) -> Inputs:
    """Every field of the stretches as a row; every second stretch is coarsened, with its finer levels masked."""
    rows, masks = [], []
    for number, fields in enumerate(stretches.fields):
        # one level coarser, then two, ..., but never only the base: as low-resolution sources are encoded
        coarser = 1 + number // 2 % max(len(zooms) - 2, 1) if number % 2 else 0
        seen = refine(coarsen(fields.astype(np.float64), coarser), coarser) if coarser else fields
        rows.append(seen.astype(np.float32))
        masks.append(np.repeat(level_mask(zooms, zooms[-1] - coarser)[None], len(fields), axis=0))
    season = stretches.season.reshape(-1, stretches.season.shape[-1])
    return {"field": np.concatenate(rows), "season": season, "level_mask": np.concatenate(masks)}


def denoiser_inputs(
    latent: F32, stretches: Stretches, model: LatentModel, sigmas: Sequence[float], scenarios: Scenarios | None
) -> Inputs:
    """Every stretch at every noise level as a row: its first steps are the previous ones, the others are the window.

    latent (stretch * step, variable, pixel). Every second row has no previous steps; the source is the one trained on.
    """
    count, length = stretches.year.shape
    season = stretches.season.reshape(len(latent), -1)
    white = whiten(latent, model.zooms, model.deviation(season), model.level_std).astype(np.float32)
    white = white.reshape(count, length, *latent.shape[1:])  # (stretch, step, variable, pixel)
    shape = (latent.shape[1], latent.shape[2])
    forcing = forcing_in(scenarios, stretches.year).astype(np.float32)
    rows: dict[str, list[F32]] = {}
    for number in range(count):
        window = white[number, model.previous :]
        for level, sigma in enumerate(sigmas):
            noise = window_noise(0, len(sigmas) * number + level, np.arange(len(window)), shape)
            known = np.float32((number + level) % 2)
            row = {
                "noisy": window + np.float32(sigma) * noise,
                "sigma": np.float32(sigma),
                "noise_features": noise_features(np.array([sigma]))[0],
                "season": stretches.season[number, model.previous :],
                "forcing": forcing[number, model.previous :],
                "source": np.float32(SOURCES.index("hr")),
                "previous": known * white[number, : model.previous],
                "previous_valid": np.full(model.previous, known, dtype=np.float32),
            }
            for name, value in row.items():
                rows.setdefault(name, []).append(np.asarray(value, dtype=np.float32))
    return {name: np.stack(values) for name, values in rows.items()}


def take(inputs: Mapping[str, F32], rows: Sequence[int] | slice) -> Inputs:
    """The given rows of every input."""
    return {name: np.ascontiguousarray(value[rows]) for name, value in inputs.items()}
