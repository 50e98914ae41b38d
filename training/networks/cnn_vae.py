"""CNN-VAE on a lat-lon grid, the baseline of the autoencoder: one stride-2 stage for each factor 4 of the ratio.

Residual convolutions (He et al. 2016) with group normalisation and SiLU, and the weight of the divergence, as in the
autoencoders of latent diffusion (Rombach et al. 2022, arXiv 2112.10752). Like the field-space autoencoder it starts as
a plain map and learns what to add: before training the latent is the field smoothed and thinned out, and the rebuilt
field the latent interpolated. Shapes: B batch, V variables, S season features, N grid points (latitude slowest),
C channels.
"""

from collections.abc import Sequence
from functools import cache
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

from fsae.runtime.errors import UsageError

KL_WEIGHT = 1e-6
LOG_VARIANCE_START = -6.0  # latents begin with little noise, a deviation of 0.05; it can grow and shrink
LOG_VARIANCE_RANGE = (-30.0, 20.0)

# Grids of this many halvings belong to the network whatever the ratio: there it sees far and its weights cost little.
# With the latent's grid as the coarsest one a step at ratio 4 would take five times the operations.
HALVINGS = 3
DOUBLINGS = 2  # how often channels double from one grid to the next coarser one
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


class Finer(nn.Module):
    """From a grid to the next finer one: a convolution gives the four points in the place of each (Shi et al. 2016)."""

    def __init__(self, coarse: int, fine: int) -> None:
        super().__init__()
        self.convolution = PeriodicConv(coarse, 4 * fine)

    def forward(self, field: Tensor, size: Sequence[int]) -> Tensor:
        """(B, coarse, lat, lon) -> (B, fine, *size), which lacks the last row or column of the doubled grid if odd."""
        return functional.pixel_shuffle(self.convolution(field), 2)[..., : size[0], : size[1]]


class Hourglass(nn.Module):
    """Residual blocks on one grid before and after a pass through all coarser ones, whose `widths` are the channels."""

    def __init__(self, widths: Sequence[int]) -> None:
        super().__init__()
        self.before, self.after = ResidualBlock(widths[0]), ResidualBlock(widths[0])
        self.inner = None
        if len(widths) > 1:
            self.inner = nn.Sequential(PeriodicConv(widths[0], widths[1], stride=2), Hourglass(widths[1:]))
            self.back = Finer(widths[1], widths[0])
            zero(self.back.convolution)

    def forward(self, field: Tensor) -> Tensor:
        """(B, widths[0], lat, lon) -> the same shape."""
        field = self.before(field)
        if self.inner is not None:
            field = field + self.back(self.inner(field), field.shape[-2:])
        out: Tensor = self.after(field)
        return out


def zero(layer: nn.Conv2d) -> nn.Conv2d:
    """The layer, giving zero until it is trained."""
    nn.init.zeros_(layer.weight)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer


def output(channels: int, outputs: int) -> nn.Sequential:
    """Layers that make (B, outputs, lat, lon) of the channels of a grid."""
    return nn.Sequential(nn.GroupNorm(1, channels), nn.SiLU(), zero(PeriodicConv(channels, outputs)))


