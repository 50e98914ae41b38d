"""The stages of a run, each skipped if its result is there: prepare, statistics, archive codec if asked for,
autoencoder, diffusion, sharpening of drawn fields.
"""

import shutil
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from msgspec.structs import replace

from fsae.runtime.archive.lookup import FILE
from fsae.runtime.errors import DataError, UsageError
from fsae.runtime.input.fields import Fields
from fsae.runtime.progress import progress_bar
from fsae.runtime.sphere.grids import LatLonGrid
from fsae.training.config import Config
from fsae.training.data.cycle import read_cycle
from fsae.training.data.normalisation import fit_statistics
from fsae.training.data.prepare import prepare
from fsae.training.data.prepared import Prepared, in_years, part_of, read_prepared
from fsae.training.data.scenarios import VALUES, YEARS, read_scenarios
from fsae.training.data.static_fields import static_inputs
from fsae.training.input_files import Files

from .archive_stage import archive_stage
from .autoencoder import autoencoder_stage, log
from .diffusion import diffusion_stage
from .drawn_power import sharpen_drawn_stage
from .loop import check_trainer
from .processes import interruptible, is_first, wait_for
from .run_folder import (
    Facts,
    Run,
    hashed,
    load_run,
    load_weights,
    make_autoencoder,
    read_record,
    read_statistics,
    save_weights,
    write_record,
    write_statistics,
)


def train(config: Config, files: Files, folder: Path, *, autoencoder: Path | None = None, progress: bool) -> Run:
    """Train what is missing of the run in `folder` and load it; stages that are finished are not repeated.

    `autoencoder` is a run from which data, statistics and autoencoder are taken instead of being made.

    UsageError if the folder holds a run with another configuration, DataError for unfit inputs, Stopped or
    KeyboardInterrupt when interrupted: call it again to go on.
    """
    device = check_trainer(config.autoencoder_fit, config.trainer)
    torch.set_float32_matmul_precision("highest")
    with interruptible():
        if is_first():
            record_config(config, folder)
            if autoencoder is not None:
                take_autoencoder(config, files, autoencoder, folder)
        data = _data(config, files, folder, progress=progress)
        autoencoder_stage(data, folder, progress=progress)
        diffusion_stage(data, files.low_resolution, folder, device=device, progress=progress)
        sharpen_drawn_stage(data, folder)
    return load_run(folder)


def train_codec(config: Config, files: Files, folder: Path, *, progress: bool) -> None:
    """Fit the archive codec of the run in `folder` and train its autoencoder, as far as they are missing.

    A new run has no diffusion model, whatever the configuration says; `train` with that configuration adds it, and a
    run that is trained already gets its codec. Errors are those of `train`.
    """
    check_trainer(config.autoencoder_fit, config.trainer)
    torch.set_float32_matmul_precision("highest")
    with interruptible():
        if is_first() and not ((folder / "config.json").exists() and _is_recorded(config, folder)):
            record_config(without_diffusion(config), folder)
        data = _data(config, files, folder, progress=progress)
        if is_first():
            archive_stage(data, files.inputs, folder)
        wait_for(folder / FILE)
        autoencoder_stage(data, folder, progress=progress)


def _data(config: Config, files: Files, folder: Path, *, progress: bool) -> Prepared:
    """The prepared fields and statistics of a run, made by the first process."""
    if is_first():
        prepare_stage(config, files, folder, progress=progress)
    wait_for(folder / "facts.json")
    fields = read_prepared(config, folder)
    if is_first():
        statistics_stage(config, fields, files, folder)
        forcing_stage(config, files.forcing, folder)
    wait_for(folder / "statistics.npz")
    return Prepared(config=config, fields=fields, statistics=read_statistics(folder))


def without_diffusion(config: Config) -> Config:
    """The configuration of the autoencoder alone."""
    default = Config(name=config.name, data=config.data, autoencoder_fit=config.autoencoder_fit)
    fields = ("diffusion", "diffusion_fit", "sources", "forcing", "noise", "sampler", "fast", "fast_fit")
    return replace(config, **{name: getattr(default, name) for name in fields})


