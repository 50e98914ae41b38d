"""A model with its training and evaluation years in memory, and departures of any fields from its climatology."""

import logging
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fsae.runtime.arrays import F32
from fsae.runtime.climate import climatology as harmonic
from fsae.runtime.climate.calendar import time_index
from fsae.runtime.climate.transforms import forward
from fsae.runtime.ensemble.members import LatentModel
from fsae.runtime.errors import DataError, UsageError
from fsae.runtime.input.fields import Fields, read_fields
from fsae.training.config import DEFAULT, Config, input_files, read_config
from fsae.training.data.prepare import prepare
from fsae.training.data.prepared import part_of
from fsae.training.fitting.run_folder import latest_run, load_run

from .model import Candidate, Period, Subject, candidate_of

log = logging.getLogger("fsae.training")


def prepared_inputs(candidate: Candidate, config: Config, source: Path, scratch: Path) -> Path:
    """The inputs of a configuration on the candidate's grid, prepared into `scratch`."""
    inputs = input_files(config.data.inputs, source)
    missing = [str(path) for path in inputs if not path.exists()]
    if missing:
        raise UsageError(f"found no {missing[0]}: give the data as a training configuration, --data CONFIG.toml")
    log.info("prepare: %d files", len(inputs))
    output = scratch / "data.zarr"
    prepare(inputs, output, config.data.variables, zoom=candidate.subject.zooms[-1], method=config.data.method)
    return output


def period_of(fields: Fields, years: tuple[int, int]) -> Period:
    """The fields of `years`, in memory."""
    part = part_of(fields, years)
    return Period(values=fields.read(part)[0], phase=fields.phase[part], times=fields.times[part])


@dataclass(frozen=True, kw_only=True)
class Material:
    """A generating model and the real fields it is compared with; the evaluation follows the training years."""

    candidate: Candidate
    latent: LatentModel
    training: Period
    evaluation: Period

    def __post_init__(self) -> None:
        step = self.candidate.time.step
        last, first = time_index(self.training.times[-1], step), time_index(self.evaluation.times[0], step)
        if first != last + 1:
            raise DataError(
                f"found training years until {self.training.times[-1]} and evaluation from {self.evaluation.times[0]}, "
                "expected evaluation years right after the training years: choose such years"
            )

    @property
    def subject(self) -> Subject:
        """The model as the evaluation sees it, with the tables that departures need."""
        return self.candidate.subject


def open_material(model: str | None, data: Path | None = None) -> Material:
    """The run or bundle `model` (default: the newest run) with the years of a configuration, all in memory.

    A run comes with the data it prepared; a bundle, or a run that is given `data`, is shown the inputs of that
    configuration (default: the sample data).
    """
    name = str(latest_run()) if model is None else model
    if data is None and (Path(name) / "config.json").exists():
        run = load_run(Path(name))
        return _read(candidate_of(name), run.fields, (run.config.data.training_years, run.config.data.evaluation_years))
    candidate = candidate_of(name)
    if data is not None and not data.exists():
        raise UsageError(f"found no {data} for --data: give a configuration, as --data CONFIG.toml")
    source = data or DEFAULT
    config = read_config(source)
    with tempfile.TemporaryDirectory() as scratch:
        store = prepared_inputs(candidate, config, source, Path(scratch))
        return _read(candidate, store, (config.data.training_years, config.data.evaluation_years))


def _read(candidate: Candidate, store: Path, years: tuple[tuple[int, int], tuple[int, int]]) -> Material:
    zoom = candidate.subject.zooms[-1]
    fields = read_fields(store, candidate.variables, zoom=zoom, finest_zoom=zoom)
    try:
        training, evaluation = (period_of(fields, part) for part in years)
    finally:
        fields.close()
    if candidate.latent is None:
        raise DataError(f"found no denoiser in {candidate.subject.name}, expected a model that generates")
    return Material(candidate=candidate, latent=candidate.latent, training=training, evaluation=evaluation)


def joined(one: Period, other: Period) -> Period:
    """Two periods, one behind the other."""
    return Period(
        values=np.concatenate([one.values, other.values]),
        phase=np.concatenate([one.phase, other.phase]),
        times=[*one.times, *other.times],
    )


def since(period: Period, year: int) -> Period:
    """The steps of a period from the start of `year` on."""
    first = [time.year for time in period.times].index(year)
    return Period(values=period.values[first:], phase=period.phase[first:], times=period.times[first:])


def departures(subject: Subject, values: F32, season: F32) -> F32:
    """Departures (..., time, variable, pixel) of physical fields from the training climatology, in `subject`'s units.

    `season` (time, 2K); a transformed variable departs as its transform.
    """
    return np.asarray(
        forward(values, subject.transforms) - harmonic.evaluate(subject.climatology, season), dtype=np.float32
    )


def departures_of(subject: Subject, period: Period) -> F32:
    """Departures (time, variable, pixel) of a period's own fields."""
    return departures(subject, period.values, harmonic.season(period.phase, subject.harmonics))
