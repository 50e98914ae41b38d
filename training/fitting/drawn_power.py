"""Sharpening fitted to drawn fields: generated ones get the angular power of true ones.

Drawn latents have not quite the power of encoded ones at small scales: smooth variables have more, for what their
patches share there is the hardest to learn. A filter that restores the power of rebuilt fields would amplify it.
"""

import logging
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from fsae.runtime.arrays import F32
from fsae.runtime.climate.calendar import time_index
from fsae.runtime.climate.scenarios import forcing_in
from fsae.runtime.ensemble.members import Plan, Steps, generate
from fsae.training.data.prepared import Prepared, part_of
from fsae.training.data.scenarios import scenarios_of
from fsae.training.networks.torch_graphs import TorchGraphs

from .autoencoder import SHARPEN_STEPS, evenly_spread, fit_power
from .diffusion import autoencoder_of
from .processes import is_first
from .run_folder import latent_model_of, load_weights, make_denoiser, read_statistics, save_weights

log = logging.getLogger("fsae.training")
MEMBERS = 2
DRAWN_STEPS = 365  # of each member: of days, all seasons


@dataclass(frozen=True)
class AnomalyGraphs(TorchGraphs):
    """Graphs whose decoder gives normalised anomalies, not sharpened."""

    @torch.no_grad()
    def decode(self, latent: F32, season: F32) -> F32:
        """Anomalies (time, variable, pixel) of latents (time, variable, latent pixel)."""
        anomaly: F32 = self.autoencoder.decode_anomaly(torch.from_numpy(latent), torch.from_numpy(season)).numpy()
        return anomaly


def sharpen_drawn_stage(data: Prepared, folder: Path) -> None:
    """Fit the sharpening of a run to fields drawn at the end of its training years, unless that is done."""
    config = data.config
    if not config.autoencoder.sharpen_drawn or not is_first():
        return
    model = latent_model_of(config, read_statistics(folder))
    if model is None:
        return
    autoencoder = autoencoder_of(data, folder)
    if autoencoder.sharpening.any():
        return
    denoiser = make_denoiser(config)
    load_weights(denoiser, folder / "denoiser.safetensors")
    anomalies, season = data.training
    count = min(DRAWN_STEPS, len(anomalies)) // model.window * model.window
    last = part_of(data.fields, config.data.training_years).stop
    part = slice(last - count, last)
    steps = Steps(
        season=season[-count:],
        index=np.array([time_index(time, str(data.fields.step)) for time in data.fields.times[part]]),
        forcing=forcing_in(scenarios_of(config, data.statistics), data.fields.year[part]).astype(np.float32),
    )
    log.info("sharpening: %d members of %d steps are drawn", MEMBERS, count)
    plan = Plan(members=range(MEMBERS), steps=steps, count=count, seed=config.seed + 3)
    chosen = evenly_spread(count, SHARPEN_STEPS // MEMBERS)
    drawn = [
        (unit.values[0, step - unit.times.start], step + len(anomalies) - count)
        for unit in generate(model, AnomalyGraphs(autoencoder, denoiser), plan, batch=MEMBERS)
        for step in chosen
        if unit.times.start <= step < unit.times.stop
    ]
    places = [place for _, place in drawn]
    fit_power(autoencoder, np.stack([values for values, _ in drawn]), anomalies[places], season[places])
    save_weights(autoencoder, folder / "autoencoder.safetensors")
