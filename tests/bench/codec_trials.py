"""A codec on a subject: the knob that gives a ratio of true bytes, and what it costs in error, spectrum and time."""

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from codec_kinds import Codec
from codec_subjects import Subject

from fsae.runtime.arrays import F32, F64
from fsae.runtime.sphere.healpix import zoom_of
from fsae.training.metrics.spectra import power_spectrum

CLOSE = 0.02  # a ratio is hit within this
MOST_TRIALS = 16
FACTOR = 4.0  # between knobs while the ratio is only known from one side
SPECTRA = 12  # fields that spectra are taken of
BANDS = ((1, 8), (9, 16), (17, 32), (33, 64))  # degrees


@dataclass(frozen=True, kw_only=True, eq=False)
class Point:
    """All fields of a subject coded in chunks with one knob."""

    knob: float
    ratio: float  # bytes of float32 over true bytes
    streams: tuple[bytes, ...]
    seconds: float  # CPU time


@dataclass(frozen=True, kw_only=True, eq=False)
class Result:
    """What a codec does at a ratio, in chunks of so many steps; `hit` unless no knob gives the ratio within 2 %."""

    point: Point
    chunk: int
    hit: bool
    rmse: float  # [K], weighted by area
    largest: float  # [K]
    kept: dict[str, float]  # power of anomalies after over before, by degrees
    encode_mb_s: float
    decode_mb_s: float


class Trials:
    """The knobs tried of one codec on one subject in chunks of one length."""

    def __init__(self, codec: Codec, subject: Subject, chunk: int) -> None:
        self.codec, self.subject, self.chunk = codec, subject, chunk
        self.points: list[Point] = []
        steps = subject.values.shape[1]
        self._parts = [slice(first, min(first + chunk, steps)) for first in range(0, steps, chunk)]

    def _try(self, knob: float) -> Point:
        for point in self.points:
            if point.knob == knob:
                return point
        began, values, phases = time.process_time(), self.subject.values, self.subject.phases
        streams = tuple(self.codec.encode(one[part], phases[part], knob) for one in values for part in self._parts)
        seconds = time.process_time() - began
        ratio = values.nbytes / sum(map(len, streams))
        self.points = sorted([*self.points, Point(knob=knob, ratio=ratio, streams=streams, seconds=seconds)], key=_knob)
        return self.points[next(place for place, point in enumerate(self.points) if point.knob == knob)]

    def find(self, wanted: float) -> Point:
        """The point nearest to a ratio: within 2 %, else the first above it, else the largest there is."""
        least, most = self.codec.knobs
        for number in range(MOST_TRIALS):
            above = next((point for point in self.points if point.ratio >= wanted), None)
            below = [p for p in self.points if p.ratio < wanted and (above is None or p.knob < above.knob)]
            for point in (*below[-1:], *([above] if above else [])):
                if is_hit(point, wanted):
                    return point
            if above is None and below and below[-1].knob == most:
                return max(below, key=lambda point: point.ratio)
            if above is not None and not below and above.knob == least:
                return above
            knob = self.codec.first_knob
            if self.points:
                knob = _next_knob(below[-1] if below else None, above, wanted, halve=number % 3 == 2)
            knob = min(max(knob, least), most)
            if self.codec.whole_knobs:
                knob = float(round(knob))
                if above is not None and below and above.knob - below[-1].knob <= 1:
                    return above
                if any(point.knob == knob for point in self.points):
                    knob += 1 if any(point.knob == knob and point.ratio < wanted for point in self.points) else -1
            self._try(knob)
        return next((p for p in self.points if p.ratio >= wanted), self.points[-1])

    def decode(self, point: Point) -> F32:
        """The fields (member, time, cell) of a point."""
        members, found = len(self.subject.values), iter(point.streams)
        phases = self.subject.phases
        return np.stack(
            [np.concatenate([self.codec.decode(next(found), phases[p]) for p in self._parts]) for _ in range(members)]
        )


