"""The autoencoder stage of a run: global maps, training, sharpening."""

import logging
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from fsae.runtime.arrays import F32, F64
from fsae.runtime.climate.transforms import SQUARE_ROOTS
from fsae.runtime.sphere.healpix import coarsen
from fsae.training.data.datasets import AnomalySamples
from fsae.training.data.normalisation import Series
from fsae.training.data.prepared import Prepared, encode_series, in_batches, part_of
from fsae.training.networks.autoencoder import Autoencoder
from fsae.training.networks.global_map import NUGGET, completions, global_maps
from fsae.training.networks.halo import spherical_harmonics
from fsae.training.networks.layers import decompose, patches, recompose
from fsae.training.networks.sharpening import fit_sharpening, fit_transformed

from .loop import Loop, Loss, autoencoder_loss, fit, keep
from .processes import is_first
from .run_folder import make_autoencoder, round_weights

log = logging.getLogger("fsae.training")
MAP_STEPS = 4096  # at most as many give the covariance of the dense maps
DETAIL_STEPS = 100  # 30 to 300 differ by less than half a per cent on days that were not fitted
HIGHEST = 2.0
SHARPEN_STEPS = 120
TRANSFORMED_STEPS = 40  # of them for variables that are learned as roots
SHARPEN_VALUES = 1 << 26  # of all these steps: 256 MiB
MIXTURE_WAVES = 9  # spherical harmonics of degree 0 to 2: the weights of a mixture vary over some 5,000 km


def autoencoder_stage(data: Prepared, folder: Path, *, progress: bool) -> None:
    """Make the autoencoder of a run, unless it is there."""
    weights = folder / "autoencoder.safetensors"
    if weights.exists():
        return
    config, fields = data.config, data.fields
    anomalies, _ = data.training
    log.info("autoencoder: %d steps of %d samples", config.autoencoder_fit.steps, config.autoencoder_fit.batch)
    model = make_autoencoder(config, data.statistics)
    fit_global_maps(model, anomalies, fields.phase[part_of(fields, config.data.training_years)])
    fit_details(model, *data.training)
    fit_highest(model, *data.training)
    waves = spherical_harmonics(config.autoencoder.zoom, MIXTURE_WAVES).T  # (wave, pixel)
    fit_compression(data, model, autoencoder_loss, autoencoder_loss, waves, folder / "autoencoder", progress=progress)
    round_weights(model)
    if config.autoencoder.sharpen and not config.autoencoder.sharpen_drawn and is_first():
        sharpen(model, *(data.validation or data.training))
    keep(model, weights, folder / "autoencoder")


def fit_compression(
    data: Prepared, model: nn.Module, loss: Loss, error: Loss, waves: F32, folder: Path, *, progress: bool
) -> None:
    """Train a model that compresses normalised anomalies: an autoencoder, or the baseline beside it.

    `loss` and the mean square `error`, which is logged for the validation years, are functions of the model and a batch
    of anomalies (batch, variable, pixel) and seasons (batch, 2K). With `waves` (wave, pixel) the weights of mixtures
    vary over the sphere.
    """
    config, settings = data.config, data.config.autoencoder_fit
    anomalies, season = data.training
    samples = AnomalySamples(
        anomalies,
        season,
        waves,
        mixture=settings.mixture,
        localisation=settings.localisation,
        seed=config.seed,
    )
    loop = Loop(settings=settings, trainer=config.trainer, folder=folder, seed=config.seed, progress=progress)
    fit(model, loss, samples, loop, None if data.validation is None else root_mean(error, *data.validation))


def root_mean(error: Loss, anomalies: Series, season: F32) -> Callable[[nn.Module], float]:
    """The root of a model's mean square `error` over a whole period, as a function of the model."""

    @torch.no_grad()
    def figure(model: nn.Module) -> float:
        device = next(model.parameters()).device
        total = 0.0
        for x, when in in_batches(anomalies, season):
            total += float(error(model, (x.to(device), when.to(device)))) * len(x)
        return float(np.sqrt(total / len(anomalies)))

    return figure


def fit_global_maps(model: Autoencoder, anomalies: Series, phase: NDArray[np.float64]) -> None:
    """Compute the dense maps of a model that has them from normalised anomalies (time, variable, pixel) and phases."""
    shape = model.config
    if shape.global_zoom is None:
        return
    steps = evenly_spread(len(anomalies), MAP_STEPS)
    finer = min(shape.zoom, shape.map_zoom + 1)  # what is finer still depends little on the maps
    fields = np.stack([coarsen(anomalies[step].astype(np.float64), shape.zoom - finer) for step in steps])
    for variable in range(fields.shape[1]):
        zooms = (shape.base_zoom, shape.latent_zoom, shape.map_zoom)
        to_latent, from_latent = global_maps(
            fields[:, variable], phase[steps], zooms, shape.global_harmonics, shape.global_cell_zoom
        )
        model.to_latent[variable] = torch.from_numpy(to_latent)
        model.from_latent[variable] = torch.from_numpy(from_latent)
        coarse = coarsen(fields[:, variable], finer - shape.map_zoom)
        found = completions(coarse, to_latent[0], shape.completed_zooms)
        for zoom, completion in zip(shape.completed_zooms, found, strict=True):
            model.get_buffer(f"complete_{zoom}")[variable, 0] = torch.from_numpy(completion)


