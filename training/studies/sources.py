"""`fsae-train sources`: what a diffusion model gains from each source, ensembles of several runs side by side."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec

from fsae.runtime.arrays import F32
from fsae.runtime.errors import UsageError
from fsae.training.config import whole_years
from fsae.training.evaluation.climate import View, compare, moments
from fsae.training.evaluation.model import TrainedModel, anomalies, draw, of_run
from fsae.training.evaluation.periods import Period, read_periods
from fsae.training.evaluation.report import Climate, as_json
from fsae.training.evaluation.tables import NAME, Column, Table
from fsae.training.fitting.run_folder import Run, load_run

log = logging.getLogger("fsae.training")


@dataclass(frozen=True, kw_only=True)
class SourceRow:
    """The climate that a run generates, one variable's, and what its diffusion model learned from."""

    variable: str
    units: str
    sources: str
    climate: Climate


SOURCES = Table(
    (
        NAME,
        Column("learned from", "sources"),
        Column("variable", "{variable} [{units}]".format_map),
        Column("bias", "bias", "+.3f"),
        Column("map", "mean_map_rmse", ".3f"),
        Column("corr", "std_correlation", ".3f"),
        Column("ratio", "std_ratio", ".3f"),
        Column("median", "spectrum_median", ".3f"),
        Column("±20 %", "within_20", ".0%"),
        Column("CRPS", "crps", ".3f"),
        Column("energy", "energy_score", ".3f"),
    ),
    "bias, map: of the mean map and its RMSE; corr, ratio: standard-deviation map with the truth's; median: of "
    "|power ratio - 1| over degrees l; ±20 %: share of degrees within that; CRPS and energy score: fair. All but the "
    "first two with each member's own mean map removed.",
)


def sources_of_runs(folders: Sequence[Path], members: int) -> tuple[str, str]:
    """The table and the same as JSON."""
    rows = compare_sources(folders, members)
    text = "\n".join(SOURCES.lines({**vars(row), **msgspec.structs.asdict(row.climate)} for row in rows))
    return text, as_json(rows)


def compare_sources(folders: Sequence[Path], members: int) -> list[SourceRow]:
    """Rows of every run and variable, then of the last training years as a forecast.

    UsageError if a run does not generate, or if runs do not share data and autoencoder settings, for then more than
    the diffusion models differs.
    """
    runs = [load_run(folder) for folder in folders]
    config = runs[0].config
    for run in runs:
        if run.denoiser is None:
            raise UsageError(
                f"{run.path} has no diffusion model",
                "runs that generate",
                "name runs that were trained with a [diffusion] table",
            )
        if (run.config.data, run.config.autoencoder) != (config.data, config.autoencoder):
            raise UsageError(
                f"{run.path} has other data or another autoencoder than {runs[0].path}",
                "the same",
                "compare runs that share them",
            )
    first, last = whole_years(config.data.evaluation_years, "a comparison with the years before")
    before = (first - (last - first) - 1, first - 1)
    evaluation, previous = read_periods(
        runs[0].fields, config.data.variables, config.autoencoder.zoom, (first, last), before
    )
    count = len(evaluation.times)
    if len(previous.times) != count:
        raise UsageError(
            f"found {len(previous.times)} steps before {first}",
            f"{count}",
            "give a later start, or data that begins earlier",
        )
    rows = []
    for run in runs:
        log.info("generate: %s, %d members of %d steps", run.path.name, members, count)
        model = of_run(run)
        rows += _rows(model, describe(run), evaluation, draw(model, members, evaluation.times[0], count, 0))
    return rows + _rows(replace(of_run(runs[0]), name="previous years"), "", evaluation, previous.values[None])


def describe(run: Run) -> str:
    """The labels and the number of inputs a run's diffusion model learned from."""
    parts = []
    if "hr" in run.config.sources.labels:
        parts.append("high {}-{}".format(*run.config.data.training_years))
    if "lr" in run.config.sources.labels:
        files = sum(len(source.inputs) for source in run.config.sources.low_resolution)
        parts.append(f"low, {files} files")
    return " + ".join(parts)


def _rows(model: TrainedModel, sources: str, evaluation: Period, fields: F32) -> list[SourceRow]:
    """A row for each variable of fields (member, time, variable, pixel) [physical units]."""
    physical = model.scale[:, None]
    truth, drawn = anomalies(model, evaluation) * physical, anomalies(model, evaluation, fields) * physical
    view = View.of(model.zoom, model.latent_zoom)
    return [
        SourceRow(
            variable=variable,
            units=units,
            sources=sources,
            climate=compare(model.name, drawn[:, :, v], truth[:, v], moments(truth[None, :, v], view), view),
        )
        for v, (variable, units) in enumerate(model.named_units)
    ]
