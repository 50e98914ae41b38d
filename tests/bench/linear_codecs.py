"""Linear transforms fitted to training years, their coefficients quantised and range-coded: EOFs, and two-stage KLT.

Both are codecs of what is left of a chunk's step after a first-order prediction from the step before, by Gaussian
models whose variances come from the training years.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import constriction
import numpy as np
from codec_kinds import Codec, Unsuitable
from codec_subjects import Subject

from fsae.runtime.arrays import F32, F64, Ints
from fsae.runtime.sphere.healpix import npix, pixel_of

ROUNDING = (
    0.42  # below 0.5: a slightly larger error for a rarer symbol, which pays (0.5, 0.42 and 0.35 tried on 1995-2004)
)
LEFT_OUT = 0.12  # coefficients whose deviation is a smaller part of the step than this are not coded
DEVIATIONS = 8  # of the largest coefficient that symbols reach
LARGEST = 1 << 17  # symbol, which limits the step: symbols share 24 bits of probability
BLOCK_ZOOM = 1  # of the cells inside which the second stage works
COARSE_ZOOM = 3  # of the means that give the first stage its patterns
MOST_PATTERNS = 300  # 150 and 384 tried on 1995-2004: more gain little for their tables
WIDTH_RAD = 0.4  # of the Gaussian that sample covariances are multiplied by
FAR = 0.1  # share of a covariance that is kept at any distance


@dataclass(frozen=True, kw_only=True, eq=False)
class Transform:
    """A linear transform of fields (time, cell), weighted by area, and what is known of its coefficients."""

    forward: Callable[[F32], F32]  # (time, cell) -> (time, coefficient)
    inverse: Callable[[F32], F32]
    variance: F64  # (coefficient)
    tables: int  # bytes


def eight_bits(patterns: F32) -> F32:
    """Patterns (..., number, pattern) as 8-bit integers with one factor a pattern hold them."""
    factor = np.abs(patterns).max(axis=-2, keepdims=True) / 127 + np.float32(1e-12)
    return np.asarray(np.round(patterns / factor) * factor, dtype=np.float32)


def eof(fields: F32) -> Transform:
    """All empirical orthogonal functions of the training fields (time, cell), in float32."""
    values, vectors = np.linalg.eigh((fields @ fields.T).astype(np.float64) / len(fields))
    found = values > 1e-6 * values[-1]
    patterns = fields.T @ (vectors[:, found] / np.sqrt(values[found] * len(fields))).astype(np.float32)
    return Transform(
        forward=lambda x: x @ patterns,
        inverse=lambda c: c @ patterns.T,
        variance=values[found],
        tables=4 * patterns.size,
    )


def nearness(one: F32, other: F32) -> F32:
    """What covariances between points of these unit vectors (point, 3) are multiplied by."""
    cosine = np.minimum(one @ other.T, 1)
    return np.asarray((1 - FAR) * np.exp((cosine - 1) / WIDTH_RAD**2) + FAR, dtype=np.float32)


def leading_patterns(fields: F32, places: F32, members: list[Ints]) -> F32:
    """Patterns (cell, pattern): leading eigenvectors of the localised covariance of means, carried to the cells."""
    means = np.stack([fields[:, cells].mean(axis=1) for cells in members], axis=1)
    centres = np.stack([places[cells].mean(axis=0) for cells in members])
    centres /= np.linalg.norm(centres, axis=1, keepdims=True)
    covariance = (means.T @ means) / len(fields) * nearness(centres, centres)
    values, vectors = np.linalg.eigh(covariance.astype(np.float64))
    last = slice(None, -min(MOST_PATTERNS, len(members) // 2) - 1, -1)
    weights = (vectors[:, last] / values[last]).astype(np.float32)
    patterns = ((fields.T @ means) / len(fields) * nearness(places, centres)) @ weights
    return eight_bits(patterns / np.linalg.norm(patterns, axis=0))


def two_stage_klt(fields: F32, lat_deg: F64, lon_deg: F64) -> Transform:
    """Leading patterns of the whole sphere, then in each cell of `BLOCK_ZOOM` the eigenvectors of what they leave.

    Covariances are those of the training fields (time, cell), localised; all tables are 8-bit.
    """
    lat, lon = np.radians(lat_deg), np.radians(lon_deg)
    places = np.stack([np.cos(lat) * np.cos(lon), np.cos(lat) * np.sin(lon), np.sin(lat)], -1).astype(np.float32)
    coarse = COARSE_ZOOM
    while npix(coarse) * 4 > lat.size:
        coarse -= 1
    members = [np.flatnonzero(pixel_of(coarse, lat_deg, lon_deg) == cell) for cell in range(npix(coarse))]
    patterns = leading_patterns(fields, places, members)
    measure = np.linalg.pinv(patterns)  # (pattern, cell)
    blocks = [np.flatnonzero(pixel_of(BLOCK_ZOOM, lat_deg, lon_deg) == cell) for cell in range(npix(BLOCK_ZOOM))]
    own, across = [], np.empty_like(measure)
    for cells in blocks:
        covariance = (fields.T @ fields[:, cells]) / np.float32(len(fields)) * nearness(places, places[cells])
        across[:, cells] = measure @ covariance
        own.append(covariance[cells])
    first = across @ measure.T
    bases, variances = list[F32](), [np.diag(first).astype(np.float64)]
    for cells, covariance in zip(blocks, own, strict=True):
        part = patterns[cells]
        shared = part @ across[:, cells]
        left = covariance - shared - shared.T + part @ first @ part.T
        values, vectors = np.linalg.eigh(left.astype(np.float64))
        bases.append(eight_bits(vectors[:, ::-1].astype(np.float32)))
        variances.append(np.maximum(values[::-1], 1e-6))
    edges = np.cumsum([patterns.shape[1], *(len(cells) for cells in blocks)])

    def forward(x: F32) -> F32:
        leading = x @ measure.T
        rest = x - leading @ patterns.T
        return np.concatenate([leading, *(rest[:, c] @ basis for c, basis in zip(blocks, bases, strict=True))], axis=1)

    def inverse(coefficients: F32) -> F32:
        x = coefficients[:, : edges[0]] @ patterns.T
        for cells, basis, begin, end in zip(blocks, bases, edges[:-1], edges[1:], strict=True):
            x[:, cells] += coefficients[:, begin:end] @ basis.T
        return x

    return Transform(
        forward=forward,
        inverse=inverse,
        variance=np.concatenate(variances),
        tables=patterns.size + sum(basis.size + 4 * len(basis) for basis in bases) + 4 * patterns.shape[1],
    )


def series_codec(subject: Subject, make: Callable[[F32], Transform]) -> Codec:
    """The codec of a transform fitted to the subject's training fields; the knob is the step of quantisation [K].

    Variances are the mean of what the transform expects and what the training fields have.
    """
    if subject.training is None:
        raise Unsuitable("is fitted to another grid")
    mean = subject.training.mean(axis=0) if subject.kind == "K" else np.zeros(subject.training.shape[1], np.float32)
    scale = np.sqrt(subject.grid.weight).astype(np.float32)
    fields = (subject.training - mean) * scale
    transform = make(fields)
    known = transform.forward(fields).astype(np.float64)
    power = (known**2).mean(axis=0)
    memory = (known[1:] * known[:-1]).mean(axis=0) / np.maximum(power, 1e-12)
    variance = (transform.variance + power) / 2
    reach = DEVIATIONS * float(np.sqrt(variance.max()))

    def symbols_of(step: float) -> tuple[Any, int]:
        """The model of symbols and the largest of them at a step."""
        largest = min(math.ceil(reach / step), LARGEST)
        return constriction.stream.model.QuantizedGaussian(-largest, largest), largest

    def deviations(steps: int, step: float) -> tuple[F64, Ints]:
        """Standard deviation of what is coded, in steps of quantisation (time, coefficient), and places coded."""
        predicted = variance * (1 - memory**2) + memory**2 * np.minimum(step**2 / 12, variance)
        found = np.sqrt(np.concatenate([variance[None], np.repeat(predicted[None], steps - 1, axis=0)])) / step
        return found, np.flatnonzero(found > LEFT_OUT)

    def encode(values: F32, _: F64, knob: float) -> bytes:
        step = float(np.float32(knob))
        coefficients = transform.forward((values - mean) * scale)
        deviation, places = deviations(len(values), step)
        family, largest = symbols_of(step)
        symbols, before = np.zeros(coefficients.shape), np.zeros(coefficients.shape[1])
        for now, symbol, spread in zip(coefficients, symbols, deviation, strict=True):
            rest = (now - memory * before) / step
            size = np.minimum(np.floor(np.abs(rest) + ROUNDING), largest)
            symbol[:] = np.where(spread > LEFT_OUT, np.sign(rest) * size, 0)
            before = memory * before + symbol * step
        coder = constriction.stream.queue.RangeEncoder()
        chosen = symbols.ravel()[places].astype(np.int32)
        coder.encode(chosen, family, np.zeros(chosen.size), deviation.ravel()[places])
        return np.float32(step).tobytes() + bytes(coder.get_compressed())

    def decode(data: bytes, phases: F64) -> F32:
        step = float(np.frombuffer(data[:4], np.float32)[0])
        deviation, places = deviations(len(phases), step)
        family, _ = symbols_of(step)
        decoder = constriction.stream.queue.RangeDecoder(np.frombuffer(data[4:], np.uint32))
        coefficients = np.zeros(deviation.shape)
        coefficients.ravel()[places] = step * decoder.decode(family, np.zeros(places.size), deviation.ravel()[places])
        for time in range(1, len(coefficients)):
            coefficients[time] += memory * coefficients[time - 1]
        return transform.inverse(coefficients.astype(np.float32)) / scale + mean

    extra = 4 * mean.size if subject.kind == "K" else 0
    learned = 2 * 2 * variance.size  # variance and memory in 16 bits
    tables = transform.tables + extra + learned
    return Codec(encode=encode, decode=decode, knobs=(reach / LARGEST, 1e4), tables=tables)


def quantised_eof(subject: Subject) -> Codec:
    """Coefficients of EOFs."""
    return series_codec(subject, eof)


def quantised_klt(subject: Subject) -> Codec:
    """Coefficients of a two-stage Karhunen-Loeve transform."""
    grid = subject.grid
    return series_codec(subject, lambda fields: two_stage_klt(fields, grid.lat_deg, grid.lon_deg))
