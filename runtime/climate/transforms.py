"""Transforms of variables that are never negative: learned as a root, decoded as its power.

Precipitation and total column water are skewed, and their spread grows with their size. Roots of them are nearly
Gaussian with an even spread, and the power of a network's output is never negative: a root below 0 is a dry place.
Monthly means need the square root; daily precipitation, with dry days, needs the fourth root. A Gaussian fitted to each
pixel's days of a general circulation model has 1 mm or more in 42 % of them if it is one of square roots, in 31 % if of
fourth roots; the model has 32 %.

Square roots of square roots need no logarithm and no power, which ONNX Runtime computes differently from row to row of
a batch.
"""

from collections.abc import Sequence
from typing import Literal

import numpy as np

from fsae.runtime.arrays import F32

Transform = Literal["none", "sqrt", "fourth_root"]
SQUARE_ROOTS: dict[Transform, int] = {"none": 0, "sqrt": 1, "fourth_root": 2}  # one after the other


def transformed_units(units: str, transform: Transform) -> str:
    """Units of the transformed variable, as UDUNITS writes them.

    >>> transformed_units("kg m-2", "sqrt"), transformed_units("mm day-1", "fourth_root")
    ('(kg m-2)^0.5', '(mm day-1)^0.25')
    """
    return units if transform == "none" else f"({units})^{0.5 ** SQUARE_ROOTS[transform]}"


def forward(values: F32, transforms: Sequence[Transform]) -> F32:
    """Fields (..., variable, pixel) [physical units] as the model sees them; negative values of a root count as 0.

    >>> forward(np.array([[[-1.0, 4.0], [0.0, 16.0]]], dtype=np.float32), ["sqrt", "fourth_root"]).tolist()
    [[[0.0, 2.0], [0.0, 2.0]]]
    """
    out = values.copy()
    for index, transform in enumerate(transforms):
        for _ in range(SQUARE_ROOTS[transform]):
            out[..., index, :] = np.sqrt(np.maximum(out[..., index, :], 0))
    return out


def inverse(values: F32, transforms: Sequence[Transform]) -> F32:
    """Physical fields of transformed ones (..., variable, pixel); never negative if they are roots, 0 where these are.

    >>> inverse(np.array([[[-0.5, 2.0]]], dtype=np.float32), ["fourth_root"]).tolist()
    [[[0.0, 16.0]]]
    """
    out = values.copy()
    for index, transform in enumerate(transforms):
        for _ in range(SQUARE_ROOTS[transform]):
            out[..., index, :] = np.square(np.maximum(out[..., index, :], 0))
    return out
