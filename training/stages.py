"""The stages of a run, each skipped when its result is there: prepare, statistics, autoencoder, diffusion."""

import logging
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fsae.runtime import climatology
from fsae.runtime.calendar import time_index
from fsae.runtime.errors import DataError, UsageError
from fsae.runtime.fields import Fields, read_fields
from fsae.runtime.grids import LatLonGrid
from fsae.runtime.pyramid import decompose, whiten

from .autoencoder import Autoencoder
from .config import Config
from .fit import autoencoder_loss, denoiser_loss, fit, forget_checkpoints
from .prepare import prepare
from .progress import steps_bar
from .run import (
    Facts,
    InputFile,
    Run,
    load_run,
    load_weights,
    make_autoencoder,
    make_denoiser,
    read_record,
    read_statistics,
    save_weights,
    sha256,
    write_record,
    write_statistics,
)
from .samples import AnomalySamples, LatentSeries, WindowSamples
from .sharpening import fit_sharpening

F32 = NDArray[np.float32]
log = logging.getLogger("fsae.training")

BATCH = 32  # steps encoded at once


def train(config: Config, inputs: list[Path], folder: Path, *, progress: bool) -> Run:
    """The finished run in `folder`; stages that ended before are not done again.

    UsageError where the folder holds a run with another configuration, DataError for unfit inputs, Stopped when
    interrupted (call it again to go on).
    """
    folder.mkdir(parents=True, exist_ok=True)
    recorded = folder / "config.json"
    if recorded.exists() and read_record(recorded, Config) != config:
        raise UsageError(f"{folder} holds a run with another configuration: choose another name or remove that folder")
    if not recorded.exists():
        write_record(recorded, config)
    torch.set_float32_matmul_precision("highest")
    prepare_stage(config, inputs, folder, progress=progress)
    fields = read_prepared(config, folder)
    statistics_stage(config, fields, folder)
    autoencoder_stage(config, fields, folder, progress=progress)
    if config.diffusion is not None:
        diffusion_stage(config, fields, folder, progress=progress)
    return load_run(folder)


def prepare_stage(config: Config, inputs: list[Path], folder: Path, *, progress: bool) -> None:
    """Write data.zarr and facts.json."""
    if (folder / "facts.json").exists():
        return
    log.info("prepare: %d files to HEALPix zoom %d", len(inputs), config.autoencoder.zoom)
    with steps_bar("prepare", progress) as moved:
        grid = prepare(
            inputs,
            folder / "data.zarr",
            config.data.variables,
            zoom=config.autoencoder.zoom,
            method=config.data.method,
            overwrite=True,
            progress=moved,
        )
    fields = read_prepared(config, folder)
    check_prepared(config, fields)
    training = np.flatnonzero(in_years(fields, config.data.training_years))
    axes = (grid.lat_deg, grid.lon_deg) if isinstance(grid, LatLonGrid) else (np.empty(0), np.empty(0))
    facts = Facts(
        inputs=tuple(InputFile(name=path.name, sha256=sha256(path)) for path in inputs),
        calendar=fields.calendar,
        step=str(fields.step),
        period=(date(fields.times[training[0]]), date(fields.times[training[-1]])),
        source_lat_deg=tuple(map(float, axes[0])),
        source_lon_deg=tuple(map(float, axes[1])),
        versions={name: version(name) for name in ("fsae", "torch", "lightning", "numpy", "healpy")},
    )
    write_record(folder / "facts.json", facts)


def check_prepared(config: Config, fields: Fields) -> None:
    """Nothing; DataError where the data does not hold what later stages need."""
    if fields.step is None:
        raise DataError("found a time axis without a constant step in the inputs, expected such as 1 month or 6 hours")
    if fields.members is not None and len(fields.members) > 1:
        raise DataError(f"found {len(fields.members)} ensemble members in the inputs, expected one: select it first")
    for years in (config.data.training_years, config.data.validation_years, config.data.evaluation_years):
        if years is not None:
            in_years(fields, years)


def date(time: object) -> str:
    """The ISO date of a cftime stamp."""
    return str(time)[:10]


