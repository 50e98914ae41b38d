"""Denoiser of latent windows: field-space blocks under EDM preconditioning (Karras et al. 2022, "EDM").

The state is the whitened latent (`fsae.runtime.diffusion.whitening.whiten`) of T consecutive steps, so white pixel
noise is unit noise on every level and sigma_data = 1. The P steps before the window are read beside it and never
changed.

Differences of ours from Meuer et al. 2026: all steps of a window stand in the token of their cell (attention then mixes
cells and variables, the linear maps mix steps), which costs a window little more than one step.
"""

from typing import Annotated

import torch
from msgspec import Meta
from torch import Tensor, nn

from fsae.runtime.bundle.records import MOST_INTEGER, OneOrMore, Positive, Record, Zoom
from fsae.runtime.diffusion.sampler import NOISE_FEATURES

from .layers import Embedding, FieldSpaceBlock, check_network, decompose, recompose
from .wiener import WienerFilter


class DenoiserConfig(Record, frozen=True, kw_only=True):
    """Shape of the network: `token_zooms` has one entry per block."""

    window: Annotated[int, Meta(ge=3, le=MOST_INTEGER)] = 6
    previous: OneOrMore = 2
    token_zooms: Annotated[tuple[Zoom, ...], Meta(min_length=1)] = (2, 1, 2)
    wiener_zoom: Zoom = 3  # the linear part (wiener.py) has covariances of as many patterns as there are cells
    width: OneOrMore = 96
    heads: OneOrMore = 4
    embedding: OneOrMore = 32
    mlp_ratio: Positive = 2.0
    dropout: Annotated[float, Meta(ge=0, lt=1)] = 0.1

    def __post_init__(self) -> None:
        check_network(self.width, self.heads, self.mlp_ratio)


class Denoiser(nn.Module):
    """The expected clean window given a noisy one; `forcing_range` (2,) is the first and last forcing seen in training.

    The mean climate goes on beyond that range if it `responds` to the forcing.

    With falling noise `levels` (step + 1,), the last of them zero, it is made for that many Euler steps (distil.py): at
    each level it gives the state with which one step reaches the next.
    """

    forcing_range: Tensor
    levels: Tensor | None

    def __init__(
        self,
        config: DenoiserConfig,
        *,
        zooms: tuple[int, ...],
        variables: int,
        harmonics: int,
        forcing_range: Tensor,
        responds: bool = False,
        levels: Tensor | None = None,
    ) -> None:
        super().__init__()
        self.config, self.zooms = config, zooms
        self.register_buffer("levels", levels, persistent=False)
        self.register_buffer("forcing_range", forcing_range)
        self.wiener = WienerFilter(
            latent_zoom=zooms[-1],
            zoom=config.wiener_zoom,
            variables=variables,
            window=config.window,
            previous=config.previous,
            responds=responds,
        )
        # noise level, season and forcing of each step, source, and which previous steps are there
        conditions = NOISE_FEATURES + config.window * (2 * harmonics + 1) + 1 + config.previous
        self.embedding = Embedding(
            token_zooms=config.token_zooms, variables=variables, conditions=conditions, size=config.embedding
        )
        self.blocks = nn.ModuleList(
            FieldSpaceBlock(
                zooms=zooms,
                token_zoom=token_zoom,
                width=config.width,
                heads=config.heads,
                embedding=config.embedding,
                frames=config.window,
                read_frames=config.previous,
                mlp_ratio=config.mlp_ratio,
                dropout=config.dropout,
            )
            for token_zoom in config.token_zooms
        )
        # How much of each level's input the network passes on, by noise level and season; starts at none.
        self.skip = nn.Linear(config.embedding, len(zooms))
        nn.init.zeros_(self.skip.weight)
        nn.init.zeros_(self.skip.bias)

    def forward(
        self,
        noisy: Tensor,
        sigma: Tensor,
        noise_features: Tensor,
        season: Tensor,
        forcing: Tensor,
        source: Tensor,
        previous: Tensor,
        previous_valid: Tensor,
    ) -> Tensor:
        """Denoised (B, T, V, Nzb) of noisy, same shape, and previous (B, P, V, Nzb); EDM eq. 7 with sigma_data = 1."""
        variance = (sigma * sigma + 1)[:, None, None, None]
        relative = self.relative(forcing)
        seen = relative.clamp(-1, 1)
        conditions = torch.cat([noise_features, season.flatten(1), seen, source[:, None], previous_valid], dim=1)
        condition = self.embedding(conditions)
        scaled = noisy / variance.sqrt()  # c_in
        known = previous * previous_valid[:, :, None, None]
        entering = self._levels(scaled)
        read = self._levels(known)
        levels = entering
        for block in self.blocks:
            levels = block(levels, self.embedding.cell(block), condition, read)
        skip = (self.skip(condition) - 1).unbind(-1)  # (B, V) each
        levels = [
            (level + gain[:, :, None, None] * start) * self._unit(zoom)
            for level, gain, start, zoom in zip(levels, skip, entering, self.zooms, strict=True)
        ]
        network = recompose(levels, self.zooms).transpose(1, 2)  # (B, T, V, Nzb)
        # in place of c_skip * noisy
        linear: Tensor = self.wiener(noisy, sigma, relative, known, previous_valid, self.following(sigma))
        return linear + sigma[:, None, None, None] / variance.sqrt() * network  # c_out

    def following(self, sigma: Tensor) -> Tensor | None:
        """The noise level (B,) after each sigma (B,); None if any may follow."""
        if self.levels is None:
            return None
        here = ((sigma[:, None] - self.levels[:-1]).abs() < 1e-3 * self.levels[:-1]).to(sigma.dtype)  # (B, step)
        return here @ self.levels[1:]

    def relative(self, forcing: Tensor) -> Tensor:
        """The forcing scaled to -1 ... 1 over the years seen in training."""
        low, high = self.forcing_range[0], self.forcing_range[1]
        return 2 * (forcing - low) / (high - low) - 1

    def _unit(self, zoom: int) -> float:
        """Standard deviation of unit pixel noise averaged over a cell of `zoom`."""
        return float(2.0 ** (zoom - self.zooms[-1]))

    def _levels(self, state: Tensor) -> list[Tensor]:
        """Levels (B, V, F, pixel) of a state (B, F, V, Nzb), each brought to the size of unit noise."""
        levels = decompose(state.transpose(1, 2), self.zooms)
        return [level / self._unit(zoom) for level, zoom in zip(levels, self.zooms, strict=True)]
