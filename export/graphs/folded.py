"""The networks in the form that is exported, computing the same functions as the trained ones; see `folded_layers`."""

from collections.abc import Iterable
from typing import cast

import torch
from torch import Tensor, nn

from fsae.runtime.sphere.healpix import npix
from fsae.training.networks.autoencoder import Autoencoder
from fsae.training.networks.denoiser import Denoiser
from fsae.training.networks.halo import halo_table
from fsae.training.networks.layers import Embedding, FieldSpaceBlock

from .folded_layers import FoldedBlock, FoldedMap, fetch, put_together, take_apart
from .stencil import NeighbourMean


def fold_stage(blocks: Iterable[nn.Module], embedding: Embedding, read_frames: int) -> nn.ModuleList:
    """The blocks of a stage, folded."""
    trained = cast(Iterable[FieldSpaceBlock], blocks)
    return nn.ModuleList(FoldedBlock(block, embedding.cell(block), read_frames) for block in trained)


class FoldedAutoencoder(nn.Module):
    """The parts that encoder and decoder share."""

    yearly_mean: Tensor
    waves: Tensor

    def __init__(self, autoencoder: Autoencoder) -> None:
        super().__init__()
        self.autoencoder, self.config = autoencoder, autoencoder.config
        self.embedding = autoencoder.embedding
        table = autoencoder.climatology  # (V, 1 + 2K, N); two constants, as the harmonics take half the space
        self.register_buffer("yearly_mean", table[:, 0].flatten())
        self.register_buffer("waves", table[:, 1:].transpose(0, 1).flatten(1))  # (2K, V * N)

    def mean(self, season: Tensor) -> Tensor:
        """Climatology [physical units] of each sample's season: (B, 2K) -> (B, V, N)."""
        table = torch.addmm(self.yearly_mean, season, self.waves)
        return torch.unflatten(table, 1, (self.autoencoder.climatology.shape[0], -1))

    def run(self, blocks: Iterable[nn.Module], levels: list[Tensor], condition: Tensor) -> list[Tensor]:
        """Apply blocks to the levels (B, V, pixel, 1); the base level stays as it is."""
        for block in cast(Iterable[FoldedBlock], blocks):
            read = []
            if self.autoencoder.statics:
                fields = [self.autoencoder.get_buffer(f"static_{zoom}").T[None, None] for zoom in block.tokens.zooms]
                parts = block.take(fields)  # (1, 1, C, n)
                read = [torch.cat([*parts[0], *parts[1]], dim=-1).expand(*condition.shape[:2], -1, -1)]
            levels = [levels[0], *block(levels, condition, read)[1:]]
        return levels


class FoldedEncoder(FoldedAutoencoder):
    """The encoder of an autoencoder."""

    def __init__(self, autoencoder: Autoencoder) -> None:
        super().__init__(autoencoder)
        self.encoder_fine = fold_stage(autoencoder.encoder_fine, self.embedding, autoencoder.statics)
        self.encoder_coarse = fold_stage(autoencoder.encoder_coarse, self.embedding, autoencoder.statics)
        if autoencoder.finer:
            self.compress = FoldedMap(autoencoder.compress)

    def forward(self, field: Tensor, season: Tensor, level_mask: Tensor) -> Tensor:
        """Latent [B, V, Nzb] of a field [B, V, N] in physical units."""
        own, config = self.autoencoder, self.config
        anomaly = (own.transformed(field) - self.mean(season)) / own.scale
        condition = self.embedding(season)
        levels = [
            level * level_mask[:, index, None, None, None]
            for index, level in enumerate(take_apart(anomaly[..., None], config.zooms))
        ]
        levels = self.run(self.encoder_fine, levels, condition)
        kept, cells = len(config.coarse_zooms), npix(config.map_zoom)
        if own.finer:
            patch = torch.cat([torch.unflatten(level.flatten(2), 2, (cells, -1)) for level in levels[kept:]], dim=-1)
            levels = levels[:kept]
            levels[-1] = levels[-1] + self.compress(patch)
        levels = self.run(self.encoder_coarse, levels, condition)
        if config.global_zoom is not None:
            whole = put_together(levels, config.coarse_zooms).flatten(2)  # (B, V, C)
            latent = own._of_season(whole[:, :, None], own.to_latent, season)
            known = [level.transpose(2, 3) for level in levels]  # (B, V, 1, pixel)
            for zoom in config.completed_zooms:
                latent = latent + own.last_known(level_mask, zoom) * own.completion(known, zoom, season)
            latent = latent.squeeze(2)
            levels = [levels[0], *take_apart(latent[..., None], config.latent_zooms)[1:]]
        return put_together(levels, config.latent_zooms, conserved=True).flatten(2)


