"""Steps on trial: what a quantisation step costs in bits and loses in error, before anything is coded or decoded."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from fsae.runtime.arrays import F64, Ints

from .entropy import CORRECTIONS, DEAD, classes_of, deviations
from .tables import LARGEST, OCTAVE, CodecTables
from .transform import step_of

BIT_COST = 0.12  # of a bit, in squared steps
ONE_SIDED = 0.5  # share of the step from which a value may become a symbol
ESCAPE_BITS = 24.0
LEAST = 30  # coefficients of a group whose deviations are corrected
MORE = 1.1  # error of fields over that of coefficients, since rounded patterns are not quite orthogonal
MOST = 2.0**32  # deviation in units of the bound beyond which every value is kept exactly, whatever the step
SLOPE = 0.8  # log2 of errors and sizes over that of steps, about
FAR_BELOW = 2 * OCTAVE  # deviations further below the step say nothing about a group


@dataclass(frozen=True, kw_only=True, eq=False)
class Trial:
    """Symbols for one step: those that are not zero, at flat places of (frequency, coefficient)."""

    exponent: int
    corrections: Ints  # (group), in classes
    classes: NDArray[np.int8]  # (group, deviation)
    places: Ints
    values: NDArray[np.int32]
    bits: float  # of the coder, escapes included
    squares: float  # squared errors of the coefficients, summed


class Trials:
    """Coefficients (frequency, coefficient) of a chunk, summed up once by group and deviation for all steps."""

    def __init__(self, tables: CodecTables, coefficients: F64, cells: int, left: float) -> None:
        """Tables, coefficients in the unit of the variable, the number of values that they stand for.

        `left` is the root mean square error that no step takes away, where points are interpolated from cells.
        """
        deviation = deviations(tables, len(coefficients))
        self._tables, self._cells, self._left = tables, cells, left
        self._coefficients, self._shape = coefficients.ravel(), coefficients.shape
        self._size = np.abs(self._coefficients)
        self._known = dict[tuple[int, float], Trial]()
        lowest, highest = int(deviation.min()), int(deviation.max())
        self._levels = np.arange(lowest, highest + 1)  # of deviations
        self._key = ((deviation - lowest) + tables.groups * self._levels.size).ravel()
        groups = int(tables.groups.max()) + 1
        table = (groups, self._levels.size)
        self._count = np.bincount(self._key, minlength=groups * self._levels.size).reshape(table)
        power = np.bincount(self._key, weights=self._size**2, minlength=self._count.size).reshape(table)
        relative = power / np.exp2(self._levels * 2 / OCTAVE)
        # Sums over the deviations from each one upwards.
        self._counted = self._count[:, ::-1].cumsum(1)[:, ::-1]
        self._relative = relative[:, ::-1].cumsum(1)[:, ::-1]

    @cached_property
    def power(self) -> float:
        """Squares of all coefficients, summed."""
        return float(self._size @ self._size)

    def _correct(self, exponent: int) -> Ints:
        """Corrections (group) of the deviations, in classes: the likeliest for these coefficients.

        Coefficients count whose deviation is not much smaller than the step; a group of few such is not corrected.
        """
        first = int(np.clip(exponent - FAR_BELOW - self._levels[0], 0, self._levels.size))
        if first == self._levels.size:
            return np.zeros(len(self._count), dtype=np.int64)
        number = self._counted[:, first]
        mean = self._relative[:, first] / np.maximum(number, 1)
        wanted = np.round(2 * np.log2(np.maximum(mean, 1e-3))).astype(np.int64)
        wanted[number < LEAST] = 0
        kept: Ints = np.clip(wanted, CORRECTIONS[0], CORRECTIONS[-1])
        return kept

    def trial(self, exponent: int, cost: float = BIT_COST) -> Trial:
        """Symbols of the least error^2 + cost * bits, of three for each coefficient.

        The candidates are the nearest integer, the one below it in size, and zero (rate-distortion optimised
        quantisation).
        """
        if (exponent, cost) in self._known:
            return self._known[exponent, cost]
        step, bits = step_of(exponent), self._tables.bits
        corrections = self._correct(exponent)
        table = classes_of(self._levels, corrections[:, None], exponent)
        places = np.flatnonzero(self._size > ONE_SIDED * step)
        classes = table.ravel()[self._key[places]]
        alive = classes != DEAD
        places, classes = places[alive], classes[alive].astype(np.intp)
        size = self._size[places] / step
        nearest = np.floor(size + 0.5)
        zero = bits[classes, LARGEST]
        best, spent = np.zeros_like(size), zero
        least = size**2 + cost * zero
        for candidate in (nearest - 1, nearest):
            length = bits[classes, np.minimum(candidate, LARGEST + 1).astype(np.intp) + LARGEST]
            length = length + np.where(candidate > LARGEST, ESCAPE_BITS, 0.0)
            total = (size - candidate) ** 2 + cost * length
            better = total < least
            best, spent = np.where(better, candidate, best), np.where(better, length, spent)
            least = np.where(better, total, least)
        silent = float((self._count * np.where(table == DEAD, 0.0, bits[table, LARGEST])).sum())
        gained = size**2 - (size - best) ** 2
        there = best > 0
        values = (np.sign(self._coefficients[places]) * best).astype(np.int32)
        found = self._known[exponent, cost] = Trial(
            exponent=exponent,
            corrections=corrections,
            classes=table,
            places=places[there],
            values=values[there],
            bits=silent + float((spent - zero).sum()),
            squares=self.power - float(gained.sum()) * step**2,
        )
        return found

    def symbols(self, trial: Trial) -> NDArray[np.int32]:
        """All symbols (frequency, coefficient) of a trial."""
        found = np.zeros(self._key.size, dtype=np.int32)
        found[trial.places] = trial.values
        return found.reshape(self._shape)

    def classes(self, trial: Trial) -> NDArray[np.int8]:
        """Classes (frequency, coefficient) of a trial, as `entropy.classify` finds them."""
        classes: NDArray[np.int8] = trial.classes.ravel()[self._key].reshape(self._shape)
        return classes

    def size(self, exponent: int) -> float:
        """Bytes of the coder."""
        return self.trial(exponent).bits / 8

    def error(self, exponent: int) -> float:
        """Root mean square error of the fields, as far as the transform is orthonormal."""
        return math.sqrt(max(self.trial(exponent).squares, 1e-30) / self._cells + self._left**2)

    def cheapest(self, start: int, half: float, values: int) -> int:
        """The exponent for the fewest bytes, corrections included that bring each of `values` errors within `half`.

        From `start` downhill, by quarters of an octave.
        """

        def whole(exponent: int) -> float:
            return 8 * self.size(exponent) + values * _rounded_bits(MORE * self.error(exponent) / (2 * half))

        best, least, move = start, whole(start), OCTAVE // 4
        for direction in (move, -move):
            while (found := whole(best + direction)) < least:
                best, least = best + direction, found
            if best != start:
                break
        return best


def furthest(slack: Callable[[int], float], start: int, low: int, high: int) -> int | None:
    """The largest number in low ... high whose slack is not negative, for a slack that falls by about 1 a number.

    None if the lowest has a negative one.
    """
    kept, broken, guess = low - 1, high + 1, start
    above, below = float(broken - kept), 0.0  # slack of `kept`, and what `broken` lacks; unknown ones count nothing
    while broken - kept > 1:
        guess = min(max(guess, kept + 1), broken - 1)
        left = slack(guess)
        if left >= 0:
            kept, above = guess, left
        else:
            broken, below = guess, -left
        if low <= kept and broken <= high:
            guess = kept + max(1, round((broken - kept) * above / (above + below)))
        else:
            guess += math.floor(left / SLOPE)
    return kept if kept >= low else None


def _rounded_bits(deviation: float) -> float:
    """Entropy [bit] of Laplacian errors of that standard deviation, rounded to integers."""
    within = min(max(deviation, 0.02), MOST)
    beyond, again = (math.exp(-math.sqrt(2) / within * part) for part in (0.5, 1.0))
    return _coin_bits(beyond) + beyond * (1 + _coin_bits(again) / (1 - again))


def _coin_bits(share: float) -> float:
    return -share * math.log2(share) - (1 - share) * math.log2(1 - share) if 0 < share < 1 else 0.0
