"""`fsae-train decades`: decades generated under the forcing of the past, beside the data and simple extrapolations.

Everything is a departure from the training climatology; the truth is one realisation beside the members.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

import numpy as np

from fsae.runtime.arrays import F64, Ints
from fsae.runtime.errors import UsageError
from fsae.runtime.progress import Progress
from fsae.training.evaluation.data import ModelWithData, open_model_with_data
from fsae.training.evaluation.long_runs import LongRun, Moved, count_pieces, generated_pieces, reduce_run, slope, yearly
from fsae.training.evaluation.model import departures_of, plan_of
from fsae.training.evaluation.periods import Period, joined
from fsae.training.evaluation.report import Check, as_json
from fsae.training.evaluation.tables import NAME, Column, Table, verdicts
from fsae.training.metrics.scores import correlation, rmse

from .stability import Drift, stability, stability_steps

log = logging.getLogger("fsae.training")
SHORTEST_DECADE_YEARS = 5
LAST_DECADE_YEARS = 10
INSIDE_SHARE = 0.8  # of decades, at least, that lie within two spreads


@dataclass(frozen=True, kw_only=True)
class Ensembles:
    """Size of the ensemble that follows the calendar year, and of the one under constant forcing."""

    members: int = 10
    stability_members: int = 20
    years: int = 30
    seed: int = 0

    def __post_init__(self) -> None:
        if min(self.members, self.stability_members) < 2 or self.years < 20:
            raise UsageError(
                f"found {self.members} and {self.stability_members} members and {self.years} years",
                "at least 2 and 20",
                "raise them",
            )


@dataclass(frozen=True, kw_only=True)
class Decade:
    """Mean of one decade, departures from the training climatology in the variable's unit."""

    years: tuple[int, int]  # first and last
    truth: float  # global mean
    generated: float  # the same, mean over members
    spread: float  # standard deviation of the members' decadal means
    inside: bool  # the truth lies within two spreads of the mean
    map_rmse: float  # between the maps of the ensemble mean and of the truth
    map_correlation: float  # of their differences from the mean over all decades
    pixels_inside: float  # share of pixels where the truth lies within two spreads


@dataclass(frozen=True, kw_only=True)
class Trend:
    """Linear trend of global annual means, in the variable's unit per decade."""

    years: tuple[int, int]
    truth: float
    generated: float
    spread: float  # standard deviation over members
    inside: bool


@dataclass(frozen=True, kw_only=True)
class Extrapolation:
    """The evaluation years as foreseen from the training years."""

    name: str
    difference: float  # of the mean over globe and years, forecast less truth
    spread: float | None  # standard deviation over members; None for a single forecast
    annual_rmse: float  # of global annual means
    map_rmse: float  # of the mean map


@dataclass(frozen=True, kw_only=True)
class VariableDecades:
    """All of one variable."""

    name: str
    units: str
    decades: tuple[Decade, ...]
    trend: Trend
    extrapolation: tuple[Extrapolation, ...]
    stability: tuple[Drift, ...]
    std_ratio: float  # standard deviation over time, mean over pixels: last decade over first
    spectrum_ratio: tuple[float, ...]  # power of the last decade over that of the first, l = 2 ... lmax
    not_finite: int  # values in both runs
    checks: tuple[Check, ...]


@dataclass(frozen=True, kw_only=True)
class DecadesReport:
    """The report of `fsae-train decades`."""

    name: str
    members: int
    stability_members: int
    years: int
    training: tuple[str, str]
    evaluation: tuple[str, str]
    variables: tuple[VariableDecades, ...]


DECADES = Table(
    (
        Column("decade", lambda row: "{}-{}".format(*row.years)),
        Column("data", "truth", "+.3f"),
        Column("generated", "generated", "+.3f"),
        Column("spread", "spread", ".3f"),
        Column("within 2", lambda row: "yes" if row.inside else "NO"),
        Column("map RMSE", "map_rmse", ".3f"),
        Column("map corr", "map_correlation", ".2f"),
        Column("pixels within 2", "pixels_inside", ".0%"),
    ),
    "within 2: the data's global mean within two spreads of the generated one; map RMSE: of the ensemble mean; map "
    "corr: of the decade's difference from the mean over all decades.",
)

EXTRAPOLATION = Table(
    (
        NAME,
        Column("off", "difference", "+.3f"),
        Column("spread", "spread", ".3f"),
        Column("annual RMSE", "annual_rmse", ".3f"),
        Column("map RMSE", "map_rmse", ".3f"),
    ),
    "off: mean over globe and years less the data's; annual RMSE: of global annual means; map: of the mean map.",
)

STABILITY = Table(
    (
        NAME,
        Column("mean", "mean", ".3f"),
        Column("change", "change", "+.3f"),
        Column("error", "error", ".3f"),
        Column("last - first", "difference", "+.3f"),
        Column("error", "difference_error", ".3f"),
    ),
    "change: linear, over the whole run; last - first: decade; error: standard error over members.",
)


