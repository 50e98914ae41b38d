"""Records of an evaluation, and their text: one Markdown table per question, the model beside its baselines."""

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass

# Largest RMSE [K] of monthly near-surface temperature at each ratio; at 64 and 256 what EOFs reach, fitted on the same
# years, with as many coefficients.
LARGEST_RMSE_K = {4: 0.105, 16: 0.29, 64: 0.52, 256: 0.80}


@dataclass(frozen=True, kw_only=True)
class FieldErrors:
    """Errors of one way to rebuild the fields, in the variable's unit; pixels are equal in area."""

    name: str
    numbers: int  # stored per step, all variables together
    rmse: float
    level_rmse: tuple[float, ...]  # of each pyramid level of the error; the squares add up to rmse**2
    worst_pixel: float  # largest RMSE over time of any pixel
    psnr_db: float  # range of the true fields over rmse
    cell_mean: float  # largest difference of a base-zoom cell mean


@dataclass(frozen=True, kw_only=True)
class SuperResolution:
    """Rebuilding the fields from their block means on a coarser zoom."""

    zoom: int
    rows: tuple[FieldErrors, ...]


@dataclass(frozen=True, kw_only=True)
class Climate:
    """Statistics of one period or ensemble beside the true evaluation period, each member's own mean map removed.

    `bias` and `mean_map_rmse` are of the removed means. Averages over members: variances, spectra, autocorrelations.
    """

    name: str
    members: int
    bias: float
    mean_map_rmse: float
    std_correlation: float
    std_ratio: float  # mean over pixels of the standard deviation, over that of the truth
    spectrum_ratio: tuple[float, ...]  # power over the truth's, l = 2 ... lmax
    within_25: float  # share of degrees whose ratio is within 25 % of one
    within_20: float
    within_10: float
    spectrum_median: float  # median of |ratio - 1|
    autocorrelation: tuple[float, ...]  # of the global mean, lags of 1, 2, ... steps
    crps: float | None  # fair CRPS of the members against the truth, step by step; None for a single member
    nearest_training: float | None  # median distance to the nearest training field; None for training fields


@dataclass(frozen=True, kw_only=True)
class Range:
    """Lowest and highest autocorrelation of the global mean, per lag, over stretches of the training years."""

    name: str
    stretches: int
    low: tuple[float, ...]
    high: tuple[float, ...]


@dataclass(frozen=True, kw_only=True)
class Check:
    """One figure beside its tolerance."""

    name: str
    value: float
    limit: str
    passed: bool


@dataclass(frozen=True, kw_only=True)
class VariableReport:
    """All figures of one variable."""

    name: str
    units: str
    reconstruction: tuple[FieldErrors, ...]
    superresolution: tuple[SuperResolution, ...]
    climate: tuple[Climate, ...]
    ranges: tuple[Range, ...]
    checks: tuple[Check, ...]


@dataclass(frozen=True, kw_only=True)
class Report:
    """What `fsae-train evaluate` prints."""

    name: str
    training: tuple[str, str]  # first and last stamp
    evaluation: tuple[str, str]
    zooms: tuple[int, ...]
    latent_zoom: int
    step: str
    variables: tuple[VariableReport, ...]

    @property
    def passed(self) -> bool:
        """Whether every figure that has a tolerance keeps it."""
        return all(check.passed for variable in self.variables for check in variable.checks)


