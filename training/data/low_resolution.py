"""Low-resolution sources of the diffusion model, which enter the latent space by zero-shot super-resolution.

Fields of a source are averaged to its coarse zoom, reduced to anomalies and encoded with every finer level masked
(Meuer et al. 2026, section 3): a source adds latents to learn from; the autoencoder never sees it.
"""

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from fsae.runtime.arrays import F32, F64
from fsae.runtime.climate import climatology
from fsae.runtime.climate.calendar import time_index
from fsae.runtime.climate.scenarios import forcing_in
from fsae.runtime.climate.transforms import forward
from fsae.runtime.errors import DataError
from fsae.runtime.input.fields import Fields
from fsae.runtime.input.joining import read_fields
from fsae.runtime.sphere.healpix import coarsen
from fsae.runtime.sphere.pyramid import decompose, level_mask, recompose
from fsae.runtime.sphere.regrid import once_a_grid
from fsae.training.config import Config, LowResolution
from fsae.training.networks.autoencoder import Autoencoder
from fsae.training.networks.layers import refine

from .datasets import Stretch
from .normalisation import Series, transforms_of
from .prepared import in_batches
from .scenarios import scenarios_of

READ_VALUES = 1 << 23  # at once: 32 MiB

log = logging.getLogger("fsae.training")


@dataclass(frozen=True, kw_only=True)
class Reference:
    """High-resolution months: normalised anomalies (time, V, N), season (time, 2K) and latents (time, V, Nzb)."""

    anomalies: Series
    season: F32
    latents: F32


def low_resolution_stretches(
    config: Config,
    files: Sequence[Sequence[Path]],
    statistics: Mapping[str, F32],
    model: Autoencoder,
    step: str,
    reference: Reference | None,
) -> list[Stretch]:
    """Latents of every member of every low-resolution source of a configuration; `files` are those of each source.

    Without its finer levels a field has weaker latents. With a `reference` each of their levels is amplified by what
    the reference's own latents lose when only its coarse levels are encoded. DataError if a source has another time
    step than `step`, or a grid too coarse for its zoom.
    """
    found, weights = [], once_a_grid()
    zooms = config.autoencoder.latent_zooms
    for source, paths in zip(config.sources.low_resolution, files, strict=True):
        for path in paths:
            fields = read_fields(
                path,
                config.data.variables,
                finest_zoom=config.autoencoder.zoom,
                names=source.names,
                make_weights=weights,
            )
            try:
                stretches = list(_stretches(config, source, fields, statistics, model, step))
            finally:
                fields.close()
            log.info("low resolution: %s, %d members of %d steps", path.name, len(stretches), len(stretches[0].index))
            if reference is not None:
                gains = level_gains(model, reference, source.zoom, zooms)
                log.info("low resolution: levels amplified by %s", np.round(gains, 2).tolist())
                stretches = [replace(part, latents=amplified(part.latents, gains, zooms)) for part in stretches]
            found += stretches
    return found


def _stretches(
    config: Config, source: LowResolution, fields: Fields, statistics: Mapping[str, F32], model: Autoencoder, step: str
) -> Iterator[Stretch]:
    if fields.zoom < source.zoom:
        raise DataError(
            f"found {fields.source} at zoom {fields.zoom}",
            f"zoom {source.zoom} or finer",
            "give data on a grid that is finer, or a lower zoom for that source",
        )
    if fields.step != step:
        raise DataError(
            f"found a step of {fields.step} in {fields.source}",
            f"{step} as in the training data",
            "average it to these steps, or leave that source out",
        )
    years = np.array([time.year for time in fields.times])
    low, high = source.years or (years.min(), years.max())
    chosen = np.flatnonzero((years >= low) & (years <= high))
    if not chosen.size:
        raise DataError(
            f"found {years.min()}-{years.max()} in {fields.source}",
            f"some of {low}-{high}",
            "give files of these years, or change the years of that source",
        )
    part = slice(int(chosen[0]), int(chosen[-1]) + 1)
    values = np.stack([_coarse(fields, member, part, source.zoom) for member in range(fields.shape[0])])
    values = forward(values, transforms_of(config.data))  # (member, time, variable, pixel)
    anomalies = anomalies_of(config, source, values, fields.phase[part], statistics)
    season = climatology.season(fields.phase[part], config.data.harmonics)
    own = forcing_in(scenarios_of(config, statistics), fields.year[part]) if source.forcing is None else source.forcing
    forcing = np.broadcast_to(own, len(chosen)).astype(np.float32)
    index = np.array([time_index(time, step) for time in fields.times[part]])
    for member in anomalies:
        latents = encode_coarse(model, member, season, source.zoom)
        yield Stretch(source="lr", index=index, latents=latents, season=season, forcing=forcing)


