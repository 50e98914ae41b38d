"""Field-Space Autoencoder: a field at the finest zoom to one latent field at the bottleneck zoom and back.

Meuer et al. 2026 (arXiv 2601.15102), section 3. Differences of ours: one latent field per variable instead of levels,
compression maps of their own for every cell beside the shared one, a conservation step, a harmonic climatology.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fsae.runtime.errors import UsageError
from fsae.runtime.healpix import npix

from .halo import halo_size, halo_table
from .layers import Embedding, FieldSpaceBlock, check_network, coarsen, conserve, decompose, patches, recompose


@dataclass(frozen=True, kw_only=True)
class AutoencoderConfig:
    """Shape of the network; `depths` are blocks of encoder fine, encoder coarse, decoder coarse, decoder fine."""

    base_zoom: int = 0
    latent_zoom: int = 3
    zoom: int = 5
    fine_token_zoom: int = 3
    coarse_token_zoom: int = 2
    depths: tuple[int, int, int, int] = (1, 1, 1, 2)
    width: int = 96
    heads: int = 4
    embedding: int = 36
    mlp_ratio: float = 2.0
    per_cell_maps: bool = True
    dropout: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.base_zoom < self.latent_zoom < self.zoom:
            raise UsageError(
                f"autoencoder zooms are base {self.base_zoom}, latent {self.latent_zoom}, finest {self.zoom}; "
                "expected 0 <= base_zoom < latent_zoom < zoom"
            )
        check_network("autoencoder", self.width, self.heads, self.embedding, self.mlp_ratio, self.dropout)
        if not (0 <= self.fine_token_zoom <= self.zoom and 0 <= self.coarse_token_zoom <= self.latent_zoom):
            raise UsageError(
                f"autoencoder token zooms are {self.fine_token_zoom} and {self.coarse_token_zoom}, expected 0 to zoom "
                f"{self.zoom} and 0 to latent_zoom {self.latent_zoom}"
            )
        if min(self.depths) < 0:
            raise UsageError(f"autoencoder depths are {list(self.depths)}, expected 0 or more")

    @property
    def zooms(self) -> tuple[int, ...]:
        """All zooms of the pyramid, coarse to fine."""
        return tuple(range(self.base_zoom, self.zoom + 1))

    @property
    def latent_zooms(self) -> tuple[int, ...]:
        """Zooms of the latent's pyramid, coarse to fine."""
        return tuple(range(self.base_zoom, self.latent_zoom + 1))


class CellMap(nn.Module):
    """A linear map of each cell's patch: one shared by all cells and, if asked, one of its own; both start at zero."""

    def __init__(self, cells: int, entries: int, outputs: int, *, per_cell: bool) -> None:
        super().__init__()
        self.shared = nn.Parameter(torch.zeros(entries, outputs))
        self.own = nn.Parameter(torch.zeros(cells, entries, outputs)) if per_cell else None

    def forward(self, patch: Tensor) -> Tensor:
        """(B, V, C, entries) -> (B, V, C, outputs)."""
        out = patch @ self.shared
        if self.own is not None:
            out = out + (patch[..., None, :] @ self.own)[..., 0, :]
        return out


