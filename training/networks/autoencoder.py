"""Field-Space Autoencoder: a field at the finest zoom to one latent field at the bottleneck zoom and back.

Meuer et al. 2026 (arXiv 2601.15102), section 3. Differences of ours: one latent field per variable instead of levels,
for every cell a compression map of its own beside the shared one, a conservation step, a harmonic climatology.
"""

from collections.abc import Iterable, Sequence
from typing import Annotated

import torch
from msgspec import Meta
from torch import Tensor, nn

from fsae.runtime.bundle.records import Count, OneOrMore, Positive, Record, Zoom, check
from fsae.runtime.climate.transforms import SQUARE_ROOTS, Transform
from fsae.runtime.errors import UsageError
from fsae.runtime.sphere.healpix import npix

from .halo import halo_size, halo_table
from .layers import Embedding, FieldSpaceBlock, check_network, coarsen, conserve, decompose, gather, patches, recompose


class AutoencoderConfig(Record, frozen=True, kw_only=True):
    """Shape of the network; `depths` are blocks of encoder fine, encoder coarse, decoder coarse, decoder fine.

    Fine blocks work on all levels, coarse ones on those up to `global_zoom`; between them stand the maps of the cells.
    From `global_zoom` to `latent_zoom` one dense map spans the whole sphere, or each cell of `global_cell_zoom`; if it
    is None, the two zooms are one.
    """

    base_zoom: Zoom = 0
    latent_zoom: Zoom = 3
    global_zoom: Zoom | None = None
    global_cell_zoom: Zoom | None = None  # cells of this zoom have maps of their own; None: one spans the sphere
    global_harmonics: Count = 0  # cycles a year with which that map varies; 0: one map for the whole year
    zoom: Zoom = 5
    fine_token_zoom: Zoom = 3
    coarse_token_zoom: Zoom = 2
    depths: tuple[Count, Count, Count, Count] = (1, 1, 1, 2)
    width: OneOrMore = 96
    heads: OneOrMore = 4
    embedding: OneOrMore = 36
    mlp_ratio: Positive = 2.0
    per_cell_maps: bool = True
    map_hidden: Count = 0  # hidden units of an MLP added to the linear maps of the cells; 0: linear, as in the papers
    static_fields: bool = False  # orography and land mask as read-only entries of every token
    attention_window_zoom: Zoom | None = None  # tokens attend within a cell of this zoom and its neighbours
    sharpen: bool = False  # restore the angular power that the mean square error takes away (sharpening.py)
    sharpen_drawn: bool = False  # drawn fields in place of rebuilt ones, once the diffusion model is trained
    sharpening_terms: Annotated[int, Meta(ge=1, le=8)] = 2  # numbers of a variable with which it does
    dropout: Annotated[float, Meta(ge=0, lt=1)] = 0.0

    def __post_init__(self) -> None:
        base, latent, zoom, global_zoom = self.base_zoom, self.latent_zoom, self.zoom, self.global_zoom
        expected = "expected base_zoom < latent_zoom < zoom"
        check(base < latent < zoom, f"the zooms are base {base}, latent {latent}, finest {zoom}; {expected}")
        check_network(self.width, self.heads, self.mlp_ratio)
        check(
            global_zoom is None or latent < global_zoom <= zoom,
            f"global_zoom is {global_zoom}, expected one above latent_zoom {latent}, zoom {zoom} at most, or none",
        )
        cells = self.global_cell_zoom
        check(
            cells is None or (global_zoom is not None and base <= cells < latent),
            f"global_cell_zoom is {cells}, expected a zoom from base_zoom {base} on and below latent_zoom {latent}, "
            "beside a global_zoom",
        )
        check(self.sharpen or not self.sharpen_drawn, "sharpen_drawn is true, expected sharpen = true beside it")
        fine, coarse, window = self.fine_token_zoom, self.coarse_token_zoom, self.attention_window_zoom
        check(
            fine <= zoom and coarse <= self.map_zoom,
            f"the token zooms are {fine} and {coarse}, expected 0 to zoom {zoom} and 0 to {self.map_zoom}, the finest "
            "of the coarse blocks",
        )
        coarser = min(fine, coarse)
        check(
            window is None or window <= coarser,
            f"attention_window_zoom is {window}, expected 0 to the coarser token zoom {coarser}",
        )

    @property
    def zooms(self) -> tuple[int, ...]:
        """All zooms of the pyramid, coarse to fine."""
        return tuple(range(self.base_zoom, self.zoom + 1))

    @property
    def map_zoom(self) -> int:
        """Zoom of the cells whose patches are mapped to one value and back."""
        return self.latent_zoom if self.global_zoom is None else self.global_zoom

    @property
    def coarse_zooms(self) -> tuple[int, ...]:
        """Zooms of the coarse blocks, coarse to fine."""
        return tuple(range(self.base_zoom, self.map_zoom + 1))

    @property
    def completed_zooms(self) -> tuple[int, ...]:
        """Zooms of block means, coarse to fine, whose latents are completed to those that are to be expected."""
        if self.global_zoom is None:
            return ()
        cells = self.base_zoom if self.global_cell_zoom is None else self.global_cell_zoom
        return tuple(range(cells, self.global_zoom))

    @property
    def latent_zooms(self) -> tuple[int, ...]:
        """Zooms of the latent's pyramid, coarse to fine."""
        return tuple(range(self.base_zoom, self.latent_zoom + 1))


