"""Sparse weights for many fields at once: column by column of their entries, in place of row by row."""

from dataclasses import dataclass

import numpy as np

from fsae.runtime.arrays import F64, Floating, Ints

from .weights import Weights

BLOCK = 512  # targets at once, which the processor's cache holds


@dataclass(frozen=True, kw_only=True)
class Columns:
    """A sparse matrix by columns of entries, the targets of most entries first, for many fields at once.

    Column j holds the j-th entry of each of the first `index[j].size` targets in the order of `order`.
    """

    order: Ints  # (target)
    index: tuple[Ints, ...]
    weight: tuple[F64, ...]

    def apply(self, sources: Floating) -> Floating:
        """Targets (target, time) of sources (source, time), in their dtype; sums run in the order of the entries."""
        made = np.zeros((self.order.size, sources.shape[1]), sources.dtype)
        for first in range(0, len(made), BLOCK):
            block = made[first : first + BLOCK]
            for index, weight in zip(self.index, self.weight, strict=True):
                own = slice(first, first + BLOCK)
                entries = np.take(sources, index[own], axis=0)
                entries *= weight[own, None].astype(sources.dtype)
                block[: len(entries)] += entries
        found = np.empty_like(made)
        found[self.order] = made
        return found


def columns_of(weights: Weights) -> Columns:
    """Columns of weights."""
    count = np.diff(weights.indptr)
    order = np.argsort(-count, kind="stable")
    filled = [order[: int((count > place).sum())] for place in range(int(count.max(initial=0)))]
    entries = [weights.indptr[:-1][targets] + place for place, targets in enumerate(filled)]
    index = tuple(weights.index[own].astype(np.intp) for own in entries)
    return Columns(order=order, index=index, weight=tuple(weights.weight[own].astype(np.float64) for own in entries))
