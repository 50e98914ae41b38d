"""Statistics of daily weather, on series whose statistics are known."""

import numpy as np
import pytest

from fsae.training.daily import statistics


def test_memory_of_an_autoregression() -> None:  # oracle: AR(1) has a^k, off by chance
    rng = np.random.default_rng(0)
    fields = np.zeros((2, 400, 50))
    noise = rng.normal(size=fields.shape) * np.arange(1, 51)  # pixels of other variance, the same memory
    for day in range(1, 400):
        fields[:, day] = 0.7 * fields[:, day - 1] + noise[:, day]
    found = statistics.pooled_autocorrelation(statistics.own_departures(fields), 4)
    np.testing.assert_allclose(found, 0.7 ** np.arange(1, 5), atol=0.04)


@pytest.mark.parametrize(("period", "share"), [(2.5, 1.0), (4.0, 1.0), (5.0, 1.0), (10.0, 0.0), (30.0, 0.0)])
def test_storm_tracks_are_waves_of_two_to_six_days(period: float, share: float) -> None:
    # oracle: a wave of amplitude a has the variance a^2 / 2, all of it inside the band or outside; a trend has none
    day = np.arange(120.0)
    wave = 3 * np.cos(2 * np.pi * day / period + 0.4)
    fields = np.stack([wave + 0.05 * day, 2 * wave], axis=-1)[None]
    np.testing.assert_allclose(statistics.storm_track(fields), share * np.array([4.5, 18.0]), atol=0.15)


def test_rain_of_a_known_distribution() -> None:  # oracle: an exponential one of 5 mm on half of the days
    chance = (np.arange(20000) + 0.5) / 20000
    rain = np.where(chance < 0.5, 0.0, -5 * np.log(2 * (1 - chance)))
    assert statistics.wet_share(rain) == pytest.approx(0.5 * np.exp(-1 / 5), abs=1e-3)
    wanted = [0.0, *(5 * np.log(0.5 / (1 - np.array([0.9, 0.99, 0.999]))))]
    np.testing.assert_allclose(statistics.rain_quantiles(rain), wanted, rtol=2e-2, atol=1e-3)


def test_variables_go_together_as_they_were_made_to() -> None:
    # oracle: b = r a + sqrt(1 - r^2) c has the correlation r with a, another in each pixel, and 0 with what is constant
    rng = np.random.default_rng(1)
    r = np.linspace(-0.9, 0.9, 7)
    a, c = rng.normal(size=(2, 3, 4000, 7))
    fields = np.stack([a, 5 * (r * a + np.sqrt(1 - r**2) * c), np.zeros_like(a)], axis=2)
    found = statistics.correlation_maps(statistics.own_departures(fields + 280))
    np.testing.assert_allclose(found, [r, 0 * r, 0 * r], atol=0.04)
    assert statistics.pattern_correlation(found[0], -r) == pytest.approx(-1, abs=0.01)
