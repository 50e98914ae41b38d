"""Tables of the archive codec: what it learned about one variable, as integers."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fsae.runtime.arrays import F64, Ints
from fsae.runtime.errors import BundleError, DataError
from fsae.runtime.sphere.healpix import npix, zoom_of

CELL_ZOOM = 1  # of the 48 cells whose pixels are transformed together
PATTERN_ONE = 1 << 18  # unit of patterns and of the modes in cells
STENCIL_ONE = 1 << 7  # unit of the weights of a stencil
OCTAVE = 32  # parts of an octave that deviations and steps are counted in
PER_CLASS = 8  # parts of an octave in one class of deviations
PERSISTENCES, FREQUENCIES = 16, 64  # rows and columns of `spectrum`
LOWEST = -88  # parts of an octave between the step and the deviation of class 0: all below is zero
CLASSES = 30
LARGEST = 100  # largest symbol with a frequency of its own
ESCAPE = 2 * LARGEST + 1
GROUP_PATTERNS = 50  # coefficients whose deviations are corrected together in a chunk
ADVICE = "the tables of the archive codec are damaged: export the bundle again"

TYPES = {
    "patterns": np.int8,
    "pattern_scale": np.int32,
    "modes": np.int8,
    "mode_scale": np.int32,
    "stencil": np.int8,
    "deviation": np.int16,
    "persistence": np.uint8,
    "spectrum": np.int16,
    "frequency": np.uint32,
}


@dataclass(frozen=True, kw_only=True)
class CodecTables:
    """Integer tables of one variable on HEALPix; K patterns, B pixels at the base zoom, D detail levels.

    Coefficients are K of patterns, B of modes in cells and 3 * 4**(d - 1) * B details for each level d = 1 ... D.
    Their unit is that of the variable: squared errors of coefficients add up to those of the pixels.
    """

    patterns: NDArray[np.int8]  # (pattern, base pixel), times `pattern_scale` / PATTERN_ONE
    pattern_scale: NDArray[np.int32]  # (pattern)
    modes: NDArray[np.int8]  # (cell, mode, base pixel in the cell), times `mode_scale` / PATTERN_ONE
    mode_scale: NDArray[np.int32]  # (cell, mode)
    stencil: NDArray[np.int8]  # (detail level, base pixel, child, neighbour), / STENCIL_ONE
    deviation: NDArray[np.int16]  # (K + B + 3 B D), log2 of standard deviations in parts of an octave
    persistence: NDArray[np.uint8]  # (K + B + 3 B D), row of `spectrum`
    spectrum: NDArray[np.int16]  # (persistence, frequency), log2 of the share in parts of an octave
    frequency: NDArray[np.uint32]  # (class, symbol), of -LARGEST ... LARGEST and an escape

    @property
    def base_zoom(self) -> int:
        """Zoom of the patterns."""
        return zoom_of(self.patterns.shape[1])

    @property
    def levels(self) -> int:
        """Detail levels above the base zoom."""
        return len(self.stencil)

    @property
    def zoom(self) -> int:
        """Zoom of the fields."""
        return self.base_zoom + self.levels

    @cached_property
    def parts(self) -> list[slice]:
        """Coefficients of the patterns, of the modes, and of each detail level."""
        pixels, count = self.patterns.shape[1], len(self.patterns)
        sizes = [count, pixels, *(3 * pixels * 4**level for level in range(self.levels))]
        ends = np.cumsum(sizes)
        return [slice(int(end - size), int(end)) for size, end in zip(sizes, ends, strict=True)]

    @cached_property
    def entries(self) -> Ints:
        """For each coefficient its entry in `deviation` and `persistence`: details share that of their base pixel."""
        count, pixels = self.patterns.shape
        known = np.arange(count + pixels)
        details = [
            known.size + 3 * (pixels * level + (np.arange(pixels * 4**level) >> 2 * level))[:, None] + np.arange(3)
            for level in range(self.levels)
        ]
        return np.concatenate([known, *(detail.ravel() for detail in details)])

    @cached_property
    def groups(self) -> Ints:
        """For each coefficient the group whose deviations a chunk corrects together."""
        count, pixels = self.patterns.shape
        cells, modes = self.modes.shape[:2]
        bands = np.minimum(np.arange(modes) * 4 // modes, 3)
        found = [np.arange(count) // GROUP_PATTERNS]
        found.append(found[-1].max(initial=-1) + 1 + (np.arange(cells)[:, None] * 4 + bands).ravel())
        for level in range(self.levels):
            each = 3 * pixels * 4**level // cells
            found.append(found[-1].max() + 1 + np.arange(each * cells) // each)
        return np.concatenate(found)

    @cached_property
    def synthesis(self) -> tuple[F64, F64]:
        """Patterns (pattern, base pixel) and modes (cell, mode, pixel): integers, as floats for exact products."""
        patterns = self.patterns.astype(np.float64) * self.pattern_scale[:, None]
        return patterns, self.modes.astype(np.float64) * self.mode_scale[:, :, None]

    @cached_property
    def analysis(self) -> tuple[F64, F64]:
        """Least-squares inverses of `synthesis`: (base pixel, pattern) and (cell, pixel, mode)."""
        patterns, modes = (table / PATTERN_ONE for table in self.synthesis)
        forward: F64 = np.linalg.solve(patterns @ patterns.T, patterns).T.astype(np.float64)
        return forward, np.linalg.inv(modes).astype(np.float64)

    @cached_property
    def bits(self) -> F64:
        """Code length of each symbol in each class (class, symbol)."""
        frequency = self.frequency.astype(np.float64)
        bits: F64 = -np.log2(frequency / frequency.sum(1, keepdims=True))
        return bits


def make_codec_tables(arrays: Mapping[str, NDArray[Any]], where: str) -> CodecTables:
    """Tables out of their arrays, every shape and range checked; BundleError says which is wrong."""
    missing = sorted(set(TYPES) - set(arrays))
    if missing:
        raise BundleError(f"{where} lacks the codec tables {missing}", advice=ADVICE)
    for name, kind in TYPES.items():
        if arrays[name].dtype != kind:
            raise BundleError(f"{where}: codec table {name} is {arrays[name].dtype}", np.dtype(kind).name, ADVICE)
    count, pixels = arrays["patterns"].shape if arrays["patterns"].ndim == 2 else (0, 0)
    levels = len(arrays["stencil"])
    try:
        good = zoom_of(pixels) >= CELL_ZOOM and levels <= 8
    except DataError:  # not a whole sphere
        good = False
    cells = npix(CELL_ZOOM)
    known = count + pixels + 3 * pixels * levels
    shapes = {
        "pattern_scale": (count,),
        "modes": (cells, pixels // cells, pixels // cells),
        "mode_scale": (cells, pixels // cells),
        "stencil": (levels, pixels, 4, 25),
        "deviation": (known,),
        "persistence": (known,),
        "spectrum": (PERSISTENCES, FREQUENCIES),
        "frequency": (CLASSES, ESCAPE + 1),
    }
    for name, shape in shapes.items():
        if not good or arrays[name].shape != shape:
            raise BundleError(f"{where}: codec table {name} has the shape {arrays[name].shape}", f"{shape}", ADVICE)
    made = CodecTables(**{name: arrays[name] for name in TYPES})
    if (made.frequency < 1).any() or (made.persistence >= PERSISTENCES).any():
        raise BundleError(f"{where}: codec tables hold numbers out of range", advice=ADVICE)
    return made
