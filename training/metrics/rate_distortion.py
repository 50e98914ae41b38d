"""Rate and distortion of the archive codec: the errors of its chunks at several sizes, in their true bytes."""

from collections.abc import Sequence

import numpy as np

from fsae.runtime.archive.codec import Codec
from fsae.runtime.archive.quality import Figures, Quality
from fsae.runtime.arrays import F32, F64
from fsae.runtime.errors import DataError

RATIOS = (8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0)
STEPS = 60  # of a chunk, as archives have them


def rate_distortion(codec: Codec, values: F32, phase: F64, ratios: Sequence[float] = RATIOS) -> F64:
    """Ratio to float32, RMSE, largest error and bits per value, (point, 4), of values (time, point) at their phases.

    Errors are in the unit of the values; ratio and bits are those of the bytes of all chunks. A ratio that a chunk
    cannot reach is left out.
    """
    found = []
    for ratio in ratios:
        try:
            parts = [
                codec.encode(values[start : start + STEPS], phase[start : start + STEPS], Quality(ratio=ratio))[1]
                for start in range(0, len(values), STEPS)
            ]
        except DataError:  # a chunk of few steps, whose head alone is larger
            continue
        whole = sum(parts, Figures())
        found.append((whole.ratio, whole.rmse, whole.largest, whole.bits_per_value))
    return np.array(found).reshape(-1, 4)