class CellMap(nn.Module):
    """A map of each cell's patch: one shared by all cells and, if asked, one of each cell's and variable's own.

    Linear, with a shared MLP added if `hidden` is above 0; all parts start at zero.
    """

    def __init__(
        self, variables: int, cells: int, entries: int, outputs: int, *, per_cell: bool, hidden: int = 0
    ) -> None:
        super().__init__()
        self.shared = nn.Parameter(torch.zeros(entries, outputs))
        self.own = nn.Parameter(torch.zeros(variables, cells, entries, outputs)) if per_cell else None
        self.mlp = None
        if hidden:
            last = nn.Linear(hidden, outputs)
            nn.init.zeros_(last.weight)
            nn.init.zeros_(last.bias)
            self.mlp = nn.Sequential(nn.Linear(entries, hidden), nn.GELU(), last)

    def forward(self, patch: Tensor) -> Tensor:
        """(B, V, C, entries) -> (B, V, C, outputs)."""
        if self.own is None:
            out = patch @ self.shared
        elif self.own.shape[-1] == 1:
            out = (patch * (self.own + self.shared)[..., 0]).sum(-1, keepdim=True)
        else:
            out = (patch[..., None, :] @ (self.own + self.shared))[..., 0, :]
        if self.mlp is not None:
            out = out + self.mlp(patch)
        return out