def read_prepared(config: Config, folder: Path) -> Fields:
    """The prepared fields of a run, opened."""
    zoom = config.autoencoder.zoom
    return read_fields(folder / "data.zarr", config.data.variables, zoom=zoom, finest_zoom=zoom)


def in_years(fields: Fields, years: tuple[int, int]) -> NDArray[np.bool_]:
    """Which steps lie in `years`, both included; DataError where none does."""
    year = np.array([time.year for time in fields.times])
    chosen = (year >= years[0]) & (year <= years[1])
    if not chosen.any():
        raise DataError(f"found no data in {years[0]}-{years[1]}: the inputs cover {year.min()}-{year.max()}")
    return np.asarray(chosen)


def part_of(fields: Fields, years: tuple[int, int]) -> slice:
    """The steps within `years` as a slice of the sorted time axis."""
    chosen = np.flatnonzero(in_years(fields, years))
    return slice(int(chosen[0]), int(chosen[-1]) + 1)


def statistics_stage(config: Config, fields: Fields, folder: Path) -> None:
    """Climatology and scale of the training years."""
    if "climatology" in read_statistics(folder):
        return
    log.info("statistics: harmonic climatology of %d-%d", *config.data.training_years)
    part = part_of(fields, config.data.training_years)
    values, phase = fields.read(part)[0], fields.phase[part]
    coefficients = climatology.fit(values, phase, config.data.harmonics)
    season = climatology.season(phase, config.data.harmonics)
    scale = climatology.anomaly_scale(values, coefficients, season)
    write_statistics(folder, {"climatology": coefficients, "scale": scale})


def normalised(config: Config, fields: Fields, statistics: dict[str, F32], years: tuple[int, int]) -> tuple[F32, F32]:
    """Normalised anomalies (time, variable, pixel) of `years` and their season (time, 2K)."""
    part = part_of(fields, years)
    season = climatology.season(fields.phase[part], config.data.harmonics)
    values = fields.read(part)[0]
    values -= climatology.evaluate(statistics["climatology"], season)
    return values / statistics["scale"][:, None], season


def autoencoder_stage(config: Config, fields: Fields, folder: Path, *, progress: bool) -> None:
    """Train the autoencoder."""
    if (folder / "autoencoder.safetensors").exists():
        return
    statistics = read_statistics(folder)
    anomalies, season = normalised(config, fields, statistics, config.data.training_years)
    settings = config.autoencoder_fit
    log.info("autoencoder: %d steps of %d samples", settings.steps, settings.batch)

    def samples(first: int, count: int) -> AnomalySamples:
        return AnomalySamples(anomalies, season, mixture=settings.mixture, seed=config.seed, first=first, count=count)

    model = fit(
        make_autoencoder(config, statistics),
        autoencoder_loss,
        settings,
        config.trainer,
        samples,
        folder=folder / "autoencoder",
        seed=config.seed,
        progress=progress,
        validation=_autoencoder_validation(config, fields, statistics),
    )
    sharpen(model, anomalies, season)
    save_weights(model, folder / "autoencoder.safetensors")
    forget_checkpoints(folder / "autoencoder")


def sharpen(model: Autoencoder, anomalies: F32, season: F32) -> None:
    """Fit the decoder's sharpening to at most 120 months spread over the training years."""
    chosen = np.unique(np.linspace(0, len(anomalies) - 1, 120).round().astype(int))
    true, when = anomalies[chosen], season[chosen]
    model.eval()
    latents = encode_series(model, true, when)
    with torch.no_grad():
        parts = zip(in_batches(latents), in_batches(when), strict=True)
        rebuilt = torch.cat([model.decode_anomaly(latent, features) for latent, features in parts]).numpy()
    for variable in range(true.shape[1]):
        numbers = fit_sharpening(rebuilt[:, variable], true[:, variable])
        model.sharpening[variable] = torch.from_numpy(numbers)
        log.info("sharpening of variable %d: %.3f, %.3f", variable, *numbers)


