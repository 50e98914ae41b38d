"""The autoencoder stage of a run: global maps, training, sharpening."""

import logging
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from fsae.runtime.arrays import F32
from fsae.runtime.input.fields import Fields
from fsae.runtime.sphere.healpix import coarsen
from fsae.training.config import Config
from fsae.training.data.datasets import AnomalySamples
from fsae.training.data.normalisation import Series, normalised
from fsae.training.data.prepared import encode_series, in_batches, part_of
from fsae.training.networks.autoencoder import Autoencoder
from fsae.training.networks.global_map import global_maps
from fsae.training.networks.halo import spherical_harmonics
from fsae.training.networks.sharpening import fit_sharpening

from .loop import autoencoder_loss, fit, forget_checkpoints
from .processes import is_first, wait_for
from .run_folder import make_autoencoder, read_statistics, round_weights, save_weights

log = logging.getLogger("fsae.training")

MAP_STEPS = 4096  # whose covariance makes the dense maps

SHARPEN_STEPS = 120

SHARPEN_VALUES = 1 << 26  # their values: 256 MiB

MIXTURE_WAVES = 9  # spherical harmonics of degree 0 to 2: the weights of a mixture vary over some 5,000 km


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
