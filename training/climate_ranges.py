"""How far real stretches of the training years differ among themselves: what one decade can tell of another."""

import numpy as np
from numpy.typing import NDArray

from .climate import NEAREST_QUANTILES, Moments, View, differences, ensemble_scores, moments, stacked
from .report import MemoryRange, Range, Stretches
from .scores import nearest_distances
from .spectra import harmonic_coefficients

Floating = NDArray[np.floating]
F64 = NDArray[np.float64]

MOST_STRETCHES = 24  # one every second or third year serves: those of years side by side share most of their steps


def stretches_among_themselves(
    known: Floating, length: int, steps_a_year: int, view: View, most: int = MOST_STRETCHES
) -> Stretches:
    """Ranges of every figure over stretches of `length` steps of the training fields (time, pixel).

    Each stretch that starts a whole number of years before the last one, at most `most` of them, stands for an ensemble
    of one, beside each other one that has no step in common with it, as truth. Scores of ensembles are those of
    stretches side by side, one as truth and the others as members: their expectation does not depend on the number of
    members. Distances to training fields are those of the stretches side by side to all steps outside of them; of the
    share that is nearer than the 5 % quantile of a real stretch each of the others is measured by each.
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
    )


def _pairs(found: list[Moments], starts: list[int], length: int, view: View) -> dict[str, F64]:
    """Figures of all pairs that share no step, either as truth; none where there is no such pair."""
    collected: dict[str, list[F64]] = {}
    for true, start in zip(found, starts, strict=True):
        others = [part for part, other in zip(found, starts, strict=True) if abs(other - start) >= length]
        if others:
            for name, values in differences(stacked(others), true, view).items():
                collected.setdefault(name, []).append(values)
    return {name: np.concatenate(values) for name, values in collected.items()}


def _against_the_others(known: Floating, parts: list[slice]) -> dict[str, F64]:
    """Ensemble scores and nearest distances of each part (one stretch) by the others; none where there are too few."""
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
