"""Train the CNN-VAE baseline of a run, on the inputs' own grid, and reconstruct the evaluation years with it.

It is trained in the autoencoder's loop and sees what the autoencoder sees: the same steps and mixtures in the same
batches, normalised alike. It adds to the run folder:

    cnn_vae.safetensors    weights
    cnn_vae/               statistics.npz, climatology and scale at the grid points; sources.json, where the inputs are;
                           losses (metrics.csv) and, while unfinished, checkpoints
"""

import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import sph_harm_y

from fsae.runtime.arrays import F32, F64
from fsae.runtime.bundle.records import Record
from fsae.runtime.errors import DataError, UsageError
from fsae.runtime.input.fields import Fields, Wanted
from fsae.runtime.input.joining import by_variable, join
from fsae.runtime.input.sources import Source
from fsae.runtime.sphere.grids import LatLonGrid, is_same
from fsae.runtime.sphere.healpix import pixel_of, zoom_of
from fsae.runtime.sphere.weights import Weights
from fsae.training.config import Config
from fsae.training.data.normalisation import fit_statistics
from fsae.training.data.prepared import Prepared, in_batches, part_of, read_prepared
from fsae.training.networks.cnn_vae import (
    CnnVae,
    cnn_vae_error,
    cnn_vae_loss,
    fitting_width,
    parameter_count,
    places,
)

from .autoencoder import MIXTURE_WAVES, fit_compression
from .loop import check_trainer, keep
from .pipeline import record_config
from .processes import interruptible, is_first, wait_for
from .run_folder import (
    Facts,
    hashed,
    load_weights,
    make_autoencoder,
    read_record,
    read_statistics,
    write_record,
    write_statistics,
)

log = logging.getLogger("fsae.training")


@dataclass(frozen=True, kw_only=True)
class LatLonFields(Fields):
    """Prepared steps on the inputs' own lat-lon grid, whose points, latitude slowest, stand in the place of pixels."""

    grid: LatLonGrid

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """(1, time, variable, point)."""
        return 1, len(self.times), len(self.variables), self.grid.size


class Sources(Record, frozen=True, kw_only=True):
    """Absolute paths of the inputs when the CNN-VAE was trained."""

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
        """Rebuilt minus true, (time, variable, lat, lon)."""
        return self.rebuilt - self.truth


def train_cnn_vae(config: Config, inputs: Sequence[Path], folder: Path, *, progress: bool) -> Path:
    """Train the CNN-VAE of the run in `folder` as its autoencoder was trained, unless it is there; give its weights.

    UsageError if the folder holds no finished autoencoder of that configuration, DataError if the inputs are not those
    of the run or not on one lat-lon grid, Stopped or KeyboardInterrupt when interrupted: call it again to go on.
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
                cnn_vae_stage(config, fields, folder, progress=progress)
    return weights


def check_autoencoder(folder: Path) -> None:
    """Raise UsageError unless `folder` holds a finished autoencoder."""
    if not (folder / "config.json").exists() or not (folder / "autoencoder.safetensors").exists():
        raise UsageError(
            f"found no finished autoencoder in {folder}",
            "the run whose baseline is to be trained",
            "run fsae-train with the same arguments, but without cnn-vae, first",
        )


@contextmanager
def open_lat_lon(config: Config, inputs: Sequence[Path], folder: Path) -> Iterator[LatLonFields]:
    """The steps that the run in `folder` prepared, on the lat-lon grid of its inputs.

    DataError if the inputs are not those of the run, or not on one lat-lon grid.
    """
    facts = read_record(folder / "facts.json", Facts)
    for path in inputs:
        if hashed(path) not in facts.inputs:
            raise DataError(
                f"{path} is not what {folder} was trained on", advice="give the files of that time, or train it again"
            )
    source = Source(paths=tuple(inputs))
    with ExitStack() as closing:
        # the points as they are, in place of pixels
        wanted = Wanted(variables=config.data.variables, zoom=0, make_weights=unchanged)
        parts = by_variable(source.open(closing), wanted)
        grids = [part.grid for own in parts for part in own]
        grid = grids[0]
        if not isinstance(grid, LatLonGrid) or not all(is_same(other, grid) for other in grids):
            found = ", ".join(dict.fromkeys(map(str, grids)))
            raise DataError(
                f"the inputs are on: {found}",
                "one lat-lon grid, which the CNN-VAE works on",
                "regrid them to the grid of one of them",
            )
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
            origins=points.origins,
            readers=points.readers,
        )


def unchanged(grid: LatLonGrid, zoom: int, method: str) -> Weights:
    """Weights from a lat-lon grid to itself, in place of those to HEALPix."""
    return Weights(
        indptr=np.arange(grid.size + 1), index=np.arange(grid.size), weight=np.ones(grid.size), source_size=grid.size
    )


def statistics_stage(config: Config, fields: LatLonFields, folder: Path) -> None:
    """Write the climatology at the grid points, and as scale the autoencoder's: its cells have equal areas."""
    own = folder / "cnn_vae"
    if (own / "statistics.npz").exists():
        return
    own.mkdir(exist_ok=True)
    log.info("statistics: %s on the %s", config.data.normalisation, fields.grid)
    found = fit_statistics(config.data, fields, part_of(fields, config.data.training_years))
    scale = read_statistics(folder)["scale"]
    if "pixel_scale" in found:
        found["pixel_scale"] *= (found["scale"] / scale)[:, None]
    write_statistics(own, {**found, "scale": scale})


