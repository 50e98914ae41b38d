"""Forecasts from known states, of data whose law is known."""

import dataclasses
import functools

import msgspec
import numpy as np
import pytest
from gaussian_model import SCALE, gaussian_case

from fsae.runtime.errors import DataError
from fsae.training.daily.forecasts import Days, model_forecast, reference_forecasts, score
from fsae.training.evaluation.data import ModelWithData

MEMORY, LEADS = 0.7, 4
LEAD = np.arange(1, LEADS + 1)
# Fair CRPS of members drawn from the normal distribution of the truth: deviation / sqrt(pi) (Gneiting and Raftery 2007)
CLIMATE = SCALE / np.sqrt(np.pi)
KNOWN = CLIMATE * np.sqrt(1 - MEMORY ** (2 * LEAD))  # given the last state


@functools.cache
def case() -> ModelWithData:
    return gaussian_case(training=(1961, 1995), evaluation=(1996, 1999), memory=MEMORY)


def days_of(case: ModelWithData, members: int = 12) -> Days:
    return Days(model=case.model, training=case.training, series=case.evaluation, leads=LEADS, members=members)


def test_forecasts_score_as_the_law_says() -> None:
    # oracle: closed forms of an autoregression; the last is the mean of |N(0, 2 (1 - memory^lead))|
    days = days_of(case())
    found = score({"model": model_forecast(days)} | reference_forecasts(days), days, range(2, 45, 3))
    law = {"model": KNOWN, "damped persistence": KNOWN, "climatology": np.full(LEADS, CLIMATE)}
    law["persistence"] = 2 * CLIMATE * np.sqrt(1 - MEMORY**LEAD)
    assert found.keys() == law.keys()
    for name, wanted in law.items():
        np.testing.assert_allclose(found[name][:, 0], wanted, rtol=0.08, err_msg=name)


def test_no_forecast_knows_what_comes_after_its_start() -> None:  # oracle: other days from the start on
    days = days_of(case())
    changed = days.series.values.copy()
    changed[20:] += 40
    later = dataclasses.replace(days, series=dataclasses.replace(days.series, values=changed))
    for make in (lambda each: {"model": model_forecast(each)}, reference_forecasts):
        for one, other in zip(make(days).values(), make(later).values(), strict=True):
            np.testing.assert_array_equal(one(20), other(20))


def test_rain_is_forecast_in_its_own_units_and_never_negative() -> None:  # oracle: the last field, its season taken off
    plain = case()
    rain = msgspec.structs.replace(plain.model.variables[0], transform="fourth_root", valid_range=(0.0, 1e12))
    model = dataclasses.replace(plain.model, variables=(rain,), climatology=0 * plain.model.climatology)
    rains = [np.maximum((p.values - 279) / 3, 0) ** 4 for p in (plain.training, plain.evaluation)]
    training, series = (
        dataclasses.replace(period, values=values)
        for period, values in zip((plain.training, plain.evaluation), rains, strict=True)
    )
    days = Days(model=model, training=training, series=series, leads=LEADS, members=5)
    found = {name: forecast(10) for name, forecast in reference_forecasts(days).items()}
    np.testing.assert_allclose(found["persistence"][0, 2], series.values[9], rtol=1e-4)
    for fields in found.values():
        assert fields.min() == 0
        assert fields.shape[1:] == (LEADS, *series.values.shape[1:])


def test_days_have_no_gap() -> None:  # oracle: a day taken out
    plain = case()
    kept = [*range(5), *range(6, 20)]
    values, phase = plain.evaluation.values[kept], plain.evaluation.phase[kept]
    gap = dataclasses.replace(
        plain.evaluation, values=values, phase=phase, times=[plain.evaluation.times[i] for i in kept]
    )
    with pytest.raises(DataError, match="consecutive ones"):
        dataclasses.replace(days_of(plain), series=gap)
