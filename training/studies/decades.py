"""`fsae-train decades`: what the calendar year does to generated decades, beside the data and simple extrapolations.

Everything is a departure from the training climatology; the truth is one realisation beside the members.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fsae.runtime.arrays import F64
from fsae.runtime.errors import UsageError
from fsae.training.evaluation.long_runs import LongRun, Moved, count_pieces, generated_pieces, reduce_run, slope, yearly
from fsae.training.evaluation.model import Period
from fsae.training.evaluation.periods import Material, departures_of, joined, open_material, since
from fsae.training.evaluation.report import Check, as_json, table
from fsae.training.metrics.scores import correlation, rmse

from .stability import Drift, stability, stability_steps


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
    """What `fsae-train decades` prints."""

    name: str
    members: int
    stability_members: int
    years: int
    training: tuple[str, str]
    evaluation: tuple[str, str]
    variables: tuple[VariableDecades, ...]


def format_decades(report: DecadesReport) -> str:
    """The report as text for people: Markdown, readable as it is in a terminal."""
    lines = [
        f"# {report.name}: decades",
        "",
        f"Departures from the climatology of {report.training[0]} to {report.training[1]}.",
        f"{report.members} members follow the calendar year from the first decade on; spread: their deviation.",
    ]
    for variable in report.variables:
        lines += ["", *_format_variable(report, variable)]
    return "\n".join(lines) + "\n"


def _format_variable(report: DecadesReport, variable: VariableDecades) -> list[str]:
    rows = [
        [
            f"{row.years[0]}-{row.years[1]}",
            f"{row.truth:+.3f}",
            f"{row.generated:+.3f}",
            f"{row.spread:.3f}",
            "yes" if row.inside else "NO",
            f"{row.map_rmse:.3f}",
            f"{row.map_correlation:.2f}",
            f"{100 * row.pixels_inside:.0f} %",
        ]
        for row in variable.decades
    ]
    header = ["decade", "data", "generated", "spread", "within 2", "map RMSE", "map corr", "pixels within 2"]
    trend = variable.trend
    lines = [f"## {variable.name} [{variable.units}]", "", "### Decadal means", "", *table(header, rows), ""]
    lines += [
        "within 2: the data's global mean within two spreads of the generated one; map RMSE: of the ensemble mean;",
        "map corr: of the decade's difference from the mean over all decades.",
        "",
        f"Trend per decade, {trend.years[0]}-{trend.years[1]}: data {trend.truth:+.3f}, generated "
        f"{trend.generated:+.3f}, spread {trend.spread:.3f};",
        f"the data's trend is {'' if trend.inside else 'NOT '}within two spreads of the generated one.",
        "",
        f"### {report.evaluation[0][:4]} to {report.evaluation[1][:4]}, beyond the training years",
        "",
    ]
    rows = [
        [
            row.name,
            f"{row.difference:+.3f}",
            "" if row.spread is None else f"{row.spread:.3f}",
            f"{row.annual_rmse:.3f}",
            f"{row.map_rmse:.3f}",
        ]
        for row in variable.extrapolation
    ]
    lines += table(["", "off", "spread", "annual RMSE", "map RMSE"], rows)
    lines += [
        "",
        "off: mean over globe and years less the data's; annual RMSE: of global annual means; map: of the mean map.",
        "",
        f"### {report.years} years under the last training year's forcing, {report.stability_members} members",
        "",
    ]
    rows = [
        [
            row.name,
            f"{row.mean:.3f}",
            f"{row.change:+.3f}",
            f"{row.error:.3f}",
            f"{row.difference:+.3f}",
            f"{row.difference_error:.3f}",
        ]
        for row in variable.stability
    ]
    lines += table(["", "mean", "change", "error", "last - first", "error"], rows)
    ratio = np.array(variable.spectrum_ratio)
    lines += [
        "",
        "change: linear, over the whole run; last - first: decade; error: standard error over members.",
        f"Last decade over first: standard deviation {variable.std_ratio:.3f}, power at l = 2 ... {len(ratio) + 1} "
        f"from {ratio.min():.2f} to {ratio.max():.2f}.",
        "",
        "### Tolerances",
        "",
    ]
    verdicts = [[c.name, f"{c.value:.3g}", c.limit, "pass" if c.passed else "FAIL"] for c in variable.checks]
    return lines + table(["figure", "value", "tolerance", ""], verdicts)


log = logging.getLogger("fsae.training")


Progress = Callable[[int, int], None]  # (pieces done, pieces in all)

SHORTEST_DECADE_YEARS = 5

LAST_DECADE_YEARS = 10


def decades_of_model(
    model: str | None,
    *,
    data: Path | None = None,
    members: int = 10,
    stability_members: int = 20,
    years: int = 30,
    seed: int = 0,
    progress: Progress | None = None,
) -> tuple[str, str]:
    """The tables of a run's or a bundle's decades (default: the newest run) and the same as JSON."""
    if min(members, stability_members) < 2 or years < 20:
        raise UsageError(
            f"found {members} and {stability_members} members and {years} years, expected at least 2 and 20"
        )
    material = open_material(model, data)
    report = decades(
        material, members=members, stability_members=stability_members, years=years, seed=seed, progress=progress
    )
    return format_decades(report), as_json(report)


def decades(
    material: Material,
    *,
    members: int,
    stability_members: int,
    years: int,
    seed: int = 0,
    progress: Progress | None = None,
) -> DecadesReport:
    """Forcing response and stability of the model; see the tables for what each figure says."""
    training, evaluation = material.training, material.evaluation
    first = decade_years(training)[0][0]
    whole = since(joined(training, evaluation), first)
    steps = len(whole.times)
    pieces = [count_pieces(material, steps, members)]
    pieces.append(count_pieces(material, stability_steps(material, years), stability_members))
    moved = _counter(sum(pieces), progress)

    spans = [*decade_years(training), (evaluation.times[0].year, evaluation.times[-1].year)]
    year = np.array([time.year for time in whole.times])
    parts = [steps_within(year, span) for span in spans]
    shape = (members, steps, *whole.values.shape[1:])
    log.info("decades: %d members of %d steps under the calendar year", members, steps)
    drawn = reduce_run(generated_pieces(material, whole.times[0], steps, members, seed, moved=moved), shape, parts)
    known = departures_of(material.subject, whole)
    truth = reduce_run([(slice(0, 1), slice(0, steps), known[None])], (1, *shape[1:]), parts)
    log.info("decades: %d members of %d years under constant forcing", stability_members, years)
    stable = stability(material, members=stability_members, years=years, seed=seed, moved=moved)

    training_years = (int(year[0]), int(training.times[-1].year))
    others = persistence_and_trend(material)
    variables = []
    for v, (name, units) in enumerate(material.subject.variables):
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
                checks=(
                    Check(
                        name="trend: distance from the data's, in spreads",
                        value=abs(trend.generated - trend.truth) / trend.spread,
                        limit="<= 2",
                        passed=trend.inside,
                    ),
                    Check(
                        name="decades within two spreads",
                        value=float(np.mean([row.inside for row in rows])),
                        limit=">= 0.8",
                        passed=bool(np.mean([row.inside for row in rows]) >= 0.8),
                    ),
                    *stable[v].checks,
                ),
            )
        )
    return DecadesReport(
        name=material.subject.name,
        members=members,
        stability_members=stability_members,
        years=years,
        training=(str(training.times[0]), str(training.times[-1])),
        evaluation=(str(evaluation.times[0]), str(evaluation.times[-1])),
        variables=tuple(variables),
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
    """First and last year of each calendar decade of a period; those of which it has less than five years are left out.

    Of 1948 to 2004 these are 1950-1959 ... 1990-1999 and 2000-2004.
    """
    years = np.unique([time.year for time in period.times]).tolist()
    decades = [list(group) for _, group in groupby(years, lambda year: year // 10)]
    found = [(group[0], group[-1]) for group in decades if len(group) >= SHORTEST_DECADE_YEARS]
    if not found:
        raise UsageError(
            f"found the training years {years[0]} to {years[-1]}, expected five years of a decade at least"
        )
    return found


def steps_within(years: NDArray[np.int64], span: tuple[int, int]) -> slice:
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


def _trend(drawn: LongRun, truth: LongRun, year: NDArray[np.int64], years: tuple[int, int], v: int) -> Trend:
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


def persistence_and_trend(material: Material) -> dict[str, F64]:
    """Annual-mean maps (year, variable, pixel) of the evaluation years as the training years alone foresee them.

    The mean of the last ten training years, the linear trend of all of them at each pixel, and their climatology.
    """
    known = departures_of(material.subject, material.training)
    year = np.array([time.year for time in material.training.times])
    years = np.unique(year)
    annual = np.stack([known[year == one].mean(axis=0, dtype=np.float64) for one in years])  # (year, variable, pixel)
    later = np.unique([time.year for time in material.evaluation.times])
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
    year: NDArray[np.int64],
    span: tuple[int, int],
    v: int,
    others: dict[str, F64],
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
