"""Memory, patterns, extremes and moments against processes and distributions whose values are known."""

import numpy as np
import pytest

from fsae.runtime.errors import DataError
from fsae.runtime.sphere.healpix import npix, pixel_centres
from fsae.training.metrics.regions import region_weights, tropical_pacific
from fsae.training.metrics.variability import extremes, leading_pattern, regional_memory, skewness_and_kurtosis


def autoregression(memory: float, shape: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    """Series (member, time) of a first-order autoregression of unit variance."""
    series = rng.standard_normal(shape)
    for time in range(1, shape[1]):
        series[:, time] = memory * series[:, time - 1] + np.sqrt(1 - memory**2) * series[:, time]
    return series


def test_memory_of_a_region_is_that_of_its_mean() -> None:
    # oracle: phi**k of a first-order autoregression; noise that adds up to zero over the region leaves no trace
    rng = np.random.default_rng(0)
    slow, fast = (autoregression(phi, (5, 4000), rng) for phi in (0.8, 0.3))
    noise = rng.standard_normal((5, 4000))
    own = np.stack([slow + noise, slow - noise, fast], axis=-1)
    found = regional_memory(own, np.array([[2.0, 2.0, 0.0], [0.0, 0.0, 1.0]]), 6)
    lags = np.arange(1, 7)
    np.testing.assert_allclose(found, [0.8**lags, 0.3**lags], atol=0.04)  # three standard errors
    # oracle: the mean of the members' own, as the members are averaged
    singly = [regional_memory(member[None], np.array([[1.0, 0.0, 0.0]]), 6) for member in own]
    np.testing.assert_allclose(regional_memory(own, np.array([[1.0, 0.0, 0.0]]), 6), np.mean(singly, axis=0))


def test_leading_pattern_of_fields_of_known_rank() -> None:
    # oracle: two orthogonal waves in quadrature, so that the pattern is the larger and its share a**2 / (a**2 + b**2)
    patterns = np.linalg.qr(np.random.default_rng(1).normal(size=(30, 2)))[0].T
    turn = 2 * np.pi * np.arange(48) / 12
    one = 3 * np.cos(turn)[:, None] * patterns[0] + 2 * np.sin(turn)[:, None] * patterns[1]
    pattern, share = leading_pattern(one[None])
    np.testing.assert_allclose(np.abs(pattern @ patterns.T), [1, 0], atol=1e-10)
    assert share == pytest.approx(9 / 13)
    # members of one pattern each: together the stronger one leads, alone each has all of its variance
    both = np.stack([3 * np.cos(turn)[:, None] * patterns[0], 2 * np.sin(turn)[:, None] * patterns[1]])
    pattern, share = leading_pattern(both)
    np.testing.assert_allclose(np.abs(pattern @ patterns.T), [1, 0], atol=1e-10)
    assert share == pytest.approx(1)


def test_extremes_are_percentiles_over_time_of_each_member() -> None:
    # oracle: of 0 ... 100 the 1st percentile is 1 and the 99th 99; those of two members are averaged
    rng = np.random.default_rng(2)
    ranks = np.stack([rng.permutation(101), 10 * rng.permutation(101)])[:, :, None]
    np.testing.assert_allclose(extremes(ranks), [[(1 + 10) / 2], [(99 + 990) / 2]])


def test_skewness_and_kurtosis_of_coins() -> None:
    # oracle: a coin of probability p: (1 - 2p) / sqrt(pq) and (1 - 6pq) / (pq); exact, the sample has it exactly
    share = np.array([0.1, 0.25, 0.5])
    coins = (np.arange(40)[:, None] < 40 * share).astype(np.float32)
    skewness, kurtosis = skewness_and_kurtosis(np.stack([coins, 7 * coins]))
    product = share * (1 - share)
    np.testing.assert_allclose(skewness, (1 - 2 * share) / np.sqrt(product), rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(kurtosis, (1 - 6 * product) / product, rtol=1e-6)
    np.testing.assert_array_equal(skewness_and_kurtosis(np.full((1, 5, 2), 3.0)), 0)  # nothing varies: no warning


def test_regions_cover_the_sphere() -> None:
    # oracle: the area within 23.5 degrees of the equator is sin(23.5 degrees); the three parts add up to the sphere
    land = np.random.default_rng(3).uniform(size=npix(4))
    weights = region_weights(4, land)
    assert weights["tropics"].mean() == pytest.approx(np.sin(np.radians(23.5)), abs=0.03)
    np.testing.assert_array_equal(weights["tropics"] + weights["north"] + weights["south"], weights["global"])
    np.testing.assert_allclose(weights["land"] + weights["ocean"], 1)
    assert weights["north"].sum() == weights["south"].sum()
    assert pixel_centres(4)[0][weights["north"] > 0].min() > 23.5
    with pytest.raises(DataError, match="land mask"):
        region_weights(3, land)


def test_the_pacific_lies_where_it_does() -> None:
    # oracle: sin(30 degrees) of the sphere times 130 of 360 degrees; places by hand
    lat, lon = pixel_centres(5)
    box = tropical_pacific(5)
    assert box.mean() == pytest.approx(0.5 * 130 / 360, rel=0.02)

    def inside(lat_deg: float, lon_deg: float) -> bool:
        return bool(box[np.argmin((lat - lat_deg) ** 2 + (lon - lon_deg) ** 2)])

    assert inside(0, 240)  # Nino 3
    assert not inside(-24, 134)  # Alice Springs
    assert not inside(0, 330)  # the Atlantic
    assert not inside(40, 200)
