"""The trained modules behind the runtime's `Graphs` interface: NumPy in and out, called as the exported graphs are."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from fsae.runtime.errors import UsageError

from .autoencoder import Autoencoder
from .denoiser import Denoiser

F32 = NDArray[np.float32]


def _tensor(array: F32) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(array, dtype=np.float32))


@dataclass(frozen=True)
class TorchGraphs:
    """Models in evaluation mode, called without gradients; see `fsae.runtime.session.Graphs` for shapes."""

    autoencoder: Autoencoder
    denoiser: Denoiser | None
    device: str = "cpu"
    backend: str = "torch"

    @torch.no_grad()
    def encode(self, field: F32, season: F32, level_mask: F32) -> F32:
        """Latents of physical fields."""
        latent: F32 = self.autoencoder.encode(_tensor(field), _tensor(season), _tensor(level_mask)).numpy()
        return latent

    @torch.no_grad()
    def decode(self, latent: F32, season: F32) -> F32:
        """Physical fields of latents."""
        field: F32 = self.autoencoder.decode(_tensor(latent), _tensor(season)).numpy()
        return field

    @torch.no_grad()
    def denoise(
        self,
        noisy: F32,
        sigma: F32,
        noise_features: F32,
        season: F32,
        forcing: F32,
        source: F32,
        previous: F32,
        previous_valid: F32,
    ) -> F32:
        """Denoised windows in white space."""
        if self.denoiser is None:
            raise UsageError("this run has no diffusion model")
        inputs = (noisy, sigma, noise_features, season, forcing, source, previous, previous_valid)
        denoised: F32 = self.denoiser(*(_tensor(array) for array in inputs)).numpy()
        return denoised
