"""Products of weights and fields: the sums of the entries, to the bit."""

import numpy as np
import pytest

from fsae.runtime.sphere.grids import LatLonGrid, regular_grid
from fsae.runtime.sphere.healpix import npix, pixel_centres
from fsae.runtime.sphere.regrid import bilinear_weights, conservative_weights, weights_back
from fsae.runtime.sphere.weights import Weights, apply

POLES = LatLonGrid(lat_deg=np.linspace(-90, 90, 37), lon_deg=np.arange(72) * 5.0)
WEIGHTS = {
    "bilinear": bilinear_weights(POLES, *pixel_centres(4)),
    "bilinear with long rows": bilinear_weights(regular_grid("5"), *pixel_centres(5)),
    "conservative": conservative_weights(POLES, 3),
    "back": weights_back(POLES, 4, "bilinear"),
}


def sums(weights: Weights, field: np.ndarray) -> np.ndarray:
    """The sums of the entries of each target, by NumPy's reduction."""
    return np.add.reduceat(field[weights.index].astype(np.float64) * weights.weight, weights.indptr[:-1])


@pytest.mark.parametrize("name", WEIGHTS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_product_is_that_of_rows(name: str, dtype: type) -> None:  # oracle: one reduction over all entries
    weights = WEIGHTS[name]
    fields = np.random.default_rng(0).normal(280, 10, (2, weights.source_size)).astype(dtype)
    expected = np.stack([sums(weights, field) for field in fields]).astype(dtype)
    np.testing.assert_array_equal(apply(weights, fields), expected)


def test_columns_are_used_for_few_entries() -> None:
    count = {name: weights.layout.index.shape[1] for name, weights in WEIGHTS.items()}
    assert count == {"bilinear": npix(4), "bilinear with long rows": npix(5), "conservative": 0, "back": POLES.size}
    assert (np.diff(WEIGHTS["bilinear with long rows"].indptr) > 4).any()


def test_infinity_stays_in_its_place() -> None:  # oracle: one reduction over all entries
    weights = WEIGHTS["bilinear"]
    field = np.zeros(weights.source_size)
    field[weights.index[0]] = np.inf
    np.testing.assert_array_equal(apply(weights, field), sums(weights, field))
