"""A chunk of archived fields: some steps of one variable on its own grid, as bytes that decode alone.

    "FSAC", version, flags, steps, points, exponent of the step, RMSE, largest error    fixed, little-endian
    phases of the year | words | escapes | missing values | corrections    each after its length
    CRC-32 of all that

Decoded values are climatology plus synthesised anomalies, interpolated to the grid, plus corrections where a bound on
the error was asked for. Every sum on the way is exact or of a fixed order, so they are the same on every machine.
"""

import math
import struct
import zlib
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from fsae.runtime.arrays import F32, F64, Ints
from fsae.runtime.errors import DataError

from . import corrections
from .entropy import Coded, Decoder, classify, correct, deviations, encode, quantise
from .grid import CodecGrid
from .quality import Figures, Quality, measure
from .tables import OCTAVE, CodecTables
from .transform import FINER, analyse, synthesise

MAGIC, VERSION = b"FSAC", 1
HEAD = struct.Struct("<4sBBHIhxxff")
SECTIONS = 5
PHASE_ONE = 1 << 12  # parts of a year that phases are rounded to: about two hours
BIT_COST = 0.12  # of a bit, in squared steps
MOST_STEPS = 1024
MOST_SPREADS = 1000.0  # of an anomaly, in typical ones
FINEST, COARSEST = -14 * OCTAVE, 9 * OCTAVE  # exponents of steps, around the deviation of the anomalies
ROUNDS = 6  # of the search for a step