def report_json(report: Report) -> str:
    """The report as JSON, keys in the order of the records; infinite and undefined numbers become null."""

    def plain(value: object) -> object:
        if isinstance(value, dict):
            return {key: plain(item) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return [plain(item) for item in value]
        finite = not isinstance(value, float) or abs(value) < float("inf")  # false for NaN as well
        return value if finite else None

    values = {key: plain(item) for key, item in dataclasses.asdict(report).items()}
    return json.dumps({**values, "passed": report.passed}, indent=1, allow_nan=False) + "\n"


def format_report(report: Report) -> str:
    """The report as text for people: Markdown, readable as it is in a terminal 120 columns wide."""
    lines = [
        f"# {report.name}: evaluation {report.evaluation[0]} to {report.evaluation[1]}",
        "",
        f"Statistics and baselines from {report.training[0]} to {report.training[1]} only; zoom {report.zooms[-1]},"
        f" latent at zoom {report.latent_zoom} (ratio {4 ** (report.zooms[-1] - report.latent_zoom)}).",
    ]
    for variable in report.variables:
        lines += ["", *_format_variable(report, variable)]
    return "\n".join(lines) + "\n"


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """A Markdown table with padded columns: the first to the left, the others to the right.

    >>> table(["a", "b"], [["x", "10"]])
    ['| a |  b |', '|---|---:|', '| x | 10 |']
    """
    widths = [max(len(row[i]) for row in [header, *rows]) for i in range(len(header))]

    def line(row: Sequence[str]) -> str:
        cells = [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]
        return "| " + " | ".join(cells) + " |"

    rule = "|" + "|".join(["-" * (widths[0] + 2), *("-" * (width + 1) + ":" for width in widths[1:])]) + "|"
    return [line(header), rule, *(line(row) for row in rows)]


def _format_variable(report: Report, variable: VariableReport) -> list[str]:
    """Lines of one variable: tables, then the figures with their tolerances."""
    units = variable.units
    lines = [f"## {variable.name} [{units}]", "", "### Reconstruction", ""]
    lines += _format_errors(report, variable.reconstruction)
    lines += [
        "",
        "numbers: per step; z: RMSE of that pyramid level; worst: RMSE over time of the worst pixel; PSNR: in dB;",
        f"cell mean: largest change of a cell mean at zoom {report.zooms[0]}; means: of blocks at the latent's zoom.",
    ]
    for coarse in variable.superresolution:
        lines += ["", f"### Super-resolution, zoom {coarse.zoom} to {report.zooms[-1]}", ""]
        lines += _format_errors(report, coarse.rows)
    lines += ["", "### Climate of the period (own mean map removed, except in the first two columns)", ""]
    lines += _format_climate(variable.climate)
    lines += ["", f"### Autocorrelation of the global mean, lags in steps of {report.step}", ""]
    lags = [str(lag + 1) for lag in range(len(variable.climate[0].autocorrelation))]
    rows = [[c.name, *(f"{value:.2f}" for value in c.autocorrelation)] for c in variable.climate]
    for span in variable.ranges:
        for end, values in (("lowest", span.low), ("highest", span.high)):
            rows.append([f"{end} of training, {span.name}", *(f"{value:.2f}" for value in values)])
    lines += table(["lag", *lags], rows)
    if variable.checks:
        verdicts = [[c.name, f"{c.value:.3g}", c.limit, "pass" if c.passed else "FAIL"] for c in variable.checks]
        lines += ["", "### Tolerances", "", *table(["figure", "value", "tolerance", ""], verdicts)]
    return lines


def _format_errors(report: Report, rows: Sequence[FieldErrors]) -> list[str]:
    header = ["", "numbers", "RMSE", *(f"z{zoom}" for zoom in report.zooms), "worst", "PSNR", "cell mean"]
    cells = [
        [
            row.name,
            str(row.numbers),
            f"{row.rmse:.3f}",
            *(f"{value:.3f}" for value in row.level_rmse),
            f"{row.worst_pixel:.2f}",
            f"{row.psnr_db:.1f}",
            f"{row.cell_mean:.0e}" if row.cell_mean < 0.01 else f"{row.cell_mean:.2f}",
        ]
        for row in rows
    ]
    return table(header, cells)


def _format_climate(rows: Sequence[Climate]) -> list[str]:
    header = ["", "bias", "map", "corr", "ratio", "±25 %", "±20 %", "±10 %", "median", "CRPS", "near"]
    cells = [
        [
            row.name,
            f"{row.bias:+.3f}",
            f"{row.mean_map_rmse:.3f}",
            f"{row.std_correlation:.3f}",
            f"{row.std_ratio:.3f}",
            *(f"{100 * share:.0f} %" for share in (row.within_25, row.within_20, row.within_10)),
            f"{row.spectrum_median:.3f}",
            "" if row.crps is None else f"{row.crps:.3f}",
            "" if row.nearest_training is None else f"{row.nearest_training:.2f}",
        ]
        for row in rows
    ]
    notes = [
        "map: RMSE of the mean map; corr, ratio: of the standard-deviation map with the truth's; ±: share of degrees l",
        "whose power is within that of the truth's; median: of |power ratio - 1|; near: median distance to the nearest",
        "training field. truth, ...: what encoding and decoding, or a baseline, leaves of the truth.",
    ]
    return [*table(header, cells), "", *notes]
