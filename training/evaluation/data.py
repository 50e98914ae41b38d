"""Models together with the data they are evaluated on: a run's own, or the inputs of a configuration."""

import logging
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from fsae.runtime.climate.calendar import time_index
from fsae.runtime.errors import DataError, UsageError
from fsae.training.config import DEFAULT, Config, read_config
from fsae.training.data.prepare import prepare
from fsae.training.fitting.run_folder import latest_run, load_run
from fsae.training.input_files import input_files

from .model import TrainedModel, is_run, model_of, of_run
from .periods import Period, read_periods

log = logging.getLogger("fsae.training")


@contextmanager
def with_data(name: str | None, data: Path | None) -> Iterator[tuple[TrainedModel, Config, Path]]:
    """A run or bundle (default: the newest run), a configuration with years, and the prepared fields of its inputs.

    A run comes with its own configuration and fields. A bundle, or a run for which `data` is given, gets those of that
    configuration (default: the sample data), prepared in a temporary folder that lasts as long as the context.
    """
    folder = latest_run() if name is None else Path(name)
    if data is None and is_run(folder):
        run = load_run(folder)
        yield of_run(run), run.config, run.fields
        return
    model = model_of(str(folder))
    if data is not None and not data.exists():
        raise UsageError(f"found no {data} for --data", advice="give a configuration, as --data CONFIG.toml")
    config = read_config(data or DEFAULT)
    with tempfile.TemporaryDirectory() as scratch:
        yield model, config, prepared_inputs(model, config, data or DEFAULT, Path(scratch))


def prepared_inputs(model: TrainedModel, config: Config, source: Path, scratch: Path) -> Path:
    """The inputs of the configuration in the file `source`, prepared on the model's grid into `scratch`."""
    inputs = input_files(config.data.inputs, source)
    missing = [str(path) for path in inputs if not path.exists()]
    if missing:
        raise UsageError(
            f"found no {missing[0]}", advice="give the data as a training configuration, --data CONFIG.toml"
        )
    log.info("prepare: %d files", len(inputs))
    output = scratch / "data.zarr"
    prepare(inputs, output, config.data.variables, zoom=model.zoom, method=config.data.method)
    return output


@dataclass(frozen=True, kw_only=True)
class ModelWithData:
    """A model that generates, and the real fields it is compared with: the training years and the years after them."""

    model: TrainedModel
    training: Period
    evaluation: Period
    run: Path | None = None  # the folder of a run with its own data

    def __post_init__(self) -> None:
        step, _ = self.model.time.step, self.model.generator
        last, first = time_index(self.training.times[-1], step), time_index(self.evaluation.times[0], step)
        if first != last + 1:
            raise DataError(
                f"found training years until {self.training.times[-1]} and evaluation from {self.evaluation.times[0]}",
                "evaluation years right after the training years",
                "choose such years",
            )


def open_model_with_data(name: str | None, data: Path | None = None) -> ModelWithData:
    """The model and the data of `with_data`, with training and evaluation years in memory."""
    with with_data(name, data) as (model, config, store):
        years = (config.data.training_years, config.data.evaluation_years)
        training, evaluation = read_periods(store, model.variables, model.zoom, *years)
        run = store.parent if is_run(store.parent) else None
    return ModelWithData(model=model, training=training, evaluation=evaluation, run=run)
