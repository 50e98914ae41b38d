"""Classical codecs on images of fields: SZ3, SPERR, JPEG 2000, ZFP, and rounded bits with Zstandard.

Each takes (step, row, column) of one chunk. Knobs are errors in K wherever the codec's own can be had from one.
"""

import math
from collections.abc import Callable
from typing import Any

import imagecodecs
import numpy as np
from codec_kinds import Codec
from codec_subjects import Subject

from fsae.runtime.arrays import F32, F64

LEAST_DECIBELS = 1.0  # of a signal-to-noise ratio: codecs take zero and less for lossless


def imaged(
    subject: Subject,
    encode: Callable[[F32, float], bytes],
    decode: Callable[[bytes, tuple[int, ...]], F32],
    knobs: tuple[float, float] = (1e-3, 1e3),
    *,
    whole_knobs: bool = False,
) -> Codec:
    """The codec of fields that one of images makes; a single step is an image without an axis of time."""
    image = subject.grid.image
    cell = np.argsort(image.ravel())  # place of each cell in the image

    def shape(steps: int) -> tuple[int, ...]:
        return (steps, *image.shape) if steps > 1 else image.shape

    def encode_fields(values: F32, _: F64, knob: float) -> bytes:
        return encode(np.ascontiguousarray(values[:, image.ravel()]).reshape(shape(len(values))), knob)

    def decode_fields(data: bytes, phases: F64) -> F32:
        steps = len(phases)
        return decode(data, shape(steps)).reshape(steps, -1)[:, cell]

    return Codec(encode=encode_fields, decode=decode_fields, knobs=knobs, whole_knobs=whole_knobs)


def decibels(values: F32, error: float) -> float:
    """Peak signal-to-noise ratio [dB] at a root-mean-square error."""
    spread = max(float(np.ptp(values)), 1e-6)
    return max(20 * math.log10(spread / error), LEAST_DECIBELS)


def sz3(subject: Subject) -> Codec:
    """SZ3 with an absolute bound."""

    def encode(block: F32, knob: float) -> bytes:
        return bytes(imagecodecs.sz3_encode(block, "abs", knob))

    def decode(data: bytes, shape: tuple[int, ...]) -> F32:
        return imagecodecs.sz3_decode(data, shape, np.float32)

    return imaged(subject, encode, decode)


def sperr(subject: Subject) -> Codec:
    """SPERR at a signal-to-noise ratio, in the order of axes that hdf5plugin calls `swap=True` (the same bytes)."""

    def encode(block: F32, knob: float) -> bytes:
        return bytes(imagecodecs.sperr_encode(block, decibels(block, knob), "psnr", numthreads=1))

    def decode(data: bytes, shape: tuple[int, ...]) -> F32:
        return imagecodecs.sperr_decode(data, shape=shape, dtype=np.float32, numthreads=1)

    return imaged(subject, encode, decode)


def jpeg2000(subject: Subject) -> Codec:
    """JPEG 2000 of 16-bit integers between the extremes of a chunk, whose steps are one below the other."""

    def encode(block: F32, knob: float) -> bytes:
        low, high = float(block.min()), max(float(block.max()), float(block.min()) + 1e-6)
        integers = np.round((block.reshape(-1, block.shape[-1]) - low) / (high - low) * 65535).astype(np.uint16)
        level: Any = decibels(block, knob)  # declared as whole, but taken as it is
        stream = imagecodecs.jpeg2k_encode(integers, level, codecformat="j2k", reversible=False, numthreads=1)
        return np.array([low, high], np.float32).tobytes() + bytes(stream)

    def decode(data: bytes, shape: tuple[int, ...]) -> F32:
        low, high = np.frombuffer(data[:8], np.float32)
        integers = imagecodecs.jpeg2k_decode(data[8:], numthreads=1)
        return np.asarray(integers * ((high - low) / 65535) + low, dtype=np.float32).reshape(shape)

    return imaged(subject, encode, decode)


def zfp(subject: Subject) -> Codec:
    """ZFP at an absolute accuracy, which is a power of two: the values are scaled so that any other can be had."""

    def encode(block: F32, knob: float) -> bytes:
        scaled = block / np.float32(knob)
        stream = imagecodecs.zfp_encode(scaled, 1, mode=imagecodecs.ZFP.MODE.FIXED_ACCURACY, numthreads=1)
        return np.float32(knob).tobytes() + bytes(stream)

    def decode(data: bytes, shape: tuple[int, ...]) -> F32:
        scaled = imagecodecs.zfp_decode(data[4:], numthreads=1)
        return np.asarray(scaled * np.frombuffer(data[:4], np.float32)[0], dtype=np.float32).reshape(shape)

    return imaged(subject, encode, decode)


def rounded_bits(subject: Subject) -> Codec:
    """The last bits of the mantissa rounded to zero (Kloewer et al. 2021), bytes shuffled, Zstandard at level 9.

    The knob is the number of those bits, at most 23.
    """

    def encode(block: F32, knob: float) -> bytes:
        bits = round(knob)
        integers = block.view(np.uint32)
        if bits:
            half, mask = np.uint32((1 << (bits - 1)) - 1), np.uint32((0xFFFFFFFF << bits) & 0xFFFFFFFF)
            even = (integers >> np.uint32(bits)) & np.uint32(1)
            integers = (integers + half + even) & mask
        shuffled = integers.reshape(-1).view(np.uint8).reshape(-1, 4).T
        return bytes(imagecodecs.zstd_encode(shuffled.tobytes(), 9))

    def decode(data: bytes, shape: tuple[int, ...]) -> F32:
        shuffled = np.frombuffer(imagecodecs.zstd_decode(data), np.uint8).reshape(4, -1)
        return np.ascontiguousarray(shuffled.T).view(np.float32).reshape(shape)

    return imaged(subject, encode, decode, knobs=(1, 23), whole_knobs=True)
