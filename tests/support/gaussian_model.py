"""A model and its data that share one known law, so that every score of the one against the other is known.

A latent pixel x is its forced mean plus a first-order autoregression of unit variance; fields are block-wise constant.
"""

import dataclasses

import cftime
import numpy as np
from made_up_model import made_up_model

from fsae.runtime.backends.graphs import DenoiserInputs
from fsae.runtime.bundle.manifest import Sampler
from fsae.runtime.climate import climatology as harmonic
from fsae.runtime.ensemble.members import LatentModel
from fsae.runtime.sphere.healpix import coarsen, npix, refine
from fsae.training.evaluation.data import ModelWithData
from fsae.training.evaluation.periods import Period

ZOOM, LATENT_ZOOM, WINDOW = 2, 1, 3
SCALE, MIDDLE_YEAR = 2.0, 1990.0
LATENT_PIXELS = npix(LATENT_ZOOM)


@dataclasses.dataclass(frozen=True)
class GaussianGraphs:
    """The ideal graphs of the law: frames of a window are independent but for the last known step before it."""

    climatology: np.ndarray
    memory: float = 0.0  # autocorrelation of a step with the one before
    trend: float = 0.0  # of the mean, a year
    device: str = "cpu"
    backend: str = "numpy"
    precision: str = "fp32"

    def encode(self, field: np.ndarray, season: np.ndarray, level_mask: np.ndarray) -> np.ndarray:
        assert (level_mask == 1).all()
        return coarsen((field - harmonic.evaluate(self.climatology, season)) / np.float32(SCALE))

    def decode(self, latent: np.ndarray, season: np.ndarray) -> np.ndarray:
        return refine(latent, 1) * np.float32(SCALE) + harmonic.evaluate(self.climatology, season)

    def denoise(self, inputs: DenoiserInputs, graph: str = "denoiser") -> np.ndarray:
        noisy, sigma, forcing, previous = inputs.noisy, inputs.sigma, inputs.forcing, inputs.previous
        previous_valid = inputs.previous_valid
        lead = np.arange(1, WINDOW + 1)
        known = previous_valid[:, -1:]  # (batch, 1)
        forced = self.trend * (forcing - MIDDLE_YEAR)  # (batch, time)
        before = self.trend * (forcing[:, 0] - 1 / 12 - MIDDLE_YEAR)
        departure = (previous[:, -1] - before[:, None, None]) * known[..., None]
        mean = forced[..., None, None] + (self.memory**lead)[:, None, None] * departure[:, None]
        variance = (1 - known * self.memory ** (2 * lead))[..., None, None]
        keep = variance / (variance + sigma[:, None, None, None] ** 2)
        return (mean + keep * (noisy - mean)).astype(np.float32)


def gaussian_case(
    *, training: tuple[int, int], evaluation: tuple[int, int], memory: float, trend: float = 0.0
) -> ModelWithData:
    """Monthly data drawn from the law, and the ideal model of it."""
    rng = np.random.default_rng(7)
    steps = 12 * (evaluation[1] - training[0] + 1)
    latent = rng.normal(size=(steps, 1, LATENT_PIXELS))
    for time in range(1, steps):
        latent[time] = memory * latent[time - 1] + np.sqrt(1 - memory**2) * latent[time]
    phase = (np.arange(steps) % 12 + 0.5) / 12
    latent += (trend * (training[0] + np.arange(steps) // 12 + phase - MIDDLE_YEAR))[:, None, None]
    climatology = np.zeros((1, 3, npix(ZOOM)), dtype=np.float32)
    climatology[:, 0], climatology[:, 1] = 280, -10
    graphs = GaussianGraphs(climatology, memory, trend)
    values = graphs.decode(latent.astype(np.float32), harmonic.season(phase, 1))
    times = [cftime.datetime(training[0] + month // 12, 1 + month % 12, 1, calendar="noleap") for month in range(steps)]
    cut = 12 * (training[1] - training[0] + 1)
    latent_model = LatentModel(
        window=WINDOW,
        previous=2,
        shape=(1, LATENT_PIXELS),
        zooms=(0, LATENT_ZOOM),
        cell_std=np.full((1, LATENT_PIXELS), 1.0, dtype=np.float32),
        season_std=np.zeros((1, 0, LATENT_PIXELS), dtype=np.float32),
        level_std=np.array([[0.5, 1.0]], dtype=np.float32),  # of unit white noise, so white space is the latent itself
        sampler=Sampler(name="dpm2m", steps=32, sigma_min=0.01, sigma_max=100.0, rho=7.0),
    )
    model = made_up_model(graphs, climatology, (SCALE,), zooms=(0, 1, 2), latent_zoom=LATENT_ZOOM)
    return ModelWithData(
        model=dataclasses.replace(model, latent=latent_model),
        training=Period(values=values[:cut], phase=phase[:cut], times=times[:cut]),
        evaluation=Period(values=values[cut:], phase=phase[cut:], times=times[cut:]),
    )
