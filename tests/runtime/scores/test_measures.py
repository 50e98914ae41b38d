"""The formulas of scores: by their definitions, in closed form, and beside independent implementations."""

import numpy as np
import pytest
import scores.probability
import xarray as xr
from scipy import stats

from fsae.runtime.scores.measures import (
    band_ratio,
    chi_square,
    crps,
    outside,
    rank_weights,
    reliability_index,
    spread_error,
)
from fsae.training.metrics import ensembles


def drawn(cases: int, members: int, seed: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """Members (case, member) and a truth (case,) of one distribution, N(0, 1)."""
    values = np.random.default_rng(seed).normal(size=(cases, members + 1))
    return values[:, 1:], values[:, 0]


@pytest.mark.parametrize("truth", [-2.0, 0.5, 1.0, 7.0])
def test_crps_is_the_integral_of_its_definition(truth: float) -> None:
    # oracle: the integral over x of (F(x) - 1{x >= y})**2 (Gneiting and Raftery 2007, eq. 20), F the members' steps
    members = np.array([3.0, 0.5, 1.0, 4.25])
    x = np.linspace(-10, 10, 2_000_001)
    steps = (members[:, None] <= x).mean(axis=0) - (truth <= x)
    plain, fair = crps(members[None], np.array([truth]))
    np.testing.assert_allclose(plain[0], np.trapezoid(steps**2, x), atol=2e-5)
    # by hand: the sum of |x_i - x_j| over pairs is 2.5 + 2 + 1.25 + 0.5 + 3.75 + 3.25 = 13.25
    np.testing.assert_allclose(fair[0], np.abs(members - truth).mean() - 13.25 / (4 * 3), rtol=1e-12)


def test_crps_of_a_gaussian() -> None:
    # oracle: y (2 Phi(y) - 1) + 2 phi(y) - 1 / sqrt(pi) (Gneiting and Raftery 2007, eq. 21)
    members = stats.norm.ppf((np.arange(20_000) + 0.5) / 20_000)
    for truth in (-1.5, 0.0, 0.3, 2.0):
        exact = truth * (2 * stats.norm.cdf(truth) - 1) + 2 * stats.norm.pdf(truth) - 1 / np.sqrt(np.pi)
        plain, fair = crps(members[None], np.array([truth]))
        np.testing.assert_allclose([plain[0], fair[0]], exact, atol=1e-4)


def test_formulas_beside_independent_ones() -> None:  # oracle: the library `scores`, and the metrics of training
    members, truth = drawn(4000, 7)
    members, truth = np.round(members, 1), np.round(truth * 1.5 + 0.3, 1)  # with ties
    forecast = xr.DataArray(members, dims=("case", "member"))
    known = xr.DataArray(truth, dims="case")
    for own, method in zip(crps(members, truth), ("ecdf", "fair"), strict=True):
        other = scores.probability.crps_for_ensemble(forecast, known, "member", method=method, preserve_dims="case")
        np.testing.assert_allclose(own, other, atol=1e-13)
    weight = np.random.default_rng(2).uniform(size=truth.size)
    own = rank_weights(members, truth, weight)
    other = scores.probability.rank_histogram(forecast, known, "member", weights=xr.DataArray(weight, dims="case"))
    np.testing.assert_allclose(own / own.sum(), other, rtol=1e-10)
    counts = ensembles.rank_counts(members.T, truth)
    shares = counts / counts.sum()
    np.testing.assert_allclose(reliability_index(shares), ensembles.unevenness(counts), rtol=1e-10)
    np.testing.assert_allclose(outside(shares), ensembles.outer_share(counts), rtol=1e-10)
    np.testing.assert_allclose(chi_square(shares, truth.size), stats.chisquare(counts).statistic, rtol=1e-10)
    variance, square = members.var(axis=1, ddof=1).mean(), ((members.mean(axis=1) - truth) ** 2).mean()
    np.testing.assert_allclose(
        spread_error(variance, square, 7), ensembles.spread_skill(variance, square, 7), rtol=1e-12
    )


def test_an_ensemble_whose_truth_is_like_a_member() -> None:
    # oracle: such a truth has every rank as often, an error as large as the spread says, and the mean CRPS of N(0, 1)
    # against its own draws, 1 / sqrt(pi); four standard errors are allowed
    cases, count = 100_000, 9
    members, truth = drawn(cases, count)
    shares = rank_weights(members, truth, np.full(cases, 1 / cases))
    assert stats.chi2.cdf(chi_square(shares, cases), count) < 0.999
    assert reliability_index(shares) < 0.01
    fair = crps(members, truth)[1]
    assert abs(fair.mean() - 1 / np.sqrt(np.pi)) < 4 * fair.std() / np.sqrt(cases)
    square = (members.mean(axis=1) - truth) ** 2
    ratio = spread_error(members.var(axis=1, ddof=1).mean(), square.mean(), count)
    assert ratio == pytest.approx(1, abs=4 * square.std() / square.mean() / np.sqrt(cases))


def test_what_cannot_be_divided_is_none() -> None:  # oracle: the definitions
    assert spread_error(0.0, 0.0, 3) is None
    assert band_ratio(np.ones(3), np.array([5.0, 0.0, 0.0]), 1, 2) is None
