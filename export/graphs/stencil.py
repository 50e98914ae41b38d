"""The mean over a pixel's eight neighbours, for whole cells of pixels at once.

Fetching eight numbers for every pixel costs far more than adding them. A cell and the ring of pixels around it hold all
the neighbours of the cell's pixels, so only the ring is fetched; one small matrix, the same for every cell, does the
rest.
"""

import healpy
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from fsae.training.networks.halo import halo_table

from .folded_layers import fetch

# Steps to each neighbour in x (north-east) and y (north-west), in the order of `halo_table`: SW, S, SE, ...
STEPS = ((-1, 0), (-1, -1), (0, -1), (1, -1), (1, 0), (1, 1), (0, 1), (-1, 1))
CELL_STEPS = 3  # zooms from a pixel to its cell of 64: with larger cells the matrix costs more than it saves


def stencil(zoom: int) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """The ring of pixels around each cell, (cell, 4 m + 4), and the matrix (m * m + 4 m + 4, m * m) to the means.

    The matrix has rows for the m * m nested pixels of a cell, then for its ring. A pixel takes the place of a missing
    neighbour, as in `halo_table`; that place in the ring is no other pixel's neighbour.
    """
    steps = min(CELL_STEPS, zoom)
    side = 1 << steps
    neighbours = halo_table(zoom, zoom).reshape(-1, side * side, 8)  # (cell, pixel, direction)
    x, y = np.meshgrid(np.arange(side), np.arange(side), indexing="ij")
    inside = healpy.xyf2pix(side, x, y, 0, nest=True)  # (x, y)
    ring: dict[tuple[int, int], NDArray[np.int32]] = {}
    terms = []
    for i in range(side):
        for j in range(side):
            for place, (right, up) in enumerate(STEPS):
                at = (i + right, j + up)
                if 0 <= at[0] < side and 0 <= at[1] < side:
                    terms.append((int(inside[at]), int(inside[i, j])))
                else:
                    ring.setdefault(at, neighbours[:, inside[i, j], place])
                    terms.append((side * side + list(ring).index(at), int(inside[i, j])))
    matrix = np.zeros((side * side + len(ring), side * side), dtype=np.float32)
    for row, column in terms:
        matrix[row, column] = 1 / 8
    return np.stack(list(ring.values()), axis=1), matrix


class NeighbourMean(nn.Module):
    """Mean over the eight neighbours of every pixel of a zoom."""

    ring: Tensor
    matrix: Tensor

    def __init__(self, zoom: int) -> None:
        super().__init__()
        ring, matrix = stencil(zoom)
        self.cells = len(ring)
        self.register_buffer("ring", torch.from_numpy(ring).ravel())
        self.register_buffer("matrix", torch.from_numpy(matrix))

    def forward(self, field: Tensor) -> Tensor:
        """(B, V, pixel) -> (B, V, pixel)."""
        ring = torch.unflatten(fetch(field[..., None], self.ring).flatten(2), 2, (self.cells, -1))
        cells = torch.unflatten(field, -1, (self.cells, -1))
        return (torch.cat([cells, ring], dim=-1) @ self.matrix).flatten(2)  # (B, V, cell, m * m + 4 m + 4) before
