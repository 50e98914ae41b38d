"""`fsae-train evaluate`: a run or a bundle, its data and the ensemble it generates, put into the table of figures."""

import logging
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from fsae.runtime.arrays import F64
from fsae.runtime.errors import DataError
from fsae.training.config import Config
from fsae.training.data.static_fields import read_static
from fsae.training.evaluation.data import with_data
from fsae.training.evaluation.model import TrainedModel, draw, is_run, with_sampler_steps
from fsae.training.evaluation.periods import read_periods
from fsae.training.evaluation.report import Report, report_json
from fsae.training.evaluation.saved import save_evaluation
from fsae.training.evaluation.scorecard import Settings, evaluate
from fsae.training.evaluation.tables import format_report
from fsae.training.fitting.archive_stage import codecs_of
from fsae.training.fitting.run_folder import CONFIG, read_record
from fsae.training.metrics.rate_distortion import rate_distortion

log = logging.getLogger("fsae.training")


def evaluate_model(
    model: str | None,
    data: Path | None,
    *,
    members: int = 20,
    sample_steps: int | None = None,
    static: Sequence[Path] = (),
) -> tuple[str, str]:
    """The table of figures of a run or a bundle (default: the newest run) and the same as JSON.

    `static` are files with a land mask, for figures of land and ocean. A run that is evaluated on its own data keeps
    the figures in metrics.json, for the model card, and arrays in evaluation.npz, for its report: those of the
    evaluation, and VARIABLE.rate (point, 4) of its archive codec, as `rate_distortion` gives it.
    """
    with with_data(model, data) as (trained, config, store):
        report = report_of(with_sampler_steps(trained, sample_steps), config, store, members, static)
        record = report_json(report)
        if is_run(store.parent):
            save_evaluation(store.parent, record, {**report.arrays, **archive_rates(store.parent, trained)})
    return format_report(report), record


def archive_rates(folder: Path, model: TrainedModel) -> dict[str, F64]:
    """Rate and distortion of the archive codec of a run in its evaluation years; empty if it has none."""
    codecs = codecs_of(folder)
    if not codecs:
        return {}
    config = read_record(folder / CONFIG, Config)
    (period,) = read_periods(folder / "data.zarr", model.variables, model.zoom, config.data.evaluation_years)
    log.info("evaluate: rate and distortion of the archive codec")
    return {
        f"{name}.rate": rate_distortion(codecs[name], period.values[:, v], period.phase)
        for v, (name, _) in enumerate(model.named_units)
        if name in codecs
    }


def report_of(model: TrainedModel, config: Config, store: Path, members: int, static: Sequence[Path] = ()) -> Report:
    """The figures on the years of `config` of the prepared fields in `store`, with a land mask in `static` if any."""
    land = read_static(static, model.zoom).get("lsm") if static else None
    if static and land is None:
        raise DataError(
            f"found no lsm (land_binary_mask) in {', '.join(path.name for path in static)}",
            advice="give a file with it in data.static",
        )
    years = (config.data.training_years, config.data.evaluation_years)
    training, evaluation = read_periods(store, model.variables, model.zoom, *years)

    generate = None if model.latent is None else partial(draw, model)
    settings = Settings(members=members)
    return evaluate(model, training, evaluation, generate=generate, land=land, settings=settings)
