"""Noise of a member as a pure function of (seed, member, time, draw), whatever the order of the calls (Philox)."""

import numpy as np
from numpy.typing import NDArray


def member_integers(seed: int, member: int, time_index: int, draw: int, count: int) -> NDArray[np.uint64]:
    """`count` raw 64-bit integers of Philox4x64-10 (Salmon et al. 2011) with key (seed, member).

    The counter is (block, draw, time index, 0), each taken modulo 2**64; block counts four integers at a time.

    >>> member_integers(0, 37, 24000, 0, 2).tolist() == member_integers(0, 37, 24000, 0, 4)[:2].tolist()
    True
    """
    words = np.array([word % 2**64 for word in (0, draw, time_index, 0, seed, member)], dtype=np.uint64)
    generator = np.random.Philox(counter=words[:4], key=words[4:])
    raw: NDArray[np.uint64] = generator.random_raw(count)
    return raw


def standard_normal(raw: NDArray[np.uint64]) -> NDArray[np.float32]:
    """Standard normal numbers by Box and Muller (1958), as many as raw integers (..., even), pairs side by side.

    u = (top 53 bits + 1) / 2**53 lies in (0, 1], so the logarithm is finite; computed in float64, given in float32.
    """
    uniform = ((raw.reshape(-1, 2) >> np.uint64(11)) + np.uint64(1)) * 2.0**-53
    radius = np.sqrt(-2 * np.log(uniform[:, 0]))
    angle = 2 * np.pi * uniform[:, 1]
    normal = np.empty(uniform.shape, dtype=np.float32)  # (pair, 2)
    normal[:, 0], normal[:, 1] = radius * np.cos(angle), radius * np.sin(angle)
    return normal.reshape(raw.shape)
