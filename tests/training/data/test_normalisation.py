"""Normalisation: statistics summed in parts, the papers' options, and anomalies read from disk."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from fsae.runtime.climate import climatology
from fsae.runtime.errors import DataError
from fsae.runtime.input.fields import Fields
from fsae.runtime.input.joining import read_fields
from fsae.training.config import Config, DataConfig, FitConfig, TrainerConfig, VariableConfig
from fsae.training.data import normalisation
from fsae.training.data.datasets import AnomalySamples
from fsae.training.data.normalisation import Anomalies, fit_statistics, normalised
from fsae.training.data.prepare import prepare

TAS = VariableConfig(
    name="tas", standard_name="air_temperature", long_name="temperature", units="K", valid_range=(150.0, 350.0)
)
PART = slice(12, 84)  # the years 2006 to 2011
DATA = DataConfig(inputs=("none",), variables=(TAS,), training_years=(2006, 2011), evaluation_years=(2012, 2014))
CONFIG = Config(name="test", data=DATA, autoencoder_fit=FitConfig(steps=1, batch=1, learning_rate=1e-3))


def config_of(**data: Any) -> Config:
    return msgspec.structs.replace(CONFIG, data=msgspec.structs.replace(DATA, **data))


@pytest.fixture(scope="module")
def fields(sample_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Fields:
    """The sample's 2005 to 2014 at zoom 3, prepared."""
    store = tmp_path_factory.mktemp("prepared") / "data.zarr"
    prepare([sample_data / "ncep1-tas-mon-200501-201412.nc"], store, [TAS], zoom=3)
    return read_fields(store, [TAS], zoom=3)


def test_statistics_in_parts_are_those_in_memory(
    fields: Fields, monkeypatch: pytest.MonkeyPatch
) -> None:  # oracle: the runtime's fit to the whole array at once
    monkeypatch.setattr(normalisation, "HELD_VALUES", 7 * fields.shape[-1])  # seven steps at once
    found = fit_statistics(config_of().data, fields, PART)
    values, season = fields.read(PART)[0], climatology.season(fields.phase[PART], 4)
    whole = climatology.fit(values, fields.phase[PART], 4)
    largest = np.abs(whole[:, 1:]).max()  # K; harmonics are rounded to 11 bits of the largest, the mean to 15
    np.testing.assert_allclose(found["climatology"], whole, rtol=0, atol=1.01 * largest / 2047)
    np.testing.assert_allclose(found["climatology"][:, 0], whole[:, 0], rtol=0, atol=1.01 * largest / 32767)
    anomalies = values - climatology.evaluate(found["climatology"], season).astype(np.float64)
    np.testing.assert_allclose(found["scale"], np.sqrt(np.square(anomalies).mean(axis=(0, 2))), rtol=1e-6)
    waves = found["climatology"][:, 1:]
    np.testing.assert_array_equal(waves, waves.astype(np.float16))  # as a graph stores them
    assert found.keys() == {"climatology", "scale"}


def test_mean_std_is_the_mean_and_the_deviation_alone(fields: Fields) -> None:  # oracle: NumPy's mean and std
    found = fit_statistics(config_of(normalisation="mean_std").data, fields, PART)
    values = fields.read(PART)[0].astype(np.float64)
    np.testing.assert_allclose(found["climatology"][:, 0], values.mean(axis=0), rtol=1e-6)
    assert found["climatology"].shape == (1, 9, 768)
    assert not found["climatology"][:, 1:].any()
    np.testing.assert_allclose(found["scale"], np.sqrt(values.var(axis=0).mean()), rtol=1e-5)


@pytest.mark.parametrize("kind", ["climatology", "mean_std"])
def test_a_scale_of_each_pixel_gives_every_pixel_unit_variance(
    fields: Fields, kind: str
) -> None:  # oracle: unit mean square, but for pixels at the floor
    config = config_of(normalisation=kind, scale="pixel")
    found = fit_statistics(config.data, fields, PART)
    assert found["pixel_scale"].shape == (1, 768)
    anomalies, _ = normalised(config, fields, found, PART)
    free = found["pixel_scale"][0] > normalisation.PIXEL_FLOOR
    assert free.mean() > 0.9
    np.testing.assert_allclose(np.square(anomalies[:]).mean(axis=0)[0, free], 1.0, rtol=1e-4)


class Steps:
    """A reader of known values (time, pixel)."""

    def __init__(self, values: np.ndarray) -> None:
        self.values = values.astype(np.float32)

    def __call__(self, times: slice, member: int | None) -> np.ndarray:
        return self.values[None, times]


