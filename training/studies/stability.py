"""Decades generated under a forcing that does not change: does the model's climate drift, spread or fall silent?"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fsae.runtime.arrays import F64
from fsae.training.evaluation.long_runs import LongRun, Moved, generated_pieces, reduce_run, slope, yearly
from fsae.training.evaluation.periods import Material
from fsae.training.evaluation.report import Check
from fsae.training.metrics.spectra import power_spectrum, share_within


@dataclass(frozen=True, kw_only=True)
class Drift:
    """Change of a global figure under constant forcing; errors are standard errors over members."""

    name: str
    mean: float
    change: float  # linear, over the whole run
    error: float
    difference: float  # last decade less first
    difference_error: float


DECADE_YEARS = 10

THIN = 5  # steps between the fields whose spectra are taken: they go through all months, and neighbours say the same

LMAX = 60

# A drift passes within two standard errors over members, or where it is too small to matter: this share of the scale,
# the root mean square of a step's departures.
NEGLIGIBLE = 0.03

STD_RATIO = 0.05  # |ratio of the last decade's standard deviation to the first's - 1|

SPECTRUM_MEDIAN = 0.05  # the same for the power, median over degrees

SPECTRUM_SHARE = 0.9  # of degrees whose power keeps within 20 %


@dataclass(frozen=True, kw_only=True)
class Stability:
    """How one variable's climate changes while nothing forces it to."""

    drifts: tuple[Drift, ...]
    std_ratio: float  # standard deviation over time, mean over pixels: last decade over first
    spectrum_ratio: tuple[float, ...]  # power at l = 2 ... lmax, each member's own mean map removed
    not_finite: int
    checks: tuple[Check, ...]


def stability_steps(material: Material, years: int) -> int:
    """Steps of a run of `years`."""
    return years * len(_last_year(material))


def stability(material: Material, *, members: int, years: int, seed: int, moved: Moved) -> tuple[Stability, ...]:
    """One record for each variable of a free-running ensemble under the forcing of the last training year."""
    one = _last_year(material)
    steps, decade = years * len(one), DECADE_YEARS * len(one)
    start = material.training.times[one[0]]
    forcing = float(material.training.time_years[one].mean())
    pieces = generated_pieces(material, start, steps, members, seed, forcing=forcing, moved=moved)
    shape = (members, steps, *material.training.values.shape[1:])
    run = reduce_run(pieces, shape, [slice(0, decade), slice(steps - decade, steps)], thin=THIN)
    return tuple(stability_of(run, v, float(scale), years) for v, scale in enumerate(material.subject.scale))


def stability_of(run: LongRun, variable: int, scale: float, years: int) -> Stability:
    """The record of one variable of a run whose spans are its first and last decade, with its tolerances."""
    drifts = (
        _drift("global mean", run.mean[..., variable], years),
        _drift("spatial standard deviation", run.spatial_std[..., variable], years),
    )
    first, last = run.span_std[:, :, variable]
    std_ratio = float(last.mean() / first.mean())
    ratio = _spectrum_ratio(run.samples[:, :, :, variable])
    median, share = float(np.median(np.abs(ratio - 1))), share_within(ratio, 0.2)
    checks = [Check(name="values that are not finite", value=run.not_finite, limit="0", passed=run.not_finite == 0)]
    for drift in drifts:
        limit = max(2 * drift.error, NEGLIGIBLE * scale)
        name = f"drift of the {drift.name}"
        passed = abs(drift.change) <= limit
        checks.append(Check(name=name, value=abs(drift.change), limit=f"<= {limit:.3g}", passed=passed))
    for name, value, limit in (
        ("standard deviation, change of last decade over first", abs(std_ratio - 1), STD_RATIO),
        ("power, the same, median over degrees", median, SPECTRUM_MEDIAN),
    ):
        checks.append(Check(name=name, value=value, limit=f"<= {limit:.3g}", passed=value <= limit))
    checks.append(
        Check(
            name="degrees whose power keeps within 20 %",
            value=share,
            limit=f">= {SPECTRUM_SHARE}",
            passed=share >= SPECTRUM_SHARE,
        )
    )
    return Stability(
        drifts=drifts,
        std_ratio=std_ratio,
        spectrum_ratio=tuple(ratio.tolist()),
        not_finite=run.not_finite,
        checks=tuple(checks),
    )


def _last_year(material: Material) -> NDArray[np.int64]:
    """Positions of the steps of the last training year."""
    year = np.array([time.year for time in material.training.times])
    return np.flatnonzero(year == year[-1])


def _drift(name: str, series: F64, years: int) -> Drift:
    """Changes of a series (member, step): linear over the whole run, and from the first decade to the last."""
    steps = series.shape[1] // years
    annual = yearly(series[..., None], np.arange(series.shape[1]) // steps)
    change = slope(annual, np.arange(years, dtype=np.float64))[:, 0] * years
    difference = annual[:, -DECADE_YEARS:, 0].mean(axis=1) - annual[:, :DECADE_YEARS, 0].mean(axis=1)
    root = np.sqrt(len(series))
    return Drift(
        name=name,
        mean=float(annual.mean()),
        change=float(change.mean()),
        error=float(change.std(ddof=1) / root),
        difference=float(difference.mean()),
        difference_error=float(difference.std(ddof=1) / root),
    )


def _spectrum_ratio(samples: NDArray[np.float32]) -> F64:
    """Power of the last over that of the first decade, l = 2 ... lmax, of (span, member, sample, pixel)."""
    lmax = min(LMAX, 2 * int(np.sqrt(samples.shape[-1] / 12)))
    if not np.isfinite(samples).all():
        return np.full(lmax - 1, np.nan)
    own = samples - samples.mean(axis=2, keepdims=True)
    first, last = (power_spectrum(fields, lmax)[2:] for fields in own)
    return np.asarray(last / first)
