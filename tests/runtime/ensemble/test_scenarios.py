"""Scenarios of the forcing: what a name, a year and a series of watts stand for."""

import cftime
import numpy as np
import pytest
import xarray as xr

from fsae.runtime.bundle.manifest import Forcing
from fsae.runtime.climate.scenarios import Scenarios, responded
from fsae.runtime.ensemble.forcing import (
    Named,
    Series,
    forcing_at,
    forcing_coordinate,
    forcing_note,
    forcing_record,
    read_forcing,
)
from fsae.runtime.errors import DataError, UsageError

TAU = 3.9
YEARS = np.arange(1990, 2021)
STEP = np.where(YEARS < 2000, 1.0, 3.0)  # W m-2
SCENARIOS = Scenarios(
    years=YEARS.astype(np.float64), values={"historical": STEP, "ssp245": np.full(31, 2.0)}, response_years=TAU
)
KNOWN = Forcing(
    name="effective radiative forcing",
    units="W m-2",
    range=(0.0, 2.0),
    scenarios=("historical", "ssp245"),
    response_years=TAU,
)


def months(year: int, count: int) -> list[cftime.datetime]:
    return [cftime.datetime(year + m // 12, m % 12 + 1, 1, calendar="noleap") for m in range(count)]


def at(given: object, stamps: list[cftime.datetime]) -> np.ndarray:
    choice = read_forcing(given, KNOWN, "noleap", SCENARIOS)
    return forcing_at(choice, stamps, "1 month", "time: mean", len(stamps))


def test_a_step_is_responded_to_exponentially() -> None:  # oracle: the closed form, 1 - exp(-t / tau)
    found = SCENARIOS.at("historical", YEARS + 0.5)
    after = np.clip(YEARS - 1999, 0, None)
    np.testing.assert_allclose(found, 1 + 2 * (1 - np.exp(-after / TAU)), rtol=1e-12)
    np.testing.assert_array_equal(SCENARIOS.at("ssp245", YEARS + 0.2), 2.0)
    np.testing.assert_array_equal(responded(YEARS, STEP, 0.0), STEP)


def test_response_does_not_depend_on_how_often_a_constant_is_given() -> None:  # oracle: fewer dates
    often = np.array([0.0, 0.25, 0.5, 1.0, 3.0])
    found = responded(often, np.array([1.0, 5.0, 5.0, 5.0, 5.0]), TAU)
    seldom = responded(np.array([0.0, 3.0]), np.array([1.0, 5.0]), TAU)
    np.testing.assert_allclose(found[-1], seldom[-1], rtol=1e-12)


def test_names_years_and_constants(monkeypatch: pytest.MonkeyPatch) -> None:
    stamps = months(2003, 24)
    middles = [2003 + (m + 0.5) / 12 for m in range(24)]  # to two days
    expected = SCENARIOS.at("historical", middles)
    for given in (None, "historical"):  # oracle: the scenario at the middles of months
        np.testing.assert_allclose(at(given, stamps), expected, atol=2e-3)
    np.testing.assert_array_equal(at("ssp245", stamps), np.float32(2.0))
    for given in (2003.5, "2003.5"):  # oracle: the scenario in that year
        np.testing.assert_allclose(at(given, stamps), SCENARIOS.at("historical", [2003.5])[0], rtol=1e-6)
    np.testing.assert_array_equal(at("1.25", stamps), np.float32(1.25))  # oracle: the number
    assert forcing_record(read_forcing("ssp245", KNOWN, "noleap", SCENARIOS)) == "ssp245"
    with pytest.raises(DataError, match=r"'ssp370', expected one of historical, ssp245, a number in the unit 'W m-2'"):
        at("ssp370", stamps)
    with pytest.raises(DataError, match=r"'historical' is known from 1990 to 2020, found 1989"):
        at(None, months(1989, 12))


def test_steps_after_those_asked_for_need_no_forcing() -> None:  # oracle: the last value is held
    found = forcing_at(Named(name="historical", scenarios=SCENARIOS), months(2020, 24), "1 month", "time: mean", 12)
    np.testing.assert_array_equal(found[12:], found[11])


def test_a_series_of_watts_is_responded_to_but_not_twice() -> None:
    dates = [cftime.datetime(year, 7, 2, 12, calendar="noleap") for year in YEARS]
    data = xr.Dataset({"erf": ("time", STEP, {"units": "W m-2"})}, coords={"time": dates})
    stamps = months(2001, 36)
    found = at(data, stamps)
    np.testing.assert_allclose(found, at("historical", stamps), rtol=1e-5)  # oracle: the scenario of the same values
    own = forcing_coordinate(KNOWN, found)
    coordinate = xr.DataArray(found, dims="time", attrs=dict(own.attributes), coords={"time": stamps})
    first = xr.Dataset({"tas": (("time", "cell"), np.zeros((36, 2)))}, coords={"forcing": coordinate})
    choice = read_forcing(first, KNOWN, "noleap", SCENARIOS)
    assert isinstance(choice, Series)
    np.testing.assert_array_equal(choice.values.astype(np.float32), found)  # oracle: the forcing of that ensemble


def test_beyond_the_training_range_is_told_and_far_beyond_refused() -> None:
    (note,) = forcing_note_of(3.0)
    assert "outside the 0.00 to 2.00 the model was trained on: the mean climate follows it at the rate of" in note
    assert forcing_note_of(1.5) == ()
    with pytest.raises(UsageError, match=r"is 12.50 W m-2, expected values near the 0.00 to 2.00"):
        forcing_note_of(12.5)


def forcing_note_of(value: float) -> tuple[str, ...]:
    """The warning of a constant forcing."""
    from types import SimpleNamespace

    facts = SimpleNamespace(denoiser=SimpleNamespace(forcing=KNOWN), sampler=object(), name="x")
    return forcing_note(facts, np.full(3, value, dtype=np.float32))