class Autoencoder(nn.Module):
    """Encoder and decoder in physical units; `climatology` (V, 1 + 2K, N) and `scale` (V,) travel with the weights."""

    climatology: Tensor
    scale: Tensor
    sharpening: Tensor
    ring: Tensor
    fine_ring: Tensor

    def __init__(self, config: AutoencoderConfig, climatology: Tensor, scale: Tensor) -> None:
        super().__init__()
        self.config = config
        variables, coefficients, _ = climatology.shape
        self.register_buffer("climatology", climatology)
        self.register_buffer("scale", scale)
        # See sharpening.py: nothing is sharpened until it is fitted.
        self.register_buffer("sharpening", torch.zeros(variables, 2))
        fine_ring = torch.from_numpy(halo_table(config.zoom, config.zoom)).ravel()
        self.register_buffer("fine_ring", fine_ring, persistent=False)
        cells = npix(config.latent_zoom)
        self.finer = [4 ** (zoom - config.latent_zoom) for zoom in config.zooms if zoom > config.latent_zoom]
        self.register_buffer(
            "ring", torch.from_numpy(halo_table(config.latent_zoom, config.latent_zoom)).ravel(), persistent=False
        )
        self.compress = CellMap(cells, sum(self.finer), 1, per_cell=config.per_cell_maps)
        # The patch around a latent cell: the cell's own value and its eight neighbours'.
        around = 1 + halo_size(config.latent_zoom, config.latent_zoom)
        self.decompress = CellMap(cells, around, sum(self.finer), per_cell=config.per_cell_maps)

        def stage(depth: int, zooms: Sequence[int], token_zoom: int) -> nn.ModuleList:
            return nn.ModuleList(
                FieldSpaceBlock(
                    zooms=zooms,
                    token_zoom=token_zoom,
                    width=config.width,
                    heads=config.heads,
                    embedding=config.embedding,
                    mlp_ratio=config.mlp_ratio,
                    dropout=config.dropout,
                )
                for _ in range(depth)
            )

        tokens = (config.fine_token_zoom, config.coarse_token_zoom)
        self.embedding = Embedding(
            token_zooms=tokens, variables=variables, conditions=coefficients - 1, size=config.embedding
        )
        self.encoder_fine = stage(config.depths[0], config.zooms, tokens[0])
        self.encoder_coarse = stage(config.depths[1], config.latent_zooms, tokens[1])
        self.decoder_coarse = stage(config.depths[2], config.latent_zooms, tokens[1])
        self.decoder_fine = stage(config.depths[3], config.zooms, tokens[0])

    def mean(self, season: Tensor) -> Tensor:
        """Climatology [physical units] of each sample's season: (B, 2K) -> (B, V, N)."""
        variables, _, pixels = self.climatology.shape
        table = self.climatology[:, 1:].transpose(0, 1).flatten(1)  # (2K, V * N): a plain product, exact for any batch
        return self.climatology[:, 0] + (season @ table).reshape(-1, variables, pixels)

    def encode(self, field: Tensor, season: Tensor, level_mask: Tensor) -> Tensor:
        """Latent (B, V, Nzb) of a field (B, V, N) [physical units]; level_mask (B, levels) weighs the residuals."""
        return self.encode_anomaly((field - self.mean(season)) / self.scale[:, None], season, level_mask)

    def decode(self, latent: Tensor, season: Tensor) -> Tensor:
        """Field (B, V, N) [physical units] of a latent (B, V, Nzb)."""
        anomaly = self.sharpen(self.decode_anomaly(latent, season))
        return anomaly * self.scale[:, None] + self.mean(season)

    def sharpen(self, anomaly: Tensor) -> Tensor:
        """The anomaly (B, V, N) with its angular power restored; the means of the base cells stay."""
        first = self._laplacian(anomaly)
        second = self._laplacian(first)
        sharp = anomaly + self.sharpening[:, :1] * first + self.sharpening[:, 1:] * second
        levels = decompose(sharp, self.config.zooms)
        steps = self.config.zoom - self.config.base_zoom
        return recompose([coarsen(anomaly, steps), *levels[1:]], self.config.zooms)

    def _laplacian(self, field: Tensor) -> Tensor:
        return field - patches(field.index_select(-1, self.fine_ring), halo_size(0, 0)).mean(-1)

    def encode_anomaly(self, anomaly: Tensor, season: Tensor, level_mask: Tensor) -> Tensor:
        """`encode` of a normalised anomaly (B, V, N)."""
        condition = self.embedding(season)
        levels = [
            level[:, :, None] * level_mask[:, index, None, None, None]  # (B, V, F = 1, pixel)
            for index, level in enumerate(decompose(anomaly, self.config.zooms))
        ]
        levels = self._run(self.encoder_fine, levels, condition)
        kept = len(self.config.latent_zooms)
        patch = torch.cat(
            [patches(level, inside) for level, inside in zip(levels[kept:], self.finer, strict=True)], dim=-1
        )  # (B, V, 1, C, sum of finer)
        levels = levels[:kept]
        levels[-1] = levels[-1] + self.compress(patch[:, :, 0]).transpose(-1, -2)  # (B, V, 1, C)
        levels = self._run(self.encoder_coarse, levels, condition)
        return recompose(conserve(levels, self.config.latent_zooms), self.config.latent_zooms)[:, :, 0]

    def decode_anomaly(self, latent: Tensor, season: Tensor) -> Tensor:
        """Normalised anomaly (B, V, N) of a latent (B, V, Nzb)."""
        condition = self.embedding(season)
        zooms = self.config.latent_zooms
        levels = self._run(self.decoder_coarse, decompose(latent[:, :, None], zooms), condition)
        coarse = recompose(levels, zooms)[:, :, 0]  # (B, V, C)
        neighbours = patches(coarse.index_select(-1, self.ring), halo_size(zooms[-1], zooms[-1]))
        patch = torch.cat([coarse[..., None], neighbours], dim=-1)  # (B, V, C, 9)
        parts = torch.split(self.decompress(patch), self.finer, dim=-1)
        levels = [*levels, *(part.flatten(2)[:, :, None] for part in parts)]
        levels = self._run(self.decoder_fine, levels, condition)
        return recompose(conserve(levels, self.config.zooms), self.config.zooms)[:, :, 0]

    def _run(self, blocks: Iterable[nn.Module], levels: list[Tensor], condition: Tensor) -> list[Tensor]:
        for block in blocks:
            base = levels[0]
            levels = block(levels, self.embedding.cell(block), condition)
            levels[0] = base  # no block touches the base: its cell means are what is conserved
        return levels
