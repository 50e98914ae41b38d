"""The diffusion stage of a run: latents of every source, their spread, and the denoiser trained on them."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from scipy import linalg

from fsae.runtime.arrays import F32, F64
from fsae.runtime.climate import climatology
from fsae.runtime.climate.calendar import time_index
from fsae.runtime.climate.scenarios import Scenarios, forcing_in
from fsae.runtime.diffusion.whitening import seasonal_std, unwhiten, whiten
from fsae.runtime.errors import UsageError
from fsae.runtime.input.fields import Fields
from fsae.runtime.sphere.pyramid import decompose
from fsae.training.config import Config, calendar_years
from fsae.training.data.datasets import Stretch, WindowSamples
from fsae.training.data.low_resolution import Reference, lost_variance, low_resolution_stretches
from fsae.training.data.prepared import Prepared, encode_series, part_of
from fsae.training.data.scenarios import scenarios_of
from fsae.training.networks.autoencoder import Autoencoder
from fsae.training.networks.denoiser import Denoiser
from fsae.training.networks.halo import spherical_harmonics
from fsae.training.networks.patterns import WAVES

from .distil import distil_loss, student_of, teacher_levels
from .loop import Loop, denoiser_loss, fit, keep
from .processes import is_first, wait_for
from .run_folder import (
    fast_levels,
    load_weights,
    make_autoencoder,
    make_denoiser,
    round_weights,
    save_weights,
    write_statistics,
)

log = logging.getLogger("fsae.training")
SPREAD_HARMONICS = 2
PHASES = 12  # of the year, at which variances are taken
KERNEL_YEARS = 1 / 12  # standard deviation of the Gaussian weight of steps around a phase


def latent_spread(latents: F32, season: F32, zooms: tuple[int, ...]) -> dict[str, F32]:
    """Tables of `whitening.whiten`: standard deviation of each cell by season, and of each level after dividing by it.

    The variance at `PHASES` times of the year is a mean over the steps (time, variable, pixel) nearby, by their season
    features (time, 2K); its logarithm is expanded in at most `SPREAD_HARMONICS` harmonics.

    The latent's mean over time is zero up to the autoencoder's errors, as the climatology is removed. A residual of
    unit white noise has the mean square 1 - 4**-step: the level's own is measured against that.
    """
    harmonics = min(SPREAD_HARMONICS, season.shape[1] // 2)
    times = (np.arange(PHASES) + 0.5) / PHASES
    phase = np.arctan2(season[:, 1], season[:, 0]) / (2 * np.pi)  # of the first harmonic's cosine and sine
    away = (phase - times[:, None] + 0.5) % 1 - 0.5  # (time of year, step), fraction of the year
    weight = np.exp(-0.5 * (away / KERNEL_YEARS) ** 2)
    weight /= weight.sum(axis=1, keepdims=True)
    variance = np.tensordot(weight, np.square(latents, dtype=np.float64), axes=1)  # (time of year, variable, pixel)
    table = climatology.fit(0.5 * np.log(variance), times, harmonics)  # (variable, 1 + 2H, pixel)
    cell_std, season_std = np.exp(table[:, 0]), np.ascontiguousarray(table[:, 1:])
    level_std = []
    for index, level in enumerate(decompose(latents / seasonal_std(cell_std, season_std, season), zooms)):
        share = 1.0 if index == 0 else 1 - 4.0 ** (zooms[index - 1] - zooms[index])
        level_std.append(np.sqrt(np.square(level).mean(axis=(0, 2)) / share))
    return {
        "latent_cell_std": cell_std.astype(np.float32),
        "latent_season_std": season_std.astype(np.float32),
        "latent_level_std": np.stack(level_std, axis=1).astype(np.float32),  # (variable, level)
    }


def diffusion_stage(
    data: Prepared, low_resolution: Sequence[Sequence[Path]], folder: Path, *, device: torch.device, progress: bool
) -> None:
    """Make the denoiser and the distilled one, unless they are there; latents are encoded on `device`.

    `low_resolution` has the files of each low-resolution source.
    """
    config = data.config
    trained = (folder / "denoiser.safetensors").exists()
    distilled = config.fast is None or (folder / "fast.safetensors").exists()
    if config.diffusion is None or (trained and distilled):
        return
    white, spread = whitened(data, low_resolution, folder, device)
    if not trained:
        train_denoiser(data, white, spread, folder, progress=progress)
    if not distilled:
        distil_denoiser(config, white, folder, progress=progress)


def train_denoiser(
    data: Prepared, white: Sequence[Stretch], spread: Mapping[str, F32], folder: Path, *, progress: bool
) -> None:
    """Train the denoiser on whitened latents, whose spreads are kept with the run's statistics."""
    config, settings = data.config, data.config.diffusion_fit
    if settings is None:
        raise UsageError(
            f"the run {config.name} has no [diffusion_fit]",
            advice="add that table to the configuration, as in training/configs/default.toml",
        )
    if is_first():
        write_statistics(folder, {**data.statistics, **spread})
    denoiser = make_denoiser(config)
    start = folder / "diffusion" / "start.safetensors"  # the same for every process: eigenvectors differ by rounding
    if is_first() and not start.exists():
        fit_linear_part(denoiser, white, autoencoder_of(data, folder), spread, scenarios_of(config, data.statistics))
        start.parent.mkdir(exist_ok=True)
        save_weights(denoiser, start)
    wait_for(start)
    load_weights(denoiser, start)
    denoiser.train()
    log.info("diffusion: %d steps of %d windows", settings.steps, settings.batch)
    loop = Loop(
        settings=settings,
        trainer=config.trainer,
        folder=folder / "diffusion",
        seed=config.seed + 1,
        progress=progress,
    )
    fit(denoiser, denoiser_loss, window_samples(config, white, loop.seed), loop)
    round_weights(denoiser)
    keep(denoiser, folder / "denoiser.safetensors", loop.folder)
    if is_first():
        start.unlink()


