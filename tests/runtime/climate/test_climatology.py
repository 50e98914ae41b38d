"""The harmonic climatology: known coefficients come back, and NumPy's least squares agrees."""

import cftime
import numpy as np
import pytest

from fsae.runtime.climate.calendar import year_phase
from fsae.runtime.climate.climatology import evaluate, fit, projection, season
from fsae.runtime.errors import DataError

MONTHS = (np.arange(240) % 12 + 0.5) / 12


def test_season_is_interleaved() -> None:  # oracle: closed form
    expected = [np.cos(0.2 * np.pi), np.sin(0.2 * np.pi), np.cos(0.4 * np.pi), np.sin(0.4 * np.pi)]
    np.testing.assert_allclose(season(np.array([0.1]), 2)[0], expected, rtol=1e-6)  # float32


@pytest.mark.parametrize("harmonics", [0, 1, 4, 5])
def test_known_coefficients_come_back(harmonics: int) -> None:  # oracle: the coefficients the fields were made of
    coefficients = np.random.default_rng(0).normal(size=(2, 1 + 2 * harmonics, 12)).astype(np.float32)
    coefficients[:, 0] += 280
    features = season(MONTHS, harmonics)
    fields = evaluate(coefficients, features)
    np.testing.assert_allclose(fit(fields, MONTHS, harmonics), coefficients, rtol=0, atol=1e-4)  # float32 near 280


def test_fit_is_least_squares() -> None:  # oracle: numpy.linalg.lstsq
    random = np.random.default_rng(1)
    phase = random.uniform(size=150)
    fields = random.normal(size=(150, 2, 12)) + 100
    design = np.concatenate([np.ones((150, 1)), season(phase, 3)], axis=1)
    expected, *_ = np.linalg.lstsq(design, fields.reshape(150, -1), rcond=None)
    found = fit(fields, phase, 3)
    np.testing.assert_allclose(found.transpose(1, 0, 2).reshape(7, -1), expected, rtol=0, atol=2e-5)  # float32 of 100
    in_parts = sum(projection(phase, 3)[:, p] @ fields[p, 0] for p in (slice(0, 99), slice(99, 150)))
    np.testing.assert_allclose(found[0], in_parts, rtol=0, atol=1e-5)


def test_refusals() -> None:
    fields = np.zeros((240, 1, 12), dtype=np.float32)
    with pytest.raises(DataError, match="at most 5 for monthly data"):
        fit(fields, MONTHS, 6)
    dates = [cftime.datetime(1948 + m // 12, m % 12 + 1, 1, calendar="standard") for m in range(240)]
    with pytest.raises(DataError, match="at most 5 for monthly data"):
        fit(fields, year_phase(dates, "1 month"), 6)  # leap years alone make it solvable, and useless
    with pytest.raises(DataError, match="too few for 1 harmonics"):
        fit(fields, np.full(240, 0.5), 1)  # annual means
    with pytest.raises(DataError, match="found 2 steps"):
        fit(fields[:2], MONTHS[:2], 1)
    fields[3, 0, 7] = np.nan
    with pytest.raises(DataError, match="values in 1 pixels"):
        fit(fields, MONTHS, 2)
    with pytest.raises(DataError, match="found 4 season features, expected 2"):
        evaluate(np.zeros((1, 3, 12)), season(MONTHS, 2))
