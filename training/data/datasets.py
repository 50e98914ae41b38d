"""Training samples as pure functions of (seed, index): the same whatever the workers, ranks or restarts.

There is a sample for every index from 0 on; the training loop says which of them a batch has.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from fsae.runtime.arrays import F32
from fsae.runtime.bundle.manifest import SOURCES
from fsae.runtime.diffusion.sampler import noise_features
from fsae.runtime.errors import DataError
from fsae.training.config import NoiseConfig

from .normalisation import Series


class AnomalySamples(Dataset[tuple[Tensor, Tensor]]):
    """Normalised anomalies (V, N) with their season (2K): real months, and random mixtures of three of them.

    Monthly anomalies are close to Gaussian, so a x_i + b x_j + c x_k with a^2 + b^2 + c^2 = 1 is another valid sample;
    with only hundreds of months this is what keeps the autoencoder from learning them by heart. A share `mixture` of
    the samples are mixtures. The season is x_i's, whose weight is the largest on average. With `localisation` above 0
    the weights vary over the sphere: to (a, b, c) random sums of the `waves` (W, N) of that deviation are added before
    the norm is taken, at every pixel. Anomalies far apart are then less correlated than in the few months at hand,
    whose correlations over long distances are noise.
    """

    def __init__(
        self, anomalies: Series, season: F32, waves: F32, *, mixture: float, localisation: float, seed: int
    ) -> None:
        self.anomalies, self.season, self.waves = anomalies, season, waves / np.float32(len(waves) ** 0.5)
        self.mixture, self.localisation, self.seed = mixture, localisation, seed

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        rng = np.random.default_rng((self.seed, index))
        months = rng.integers(len(self.anomalies), size=3)
        season = torch.from_numpy(self.season[months[0]])
        if rng.random() >= self.mixture:
            return torch.from_numpy(self.anomalies[months[0]]), season
        weight = rng.random((3, 1)) ** np.array([[0.3], [1.0], [2.0]])  # a is near 1, c mostly small
        if self.localisation:
            weight = weight / np.linalg.norm(weight)
            weight = weight + self.localisation * rng.standard_normal((3, len(self.waves))) @ self.waves
        weight = (weight / np.linalg.norm(weight, axis=0)).astype(np.float32)  # (3, 1) or (3, N)
        mixed = sum(w * x for w, x in zip(weight, self.anomalies[months], strict=True))
        return torch.from_numpy(mixed), season


@dataclass(frozen=True, kw_only=True)
class Stretch:
    """Latents (time, V, Nzb) of one member of one source, their season (time, 2K) and forcing (time,).

    `index` (time,) counts steps: consecutive steps differ by one, a larger difference is a gap.
    """

    source: str  # "hr" or "lr"
    index: NDArray[np.int64]
    latents: F32
    season: F32
    forcing: F32


class WindowSamples(Dataset[dict[str, Tensor]]):
    """Noisy windows of whitened latents for the denoiser: its inputs by name, and the clean window as `clean`.

    `forcing_jitter` is the deviation of the random shift of a window's forcing, in its units.
    With both kinds of sources a `high_resolution_share` of the windows is of a high-resolution one; all windows of a
    kind are equally likely.
    """

    def __init__(
        self,
        stretches: Sequence[Stretch],
        noise: NoiseConfig,
        *,
        forcing_jitter: float,
        high_resolution_share: float,
        window: int,
        previous: int,
        seed: int,
    ) -> None:
        self.stretches, self.noise, self.share = stretches, noise, high_resolution_share
        self.forcing_jitter = forcing_jitter
        self.window, self.previous, self.seed = window, previous, seed
        self.starts: dict[str, list[tuple[int, int]]] = {}  # by source: which stretch, which step of it
        for number, stretch in enumerate(stretches):
            last = np.arange(window - 1, len(stretch.index))
            whole = stretch.index[last] - stretch.index[last - window + 1] == window - 1
            self.starts.setdefault(stretch.source, []).extend((number, int(s)) for s in np.flatnonzero(whole))
        for source in SOURCES:
            if self.starts.get(source) == []:
                raise DataError(
                    f"found no {window} consecutive steps in the {source} data", advice="choose a shorter window"
                )

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        rng = np.random.default_rng((self.seed, index))
        source = next(iter(self.starts)) if len(self.starts) == 1 else SOURCES[int(rng.random() >= self.share)]
        number, start = self.starts[source][rng.integers(len(self.starts[source]))]
        stretch = self.stretches[number]
        part = slice(start, start + self.window)
        clean = stretch.latents[part]  # (T, V, Nzb)
        sigma = np.exp(rng.normal(self.noise.log_mean, self.noise.log_deviation))
        before = start - self.previous
        there = before >= 0 and stretch.index[start] - stretch.index[before] == self.previous
        known = rng.random() < self.noise.previous_share and there
        previous = stretch.latents[before:start] if known else np.zeros_like(clean[: self.previous])
        arrays = {
            "clean": clean,
            "noisy": clean + sigma * rng.standard_normal(clean.shape),
            "sigma": sigma,
            "noise_features": noise_features(np.array([sigma]))[0],
            "season": stretch.season[part],
            "forcing": stretch.forcing[part] + rng.normal(0, self.forcing_jitter),
            "source": SOURCES.index(source),
            "previous": previous,
            "previous_valid": np.full(self.previous, float(known)),
        }
        return {name: torch.from_numpy(np.asarray(array, dtype=np.float32)) for name, array in arrays.items()}
