"""The stages of a run, each skipped when its result is there: prepare, statistics, autoencoder, diffusion."""

import logging
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from fsae.runtime.errors import DataError, UsageError
from fsae.runtime.fields import Fields
from fsae.runtime.grids import LatLonGrid
from fsae.runtime.healpix import coarsen

from .autoencoder import Autoencoder
from .config import Config, Files
from .diffusion import diffusion_stage
from .fit import autoencoder_loss, check_trainer, fit, forget_checkpoints
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
    make_autoencoder,
    read_record,
    read_statistics,
    round_weights,
    save_weights,
    sha256,
    write_record,
    write_statistics,
)
from .samples import AnomalySamples
from .series import encode_series, in_batches, in_years, part_of, read_prepared
from .sharpening import fit_sharpening
from .static_fields import static_inputs

F32 = NDArray[np.float32]
log = logging.getLogger("fsae.training")

MAP_STEPS = 4096  # whose covariance makes the dense maps
SHARPEN_STEPS = 120
SHARPEN_VALUES = 1 << 26  # their values: 256 MiB
MIXTURE_WAVES = 9  # spherical harmonics of degree 0 to 2: the weights of a mixture vary over some 5,000 km


def train(config: Config, files: Files, folder: Path, *, autoencoder: Path | None = None, progress: bool) -> Run:
    """The finished run in `folder`; stages that ended before are not done again.

    `autoencoder` is a run whose data, statistics and autoencoder are taken instead of made anew.

    UsageError where the folder holds a run with another configuration, DataError for unfit inputs, Stopped or
    KeyboardInterrupt when interrupted (call it again to go on).
    """
    device = check_trainer(config.autoencoder_fit, config.trainer)
    torch.set_float32_matmul_precision("highest")
    with interruptible():
        if is_first():
            record_config(config, folder)
            if autoencoder is not None:
                take_autoencoder(config, files, autoencoder, folder)
            prepare_stage(config, files, folder, progress=progress)
        wait_for(folder / "facts.json")
        fields = read_prepared(config, folder)
        if is_first():
            statistics_stage(config, fields, files.static, folder)
        wait_for(folder / "statistics.npz")
        autoencoder_stage(config, fields, folder, progress=progress)
        if config.diffusion is not None:
            diffusion_stage(config, fields, files.low_resolution, folder, device=device, progress=progress)
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


def prepare_stage(config: Config, files: Files, folder: Path, *, progress: bool) -> None:
    """Write data.zarr and facts.json."""
    if (folder / "facts.json").exists():
        return
    log.info("prepare: %d files to HEALPix zoom %d", len(files.inputs), config.autoencoder.zoom)
    with steps_bar("prepare", progress) as moved:
        grid = prepare(
            files.inputs,
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
        inputs=hashed(files),
        calendar=fields.calendar,
        step=str(fields.step),
        period=(date(fields.times[training[0]]), date(fields.times[training[-1]])),
        source_lat_deg=tuple(map(float, axes[0])),
        source_lon_deg=tuple(map(float, axes[1])),
        versions={name: version(name) for name in ("fsae", "torch", "lightning", "numpy", "healpy")},
    )
    write_record(folder / "facts.json", facts)


def hashed(files: Files) -> tuple[InputFile, ...]:
    """Names and hashes of a configuration's files."""
    return tuple(InputFile(name=path.name, sha256=sha256(path)) for path in files.all)


def take_autoencoder(config: Config, files: Files, source: Path, folder: Path) -> None:
    """Copy prepared data, statistics and autoencoder of the run in `source`, which was made by the same settings.

    UsageError where its configuration differs in more than the diffusion model, or its autoencoder is not finished.
    """
    if (folder / "autoencoder.safetensors").exists():
        return
    theirs = read_record(source / "config.json", Config)
    same = ("data", "autoencoder", "autoencoder_fit", "seed")
    different = [name for name in same if getattr(theirs, name) != getattr(config, name)]
    if different or not (source / "autoencoder.safetensors").exists():
        found = f"other {' and '.join(different)}" if different else "no finished autoencoder"
        raise UsageError(f"found {found} in {source}, expected a run of the same data and autoencoder (--autoencoder)")
    log.info("autoencoder: that of %s", source)
    facts = read_record(source / "facts.json", Facts)
    shutil.copytree(source / "data.zarr", folder / "data.zarr", dirs_exist_ok=True)
    statistics = read_statistics(source)
    write_statistics(folder, {name: table for name, table in statistics.items() if not name.startswith("latent_")})
    write_record(folder / "facts.json", replace(facts, inputs=hashed(files)))  # type: ignore[type-var]
    shutil.copy(source / "autoencoder.safetensors", folder / "autoencoder.safetensors")


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
        round_weights(model)
        if config.autoencoder.sharpen:
            years = config.data.validation_years
            unseen = normalised(config, fields, statistics, part_of(fields, years)) if years else (anomalies, season)
            sharpen(model, *unseen)
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
    """Fit the decoder's sharpening to at most 120 steps spread over a period, fewer of large fields.

    Best one that was not trained on, where there is one: what was is rebuilt sharper than what was not.
    """
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
