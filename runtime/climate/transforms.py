"""Transforms of variables that are never negative: learned as a square root, decoded as a square.

Monthly precipitation and total column water are skewed, and their spread grows with their size; the square root makes
them nearly Gaussian with an even spread, and the square of a network's output is never negative. Unlike the other usual
choices it needs no logarithm, which ONNX Runtime computes differently from row to row of a batch.
"""

from collections.abc import Sequence
from typing import Literal

import numpy as np

from fsae.runtime.arrays import F32

Transform = Literal["none", "sqrt"]


def transformed_units(units: str, transform: Transform) -> str:
    """Units of the transformed variable, as UDUNITS writes them.

    >>> transformed_units("kg m-2", "sqrt")
    '(kg m-2)^0.5'
    """
    return units if transform == "none" else f"({units})^0.5"


def forward(values: F32, transforms: Sequence[Transform]) -> F32:
    """Fields (..., variable, pixel) [physical units] as the model sees them; negative values count as 0.

    >>> forward(np.array([[[-1.0, 4.0]]], dtype=np.float32), ["sqrt"]).tolist()
    [[[0.0, 2.0]]]
    """
    out = values.copy()
    for index, transform in enumerate(transforms):
        if transform == "sqrt":
            out[..., index, :] = np.sqrt(np.maximum(out[..., index, :], 0))
    return out


def inverse(values: F32, transforms: Sequence[Transform]) -> F32:
    """Physical fields of transformed ones (..., variable, pixel); never negative under `sqrt`."""
    out = values.copy()
    for index, transform in enumerate(transforms):
        if transform == "sqrt":
            out[..., index, :] = np.square(np.maximum(out[..., index, :], 0))
    return out
