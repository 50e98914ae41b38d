"""The stages of a run, each skipped when its result is there: prepare, statistics, autoencoder, diffusion."""

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fsae.runtime.calendar import time_index
from fsae.runtime.errors import DataError, UsageError
from fsae.runtime.fields import Fields, read_fields
from fsae.runtime.grids import LatLonGrid
from fsae.runtime.healpix import coarsen
from fsae.runtime.pyramid import decompose, whiten

from .autoencoder import Autoencoder
from .config import Config
from .fit import autoencoder_loss, check_trainer, denoiser_loss, fit, forget_checkpoints
from .global_map import global_maps
from .halo import spherical_harmonics
from .normalisation import Series, fit_statistics, normalised
from .prepare import prepare
from .processes import interruptible, is_first, wait_for
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
from .static_fields import static_inputs

F32 = NDArray[np.float32]
log = logging.getLogger("fsae.training")

BATCH = 32  # steps encoded at once, fewer where fields are large
BATCH_VALUES = 1 << 23  # their values: 32 MiB
MAP_STEPS = 4096  # whose covariance makes the dense maps
SHARPEN_STEPS = 120
SHARPEN_VALUES = 1 << 26  # their values: 256 MiB
MIXTURE_WAVES = 9  # spherical harmonics of degree 0 to 2: the weights of a mixture vary over some 5,000 km


def train(config: Config, inputs: Sequence[Path], folder: Path, *, static: Sequence[Path] = (), progress: bool) -> Run:
    """The finished run in `folder`; stages that ended before are not done again. `static` are files of static fields.

    UsageError where the folder holds a run with another configuration, DataError for unfit inputs, Stopped or
    KeyboardInterrupt when interrupted (call it again to go on).
    """
    device = check_trainer(config.autoencoder_fit, config.trainer)
    torch.set_float32_matmul_precision("highest")
    with interruptible():
        if is_first():
            record_config(config, folder)
            prepare_stage(config, inputs, static, folder, progress=progress)
        wait_for(folder / "facts.json")
        fields = read_prepared(config, folder)
        if is_first():
            statistics_stage(config, fields, static, folder)
        wait_for(folder / "statistics.npz")
        autoencoder_stage(config, fields, folder, progress=progress)
        if config.diffusion is not None:
            diffusion_stage(config, fields, folder, device=device, progress=progress)
    return load_run(folder)


