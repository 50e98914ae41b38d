"""Sparse weights between grids, and their product with fields, in NumPy alone."""

from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from fsae.runtime.arrays import F64, Floating, Ints
from fsae.runtime.errors import DataError

MIN_VALID = 0.5  # share of a target's weight that must be on valid values
NEGLIGIBLE = 1e-13  # weights up to here are rounding errors of coordinates

FEW = 4  # entries of a target between four points
MOST_LONG = 0.1  # share of targets with more entries up to which columns are used
BLOCK = 1 << 14  # targets of columns, or entries of rows, at once, which the processor's cache holds


@dataclass(frozen=True, kw_only=True, eq=False)
class Weights:
    """A sparse matrix in CSR form: target t is the sum of weight * source[index] over indptr[t] ... indptr[t + 1]."""

    indptr: NDArray[np.integer]  # (target + 1)
    index: NDArray[np.integer]  # (entry)
    weight: NDArray[np.floating]  # (entry)
    source_size: int

    @property
    def target_size(self) -> int:
        """Number of target points."""
        return self.indptr.size - 1

    @cached_property
    def layout(self) -> "Layout":
        """The same weights in the form in which they are multiplied."""
        return _layout(self)


@dataclass(frozen=True, kw_only=True, eq=False)
class Layout:
    """Weights whose targets have four entries at most in four columns, which need no `indptr`; the others in rows.

    Both are added in the order of `np.add.reduceat`, the first entry last: results are the same to the bit.
    """

    index: NDArray[np.integer]  # (4, target), or (4, 0) if all targets are in rows
    weight: NDArray[np.floating]  # 0 where a target has fewer entries
    rows: Weights
    long: Ints  # targets of the rows, rising
    blocks: Ints  # the first rows of blocks of entries, and the end
    empty: Ints  # targets without entries


def apply(weights: Weights, field: Floating) -> Floating:
    """Field (..., target) of a field (..., source), in its dtype; sums run in float64.

    Missing values (NaN) are left out and the other weights renormalised; a target with less than half of its weight on
    valid values, or without any weight, is NaN.

    >>> pair = Weights(indptr=np.array([0, 2]), index=np.array([0, 1]), weight=np.array([0.75, 0.25]), source_size=2)
    >>> apply(pair, np.array([[1.0, 5.0], [1.0, np.nan]])).tolist()
    [[2.0], [1.0]]
    """
    if field.shape[-1] != weights.source_size:
        raise DataError(
            f"found fields of {field.shape[-1]} points",
            f"{weights.source_size} for these weights",
            "give fields on the grid of the weights",
        )
    source = np.ascontiguousarray(field).reshape(-1, field.shape[-1])
    out = np.empty((len(source), weights.target_size), dtype=field.dtype)
    if weights.target_size:
        for values, row in zip(source, out, strict=True):  # one at a time: the entries are many times the points
            _multiply(weights.layout, values, row)
            if np.count_nonzero(np.isnan(row)) > weights.layout.empty.size:
                row[:] = _means_of_valid(weights, values)
    return out.reshape(*field.shape[:-1], weights.target_size)


def _multiply(layout: Layout, source: Floating, out: Floating) -> None:
    """Fill `out` (target,) with the sums of all entries; a target of a missing value, or of none, is NaN."""
    with np.errstate(invalid="ignore"):  # infinity times the 0 of an entry that is not there
        for begin in range(0, layout.index.shape[1], BLOCK):
            own = slice(begin, begin + BLOCK)
            first, second, third, fourth = (
                np.take(source, index[own], mode="clip") * weight[own]  # "clip" is faster, and checked by `bundle`
                for index, weight in zip(layout.index, layout.weight, strict=True)
            )
            second += third
            second += fourth
            second += first
            out[own] = second
    rows = layout.rows
    sums = np.empty(layout.long.size)
    for begin, end in pairwise(layout.blocks):
        entry = slice(rows.indptr[begin], rows.indptr[end])
        products = np.take(source, rows.index[entry], mode="clip") * rows.weight[entry].astype(np.float64)
        np.add.reduceat(products, rows.indptr[begin:end] - rows.indptr[begin], out=sums[begin:end])
    out[layout.long] = sums
    out[layout.empty] = np.nan


def _means_of_valid(weights: Weights, source: Floating) -> F64:
    """Targets of a source (source,) with missing values: means over the valid ones."""
    entry = source[weights.index].astype(np.float64)
    missing = np.isnan(entry)
    whole = _row_sums(weights, weights.weight.astype(np.float64))
    valid = _row_sums(weights, np.where(missing, 0.0, weights.weight))
    total = _row_sums(weights, np.where(missing, 0.0, entry) * weights.weight)
    good = (valid >= MIN_VALID * whole) & (valid > 0)
    means: F64 = np.where(good, total * whole / np.where(good, valid, 1.0), np.nan)
    return means


def _row_sums(weights: Weights, entry: Floating) -> F64:
    """Sum over the entries of each target; 0 for a target without entries, which `reduceat` alone would not give."""
    sums = np.zeros(weights.target_size)
    filled = np.diff(weights.indptr) > 0
    if filled.any():
        sums[filled] = np.add.reduceat(entry, weights.indptr[:-1][filled])
    return sums


def _layout(weights: Weights) -> Layout:
    """Layout of weights; rows alone if many targets have more than four entries."""
    count = np.diff(weights.indptr)
    long, targets = np.flatnonzero(count > FEW), weights.target_size
    if long.size > MOST_LONG * targets or not weights.index.size:
        long, targets = np.flatnonzero(count), 0
    place = np.arange(FEW)[:, None]
    entry = weights.indptr[:targets] + np.minimum(place, np.maximum(count[:targets] - 1, 0))
    entry = np.minimum(entry, weights.index.size - 1)  # of empty targets at the end
    there = (place < count[:targets]) & (count[:targets] <= FEW)
    rows = weights if long.size == weights.target_size else target_rows(weights, long)
    return Layout(
        index=weights.index[entry],
        weight=np.where(there, weights.weight[entry].astype(np.float64), 0.0),
        rows=rows,
        long=long,
        blocks=np.unique(np.append(np.searchsorted(rows.indptr, np.arange(0, rows.index.size, BLOCK)), long.size)),
        empty=np.flatnonzero(count == 0),
    )


def from_entries(target: Ints, source: Ints, weight: F64, target_size: int, source_size: int) -> Weights:
    """Weights from (target, source, weight) entries in any order; duplicates are added, rounding errors left out."""
    key = target.astype(np.int64) * source_size + source
    order = np.argsort(key)
    key = key[order]
    new = np.ones(key.size, dtype=bool)
    new[1:] = key[1:] != key[:-1]
    total: F64 = np.bincount(np.cumsum(new) - 1, weights=weight[order]).astype(np.float64)
    kept = np.abs(total) > NEGLIGIBLE
    key, total = key[new][kept], total[kept]
    count = np.bincount(key // source_size, minlength=target_size)
    return Weights(
        indptr=np.concatenate([[0], np.cumsum(count)]).astype(np.int32),
        index=(key % source_size).astype(np.int32),
        weight=total,
        source_size=source_size,
    )


def target_rows(weights: Weights, targets: Ints) -> Weights:
    """The weights to some of the targets, in that order."""
    count = np.diff(weights.indptr)[targets]
    indptr = np.concatenate([[0], np.cumsum(count)])
    entry = np.repeat(weights.indptr[:-1][targets] - indptr[:-1], count) + np.arange(indptr[-1])
    return Weights(
        indptr=indptr, index=weights.index[entry], weight=weights.weight[entry], source_size=weights.source_size
    )