def format_decades(report: DecadesReport) -> str:
    """The report as Markdown, readable as it is in a terminal."""
    lines = [
        f"# {report.name}: decades",
        "",
        f"Departures from the climatology of {report.training[0]} to {report.training[1]}.",
        f"{report.members} members follow the forcing of the past from the first decade on; spread: their deviation.",
    ]
    beyond = f"### {report.evaluation[0][:4]} to {report.evaluation[1][:4]}, beyond the training years"
    constant = f"### {report.years} years under the last training year's forcing, {report.stability_members} members"
    for variable in report.variables:
        trend, ratio = variable.trend, variable.spectrum_ratio
        lines += [
            "",
            f"## {variable.name} [{variable.units}]",
            *DECADES.lines(variable.decades, "### Decadal means"),
            "",
            f"Trend per decade, {trend.years[0]}-{trend.years[1]}: data {trend.truth:+.3f}, generated "
            f"{trend.generated:+.3f}, spread {trend.spread:.3f};",
            f"the data's trend is {'' if trend.inside else 'NOT '}within two spreads of the generated one.",
            *EXTRAPOLATION.lines(variable.extrapolation, beyond),
            *STABILITY.lines(variable.stability, constant),
            f"Last decade over first: standard deviation {variable.std_ratio:.3f}, power at l = 2 ... {len(ratio) + 1} "
            f"from {min(ratio):.2f} to {max(ratio):.2f}.",
            *verdicts().lines(variable.checks, "### Tolerances"),
        ]
    return "\n".join(lines) + "\n"


def decades_of_model(
    model: str | None, data: Path | None, size: Ensembles, progress: Progress | None = None
) -> tuple[str, str]:
    """The tables of a run's or a bundle's decades (default: the newest run) and the same as JSON."""
    report = decades(open_model_with_data(model, data), size, progress)
    return format_decades(report), as_json(report)


def decades(case: ModelWithData, size: Ensembles, progress: Progress | None = None) -> DecadesReport:
    """Forcing response and stability of the model."""
    model, training, evaluation = case.model, case.training, case.evaluation
    first = decade_years(training)[0][0]
    whole = joined(training, evaluation).since(first)
    count = len(whole.times)
    pieces = count_pieces(model, count, size.members)
    pieces += count_pieces(model, stability_steps(case, size.years), size.stability_members)
    moved = _counter(pieces, progress)

    spans = [*decade_years(training), (evaluation.times[0].year, evaluation.times[-1].year)]
    year = np.array([time.year for time in whole.times])
    parts = [steps_within(year, span) for span in spans]
    shape = (size.members, count, *whole.values.shape[1:])
    log.info("decades: %d members of %d steps under the forcing of the past", size.members, count)
    plan = plan_of(model, range(size.members), whole.times[0], count, size.seed)
    drawn = reduce_run(generated_pieces(model, plan, moved), shape, parts)
    known = departures_of(model, whole)
    truth = reduce_run([(slice(0, 1), slice(0, count), known[None])], (1, *shape[1:]), parts)
    log.info("decades: %d members of %d years under constant forcing", size.stability_members, size.years)
    stable = stability(case, members=size.stability_members, years=size.years, seed=size.seed, moved=moved)

    training_years = (int(year[0]), int(training.times[-1].year))
    others = persistence_and_trend(case)
    variables = []
    for v, (name, units) in enumerate(model.named_units):
        rows = tuple(_decade(drawn, truth, number, span, v) for number, span in enumerate(spans[:-1]))
        trend = _trend(drawn, truth, year, training_years, v)
        variables.append(
            VariableDecades(
                name=name,
                units=units,
                decades=rows,
                trend=trend,
                extrapolation=_extrapolation(drawn, truth, year, spans[-1], v, {n: f[:, v] for n, f in others.items()}),
                stability=stable[v].drifts,
                std_ratio=stable[v].std_ratio,
                spectrum_ratio=stable[v].spectrum_ratio,
                not_finite=stable[v].not_finite + drawn.not_finite,
                checks=(*_checks(rows, trend), *stable[v].checks),
            )
        )
    return DecadesReport(
        name=model.name,
        members=size.members,
        stability_members=size.stability_members,
        years=size.years,
        training=training.first_and_last,
        evaluation=evaluation.first_and_last,
        variables=tuple(variables),
    )


def _checks(decades: Sequence[Decade], trend: Trend) -> tuple[Check, Check]:
    """The checks of the response to the forcing of the past."""
    inside = float(np.mean([row.inside for row in decades]))
    return (
        Check(
            name="trend: distance from the data's, in spreads",
            value=abs(trend.generated - trend.truth) / trend.spread,
            limit="<= 2",
            passed=trend.inside,
        ),
        Check(
            name="decades within two spreads",
            value=inside,
            limit=f">= {INSIDE_SHARE}",
            passed=inside >= INSIDE_SHARE,
        ),
    )


def _counter(total: int, progress: Progress | None) -> Moved:
    done = 0

    def moved() -> None:
        nonlocal done
        done += 1
        if progress is not None:
            progress(done, total)

    return moved