def _knob(point: Point) -> float:
    return point.knob


def _next_knob(below: Point | None, above: Point | None, wanted: float, *, halve: bool) -> float:
    """The next knob: on the line between two points in logarithms, now and then midway, or further out."""
    if below is None or above is None:
        return below.knob * FACTOR if below is not None else above.knob / FACTOR  # one of them there is
    share = math.log(wanted / below.ratio) / math.log(above.ratio / below.ratio)
    share = 0.5 if halve else min(max(share, 0.05), 0.95)
    return math.exp((1 - share) * math.log(below.knob) + share * math.log(above.knob))


def is_hit(point: Point, wanted: float) -> bool:
    """True if the point's ratio is the one wanted."""
    return abs(point.ratio / wanted - 1) <= CLOSE


def chunk_lengths(steps: int, lengths: Sequence[int]) -> list[int]:
    """The lengths of chunks to try: those up to the number of steps.

    >>> chunk_lengths(100, (1, 12, 60, 120)), chunk_lengths(6, (1, 12, 60, 120))
    ([1, 12, 60, 100], [1, 6])
    """
    return sorted({min(length, steps) for length in lengths})


def power_of(subject: Subject, values: F32) -> F64:
    """Power C_l of anomalies in some fields, spread over all."""
    count = values.shape[0] * values.shape[1]
    chosen = np.unique(np.linspace(0, count - 1, SPECTRA).round().astype(int))
    fields = subject.grid.to_healpix((values - subject.climatology).reshape(count, -1)[chosen])
    return power_spectrum(fields, 2 << zoom_of(fields.shape[-1]))


def kept_power(before: F64, after: F64) -> dict[str, float]:
    """Power after over before, summed over the degrees of each band up to the last degree."""
    degree = np.arange(before.size)
    weight = 2 * degree + 1
    found = {}
    for low, high in BANDS:
        band = (low <= degree) & (degree <= high)
        if band.any():
            found[f"{low}-{high}"] = float((weight * after)[band].sum() / (weight * before)[band].sum())
    return found


def measure(trials: Trials, point: Point, wanted: float, power: F64) -> Result:
    """The result of a point, whose subject has a known power."""
    subject = trials.subject
    began = time.process_time()
    decoded = trials.decode(point)
    seconds = time.process_time() - began
    error = decoded.astype(np.float64) - subject.values
    megabytes = subject.values.nbytes / 1e6
    return Result(
        point=point,
        chunk=trials.chunk,
        hit=is_hit(point, wanted),
        rmse=float(np.sqrt((error**2 * subject.grid.weight).mean())),
        largest=float(np.abs(error).max()),
        kept=kept_power(power, power_of(subject, decoded)),
        encode_mb_s=megabytes / max(point.seconds, 1e-3),
        decode_mb_s=megabytes / max(seconds, 1e-3),
    )


def best_result(
    codec: Codec, subject: Subject, wanted: float, tried: dict[int, Trials], lengths: Sequence[int], power: F64
) -> Result:
    """The smallest error over the lengths of chunks: of those that hit the ratio, else that pass it, else the largest.

    A codec that has chunks of its own takes those. `tried` keeps what was found for other ratios.
    """
    results = []
    for chunk in chunk_lengths(subject.values.shape[1], (codec.chunk,) if codec.chunk else lengths):
        trials = tried.setdefault(chunk, Trials(codec, subject, chunk))
        results.append(measure(trials, trials.find(wanted), wanted, power))
    return min(results, key=lambda one: (_rank(one, wanted), one.rmse))


def _rank(one: Result, wanted: float) -> tuple[int, float]:
    """Smaller is better: the ratio hit, passed, or missed by so much."""
    if one.hit:
        return 0, 0.0
    return (1, 0.0) if one.point.ratio >= wanted else (2, -one.point.ratio)
