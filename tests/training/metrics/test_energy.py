"""The energy score beside a library's CRPS, closed forms and its own definition."""

import math

import numpy as np
import pytest

from fsae.runtime.errors import DataError
from fsae.training.metrics.ensembles import energy_score, energy_scores
from fsae.training.metrics.scores import fair_crps


def test_one_pixel_is_the_crps() -> None:  # oracle: `scores`, fair CRPS
    rng = np.random.default_rng(0)
    members, truth = 280 + rng.normal(size=(7, 20, 1)), 280 + rng.normal(size=(20, 1))
    np.testing.assert_allclose(energy_score(members, truth), fair_crps(members, truth), rtol=1e-10)


def test_definition() -> None:  # oracle: Gneiting and Raftery 2007, eq. 22, as two loops
    rng = np.random.default_rng(1)
    members, truth = rng.normal(size=(4, 3, 5)), rng.normal(size=(3, 5))
    for step in range(3):
        x, y = members[:, step], truth[step]
        near = np.mean([np.linalg.norm(one - y) for one in x])
        apart = sum(np.linalg.norm(one - other) for one in x for other in x) / (2 * 4 * 3)
        np.testing.assert_allclose(energy_scores(members, truth)[step], (near - apart) / np.sqrt(5), rtol=1e-10)


def test_expectation_does_not_depend_on_members() -> None:  # oracle: fairness; truth and members of one climate
    # For n independent unit normal pixels E|x - y| = E|x - x'|, so that the score is half of that: Gamma functions.
    rng = np.random.default_rng(2)
    pixels = 4
    expected = math.gamma((pixels + 1) / 2) / math.gamma(pixels / 2) / math.sqrt(pixels)
    truth = rng.normal(size=(20_000, pixels))
    for count in (2, 6):
        found = energy_score(rng.normal(size=(count, 20_000, pixels)), truth)
        np.testing.assert_allclose(found, expected, rtol=0.01)  # chance: 0.3 %


def test_refuses_one_member() -> None:  # oracle: the fair estimate divides by m - 1
    with pytest.raises(DataError, match="two members"):
        energy_score(np.zeros((1, 2, 3)), np.zeros((2, 3)))
