"""The tables of a climate: mean and variability, memory, distribution, ensemble; real stretches in the last rows."""

from collections.abc import Mapping, Sequence

from .report import Climate, FieldErrors, Report, Stretches, VariableReport, table

# Columns of each table: what stands above it, the figure in the record, and how it is written.
MEAN = (
    ("bias", "bias", "{:+.3f}"),
    ("map", "mean_map_rmse", "{:.3f}"),
    ("corr", "std_correlation", "{:.3f}"),
    ("ratio", "std_ratio", "{:.3f}"),
    ("±25 %", "within_25", "{:.0%}"),
    ("±20 %", "within_20", "{:.0%}"),
    ("±10 %", "within_10", "{:.0%}"),
    ("median", "spectrum_median", "{:.3f}"),
    ("peak", "cell_peak", "{:.2f}"),
    ("edges", "edge_jump", "{:.3f}"),
)

DISTRIBUTION = (
    ("1 %", "low_rmse", "{:.2f}"),
    ("corr", "low_correlation", "{:.3f}"),
    ("99 %", "high_rmse", "{:.2f}"),
    ("corr", "high_correlation", "{:.3f}"),
    ("skew", "skewness", "{:+.3f}"),
    ("RMSE", "skewness_rmse", "{:.3f}"),
    ("kurt", "kurtosis", "{:+.3f}"),
    ("RMSE", "kurtosis_rmse", "{:.3f}"),
)

ENSEMBLE = (
    ("CRPS", "crps", "{:.3f}"),
    ("energy", "energy_score", "{:.3f}"),
    ("near 5 %", "nearest 5 %", "{:.2f}"),
    ("25 %", "nearest 25 %", "{:.2f}"),
    ("50 %", "nearest 50 %", "{:.2f}"),
    ("75 %", "nearest 75 %", "{:.2f}"),
    ("95 %", "nearest 95 %", "{:.2f}"),
    ("below", "near_share", "{:.1%}"),
)

QUANTILES = ("5 %", "25 %", "50 %", "75 %", "95 %")


def format_climate(rows: Sequence[Climate], stretches: Stretches, step: str, heading: str = "###") -> list[str]:
    """Lines of all tables of one variable, each under a `heading` and with a note that explains its columns."""
    lines = ["", f"{heading} Climate of the period (own mean map removed, except in the first two columns)", ""]
    lines += _table(rows, stretches, MEAN)
    lines += [
        "",
        "map: RMSE of the mean map; corr, ratio: of the standard-deviation map with the truth's; ±: share of degrees l",
        "whose power is within that of the truth's; median: of |power ratio - 1|; peak, edges: signs of the network's",
        "patches, the power ratio at a cell's scale over that around it, and the jumps across cell edges.",
        f"lowest, highest: over pairs of {stretches.count} stretches of {stretches.steps} steps of the training years,",
        "either as truth; of the last table over their "
        f"{stretches.side_by_side} stretches side by side, each beside the others.",
        "truth, ...: what encoding and decoding leaves of the truth, and with it of all that is generated.",
        "",
        f"{heading} Memory: largest difference of autocorrelations, lags 1 to {len(rows[0].autocorrelation)}; El Nino",
        "",
    ]
    regions = tuple((memory.region, f"memory {memory.region}", "{:.3f}") for memory in rows[0].memory)
    pattern = (("pattern", "pattern_correlation", "{:.3f}"), ("share", "pattern_share", "{:.3f}"))
    lines += _table(rows, stretches, (*regions, *pattern))
    lines += [
        "",
        "tropics: to 23.5 degrees; north, south: the rest; pattern: correlation of the first EOF within 30 S to 30 N,",
        "150 E to 80 W with the truth's, its sign open; share: of the variance there.",
        "",
        f"{heading} Autocorrelation of regional means, lags in steps of {step}",
        "",
    ]
    lines += _lags(rows, stretches)
    lines += ["", f"{heading} Distribution at each pixel: percentiles, skewness, excess kurtosis", ""]
    lines += _table(rows, stretches, DISTRIBUTION)
    lines += [
        "",
        "1 %, 99 %: RMSE of the map of that percentile, corr: its correlation with the truth's; skew, kurt: mean over",
        "pixels, RMSE: of the map.",
        "",
        f"{heading} Ensemble scores (fair, own mean maps removed) and distance to the nearest training field",
        "",
    ]
    lines += _table(rows, stretches, ENSEMBLE)
    return [
        *lines,
        "",
        "energy: energy score of all pixels together; near: quantiles of the root mean square distance to the nearest",
        "training field; below: share that is nearer than the truth's 5 %. Fields learned by heart are near.",
    ]


def _figures(row: Climate) -> Mapping[str, float | None]:
    """The numbers of a row by name: those of the record, the memories by region, the quantiles of the distance."""
    found: dict[str, float | None] = {
        name: value for name, value in vars(row).items() if isinstance(value, int | float) or value is None
    }
    found |= {f"memory {memory.region}": memory.difference for memory in row.memory}
    if row.nearest is not None:
        found |= {f"nearest {name}": value for name, value in zip(QUANTILES, row.nearest, strict=True)}
    return found


def _table(rows: Sequence[Climate], stretches: Stretches, columns: Sequence[tuple[str, str, str]]) -> list[str]:
    """A table of the rows, then the lowest and the highest of real stretches; blank where there is no figure."""
    named = [(row.name, _figures(row)) for row in rows]
    named += [
        ("lowest of training", {span.figure: span.low for span in stretches.ranges}),
        ("highest of training", {span.figure: span.high for span in stretches.ranges}),
    ]
    cells = []
    for name, figures in named:
        values = [figures.get(figure) for _, figure, _ in columns]
        texts = [
            "" if value is None else form.format(value) for value, (_, _, form) in zip(values, columns, strict=True)
        ]
        cells.append([name, *(text.replace("%", " %") for text in texts)])
    return table(["", *(title for title, _, _ in columns)], cells)


def _lags(rows: Sequence[Climate], stretches: Stretches) -> list[str]:
    """For each region the autocorrelations of the first row, which is the model's, of the truth and of stretches."""
    cells = []
    for i, span in enumerate(stretches.memory):
        shown = [(row.name, row.memory[i].autocorrelation) for row in (rows[0], rows[-1])]
        shown += [("lowest of training", span.low), ("highest of training", span.high)]
        cells += [[f"{span.region}: {name}", *(f"{value:.2f}" for value in values)] for name, values in shown]
    return table(["lag", *(str(lag + 1) for lag in range(len(rows[0].autocorrelation)))], cells)


# The text of an evaluation: one Markdown table per question, readable as it is in a terminal 120 columns wide.


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
    lines += format_climate(variable.climate, variable.stretches, report.step)
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
