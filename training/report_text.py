"""The text of an evaluation: one Markdown table per question, readable as it is in a terminal 120 columns wide."""

from collections.abc import Sequence

from .climate_text import format_climate
from .report import FieldErrors, Report, VariableReport, table


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
