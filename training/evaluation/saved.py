"""What studies keep in the folder of a run: figures, and the small arrays that pictures are drawn of.

metrics.json      the figures of `fsae-train evaluate`
evaluation.npz    VARIABLE.NAME arrays of the same evaluation (climate.py, studies/evaluate.py), and `sha256`
hindcast.json     the scores of `fsae-train hindcast`, and `sha256`
daily.json        the report of `fsae-train daily`, and `sha256`

`sha256` names the files that a study saw, the weights and, for the arrays, the figures, with their hashes: what is of
other weights or of another evaluation is not taken for the run's.
"""

import io
import json
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fsae.runtime.atomic import write_aside
from fsae.runtime.bundle.records import decode_record
from fsae.runtime.errors import DataError
from fsae.training.fitting.run_folder import sha256

from .report import GENERATED, Climate, Stretches

METRICS, ARRAYS, HINDCAST, DAILY = "metrics.json", "evaluation.npz", "hindcast.json", "daily.json"
WEIGHTS = ("autoencoder.safetensors", "denoiser.safetensors")
HASHES = "sha256"
Arrays = Mapping[str, NDArray[Any]]


def save_evaluation(folder: Path, figures: str, arrays: Arrays) -> None:
    """Keep the figures (JSON) of an evaluation and its arrays in the folder of a run."""
    with write_aside(folder / METRICS) as aside:
        aside.write_text(figures, encoding="utf-8")
    hashes = json.dumps(_hashes(folder, (METRICS, *WEIGHTS)))
    with write_aside(folder / ARRAYS) as aside, aside.open("wb") as file:
        np.savez_compressed(file, **{**arrays, HASHES: np.array(hashes)})  # type: ignore[arg-type]


def save_hindcast(folder: Path, scores: str) -> None:
    """Keep the scores (JSON) of forecasts in the folder of a run."""
    _save_object(folder / HINDCAST, scores)


def save_daily(folder: Path, report: str) -> None:
    """Keep the report (JSON) of daily weather in the folder of a run that it is about."""
    _save_object(folder / DAILY, report)


def read_metrics(folder: Path) -> Mapping[str, Any] | None:
    """The figures that an evaluation wrote of a run, None if there are none yet; DataError if they are damaged."""
    return _read_object(folder / METRICS, "fsae-train evaluate")


def saved_climate(variable: Mapping[str, Any]) -> tuple[tuple[Climate, ...], Stretches] | None:
    """The climate of one variable of the figures, generated fields first, and real stretches; None without an ensemble.

    DataError if the records are of another version.
    """
    if "stretches" not in variable or variable["climate"][0]["name"] != GENERATED:
        return None
    where, advice = f"the climate of {variable['name']} in the run's figures", "run fsae-train evaluate again"
    rows = tuple(decode_record(Climate, row, where, DataError, advice) for row in variable["climate"])
    return rows, decode_record(Stretches, variable["stretches"], where, DataError, advice)


def read_arrays(folder: Path) -> Arrays | None:
    """The arrays of the last evaluation of a run; None without any, or if they are of other figures or weights.

    DataError if they are damaged.
    """
    path = folder / ARRAYS
    try:
        with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as stored:
            found = {name: stored[name] for name in stored.files}
        hashes = json.loads(str(found.pop(HASHES)))
    except FileNotFoundError:
        return None
    except (ValueError, OSError, EOFError, KeyError, zipfile.BadZipFile) as error:
        raise DataError(
            f"cannot read the arrays {path} ({error})", advice="delete it or run fsae-train evaluate again"
        ) from None
    return found if hashes == _hashes(folder, (METRICS, *WEIGHTS)) else None


def read_hindcast(folder: Path) -> Mapping[str, Any] | None:
    """The scores of the last forecasts of a run; None without any, or of other weights; DataError if damaged."""
    return _read_own(folder / HINDCAST, "fsae-train hindcast")


def read_daily(folder: Path) -> Mapping[str, Any] | None:
    """The last report of daily weather of a run; None without any, or of other weights; DataError if damaged."""
    return _read_own(folder / DAILY, "fsae-train daily")


def _hashes(folder: Path, names: tuple[str, ...]) -> dict[str, str]:
    """The hashes of the files of a run that are there, by their names."""
    return {name: sha256(folder / name) for name in names if (folder / name).is_file()}


def _save_object(path: Path, record: str) -> None:
    """Write an object (JSON) and the hashes of the weights beside it."""
    hashed = {**json.loads(record), HASHES: _hashes(path.parent, WEIGHTS)}
    with write_aside(path) as aside:
        aside.write_text(json.dumps(hashed, indent=1) + "\n", encoding="utf-8")


def _read_own(path: Path, command: str) -> Mapping[str, Any] | None:
    """What `_save_object` wrote, without the hashes; None without any, or of other weights."""
    found = dict(_read_object(path, command) or {})
    return found if found.pop(HASHES, None) == _hashes(path.parent, WEIGHTS) else None


def _read_object(path: Path, command: str) -> Mapping[str, Any] | None:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise DataError(
            f"cannot read the figures {path} ({error})", advice=f"delete it or run {command} again"
        ) from None
    if not isinstance(found, dict):
        raise DataError(f"{path} holds a {type(found).__name__}", "a JSON object", f"run {command} again")
    return found
