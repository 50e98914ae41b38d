"""The archive codec of one variable: values to the bytes of a chunk of a quality, and back.

Decoded values are climatology plus synthesised anomalies, interpolated to the grid, plus corrections where a bound on
the error was asked for. Every sum on the way is exact or of a fixed order, so they are the same on every machine.
"""

import math
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from fsae.runtime.arrays import F32, F64, Ints
from fsae.runtime.errors import DataError
from fsae.runtime.sphere.interpolated_grid import InterpolatedGrid

from . import corrections
from .chunk import MOST_STEPS, PHASE_ONE, Chunk, chunks_in, read_chunk
from .entropy import Decoder, classify, deviations, encode
from .quality import Figures, Quality, measure
from .tables import OCTAVE, CodecTables
from .transform import FINER, analyse, step_of, synthesise
from .trials import Trials, furthest

MOST_SPREADS = 1000.0  # of an anomaly, in typical ones
FINEST, COARSEST = -14 * OCTAVE, 9 * OCTAVE  # exponents of steps, around the deviation of the anomalies
TRIES = 6  # chunks that are coded in search of a step, at most
NEAR = 0.97  # of the error that is asked for: nearer is not searched
SAFE = 1.001  # of an error that was found, since the next step differs


@dataclass(frozen=True, kw_only=True, eq=False)
class Codec:
    """Encoder and decoder of one variable on one grid: `climatology` (1 + 2K, point) and the tables of a bundle."""

    tables: CodecTables
    climatology: F32
    grid: InterpolatedGrid

    @cached_property
    def _quantum(self) -> float:
        """What climatologies are rounded to: a power of two, far below the smallest step."""
        return 2.0 ** (int(np.floor(self.typical / OCTAVE)) - 14)

    @cached_property
    def typical(self) -> int:
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
        far = MOST_SPREADS * 2.0 ** (self.typical / OCTAVE)  # what no field has is left to corrections
        cells = self.grid.fit(np.clip(np.where(np.isfinite(anomalies), anomalies, 0.0), -far, far))
        left = 0.0
        if self.grid.forth is not None:
            made = self.grid.interpolate(cells).astype(np.float32)
            left = measure(anomalies.astype(np.float32), made, self.grid.area, 0).rmse
        trials = Trials(self.tables, analyse(self.tables, cells), cells=cells.size, left=left)
        draft = _Encoder(self, values, expected, phases, trials).best(quality)
        data = draft.chunk.to_bytes()
        self._check(data, draft)
        return data, replace(draft.figures, stored_bytes=len(data))

    def decode(self, data: bytes) -> F32:
        """Values (time, point) of chunks' bytes; DataError if they are damaged or no chunks of this codec."""
        return np.concatenate([self._decoded(one) for one in chunks_in(data)])

    def _decoded(self, data: bytes) -> F32:
        chunk = read_chunk(data, self.tables.entries.size)
        if chunk.points != self.grid.area.size:
            raise DataError(
                f"found a chunk of {chunk.points} points",
                f"{self.grid.area.size}",
                "give the grid that it was written on",
            )
        return self.finished(chunk, self.synthesise(self._symbols(chunk), chunk.exponent, self.expected(chunk.phases)))

    def synthesise(self, symbols: NDArray[np.integer], exponent: int, expected: F64) -> F64:
        """Points (time, point) of symbols (frequency, coefficient), without corrections."""
        anomalies = synthesise(self.tables, symbols) * (step_of(exponent) / FINER)
        return self.grid.interpolate(anomalies) + expected

    def finished(self, chunk: Chunk, made: F64) -> F32:
        """Values (time, point) of synthesised points: with the corrections and the missing values of a chunk."""
        values = corrections.applied(chunk.corrections, made, relative=chunk.relative)
        if chunk.missing is not None:
            values[chunk.missing] = np.nan
        return values

    def _symbols(self, chunk: Chunk) -> NDArray[np.int32]:
        """Symbols (frequency, coefficient) that a chunk codes."""
        decoder = Decoder(chunk.coded.words)
        correction = decoder.corrections(int(self.tables.groups.max()) + 1)
        classes = classify(self.tables, deviations(self.tables, len(chunk.phases)), correction, chunk.exponent)
        return decoder.symbols(self.tables, classes, chunk.coded.escapes)

    def _check(self, data: bytes, draft: "_Draft") -> None:
        """DataError unless bytes hold what they were made of, from which decoded values follow by fixed sums."""
        wanted, found = draft.chunk, read_chunk(data, self.tables.entries.size)
        facts = [(one.exponent, one.relative, one.corrections, one.missing is None) for one in (found, wanted)]
        same = facts[0] == facts[1] and np.array_equal(found.phases, wanted.phases)
        if found.missing is not None and wanted.missing is not None:
            same = same and np.array_equal(found.missing, wanted.missing)
        if not same or not np.array_equal(self._symbols(found), draft.symbols):
            raise DataError(
                "the archive codec did not decode what it wrote",
                advice="run `fsae-run doctor` and report what it says",
            )


@dataclass(frozen=True, kw_only=True, eq=False)
class _Draft:
    """A chunk of some step, and what came of it."""

    chunk: Chunk
    symbols: NDArray[np.int32]
    figures: Figures


