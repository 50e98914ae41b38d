"""Scores of ensembles: spread against skill, ranks, the lead at which skill ends, energy score.

Everywhere the member axis is the first one; a single member is a deterministic forecast.
"""

import numpy as np
import scores.probability
import xarray as xr
from numpy.typing import NDArray

from fsae.runtime.arrays import F64, Floating
from fsae.runtime.errors import DataError
from fsae.runtime.sphere.healpix import zoom_of

from .scores import labelled

RANK_ZOOM = 2  # ranks are counted at one pixel for each cell of this zoom: neighbours say the same
CLASSES = 10  # of spread


def spread_skill(variance: Floating, square_error: Floating, members: int) -> F64:
    """Spread over root mean square error of the ensemble mean: one if the spread predicts the error.

    sqrt((M + 1) / M * mean variance / mean square error) (Fortin et al. 2014, J. Hydrometeor. 15, 1708): `variance` is
    the mean over cases of the members' unbiased variance, `square_error` that of the ensemble mean's square error; the
    mean of M members is itself uncertain.

    >>> spread_skill(np.array([4.0]), np.array([5.0]), 4).tolist()
    [1.0]
    """
    ratio: F64 = np.sqrt((members + 1) / members * np.asarray(variance) / np.asarray(square_error))
    return ratio


def rank_counts(members: Floating, truth: Floating) -> F64:
    """How often the truth (..., case) has each of the ranks among members (member, ..., case): (..., M + 1).

    Ties are shared out among the ranks they could have (Hamill 2001, Mon. Wea. Rev. 129, 550).
    """
    known = labelled(truth)
    forecast = xr.DataArray(members, dims=["member", *known.dims])
    shares = scores.probability.rank_histogram(forecast, known, "member", preserve_dims=list(known.dims[:-1]))
    counts: F64 = np.asarray(shares.transpose(..., "rank").values, dtype=np.float64) * truth.shape[-1]
    return counts


def thinned(pixels: int) -> NDArray[np.int64]:
    """One pixel beside the centre of each cell of zoom `RANK_ZOOM`; all of them on coarser grids.

    >>> thinned(768)[:3].tolist()
    [3, 7, 11]
    """
    finer = zoom_of(pixels) - RANK_ZOOM
    if finer <= 0:
        return np.arange(pixels)
    inside = 4**finer  # the children of a cell in nested order; the last quarter's first touches the centre
    return np.asarray(np.arange(pixels // inside) * inside + 3 * inside // 4)


def spread_classes(variance: F64, square_error: F64, classes: int = CLASSES) -> tuple[F64, F64]:
    """Mean variance and mean square error (..., class) of pixels (..., pixel) in classes of rising variance.

    Classes have equally many pixels, up to one. Roots of both, one over the other, are the spread-error diagram of
    Leutbecher and Palmer (2008), J. Comput. Phys. 227, 3515: on the diagonal if the spread tells how large errors are.

    >>> spread_classes(np.array([4.0, 1.0, 3.0, 2.0]), np.array([5.0, 1.0, 3.0, 1.0]), 2)
    (array([1.5, 3.5]), array([1., 4.]))
    """
    order = np.argsort(variance, axis=-1, kind="stable")
    found = []
    for values in (variance, square_error):
        parts = np.array_split(np.take_along_axis(values, order, axis=-1), classes, axis=-1)
        found.append(np.stack([part.mean(axis=-1) for part in parts], axis=-1))
    return found[0], found[1]


def unevenness(counts: Floating) -> F64:
    """Reliability index of rank counts (..., rank), sum of |share - 1 / ranks|.

    Delle Monache et al. (2006), J. Geophys. Res. 111, D24307. 0 for a flat histogram, near 2 if all cases have one
    rank; half of it is the share that would have to move.

    >>> unevenness(np.array([[5, 5], [10, 0]])).tolist()
    [0.0, 1.0]
    """
    shares = counts / counts.sum(axis=-1, keepdims=True)
    index: F64 = np.abs(shares - 1 / counts.shape[-1]).sum(axis=-1)
    return index


def outer_share(counts: Floating) -> F64:
    """Share of cases outside the ensemble (lowest or highest rank), over that of a flat histogram: > 1 is too narrow.

    >>> outer_share(np.array([1, 1, 1, 1])), outer_share(np.array([2, 0, 0, 2]))
    (array(1.), array(2.))
    """
    outside: F64 = (counts[..., 0] + counts[..., -1]) / counts.sum(axis=-1)
    return np.asarray(outside * counts.shape[-1] / 2, dtype=np.float64)


def lead_of_last_skill(own: Floating, other: Floating, years: NDArray[np.integer]) -> tuple[int, int]:
    """The last lead until which scores `own` (start, lead) stay below `other`, on average and beyond doubt; 0: never.

    Beyond doubt: by more than two standard errors of the mean difference. Months of one year are not independent, so
    the standard error is that of the means of whole `years` (start,); with a single year nothing is beyond doubt.
    """
    difference = np.stack([(own - other)[years == year].mean(axis=0) for year in np.unique(years)])  # (year, lead)
    mean = (own - other).mean(axis=0)
    count = len(difference)
    error = difference.std(axis=0, ddof=1) / np.sqrt(count) if count > 1 else np.full(mean.shape, np.inf)
    return _leading(mean < 0), _leading(mean < -2 * error)


def _leading(wins: NDArray[np.bool_]) -> int:
    """Number of wins before the first loss."""
    return int(np.argmin(np.append(wins, False)))


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
            f"found members of shape {members.shape} and a truth of shape {truth.shape}",
            "two members or more of the truth's shape",
            "draw more members, on the pixels of the truth",
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
