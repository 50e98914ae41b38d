"""A run whose folder holds all that a report shows."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from report_page import LEADS, MEMBERS

from fsae.training.evaluation.model import departures_of, of_run
from fsae.training.evaluation.periods import read_periods
from fsae.training.fitting.archive_codec import codec_arrays, fit_codec
from fsae.training.fitting.run_folder import load_run
from fsae.training.studies.evaluate import evaluate_model
from fsae.training.studies.hindcast import hindcast_model


@pytest.fixture(scope="session")
def studied(run_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of the tiny run with an archive codec, evaluated and with forecasts; tests that change it copy it."""
    folder = shutil.copytree(run_folder, tmp_path_factory.mktemp("studied") / "tiny-run")
    run = load_run(folder)
    (training,) = read_periods(run.fields, run.config.data.variables, 2, run.config.data.training_years)
    tables = codec_arrays(fit_codec(departures_of(of_run(run), training)[:, 0], 24))
    np.savez(folder / "archive.npz", **{f"tas.{name}": table for name, table in tables.items()})
    evaluate_model(str(folder), None, members=MEMBERS)
    hindcast_model(str(folder), None, members=MEMBERS, leads=LEADS, every=6)
    return folder
