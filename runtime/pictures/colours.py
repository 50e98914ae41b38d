"""Colours of maps: a sequential scale, or a diverging one around zero, between quantiles of the values shown.

viridis and magma (van der Walt and Smith 2015) are even in lightness and hue for all kinds of colour vision; RdBu
(Brewer 2003) is even on both sides of white.
"""

from dataclasses import dataclass

import numpy as np

from fsae.runtime.arrays import F64

FIELD, SPREAD, AROUND_ZERO = "viridis", "magma_r", "RdBu_r"
SHARES = (0.01, 0.99)  # quantiles that are the ends of the scale
BOTH_SIDES = 0.1  # least share of the smaller side of zero in the larger, for a scale around zero
SCALES_OF_TEMPERATURE = ("degC", "degF", "C", "F", "Celsius", "celsius")  # whose zero is no middle


@dataclass(frozen=True, kw_only=True)
class Scale:
    """The colours of a map: the name of a colour map, and the values at its ends, beyond which others may lie."""

    name: str
    low: float
    high: float
    below: bool  # there are values below `low`
    above: bool

    @property
    def extend(self) -> str:
        """The ends of the colour bar that are pointed, as matplotlib has it."""
        return {(False, False): "neither", (True, False): "min", (False, True): "max"}.get(
            (self.below, self.above), "both"
        )


def field_scale(values: F64, units: str, *, is_difference: bool) -> Scale:
    """The scale of a field (point,): around zero if it is a difference or has values of either sign.

    The zero of a scale of temperature is no middle, unless the field is a difference.
    """
    low, high = _ends(values)
    small, large = sorted((abs(low), abs(high)))
    has_middle = is_difference or units.replace("deg_", "deg").replace("degrees_", "deg") not in SCALES_OF_TEMPERATURE
    if has_middle and low < 0 < high and (is_difference or small >= BOTH_SIDES * large):
        return _scale(AROUND_ZERO, -large, large, values)
    return _scale(FIELD, low, high, values)


def spread_scale(values: F64) -> Scale:
    """The scale of a standard deviation (point,), from zero."""
    return _scale(SPREAD, 0.0, _ends(values)[1], values)


def _ends(values: F64) -> tuple[float, float]:
    there = values[np.isfinite(values)]
    low, high = np.quantile(there, SHARES) if there.size else (0.0, 1.0)
    return float(low), float(high)


def _scale(name: str, low: float, high: float, values: F64) -> Scale:
    if not high > low:  # a constant field
        low, high = low - max(abs(low) * 1e-3, 1e-9), high + max(abs(high) * 1e-3, 1e-9)
    there = values[np.isfinite(values)]
    return Scale(name=name, low=low, high=high, below=bool((there < low).any()), above=bool((there > high).any()))