def record_config(config: Config, folder: Path) -> None:
    """Write config.json; UsageError if the folder has another one.

    Only the devices a run is trained on may change, and a run without a diffusion model may get one.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "config.json"
    if path.exists() and _is_recorded(config, folder):
        return
    alone = without_diffusion(config)
    if path.exists() and (config.sources.low_resolution or not _is_recorded(alone, folder)):
        raise UsageError(
            f"{folder} holds a run with another configuration", advice="choose another name or remove that folder"
        )
    write_record(path, config)


def _is_recorded(config: Config, folder: Path) -> bool:
    """True if config.json of the folder is this configuration, but for the devices."""
    recorded = read_record(folder / "config.json", Config)
    return replace(recorded, trainer=replace(config.trainer, precision=recorded.trainer.precision)) == config


def prepare_stage(config: Config, files: Files, folder: Path, *, progress: bool) -> None:
    """Put the inputs on HEALPix and write down what they are: data.zarr and facts.json."""
    if (folder / "facts.json").exists():
        return
    log.info("prepare: %d files to HEALPix zoom %d", len(files.inputs), config.autoencoder.zoom)
    with progress_bar("prepare", "steps", shown=progress) as moved:
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
        inputs=tuple(map(hashed, files.all)),
        calendar=fields.calendar,
        step=str(fields.step),
        period=(date(fields.times[training[0]]), date(fields.times[training[-1]])),
        source_lat_deg=tuple(map(float, axes[0])),
        source_lon_deg=tuple(map(float, axes[1])),
        versions={name: version(name) for name in ("fsae", "torch", "lightning", "numpy", "healpy")},
    )
    write_record(folder / "facts.json", facts)


def take_autoencoder(config: Config, files: Files, source: Path, folder: Path) -> None:
    """Copy prepared data, statistics and autoencoder of the run in `source`.

    UsageError if its configuration differs in more than the diffusion model, or if its autoencoder is not finished.
    """
    if (folder / "autoencoder.safetensors").exists():
        return
    theirs = read_record(source / "config.json", Config)
    same = ("data", "autoencoder", "autoencoder_fit", "seed")
    different = [name for name in same if getattr(theirs, name) != getattr(config, name)]
    if different or not (source / "autoencoder.safetensors").exists():
        found = f"other {' and '.join(different)}" if different else "no finished autoencoder"
        raise UsageError(
            f"found {found} in {source}", "a run of the same data and autoencoder", "give such a run as --autoencoder"
        )
    log.info("autoencoder: that of %s", source)
    facts = read_record(source / "facts.json", Facts)
    shutil.copytree(source / "data.zarr", folder / "data.zarr", dirs_exist_ok=True)
    statistics = read_statistics(source)
    own = ("latent_", "forcing_")  # of the diffusion model
    write_statistics(folder, {name: table for name, table in statistics.items() if not name.startswith(own)})
    write_record(folder / "facts.json", replace(facts, inputs=tuple(map(hashed, files.all))))
    shutil.copy(source / "autoencoder.safetensors", folder / "autoencoder.safetensors")
    if config.autoencoder.sharpen_drawn:  # their sharpening is that of their diffusion model
        model = make_autoencoder(config, statistics)
        load_weights(model, folder / "autoencoder.safetensors")
        model.sharpening.zero_()
        save_weights(model, folder / "autoencoder.safetensors")


def check_prepared(config: Config, fields: Fields) -> None:
    """Raise DataError unless the data holds what later stages need."""
    if fields.step is None:
        raise DataError(
            "found a time axis without a constant step in the inputs",
            "such as 1 month or 6 hours",
            "fill the gaps, or give files of one step",
        )
    if fields.members is not None and len(fields.members) > 1:
        raise DataError(f"found {len(fields.members)} ensemble members in the inputs", "one", "select it first")
    for years in (config.data.training_years, config.data.validation_years, config.data.evaluation_years):
        if years is not None:
            in_years(fields, years)


def date(time: object) -> str:
    """The ISO date of a cftime stamp."""
    return str(time)[:10]


def forcing_stage(config: Config, file: Path | None, folder: Path) -> None:
    """Add the forcing's scenarios to the statistics, if the diffusion model has any and they are not there."""
    statistics = read_statistics(folder)
    if config.forcing is None or YEARS in statistics:
        return
    if file is None:
        raise UsageError(f"found no file of the forcing {config.forcing.name}", config.forcing.file, "give its path")
    log.info("forcing: %s of %s", config.forcing.name, ", ".join(config.forcing.scenarios))
    years, values = read_scenarios(file, config.forcing.scenarios)
    write_statistics(folder, {**statistics, YEARS: years, VALUES: values})


def statistics_stage(config: Config, fields: Fields, files: Files, folder: Path) -> None:
    """Write climatology and scale of the training years, and the static fields if the model reads them."""
    if (folder / "statistics.npz").exists():
        return
    log.info("statistics: %s of %s to %s", config.data.normalisation, *config.data.training_years)
    part = part_of(fields, config.data.training_years)
    waves = None
    if files.cycle:
        log.info("statistics: the yearly cycle is that of %s", ", ".join(path.name for path in files.cycle))
        waves = read_cycle(config, files.cycle)
    statistics = fit_statistics(config.data, fields, part, waves)
    if config.autoencoder.static_fields:
        statistics["static"] = static_inputs(files.static, config.autoencoder.zoom)
    write_statistics(folder, statistics)
