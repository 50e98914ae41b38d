"""Field-Space Attention block (Witte et al. 2025; Meuer et al. 2026): attention whose every state is a field pyramid.

Levels are tensors (batch, variable, frame, pixel), one per zoom; a frame is a time step. Shapes: B batch, V variables,
F frames, C cells of the token zoom, D entries of a token, E embedding.
"""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from fsae.runtime.bundle.records import check
from fsae.runtime.sphere.healpix import npix

from .halo import halo_size, halo_table, spherical_harmonics


def check_network(width: int, heads: int, mlp_ratio: float) -> None:
    """Raise ValueError if the numbers make no network."""
    check(width % heads == 0, f"width {width} is not a multiple of heads {heads}")
    check(int(mlp_ratio * width) >= 1, f"mlp_ratio is {mlp_ratio}, expected one that leaves the MLP a hidden unit")


def patches(level: Tensor, size: int) -> Tensor:
    """The last axis split into runs of `size` pixels: (..., pixel) -> (..., pixel // size, size)."""
    return level.reshape(*level.shape[:-1], -1, size)


def refine(level: Tensor, steps: int) -> Tensor:
    """Every pixel repeated for its 4**steps descendants; the torch twin of `fsae.runtime.sphere.healpix.refine`."""
    for _ in range(steps):
        level = torch.cat((level[..., None],) * 4, dim=-1).flatten(-2)  # a fifth of the time of repeat_interleave
    return level


def gather(level: Tensor, table: Tensor) -> Tensor:
    """Pixels of a level by their indices: (..., pixel) -> (..., index).

    Pixels come first meanwhile, so that each index moves the pixel of all samples and frames at once: a gather along
    the last axis moves one number at a time, which takes several times as long.
    """
    return level.flatten(0, -2).t().index_select(0, table).t().reshape(*level.shape[:-1], -1)


def coarsen(level: Tensor, steps: int) -> Tensor:
    """Mean over 4**steps descendants; the torch twin of `fsae.runtime.sphere.healpix.coarsen`."""
    return patches(level, 4**steps).mean(-1) if steps else level


def decompose(field: Tensor, zooms: Sequence[int]) -> list[Tensor]:
    """Base and residuals; the torch twin of `fsae.runtime.sphere.pyramid.decompose`."""
    levels = []
    for coarse_zoom, fine_zoom in zip(reversed(zooms[:-1]), reversed(zooms[1:]), strict=True):
        coarse = coarsen(field, fine_zoom - coarse_zoom)
        levels.append(field - refine(coarse, fine_zoom - coarse_zoom))
        field = coarse
    return [field, *reversed(levels)]


def recompose(levels: Sequence[Tensor], zooms: Sequence[int]) -> Tensor:
    """The field of a pyramid; the torch twin of `fsae.runtime.sphere.pyramid.recompose`."""
    field = levels[0]
    for coarse_zoom, fine_zoom, residual in zip(zooms[:-1], zooms[1:], levels[1:], strict=True):
        field = refine(field, fine_zoom - coarse_zoom) + residual
    return field


def conserve(levels: Sequence[Tensor], zooms: Sequence[int]) -> list[Tensor]:
    """Residuals without their parent-cell means; the torch twin of `fsae.runtime.sphere.pyramid.conserve`."""
    steps = [fine - coarse for coarse, fine in pairwise(zooms)]
    return [levels[0], *(r - refine(coarsen(r, step), step) for r, step in zip(levels[1:], steps, strict=True))]


