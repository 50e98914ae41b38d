"""A period or an ensemble compared with the true period: mean, variability, spectrum, memory, extremes.

All fields are anomalies about the training climatology, (time, pixel) or (member, time, pixel), in the variable's unit.
Each member is compared as one stretch, as the truth is: its own mean map is removed before everything but the bias, so
that a shift of the mean is counted once and a member's wandering mean is not taken for variability. Distances to
training fields are those of the whole fields, which finds fields that were memorised.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields

import numpy as np

from fsae.runtime.arrays import F64, Floating
from fsae.runtime.sphere.healpix import zoom_of
from fsae.training.metrics.ensembles import energy_score, rank_counts, thinned
from fsae.training.metrics.patch_edges import cell_peak, edge_jumps
from fsae.training.metrics.regions import region_weights, tropical_pacific
from fsae.training.metrics.scores import fair_crps, map_correlation, map_rmse, nearest_distances
from fsae.training.metrics.spectra import Coefficients, cross_power, harmonic_coefficients, power_spectrum
from fsae.training.metrics.variability import extremes, leading_pattern, regional_memory, skewness_and_kurtosis

from .report import Climate, Memory, MemoryRange, Range, Stretches

LAGS = 6  # [steps]
LMAX = 60  # lowered to 2 nside on coarser grids
NEAREST_QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)

# Fields that spectra and edges are taken of, at most: those of 20 members of ten years are five times as many.
LARGEST_SAMPLE = 480
MAPS = ("mean", "low", "high", "skewness", "kurtosis")  # of which errors are figures
LIKENESS = ("std", "low", "high")  # of which correlations are figures


@dataclass(frozen=True, kw_only=True)
class View:
    """Scales and places: degrees 2 ... lmax, cells of zooms 1 ... `latent_zoom`, regions by weights (pixel,)."""

    lmax: int
    latent_zoom: int
    regions: Mapping[str, F64]

    @classmethod
    def of(cls, zoom: int, latent_zoom: int, land: F64 | None = None) -> "View":
        """The view of fields at `zoom`; `land` is the land fraction (pixel,). Spectra end at 2 nside."""
        return cls(lmax=min(LMAX, 2 << zoom), latent_zoom=latent_zoom, regions=region_weights(zoom, land))


@dataclass(frozen=True, kw_only=True)
class Moments:
    """Statistics that are compared, maps (pixel,) in the fields' unit; of several stretches with an axis in front."""

    mean: F64
    std: F64
    power: F64  # at degrees 2 ... lmax
    jumps: F64  # across cell edges, by zoom
    memory: F64  # autocorrelation (region, lag)
    pattern: F64  # first EOF of the tropical Pacific
    pattern_share: F64  # of the variance there, ()
    low: F64  # 1st percentile
    high: F64  # 99th percentile
    skewness: F64
    kurtosis: F64

    def maps(self, names: Sequence[str]) -> F64:
        """The maps of those names, (..., map, pixel)."""
        return np.stack([getattr(self, name) for name in names], axis=-2)


def moments(members: Floating, view: View, coefficients: Coefficients | None = None) -> Moments:
    """Statistics of (member, time, pixel), averaged over members; the mean map is over members and time.

    `coefficients` (time, coefficient) are the spherical harmonics of the only member, if they are known already.
    """
    means = members.mean(axis=1, keepdims=True, dtype=np.float64)
    own = members - means.astype(members.dtype)
    flat = own.reshape(-1, own.shape[-1])
    sample = flat[:: _stride(len(flat))]
    if coefficients is None:
        power = power_spectrum(sample, view.lmax)
    else:
        departures = coefficients - coefficients.mean(axis=0)
        power = cross_power(departures, departures)
    pattern, share = leading_pattern(own[..., tropical_pacific(zoom_of(own.shape[-1]))])
    low, high = extremes(own)
    skewness, kurtosis = skewness_and_kurtosis(own)
    return Moments(
        mean=means.mean(axis=(0, 1)),
        std=np.sqrt(np.mean(own**2, axis=1, dtype=np.float64)).mean(axis=0),
        power=power[2:],  # l = 0 is the global mean and l = 1 little more: the bias holds them
        jumps=edge_jumps(sample, view.latent_zoom),
        memory=regional_memory(own, np.stack(list(view.regions.values())), LAGS),
        pattern=pattern,
        pattern_share=np.array(share),
        low=low,
        high=high,
        skewness=skewness,
        kurtosis=kurtosis,
    )


