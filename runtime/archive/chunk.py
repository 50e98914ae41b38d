"""The bytes of a chunk: some steps of one variable, which decode alone.

"FSAC", version, flags, steps, points, exponent of the step, RMSE, largest error    fixed, little-endian
phases of the year | words | escapes | missing values | corrections    each after its length
CRC-32 of all that
"""

import struct
import zlib
from dataclasses import dataclass
from itertools import accumulate, pairwise

import numpy as np
from numpy.typing import NDArray

from fsae.runtime.arrays import Ints
from fsae.runtime.errors import DataError

from .entropy import Coded
from .quality import Figures

MAGIC, VERSION = b"FSAC", 1
HEAD = struct.Struct("<4sBBHIhxxff")
SECTIONS = 5
PHASE_ONE = 1 << 12  # parts of a year that phases are rounded to: about two hours
MOST_STEPS = 1024


@dataclass(frozen=True, kw_only=True, eq=False)
class Chunk:
    """What a chunk holds of values (time, point)."""

    points: int
    exponent: int  # of the step
    phases: Ints  # (time), in parts of PHASE_ONE
    coded: Coded
    missing: NDArray[np.bool_] | None  # (time, point)
    corrections: bytes = b""  # for a bound on the error
    relative: bool = False  # the bound is relative
    rmse: float = 0.0
    largest: float = 0.0  # error

    @property
    def shape(self) -> tuple[int, int]:
        """Steps and points."""
        return len(self.phases), self.points

    def to_bytes(self) -> bytes:
        """The bytes, which end in their checksum."""
        escapes = zlib.compress(self.coded.escapes.tobytes(), 9) if self.coded.escapes.size else b""
        words = self.coded.words.tobytes()
        sections = (_pack_phases(self.phases), words, escapes, _pack_missing(self.missing), self.corrections)
        flags, steps = int(self.relative), len(self.phases)
        head = HEAD.pack(MAGIC, VERSION, flags, steps, self.points, self.exponent, self.rmse, self.largest)
        whole = head + b"".join(_varint(len(section)) for section in sections) + b"".join(sections)
        return whole + struct.pack("<I", zlib.crc32(whole))


def chunks_in(data: bytes) -> list[bytes]:
    """The chunks that stand one after the other where steps were appended; DataError if they do not fill `data`."""
    found, place = list[bytes](), 0
    while place < len(data) or not found:
        size = _ends(data, place)[-1] + 4 - place
        found.append(data[place : place + size])
        place += size
    return found


def read_chunk(data: bytes, coefficients: int) -> Chunk:
    """The chunk of bytes whose fields have that many coefficients; DataError if they are damaged or no chunk."""
    head, sections = _sections(data)
    _, _, flags, steps, points, exponent, rmse, largest = HEAD.unpack(head)
    try:
        phases = _unpack_phases(sections[0], steps)
        words = np.frombuffer(sections[1], "<u4")
        escapes = np.frombuffer(_unzip(sections[2], 4 * steps * coefficients), "<i4")
        missing = _unpack_missing(sections[3], steps, points)
    except (ValueError, zlib.error) as error:
        raise _damaged(str(error)) from None
    return Chunk(
        points=points,
        exponent=exponent,
        phases=phases,
        coded=Coded(words=words, escapes=escapes),
        missing=missing,
        corrections=sections[4],
        relative=bool(flags & 1),
        rmse=rmse,
        largest=largest,
    )


def figures_of(data: bytes) -> Figures:
    """The figures that chunks hold of themselves; DataError if one is damaged. The areas of all points are alike."""
    total = Figures()
    for one in chunks_in(data):
        _, _, _, steps, points, _, rmse, largest = HEAD.unpack(_sections(one)[0])
        weight, values = float(steps), steps * points
        total += Figures(squares=rmse**2 * steps, weight=weight, largest=largest, values=values, stored_bytes=len(one))
    return total


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
    ends = _ends(data, 0)
    if ends[-1] != len(data) - 4:
        raise _damaged("its parts have other lengths")
    return data[: HEAD.size], [data[a:b] for a, b in pairwise(ends)]


def _ends(data: bytes, start: int) -> list[int]:
    """Where the sections of the chunk at `start` begin, and where the last one ends, before the checksum."""
    place, sizes = start + HEAD.size, []
    for _ in range(SECTIONS):
        size = shift = 0
        while True:
            if place >= len(data) or shift > 35:
                raise _damaged("it ends too early")
            byte = data[place]
            place, size, shift = place + 1, size | (byte & 127) << shift, shift + 7
            if byte < 128:
                break
        sizes.append(size)
    return list(accumulate(sizes, initial=place))


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


def _pack_missing(missing: NDArray[np.bool_] | None) -> bytes:
    """A bit for each missing value, of one step if all are alike; nothing if none is missing."""
    if missing is None:
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