class Tokens(nn.Module):
    """Split a pyramid into one token per cell of `token_zoom`, and put updates of the cells back."""

    def __init__(self, zooms: Sequence[int], token_zoom: int) -> None:
        super().__init__()
        self.zooms = tuple(zooms)
        self.token_zoom = token_zoom
        self.inside = [4 ** max(zoom - token_zoom, 0) for zoom in zooms]  # values of a cell, per level
        self.halo = [halo_size(zoom, token_zoom) for zoom in zooms]
        for zoom in sorted({max(zoom, token_zoom) for zoom in zooms}):
            # Index tables are constants of the graph, not state: computed here, never stored with the weights.
            self.register_buffer(
                f"table_{zoom}", torch.from_numpy(halo_table(zoom, token_zoom)).ravel(), persistent=False
            )

    def take(self, levels: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Values inside each cell (B, V, C, F * sum of inside) and in its halo (B, V, C, F * sum of halo)."""
        # Levels no finer than the cells have one value in each: they are taken together, as if they were more frames.
        coarse = [
            refine(level, self.token_zoom - zoom)
            for zoom, level in zip(self.zooms, levels, strict=True)
            if zoom <= self.token_zoom
        ]
        stacked = [torch.cat(coarse, dim=2)] if coarse else []
        cells, halos = [], []
        zooms = sorted({max(zoom, self.token_zoom) for zoom in self.zooms})
        for zoom, level in zip(zooms, [*stacked, *levels[len(coarse) :]], strict=True):
            ring = gather(level, self.get_buffer(f"table_{zoom}"))
            cells.append(_by_cell(patches(level, 4 ** (zoom - self.token_zoom))))
            halos.append(_by_cell(patches(ring, halo_size(zoom, self.token_zoom))))
        return torch.cat(cells, dim=-1), torch.cat(halos, dim=-1)

    def put(self, update: Tensor, frames: int) -> list[Tensor]:
        """Levels (B, V, F, pixel) from values inside each cell; on levels coarser than the cells, means over them."""
        coarse = [zoom for zoom in self.zooms if zoom <= self.token_zoom]
        counts = [len(coarse) * frames] if coarse else []
        parts = torch.split(update, counts + [frames * n for n in self.inside[len(coarse) :]], dim=-1)
        levels = []
        if coarse:
            means = torch.split(parts[0].transpose(2, 3), frames, dim=2)  # (B, V, F, C) each
            levels = [coarsen(level, self.token_zoom - z) for z, level in zip(coarse, means, strict=True)]
        finer = parts[1:] if coarse else parts
        return levels + [patches(part, part.shape[-1] // frames).transpose(2, 3).flatten(3) for part in finer]


def _by_cell(parts: Tensor) -> Tensor:
    """Values of all frames of each cell side by side: (B, V, F, C, n) -> (B, V, C, F * n)."""
    return parts[:, :, 0] if parts.shape[2] == 1 else parts.transpose(2, 3).flatten(3)


class Modulation(nn.Module):
    """Scale and shift of a LayerNorm from the cell's embedding and the batch's: linear, so the two parts add up."""

    def __init__(self, embedding: int, entries: int) -> None:
        super().__init__()
        self.entries = entries
        self.from_cell = nn.Linear(embedding, 2 * entries)
        self.from_condition = nn.Linear(embedding, 2 * entries, bias=False)
        nn.init.zeros_(self.from_cell.weight)
        nn.init.zeros_(self.from_cell.bias)
        nn.init.zeros_(self.from_condition.weight)

    def forward(self, token: Tensor, cell: Tensor, condition: Tensor) -> Tensor:
        """token (B, V, C, D), cell (C, E), condition (B, V, E) -> (B, V, C, D)."""
        # Split the rows of a weight, not the product: that is one for each token.
        gain, shift = (
            functional.linear(cell, self.from_cell.weight[rows], self.from_cell.bias[rows] + start)
            + functional.linear(condition, self.from_condition.weight[rows])[:, :, None]  # (B, V, C, D)
            for rows, start in ((slice(0, self.entries), 1), (slice(self.entries, 2 * self.entries), 0))
        )
        return functional.layer_norm(token, (self.entries,)) * gain + shift


class FieldSpaceBlock(nn.Module):
    """One block of attention and MLP over the tokens of a pyramid; starts near the identity.

    `read_frames` enter the token beside the `frames` that are updated. Cells attend to all cells or, with
    `window_zoom`, to those within the cell of that zoom they lie in and its eight neighbours.
    """

    windows: Tensor

    def __init__(
        self,
        *,
        zooms: Sequence[int],
        token_zoom: int,
        width: int,
        heads: int,
        embedding: int,
        frames: int = 1,
        read_frames: int = 0,
        mlp_ratio: float = 2.0,
        window_zoom: int | None = None,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.tokens = Tokens(zooms, token_zoom)
        self.token_zoom, self.heads, self.frames = token_zoom, heads, frames
        self.window_cells = 0 if window_zoom is None else 4 ** (token_zoom - window_zoom)
        if window_zoom is not None:
            own = np.arange(npix(window_zoom), dtype=np.int32)[:, None]
            around = np.concatenate([own, halo_table(window_zoom, window_zoom)], axis=1)  # (window, 9)
            self.register_buffer("windows", torch.from_numpy(around).ravel(), persistent=False)
        inside = sum(self.tokens.inside)
        entries = (frames + read_frames) * (inside + sum(self.tokens.halo))
        hidden = int(mlp_ratio * width)
        self.norm_attention = Modulation(embedding, entries)
        self.query_key_value = nn.Linear(entries, 3 * width)
        self.attention_out = nn.Linear(width, frames * inside)
        self.norm_mlp = Modulation(embedding, entries)
        self.mlp = nn.Sequential(
            nn.Linear(entries, hidden), nn.GELU(), nn.Dropout(dropout), nn.Linear(hidden, frames * inside)
        )
        self.attention_gate = nn.Parameter(torch.full((frames * inside,), 0.1))
        self.mlp_gate = nn.Parameter(torch.full((frames * inside,), 0.1))

    def attention(self, token: Tensor) -> Tensor:
        """Softmax attention over the cells of all variables, (B, V, C, D) -> (B, V, C, F * inside)."""
        batch, variables, cells, _ = token.shape
        mixed = self.query_key_value(token)
        if self.window_cells:
            joined = self._windowed(mixed)
        else:
            mixed = mixed.reshape(batch, variables * cells, 3, self.heads, -1)
            query, key, value = mixed.permute(2, 0, 3, 1, 4).unbind(0)  # (B, head, V * C, width / heads)
            heads = functional.scaled_dot_product_attention(query, key, value)
            joined = heads.transpose(1, 2).reshape(batch, variables, cells, -1)  # (B, V, C, width)
        update: Tensor = self.attention_out(joined)
        return update

    def _windowed(self, mixed: Tensor) -> Tensor:
        """Attention of each window's cells to its own and the eight windows around it: memory linear in the cells.

        (B, V, C, 3 * width) -> (B, V, C, width). W windows, M cells in each; a window that lacks a neighbour sees
        itself twice.
        """
        batch, variables, cells, entries = mixed.shape
        width, inside = entries // 3, self.window_cells
        query, key_value = torch.split(mixed, [width, 2 * width], dim=-1)

        def windows(part: Tensor) -> Tensor:  # (B, V, C, n) -> (B, W, V * M, n)
            count = part.shape[-1]
            grouped = part.reshape(batch, variables, cells // inside, inside, count).transpose(1, 2)
            return grouped.reshape(batch, cells // inside, variables * inside, count)

        def heads(part: Tensor) -> Tensor:  # (B, W, tokens, width) -> (B * W, head, tokens, width / heads)
            return part.reshape(batch * (cells // inside), -1, self.heads, width // self.heads).transpose(1, 2)

        seen = windows(key_value).index_select(1, self.windows)  # (B, W * 9, V * M, 2 * width)
        seen = seen.reshape(batch, cells // inside, 9 * variables * inside, 2 * width)
        key, value = torch.split(seen, width, dim=-1)
        mixed = functional.scaled_dot_product_attention(heads(windows(query)), heads(key), heads(value))
        joined = mixed.transpose(1, 2).reshape(batch, cells // inside, variables, inside, width).transpose(1, 2)
        return joined.reshape(batch, variables, cells, width)

    def forward(
        self, levels: Sequence[Tensor], cell: Tensor, condition: Tensor, read: Sequence[Tensor] | None = None
    ) -> list[Tensor]:
        """Levels (B, V, F, pixel) -> the same, updated; `read` has levels of frames that are only read."""
        inside, halo = self.tokens.take(levels)
        surroundings = [halo]
        if read is not None:
            surroundings.extend(self.tokens.take(read))
        around = torch.cat(surroundings, dim=-1)
        token = torch.cat([inside, around], dim=-1)  # (B, V, C, D)
        update = self.attention_gate * self.attention(self.norm_attention(token, cell, condition))
        token = torch.cat([inside + update, around], dim=-1)
        update = update + self.mlp_gate * self.mlp(self.norm_mlp(token, cell, condition))
        return [level + change for level, change in zip(levels, self.tokens.put(update, self.frames), strict=True)]


class Embedding(nn.Module):
    """Vectors that modulate the norms: a learned one per cell, at first spherical harmonics, and one per condition."""

    def __init__(self, *, token_zooms: Sequence[int], variables: int, conditions: int, size: int) -> None:
        super().__init__()
        self.cells = nn.ParameterDict(
            {str(zoom): nn.Parameter(torch.from_numpy(spherical_harmonics(zoom, size))) for zoom in set(token_zooms)}
        )
        self.variable = nn.Parameter(torch.zeros(variables, size))
        self.condition = nn.Sequential(nn.Linear(conditions, 2 * size), nn.SiLU(), nn.Linear(2 * size, size))

    def forward(self, conditions: Tensor) -> Tensor:
        """(B, conditions) -> (B, V, E)."""
        condition: Tensor = self.condition(conditions)[:, None] + self.variable
        return condition

    def cell(self, block: nn.Module) -> Tensor:
        """The cells' vectors (C, E) for a block's token zoom."""
        vectors: Tensor = self.cells[str(block.token_zoom)]
        return vectors