def _stride(count: int) -> int:
    """Step that leaves at most `LARGEST_SAMPLE` of `count` fields, and all months of a year: no divisor with 12."""
    stride = -(-count // LARGEST_SAMPLE)
    while stride > 1 and (stride % 2 == 0 or stride % 3 == 0):
        stride += 1
    return stride


def stacked(parts: Sequence[Moments]) -> Moments:
    """The statistics of several stretches, each with the axis (stretch, ...) in front."""
    return Moments(**{field.name: np.stack([getattr(part, field.name) for part in parts]) for field in fields(Moments)})


def differences(found: Moments, true: Moments, view: View) -> dict[str, F64]:
    """Figures (stretch,) of stacked statistics beside the true ones, by the name they have in `Climate`.

    "memory REGION" is the largest difference of the region's autocorrelations over the lags. A figure for which the
    grid is too coarse is left out.
    """
    ratio = found.power / true.power
    # all maps in one call, (..., map, pixel): a call costs more than the maps do
    errors = dict(zip(MAPS, map_rmse(found.maps(MAPS), true.maps(MAPS)).T, strict=True))
    alike = dict(zip(LIKENESS, map_correlation(found.maps(LIKENESS), true.maps(LIKENESS)).T, strict=True))
    pattern = map_correlation(found.pattern[..., None, :], true.pattern[None])[..., 0]
    figures = {
        "mean_map_rmse": errors["mean"],
        "std_correlation": alike["std"],
        "std_ratio": found.std.mean(axis=-1) / true.std.mean(),
        "within_25": np.mean(np.abs(ratio - 1) <= 0.25, axis=-1),
        "within_20": np.mean(np.abs(ratio - 1) <= 0.20, axis=-1),
        "within_10": np.mean(np.abs(ratio - 1) <= 0.10, axis=-1),
        "spectrum_median": np.median(np.abs(ratio - 1), axis=-1),
        "edge_jump": np.max(found.jumps / true.jumps, axis=-1),
        "pattern_correlation": np.abs(pattern),  # EOFs have no sign
        "pattern_share": found.pattern_share,
        "low_rmse": errors["low"],
        "low_correlation": alike["low"],
        "high_rmse": errors["high"],
        "high_correlation": alike["high"],
        "skewness": found.skewness.mean(axis=-1),
        "skewness_rmse": errors["skewness"],
        "kurtosis": found.kurtosis.mean(axis=-1),
        "kurtosis_rmse": errors["kurtosis"],
    }
    peak = cell_peak(ratio, view.latent_zoom)
    if peak is not None:
        figures["cell_peak"] = peak
    largest = np.abs(found.memory - true.memory).max(axis=-1)  # (stretch, region)
    return figures | {f"memory {name}": largest[:, i] for i, name in enumerate(view.regions)}


def compare(
    name: str,
    members: Floating,
    truth: Floating,
    true: Moments,
    view: View,
    *,
    library: Floating | None = None,
    true_near: F64 | None = None,
) -> Climate:
    """The row of an ensemble (member, time, pixel) beside the truth (time, pixel) with its moments.

    `library` (entry, pixel) are the training fields to look for the nearest neighbours in, `true_near` are the
    distances of the truth to its own; without them those figures are missing.
    """
    found = moments(members, view)
    figures = {key: float(values[0]) for key, values in differences(stacked([found]), true, view).items()}
    memory = tuple(
        Memory(region=region, autocorrelation=tuple(lags.tolist()), difference=figures.pop(f"memory {region}"))
        for region, lags in zip(view.regions, found.memory, strict=True)
    )
    near_share = None
    near = None if library is None else nearest_distances(members.reshape(-1, members.shape[-1]), library)
    if near is not None and true_near is not None:
        near_share = float(np.mean(near < np.quantile(true_near, NEAREST_QUANTILES[0])))
    crps, energy = ensemble_scores(members, truth) if len(members) > 1 else (None, None)
    return Climate(
        name=name,
        members=len(members),
        bias=float(found.mean.mean() - true.mean.mean()),
        spectrum_ratio=tuple((found.power / true.power).tolist()),
        cell_peak=figures.pop("cell_peak", None),
        autocorrelation=memory[0].autocorrelation,
        memory=memory,
        crps=crps,
        energy_score=energy,
        nearest_training=None if near is None else float(np.median(near)),
        nearest=None if near is None else tuple(np.quantile(near, NEAREST_QUANTILES).tolist()),
        near_share=near_share,
        **figures,
    )


def ensemble_arrays(members: Floating, truth: Floating, view: View) -> dict[str, F64]:
    """Arrays to draw of an ensemble (member, time, pixel) beside the truth (time, pixel), means not removed.

    Maps (pixel,): `bias` of the mean over members and time; `spread`, root of the mean variance between members of one
    time, with the factor for the number of members; `error`, root mean square error of the ensemble mean; `member_std`,
    mean over members of the standard deviation about their own means; `generated` and `real`, the first member and the
    truth in the middle of the period. `ranks` (region, rank): how often the truth
    has each rank among the members, at thinned pixels of the regions of the view.
    """
    variance, square, bias = np.zeros((3, truth.shape[-1]))
    for step in range(len(truth)):  # one by one: a copy of all in float64 would be large
        fields = members[:, step].astype(np.float64)
        mean = fields.mean(axis=0)
        variance += fields.var(axis=0, ddof=1) / len(truth)
        square += (mean - truth[step]) ** 2 / len(truth)
        bias += (mean - truth[step]) / len(truth)
    thin, middle = thinned(truth.shape[-1]), len(truth) // 2
    places = [thin[weights[thin] > 0.5] for weights in view.regions.values()]
    ranks = [rank_counts(members[..., at].reshape(len(members), -1), truth[:, at].ravel()) for at in places]
    return {
        "bias": bias,
        "spread": np.sqrt((len(members) + 1) / len(members) * variance),
        "error": np.sqrt(square),
        "member_std": np.mean([member.std(axis=0, dtype=np.float64) for member in members], axis=0),
        "generated": members[0, middle].astype(np.float64),
        "real": truth[middle].astype(np.float64),
        "ranks": np.stack(ranks),
    }


def ensemble_scores(members: Floating, truth: Floating) -> tuple[float, float]:
    """Fair CRPS and fair energy score of (member, time, pixel) against (time, pixel), own mean maps removed from both.

    Means over all steps; the members do not forecast these dates, so only the distribution counts.
    """
    own = members - members.mean(axis=1, keepdims=True)
    departures = truth - truth.mean(axis=0)
    return fair_crps(own, departures), energy_score(own, departures)


MOST_STRETCHES = 24  # one every second or third year serves: those of years side by side share most of their steps


def stretches_among_themselves(
    known: Floating, length: int, steps_a_year: int, view: View, most: int = MOST_STRETCHES
) -> Stretches:
    """Ranges of every figure over stretches of `length` steps of the training fields (time, pixel).

    Stretches start a whole number of years before the last one; there are at most `most`. Each is compared, as an
    ensemble of one, with each other one that shares no step with it, as the truth. Ensemble scores take stretches side
    by side, one as the truth and the others as members; their expectation does not depend on the number of members.
    Distances to training fields are those of stretches side by side to all steps outside of them, and the share nearer
    than the 5 % quantile of a real stretch is measured of each by each of the others.
    """
    last = len(known) - length
    count = last // steps_a_year + 1
    starts = list(range(last, -1, -steps_a_year * -(-count // most)))
    waves = harmonic_coefficients(known, view.lmax)
    parts = [slice(start, start + length) for start in starts]
    found = [moments(known[None, part], view, waves[part]) for part in parts]
    figures = _pairs(found, starts, length, view)
    side_by_side = [slice(start, start + length) for start in range(last, -1, -length)]
    figures |= _against_the_others(known, side_by_side)
    memory = np.stack([part.memory for part in found])
    power = np.stack([part.power for part in found])
    return Stretches(
        count=len(starts),
        steps=length,
        side_by_side=len(side_by_side),
        ranges=tuple(
            Range(figure=name, low=float(values.min()), high=float(values.max())) for name, values in figures.items()
        ),
        memory=tuple(
            MemoryRange(
                region=region,
                low=tuple(memory[:, i].min(axis=0).tolist()),
                high=tuple(memory[:, i].max(axis=0).tolist()),
            )
            for i, region in enumerate(view.regions)
        ),
        power_low=tuple(power.min(axis=0).tolist()),
        power_high=tuple(power.max(axis=0).tolist()),
    )


def _pairs(found: list[Moments], starts: list[int], length: int, view: View) -> dict[str, F64]:
    """Figures of all pairs that share no step, each as the truth in turn; none if there is no such pair."""
    collected: dict[str, list[F64]] = {}
    for true, start in zip(found, starts, strict=True):
        others = [part for part, other in zip(found, starts, strict=True) if abs(other - start) >= length]
        if others:
            for name, values in differences(stacked(others), true, view).items():
                collected.setdefault(name, []).append(values)
    return {name: np.concatenate(values) for name, values in collected.items()}


def _against_the_others(known: Floating, parts: list[slice]) -> dict[str, F64]:
    """Ensemble scores and nearest distances of each part (one stretch) by the others; none if there are too few."""
    if len(parts) < 2:
        return {}
    outside = [np.delete(known, part, axis=0) for part in parts]
    near = [nearest_distances(known[part], library) for part, library in zip(parts, outside, strict=True)]
    limits = [np.quantile(values, NEAREST_QUANTILES[0]) for values in near]
    shares = [np.mean(near[i] < limits[j]) for i in range(len(near)) for j in range(len(near)) if i != j]
    quantiles = np.quantile(near, NEAREST_QUANTILES, axis=1)  # (quantile, part)
    found = {"nearest_training": np.median(near, axis=1), "near_share": np.array(shares)}
    found |= {f"nearest {100 * q:.0f} %": values for q, values in zip(NEAREST_QUANTILES, quantiles, strict=True)}
    if len(parts) < 3:
        return found
    scores = [
        ensemble_scores(np.stack([known[other] for other in parts if other != part]), known[part]) for part in parts
    ]
    crps, energy = np.array(scores).T
    return found | {"crps": crps, "energy_score": energy}
