"""The energy score: the CRPS of whole fields. `scores` has none; in one dimension ours is its fair CRPS."""

import numpy as np
from numpy.typing import NDArray

from fsae.runtime.errors import DataError

Floating = NDArray[np.floating]


def energy_scores(members: Floating, truth: Floating) -> NDArray[np.float64]:
    """Fair energy score (time,) of an ensemble (member, time, pixel) against (time, pixel), in the fields' unit.

    mean_i |x_i - y| - 1 / (2 m (m - 1)) sum_ij |x_i - x_j| (Gneiting and Raftery 2007, eq. 22, for m members): fair,
    as members are not compared with themselves. The distance is the root mean square over pixels, that is the Euclidean
    one over the root of their number, so that the score of one pixel is its CRPS. Time steps are worked on one by one.

    >>> energy_scores(np.array([[[0.0, 0.0]], [[3.0, 3.0]]]), np.array([[1.0, 1.0]])).tolist()
    [0.0]
    """
    count = len(members)
    if count < 2 or members.shape[1:] != truth.shape:
        raise DataError(
            f"found members of shape {members.shape} and a truth of shape {truth.shape}, expected two members or more "
            "of the truth's shape"
        )
    found = np.empty(len(truth))
    for step in range(len(truth)):
        error = members[:, step].astype(np.float64) - truth[step]  # the truth off: products lose no digits
        product = error @ error.T / error.shape[-1]
        square = np.diag(product)
        apart = np.sqrt(np.maximum(square[:, None] + square - 2 * product, 0))
        found[step] = np.sqrt(square).mean() - apart.sum() / (2 * count * (count - 1))
    return found


def energy_score(members: Floating, truth: Floating) -> float:
    """Mean over time of `energy_scores`."""
    return float(energy_scores(members, truth).mean())
