"""The seasonal bias of a coarser source: kept where training steps tell it, taken back where they do not."""

from collections.abc import Iterator

import numpy as np
import pytest

from fsae.runtime.arrays import F64
from fsae.runtime.climate import climatology
from fsae.training.data.seasonal_bias import Parts, seasonal_bias

DAYS, PIXELS = 220, 400
PHASE = 0.17 + np.arange(DAYS) / 365  # from March to October


def in_parts(values: F64, size: int = 64) -> Parts:
    """The steps (time, variable, pixel) in parts of a size."""

    def parts() -> Iterator[tuple[slice, F64]]:
        for first in range(0, len(values), size):
            steps = slice(first, min(first + size, len(values)))
            yield steps, values[steps]

    return parts


def weather(memory: float, seed: int = 0) -> F64:
    """Departures (time, 1, pixel) of unit variance that resemble the day before."""
    rng = np.random.default_rng(seed)
    values = np.empty((DAYS, 1, PIXELS))
    values[0] = rng.normal(size=(1, PIXELS))
    for day in range(1, DAYS):
        values[day] = memory * values[day - 1] + np.sqrt(1 - memory**2) * rng.normal(size=(1, PIXELS))
    return values


@pytest.mark.parametrize("memory", [0.0, 0.7])
def test_weather_alone_gives_no_season(memory: float) -> None:  # oracle: there is none; plain least squares finds one
    values = weather(memory)
    plain = np.square(np.tensordot(climatology.projection(PHASE, 1)[1:], values, axes=1)).sum()
    assert np.square(seasonal_bias(in_parts(values), PHASE)).sum() < 0.1 * plain


def test_a_season_is_found_in_weather() -> None:
    # oracle: Stein's estimate of vectors: its squares are those that are there, within the error of a chance sum
    truth = np.random.default_rng(1).normal(size=(2, 1, PIXELS))
    values = weather(0.7) + np.tensordot(climatology.season(PHASE, 1).astype(np.float64), truth, axes=1) + 3.0
    found = seasonal_bias(in_parts(values), PHASE)
    plain = np.tensordot(climatology.projection(PHASE, 1)[1:], values, axes=1)
    assert np.square(found - truth).mean() < 0.95 * np.square(plain - truth).mean()
    slope = float((found * plain).sum() / np.square(plain).sum())
    noise = np.square(plain - truth).sum() / np.square(plain).sum()
    assert slope == pytest.approx(1 - noise, abs=0.1)


def test_parts_of_any_size_give_the_same() -> None:  # oracle: the whole at once; days beside each other across parts
    values = weather(0.9) + np.tensordot(climatology.season(PHASE, 1), np.ones((2, 1, PIXELS)), axes=1)
    whole = seasonal_bias(in_parts(values, DAYS), PHASE)
    np.testing.assert_allclose(seasonal_bias(in_parts(values, 7), PHASE), whole, atol=1e-12)


def test_a_month_tells_no_season() -> None:  # oracle: a wave of a year is not known from 30 days
    values = weather(0.0)[:30]
    assert np.array_equal(seasonal_bias(in_parts(values), PHASE[:30]), np.zeros((2, 1, PIXELS)))