@torch.no_grad()
def fit_details(model: Autoencoder, anomalies: Series, season: F32) -> None:
    """Start the decoder's maps of details at their regression on the coarse field that the dense maps rebuild.

    From zero, training needs hundreds of steps to learn that neighbours tell the slope inside a cell. A map of a cell's
    own is drawn to that of all cells, as if these added `DETAIL_STEPS` steps. `anomalies` (time, variable, pixel) are
    normalised, `season` is (time, 2K).
    """
    shape, finer = model.config, model.finer
    if not finer:
        return
    kept = len(shape.coarse_zooms)
    steps = evenly_spread(len(anomalies), MAP_STEPS)
    known, told = torch.zeros(()), torch.zeros(())
    for x, when in in_batches(anomalies, season, steps):
        levels = decompose(x, shape.zooms)
        coarse = model.by_dense_maps(recompose(levels[:kept], shape.coarse_zooms), when)
        around = model.surroundings(coarse).double()  # (B, V, C, 9)
        parts = [patches(level, inside) for level, inside in zip(levels[kept:], finer, strict=True)]
        details = torch.cat(parts, dim=-1).double()  # (B, V, C, details)
        known = known + torch.einsum("bvcp,bvcq->vcpq", around, around)
        told = told + torch.einsum("bvcp,bvcd->vcpd", around, details)
    maps = model.decompress
    if maps.own is None:
        maps.shared.copy_(_solve(known.mean((0, 1)), told.mean((0, 1))))
        return
    all_known, all_told = known.mean(1, keepdim=True), told.mean(1, keepdim=True)
    share = DETAIL_STEPS / len(steps)
    maps.own.copy_(_solve(known + share * all_known, told + share * all_known @ _solve(all_known, all_told)))


@torch.no_grad()
def fit_highest(model: Autoencoder, anomalies: Series, season: F32) -> None:
    """Limit variables that are learned as roots to `HIGHEST` times their largest value in training, such as rain."""
    if not model.roots:
        return
    largest = torch.zeros_like(model.highest_root)
    for x, when in in_batches(anomalies, season):
        largest = torch.maximum(largest, (x * model.scale + model.mean(when)).amax((0, 2))[:, None])
    roots = torch.tensor([float(SQUARE_ROOTS[transform]) for transform in model.transforms])[:, None]
    model.highest_root.copy_(largest * HIGHEST ** (0.5**roots))


def _solve(known: Tensor, told: Tensor) -> Tensor:
    """Regression (..., known entry, told entry) of least squares from its normal equations."""
    mean = known.diagonal(dim1=-2, dim2=-1).mean(-1)[..., None, None]
    regression: Tensor = torch.linalg.solve(known + NUGGET * mean * torch.eye(known.shape[-1], dtype=known.dtype), told)
    return regression


def evenly_spread(length: int, count: int) -> list[int]:
    """At most `count` different indices below `length`, evenly spread, first and last included.

    >>> evenly_spread(9, 3), evenly_spread(2, 3)
    ([0, 4, 8], [0, 1])
    """
    return [int(index) for index in np.unique(np.linspace(0, length - 1, count).round())]


def sharpen(model: Autoencoder, anomalies: Series, season: F32) -> None:
    """Fit the decoder's sharpening to at most 120 steps spread over a period, fewer if fields are large.

    Best a period that was not trained on: fields that training saw are rebuilt sharper than others.
    """
    held = max(2, SHARPEN_VALUES // int(np.prod(anomalies.shape[1:])))
    chosen = evenly_spread(len(anomalies), min(SHARPEN_STEPS, held))
    true, when = anomalies[chosen], season[chosen]
    model.eval()
    latents = encode_series(model, true, when)
    with torch.no_grad():
        parts = [model.decode_anomaly(latent, features) for latent, features in in_batches(latents, when)]
    fit_power(model, torch.cat(parts).numpy(), true, when)


def fit_power(model: Autoencoder, decoded: F32, true: F32, season: F32) -> None:
    """Fit a decoder's sharpening: decoded anomalies (sample, variable, pixel) shall have the power of true ones.

    Those of variables that are learned as roots shall have it as physical fields; season (sample, 2K).
    """
    terms = model.config.sharpening_terms
    for variable, transform in enumerate(model.transforms):
        if transform == "none":
            numbers = fit_sharpening(decoded[:, variable], true[:, variable], terms)
        else:
            some = evenly_spread(len(decoded), TRANSFORMED_STEPS)
            physical = physical_of(model, variable, season[some])
            numbers = fit_transformed(decoded[some, variable], true[some, variable], physical, terms)
        model.sharpening[variable] = torch.from_numpy(numbers)
        log.info("sharpening of variable %d: %s", variable, np.round(numbers, 3).tolist())


def physical_of(model: Autoencoder, variable: int, season: F32) -> Callable[[F64], F64]:
    """The function from anomalies of a variable (sample, pixel) at some seasons (sample, 2K) to its physical fields."""
    mean, scale = model.mean(torch.from_numpy(season)).double(), model.scale[variable].double().numpy()

    def physical(anomaly: F64) -> F64:
        fields = mean.clone()
        fields[:, variable] += torch.from_numpy(anomaly * scale)
        return np.asarray(model.physical(fields)[:, variable].numpy(), dtype=np.float64)

    return physical