def record_config(config: Config, folder: Path) -> None:
    """Write config.json; UsageError where one is there that differs in more than what the run is trained on."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "config.json"
    if not path.exists():
        write_record(path, config)
        return
    recorded = read_record(path, Config)
    if isinstance(recorded, Config):
        recorded = replace(recorded, trainer=replace(config.trainer, precision=recorded.trainer.precision))
    if recorded != config:
        raise UsageError(f"{folder} holds a run with another configuration: choose another name or remove that folder")


def prepare_stage(
    config: Config, inputs: Sequence[Path], static: Sequence[Path], folder: Path, *, progress: bool
) -> None:
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
        inputs=tuple(InputFile(name=path.name, sha256=sha256(path)) for path in (*inputs, *static)),
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


def statistics_stage(config: Config, fields: Fields, static: Sequence[Path], folder: Path) -> None:
    """Climatology and scale of the training years, and the static fields where the model reads them."""
    if "climatology" in read_statistics(folder):
        return
    log.info("statistics: %s of %d-%d", config.data.normalisation, *config.data.training_years)
    part = part_of(fields, config.data.training_years)
    statistics = fit_statistics(config.data, fields, part)
    if config.autoencoder.static_fields:
        statistics["static"] = static_inputs(static, config.autoencoder.zoom)
    write_statistics(folder, statistics)


def autoencoder_stage(config: Config, fields: Fields, folder: Path, *, progress: bool) -> None:
    """Train the autoencoder."""
    if (folder / "autoencoder.safetensors").exists():
        return
    statistics = read_statistics(folder)
    anomalies, season = normalised(config, fields, statistics, part_of(fields, config.data.training_years))
    settings = config.autoencoder_fit
    log.info("autoencoder: %d steps of %d samples", settings.steps, settings.batch)

    waves = spherical_harmonics(config.autoencoder.zoom, MIXTURE_WAVES).T  # (wave, pixel)

    def samples(first: int, count: int) -> AnomalySamples:
        return AnomalySamples(
            anomalies,
            season,
            waves,
            mixture=settings.mixture,
            localisation=settings.localisation,
            seed=config.seed,
            first=first,
            count=count,
        )

    model = make_autoencoder(config, statistics)
    fit_global_maps(model, anomalies, fields.phase[part_of(fields, config.data.training_years)])
    fit(
        model,
        autoencoder_loss,
        settings,
        config.trainer,
        samples,
        folder=folder / "autoencoder",
        seed=config.seed,
        progress=progress,
        validation=_autoencoder_validation(config, fields, statistics),
    )
    if is_first():
        model.round_maps()
        if config.autoencoder.sharpen:
            sharpen(model, anomalies, season)
        save_weights(model, folder / "autoencoder.safetensors")
        forget_checkpoints(folder / "autoencoder")
    wait_for(folder / "autoencoder.safetensors")


def fit_global_maps(model: Autoencoder, anomalies: Series, phase: NDArray[np.float64]) -> None:
    """Give a model that has dense maps those of the normalised anomalies (time, variable, pixel) and their phase."""
    shape = model.config
    if shape.global_zoom is None:
        return
    steps = evenly_spread(len(anomalies), MAP_STEPS)
    coarse = np.stack([coarsen(anomalies[step].astype(np.float64), shape.zoom - shape.map_zoom) for step in steps])
    for variable in range(coarse.shape[1]):
        to_latent, from_latent = global_maps(
            coarse[:, variable], phase[steps], shape.latent_zoom, shape.base_zoom, shape.global_harmonics
        )
        model.to_latent[variable] = torch.from_numpy(to_latent)
        model.from_latent[variable] = torch.from_numpy(from_latent)


def evenly_spread(length: int, count: int) -> list[int]:
    """At most `count` different places within `length`, evenly spread, first and last included.

    >>> evenly_spread(9, 3), evenly_spread(2, 3)
    ([0, 4, 8], [0, 1])
    """
    return [int(place) for place in np.unique(np.linspace(0, length - 1, count).round())]


def sharpen(model: Autoencoder, anomalies: Series, season: F32) -> None:
    """Fit the decoder's sharpening to at most 120 steps spread over the training years, fewer of large fields."""
    held = max(2, SHARPEN_VALUES // int(np.prod(anomalies.shape[1:])))
    chosen = evenly_spread(len(anomalies), min(SHARPEN_STEPS, held))
    true, when = anomalies[chosen], season[chosen]
    model.eval()
    latents = encode_series(model, true, when)
    with torch.no_grad():
        parts = [model.decode_anomaly(latent, features) for latent, features in in_batches(latents, when)]
    rebuilt = torch.cat(parts).numpy()
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
    anomalies, season = normalised(config, fields, statistics, part_of(fields, config.data.validation_years))

    @torch.no_grad()
    def validation(model: Autoencoder) -> float:
        device = model.scale.device
        total = 0.0
        for x, when in in_batches(anomalies, season):
            total += float(autoencoder_loss(model, (x.to(device), when.to(device)))) * len(x)
        return float(np.sqrt(total / len(anomalies)))

    return validation


def in_batches(series: Series, season: F32) -> Iterator[tuple[Tensor, Tensor]]:
    """Steps of a series (time, variable, pixel) with their season (time, 2K), at most `BATCH` at once."""
    size = max(1, min(BATCH, BATCH_VALUES // int(np.prod(series.shape[1:]))))
    for first in range(0, len(series), size):
        part = slice(first, first + size)
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


def diffusion_stage(config: Config, fields: Fields, folder: Path, *, device: torch.device, progress: bool) -> None:
    """Spreads of the latents, made on `device`; then train the denoiser on those of the training years, whitened."""
    if (folder / "denoiser.safetensors").exists() or config.diffusion is None or config.diffusion_fit is None:
        return
    statistics = read_statistics(folder)
    model = make_autoencoder(config, statistics)
    load_weights(model, folder / "autoencoder.safetensors")
    part = part_of(fields, config.data.training_years)
    anomalies, season = normalised(config, fields, statistics, part)
    zooms = config.autoencoder.latent_zooms
    latents = encode_series(model.to(device), anomalies, season)
    spread = latent_spread(latents, zooms)
    if is_first():
        write_statistics(folder, {**statistics, **spread})
    series = LatentSeries(
        index=np.array([time_index(time, str(fields.step)) for time in fields.times[part]]),
        white=whiten(latents, zooms, spread["latent_cell_std"], spread["latent_level_std"]).astype(np.float32),
        season=season,
        forcing=fields.year[part].astype(np.float32),
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
    if is_first():
        save_weights(denoiser, folder / "denoiser.safetensors")
        forget_checkpoints(folder / "diffusion")
    wait_for(folder / "denoiser.safetensors")