def test_a_pixel_that_hardly_varies_has_the_floor_as_scale(fields: Fields) -> None:  # oracle: the stated floor
    values = np.random.default_rng(0).normal(size=fields.shape[1::2])
    values[:, 5] = 1.0
    still = replace(fields, readers=(Steps(values),))
    found = fit_statistics(config_of(scale="pixel").data, still, PART)["pixel_scale"][0]
    np.testing.assert_allclose(found[5], 0.05)
    assert found.argmin() == 5
    with pytest.raises(DataError, match=r"anomaly scales \[0.0\]"):
        fit_statistics(config_of().data, replace(fields, readers=(Steps(np.ones(fields.shape[1::2])),)), PART)


@pytest.mark.parametrize(("transform", "power"), [("sqrt", 2), ("fourth_root", 4)])
def test_statistics_are_those_of_transformed_values(
    fields: Fields, transform: str, power: int
) -> None:  # oracle: roots fitted without transform
    roots = np.random.default_rng(1).gamma(2.0, size=fields.shape[1::2])
    variable = msgspec.structs.replace(TAS, valid_range=(0.0, 1e6), transform=transform)
    squared = replace(fields, readers=(Steps(roots**power),))
    config = msgspec.structs.replace(CONFIG, data=msgspec.structs.replace(DATA, variables=(variable,)))
    found = fit_statistics(config.data, squared, PART)
    plain = fit_statistics(config_of().data, replace(fields, readers=(Steps(roots),)), PART)
    quantum = 2 * np.abs(plain["climatology"][:, 1:]).max() / 2047  # float32 roots may round to the next one
    np.testing.assert_allclose(found["climatology"], plain["climatology"], rtol=0, atol=quantum)
    np.testing.assert_allclose(found["scale"], plain["scale"], rtol=1e-5)
    one, _ = normalised(config, squared, found, PART)
    other, _ = normalised(config_of(), replace(fields, readers=(Steps(roots),)), plain, PART)
    np.testing.assert_allclose(one, other, atol=1e-4)  # float32 roots of squares


def series(fields: Fields, cache_gib: float) -> Any:
    config = msgspec.structs.replace(config_of(scale="pixel"), trainer=TrainerConfig(cache_gib=cache_gib))
    return normalised(config, fields, fit_statistics(config.data, fields, PART), PART)


def test_anomalies_are_fields_less_their_mean_by_their_scale(fields: Fields) -> None:  # oracle: the formula, at once
    config = config_of(scale="pixel")
    found = fit_statistics(config.data, fields, PART)
    mean = climatology.evaluate(found["climatology"], climatology.season(fields.phase, 4))
    expected = ((fields.read()[0] - mean) / (found["scale"][:, None] * found["pixel_scale"]))[PART]
    anomalies, season = series(fields, 0.0)
    np.testing.assert_allclose(anomalies[:], expected, atol=1e-3)  # float32 at 300 K, by scales of 0.1 K and more
    np.testing.assert_array_equal(season, climatology.season(fields.phase[PART], 4))


def test_anomalies_on_disk_are_those_in_memory(fields: Fields) -> None:  # oracle: the array in memory, bit for bit
    (lazy, lazy_season), (array, season) = series(fields, 0.0), series(fields, 1.0)
    assert isinstance(lazy, Anomalies)
    assert isinstance(array, np.ndarray)
    assert lazy.shape == array.shape
    np.testing.assert_array_equal(lazy_season, season)
    for chosen in (0, 71, -1, np.int64(3), slice(3, 9), slice(None), slice(9, 3), slice(0, 9, 4), [5, 2, 5]):
        np.testing.assert_array_equal(lazy[chosen], array[chosen])
    np.testing.assert_array_equal(lazy[np.array([7, 70])], array[[7, 70]])
    for bad in (72, -73):
        with pytest.raises(IndexError):
            lazy[bad]


def test_samples_from_disk_are_those_from_memory(fields: Fields) -> None:  # oracle: the array in memory, bit for bit
    waves = np.random.default_rng(2).normal(size=(4, 768)).astype(np.float32)
    drawn = []
    for cache_gib in (0.0, 1.0):
        anomalies, season = series(fields, cache_gib)
        samples = AnomalySamples(anomalies, season, waves, mixture=0.5, localisation=1.0, seed=3)
        drawn.append([samples[index] for index in range(12)])
    for one, other in zip(*drawn, strict=True):
        assert all((a == b).all() for a, b in zip(one, other, strict=True))