@dataclass(frozen=True, kw_only=True, eq=False)
class Codec:
    """Encoder and decoder of one variable on one grid: `climatology` (1 + 2K, point) and the tables of a bundle."""

    tables: CodecTables
    climatology: F32
    grid: CodecGrid

    @cached_property
    def _quantum(self) -> float:
        """What climatologies are rounded to: a power of two, far below the smallest step."""
        return 2.0 ** (int(np.floor(self._spread / OCTAVE)) - 14)

    @cached_property
    def _spread(self) -> int:
        """Log2 of a typical anomaly in parts of an octave."""
        power = np.exp2(self.tables.deviation[self.tables.entries].astype(np.float64) * 2 / OCTAVE).sum()
        return int(np.round(0.5 * np.log2(power / self.grid.cells) * OCTAVE))

    def expected(self, phases: Ints) -> F64:
        """Climatology (time, point) at phases in parts of PHASE_ONE, from integers."""
        angle = 2 * np.pi * (phases[:, None] / PHASE_ONE) * np.arange(1, (len(self.climatology) + 1) // 2)
        waves = np.round(np.stack([np.cos(angle), np.sin(angle)], axis=-1).reshape(len(phases), -1) * (1 << 14))
        features = np.concatenate([np.full((len(phases), 1), float(1 << 14)), waves], axis=1)
        whole = np.round(self.climatology.astype(np.float64) / self._quantum)
        expected: F64 = features @ whole * (self._quantum / (1 << 14))
        return expected

    def encode(self, values: F32, phase: NDArray[np.floating], quality: Quality) -> tuple[bytes, Figures]:
        """Bytes of values (time, point) at phases of the year, and their figures; missing values stay missing.

        DataError if the quality cannot be reached.
        """
        steps, points = values.shape
        if not 0 < steps <= MOST_STEPS or points != self.grid.area.size or len(phase) != steps:
            raise DataError(
                f"found {values.shape} values and {len(phase)} phases",
                f"1 to {MOST_STEPS} steps of {self.grid.area.size} points",
                "give whole fields in shorter chunks",
            )
        phases = np.round(np.asarray(phase, dtype=np.float64) * PHASE_ONE).astype(np.int64) % PHASE_ONE
        expected = self.expected(phases)
        with np.errstate(invalid="ignore"):
            anomalies = values - expected
        far = MOST_SPREADS * 2.0 ** (self._spread / OCTAVE)  # what no field has is left to corrections
        cells = self.grid.fit(np.clip(np.where(np.isfinite(anomalies), anomalies, 0.0), -far, far))
        work = _Work(self, values, expected, analyse(self.tables, cells), phases, quality)
        data, figures = work.best()
        found = measure(values, self.decode(data), self.grid.area, len(data))
        if found.largest != figures.largest or not math.isclose(found.rmse, figures.rmse, rel_tol=1e-9):
            raise DataError(
                "the archive codec did not decode what it wrote",
                advice="run `fsae-run doctor` and report what it says",
            )
        return data, figures

    def decode(self, data: bytes) -> F32:
        """Values (time, point) of a chunk's bytes; DataError if they are damaged or not a chunk of this codec."""
        head, sections = _sections(data)
        _, _, flags, steps, points, exponent, _, _ = HEAD.unpack(head)
        if points != self.grid.area.size:
            raise DataError(
                f"found a chunk of {points} points", f"{self.grid.area.size}", "give the grid that it was written on"
            )
        try:
            phases = _unpack_phases(sections[0], steps)
            words = np.frombuffer(sections[1], "<u4")
            escapes = np.frombuffer(_unzip(sections[2], 4 * steps * self.tables.entries.size), "<i4")
            missing = _unpack_missing(sections[3], steps, points)
        except (ValueError, zlib.error) as error:
            raise _damaged(str(error)) from None
        decoder = Decoder(words)
        correction = decoder.corrections(int(self.tables.groups.max()) + 1)
        classes = classify(self.tables, deviations(self.tables, steps), correction, exponent)
        symbols = decoder.symbols(self.tables, classes, escapes)
        made = self.synthesise(symbols, exponent, phases)
        if sections[4]:
            bound = struct.unpack("<d", sections[4][:8])[0]
            half = corrections.tolerance(Quality(max_error=bound, relative=bool(flags & 1)), made)
            wanted, places, exact = corrections.unpack(sections[4][8:], made.shape)
            values = corrections.corrected(made, wanted, half)
            values.reshape(-1)[places] = exact
        else:
            values = made.astype(np.float32)
        if missing is not None:
            values[missing] = np.nan
        return values

    def synthesise(self, symbols: NDArray[np.integer], exponent: int, phases: Ints) -> F64:
        """Points (time, point) of symbols, without corrections."""
        anomalies = synthesise(self.tables, symbols) * (step_of(exponent) / FINER)
        return self.grid.interpolate(anomalies) + self.expected(phases)


def figures_of(data: bytes) -> Figures:
    """The figures that a chunk holds of itself; DataError if it is damaged. The areas of all points are alike there."""
    head, _ = _sections(data)
    _, _, _, steps, points, _, rmse, largest = HEAD.unpack(head)
    values = steps * points
    return Figures(squares=rmse**2 * steps, weight=float(steps), largest=largest, values=values, stored_bytes=len(data))


def step_of(exponent: int) -> float:
    """The quantisation step 2**(exponent / OCTAVE), the same on every machine."""
    octave, part = divmod(exponent, OCTAVE)
    return float(np.ldexp(round(2 ** (part / OCTAVE) * (1 << 20)) / (1 << 20), octave))


class _Work:
    """The search for the step of a chunk, and its bytes."""

    def __init__(
        self, codec: Codec, values: F32, expected: F64, coefficients: F64, phases: Ints, quality: Quality
    ) -> None:
        self.codec, self.values, self.expected, self.phases, self.quality = codec, values, expected, phases, quality
        self.coefficients = coefficients
        self.deviation = deviations(codec.tables, len(coefficients))

    def best(self) -> tuple[bytes, Figures]:
        quality, typical = self.quality, self.codec._spread
        if quality.ratio:
            return self._search(typical, lambda figures: figures.ratio / quality.ratio, rising=True)
        if quality.rmse:
            start = int(np.round(np.log2(quality.rmse) * OCTAVE)) + 2 * OCTAVE
            start = int(np.clip(start, typical + FINEST, typical + COARSEST))
            return self._search(start, lambda figures: quality.rmse / max(figures.rmse, 1e-30), rising=False)
        scale = quality.max_error * (float(np.nanmedian(np.abs(self.values))) if quality.relative else 1.0)
        start = int(np.round(np.log2(max(scale, 1e-30)) * OCTAVE)) + OCTAVE
        start = int(np.clip(start, typical + FINEST, typical + COARSEST))
        found = [self._encoded(start + shift) for shift in (0, -OCTAVE, OCTAVE)]
        data, figures = min(found, key=lambda one: len(one[0]))
        return data, figures

    def _search(self, start: int, margin, *, rising: bool) -> tuple[bytes, Figures]:  # type: ignore[no-untyped-def]
        """The coarsest (for a ratio: the finest) step that keeps the promise, `margin` of at least 1."""
        typical = self.codec._spread
        low, high = typical + FINEST, typical + COARSEST
        kept: dict[int, tuple[bytes, Figures, float]] = {}
        exponent = start
        # Errors and bytes are close to powers of the step, so a few steps along the power law are enough.
        for _ in range(ROUNDS):
            data, figures = self._encoded(exponent)
            kept[exponent] = (data, figures, margin(figures))
            move = np.log2(max(kept[exponent][2], 1e-9)) * OCTAVE / (0.8 if not rising else -1.0)
            good = [e for e, one in kept.items() if one[2] >= 1]
            bad = [e for e, one in kept.items() if one[2] < 1]
            wanted = exponent + int(np.ceil(move) if rising else np.floor(move))
            if good and bad:  # between the best that keeps the promise and the nearest that does not
                inner = (max(good), min(bad)) if not rising else (min(good), max(bad))
                if abs(inner[0] - inner[1]) <= 1:
                    break
                first, last = sorted(inner)
                wanted = int(np.clip(wanted, first + 1, last - 1))
            wanted = int(np.clip(wanted, low, high))
            if wanted in kept:
                break
            exponent = wanted
        good = [e for e, one in kept.items() if one[2] >= 1]
        if not good:
            return self._beyond(min(kept) if not rising else max(kept))
        data, figures, _ = kept[max(good) if not rising else min(good)]
        return data, figures

    def _beyond(self, exponent: int) -> tuple[bytes, Figures]:
        """Bytes with corrections everywhere, for errors smaller than the transform on this grid reaches."""
        if self.quality.ratio:
            raise DataError(
                f"found no step of the archive codec that gives a ratio of {self.quality.ratio:g}",
                advice="ask for a smaller ratio, or give longer chunks",
            )
        wanted = self.quality
        self.quality = Quality(max_error=wanted.rmse * 1.7)  # a uniform error of that bound has rmse = bound / sqrt(3)
        start = int(np.round(np.log2(wanted.rmse) * OCTAVE)) + 2 * OCTAVE
        for _ in range(ROUNDS):
            data, figures = self._encoded(max(start, exponent))
            if figures.rmse <= wanted.rmse:
                return data, figures
            self.quality = Quality(max_error=self.quality.max_error * 0.9 * wanted.rmse / figures.rmse)
        raise DataError(
            f"found no way to an error of {wanted.rmse:g} in float32", advice="ask for a larger error, or no loss"
        )

    def _encoded(self, exponent: int) -> tuple[bytes, Figures]:
        codec, tables = self.codec, self.codec.tables
        correction = correct(tables, self.coefficients, self.deviation, exponent)
        classes = classify(tables, self.deviation, correction, exponent)
        symbols = quantise(tables, self.coefficients / step_of(exponent), classes, BIT_COST)
        coded = encode(tables, symbols, classes, correction)
        anomalies = synthesise(tables, symbols) * (step_of(exponent) / FINER)
        made = codec.grid.interpolate(anomalies) + self.expected
        packed, values = b"", made.astype(np.float32)
        if self.quality.max_error:
            steps, places, exact = corrections.find(self.quality, self.values, made)
            packed = struct.pack("<d", self.quality.max_error) + corrections.pack(steps, places, exact)
            values = corrections.corrected(made, steps, corrections.tolerance(self.quality, made))
            values.reshape(-1)[places] = exact
        missing = np.isnan(self.values)
        values = np.where(missing, np.float32(np.nan), values)
        figures = measure(self.values, values, codec.grid.area, 0)
        data = self._joined(exponent, coded, _pack_missing(missing), packed, figures)
        return data, replace(figures, stored_bytes=len(data))

    def _joined(self, exponent: int, coded: Coded, missing: bytes, packed: bytes, figures: Figures) -> bytes:
        escapes = zlib.compress(coded.escapes.tobytes(), 9) if coded.escapes.size else b""
        sections = (_pack_phases(self.phases), coded.words.tobytes(), escapes, missing, packed)
        steps, points = self.values.shape
        head = HEAD.pack(
            MAGIC, VERSION, int(self.quality.relative), steps, points, exponent, figures.rmse, figures.largest
        )
        sizes = b"".join(_varint(len(section)) for section in sections)
        whole = head + sizes + b"".join(sections)
        return whole + struct.pack("<I", zlib.crc32(whole))


def _varint(number: int) -> bytes:
    """A number in bytes of seven bits, the lowest first."""
    out = bytearray()
    while True:
        number, low = number >> 7, number & 127
        out.append(low | (128 if number else 0))
        if not number:
            return bytes(out)


def _sections(data: bytes) -> tuple[bytes, list[bytes]]:
    """Head and sections of a chunk whose checksum is right."""
    if len(data) < HEAD.size + SECTIONS + 4 or data[:4] != MAGIC:
        raise _damaged("it does not begin as one")
    if zlib.crc32(data[:-4]) != struct.unpack("<I", data[-4:])[0]:
        raise _damaged("its checksum is another")
    if data[4] != VERSION:
        raise DataError(
            f"found version {data[4]} of the archive codec", f"version {VERSION}", "install a newer fsae to read it"
        )
    place, sizes = HEAD.size, []
    for _ in range(SECTIONS):
        size = shift = 0
        while True:
            byte = data[place]
            place, size, shift = place + 1, size | (byte & 127) << shift, shift + 7
            if byte < 128:
                break
        sizes.append(size)
    ends = np.cumsum([place, *sizes])
    if ends[-1] != len(data) - 4:
        raise _damaged("its parts have other lengths")
    return data[: HEAD.size], [data[a:b] for a, b in pairwise(ends.tolist())]


def _damaged(why: str) -> DataError:
    return DataError(f"found a damaged chunk of the archive codec: {why}", advice="take another copy of the file")


def _unzip(data: bytes, most: int) -> bytes:
    """Bytes of a zlib stream that is not allowed to be longer; b"" of nothing."""
    if not data:
        return b""
    unpacked = zlib.decompressobj()
    found = unpacked.decompress(data, most + 1)
    if len(found) > most or not unpacked.eof:
        raise ValueError("a part swells beyond the chunk")
    return found


def _pack_phases(phases: Ints) -> bytes:
    """The first phase, and the second differences of all, which regular steps make small."""
    return zlib.compress(np.diff(phases, n=2, prepend=[0, 0]).astype("<i2").tobytes(), 9)


def _unpack_phases(data: bytes, steps: int) -> Ints:
    second = np.frombuffer(_unzip(data, 2 * steps), "<i2").astype(np.int64)
    if second.size != steps:
        raise ValueError("phases of another number of steps")
    return np.cumsum(np.cumsum(second)) % PHASE_ONE


def _pack_missing(missing: NDArray[np.bool_]) -> bytes:
    """A bit for each missing value, of one step if all are alike; nothing if none is missing."""
    if not missing.any():
        return b""
    same = bool((missing == missing[0]).all())
    return bytes([same]) + zlib.compress(np.packbits(missing[0] if same else missing).tobytes(), 9)


def _unpack_missing(data: bytes, steps: int, points: int) -> NDArray[np.bool_] | None:
    if not data:
        return None
    rows = 1 if data[0] else steps
    bits = np.frombuffer(_unzip(data[1:], (rows * points + 7) // 8), np.uint8)
    found = np.unpackbits(bits, count=rows * points).astype(bool).reshape(rows, points)
    return np.broadcast_to(found, (steps, points)).copy()
