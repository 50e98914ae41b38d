"""The network's layers in the form that is exported: the same functions of the same weights, with fewer operations.

Everything that depends only on the weights is computed here: gates and the scale of attention are multiplied into the
neighbouring maps, and the shift of a norm is passed through the map that follows it. Levels have the layout (batch,
variable, pixel, frame), so that cells are split and merged without moving data, and tables fetch runs of frames.
Modules have the names of `fsae.training.networks.layers`, from which `fsae.export.precisions.half` knows the learned
maps. Shapes: B batch, V variables, F frames, C cells, D entries of a token, E embedding, W windows of M cells.
"""

from collections.abc import Iterator, Sequence
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from fsae.training.networks.autoencoder import CellMap
from fsae.training.networks.layers import FieldSpaceBlock, Modulation, Tokens

QUERIES = 256  # tokens that attend at once, so that memory grows with the tokens, not with their square


def means(level: Tensor, steps: int) -> Tensor:
    """Means over 4**steps descendants, (B, V, pixel, F) -> (B, V, pixel / 4**steps, F)."""
    count, frames = 4**steps, level.shape[-1]
    parts = torch.unflatten(level.flatten(2), 2, (-1, count * frames))
    if frames == 1:
        return parts.mean(-1, keepdim=True)
    # Backends are slow at sums over other axes than the last; products are as exact.
    average: Tensor = torch.eye(frames).repeat(count, 1) / count
    return torch.matmul(parts, average)


def spread(level: Tensor, steps: int) -> Tensor:
    """Each pixel repeated for its 4**steps descendants, (B, V, pixel, F) -> (B, V, pixel * 4**steps, F)."""
    return level[:, :, :, None].expand(-1, -1, -1, 4**steps, -1).flatten(2, 3) if steps else level


def fetch(level: Tensor, table: Tensor) -> Tensor:
    """Pixels of a level by a table (n), (B, V, pixel, F) -> (B, V, n, F).

    Backends copy the frames of a pixel as one run; for single numbers another operator is faster.
    """
    if level.shape[3] > 1:
        return level.index_select(2, table)
    return level.flatten(2).gather(2, table.long().expand(*level.shape[:2], -1)).unsqueeze(3)


def swapped(parts: Tensor) -> Tensor:
    """Swap two axes, (B, V, W, ...) -> (B, W, V, ...); if one has length 1, reshaping is enough and moves no data."""
    first, second = parts.shape[1:3]
    return parts.transpose(1, 2) if min(first, second) > 1 else torch.unflatten(parts.flatten(1, 2), 1, (second, first))


def take_apart(field: Tensor, zooms: Sequence[int]) -> list[Tensor]:
    """`decompose` for a field (B, V, pixel, F): its levels, coarse to fine."""
    levels = []
    for coarse, fine in zip(reversed(zooms[:-1]), reversed(zooms[1:]), strict=True):
        count, mean = 4 ** (fine - coarse), means(field, fine - coarse)
        if field.shape[-1] == 1:  # for such short runs a product is faster than a sum
            parts = torch.unflatten(field.flatten(2), 2, (-1, count))
            residual = torch.matmul(parts, torch.eye(count) - 1 / count).flatten(2).unsqueeze(3)
        else:
            residual = (torch.unflatten(field, 2, (-1, count)) - mean.unsqueeze(3)).flatten(2, 3)
        levels.append(residual)
        field = mean
    return [field, *reversed(levels)]


def put_together(levels: Sequence[Tensor], zooms: Sequence[int], *, conserved: bool = False) -> Tensor:
    """`recompose` for levels (B, V, pixel, F); with `conserved`, after `conserve`."""
    field = levels[0]
    for coarse, fine, residual in zip(zooms[:-1], zooms[1:], levels[1:], strict=True):
        parts = torch.unflatten(residual, 2, (-1, 4 ** (fine - coarse)))
        offset = field - means(residual, fine - coarse) if conserved else field
        field = (parts + offset.unsqueeze(3)).flatten(2, 3)
    return field


class CellMeans(nn.Module):
    """`means` of updates, in a module whose name is not that of a learned map, so that they stay in float32."""

    def forward(self, level: Tensor, steps: int) -> Tensor:
        """(B, V, pixel, F) -> (B, V, pixel / 4**steps, F)."""
        return means(level, steps)


