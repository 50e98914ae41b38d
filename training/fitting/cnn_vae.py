"""The CNN-VAE of a run: its data on the inputs' own grid, its training, and what it makes of the evaluation years.

It sees what the run's autoencoder sees: the same steps and mixtures in the same batches, normalised alike. It adds to
the run folder:

    cnn_vae.safetensors    weights
    cnn_vae/               statistics.npz, climatology and scale at the grid points; sources.json, where the inputs are;
                           losses (metrics.csv) and, while unfinished, checkpoints
"""

import logging
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import sph_harm_y

from fsae.runtime.arrays import F32, F64
from fsae.runtime.errors import DataError, UsageError
from fsae.runtime.input.fields import Fields, Wanted
from fsae.runtime.input.joining import by_variable, join
from fsae.runtime.input.sources import Source
from fsae.runtime.sphere.grids import LatLonGrid, is_same
from fsae.runtime.sphere.healpix import pixel_of, zoom_of
from fsae.runtime.sphere.regrid import Weights
from fsae.training.config import Config
from fsae.training.data.datasets import AnomalySamples
from fsae.training.data.normalisation import fit_statistics, normalised
from fsae.training.data.prepared import in_batches, part_of, read_prepared
from fsae.training.networks.cnn_vae import (
    CnnVae,
    area_mean_square,
    cnn_vae_loss,
    fitting_width,
    parameter_count,
    places,
)

from .autoencoder import MIXTURE_WAVES
from .loop import check_trainer, fit, forget_checkpoints
from .pipeline import record_config
from .processes import interruptible, is_first, wait_for
from .run_folder import (
    Facts,
    InputFile,
    load_weights,
    make_autoencoder,
    read_record,
    read_statistics,
    save_weights,
    sha256,
    write_record,
    write_statistics,
)

log = logging.getLogger("fsae.training")


@dataclass(frozen=True, kw_only=True)
class LatLonFields(Fields):
    """Prepared steps on the inputs' own lat-lon grid: what `Fields` calls pixels are its points, latitude slowest."""

    grid: LatLonGrid

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """(1, time, variable, point)."""
        return 1, len(self.times), len(self.variables), self.grid.size


@dataclass(frozen=True, kw_only=True)
class Sources:
    """Where the inputs were when the CNN-VAE was trained, as absolute paths."""

    inputs: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Reconstruction:
    """Evaluation years as a CNN-VAE rebuilds them: anomalies (time, variable, lat, lon) in the variables' units.

    Units are those of the transformed variable (runtime/climate/transforms.py).
    """

    lat_deg: F64  # (lat,)
    lon_deg: F64  # (lon,)
    truth: F32
    rebuilt: F32
    numbers: int  # of a step's latent
    parameters: int

    @property
    def error(self) -> F32:
        """What was rebuilt less the truth, (time, variable, lat, lon)."""
        return self.rebuilt - self.truth


def train_cnn_vae(config: Config, inputs: Sequence[Path], folder: Path, *, progress: bool) -> Path:
    """The weights of the CNN-VAE of the run in `folder`, trained as the run's autoencoder was, unless they are there.

    UsageError where the folder holds no finished autoencoder of that configuration, DataError where the inputs are not
    those of the run or not on one lat-lon grid, Stopped or KeyboardInterrupt when interrupted (call it again).
    """
    check_autoencoder(folder)
    check_trainer(config.autoencoder_fit, config.trainer)
    torch.set_float32_matmul_precision("highest")
    weights = folder / "cnn_vae.safetensors"
    with interruptible():
        record_config(config, folder)
        if not weights.exists():
            with open_lat_lon(config, inputs, folder) as fields:
                if is_first():
                    statistics_stage(config, fields, folder)
                    paths = tuple(str(path.resolve()) for path in inputs)
                    write_record(folder / "cnn_vae" / "sources.json", Sources(inputs=paths))
                wait_for(folder / "cnn_vae" / "sources.json")
                fit_stage(config, fields, folder, progress=progress)
    return weights


def check_autoencoder(folder: Path) -> None:
    """Nothing; UsageError where `folder` holds no finished autoencoder."""
    if not (folder / "config.json").exists() or not (folder / "autoencoder.safetensors").exists():
        raise UsageError(
            f"found no finished autoencoder in {folder}, expected the run whose baseline is to be trained: "
            "run fsae-train with the same arguments, but without cnn-vae, first"
        )


