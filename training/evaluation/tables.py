"""Markdown tables described as data, and those of an evaluation: readable in a terminal 120 columns wide."""

import textwrap
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
import tabulate

from .report import Climate, Report, Stretches, VariableReport

WIDTH = 118
tabulate.MIN_PADDING = 0  # its default makes headers two spaces wider than they need to be: too wide for a terminal


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines of a Markdown table with padded columns: the first aligned to the left, the others to the right.

    >>> table(["a", "b"], [["x", "10"]])
    ['| a |  b |', '|:--|---:|', '| x | 10 |']
    """
    sides = ("left", *["right"] * (len(header) - 1))
    text: str = tabulate.tabulate(rows, header, "pipe", colalign=sides, disable_numparse=True)
    return text.splitlines()


@dataclass(frozen=True)
class Column:
    """A column: its title, the figure of a row that it shows, and the format specification of that.

    The figure is an attribute of the row, a key if the row is a mapping, or a function of the row; of a sequence it is
    the entry at `place`. A missing figure (None) leaves its cell blank.

    >>> Column("share", "share", ".0%").cell({"share": 0.25})
    '25 %'
    """

    title: str
    figure: str | Callable[[Any], object]
    form: str = ""
    place: int | None = None

    def cell(self, row: object) -> str:
        """The figure of a row as text."""
        if callable(self.figure):
            value: Any = self.figure(row)
        else:
            value = row.get(self.figure) if isinstance(row, Mapping) else getattr(row, self.figure)
        if self.place is not None:
            value = value[self.place] if self.place < len(value) else None
        text = "" if value is None else format(value, self.form)
        return text.replace("%", " %") if self.form.endswith("%") else text


def columns(titles: Iterable[object], figure: str | Callable[[Any], object], form: str) -> tuple[Column, ...]:
    """One column for each entry of a figure that is a sequence."""
    return tuple(Column(str(title), figure, form, place) for place, title in enumerate(titles))


@dataclass(frozen=True)
class Table:
    """A kind of table: its columns, and a note below it that explains them."""

    columns: tuple[Column, ...]
    note: str = ""

    def lines(self, rows: Iterable[object], heading: str = "") -> list[str]:
        """Lines of Markdown: the heading, one row for each of `rows`, the note."""
        cells = [[column.cell(row) for column in self.columns] for row in rows]
        return [
            *(["", heading, ""] if heading else []),
            *table([column.title for column in self.columns], cells),
            *(["", *wrapped(self.note)] if self.note else []),
        ]


def wrapped(text: str) -> list[str]:
    """Lines of a text as wide as a terminal."""
    return textwrap.wrap(text, WIDTH)


NAME = Column("", "name")
RMSE = Column("RMSE", "rmse", ".4g")

# Tables of the model card and of the report, of figures as they are kept in JSON.
CARD_RECONSTRUCTION = Table((Column("reconstruction", "name"), Column("numbers per step", "numbers"), RMSE))
CARD_CHECKS = Table(
    (
        Column("figure", "name"),
        Column("value", "value", ".4g"),
        Column("tolerance", "limit"),
        Column("", lambda check: "kept" if check["passed"] else "NOT KEPT"),
    )
)


def card_superresolution(zoom: int) -> Table:
    """The table of super-resolution from a zoom."""
    return Table((Column(f"super-resolution from zoom {zoom}", "name"), RMSE))


def verdicts(limit: str = "tolerance") -> Table:
    """The table of `Check` records; `limit` is what stands above the tolerances."""
    passed = Column("", lambda check: "pass" if check.passed else "FAIL")
    return Table((Column("figure", "name"), Column("value", "value", ".3g"), Column(limit, "limit"), passed))


MEAN = (
    NAME,
    Column("bias", "bias", "+.3f"),
    Column("map", "mean_map_rmse", ".3f"),
    Column("corr", "std_correlation", ".3f"),
    Column("ratio", "std_ratio", ".3f"),
    Column("±25 %", "within_25", ".0%"),
    Column("±20 %", "within_20", ".0%"),
    Column("±10 %", "within_10", ".0%"),
    Column("median", "spectrum_median", ".3f"),
    Column("peak", "cell_peak", ".2f"),
    Column("edges", "edge_jump", ".3f"),
)

PATTERN = (Column("pattern", "pattern_correlation", ".3f"), Column("share", "pattern_share", ".3f"))

DISTRIBUTION = Table(
    (
        NAME,
        Column("1 %", "low_rmse", ".2f"),
        Column("corr", "low_correlation", ".3f"),
        Column("99 %", "high_rmse", ".2f"),
        Column("corr", "high_correlation", ".3f"),
        Column("skew", "skewness", "+.3f"),
        Column("RMSE", "skewness_rmse", ".3f"),
        Column("kurt", "kurtosis", "+.3f"),
        Column("RMSE", "kurtosis_rmse", ".3f"),
    ),
    "1 %, 99 %: RMSE of the map of that percentile, corr: its correlation with the truth's; skew, kurt: mean over "
    "pixels, RMSE: of the map.",
)
ENSEMBLE = Table(
    (
        NAME,
        Column("CRPS", "crps", ".3f"),
        Column("energy", "energy_score", ".3f"),
        Column("near 5 %", "nearest 5 %", ".2f"),
        Column("25 %", "nearest 25 %", ".2f"),
        Column("50 %", "nearest 50 %", ".2f"),
        Column("75 %", "nearest 75 %", ".2f"),
        Column("95 %", "nearest 95 %", ".2f"),
        Column("below", "near_share", ".1%"),
    ),
    "energy: energy score of all pixels together; near: quantiles of the root mean square distance to the nearest "
    "training field; below: share that is nearer than the truth's 5 %. Memorised fields are near.",
)
QUANTILES = ("5 %", "25 %", "50 %", "75 %", "95 %")


@dataclass(frozen=True, kw_only=True)
class Filled:
    """A table with its heading and rows."""

    heading: str
    table: Table
    rows: Sequence[object]


def format_climate(rows: Sequence[Climate], stretches: Stretches, step: str, level: str = "###") -> list[str]:
    """Lines of all tables of one variable under headings of a `level`."""
    filled = climate_tables(rows, stretches, step)
    return [line for one in filled for line in one.table.lines(one.rows, f"{level} {one.heading}")]


def climate_tables(rows: Sequence[Climate], stretches: Stretches, step: str) -> tuple[Filled, ...]:
    """Climate, memory, autocorrelation, distribution and ensemble scores of one variable.

    Real stretches are in the last rows.
    """
    named = [
        *map(_figures, rows),
        {"name": "lowest of training"} | {span.figure: span.low for span in stretches.ranges},
        {"name": "highest of training"} | {span.figure: span.high for span in stretches.ranges},
    ]
    mean = Table(
        MEAN,
        "map: RMSE of the mean map; corr, ratio: of the standard-deviation map with the truth's; ±: share of degrees l "
        "whose power is that close to the truth's; median: of |power ratio - 1|; peak, edges: traces of the network's "
        "patches, the power ratio at a cell's scale over that around it, and the jumps across cell edges. lowest, "
        f"highest: over pairs of {stretches.count} stretches of {stretches.steps} steps of the training years, either "
        f"as truth; in the last table over their {stretches.side_by_side} stretches side by side, each beside the "
        "others. truth, reconstructed: what encoding and decoding leaves of the truth, and so of everything generated.",
    )
    regions = [Column(memory.region, f"memory {memory.region}", ".3f") for memory in rows[0].memory]
    memory = Table(
        (NAME, *regions, *PATTERN),
        "tropics: to 23.5 degrees; north, south: the rest; pattern: correlation of the first EOF within 30 S to 30 N, "
        "150 E to 80 W with the truth's, regardless of sign; share: of the variance there.",
    )
    lags = range(1, len(rows[0].autocorrelation) + 1)
    autocorrelation = Table((Column("lag", "name"), *columns(lags, "values", ".2f")))
    lagged = _autocorrelations(rows, stretches)
    headings = (
        "Climate of the period (own mean map removed, except in the first two columns)",
        f"Memory: largest difference of autocorrelations, lags 1 to {len(lags)}; El Nino",
        f"Autocorrelation of regional means, lags in steps of {step}",
        "Distribution at each pixel: percentiles, skewness, excess kurtosis",
        "Ensemble scores (fair, own mean maps removed) and distance to the nearest training field",
    )
    tables = (mean, memory, autocorrelation, DISTRIBUTION, ENSEMBLE)
    return tuple(
        Filled(heading=heading, table=table, rows=lagged if table is autocorrelation else named)
        for heading, table in zip(headings, tables, strict=True)
    )


def _figures(row: Climate) -> dict[str, object]:
    """The figures of a row by name, with the memories by region and the quantiles of the distance."""
    found = {**msgspec.structs.asdict(row), **{f"memory {memory.region}": memory.difference for memory in row.memory}}
    if row.nearest is not None:
        found |= {f"nearest {name}": value for name, value in zip(QUANTILES, row.nearest, strict=True)}
    return found


def _autocorrelations(rows: Sequence[Climate], stretches: Stretches) -> list[dict[str, object]]:
    """For each region those of the first row, which is the model's, of the truth, and of real stretches."""
    found: list[dict[str, object]] = []
    for i, span in enumerate(stretches.memory):
        shown = [(row.name, row.memory[i].autocorrelation) for row in (rows[0], rows[-1])]
        shown += [("lowest of training", span.low), ("highest of training", span.high)]
        found += [{"name": f"{span.region}: {name}", "values": values} for name, values in shown]
    return found