def decade_years(period: Period) -> list[tuple[int, int]]:
    """First and last year of each calendar decade of a period; those with fewer than five years in it are left out.

    Of 1948 to 2004 these are 1950-1959 ... 1990-1999 and 2000-2004.
    """
    years = np.unique([time.year for time in period.times]).tolist()
    decades = [list(group) for _, group in groupby(years, lambda year: year // 10)]
    found = [(group[0], group[-1]) for group in decades if len(group) >= SHORTEST_DECADE_YEARS]
    if not found:
        raise UsageError(
            f"found the training years {years[0]} to {years[-1]}",
            "five years of a decade at least",
            "change data.training_years",
        )
    return found


def steps_within(years: Ints, span: tuple[int, int]) -> slice:
    """The steps whose year (step,) lies in `span`, both ends included."""
    inside = np.flatnonzero((years >= span[0]) & (years <= span[1]))
    return slice(int(inside[0]), int(inside[-1]) + 1)


def _decade(drawn: LongRun, truth: LongRun, number: int, span: tuple[int, int], v: int) -> Decade:
    """One decade: global means, and the maps of decadal means."""
    maps, true_map = drawn.span_mean[number, :, v], truth.span_mean[number, 0, v]
    means, true_mean = maps.mean(axis=-1), float(true_map.mean())
    spread = means.std(ddof=1)
    mean_map = maps.mean(axis=0)
    # what sets the decade apart from all of them, so that a constant bias does not hide the pattern of change
    change = mean_map - drawn.span_mean[:-1, :, v].mean(axis=(0, 1))
    true_change = true_map - truth.span_mean[:-1, 0, v].mean(axis=0)
    return Decade(
        years=span,
        truth=true_mean,
        generated=float(means.mean()),
        spread=float(spread),
        inside=bool(abs(means.mean() - true_mean) <= 2 * spread),
        map_rmse=rmse(mean_map, true_map),
        map_correlation=correlation(change, true_change),
        pixels_inside=float(np.mean(np.abs(mean_map - true_map) <= 2 * maps.std(axis=0, ddof=1))),
    )


def _trend(drawn: LongRun, truth: LongRun, year: Ints, years: tuple[int, int], v: int) -> Trend:
    """Linear trends of global annual means over the training decades, per decade."""
    part = steps_within(year, years)
    times = np.unique(year[part]).astype(np.float64)
    own, true = (10 * slope(yearly(run.mean[:, part], year[part]), times)[:, v] for run in (drawn, truth))
    spread = own.std(ddof=1)
    return Trend(
        years=years,
        truth=float(true[0]),
        generated=float(own.mean()),
        spread=float(spread),
        inside=bool(abs(own.mean() - true[0]) <= 2 * spread),
    )


def persistence_and_trend(case: ModelWithData) -> dict[str, F64]:
    """Annual-mean maps (year, variable, pixel) of the evaluation years as the training years alone foresee them.

    The mean of the last ten training years, the linear trend of all of them at each pixel, and their climatology.
    """
    known = departures_of(case.model, case.training)
    year = np.array([time.year for time in case.training.times])
    years = np.unique(year)
    annual = np.stack([known[year == one].mean(axis=0, dtype=np.float64) for one in years])  # (year, variable, pixel)
    later = np.unique([time.year for time in case.evaluation.times])
    rise = np.tensordot(years - years.mean(), annual, axes=1) / np.sum((years - years.mean()) ** 2)
    ahead = (later - years.mean())[:, None, None]
    return {
        "persistence of the last decade": np.repeat(annual[-LAST_DECADE_YEARS:].mean(axis=0)[None], len(later), axis=0),
        "linear trend, training years": annual.mean(axis=0) + ahead * rise,
        "training climatology": np.repeat(annual.mean(axis=0)[None], len(later), axis=0),
    }


def _extrapolation(
    drawn: LongRun,
    truth: LongRun,
    year: Ints,
    span: tuple[int, int],
    v: int,
    others: Mapping[str, F64],
) -> tuple[Extrapolation, ...]:
    """The evaluation years as the model foresees them, beside simple forecasts (year, pixel)."""
    part = steps_within(year, span)
    annual, true_annual = (yearly(run.mean[:, part], year[part])[..., v] for run in (drawn, truth))  # (member, year)
    maps, true_map = drawn.span_mean[-1, :, v], truth.span_mean[-1, 0, v]
    own = maps.mean(axis=-1)
    rows = [
        Extrapolation(
            name="generated",
            difference=float(own.mean() - true_map.mean()),
            spread=float(own.std(ddof=1)),
            annual_rmse=rmse(annual.mean(axis=0), true_annual[0]),
            map_rmse=rmse(maps.mean(axis=0), true_map),
        )
    ]
    for name, fields in others.items():
        mean_map = fields.mean(axis=0)
        rows.append(
            Extrapolation(
                name=name,
                difference=float(mean_map.mean() - true_map.mean()),
                spread=None,
                annual_rmse=rmse(fields.mean(axis=-1), true_annual[0]),
                map_rmse=rmse(mean_map, true_map),
            )
        )
    return tuple(rows)
