"""Records of `fsae-train decades` and their text: one Markdown table per question."""

from dataclasses import dataclass

import numpy as np

from .report import Check, table


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
class Drift:
    """Change of a global figure under constant forcing; errors are standard errors over members."""

    name: str
    mean: float
    change: float  # linear, over the whole run
    error: float
    difference: float  # last decade less first
    difference_error: float


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
