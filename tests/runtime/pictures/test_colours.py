"""The ends of colour scales."""

import numpy as np
import pytest

from fsae.runtime.pictures.colours import AROUND_ZERO, FIELD, field_scale, spread_scale

VALUES = np.random.default_rng(5).gamma(2.0, 10.0, 5000) + 250.0


def test_ends_are_quantiles_of_the_field() -> None:  # oracle: NumPy, missing values left out
    scale = field_scale(np.append(VALUES, np.nan), "K", is_difference=False)
    assert (scale.low, scale.high) == tuple(np.quantile(VALUES, [0.01, 0.99]))
    assert (scale.name, scale.extend) == (FIELD, "both")
    spread = spread_scale(VALUES)
    assert (spread.low, spread.high, spread.extend) == (0.0, np.quantile(VALUES, 0.99), "max")


@pytest.mark.parametrize(
    ("values", "units", "is_difference", "centred"),
    [
        (VALUES - 260, "m s-1", False, True),
        (VALUES - 260, "degC", False, False),
        (VALUES - 260, "degC", True, True),
        (VALUES - 252, "m", False, False),  # hardly any below zero
        (VALUES - 252, "K", True, True),
        (VALUES, "K", True, False),  # a difference of one sign
    ],
)
def test_a_scale_around_zero_is_even_on_both_sides(
    values: np.ndarray, units: str, is_difference: bool, centred: bool
) -> None:  # oracle: which values have a middle
    scale = field_scale(values, units, is_difference=is_difference)
    assert (scale.name == AROUND_ZERO) == centred
    if centred:
        assert scale.high == np.abs(np.quantile(values, [0.01, 0.99])).max()
    assert (scale.low == -scale.high) == centred


@pytest.mark.parametrize("value", [0.0, 3.0, -2.0, np.nan])
def test_a_constant_field_has_a_scale(value: float) -> None:  # oracle: an interval around the value
    scale = field_scale(np.full(7, value), "1", is_difference=False)
    assert scale.low < scale.high
    assert np.isnan(value) or scale.low < value < scale.high
    assert scale.extend == "neither"
