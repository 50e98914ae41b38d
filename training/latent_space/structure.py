"""Tests for structure in monthly data of any space: season, warming, volcanic eruptions.

A space is (time, number) and `index` (time,) counts its months as 12 * year + month - 1. What is fitted is judged on
blocks of years that were left out; eruptions are compared with all other windows of the same length.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata
from sklearn.covariance import ledoit_wolf
from sklearn.decomposition import PCA
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.metrics import silhouette_score
from sklearn.neighbors import KNeighborsClassifier

from fsae.runtime.arrays import F64, Ints
from fsae.training.metrics.baselines import FOLDS, fit_ridge

MODES = 50  # leading principal components that season is predicted from
WINDOW = 12  # [months]: in whole years any rest of the season cancels
WINDOW_MODES = 10  # leading principal components of window means, in which their distance is measured

# A straight line would leave the change of pace around 1975, which is as large as an eruption's effect.
TREND_DEGREE = 3
EL_NINO_LAG = 3  # [months] the global mean follows Nino 3.4 by (Trenberth et al. 2002, J. Geophys. Res. 107, 4065)

# Name, year and last month of strong explosions (Robock 2000, Rev. Geophys. 38, 191).
ERUPTIONS = (("Agung", 1963, 5), ("El Chichón", 1982, 4), ("Pinatubo", 1991, 6))


@dataclass(frozen=True, kw_only=True)
class Season:
    """Shares of months, in years left out, that were put into the right one of four seasons and of twelve months.

    `linear` separates classes by their means, `quadratic` also by a covariance of each, `nearest` takes the nearest
    month of the other years. `silhouette` is how much nearer own months are than others, -1 to 1.
    """

    space: str
    linear: tuple[float, float]
    nearest: tuple[float, float]
    quadratic: tuple[float, float]
    silhouette: tuple[float, float]


@dataclass(frozen=True, kw_only=True)
class Warming:
    """How well annual means predict their year: by the first principal component, and by ridge regression.

    `r2` and `predicted_rank` are of years predicted by regressions that saw neither them nor the years of their block.
    """

    space: str
    numbers: int
    rank: float  # Spearman correlation of the first principal component with the year, without its sign
    r2: float
    predicted_rank: float


@dataclass(frozen=True, kw_only=True)
class Warmth:
    """Temperatures [K] (time,) beside a space: its own global mean, that of the fields, and Nino 3.4."""

    latent_mean: F64  # in units of the latent
    global_mean: F64
    el_nino: F64 | None  # None on grids too coarse for it


@dataclass(frozen=True, kw_only=True)
class Window:
    """Twelve months after an eruption beside all windows of that length that do not overlap them.

    Percentiles [%] are shares of those windows: that are nearer to the mean window, in latents and in block means; that
    have a warmer mean latent, also with El Nino regressed out. Means [K] are without trend.
    """

    eruption: str
    period: str
    departure: float
    block_departure: float
    colder: float | None
    colder_without_el_nino: float | None
    global_mean: float | None
    el_nino: float | None


def whole_years(index: Ints) -> Ints:
    """The calendar years of which all twelve months are there.

    >>> whole_years(np.arange(12 * 1999 + 3, 12 * 2002)).tolist()
    [2000, 2001]
    """
    years, counts = np.unique(index // 12, return_counts=True)
    return np.asarray(years[counts == 12])


def annual_means(space: F64, index: Ints) -> F64:
    """Means (year, number) of a space over the whole calendar years."""
    return np.stack([space[index // 12 == year].mean(axis=0) for year in whole_years(index)])


def season_of(name: str, space: F64, index: Ints) -> Season:
    """How well four seasons and twelve months are predicted from a space."""
    month, year = index % 12, index // 12
    seasons = (month + 1) // 3 % 4  # December to February is 0
    right = np.zeros((3, 2))
    for left_out in np.array_split(np.unique(year), FOLDS):
        test = np.isin(year, left_out)
        modes = min(MODES, space.shape[1], int(np.sum(~test)) // 4)
        leading = PCA(modes, whiten=True, svd_solver="full").fit(space[~test])
        known, asked = leading.transform(space[~test]), leading.transform(space[test])
        for row, classify in enumerate((linear, nearest, quadratic)):
            for column, label in enumerate((seasons, month)):
                right[row, column] += np.sum(classify(known, label[~test], asked) == label[test])
    shares = right / len(index)
    return Season(
        space=name,
        linear=(shares[0, 0], shares[0, 1]),
        nearest=(shares[1, 0], shares[1, 1]),
        quadratic=(shares[2, 0], shares[2, 1]),
        silhouette=(float(silhouette_score(space, seasons)), float(silhouette_score(space, month))),
    )


def linear(known: F64, label: Ints, asked: F64) -> Ints:
    """Classes of `asked` (point, number) by linear discriminants of the `known` points."""
    return np.asarray(LinearDiscriminantAnalysis().fit(known, label).predict(asked))


def nearest(known: F64, label: Ints, asked: F64) -> Ints:
    """The class of the known point nearest to each of `asked` (point, number)."""
    return np.asarray(KNeighborsClassifier(1).fit(known, label).predict(asked))


def quadratic(known: F64, label: Ints, asked: F64) -> Ints:
    """Likeliest class of `asked` (point, number) if each is a Gaussian of its own and all are equally frequent.

    Covariances are shrunk to a multiple of the identity as in Ledoit and Wolf (2004, J. Multivar. Anal. 88, 365).
    """
    classes = np.unique(label)
    likelihood = []
    for each in classes:
        members = known[label == each]
        values, vectors = np.linalg.eigh(ledoit_wolf(members)[0])
        scores = (asked - members.mean(axis=0)) @ vectors / np.sqrt(values)
        likelihood.append(-np.sum(scores**2, axis=1) - np.sum(np.log(values)))
    return np.asarray(classes[np.argmax(likelihood, axis=0)])


def warming_of(name: str, means: F64, years: Ints) -> Warming:
    """How well annual means (year, number) predict their year."""
    first = PCA(1, svd_solver="full").fit_transform(means)[:, 0]
    predicted = np.empty(len(years))
    for left_out in np.array_split(np.arange(len(years)), FOLDS):
        kept = np.setdiff1d(np.arange(len(years)), left_out)
        centre, middle = means[kept].mean(axis=0), years[kept].mean()
        ridge = fit_ridge(means[kept] - centre, years[kept] - middle)
        predicted[left_out] = ridge.predict(means[left_out] - centre) + middle
    unexplained = np.sum((predicted - years) ** 2) / np.sum((years - years.mean()) ** 2)
    return Warming(
        space=name,
        numbers=means.shape[1],
        rank=abs(rank_correlation(first, years)),
        r2=float(1 - unexplained),
        predicted_rank=rank_correlation(predicted, years),
    )


def rank_correlation(one: NDArray[Any], other: NDArray[Any]) -> float:
    """Spearman's rank correlation of two series (time,).

    >>> round(rank_correlation(np.array([1.0, 2.0, 30.0]), np.array([4, 5, 6])), 9)
    1.0
    """
    return float(np.corrcoef(rankdata(one), rankdata(other))[0, 1])


def steady(series: F64, index: Ints) -> F64:
    """A series (time, ...) without the mean of each month of the year and without its slow change, a cubic in time."""
    month = index % 12
    middle, half = (index[0] + index[-1]) / 2, (index[-1] - index[0]) / 2
    trend = np.polynomial.legendre.legvander((index - middle) / half, TREND_DEGREE)[:, 1:]
    design = np.concatenate([month[:, None] == np.unique(month), trend], axis=1)  # the two are fitted together
    return np.asarray(series - design @ np.linalg.lstsq(design, series, rcond=None)[0])


def without_el_nino(series: F64, el_nino: F64) -> F64:
    """A series (time,) without its regression on that of Nino 3.4 some months before; both without means."""
    earlier = np.concatenate([np.zeros(EL_NINO_LAG), el_nino[:-EL_NINO_LAG]])
    return np.asarray(series - earlier * (earlier @ series) / (earlier @ earlier))


def departures(windows: F64) -> F64:
    """Mahalanobis distances (window,) of windows (window, number) from their mean, in leading principal components."""
    left, _, _ = np.linalg.svd(windows - windows.mean(axis=0), full_matrices=False)
    return np.asarray(np.linalg.norm(left[:, :WINDOW_MODES], axis=1) * np.sqrt(len(windows) - 1))


def eruption_windows(latents: F64, blocks: F64, warmth: Warmth | None, index: Ints) -> Iterator[Window]:
    """The first and the second year after each eruption that the months hold, in latents and block means."""
    starts = np.flatnonzero(index[WINDOW - 1 :] - index[: 1 - WINDOW] == WINDOW - 1)  # windows without gaps

    def window_means(series: F64) -> F64:
        steadied = steady(series, index)
        return np.stack([steadied[start : start + WINDOW].mean(axis=0) for start in starts])

    distances = [departures(window_means(space)) for space in (latents, blocks)]
    means = {}
    if warmth is not None:
        means = {"latent": window_means(warmth.latent_mean), "global": window_means(warmth.global_mean)}
        if warmth.el_nino is not None:
            quiet = without_el_nino(steady(warmth.latent_mean, index), steady(warmth.el_nino, index))
            means |= {"quiet": window_means(quiet), "el_nino": window_means(warmth.el_nino)}

    for name, year, month in ERUPTIONS:
        for after in (0, WINDOW):
            first = 12 * year + month + after  # starts the month after the last explosion
            others = np.abs(index[starts] - first) >= WINDOW
            for chosen in np.flatnonzero(index[starts] == first).tolist():  # none if the months do not hold it
                yield Window(
                    eruption=f"{name} {year}",
                    period=f"{month_name(first)} to {month_name(first + WINDOW - 1)}",
                    departure=percentile(distances[0], chosen, others),
                    block_departure=percentile(distances[1], chosen, others),
                    colder=percentile(-means["latent"], chosen, others) if "latent" in means else None,
                    colder_without_el_nino=percentile(-means["quiet"], chosen, others) if "quiet" in means else None,
                    global_mean=float(means["global"][chosen]) if "global" in means else None,
                    el_nino=float(means["el_nino"][chosen]) if "el_nino" in means else None,
                )


def percentile(values: F64, chosen: int, others: NDArray[np.bool_]) -> float:
    """Share [%] of the `others` among values (window,) that lie below the `chosen` one.

    >>> round(percentile(np.array([3.0, 1.0, 4.0, 0.0]), 0, np.array([False, True, True, True])), 3)
    66.667
    """
    return 100 * float(np.mean(values[others] < values[chosen]))


def month_name(index: int) -> str:
    """Year and month of a month's number.

    >>> month_name(12 * 1963 + 5)
    '1963-06'
    """
    return f"{index // 12}-{index % 12 + 1:02d}"