@contextmanager
def open_lat_lon(config: Config, inputs: Sequence[Path], folder: Path) -> Iterator[LatLonFields]:
    """The steps that the run in `folder` prepared, on the lat-lon grid of its inputs.

    DataError where the inputs are not those of the run, or not on one lat-lon grid.
    """
    facts = read_record(folder / "facts.json", Facts)
    for path in inputs:
        if isinstance(facts, Facts) and InputFile(name=path.name, sha256=sha256(path)) not in facts.inputs:
            raise DataError(
                f"{path} is not what {folder} was trained on: give the files of that time, or train it again"
            )
    source = Source.of(inputs)
    with ExitStack() as closing:
        # the points as they are, where readers would give pixels
        wanted = Wanted(variables=config.data.variables, zoom=0, make_weights=unchanged)
        parts = by_variable(source.open(closing), wanted)
        grid = parts[0][0].grid
        if not isinstance(grid, LatLonGrid) or not all(is_same(part.grid, grid) for own in parts for part in own):
            found = ", ".join(dict.fromkeys(str(part.grid) for own in parts for part in own))
            raise DataError(f"the inputs are on: {found}; expected one lat-lon grid, which the CNN-VAE works on")
        points, prepared = join(source.name, parts), read_prepared(config, folder)
        closing.callback(prepared.close)
        yield LatLonFields(  # times, and so the season, as the autoencoder has them
            variables=prepared.variables,
            zoom=prepared.zoom,
            grid=grid,
            times=prepared.times,
            bounds=prepared.bounds,
            calendar=prepared.calendar,
            step=prepared.step,
            cell_methods=prepared.cell_methods,
            members=None,
            name=points.name,
            way=points.way,
            readers=points.readers,
        )


def unchanged(grid: LatLonGrid, zoom: int, method: str) -> Weights:
    """Weights of a lat-lon grid to itself, in the place of those to HEALPix."""
    return Weights(
        indptr=np.arange(grid.size + 1), index=np.arange(grid.size), weight=np.ones(grid.size), source_size=grid.size
    )


def statistics_stage(config: Config, fields: LatLonFields, folder: Path) -> None:
    """Climatology at the grid points; the scale of each variable is the autoencoder's, whose cells have equal areas."""
    own = folder / "cnn_vae"
    if read_statistics(own):
        return
    own.mkdir(exist_ok=True)
    log.info("statistics: %s on the %s", config.data.normalisation, fields.grid)
    found = fit_statistics(config.data, fields, part_of(fields, config.data.training_years))
    scale = read_statistics(folder)["scale"]
    if "pixel_scale" in found:
        found["pixel_scale"] *= (found["scale"] / scale)[:, None]
    write_statistics(own, {**found, "scale": scale})


def fit_stage(config: Config, fields: LatLonFields, folder: Path, *, progress: bool) -> None:
    """Train the CNN-VAE."""
    statistics, settings = read_statistics(folder / "cnn_vae"), config.autoencoder_fit
    anomalies, season = normalised(config, fields, statistics, part_of(fields, config.data.training_years))
    waves = mixture_waves(fields.grid, MIXTURE_WAVES)

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

    model = make_cnn_vae(config, fields.grid, folder)
    log.info(
        "cnn-vae: %d parameters, %d latent numbers; %d steps of %d samples",
        parameter_count(model),
        model.numbers,
        settings.steps,
        settings.batch,
    )
    fit(
        model,
        cnn_vae_loss,
        settings,
        config.trainer,
        samples,
        folder=folder / "cnn_vae",
        seed=config.seed,
        progress=progress,
        validation=_validation(config, fields, statistics),
    )
    weights = folder / "cnn_vae.safetensors"
    if is_first():
        save_weights(model, weights)
        forget_checkpoints(folder / "cnn_vae")
    wait_for(weights)


def make_cnn_vae(config: Config, grid: LatLonGrid, folder: Path) -> CnnVae:
    """An untrained CNN-VAE with as many parameters as the autoencoder of the run in `folder`, within a tenth."""
    statistics = read_statistics(folder)
    budget = parameter_count(make_autoencoder(config, statistics))
    lat_deg, lon_deg = torch.tensor(grid.lat_deg), torch.tensor(grid.lon_deg)
    constant = places(lat_deg, lon_deg)
    if config.autoencoder.static_fields:
        static = sample_at_points(statistics["static"], grid.lat_deg, grid.lon_deg)
        constant = torch.cat([constant, torch.from_numpy(static)])
    shape = config.autoencoder
    variables, seasons, stages = len(config.data.variables), 2 * config.data.harmonics, shape.zoom - shape.latent_zoom
    width = fitting_width(
        budget, variables=variables, seasons=seasons, lat_deg=lat_deg, constant=constant, stages=stages
    )
    torch.manual_seed(config.seed)
    return CnnVae(variables=variables, seasons=seasons, lat_deg=lat_deg, constant=constant, stages=stages, width=width)


