"""Angular power of anomalies as part of the autoencoder's loss, from spherical harmonics drawn anew at every step."""

import healpy
import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import sph_harm_y
from torch import Tensor, nn

from fsae.runtime.errors import UsageError
from fsae.runtime.healpix import npix

ORDERS = 8  # drawn of each degree at a step
MAX_VALUES = 1 << 28  # of the table of harmonics: 1 GiB


def harmonic_table(zoom: int, lowest: int, highest: int) -> NDArray[np.float32]:
    """Real harmonics (harmonic, nested pixel) of degrees lowest ... highest, orders -l ... l each, unit mean square.

    A harmonic is a function of latitude times a wave in longitude, and there are only 4 nside - 1 latitudes.
    """
    colatitude, longitude = healpy.pix2ang(1 << zoom, np.arange(npix(zoom)), nest=True)
    rings, ring = np.unique(colatitude.round(12), return_inverse=True)
    table = np.empty(((highest + 1) ** 2 - lowest**2, npix(zoom)), dtype=np.float32)
    for order in range(highest + 1):
        cosine, sine = np.cos(order * longitude), np.sin(order * longitude)
        for degree in range(max(order, lowest), highest + 1):
            latitude = sph_harm_y(degree, order, rings, 0.0).real * np.sqrt(4 * np.pi * (1 if order == 0 else 2))
            row = degree * (degree + 1) - lowest**2
            table[row + order] = latitude[ring] * cosine
            if order:
                table[row - order] = latitude[ring] * sine
    return table


class AngularPower(nn.Module):
    """How far the power of rebuilt fields is from the true one, over all degrees from 2 to 2 nside.

    The mean square error alone is least for fields too smooth by all that the latent cannot hold: at the finest scales
    more than half of the power is lost. What is left there is still correlated with the truth, so amplifying it to the
    true power costs little error: with the share R^2 explained, 2 (1 - R) of the variance instead of 1 - R^2.

    Each call draws the orders anew: with fixed ones the network learns to put power into just those.
    """

    table: Tensor
    degrees: Tensor

    def __init__(self, zoom: int) -> None:
        super().__init__()
        lowest, highest = 2, 2 << zoom
        if npix(zoom) * (highest + 1) ** 2 > MAX_VALUES:
            raise UsageError(f"autoencoder_fit.spectral_power at zoom {zoom} needs too large a table: set it to 0")
        self.register_buffer("table", torch.from_numpy(harmonic_table(zoom, lowest, highest)), persistent=False)
        self.register_buffer("degrees", torch.arange(lowest, highest + 1), persistent=False)

    def draw(self) -> Tensor:
        """Rows of the table: `ORDERS` orders of each degree by chance, (degree * ORDERS,)."""
        place = torch.rand(len(self.degrees), ORDERS, device=self.degrees.device)
        count = 2 * self.degrees[:, None] + 1
        first = self.degrees[:, None] ** 2 - self.degrees[0] ** 2
        return (first + (place * count).long()).flatten()

    def spectrum(self, field: Tensor, rows: Tensor) -> Tensor:
        """Mean power (degree,) over batch, variables and drawn orders of normalised fields (B, V, N)."""
        coefficients = field @ self.table[rows].T / field.shape[-1]
        return coefficients.reshape(-1, len(self.degrees), ORDERS).square().mean(dim=(0, 2))

    def forward(self, rebuilt: Tensor, true: Tensor) -> Tensor:
        """Mean over degrees of ln(power rebuilt / power true)^2: too much and too little weigh alike."""
        rows = self.draw()
        return (self.spectrum(rebuilt, rows) / self.spectrum(true, rows)).log().square().mean()
