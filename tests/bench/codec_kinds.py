"""The record of a codec in the benchmark."""

from collections.abc import Callable
from dataclasses import dataclass

from codec_subjects import Subject

from fsae.runtime.arrays import F32, F64


class Unsuitable(Exception):
    """A codec cannot take a subject, for the reason in its message."""


@dataclass(frozen=True, kw_only=True)
class Codec:
    """A codec for one subject.

    `encode` takes values (time, cell), their phases of the year and a knob that makes fewer bytes the larger it is,
    between the two `knobs`; `decode` takes the bytes and the number of steps. `tables` are the bytes that a reader
    must have besides, the climatology of anomalies left out. With `whole_knobs` the knob is rounded. `chunk` is the
    number of steps in its chunks, 0 if all lengths are to be tried, and `first_knob` the one to begin with.
    """

    encode: Callable[[F32, F64, float], bytes]
    decode: Callable[[bytes, F64], F32]
    knobs: tuple[float, float] = (1e-4, 1e3)
    tables: int = 0
    whole_knobs: bool = False
    first_knob: float = 0.5
    chunk: int = 0


Maker = Callable[[Subject], Codec]  # raises Unsuitable
