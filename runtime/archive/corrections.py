"""Corrections of decoded values that make a bound on the error hold: integers for many points, exact values for few."""

import struct
import zlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fsae.runtime.arrays import F32, F64, Ints
from fsae.runtime.errors import DataError

from .quality import Quality

MOST = 120  # largest correction with a frequency of its own
BESIDE = 2 * MOST + 1  # symbol of a point whose value is stored exactly
ROUNDING = 2.0**-22  # of a value, that float32 arithmetic may add to an error


def tolerance(quality: Quality, decoded: F64) -> F64 | float:
    """Half of the step of corrections at each point (time, point), from decoded values alone.

    With |x - d| <= r |d| / (1 + r) the error is at most r |x|.
    """
    share = 1 - 2.0**-10
    if quality.relative:
        return np.abs(decoded) * (quality.max_error / (1 + quality.max_error) * share) - np.abs(decoded) * ROUNDING
    return np.maximum(quality.max_error * share - np.abs(decoded) * ROUNDING, 0.0)


def corrected(decoded: F64, steps: Ints, half: F64 | float) -> F32:
    """Values (time, point) in float32 with the corrections applied."""
    return (decoded + steps * (2.0 * half)).astype(np.float32)


def found(quality: Quality, values: F32, decoded: F64) -> bytes:
    """Bytes of the corrections that make a bound hold for values (time, point), the bound in front.

    Points that only exact values make right have those; values that are missing have no correction.
    """
    half = np.asarray(tolerance(quality, decoded))
    with np.errstate(all="ignore"):
        steps = np.where(half > 0, np.round((values - decoded) / (2.0 * np.where(half > 0, half, 1.0))), MOST + 1)
        steps = np.where(np.isnan(values), 0.0, steps)
        far = ~(np.abs(steps) <= MOST)
        steps = np.where(far, 0.0, steps)
        made = corrected(decoded, steps.astype(np.int64), half)
        far |= ~np.isnan(values) & ~within(quality, values, made)
    places = np.flatnonzero(far)
    return struct.pack("<d", quality.max_error) + pack(steps.astype(np.int64), places, values.reshape(-1)[places])


def applied(data: bytes, decoded: F64, *, relative: bool) -> F32:
    """Values (time, point) in float32 of decoded ones, with the corrections in `data` if there are any.

    DataError if the bytes are damaged.
    """
    if not data:
        return decoded.astype(np.float32)
    bound = struct.unpack("<d", data[:8])[0]
    half = tolerance(Quality(max_error=bound, relative=relative), decoded)
    steps, places, exact = unpack(data[8:], decoded.shape)
    values = corrected(decoded, steps, half)
    values.reshape(-1)[places] = exact
    return values


def within(quality: Quality, values: F32, made: F32) -> NDArray[np.bool_]:
    """Where the bound holds."""
    limit = quality.max_error * (np.abs(values.astype(np.float64)) if quality.relative else 1.0)
    good: NDArray[np.bool_] = np.abs(values.astype(np.float64) - made) <= limit
    return good


def pack(steps: Ints, places: NDArray[np.intp], exact: F32) -> bytes:
    """Bytes of corrections: their frequencies, words of a range coder, and the exact values."""
    import constriction  # start-up time

    symbols = (steps.reshape(-1) + MOST).astype(np.int32)
    counts = np.bincount(symbols, minlength=BESIDE)
    table = zlib.compress(np.ceil(counts * (65000.0 / max(counts.max(), 1))).astype("<u2").tobytes(), 9)
    coder = constriction.stream.queue.RangeEncoder()
    coder.encode(symbols, _model(_frequencies(table)))
    words = coder.get_compressed().astype("<u4").tobytes()
    gaps = np.diff(places, prepend=0).astype("<u4").tobytes()
    beside = zlib.compress(gaps + exact.astype("<f4").tobytes(), 9) if places.size else b""
    sizes = np.array([len(table), len(words), len(beside)], "<u4").tobytes()
    return b"".join((sizes, table, words, beside))


def unpack(data: bytes, shape: tuple[int, int]) -> tuple[Ints, NDArray[np.intp], F32]:
    """The inverse of `pack`; DataError if the bytes are damaged."""
    import constriction

    try:
        sizes = np.frombuffer(data[:12], "<u4").astype(np.int64)
        table_end, words_end, end = (12 + np.cumsum(sizes)).tolist()
        words = np.frombuffer(data[table_end:words_end], "<u4").astype(np.uint32)
        decoder = constriction.stream.queue.RangeDecoder(words)
        symbols = decoder.decode(_model(_frequencies(data[12:table_end])), shape[0] * shape[1])
        beside = zlib.decompressobj().decompress(data[words_end:end], 8 * symbols.size) if end > words_end else b""
        half = len(beside) // 2
        places = np.cumsum(np.frombuffer(beside[:half], "<u4").astype(np.intp))
        exact = np.frombuffer(beside[half:], "<f4").astype(np.float32)
        if places.size and places[-1] >= symbols.size:
            raise ValueError("a place outside the chunk")
    except (ValueError, AssertionError, zlib.error) as error:
        raise DataError(
            f"found damaged corrections in a chunk ({error})",
            advice="take another copy of the file",
        ) from None
    return symbols.reshape(shape).astype(np.int64) - MOST, places, exact


def _frequencies(table: bytes) -> NDArray[np.uint16]:
    unpacked = zlib.decompressobj().decompress(table, 2 * BESIDE + 1)
    if len(unpacked) != 2 * BESIDE:
        raise ValueError("frequencies of another length")
    return np.frombuffer(unpacked, "<u2")


def _model(frequency: NDArray[Any]) -> Any:
    import constriction

    return constriction.stream.model.Categorical(frequency.astype(np.float64), perfect=False)