def _coarse(fields: Fields, member: int, part: slice, zoom: int) -> F32:
    """Fields (time, variable, pixel) of one member at `zoom`.

    Many steps are read at once: files hold them in compressed chunks, and a chunk is unpacked at every read.
    """
    size = max(1, READ_VALUES // int(np.prod(fields.shape[2:])))
    blocks = (slice(first, min(first + size, part.stop)) for first in range(part.start, part.stop, size))
    read = (fields.read(block, member)[0].astype(np.float64) for block in blocks)
    coarse: F32 = np.concatenate([coarsen(values, fields.zoom - zoom).astype(np.float32) for values in read])
    return coarse


def level_gains(model: Autoencoder, reference: Reference, zoom: int, zooms: tuple[int, ...]) -> F64:
    """Standard deviation (variable, level) of the reference's latents over that of its fields averaged to `zoom`."""
    levels = model.config.zoom - zoom
    coarse = np.stack([coarsen(reference.anomalies[step], levels) for step in range(len(reference.anomalies))])
    seen = encode_coarse(model, coarse.astype(np.float32), reference.season, zoom)
    deviations = [
        np.stack([np.sqrt(np.square(level, dtype=np.float64).mean(axis=(0, 2))) for level in decompose(latents, zooms)])
        for latents in (reference.latents, seen)
    ]
    return np.asarray((deviations[0] / deviations[1]).T)


def amplified(latents: F32, gains: F64, zooms: tuple[int, ...]) -> F32:
    """Latents (time, variable, pixel) with every level times its gain (variable, level)."""
    levels = [level * gains[:, k, None] for k, level in enumerate(decompose(latents, zooms))]
    return np.asarray(recompose(levels, zooms), dtype=np.float32)


def anomalies_of(config: Config, source: LowResolution, values: F32, phase: F64, statistics: Mapping[str, F32]) -> F32:
    """Normalised anomalies of transformed values (member, time, variable, pixel) at the source's zoom.

    They are about the training climatology, or about the source's own; then scaled up by the variance lost to its fit.
    """
    levels = config.autoencoder.zoom - source.zoom
    if source.climatology == "training":
        mean = coarsen(statistics["climatology"].astype(np.float64), levels)
        anomalies = values - climatology.evaluate(mean, climatology.season(phase, config.data.harmonics))
    else:
        members, steps = values.shape[:2]
        harmonics = climatology.affordable_harmonics(phase, members, config.data.harmonics)
        solver = climatology.projection(phase, harmonics)
        own = np.tensordot(solver, values.mean(axis=0, dtype=np.float64), axes=1).transpose(1, 0, 2)
        anomalies = values - climatology.evaluate(own, climatology.season(phase, harmonics))
        anomalies *= lost_variance(len(solver), members * steps)
    scale = statistics["scale"][:, None]
    if "pixel_scale" in statistics:
        scale = scale * coarsen(statistics["pixel_scale"], levels)
    return np.asarray(anomalies / scale, dtype=np.float32)


def lost_variance(coefficients: int, steps: int) -> float:
    """The factor by which anomalies about a climatology fitted to the same steps are too small.

    They have lost the share coefficients / steps of their variance, on average and if months are independent.

    >>> round(lost_variance(9, 36), 6)
    1.154701
    """
    return float((1 - coefficients / steps) ** -0.5)


@torch.no_grad()
def encode_coarse(model: Autoencoder, anomalies: F32, season: F32, zoom: int) -> F32:
    """Latents (time, variable, latent pixel) of normalised anomalies (time, variable, pixel) at a coarser `zoom`."""
    device, zooms = model.scale.device, model.config.zooms
    mask = torch.from_numpy(level_mask(zooms, zoom)).to(device)
    parts = []
    for coarse, when in in_batches(anomalies, season):
        fine = refine(coarse.to(device), zooms[-1] - zoom)
        parts.append(model.encode_anomaly(fine, when.to(device), mask.expand(len(fine), -1)).cpu())
    return torch.cat(parts).numpy()