def fit_linear_part(
    denoiser: Denoiser,
    white: Sequence[Stretch],
    autoencoder: Autoencoder,
    spread: Mapping[str, F32],
    scenarios: Scenarios | None,
) -> None:
    """Give a denoiser the range of the forcing and the Wiener filter of an autoencoder's whitened latents."""
    zooms = autoencoder.config.latent_zooms
    forcing = np.concatenate([stretch.forcing for stretch in white])
    # whole years, or two decimals of any other forcing
    unit = 1.0 if scenarios is None else 0.01
    ends = np.floor(forcing.min() / unit), np.ceil(forcing.max() / unit)
    denoiser.forcing_range.copy_(torch.tensor([unit * end for end in ends]))
    parts = [part for stretch in white for part in consecutive(stretch)]
    denoiser.wiener.fit(
        [part.latents for part in parts],
        [denoiser.relative(torch.from_numpy(part.forcing)).numpy() for part in parts],
        large_waves(zooms, spread["latent_cell_std"], spread["latent_level_std"]),
        latent_fields(autoencoder, spread),
    )


def whitened(
    data: Prepared, low_resolution: Sequence[Sequence[Path]], folder: Path, device: torch.device
) -> tuple[list[Stretch], dict[str, F32]]:
    """Whitened latents of every source, encoded on `device`, and the spreads they were divided by."""
    config = data.config
    model = autoencoder_of(data, folder).to(device)
    stretches, reference = [], None
    if "hr" in config.sources.labels:
        anomalies, season = data.training
        reference = Reference(anomalies=anomalies, season=season, latents=encode_series(model, anomalies, season))
        stretches.append(high_resolution_stretch(config, data.fields, reference, scenarios_of(config, data.statistics)))
    stretches += low_resolution_stretches(
        config, low_resolution, data.statistics, model, str(data.fields.step), reference
    )
    zooms = config.autoencoder.latent_zooms
    spread = latent_spread(
        np.concatenate([stretch.latents for stretch in stretches]),
        np.concatenate([stretch.season for stretch in stretches]),
        zooms,
    )
    cell_std, season_std, level_std = (spread[f"latent_{name}_std"] for name in ("cell", "season", "level"))
    white = [
        replace(
            stretch,
            latents=whiten(
                stretch.latents, zooms, seasonal_std(cell_std, season_std, stretch.season), level_std
            ).astype(np.float32),
        )
        for stretch in stretches
    ]
    return white, spread


def autoencoder_of(data: Prepared, folder: Path) -> Autoencoder:
    """The trained autoencoder of a run."""
    model = make_autoencoder(data.config, data.statistics)
    load_weights(model, folder / "autoencoder.safetensors")
    return model


def window_samples(config: Config, white: Sequence[Stretch], seed: int) -> WindowSamples:
    """Training samples of whitened latents."""
    shape = config.diffusion
    if shape is None:
        raise UsageError(
            f"the run {config.name} has no [diffusion]",
            advice="add that table to the configuration, as in training/configs/default.toml",
        )
    jitter = config.noise.forcing_jitter_years
    if config.forcing is not None:  # as much of its range as these years are of the training years
        first, last = calendar_years(config.data.training_years)
        jitter *= float(np.ptp(np.concatenate([stretch.forcing for stretch in white]))) / (last + 1 - first)
    return WindowSamples(
        white,
        config.noise,
        forcing_jitter=jitter,
        high_resolution_share=config.sources.high_resolution_share,
        window=shape.window,
        previous=shape.previous,
        seed=seed,
    )