class FoldedDecoder(FoldedAutoencoder):
    """The decoder of an autoencoder."""

    around: Tensor

    def __init__(self, autoencoder: Autoencoder) -> None:
        super().__init__(autoencoder)
        self.decoder_coarse = fold_stage(autoencoder.decoder_coarse, self.embedding, autoencoder.statics)
        self.decoder_fine = fold_stage(autoencoder.decoder_fine, self.embedding, autoencoder.statics)
        if autoencoder.finer:
            self.decompress = FoldedMap(autoencoder.decompress)
        if self.config.sharpen:
            self.neighbours = NeighbourMean(self.config.zoom)
        zoom = self.config.map_zoom
        ring = torch.from_numpy(halo_table(zoom, zoom))
        own = torch.arange(len(ring), dtype=ring.dtype)[:, None]
        self.register_buffer("around", torch.cat([own, ring], dim=1).flatten())  # (C, 9)

    def forward(self, latent: Tensor, season: Tensor) -> Tensor:
        """Field [B, V, N] in physical units of a latent [B, V, Nzb]."""
        own, config = self.autoencoder, self.config
        condition = self.embedding(season)
        zooms = config.coarse_zooms
        levels = take_apart(latent[..., None], config.latent_zooms)
        if config.global_zoom is not None:
            whole = own._of_season(latent[:, :, None], own.from_latent, season).squeeze(2)
            levels = [levels[0], *take_apart(whole[..., None], zooms)[1:]]
        levels = self.run(self.decoder_coarse, levels, condition)
        if own.finer:
            around = fetch(put_together(levels, zooms), self.around).flatten(2)
            parts = self.decompress(torch.unflatten(around, 2, (-1, 9))).split(own.finer, dim=-1)  # (B, V, C, 9)
            levels = [*levels, *(part.flatten(2)[..., None] for part in parts)]
        levels = self.run(self.decoder_fine, levels, condition)
        anomaly = put_together(levels, config.zooms, conserved=True).flatten(2)
        if config.sharpen:
            change, difference = torch.zeros_like(anomaly), anomaly
            for number in own.sharpening.unbind(1):  # (V,)
                difference = difference - self.neighbours(difference)
                change = change + number[:, None] * difference
            parts = torch.unflatten(change, -1, (npix(config.base_zoom), -1))  # keep the means of the base cells
            anomaly = anomaly + (parts - parts.mean(-1, keepdim=True)).flatten(2)
        return own.physical(anomaly * own.scale + self.mean(season))


class FoldedDenoiser(nn.Module):
    """A denoiser, distilled or not."""

    def __init__(self, denoiser: Denoiser) -> None:
        super().__init__()
        self.denoiser, self.zooms = denoiser, denoiser.zooms
        self.embedding, self.skip = denoiser.embedding, denoiser.skip
        self.wiener = denoiser.wiener
        self.blocks = fold_stage(denoiser.blocks, denoiser.embedding, denoiser.config.previous)

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
        """See `Denoiser.forward`."""
        own = self.denoiser
        root = (sigma * sigma + 1).sqrt()[:, None, None, None]
        relative = own.relative(forcing)
        seen = relative.clamp(-1, 1)
        conditions = torch.cat([noise_features, season.flatten(1), seen, source[:, None], previous_valid], dim=1)
        condition = self.embedding(conditions)
        known = previous * previous_valid[:, :, None, None]
        entering, before = self._levels(noisy / root), self._levels(known)
        read: dict[int, list[Tensor]] = {}  # shared by all blocks of a token zoom
        levels = entering
        for block in cast(Iterable[FoldedBlock], self.blocks):
            if block.token_zoom not in read:
                inside, around = block.take(before)
                read[block.token_zoom] = [*inside, *around]
            levels = block(levels, condition, read[block.token_zoom])
        skip = (self.skip(condition) - 1).unbind(-1)  # (B, V) each
        levels = [
            (level + part[:, :, None, None] * start) * own._unit(zoom)
            for level, part, start, zoom in zip(levels, skip, entering, self.zooms, strict=True)
        ]
        network = put_together(levels, self.zooms).permute(0, 3, 1, 2)  # (B, T, V, Nzb)
        linear: Tensor = self.wiener(noisy, sigma, relative, known, previous_valid, own.following(sigma))
        return linear + sigma[:, None, None, None] / root * network

    def _levels(self, state: Tensor) -> list[Tensor]:
        """Levels (B, V, pixel, F) of a state (B, F, V, Nzb), each scaled to unit noise."""
        levels = take_apart(state.permute(0, 2, 3, 1), self.zooms)
        return [level / self.denoiser._unit(zoom) for level, zoom in zip(levels, self.zooms, strict=True)]
