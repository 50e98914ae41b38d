"""`fsae-train evaluate`: a run or a bundle, its data, and the ensemble it generates, put into the table of figures."""

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fsae.runtime.arrays import F32
from fsae.runtime.errors import DataError
from fsae.runtime.input.fields import read_fields
from fsae.training.config import DEFAULT, Config, read_config
from fsae.training.data.static_fields import read_static
from fsae.training.evaluation.model import Candidate, draw, of_bundle, of_run, with_sampler_steps
from fsae.training.evaluation.periods import log, period_of, prepared_inputs
from fsae.training.evaluation.report import report_json
from fsae.training.evaluation.scorecard import Settings, evaluate
from fsae.training.evaluation.tables import format_report
from fsae.training.fitting.run_folder import latest_run, load_run


def evaluate_model(
    model: str | None,
    *,
    members: int = 20,
    sample_steps: int | None = None,
    data: Path | None = None,
    static: Sequence[Path] = (),
) -> tuple[str, str]:
    """The table of figures and the same as JSON, of a run's folder or a bundle's (default: the newest run).

    Runs are evaluated on the data they prepared; bundles on `data`, a configuration whose inputs and years to take
    (default: the sample data). `static` are files with a land mask, for figures of land and ocean. A run keeps its
    figures in metrics.json, for the model card.
    """
    folder = Path(model) if model is not None else latest_run()
    if (folder / "config.json").exists():
        run = load_run(folder)
        candidate = with_sampler_steps(of_run(run), sample_steps)
        report = report_of(candidate, run.config, run.fields, members, static)
        (folder / "metrics.json").write_text(report[1], encoding="utf-8")
        return report
    candidate = with_sampler_steps(of_bundle(str(folder)), sample_steps)
    config = read_config(data or DEFAULT)
    with tempfile.TemporaryDirectory() as scratch:
        store = prepared_inputs(candidate, config, data or DEFAULT, Path(scratch))
        return report_of(candidate, config, store, members, static)


def report_of(
    candidate: Candidate, config: Config, store: Path, members: int, static: Sequence[Path] = ()
) -> tuple[str, str]:
    """The table and its JSON: years of `config`, prepared fields in `store`, a land mask in `static` if any."""
    zoom = candidate.subject.zooms[-1]
    land = read_static(static, zoom).get("lsm") if static else None
    if static and land is None:
        raise DataError(f"found no lsm (land_binary_mask) in {', '.join(path.name for path in static)}")
    fields = read_fields(store, candidate.variables, zoom=zoom, finest_zoom=zoom)
    try:
        training, evaluation = (
            period_of(fields, years) for years in (config.data.training_years, config.data.evaluation_years)
        )
    finally:
        fields.close()

    def generated(count: int, start: Any, steps: int, seed: int) -> F32:
        return draw(candidate, count, start, steps, seed)

    report = evaluate(
        candidate.subject,
        training,
        evaluation,
        generate=None if candidate.latent is None else generated,
        land=land,
        settings=Settings(members=members),
        progress=lambda message: log.info("evaluate: %s", message),
    )
    return format_report(report), report_json(report)