def _autoencoder_validation(
    config: Config, fields: Fields, statistics: dict[str, F32]
) -> Callable[[Autoencoder], float] | None:
    """Root mean square error on the validation years, normalised; None where there are none."""
    if config.data.validation_years is None:
        return None
    anomalies, season = normalised(config, fields, statistics, config.data.validation_years)
    pairs = list(zip(in_batches(anomalies), in_batches(season), strict=True))

    @torch.no_grad()
    def validation(model: Autoencoder) -> float:
        device = model.scale.device
        total = sum(float(autoencoder_loss(model, (x.to(device), s.to(device)))) * len(x) for x, s in pairs)
        return float(np.sqrt(total / len(anomalies)))

    return validation


def in_batches(array: F32) -> tuple[Tensor, ...]:
    """Tensors of `BATCH` steps."""
    return torch.split(torch.from_numpy(array), BATCH)


def encode_series(model: Autoencoder, anomalies: F32, season: F32) -> F32:
    """Latents (time, variable, latent pixel) of normalised anomalies."""
    mask = torch.ones(1, len(model.config.zooms))
    with torch.no_grad():
        parts: list[Tensor] = [
            model.encode_anomaly(x, s, mask.expand(len(x), -1))
            for x, s in zip(in_batches(anomalies), in_batches(season), strict=True)
        ]
    return torch.cat(parts).numpy()


def latent_spread(latents: F32, zooms: tuple[int, ...]) -> dict[str, F32]:
    """Tables of `pyramid.whiten`: standard deviation of each cell, and of each level after dividing by it.

    The latent's mean over time is zero but for the autoencoder's rounding, as the climatology is gone. A residual of
    unit white noise has the mean square 1 - 4**-step: the level's own is measured against that.
    """
    cell_std = np.sqrt(np.square(latents, dtype=np.float64).mean(axis=0))  # (variable, pixel)
    level_std = []
    for index, level in enumerate(decompose(latents / cell_std, zooms)):
        share = 1.0 if index == 0 else 1 - 4.0 ** (zooms[index - 1] - zooms[index])
        level_std.append(np.sqrt(np.square(level).mean(axis=(0, 2)) / share))
    return {
        "latent_cell_std": cell_std.astype(np.float32),
        "latent_level_std": np.stack(level_std, axis=1).astype(np.float32),  # (variable, level)
    }


def diffusion_stage(config: Config, fields: Fields, folder: Path, *, progress: bool) -> None:
    """Spreads of the latents, then train the denoiser on the whitened latents of the training years."""
    if (folder / "denoiser.safetensors").exists() or config.diffusion is None or config.diffusion_fit is None:
        return
    statistics = read_statistics(folder)
    model = make_autoencoder(config, statistics)
    load_weights(model, folder / "autoencoder.safetensors")
    years = config.data.training_years
    anomalies, season = normalised(config, fields, statistics, years)
    zooms = config.autoencoder.latent_zooms
    latents = encode_series(model, anomalies, season)
    spread = latent_spread(latents, zooms)
    write_statistics(folder, {**statistics, **spread})
    series = LatentSeries(
        index=np.array([time_index(time, str(fields.step)) for time in fields.times[part_of(fields, years)]]),
        white=whiten(latents, zooms, spread["latent_cell_std"], spread["latent_level_std"]).astype(np.float32),
        season=season,
        forcing=fields.year[part_of(fields, years)].astype(np.float32),
    )
    shape, settings, seed = config.diffusion, config.diffusion_fit, config.seed + 1
    log.info("diffusion: %d steps of %d windows", settings.steps, settings.batch)

    def samples(first: int, count: int) -> WindowSamples:
        return WindowSamples(
            series,
            config.noise,
            window=shape.window,
            previous=shape.previous,
            seed=seed,
            first=first,
            count=count,
        )

    denoiser = fit(
        make_denoiser(config),
        denoiser_loss,
        settings,
        config.trainer,
        samples,
        folder=folder / "diffusion",
        seed=seed,
        progress=progress,
    )
    save_weights(denoiser, folder / "denoiser.safetensors")
    forget_checkpoints(folder / "diffusion")