@dataclass(frozen=True, eq=False)
class _Encoder:
    """The search for the step of a chunk: steps are tried by what they would cost and lose, and few are coded."""

    codec: Codec
    values: F32
    expected: F64
    phases: Ints
    trials: Trials

    def best(self, quality: Quality) -> _Draft:
        """The chunk of fewest bytes, or of the least error for a ratio, of those that keep a promise."""
        if quality.ratio:
            return self._of_size(4 * self.values.size / quality.ratio)
        if quality.rmse:
            return self._of_rmse(quality.rmse)
        scale = float(np.nanmedian(np.abs(self.values))) if quality.relative else 1.0
        return self._of_bound(quality, quality.max_error * scale)

    def _range(self) -> tuple[int, int]:
        """The finest and the coarsest exponent."""
        return self.codec.typical + FINEST, self.codec.typical + COARSEST

    def _of_size(self, most_bytes: float) -> _Draft:
        """The finest step whose chunk has at most that many bytes; DataError if there is none."""
        low, high = self._range()
        beside = 64.0  # bytes around those of the coder

        def slack(fineness: int) -> float:
            return OCTAVE * math.log2(most_bytes / (self.trials.size(-fineness) + beside))

        for _ in range(TRIES):
            finest = furthest(slack, -self.codec.typical, -high, -low)
            if finest is None:
                break
            chunk, symbols = self._coded(-finest)
            if len(chunk.to_bytes()) <= most_bytes:
                return self._measured(chunk, symbols, self._made(symbols, -finest))
            beside = len(chunk.to_bytes()) - self.trials.size(-finest) + 4.0
        raise DataError(
            f"found no step of the archive codec that gives a ratio of {4 * self.values.size / most_bytes:g}",
            advice="ask for a smaller ratio, or give longer chunks",
        )

    def _of_rmse(self, rmse: float) -> _Draft:
        """The coarsest step whose error is at most that; with corrections where no step reaches it."""
        low, high = self._range()
        share = 1.0  # error found over error expected
        best: tuple[int, F64] | None = None
        start = int(np.round(math.log2(rmse) * OCTAVE)) + 2 * OCTAVE

        def slack(exponent: int) -> float:
            return OCTAVE * math.log2(rmse / (share * self.trials.error(exponent)))

        for _ in range(TRIES):
            exponent = furthest(slack, start, low, high)
            if exponent is None or (best and best[0] >= exponent):
                break
            made = self._made(self.trials.symbols(self.trials.trial(exponent)), exponent)
            found = measure(self.values, made.astype(np.float32), self.codec.grid.area, 0).rmse
            if found <= rmse:
                best = exponent, made
                if found > NEAR * rmse:
                    break
            start, share = exponent, SAFE * found / self.trials.error(exponent)
        return self._measured(*self._coded(best[0]), best[1]) if best else self._corrected_to(rmse)

    def _corrected_to(self, rmse: float) -> _Draft:
        """A chunk with corrections everywhere, for errors smaller than the transform on this grid reaches."""
        bound = rmse * 1.7  # a uniform error of that bound has rmse = bound / sqrt(3)
        for _ in range(TRIES):
            draft = self._of_bound(Quality(max_error=bound), bound)
            if draft.figures.rmse <= rmse:
                return draft
            bound *= 0.9 * rmse / draft.figures.rmse
        raise DataError(
            f"found no way to an error of {rmse:g} in float32", advice="ask for a larger error, or for no loss"
        )

    def _of_bound(self, quality: Quality, half: float) -> _Draft:
        """A chunk with corrections, of the step for the fewest bytes; `half` is the bound for a typical value."""
        low, high = self._range()
        middle = min(max(int(np.round(math.log2(max(half, 1e-30)) * OCTAVE)), low), high)
        chunk, symbols = self._coded(min(max(self.trials.cheapest(middle, half, self.values.size), low), high))
        made = self._made(symbols, chunk.exponent)
        packed = corrections.found(quality, self.values, made)
        return self._measured(replace(chunk, corrections=packed, relative=quality.relative), symbols, made)

    def _coded(self, exponent: int) -> tuple[Chunk, NDArray[np.int32]]:
        """A chunk of that step without figures, and its symbols."""
        trial = self.trials.trial(exponent)
        symbols, missing = self.trials.symbols(trial), np.isnan(self.values)
        chunk = Chunk(
            points=self.values.shape[1],
            exponent=exponent,
            phases=self.phases,
            coded=encode(self.codec.tables, symbols, self.trials.classes(trial), trial.corrections),
            missing=missing if missing.any() else None,
        )
        return chunk, symbols

    def _made(self, symbols: NDArray[np.int32], exponent: int) -> F64:
        """Synthesised points (time, point)."""
        return self.codec.synthesise(symbols, exponent, self.expected)

    def _measured(self, chunk: Chunk, symbols: NDArray[np.int32], made: F64) -> _Draft:
        """The chunk with its figures."""
        figures = measure(self.values, self.codec.finished(chunk, made), self.codec.grid.area, 0)
        chunk = replace(chunk, rmse=figures.rmse, largest=figures.largest)
        return _Draft(chunk=chunk, symbols=symbols, figures=figures)