def distil_denoiser(config: Config, white: Sequence[Stretch], folder: Path, *, progress: bool) -> None:
    """Distil the trained denoiser into one that needs few steps (distil.py)."""
    if config.fast is None or config.fast_fit is None:
        raise UsageError(
            f"the run {config.name} has no [fast]",
            advice="add that table to the configuration, as in training/configs/default.toml",
        )
    teacher = make_denoiser(config)
    load_weights(teacher, folder / "denoiser.safetensors")
    levels = fast_levels(config)
    within = teacher_levels(levels, config.fast.teacher_steps, config.sampler.sigma_min, config.sampler.rho)
    loss = distil_loss(teacher, levels, within, config.sampler.name)
    log.info("distillation: %d steps of %d windows", config.fast_fit.steps, config.fast_fit.batch)
    loop = Loop(
        settings=config.fast_fit,
        trainer=config.trainer,
        folder=folder / "fast",
        seed=config.seed + 2,
        progress=progress,
    )
    student = student_of(teacher, levels)
    fit(student, loss, window_samples(config, white, loop.seed), loop)
    round_weights(student)
    keep(student, folder / "fast.safetensors", loop.folder)


def high_resolution_stretch(
    config: Config, fields: Fields, reference: Reference, scenarios: Scenarios | None
) -> Stretch:
    """The training years as a source, scaled up by the variance lost to the fit of their climatology."""
    part = part_of(fields, config.data.training_years)
    seasonal = config.data.normalisation == "climatology" and not config.data.cycle
    coefficients = 1 + 2 * config.data.harmonics if seasonal else 1
    gain = lost_variance(coefficients, len(reference.latents))
    return Stretch(
        source="hr",
        index=np.array([time_index(time, str(fields.step)) for time in fields.times[part]]),
        latents=np.asarray(gain * reference.latents, dtype=np.float32),
        season=reference.season,
        forcing=forcing_in(scenarios, fields.year[part]).astype(np.float32),
    )


def large_waves(zooms: tuple[int, ...], cell_std: F32, level_std: F32) -> F32:
    """(wave, variable, pixel): whitened latents times one of these give a wave of degree 0 to 2 of the latents.

    Whitening is division by the deviation of each cell, then a symmetric map G; so a wave y of the latents is seen by
    G^-1 (cell_std y) in the whitened ones.
    """
    variables = len(cell_std)
    waves = spherical_harmonics(zooms[-1], WAVES).T  # (wave, pixel)
    unit = np.eye(variables)[:, None, :, None]  # a wave of one variable after the other
    seen = unwhiten(unit * waves[:, None] * cell_std, zooms, np.ones_like(cell_std), level_std)
    return np.asarray(seen.reshape(-1, *cell_std.shape), dtype=np.float32)


def latent_fields(autoencoder: Autoencoder, spread: Mapping[str, F32]) -> tuple[F64, F64] | None:
    """The maps from whitened latents (variable, latent, pixel) to the fields of dense maps, and back.

    The maps back are (variable, pixel, latent). None without such maps: the cells of the latents are places then.
    Without the seasons of maps and spread.
    """
    if autoencoder.config.global_zoom is None:
        return None
    zooms = autoencoder.config.latent_zooms
    cell_std, level_std = spread["latent_cell_std"].astype(np.float64), spread["latent_level_std"].astype(np.float64)
    variables, latents = cell_std.shape
    unit = np.broadcast_to(np.eye(latents)[:, None], (latents, variables, latents))
    there, back = (
        np.stack([linalg.block_diag(*blocks) for blocks in maps[:, 0].double().cpu().numpy()])
        for maps in (autoencoder.from_latent, autoencoder.to_latent)
    )
    unwhitened = unwhiten(unit, zooms, cell_std, level_std).swapaxes(0, 1)
    white = whiten(unit, zooms, cell_std, level_std).swapaxes(0, 1)
    return unwhitened @ there, back @ white


def consecutive(stretch: Stretch) -> list[Stretch]:
    """The stretch, cut at missing steps."""
    ends = [*(np.flatnonzero(np.diff(stretch.index) != 1) + 1).tolist(), len(stretch.index)]
    return [
        Stretch(
            source=stretch.source,
            index=stretch.index[first:last],
            latents=stretch.latents[first:last],
            season=stretch.season[first:last],
            forcing=stretch.forcing[first:last],
        )
        for first, last in pairwise([0, *ends])
    ]