def cnn_vae_stage(config: Config, fields: LatLonFields, folder: Path, *, progress: bool) -> None:
    """Train the CNN-VAE in the autoencoder's loop, on its own grid."""
    own, settings = folder / "cnn_vae", config.autoencoder_fit
    data = Prepared(config=config, fields=fields, statistics=read_statistics(own))
    model = make_cnn_vae(config, fields.grid, read_statistics(folder))
    log.info(
        "cnn-vae: %d parameters, %d latent numbers; %d steps of %d samples",
        parameter_count(model),
        model.numbers,
        settings.steps,
        settings.batch,
    )
    waves = mixture_waves(fields.grid, MIXTURE_WAVES)
    fit_compression(data, model, cnn_vae_loss, cnn_vae_error, waves, own, progress=progress)
    keep(model, folder / "cnn_vae.safetensors", own)


def make_cnn_vae(config: Config, grid: LatLonGrid, statistics: Mapping[str, F32]) -> CnnVae:
    """An untrained CNN-VAE with as many parameters, within a tenth, as the autoencoder that has these `statistics`."""
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


@torch.no_grad()
def reconstruct(folder: Path, inputs: Sequence[Path] | None = None) -> Reconstruction:
    """The evaluation years of the run in `folder`, as its trained CNN-VAE rebuilds them.

    `inputs` are the run's input files, by default where they were when it was trained. UsageError if there is no
    trained CNN-VAE, DataError if the inputs cannot be found or are not those of the run.
    """
    weights = folder / "cnn_vae.safetensors"
    if not weights.exists():
        raise UsageError(f"found no CNN-VAE in {folder}", advice="train it with fsae-train cnn-vae")
    config, sources = read_record(folder / "config.json", Config), read_record(folder / "cnn_vae/sources.json", Sources)
    paths = [Path(name) for name in sources.inputs] if inputs is None else list(inputs)
    missing = [str(path) for path in paths if not path.exists()]
    if missing:
        raise DataError(f"found no {missing[0]}, an input of {folder}", advice="put it there again")
    statistics = read_statistics(folder / "cnn_vae")
    with open_lat_lon(config, paths, folder) as fields:
        model = make_cnn_vae(config, fields.grid, read_statistics(folder))
        load_weights(model, weights)
        data = Prepared(config=config, fields=fields, statistics=statistics)
        anomalies, season = data.period(config.data.evaluation_years)
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
    """The field (..., pixel) on nested HEALPix at the points of lat-lon axes, (..., lat, lon).

    Each point gets the value of the pixel that holds it; nothing is interpolated.

    >>> sample_at_points(np.arange(12.0), np.array([60.0, -60.0]), np.array([45.0, 225.0])).tolist()
    [[0.0, 2.0], [8.0, 10.0]]
    """
    lat, lon = np.meshgrid(lat_deg, lon_deg, indexing="ij")
    return field[..., pixel_of(zoom_of(field.shape[-1]), lat, lon)]
