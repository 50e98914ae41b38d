"""Localised linear codes: what they keep, and what they are without damping."""

import numpy as np
import pytest

from fsae.runtime.sphere.healpix import coarsen, npix
from fsae.training.metrics import localised_codes
from fsae.training.metrics.baselines import fit_eofs, truncate
from fsae.training.metrics.localised_codes import CellCode, SphereCode, fit_localised_code, rebuild_from_code


@pytest.fixture(scope="module")
def fields() -> np.ndarray:
    """Anomalies (time, pixel) at zoom 2 of a random covariance."""
    random = np.random.default_rng(0)
    return random.normal(size=(90, 30)) @ random.normal(size=(30, npix(2)))


def test_without_damping_it_is_that_of_eofs(fields: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(localised_codes, "FLOOR", 1.0)  # oracle: the singular value decomposition
    code = fit_localised_code(fields, 12)
    assert isinstance(code, SphereCode)
    eofs = fit_eofs(fields, np.arange(90.0))
    np.testing.assert_allclose(rebuild_from_code(code, fields), truncate(eofs, fields, 12), atol=2e-4)


def test_as_many_numbers_as_pixels_lose_nothing(fields: np.ndarray) -> None:  # oracle: the fields
    np.testing.assert_allclose(rebuild_from_code(fit_localised_code(fields, npix(2)), fields), fields, atol=1e-4)


def test_cells_keep_their_means_and_orthonormal_patterns(fields: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(localised_codes, "MOST_ON_SPHERE", 0)
    code = fit_localised_code(fields, 5 * 12)
    assert isinstance(code, CellCode)
    inner = np.einsum("cpn,cpm->cnm", code.patterns, code.patterns)
    np.testing.assert_allclose(inner, np.tile(np.eye(5), (12, 1, 1)), atol=1e-9)  # oracle: the identity
    rebuilt = rebuild_from_code(code, fields)
    np.testing.assert_allclose(coarsen(rebuilt, 2), coarsen(fields, 2), atol=1e-5)  # oracle: the means of the fields
    fewer = rebuild_from_code(fit_localised_code(fields, 4 * 12), fields)
    assert np.square(rebuilt - fields).mean() < 0.95 * np.square(fewer - fields).mean()