def mixture_waves(grid: LatLonGrid, count: int) -> F32:
    """The first `count` real spherical harmonics at the points of a grid, (wave, point); see halo.py."""
    colatitude, longitude = np.radians(90 - grid.lat_deg)[:, None], np.radians(grid.lon_deg)[None]
    waves = []
    for index in range(count):
        degree = math.isqrt(index)
        order = index - degree * (degree + 1)
        wave = sph_harm_y(degree, abs(order), colatitude, longitude) * math.sqrt(
            4 * math.pi if order == 0 else 8 * math.pi
        )
        waves.append(np.broadcast_to(wave.real if order >= 0 else wave.imag, grid.shape).ravel())
    return np.stack(waves).astype(np.float32)


def _validation(config: Config, fields: LatLonFields, statistics: dict[str, F32]) -> Callable[[CnnVae], float] | None:
    """Root mean square error on the validation years, normalised, by area; None where there are none."""
    if config.data.validation_years is None:
        return None
    anomalies, season = normalised(config, fields, statistics, part_of(fields, config.data.validation_years))

    @torch.no_grad()
    def validation(model: CnnVae) -> float:
        device = model.area.device
        total = 0.0
        for x, when in in_batches(anomalies, season):
            true = x.to(device)
            total += float(area_mean_square(model, model(true, when.to(device)) - true)) * len(x)
        return float(np.sqrt(total / len(anomalies)))

    return validation


@torch.no_grad()
def reconstruct(folder: Path, inputs: Sequence[Path] | None = None) -> Reconstruction:
    """The evaluation years of the run in `folder`, as its trained CNN-VAE rebuilds them.

    `inputs` are the run's input files, by default where they were when it was trained. UsageError where there is no
    trained CNN-VAE, DataError where the inputs are not to be found or not those of the run.
    """
    weights = folder / "cnn_vae.safetensors"
    if not weights.exists():
        raise UsageError(f"found no CNN-VAE in {folder}: train it with fsae-train cnn-vae")
    config, sources = read_record(folder / "config.json", Config), read_record(folder / "cnn_vae/sources.json", Sources)
    if not isinstance(config, Config) or not isinstance(sources, Sources):
        raise UsageError(f"{folder} holds other records than expected")
    paths = [Path(name) for name in sources.inputs] if inputs is None else list(inputs)
    missing = [str(path) for path in paths if not path.exists()]
    if missing:
        raise DataError(f"found no {missing[0]}, an input of {folder}: put it there again")
    statistics = read_statistics(folder / "cnn_vae")
    with open_lat_lon(config, paths, folder) as fields:
        model = make_cnn_vae(config, fields.grid, folder)
        load_weights(model, weights)
        anomalies, season = normalised(config, fields, statistics, part_of(fields, config.data.evaluation_years))
        truth = anomalies[:]
        rebuilt = torch.cat([model(x, when) for x, when in in_batches(truth, season)]).numpy()
        scale = statistics["scale"][:, None] * statistics.get("pixel_scale", np.float32(1))
        return Reconstruction(
            lat_deg=fields.grid.lat_deg,
            lon_deg=fields.grid.lon_deg,
            truth=(truth * scale).reshape(*truth.shape[:2], *fields.grid.shape),
            rebuilt=(rebuilt * scale).reshape(*truth.shape[:2], *fields.grid.shape),
            numbers=model.numbers,
            parameters=parameter_count(model),
        )


def sample_at_points(field: NDArray[np.floating], lat_deg: F64, lon_deg: F64) -> NDArray[np.floating]:
    """The field (..., pixel) on nested HEALPix at the points of lat-lon axes, (..., lat, lon), nothing interpolated.

    Each point gets the value of the pixel that holds it.

    >>> sample_at_points(np.arange(12.0), np.array([60.0, -60.0]), np.array([45.0, 225.0])).tolist()
    [[0.0, 2.0], [8.0, 10.0]]
    """
    lat, lon = np.meshgrid(lat_deg, lon_deg, indexing="ij")
    return field[..., pixel_of(zoom_of(field.shape[-1]), lat, lon)]
