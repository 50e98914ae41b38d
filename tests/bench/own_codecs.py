"""The archive codec of fsae as a row of the benchmark."""

import numpy as np
from codec_kinds import Codec, Unsuitable
from codec_subjects import Subject

from fsae.runtime.archive.codec import Codec as ArchiveCodec
from fsae.runtime.archive.lookup import FILE, open_codec
from fsae.runtime.archive.quality import Quality
from fsae.runtime.arrays import F32, F64
from fsae.runtime.codec.archive import STEPS
from fsae.runtime.errors import BundleError, DataError

KNOBS = (4.0, 2048.0)  # ratios
SMALLER = 0.75  # share of a ratio that is tried if a chunk cannot be made that small


def fsae(subject: Subject) -> Codec:
    """Chunks of an archive with `--ratio`, which is the knob; all their bytes count, the checksum too.

    An archive removes a climatology by itself, so it takes anomalies only: they are coded about a climatology of zero,
    which gives the bytes of the fields about that of the subject. The time to encode is that of the search for the
    ratio, and of decoding what was written, as in `fsae-run compress`.
    """
    if subject.kind == "K":
        raise Unsuitable("removes the climatology itself")
    if subject.bundle is None:
        raise Unsuitable("has no bundle with its tables")
    try:
        shipped = open_codec(subject.bundle, "tas", subject.grid.axes)
    except BundleError as error:
        raise Unsuitable(f"has no tables for this grid: {error}") from None
    codec = ArchiveCodec(tables=shipped.tables, climatology=np.zeros_like(shipped.climatology[:1]), grid=shipped.grid)

    def encode(values: F32, phases: F64, knob: float) -> bytes:
        ratio = knob
        while True:
            try:
                return codec.encode(values, phases, Quality(ratio=ratio))[0]
            except DataError:  # a short chunk, whose head is not small enough
                if ratio <= KNOBS[0]:
                    raise
                ratio = max(SMALLER * ratio, KNOBS[0])

    return Codec(
        encode=encode,
        decode=lambda data, phases: codec.decode(data),
        knobs=KNOBS,
        first_knob=16.0,
        chunk=STEPS,
        tables=subject.bundle.manifest.files[FILE].size,
    )