class CnnVae(nn.Module):
    """Encoder and decoder of normalised anomalies; both read the `constant` fields (fields, lat, lon).

    `width` is the number of channels of the coarsest grids. With an odd number of points along an axis the coarser grid
    takes one more than half of them; with an odd number of longitudes the coarser grids are uneven at the seam.
    """

    area: Tensor

    def __init__(
        self, *, variables: int, seasons: int, lat_deg: Tensor, constant: Tensor, stages: int, width: int
    ) -> None:
        super().__init__()
        self.variables, self.stages = variables, stages
        fields, *grid = constant.shape
        self.grids = [tuple(grid)]  # (lat, lon) from the finest to the latent's
        for stage in range(stages + 1):
            self.register_buffer(f"constant_{stage}", constant[None], persistent=False)
            constant = halve(constant[None])[0]
            self.grids.append(tuple(constant.shape[1:]))
        cosine = lat_deg.deg2rad().cos().clamp(min=0)
        area = (cosine / cosine.mean()).float()[:, None].expand(grid)
        self.register_buffer("area", area.flatten(), persistent=False)  # (N,), of mean 1

        halvings = max(stages, HALVINGS)
        widths = [max(1, width >> max(0, DOUBLINGS - level)) for level in range(halvings + 1)]
        known = seasons + fields
        steps = list(pairwise(widths[: stages + 1]))  # channels of a grid and of the next coarser one
        self.field_in = PeriodicConv(variables + known, widths[0])
        self.down = nn.ModuleList(
            nn.Sequential(ResidualBlock(fine), PeriodicConv(fine, coarse, stride=2)) for fine, coarse in steps
        )
        self.encoder = Hourglass(widths[stages:])
        self.latent_out = output(widths[stages], 2 * variables)
        self.latent_in = PeriodicConv(variables + known, widths[stages])
        self.decoder = Hourglass(widths[stages:])
        self.up = nn.ModuleList(Finer(coarse, fine) for fine, coarse in steps)
        self.known = nn.ModuleList(nn.Conv2d(known, fine, 1) for fine, _ in steps)
        self.fine = nn.ModuleList(ResidualBlock(fine) for fine, _ in steps)
        self.field_out = output(widths[0], variables)

    @property
    def numbers(self) -> int:
        """Numbers in a latent, all variables together."""
        lat, lon = self.grids[self.stages]
        return self.variables * lat * lon

    def encode(self, anomaly: Tensor, season: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and logarithm of the variance of the latent (B, V, lat, lon) of a normalised anomaly (B, V, N)."""
        field = anomaly.reshape(*anomaly.shape[:2], *self.grids[0])
        hidden = self.field_in(torch.cat([field, self._known(season, 0)], dim=1))
        for stage in self.down:
            hidden = stage(hidden)
            field = halve(field)
        mean, log_variance = self.latent_out(self.encoder(hidden)).chunk(2, dim=1)
        return field + mean, (LOG_VARIANCE_START + log_variance).clamp(*LOG_VARIANCE_RANGE)

    def decode(self, latent: Tensor, season: Tensor) -> Tensor:
        """Normalised anomaly (B, V, N) of a latent (B, V, lat, lon)."""
        field = latent
        hidden = self.decoder(self.latent_in(torch.cat([latent, self._known(season, self.stages)], dim=1)))
        for stage in reversed(range(self.stages)):
            grid = self.grids[stage]
            known = self.known[stage](self._known(season, stage))
            hidden = self.fine[stage](self.up[stage](hidden, grid) + known)
            field = double(field, grid)
        rebuilt: Tensor = field + self.field_out(hidden)
        return rebuilt.flatten(-2)

    def forward(self, anomaly: Tensor, season: Tensor) -> Tensor:
        """The anomaly (B, V, N) rebuilt from the mean of its latent."""
        return self.decode(self.encode(anomaly, season)[0], season)

    def _known(self, season: Tensor, stage: int) -> Tensor:
        """Season and constant fields on the grid of a stage, (B, S + fields, lat, lon)."""
        constant = self.get_buffer(f"constant_{stage}").expand(len(season), -1, -1, -1)
        everywhere = season[:, :, None, None].expand(-1, -1, *constant.shape[2:])
        return torch.cat([everywhere, constant], dim=1)


def cnn_vae_loss(model: CnnVae, batch: tuple[Tensor, Tensor]) -> Tensor:
    """Mean square error of the anomalies rebuilt from a drawn latent, by area, and `KL_WEIGHT` of the divergence.

    The divergence of the latent from the standard normal distribution (Kingma and Welling 2014, appendix B) is its
    mean over the latent's numbers.
    """
    anomaly, season = batch
    mean, log_variance = model.encode(anomaly, season)
    latent = mean + torch.exp(log_variance / 2) * torch.randn_like(mean)
    divergence = (mean.square() + log_variance.exp() - 1 - log_variance).mean() / 2
    return area_mean_square(model, model.decode(latent, season) - anomaly) + KL_WEIGHT * divergence


def cnn_vae_error(model: CnnVae, batch: tuple[Tensor, Tensor]) -> Tensor:
    """Mean square error of the anomalies rebuilt from the mean of their latent, by area."""
    anomaly, season = batch
    return area_mean_square(model, model(anomaly, season) - anomaly)


def area_mean_square(model: CnnVae, difference: Tensor) -> Tensor:
    """Mean square of (B, V, N), weighted by the cosine of latitude."""
    return (difference.square() * model.area).mean()


def places(lat_deg: Tensor, lon_deg: Tensor) -> Tensor:
    """Position of each point on the unit sphere, (3, lat, lon): sin lat, cos lat cos lon, cos lat sin lon."""
    lat, lon = lat_deg.deg2rad()[:, None], lon_deg.deg2rad()[None]
    parts = (lat.sin() + 0 * lon, lat.cos() * lon.cos(), lat.cos() * lon.sin())
    return torch.stack(parts).float()


def fitting_width(
    parameters: int, *, variables: int, seasons: int, lat_deg: Tensor, constant: Tensor, stages: int
) -> int:
    """The `width` of the CNN-VAE whose number of parameters is nearest; UsageError if none is within a tenth."""

    @cache
    def count(width: int) -> int:
        with torch.device("meta"):
            model = CnnVae(
                variables=variables,
                seasons=seasons,
                lat_deg=torch.empty(len(lat_deg)),
                constant=torch.empty(constant.shape),
                stages=stages,
                width=width,
            )
        return parameter_count(model)

    width = 16
    for _ in range(4):  # parameters grow nearly with the square of the width
        width = max(1, round(width * (parameters / count(width)) ** 0.5))
    width = min(range(max(1, width - 1), width + 2), key=lambda width: abs(count(width) - parameters))
    if abs(count(width) - parameters) > BUDGET_TOLERANCE * parameters:
        raise UsageError(
            f"found no CNN-VAE with about the autoencoder's {parameters} parameters, the nearest has {count(width)}",
            advice="train a wider autoencoder",
        )
    return width


def parameter_count(model: nn.Module) -> int:
    """Number of trained parameters."""
    return sum(weights.numel() for weights in model.parameters())
