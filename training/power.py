"""Angular power of anomalies as part of the autoencoder's loss, from a sample of spherical harmonics."""

import numpy as np
import torch
from torch import Tensor, nn

from fsae.runtime.errors import UsageError
from fsae.runtime.healpix import npix

from .halo import spherical_harmonic

MAX_DEGREES = 32
ORDERS = 16
MAX_VALUES = 1 << 28  # of the table of harmonics: 1 GiB


class AngularPower(nn.Module):
    """How far the power of rebuilt fields is from the true one, over degrees of the field's own scales.

    The mean square error alone is least for fields too smooth by all that the latent cannot hold: at the finest scales
    more than half of the power is lost. What is left there is still correlated with the truth, so amplifying it to the
    true power costs little error: with the share R^2 explained, 2 (1 - R) of the variance instead of 1 - R^2.

    Power is sampled: up to 32 degrees, evenly spaced from 2 to 2 nside, and up to 16 orders of each, evenly spaced.
    """

    basis: Tensor

    def __init__(self, zoom: int) -> None:
        super().__init__()
        highest = 2 << zoom
        degrees = np.unique(np.linspace(2, highest, MAX_DEGREES).round().astype(int))
        if npix(zoom) * len(degrees) * ORDERS > MAX_VALUES:
            raise UsageError(f"autoencoder_fit.spectral_power at zoom {zoom} needs too large a table: set it to 0")
        columns = []
        for degree in degrees:
            orders = np.linspace(-degree, degree, ORDERS).round().astype(int)
            columns.append(np.stack([spherical_harmonic(zoom, int(degree), int(order)) for order in orders], axis=1))
        basis = np.concatenate(columns, axis=1) / npix(zoom)
        self.register_buffer("basis", torch.from_numpy(basis.astype(np.float32)), persistent=False)

    def spectrum(self, field: Tensor) -> Tensor:
        """Mean power (degree,) over batch and variables of normalised fields (B, V, N)."""
        coefficients = (field @ self.basis).reshape(-1, self.basis.shape[1] // ORDERS, ORDERS)
        return coefficients.square().mean(dim=(0, 2))

    def forward(self, rebuilt: Tensor, true: Tensor) -> Tensor:
        """Mean over degrees of ln(power rebuilt / power true)^2: too much and too little weigh alike."""
        return (self.spectrum(rebuilt) / self.spectrum(true)).log().square().mean()
