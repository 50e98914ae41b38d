"""What a diffusion model gains from each source: ensembles of several runs on the evaluation years, side by side."""

import json
import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from fsae.runtime.arrays import F32
from fsae.runtime.errors import UsageError
from fsae.runtime.input.fields import read_fields
from fsae.training.config import Config
from fsae.training.evaluation.climate import View, compare, moments
from fsae.training.evaluation.model import Candidate, Period, anomalies, draw, of_run
from fsae.training.evaluation.periods import period_of
from fsae.training.evaluation.report import Climate, table
from fsae.training.fitting.run_folder import Run, load_run

log = logging.getLogger("fsae.training")


@dataclass(frozen=True, kw_only=True)
class SourceRow:
    """The climate that a run generates, one variable's, and what its diffusion model learned from."""

    variable: str
    units: str
    sources: str
    climate: Climate


def compare_sources(folders: Sequence[Path], members: int) -> list[SourceRow]:
    """Rows of every run and variable, then of the last training years as a forecast.

    UsageError where runs do not share data and autoencoder settings, or do not generate: then the diffusion models are
    not all that differs.
    """
    runs = [load_run(folder) for folder in folders]
    for run in runs:
        if run.denoiser is None:
            raise UsageError(f"{run.path} has no diffusion model, expected runs that generate")
        if (run.config.data, run.config.autoencoder) != (runs[0].config.data, runs[0].config.autoencoder):
            raise UsageError(f"{run.path} has other data or another autoencoder than {runs[0].path}, expected the same")
    candidates = [of_run(run) for run in runs]
    evaluation, previous = _periods(runs[0].config, candidates[0], runs[0].fields)
    rows = []
    for run, candidate in zip(runs, candidates, strict=True):
        log.info("generate: %s, %d members of %d steps", run.path.name, members, len(evaluation.times))
        fields = draw(candidate, members, evaluation.times[0], len(evaluation.times), 0)
        rows += _rows(run.path.name, describe(run), candidate, evaluation, fields)
    rows += _rows("previous years", "", candidates[0], evaluation, previous.values[None])
    return rows


def describe(run: Run) -> str:
    """The labels and the number of inputs a run's diffusion model learned from."""
    parts = []
    if "hr" in run.config.sources.labels:
        parts.append("high {}-{}".format(*run.config.data.training_years))
    if "lr" in run.config.sources.labels:
        files = sum(len(source.inputs) for source in run.config.sources.low_resolution)
        parts.append(f"low, {files} files")
    return " + ".join(parts)


def _periods(config: Config, candidate: Candidate, store: Path) -> tuple[Period, Period]:
    """The evaluation years and as many steps before them."""
    zoom = candidate.subject.zooms[-1]
    fields = read_fields(store, candidate.variables, zoom=zoom, finest_zoom=zoom)
    try:
        first, last = config.data.evaluation_years
        evaluation = period_of(fields, (first, last))
        previous = period_of(fields, (first - (last - first) - 1, first - 1))
    finally:
        fields.close()
    if len(previous.times) != len(evaluation.times):
        raise UsageError(f"found {len(previous.times)} steps before {first}, expected {len(evaluation.times)}")
    return evaluation, previous


def _rows(name: str, sources: str, candidate: Candidate, evaluation: Period, fields: F32) -> list[SourceRow]:
    """A row for each variable of fields (member, time, variable, pixel) [physical units]."""
    subject = candidate.subject
    physical = subject.scale[:, None]
    truth, drawn = anomalies(subject, evaluation) * physical, anomalies(subject, evaluation, fields) * physical
    view = View.of(subject.zooms[-1], subject.latent_zoom)
    return [
        SourceRow(
            variable=variable,
            units=units,
            sources=sources,
            climate=compare(name, drawn[:, :, v], truth[:, v], moments(truth[None, :, v], view), view),
        )
        for v, (variable, units) in enumerate(subject.variables)
    ]


def format_sources(rows: Sequence[SourceRow]) -> str:
    """The rows as a Markdown table."""
    header = ["", "learned from", "variable", "bias", "map", "corr", "ratio", "median", "±20 %", "CRPS", "energy"]
    cells = []
    for row in rows:
        found = row.climate
        scores = ["" if score is None else f"{score:.3f}" for score in (found.crps, found.energy_score)]
        cells.append(
            [
                found.name,
                row.sources,
                f"{row.variable} [{row.units}]",
                f"{found.bias:+.3f}",
                f"{found.mean_map_rmse:.3f}",
                f"{found.std_correlation:.3f}",
                f"{found.std_ratio:.3f}",
                f"{found.spectrum_median:.3f}",
                f"{100 * found.within_20:.0f} %",
                *scores,
            ]
        )
    note = [
        "bias, map: of the mean map and its RMSE; corr, ratio: standard-deviation map with the truth's; median: of",
        "|power ratio - 1| over degrees l; ±20 %: share of degrees within that; CRPS and energy score: fair. All but",
        "the first two with each member's own mean map removed.",
    ]
    return "\n".join([*table(header, cells), "", *note])


def sources_of_runs(folders: Sequence[Path], members: int) -> tuple[str, str]:
    """The table and the same as JSON."""
    rows = compare_sources(folders, members)
    return format_sources(rows), json.dumps([asdict(row) for row in rows], indent=1) + "\n"
