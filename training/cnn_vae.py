"""CNN-VAE on a lat-lon grid, the baseline of the autoencoder: one stride-2 stage for each factor 4 of the ratio.

Residual convolutions (He et al. 2016) with group normalisation and SiLU, as in the autoencoders of latent diffusion
(Rombach et al. 2022, arXiv 2112.10752), with their weight of the divergence. It starts as well as the field-space
autoencoder does: before training the latent is the field smoothed and thinned out, and the rebuilt field the latent
interpolated; the network learns what to add to both. Shapes: B batch, V variables, S season features, N grid points
(lat slowest), C channels.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from fsae.runtime.errors import UsageError

KL_WEIGHT = 1e-6
LOG_VARIANCE_START = -6.0  # latents begin with little noise, a deviation of 0.05; it can grow and shrink
LOG_VARIANCE_RANGE = (-30.0, 20.0)
HALVINGS = 4  # grids down to a sixteenth of the points of an axis, whatever the ratio: there weights cost little
DOUBLINGS = 3  # channels double from one grid to the next coarser this often
BUDGET_TOLERANCE = 0.1


def with_border(field: Tensor) -> Tensor:
    """A field (B, C, lat, lon) with one more point on each side: periodic in longitude, repeated beyond the poles."""
    around = functional.pad(field, (1, 1, 0, 0), mode="circular")
    return functional.pad(around, (0, 0, 1, 1), mode="replicate")


def halve(field: Tensor) -> Tensor:
    """Every second point of (B, C, lat, lon), from the first on, after smoothing by (1 2 1) / 4 along both axes."""
    wide = with_border(field)
    rows = wide[..., :-2, :] + 2 * wide[..., 1:-1, :] + wide[..., 2:, :]
    return ((rows[..., :-2] + 2 * rows[..., 1:-1] + rows[..., 2:]) / 16)[..., ::2, ::2]


def double(field: Tensor, size: Sequence[int]) -> Tensor:
    """The field (B, C, lat, lon) interpolated to a grid of `size` that has its points at every second place.

    >>> double(torch.tensor([[[[0.0, 4.0]]]]), (1, 4)).tolist()
    [[[[0.0, 2.0, 4.0, 2.0]]]]
    """
    wide = with_border(field)[..., 1:, 1:]  # one more row to the south, one more column to the east
    rows = torch.stack([wide[..., :-1, :], (wide[..., :-1, :] + wide[..., 1:, :]) / 2], dim=-2)
    rows = rows.flatten(-3, -2)[..., : size[0], :]
    columns = torch.stack([rows[..., :-1], (rows[..., :-1] + rows[..., 1:]) / 2], dim=-1)
    return columns.flatten(-2)[..., : size[1]]


class PeriodicConv(nn.Conv2d):
    """A 3 x 3 convolution on the sphere's lat-lon grid."""

    def __init__(self, inputs: int, outputs: int, stride: int = 1) -> None:
        super().__init__(inputs, outputs, 3, stride=stride)

    def forward(self, field: Tensor) -> Tensor:
        """(B, inputs, lat, lon) -> (B, outputs, lat, lon), or half of both axes, rounded up, with stride 2."""
        return super().forward(with_border(field))


class ResidualBlock(nn.Module):
    """Two convolutions, added to what comes in; the identity before training."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        last = PeriodicConv(channels, channels)
        zero(last)
        first = PeriodicConv(channels, channels)
        norms = [nn.GroupNorm(1, channels) for _ in range(2)]
        self.body = nn.Sequential(norms[0], nn.SiLU(), first, norms[1], nn.SiLU(), last)

    def forward(self, field: Tensor) -> Tensor:
        """(B, C, lat, lon) -> the same shape."""
        update: Tensor = self.body(field)
        return field + update


class Hourglass(nn.Module):
    """Residual blocks on one grid before and after a way through all coarser ones, whose `widths` are the channels."""

    def __init__(self, widths: Sequence[int]) -> None:
        super().__init__()
        self.before, self.after = ResidualBlock(widths[0]), ResidualBlock(widths[0])
        self.inner = None
        if len(widths) > 1:
            self.inner = nn.Sequential(
                PeriodicConv(widths[0], widths[1], stride=2),
                Hourglass(widths[1:]),
                nn.Conv2d(widths[1], widths[0], 1),
            )

    def forward(self, field: Tensor) -> Tensor:
        """(B, widths[0], lat, lon) -> the same shape."""
        field = self.before(field)
        if self.inner is not None:
            field = field + double(self.inner(field), field.shape[-2:])
        return self.after(field)


class CnnVae(nn.Module):
    """Encoder and decoder of normalised anomalies; `constant` (fields, lat, lon) is what both know of a place.

    `width` is the number of channels of the coarsest grids.
    """

    area: Tensor

    def __init__(
        self, *, variables: int, seasons: int, lat_deg: Tensor, constant: Tensor, stages: int, width: int
    ) -> None:
        super().__init__()
        self.stages = stages
        halvings = max(stages, HALVINGS)
        widths = [max(1, width >> max(0, DOUBLINGS - level)) for level in range(halvings + 1)]
        self.grids = [tuple(constant.shape[1:])]  # (lat, lon) from the finest to the latent's
        level = constant[None]
        for stage in range(stages + 1):
            self.register_buffer(f"constant_{stage}", level, persistent=False)
            level = halve(level)
        cosine = lat_deg.deg2rad().cos().clamp(min=0)
        self.register_buffer("area", (cosine / cosine.mean())[:, None], persistent=False)  # (lat, 1)
        known = seasons + constant.shape[0]
        first, latent = widths[0], widths[stages]
        self.field_in = PeriodicConv(variables + known, first)
        self.down = nn.ModuleList(
            nn.Sequential(ResidualBlock(fine), PeriodicConv(fine, coarse, stride=2))
            for fine, coarse in pairwise(widths[: stages + 1])
        )
        self.encoder = Hourglass(widths[stages:])
        self.latent_out = output(latent, 2 * variables)
        self.latent_in = PeriodicConv(variables + known, latent)
        self.decoder = Hourglass(widths[stages:])
        # From coarse to fine: channels for the finer grid, what is known there, and a block on it.
        finer = [*pairwise(widths[: stages + 1])][::-1]
        self.up = nn.ModuleList(nn.Conv2d(coarse, fine, 1) for fine, coarse in finer)
        self.known = nn.ModuleList(nn.Conv2d(known, fine, 1) for fine, _ in finer)
        self.fine = nn.ModuleList(ResidualBlock(fine) for fine, _ in finer)
        self.field_out = output(first, variables)
