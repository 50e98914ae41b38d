"""The formulas: scores of an ensemble at single points and times (cases), and of their means, in NumPy alone.

Our own sums, as `scores` needs SciPy (140 MB installed) and keeps no running sums; the tests compare with it.
"""

import numpy as np

from fsae.runtime.arrays import F64, Floating


def crps(members: F64, truth: F64) -> tuple[F64, F64]:
    """Plain and fair continuous ranked probability score (case,) of members (case, member), in their unit.

    mean_i |x_i - y| - sum_ij |x_i - x_j| / (2 m**2) for the m members (Gneiting and Raftery 2007, eq. 21); fair with
    m (m - 1) in place of m**2, so that its expectation does not depend on m (Ferro 2014). Two members or more.

    >>> crps(np.array([[0.0, 4.0]]), np.array([1.0]))
    (array([1.]), array([0.]))
    """
    count = members.shape[-1]
    distance = np.sort(members - truth[:, None], axis=-1)
    # sum_ij |x_i - x_j| / 2 of sorted members: each is the larger one of as many pairs as it has members below
    apart = distance @ (2.0 * np.arange(count) - count + 1)
    error = np.abs(distance).mean(axis=-1)
    return error - apart / count**2, error - apart / (count * (count - 1))


def rank_weights(members: Floating, truth: Floating, weight: F64) -> F64:
    """The weight (member + 1,) of the cases whose truth (case,) has each rank among members (case, member).

    A truth that equals members shares its weight among the ranks it could have (Hamill 2001, Mon. Wea. Rev. 129, 550).

    >>> rank_weights(np.array([[1.0, 2.0], [1.0, 2.0]]), np.array([0.0, 2.0]), np.array([1.0, 1.0])).tolist()
    [1.0, 0.5, 0.5]
    """
    count = members.shape[-1]
    below = (members < truth[:, None]).sum(axis=-1)
    equal = (members == truth[:, None]).sum(axis=-1)
    share = weight / (equal + 1)
    # each share counts from the first of its ranks to the last: a sum of where shares begin and where they end
    begins = np.bincount(below, share, count + 2)
    ends = np.bincount(below + equal + 1, share, count + 2)
    found: F64 = np.cumsum(begins - ends)[:-1]
    return found


def spread_error(variance: float, square_error: float, members: int) -> float | None:
    """Spread over root mean square error of the ensemble mean: one if the spread predicts the error; None without one.

    sqrt((m + 1) / m * mean variance / mean square error) for m members (Fortin et al. 2014, J. Hydrometeor. 15, 1708);
    the variance is that of m - 1 degrees of freedom.

    >>> spread_error(4.0, 5.0, 4)
    1.0
    """
    return None if square_error == 0 else float(np.sqrt((members + 1) / members * variance / square_error))


def reliability_index(shares: F64) -> float:
    """Sum over the ranks of |share - 1 / ranks| (Delle Monache et al. 2006, J. Geophys. Res. 111, D24307).

    0 for a flat histogram, near 2 if all cases have one rank.

    >>> reliability_index(np.array([1.0, 0.0]))
    1.0
    """
    return float(np.abs(shares - 1 / shares.size).sum())


def chi_square(shares: F64, cases: int) -> float:
    """Pearson's statistic of a rank histogram of so many cases against a flat one, of as many degrees as members.

    Neighbouring points and steps are not independent, so that it far exceeds its distribution for independent cases.

    >>> chi_square(np.array([0.75, 0.25]), 8)
    2.0
    """
    return float(cases * shares.size * ((shares - 1 / shares.size) ** 2).sum())


def outside(shares: F64) -> float:
    """Share of cases outside the ensemble over that of a flat histogram: above one the ensemble is too narrow.

    >>> outside(np.array([0.5, 0.0, 0.0, 0.5]))
    2.0
    """
    return float((shares[0] + shares[-1]) * shares.size / 2)


def bands(most: int) -> list[tuple[int, int]]:
    """First and last of the degrees 1 ... most in bands whose width doubles.

    >>> bands(64), bands(20)
    ([(1, 8), (9, 16), (17, 32), (33, 64)], [(1, 8), (9, 16), (17, 20)])
    """
    first, last, found = 1, 8, []
    while first <= most:
        found.append((first, min(last, most)))
        first, last = last + 1, 2 * last
    return found


def band_ratio(power: F64, other: F64, first: int, last: int) -> float | None:
    """Variance of the degrees `first` ... `last` of power C_l (l,) over that of another; None if the other has none.

    >>> band_ratio(np.array([9.0, 2.0, 2.0]), np.array([1.0, 4.0, 4.0]), 1, 2)
    0.5
    """
    orders = 2.0 * np.arange(first, last + 1) + 1
    one, two = (float(orders @ spectrum[first : last + 1]) for spectrum in (power, other))
    return one / two if two > 0 else None
