"""The trained modules behind the runtime's `Graphs` interface: NumPy in and out, called as the exported graphs are."""

from dataclasses import dataclass

import numpy as np
import torch

from fsae.runtime.arrays import F32
from fsae.runtime.backends.graphs import DenoiserInputs
from fsae.runtime.errors import UsageError

from .autoencoder import Autoencoder
from .denoiser import Denoiser


def _tensor(array: F32) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(array, dtype=np.float32))


@dataclass(frozen=True)
class TorchGraphs:
    """Models in evaluation mode, called without gradients; see `fsae.runtime.backends.graphs.Graphs` for shapes."""

    autoencoder: Autoencoder
    denoiser: Denoiser | None
    fast: Denoiser | None = None
    device: str = "cpu"
    backend: str = "torch"
    precision: str = "fp32"

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
    def denoise(self, inputs: DenoiserInputs, graph: str = "denoiser") -> F32:
        """Denoised windows in white space."""
        model = self.denoiser if graph == "denoiser" else self.fast
        if model is None:
            raise UsageError(
                f"this run has no {graph} model",
                advice="name a run that has one, or train it with the table in its configuration",
            )
        denoised: F32 = model(*(_tensor(array) for array in inputs)).numpy()
        return denoised