class Product(nn.Module):
    """Rows times a matrix, plus a bias and other terms; the matrix may have a factor for each column.

    The factor is stored beside the weights, which take half the space if they were rounded to 16 bits; backends
    multiply the two when they load the graph.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None = None, factor: Tensor | None = None) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight.float().contiguous())
        self.factor = None if factor is None else nn.Parameter(factor.float())
        self.bias = None if bias is None else nn.Parameter(bias.float())

    def forward(self, rows: Tensor, *terms: Tensor) -> Tensor:
        """(..., n) -> (..., m); `terms` broadcast to the result."""
        out = rows @ (self.weight if self.factor is None else self.weight * self.factor)
        for term in terms if self.bias is None else (self.bias, *terms):
            out = out + term
        return out


class Gelu(nn.Module):
    """GELU in the order of operations that ONNX Runtime recognises and runs as one."""

    def forward(self, rows: Tensor) -> Tensor:
        return (rows * (torch.erf(rows / 2**0.5) + 1)) * 0.5


class FoldedNorm(nn.Module):
    """A LayerNorm and its scale; its shift, passed through the map (m, D) that follows, is added after that map."""

    def __init__(self, norm: Modulation, order: Tensor, weight: Tensor, bias: Tensor) -> None:
        super().__init__()
        self.entries = norm.entries
        cell, condition = norm.from_cell.weight.double(), norm.from_condition.weight.double()  # (2 D, E)
        offset = norm.from_cell.bias.double()
        scale, shift = order, torch.arange(self.entries, 2 * self.entries)
        self.scale_cell = Product(cell[scale].T, 1 + offset[scale])
        self.scale_condition = Product(condition[scale].T)
        self.shift_cell = Product((weight @ cell[shift]).T, weight @ offset[shift] + bias)
        self.shift_condition = Product((weight @ condition[shift]).T)

    def forward(self, token: Tensor, cell: Tensor, condition: Tensor) -> Tensor:
        """token (B, V, C, D), cell (C, E), condition (B, V, E) -> (B, V, C, D)."""
        scale = self.scale_cell(cell) + self.scale_condition(condition)[:, :, None]
        scaled: Tensor = functional.layer_norm(token, (self.entries,)) * scale
        return scaled

    def shifts(self, cell: Tensor, condition: Tensor) -> tuple[Tensor, Tensor]:
        """Terms to add to the map's results (B, V, C, m): (C, m) from cells and (B, V, 1, m) from conditions."""
        return self.shift_cell(cell), self.shift_condition(condition)[:, :, None]