def format_report(report: Report) -> str:
    """The report as Markdown."""
    lines = [
        f"# {report.name}: evaluation {report.evaluation[0]} to {report.evaluation[1]}",
        "",
        f"Statistics and baselines from {report.training[0]} to {report.training[1]} only; zoom {report.zooms[-1]},"
        f" latent at zoom {report.latent_zoom} (ratio {4 ** (report.zooms[-1] - report.latent_zoom)}).",
    ]
    for variable in report.variables:
        lines += ["", f"## {variable.name} [{variable.units}]", *_format_variable(report, variable)]
    return "\n".join(lines) + "\n"


def _format_variable(report: Report, variable: VariableReport) -> list[str]:
    """Lines of one variable: tables, then the figures with their tolerances."""
    errors = (
        NAME,
        Column("numbers", "numbers"),
        Column("RMSE", "rmse", ".3f"),
        *columns((f"z{zoom}" for zoom in report.zooms), "level_rmse", ".3f"),
        Column("worst", "worst_pixel", ".2f"),
        Column("PSNR", "psnr_db", ".1f"),
        Column("cell mean", lambda row: format(row.cell_mean, ".0e" if row.cell_mean < 0.01 else ".2f")),
    )
    note = (
        "numbers: per step; z: RMSE of that pyramid level; worst: RMSE over time of the worst pixel; PSNR: in dB; cell "
        f"mean: largest change of a cell mean at zoom {report.zooms[0]}; means: of blocks at the latent's zoom."
    )
    lines = Table(errors, note).lines(variable.reconstruction, "### Reconstruction")
    for coarse in variable.superresolution:
        lines += Table(errors).lines(coarse.rows, f"### Super-resolution, zoom {coarse.zoom} to {report.zooms[-1]}")
    lines += format_climate(variable.climate, variable.stretches, report.step)
    return lines + (verdicts().lines(variable.checks, "### Tolerances") if variable.checks else [])