class Autoencoder(nn.Module):
    """Encoder and decoder in physical units; the statistics that normalise fields travel with the weights.

    `climatology` (V, 1 + 2K, N) and `scale` (V,), or (V, N) if every pixel has its own, are those of the variables
    after their `transforms`; `static` (S, N) are the dimensionless fields that tokens hold beside the state.
    """

    climatology: Tensor
    scale: Tensor
    highest_root: Tensor
    to_latent: Tensor
    from_latent: Tensor
    sharpening: Tensor
    ring: Tensor
    fine_ring: Tensor

    def __init__(
        self,
        config: AutoencoderConfig,
        climatology: Tensor,
        scale: Tensor,
        *,
        static: Tensor | None = None,
        transforms: Sequence[Transform] = (),
    ) -> None:
        super().__init__()
        self.config = config
        variables, coefficients, _ = climatology.shape
        self.register_buffer("climatology", climatology)
        self.register_buffer("scale", scale.reshape(variables, -1))  # (V, 1) or (V, N)
        none: Transform = "none"
        self.transforms = tuple(transforms) or (none,) * variables
        roots = torch.tensor([SQUARE_ROOTS[transform] for transform in self.transforms])[:, None]
        self.roots = int(roots.max())
        for root in range(self.roots):  # variables with that many square roots before
            self.register_buffer(f"rooted_{root}", roots > root, persistent=False)
        if self.roots:  # fitted to the training fields; until then there is no limit
            self.register_buffer("highest_root", torch.full((variables, 1), torch.finfo(torch.float32).max))
        if config.static_fields and static is None:
            raise UsageError(
                "autoencoder.static_fields is true", "files in data.static", "add such files, or set it to false"
            )
        self.statics = 0 if static is None else len(static)
        if static is not None:
            for zoom, level in zip(config.zooms, decompose(static, config.zooms), strict=True):
                self.register_buffer(f"static_{zoom}", level)
        if config.sharpen:  # see sharpening.py: nothing is sharpened until it is fitted
            self.register_buffer("sharpening", torch.zeros(variables, config.sharpening_terms))
            fine_ring = torch.from_numpy(halo_table(config.zoom, config.zoom)).ravel()
            self.register_buffer("fine_ring", fine_ring, persistent=False)
        cells = npix(config.map_zoom)
        self.finer = [4 ** (zoom - config.map_zoom) for zoom in config.zooms if zoom > config.map_zoom]
        ring = torch.from_numpy(halo_table(config.map_zoom, config.map_zoom)).ravel()
        self.register_buffer("ring", ring, persistent=False)
        patch, around = sum(self.finer), 1 + halo_size(config.map_zoom, config.map_zoom)
        per_cell, hidden = config.per_cell_maps, config.map_hidden
        if self.finer:
            self.compress = CellMap(variables, cells, patch, 1, per_cell=per_cell, hidden=hidden)
            # The patch around a cell: the cell's own value and its eight neighbours'.
            self.decompress = CellMap(variables, cells, around, patch, per_cell=per_cell, hidden=hidden)
        if config.global_zoom is not None:  # statistics, not learned: see global_map.py
            blocks = 1 if config.global_cell_zoom is None else npix(config.global_cell_zoom)
            shape = (variables, 1 + 2 * config.global_harmonics, blocks)
            pixels, latents = cells // blocks, npix(config.latent_zoom) // blocks
            self.register_buffer("to_latent", torch.zeros(*shape, pixels, latents))
            self.register_buffer("from_latent", torch.zeros(*shape, latents, pixels))
            for zoom in config.completed_zooms:
                means = npix(zoom) // blocks
                self.register_buffer(f"complete_{zoom}", torch.zeros(variables, 1, blocks, means, latents))

        def stage(depth: int, zooms: Sequence[int], token_zoom: int) -> nn.ModuleList:
            return nn.ModuleList(
                FieldSpaceBlock(
                    zooms=zooms,
                    token_zoom=token_zoom,
                    width=config.width,
                    heads=config.heads,
                    embedding=config.embedding,
                    read_frames=self.statics,
                    mlp_ratio=config.mlp_ratio,
                    window_zoom=config.attention_window_zoom,
                    dropout=config.dropout,
                )
                for _ in range(depth)
            )

        tokens = (config.fine_token_zoom, config.coarse_token_zoom)
        self.embedding = Embedding(
            token_zooms=tokens, variables=variables, conditions=coefficients - 1, size=config.embedding
        )
        self.encoder_fine = stage(config.depths[0], config.zooms, tokens[0])
        self.encoder_coarse = stage(config.depths[1], config.coarse_zooms, tokens[1])
        self.decoder_coarse = stage(config.depths[2], config.coarse_zooms, tokens[1])
        self.decoder_fine = stage(config.depths[3], config.zooms, tokens[0])

    def mean(self, season: Tensor) -> Tensor:
        """Climatology [physical units] of each sample's season: (B, 2K) -> (B, V, N)."""
        variables, _, pixels = self.climatology.shape
        table = self.climatology[:, 1:].transpose(0, 1).flatten(1)  # (2K, V * N): a plain product, exact for any batch
        return self.climatology[:, 0] + (season @ table).reshape(-1, variables, pixels)

    def encode(self, field: Tensor, season: Tensor, level_mask: Tensor) -> Tensor:
        """Latent (B, V, Nzb) of a field (B, V, N) [physical units]; level_mask (B, levels) weighs the residuals."""
        return self.encode_anomaly((self.transformed(field) - self.mean(season)) / self.scale, season, level_mask)

    def decode(self, latent: Tensor, season: Tensor) -> Tensor:
        """Field (B, V, N) [physical units] of a latent (B, V, Nzb)."""
        anomaly = self.decode_anomaly(latent, season)
        if self.config.sharpen:
            anomaly = self.sharpened(anomaly)
        return self.physical(anomaly * self.scale + self.mean(season))

    def transformed(self, field: Tensor) -> Tensor:
        """Roots of those variables (B, V, N) that are learned as roots (runtime/climate/transforms.py)."""
        for root in range(self.roots):
            field = torch.where(self.get_buffer(f"rooted_{root}"), field.clamp(min=0).sqrt(), field)
        return field

    def physical(self, field: Tensor) -> Tensor:
        """The field (B, V, N) [physical units] of a transformed one.

        Where that is a root it is first limited: the fourth power of what is far out in a Gaussian has no bounds.
        """
        if self.roots:
            field = torch.where(self.get_buffer("rooted_0"), torch.minimum(field, self.highest_root), field)
        for root in range(self.roots):
            field = torch.where(self.get_buffer(f"rooted_{root}"), field.clamp(min=0).square(), field)
        return field

    def sharpened(self, anomaly: Tensor) -> Tensor:
        """The anomaly (B, V, N) with its angular power restored; the means of the base cells stay."""
        sharp = difference = anomaly
        for number in self.sharpening.unbind(1):  # (V,)
            difference = self._laplacian(difference)
            sharp = sharp + number[:, None] * difference
        levels = decompose(sharp, self.config.zooms)
        steps = self.config.zoom - self.config.base_zoom
        return recompose([coarsen(anomaly, steps), *levels[1:]], self.config.zooms)

    def _laplacian(self, field: Tensor) -> Tensor:
        return field - patches(gather(field, self.fine_ring), halo_size(0, 0)).mean(-1)

    def encode_anomaly(self, anomaly: Tensor, season: Tensor, level_mask: Tensor) -> Tensor:
        """`encode` of a normalised anomaly (B, V, N)."""
        condition = self.embedding(season)
        levels = [
            level[:, :, None] * level_mask[:, index, None, None, None]  # (B, V, F = 1, pixel)
            for index, level in enumerate(decompose(anomaly, self.config.zooms))
        ]
        levels = self._run(self.encoder_fine, levels, condition)
        kept = len(self.config.coarse_zooms)
        if self.finer:
            patch = torch.cat(
                [patches(level, inside) for level, inside in zip(levels[kept:], self.finer, strict=True)], dim=-1
            )  # (B, V, 1, C, sum of finer)
            levels = levels[:kept]
            levels[-1] = levels[-1] + self.compress(patch[:, :, 0]).transpose(-1, -2)  # (B, V, 1, C)
        levels = self._run(self.encoder_coarse, levels, condition)
        if self.config.global_zoom is not None:
            field = recompose(levels, self.config.coarse_zooms)  # (B, V, 1, C)
            latent = self._of_season(field, self.to_latent, season)
            for zoom in self.config.completed_zooms:
                latent = latent + self.last_known(level_mask, zoom) * self.completion(levels, zoom, season)
            levels = [levels[0], *decompose(latent, self.config.latent_zooms)[1:]]
        return recompose(conserve(levels, self.config.latent_zooms), self.config.latent_zooms)[:, :, 0]

    def last_known(self, level_mask: Tensor, zoom: int) -> Tensor:
        """1 where `zoom` is the finest level that is known, otherwise 0: (B, levels) -> (B, 1, 1, 1)."""
        index = zoom - self.config.base_zoom
        return (level_mask[:, index] - level_mask[:, index + 1])[:, None, None, None]

    def completion(self, levels: list[Tensor], zoom: int, season: Tensor) -> Tensor:
        """What the latent (B, V, 1, Nzb) of fields that are known up to `zoom` lacks (global_map.py)."""
        kept = zoom - self.config.base_zoom + 1
        means = recompose(levels[:kept], self.config.zooms[:kept])
        return self._of_season(means, self.get_buffer(f"complete_{zoom}"), season)

    def decode_anomaly(self, latent: Tensor, season: Tensor) -> Tensor:
        """Normalised anomaly (B, V, N) of a latent (B, V, Nzb)."""
        condition = self.embedding(season)
        zooms = self.config.coarse_zooms
        levels = decompose(latent[:, :, None], self.config.latent_zooms)
        if self.config.global_zoom is not None:
            field = self._of_season(latent[:, :, None], self.from_latent, season)
            levels = [levels[0], *decompose(field, zooms)[1:]]
        levels = self._run(self.decoder_coarse, levels, condition)
        if self.finer:
            coarse = recompose(levels, zooms)[:, :, 0]  # (B, V, C)
            parts = torch.split(self.decompress(self.surroundings(coarse)), self.finer, dim=-1)
            levels = [*levels, *(part.flatten(2)[:, :, None] for part in parts)]
        levels = self._run(self.decoder_fine, levels, condition)
        return recompose(conserve(levels, self.config.zooms), self.config.zooms)[:, :, 0]

    def surroundings(self, coarse: Tensor) -> Tensor:
        """Each cell's value and those of its eight neighbours: (B, V, C) -> (B, V, C, 9)."""
        zoom = self.config.map_zoom
        neighbours = patches(gather(coarse, self.ring), halo_size(zoom, zoom))
        return torch.cat([coarse[..., None], neighbours], dim=-1)

    def by_dense_maps(self, coarse: Tensor, season: Tensor) -> Tensor:
        """Coarse anomaly (B, V, C) as the dense maps alone encode and rebuild it; as it is if the model has none."""
        if self.config.global_zoom is None:
            return coarse
        latent = self._of_season(coarse[:, :, None], self.to_latent, season)
        rebuilt = self._of_season(latent, self.from_latent, season)[:, :, 0]
        zooms = self.config.coarse_zooms
        return recompose([decompose(coarse, zooms)[0], *decompose(rebuilt, zooms)[1:]], zooms)

    def _of_season(self, field: Tensor, maps: Tensor, season: Tensor) -> Tensor:
        """Field (B, V, 1, g n) through the maps (V, 1 + 2K, g, n, m) of its season (B, 2K or more): (B, V, 1, g m)."""
        blocks = patches(field, maps.shape[-2])[..., None, :]  # (B, V, 1, g, 1, n)
        parts = (blocks @ maps).flatten(3)  # (B, V, 1 + 2K, g m)
        waves = season[:, None, : maps.shape[1] - 1, None]
        return parts[:, :, :1] + (waves * parts[:, :, 1:]).sum(2, keepdim=True)

    def _run(self, blocks: Iterable[nn.Module], levels: list[Tensor], condition: Tensor) -> list[Tensor]:
        read = None
        if self.statics:  # the same for every sample and variable: (B, V, S, pixel)
            batch, variables = condition.shape[:2]
            read = [
                self.get_buffer(f"static_{zoom}").expand(batch, variables, -1, -1)
                for zoom, _ in zip(self.config.zooms, levels, strict=False)
            ]
        for block in blocks:
            base = levels[0]
            levels = block(levels, self.embedding.cell(block), condition, read)
            levels[0] = base  # no block changes the base: its cell means are conserved
        return levels
