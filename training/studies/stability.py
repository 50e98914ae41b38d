"""Decades generated under a constant forcing: does the model's climate drift, spread or lose its variability?"""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from fsae.runtime.arrays import F64, Ints
from fsae.runtime.climate.scenarios import forcing_in
from fsae.training.evaluation.climate_checks import at_most
from fsae.training.evaluation.data import ModelWithData
from fsae.training.evaluation.long_runs import LongRun, Moved, generated_pieces, reduce_run, slope, yearly
from fsae.training.evaluation.model import plan_of
from fsae.training.evaluation.report import Check
from fsae.training.metrics.spectra import power_spectrum, share_within

DECADE_YEARS = 10
THIN = 5  # steps between the fields whose spectra are taken: they visit all months, and neighbours say the same
LMAX = 60

# A drift passes within two standard errors over members, or if it is too small to matter: this share of the scale, the
# root mean square of a step's departures.
NEGLIGIBLE = 0.03
STD_RATIO = 0.05  # |ratio of the last decade's standard deviation to the first's - 1|
SPECTRUM_MEDIAN = 0.05  # the same for the power, median over degrees
SPECTRUM_SHARE = 0.9  # of degrees whose power keeps within 20 %


@dataclass(frozen=True, kw_only=True)
class Drift:
    """Change of a global figure under constant forcing; errors are standard errors over members."""

    name: str
    mean: float
    change: float  # linear, over the whole run
    error: float
    difference: float  # last decade less first
    difference_error: float


@dataclass(frozen=True, kw_only=True)
class Stability:
    """How the climate of one variable changes although nothing forces it."""

    drifts: tuple[Drift, ...]
    std_ratio: float  # standard deviation over time, mean over pixels: last decade over first
    spectrum_ratio: tuple[float, ...]  # power at l = 2 ... lmax, each member's own mean map removed
    not_finite: int
    checks: tuple[Check, ...]


def stability_steps(case: ModelWithData, years: int) -> int:
    """Steps of a run of `years`."""
    return years * len(_last_year(case))


def stability(case: ModelWithData, *, members: int, years: int, seed: int, moved: Moved) -> tuple[Stability, ...]:
    """One record for each variable of a free-running ensemble under the forcing of the last training year."""
    model, one = case.model, _last_year(case)
    count, decade = years * len(one), DECADE_YEARS * len(one)
    plan = plan_of(model, range(members), case.training.times[one[0]], count, seed)
    held = forcing_in(model.scenarios, case.training.time_years[one]).mean()
    forcing = np.full_like(plan.steps.forcing, held)
    pieces = generated_pieces(model, replace(plan, steps=replace(plan.steps, forcing=forcing)), moved)
    shape = (members, count, *case.training.values.shape[1:])
    run = reduce_run(pieces, shape, [slice(0, decade), slice(count - decade, count)], thin=THIN)
    return tuple(stability_of(run, v, float(scale), years) for v, scale in enumerate(model.scale))


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
    kept = Check(
        name="degrees whose power keeps within 20 %",
        value=share,
        limit=f">= {SPECTRUM_SHARE}",
        passed=share >= SPECTRUM_SHARE,
    )
    return Stability(
        drifts=drifts,
        std_ratio=std_ratio,
        spectrum_ratio=tuple(ratio.tolist()),
        not_finite=run.not_finite,
        checks=(
            Check(name="values that are not finite", value=run.not_finite, limit="0", passed=run.not_finite == 0),
            *(
                at_most(f"drift of the {drift.name}", abs(drift.change), max(2 * drift.error, NEGLIGIBLE * scale))
                for drift in drifts
            ),
            at_most("standard deviation, change of last decade over first", abs(std_ratio - 1), STD_RATIO),
            at_most("power, the same, median over degrees", median, SPECTRUM_MEDIAN),
            kept,
        ),
    )


def _last_year(case: ModelWithData) -> Ints:
    """Positions of the steps of the last training year."""
    year = np.array([time.year for time in case.training.times])
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