class FoldedBlock(nn.Module):
    """A `FieldSpaceBlock` on levels (B, V, pixel, F)."""

    windows: Tensor

    def __init__(self, block: FieldSpaceBlock, cell: Tensor, read_frames: int) -> None:
        super().__init__()
        self.tokens, self.frames, self.heads, self.cell = block.tokens, block.frames, block.heads, cell
        self.token_zoom, self.window_cells = block.token_zoom, block.window_cells
        self.cells, self.means = len(cell), CellMeans()
        if self.window_cells:
            self.register_buffer("windows", block.windows)
        inside, halo, end = _order(self.tokens, self.frames, 0)
        order = torch.cat([inside, halo, *_order(self.tokens, read_frames, end)[:2]])
        self.coarse = sum(zoom <= self.token_zoom for zoom in self.tokens.zooms)  # levels of one entry in a cell
        mixed, bias = block.query_key_value.weight.double(), block.query_key_value.bias.double()
        width = len(bias) // 3
        root = torch.ones(len(bias), dtype=torch.float64)
        root[:width] = (width // self.heads) ** -0.5  # the scale of softmax attention
        self.norm_attention = FoldedNorm(block.norm_attention, order, root[:, None] * mixed, root * bias)
        self.query_key_value = Product(mixed[:, order].T, factor=root)
        self.attention_out = _gated(block.attention_out, block.attention_gate, inside)
        hidden, out = cast(nn.Linear, block.mlp[0]), cast(nn.Linear, block.mlp[3])
        self.norm_mlp = FoldedNorm(block.norm_mlp, order, hidden.weight.double(), hidden.bias.double())
        self.mlp = nn.ModuleDict(
            {"0": Product(hidden.weight[:, order].T), "1": Gelu(), "3": _gated(out, block.mlp_gate, inside)}
        )

    def take(self, levels: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """Values inside and around each cell, in parts (B, V, C, n)."""
        inside, around = [], []
        pairs = list(zip(self.tokens.zooms, levels, strict=True))
        if self.coarse:
            parts = [spread(level, self.token_zoom - zoom) for zoom, level in pairs[: self.coarse]]
            inside.append(torch.cat(parts, dim=-1))
            around.append(self._ring(inside[0], self.token_zoom))
        for zoom, level in pairs[self.coarse :]:
            inside.append(self._by_cell(level))
            around.append(self._ring(level, zoom))
        return inside, around

    def forward(self, levels: Sequence[Tensor], condition: Tensor, read: Sequence[Tensor] = ()) -> list[Tensor]:
        """Update the levels; `read` are parts (B, V, C, n) of a token that are only read."""
        inside, around = self.take(levels)
        start = torch.cat(inside, dim=-1)
        token = torch.cat([start, *around, *read], dim=-1)  # (B, V, C, D)
        token = self.norm_attention(token, self.cell, condition)
        mixed = self.query_key_value(token, *self.norm_attention.shifts(self.cell, condition))
        update = self.attention_out(self.attention(mixed))
        token = torch.cat([start + update, *around, *read], dim=-1)
        token = self.norm_mlp(token, self.cell, condition)
        hidden = self.mlp["0"](token, *self.norm_mlp.shifts(self.cell, condition))
        update = update + self.mlp["3"](self.mlp["1"](hidden))
        return [level + change for level, change in zip(levels, self.put(update), strict=True)]

    def attention(self, mixed: Tensor) -> Tensor:
        """Softmax attention over the cells of all variables, or of windows.

        (B, V, C, 3 * width) -> (B, V, C, width)
        """
        inside = self.window_cells or self.cells
        windows = swapped(torch.unflatten(mixed, 2, (-1, inside))).flatten(2, 3)  # (B, W, V * M, 3 * width)
        parts = torch.split(windows, windows.shape[3] // (3 * self.heads), dim=3)
        # One head at a time, so that its weights stay in the cache; splitting heads costs as much as transposing them.
        heads = [self._attend(*parts[head :: self.heads]) for head in range(self.heads)]
        joined = torch.unflatten(torch.cat(heads, dim=3), 2, (-1, inside))  # (B, W, V, M, width)
        return swapped(joined).flatten(2, 3)

    def _attend(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Softmax attention of one head, (B, W, V * M, n); windows also attend to those around them."""
        if self.window_cells:
            key, value = self._around(key), self._around(value)
        queries = torch.split(query, QUERIES, dim=2) if query.shape[2] > 2 * QUERIES else [query]
        seen = [(part @ key.transpose(-1, -2)).softmax(-1) @ value for part in queries]
        return torch.cat(seen, dim=2) if len(seen) > 1 else seen[0]

    def put(self, update: Tensor) -> Iterator[Tensor]:
        """Levels (B, V, pixel, F) from values inside each cell; coarser levels get means over cells."""
        sizes = [self.frames * count for count in self.tokens.inside]
        for zoom, part in zip(self.tokens.zooms, torch.split(update, sizes, dim=-1), strict=True):
            level = torch.unflatten(part.flatten(2), 2, (-1, self.frames))
            steps = self.token_zoom - zoom
            yield self.means(level, steps) if steps > 0 else level

    def _by_cell(self, level: Tensor) -> Tensor:
        return torch.unflatten(level.flatten(2), 2, (self.cells, -1))

    def _ring(self, level: Tensor, zoom: int) -> Tensor:
        return self._by_cell(fetch(level, self.tokens.get_buffer(f"table_{zoom}")))

    def _around(self, part: Tensor) -> Tensor:
        """Keys or values (B, W, V * M, n) of each window and those around it: (B, W, 9 * V * M, n)."""
        return torch.unflatten(part.index_select(1, self.windows), 1, (part.shape[1], -1)).flatten(2, 3)


class FoldedMap(nn.Module):
    """A `CellMap` with one linear part, the sum of two, which backends add when they load the graph."""

    own: Tensor | None

    def __init__(self, cells: CellMap) -> None:
        super().__init__()
        self.shared, self.outputs = cells.shared, cells.shared.shape[-1]
        # a row for each cell, so that its numbers share a scale if they were rounded to bytes
        self.register_buffer("own", None if cells.own is None else cells.own.flatten(2))
        self.mlp = None if cells.mlp is None else nn.Sequential(cells.mlp[0], Gelu(), cells.mlp[2])

    def forward(self, patch: Tensor) -> Tensor:
        """(B, V, C, entries) -> (B, V, C, outputs)."""
        own = self.own
        weight = self.shared if own is None else self.shared + torch.unflatten(own, 2, (-1, self.outputs))
        if own is None:
            out = patch @ weight
        elif self.outputs == 1:  # a sum of products: there is no fast matrix product for single columns
            out = (patch * weight[..., 0]).sum(-1, keepdim=True)
        else:
            out = (patch.permute(1, 2, 0, 3) @ weight).permute(2, 0, 1, 3)  # for each cell, one product for all rows
        return out if self.mlp is None else out + self.mlp(patch)


def _order(tokens: Tokens, frames: int, start: int) -> tuple[Tensor, Tensor, int]:
    """Places in the trained layers' token of the entries inside and around cells, and the place after them.

    There a level's frames are outside its pixels; here levels with one entry per cell share a ring.
    """

    def places(count: int) -> Tensor:  # (pixel, frame)
        nonlocal start
        found = start + torch.arange(frames * count).reshape(frames, count).T
        start += frames * count
        return found

    inside = [places(count).flatten() for count in tokens.inside]
    rings = [places(count) for count in tokens.halo]
    coarse = [ring for zoom, ring in zip(tokens.zooms, rings, strict=True) if zoom <= tokens.token_zoom]
    around = [torch.stack(coarse, dim=1)] if coarse else []
    around += rings[len(coarse) :]
    return torch.cat(inside), torch.cat([part.flatten() for part in around]), start


def _gated(linear: nn.Linear, gate: Tensor, order: Tensor) -> Product:
    """A map with its results in the order of the entries, multiplied by their gates."""
    factor = gate.double()[order]
    return Product(linear.weight[order].T, factor * linear.bias.double()[order], factor)
